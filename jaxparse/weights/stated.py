"""What Hugging Face's transformers writes beside weights: class names and the preprocessing.

config.json names the classes (`id2label`); preprocessor_config.json says what becomes of a picture
before the network. jaxparse resizes the whole picture to a square, takes image_mean from it and
divides by image_std; what else the file states is refused by name.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxparse.cli import line_for_shell
from jaxparse.config import Config
from jaxparse.files import brief, read_json, reason
from jaxparse.weights.foreign import class_names
from jaxparse.weights.pickles import RefusedError

CONFIG, PREPROCESSING = "config.json", "preprocessor_config.json"
FILTERS = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers
# What SegformerImageProcessor does where its file does not say; other processors differ.
SEGFORMER = {
    "do_resize": True,
    "size": 512,
    "resample": 2,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}
SWITCHES = ("do_resize", "do_rescale", "do_normalize")
# Pictures are RGB in any case, and of labels nothing is read.
WITHOUT_EFFECT = ("do_convert_rgb", "do_reduce_labels")
OF_SIZE = ("do_resize", "size", "do_center_crop", "crop_pct")  # what --image-size replaces


def names_beside(checkpoint: Path) -> tuple[str, ...]:
    """The names of the classes in the config.json beside a file of weights; none without.

    Raises ValueError if that is damaged.
    """
    path = checkpoint.with_name(CONFIG)
    stated = _object(path)
    try:
        return class_names({"id2label": stated.get("id2label")})
    except RefusedError as error:
        raise ValueError(f"{path} {error}") from error


def preprocessing_beside(
    checkpoint: Path, label: str, image_size: int | None = None
) -> dict[str, Any]:
    """The fields of Config that the preprocessor_config.json beside a file of weights states.

    A given `image_size` replaces what it states on sizes; `label` is what users call the weights.
    Raises ValueError, naming what is stated, for what jaxparse does not do.
    """
    path = checkpoint.with_name(PREPROCESSING)
    stated = {key: value for key, value in _object(path).items() if value is not None}
    if not stated:
        return {}
    if image_size:
        stated = {k: v for k, v in stated.items() if k not in OF_SIZE}
        stated |= {"do_resize": True, "size": {"height": image_size, "width": image_size}}
    if faults := list(_faults(stated)):
        fix = "if other pictures will do, change that in a copy of its folder, and give the copy"
        if set(faults) <= set(OF_SIZE):
            flags = "--checkpoint", label, "--image-size", 512
            fix = f"{line_for_shell('convert_weights', *flags)} takes pictures at 512x512"
        values = {key: f"{key} {brief(json.dumps(stated[key]))}" for key in stated}
        shown = ", ".join(values.get(key, f"no {key}") for key in faults)
        raise ValueError(f"{path} states {shown}, which jaxparse does not do: {fix}")
    try:
        fields = _fields(stated)
        Config(**fields)
    except (OverflowError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: {reason(error)}") from error
    return fields


def _object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty without the file."""
    stated = read_json(path, "copy it again") if path.is_file() else {}
    if not isinstance(stated, dict):
        raise ValueError(f"{path} does not hold a JSON object; copy it again")
    return stated


def _faults(stated: dict[str, Any]) -> Iterator[str]:
    """The keys whose values jaxparse does not do."""
    kind = stated.get("image_processor_type", stated.get("feature_extractor_type", "Segformer"))
    segformer = str(kind).startswith("Segformer")
    for key, value in (SEGFORMER if segformer else dict.fromkeys(SEGFORMER)).items():
        if not _is_done(key, stated.get(key, value), stated):
            yield key
    if not segformer and type(stated.get("size")) is int:  # of the shorter side for some
        yield "size"
    for key, value in stated.items():
        extra = key.startswith("do_") and key not in (*SWITCHES, *WITHOUT_EFFECT)
        if value is not False and (extra or key in ("crop_pct", "rescale_offset")):
            yield key


def _is_done(key: str, value: object, stated: dict[str, Any]) -> bool:
    """Whether jaxparse prepares pictures so."""
    match key:
        case "do_resize":
            return value is True
        case "do_rescale" | "do_normalize":
            return isinstance(value, bool)
        case "size":
            return _side(value) is not None
        case "resample":
            return type(value) is int and value in FILTERS
        case "rescale_factor":
            return stated.get("do_rescale") is False or (_is_number(value) and value > 0)
    numbers = isinstance(value, list) and len(value) == 3 and all(map(_is_number, value))
    return stated.get("do_normalize") is False or numbers


def _is_number(value: object) -> bool:
    return type(value) in (int, float)


def _side(size: object) -> int | None:
    """The side of a square in pixels; None for another size."""
    if isinstance(size, dict) and size.keys() == {"height", "width"}:
        size = size["height"] if size["height"] == size["width"] else None
    return size if type(size) is int else None


def _fields(stated: dict[str, Any]) -> dict[str, Any]:
    """Those that the file decides: (factor * picture - mean) / std, as ours are of 0..255."""
    fields: dict[str, Any] = {}
    if "size" in stated:
        fields["image_size"] = _side(stated["size"])
    if "resample" in stated:
        fields["resize_filter"] = FILTERS[stated["resample"]]
    if stated.keys() & {"image_mean", "image_std", "do_rescale", "rescale_factor", "do_normalize"}:
        full = SEGFORMER | stated
        factor = full["rescale_factor"] if full["do_rescale"] else 1
        means, stds = full["image_mean"], full["image_std"]
        if not full["do_normalize"]:
            means, stds = (0.0,) * 3, (1.0,) * 3
        fields["image_mean"] = tuple(round(x / factor, 4) for x in means)
        fields["image_std"] = tuple(round(x / factor, 4) for x in stds)
    return fields
