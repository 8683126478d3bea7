"""Kinds of damaged folders as Hugging Face's transformers leaves them."""

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxparse.classes import load_classes
from jaxparse.classes.spelling import spellings
from jaxparse.weights.conversion import Conversion, to_mmseg
from jaxparse.weights.find import convert_checkpoint, file_in
from tests.foreign import SAVED
from tests.fuzzing.damage import BYTES, Damage
from tests.fuzzing.judge import Kind
from tests.fuzzing.saved import CONFIG, arrays
from tests.fuzzing.typed import HEADERS, JSON, TEXT, spoil

NAMES = load_classes("zllrunning").names
STATED = SAVED | {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4], "resample": 3}
STATED |= {"size": {"height": 96, "width": 96}}


def nested(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """A field of an object in the object: id2label, size, weight_map."""
    fields = json.loads(data)
    inner = [name for name, value in fields.items() if isinstance(value, dict)]
    name = rng.choice(sorted(inner))
    texts = {key: json.dumps(value) for key, value in fields.items()}
    texts[name] = spoil(rng, fields[name]).decode()
    return (
        "{" + ", ".join(f"{json.dumps(key)}: {text}" for key, text in texts.items()) + "}"
    ).encode()


def spoilt(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """What fits the file: bytes and header of a .safetensors, fields and text of JSON."""
    of_json = JSON | TEXT | {"nested": nested}
    damages: Mapping[str, Damage] = of_json if data.startswith(b"{") else BYTES | HEADERS
    return damages[rng.choice(sorted(damages))](rng, data, other)


def read_folder(path: Path) -> tuple[object, ...]:
    """The network; asserts that its classes and pictures are those that the files state."""
    checkpoint = path.parent / file_in(path.parent)
    found, _ = convert_checkpoint(checkpoint, str(path.parent))
    require_names(found, path.with_name("config.json"))
    require_pictures(found, path.with_name("preprocessor_config.json"))
    return found.arrays, found.config, found.classes.names


def require_names(found: Conversion, path: Path) -> None:
    """Without names the file's classes are guessed, which is said; else they are its names."""
    named = json.loads(path.read_text()).get("id2label")
    if not found.guessed:
        assert spellings([named[str(index)] for index in range(len(named))]) == [
            *found.classes.names
        ]
        return
    assert named is None or not any(name in NAMES for name in named.values())


def require_pictures(found: Conversion, path: Path) -> None:
    """A pixel of 100 becomes what transformers makes of it, at the same size and by its filter."""
    stated: dict[str, Any] = {
        k: v for k, v in json.loads(path.read_text()).items() if v is not None
    }
    if not stated:
        return
    full = SAVED | {"size": found.config.image_size} | stated
    pixel = np.full(3, 100.0)
    if full["do_rescale"]:
        pixel = pixel * full["rescale_factor"]
    if full["do_normalize"]:
        pixel = (pixel - full["image_mean"]) / full["image_std"]
    ours = (100 - np.array(found.config.image_mean)) / found.config.image_std
    np.testing.assert_allclose(ours, pixel, rtol=1e-3, atol=1e-3)
    size = full["size"]
    sides = set(size.values()) if isinstance(size, dict) else {size}
    assert sides == {found.config.image_size}
    assert {2: "bilinear", 3: "bicubic"}[full["resample"]] == found.config.resize_filter


def folders(folder: Path) -> Kind:
    """A folder with one file of weights, and one with two and their index."""
    from safetensors.numpy import save

    state_dict = to_mmseg(arrays(), CONFIG)
    about = {"id2label": {str(i): name for i, name in enumerate(NAMES)}, "num_labels": len(NAMES)}
    beside = {
        "config.json": json.dumps(about).encode(),
        "preprocessor_config.json": json.dumps(STATED).encode(),
    }
    keys = sorted(state_dict)
    halves = {"model-1.safetensors": keys[::2], "model-2.safetensors": keys[1::2]}
    index = {"weight_map": {key: name for name, part in halves.items() for key in part}}
    whole = {"model.safetensors": save(state_dict, {"format": "pt"})}
    parts = {name: save({k: state_dict[k] for k in part}) for name, part in halves.items()}
    parts["model.safetensors.index.json"] = json.dumps(index).encode()
    files = {f"fuzzed_one/{name}": data for name, data in (whole | beside).items()}
    files |= {f"fuzzed_two/{name}": data for name, data in (parts | beside).items()}
    return Kind(files, {"spoilt": spoilt}, read_folder, named="fuzzed_")
