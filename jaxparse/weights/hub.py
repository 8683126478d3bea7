"""Networks by their names on the Hugging Face hub: downloaded, converted once, uploaded.

huggingface_hub does the transfers: it shows progress, resumes, compares checksums, and respects
HF_HOME, HF_TOKEN and HF_HUB_OFFLINE.
"""

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from jaxparse import cli
from jaxparse.files import brief, read_json, reason
from jaxparse.weights.files import HUB_FILE, is_ours, save_weights
from jaxparse.weights.foreign import INDEX, read_checkpoint

# What a repository may keep its weights in: the first pattern that it has files of is downloaded.
PATTERNS = ("*.safetensors", "*.bin", "*.pth", "*.pt")
NAME = r"(\w[\w.-]*/[\w.-]+)(?:@([\w.-]+))?(?:/([\w./-]+))?"  # repository, revision, file
PREPROCESSING = "preprocessor_config.json"
FILTERS = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers
Result = TypeVar("Result")


class HubName(NamedTuple):
    """user/repo, user/repo@revision, or with a file in it: user/repo/folder/file.pt."""

    repository: str
    revision: str | None
    file: str | None

    @classmethod
    def of(cls, name: str) -> "HubName":
        """The parts of a name. Raises ValueError if it is of another form."""
        if not (match := re.fullmatch(NAME, name)):
            raise ValueError(
                f"{name} is not a name on the Hugging Face hub; give user/repo, user/repo@revision "
                "or user/repo/FILE"
            )
        return cls(*match.groups())


def is_hub_name(weights: str) -> bool:
    """Whether this is a name on the hub and not a path: no such file or folder is here."""
    path, suffixes = Path(weights), (".json", ".py", *(pattern[1:] for pattern in PATTERNS))
    return (
        re.fullmatch(NAME, weights) is not None
        and (path.suffix not in suffixes or len(path.parts) > 2)
        and not path.exists()
        and not Path(path.parts[0]).is_dir()
    )


def ask(name: str, request: Callable[[], Result], fix: str) -> Result:
    """The answer of the hub. Raises ValueError, with what to do instead, if there is none."""
    try:
        return request()
    except Exception as error:  # the hub's, the network's or the disk's
        why = f"{type(error).__name__}: {brief(reason(error))}"
        raise ValueError(f"{name}: the hub cannot be used ({why}); {fix}") from error


def download(name: str, words: Sequence[str] = ()) -> Path:
    """The repository's folder in the hub's cache, which the commit names, with its weights.

    Raises ValueError if that fails, with the address to download by hand and the command for that
    file, whose further `words` are the caller's.
    """
    from huggingface_hub import snapshot_download

    repository, revision, file = HubName.of(name)
    wanted = Path(file).name if file else HUB_FILE
    command = cli.line_for_shell("convert_weights", *words, "--weights", wanted)
    address = f"https://huggingface.co/{repository}/resolve/{revision or 'main'}/{file or HUB_FILE}"
    fix = f"check the name, or download {address} by hand, then: {command}"
    for pattern in (file,) if file else PATTERNS:
        patterns = [pattern, f"{pattern}{INDEX}", PREPROCESSING]
        request = partial(snapshot_download, repository, revision=revision, allow_patterns=patterns)
        folder = Path(ask(name, request, fix))
        if any(folder.glob(pattern)):
            return folder
    raise ValueError(f"{name} has no file of weights ({', '.join(PATTERNS)}); {fix}")


def checkpoint_in(folder: Path, name: str) -> Path:
    """The file with the repository's weights, or the index of several.

    Raises ValueError if more than one comes into question.
    """
    if file := HubName.of(name).file:
        return folder / file
    indices = sorted(folder.glob(f"*{INDEX}"))
    files = sorted(path for pattern in PATTERNS for path in folder.glob(pattern))
    preferred = [path for path in files if path.name in (HUB_FILE, "pytorch_model.bin")]
    found = preferred[:1] or indices[:1] or files
    if len(found) != 1:
        shown = ", ".join(path.name for path in found)
        raise ValueError(f"{name} has several files of weights ({shown}); give {name}/FILE")
    return found[0]


def preprocessing_in(folder: Path) -> dict[str, Any]:
    """The fields of Config that the repository's preprocessor_config.json states.

    Raises ValueError for a file of something else.
    """
    path = folder / PREPROCESSING
    stated = read_json(path) if path.is_file() else {}
    if not isinstance(stated, dict):
        raise ValueError(f"{path} does not hold a JSON object")
    fields: dict[str, Any] = {}
    for name in ("image_mean", "image_std"):
        numbers = stated.get(name, [])
        if not isinstance(numbers, list) or not all(isinstance(x, int | float) for x in numbers):
            raise ValueError(f"{path} states {name} as {brief(repr(numbers))}, expected numbers")
        if numbers:
            fields[name] = tuple(round(255 * x, 4) for x in numbers)  # theirs are of 0..1
    resample = stated.get("resample")
    if isinstance(resample, int) and resample in FILTERS:
        fields["resize_filter"] = FILTERS[resample]
    size = stated.get("size")
    size = size.get("height") if isinstance(size, dict) else size
    return fields | ({"image_size": size} if isinstance(size, int) else {})


def fetch(name: str) -> Path:
    """The weights of a repository as a file of this package, converted once into the hub's cache.

    Raises ValueError if the repository cannot be reached or holds no network that is known.
    """
    from huggingface_hub import cached_assets_path

    from jaxparse.weights.conversion import convert  # here: it needs all networks and flax

    folder = download(name)
    checkpoint = checkpoint_in(folder, name)
    if is_ours(checkpoint):
        return checkpoint
    repository, _, file = HubName.of(name)
    part = f"{folder.name}/{file}" if file else folder.name
    converted = cached_assets_path("jaxparse", repository, part) / HUB_FILE
    if not converted.is_file():
        conversion = convert(name, read_checkpoint(checkpoint).arrays)
        config = replace(conversion.config, **preprocessing_in(folder))
        origin = f"{conversion.naming}, {name}"
        save_weights(converted, conversion.arrays, config, origin, conversion.fresh)
    return converted


def cached() -> dict[str, Path]:
    """Name on the hub -> file of this package, for the networks that are on this disk already."""
    from huggingface_hub.constants import HF_ASSETS_CACHE, HF_HUB_CACHE

    ours = Path(HF_HUB_CACHE).glob(f"models--*/snapshots/*/{HUB_FILE}")
    found = [(path.parents[2].name.removeprefix("models--"), path) for path in ours]
    converted = (Path(HF_ASSETS_CACHE) / "jaxparse").glob(f"*/*/{HUB_FILE}")
    found += [(path.parents[1].name, path) for path in converted]
    networks = {}
    for folder, path in sorted(found, key=lambda item: item[1].stat().st_mtime):
        with suppress(ValueError):  # a download that was cut off
            if is_ours(path):
                networks[folder.replace("--", "/", 1)] = path
    return networks
