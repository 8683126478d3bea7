"""Whether a run that resumes sees the pictures it began with, wherever they lie by now."""

import json
import zlib
from pathlib import Path
from typing import Any

from jaxparse.config import DATA_PATHS, SYNTHETIC, Config, read_config
from jaxparse.data.folders import match_names
from jaxparse.data.mirrored import SPLITS, mirrored_masks
from jaxparse.files import atomic_path, read_json

IDENTITY = "data.json"  # in a run's folder


def data_identity(config: Config) -> dict[str, Any]:
    """Per split the number of pictures and a checksum of their names and sizes in bytes.

    Masks count by name only, so that they can be mended, and by whether they are exchanged. Drawn
    faces have none: their counts are fields of Config.
    """
    if config.data_dir == SYNTHETIC:
        return {}
    mirrored, identity = mirrored_masks(config), {}
    for split in SPLITS:
        images = [image for image, _ in match_names(config.data_dir, split)[0]]
        lines = (f"{i.name} {i.stat().st_size} {i.stem in mirrored[split]}\n" for i in images)
        checksum = zlib.crc32("".join(lines).encode(errors="surrogateescape"))
        identity[split] = {"pictures": len(images), "crc32": checksum}
    return identity


def require_same_data(config: Config) -> None:
    """Raises ValueError if the run in the workdir began with other pictures than `config` names.

    A run of an older version, without IDENTITY, must be given the same folder.
    """
    workdir = Path(config.workdir)
    if not (workdir / "config.json").is_file():
        return
    theirs, path = read_config(workdir), workdir / IDENTITY
    same_paths = all(
        Path(getattr(theirs, name)).resolve() == Path(getattr(config, name)).resolve()
        for name in DATA_PATHS
    )
    if path.is_file():
        fix = f"delete it to resume with {config.data_dir}"
        same = read_json(path, fix) == data_identity(config)
    else:
        same = same_paths
    if not same:
        raise ValueError(
            f"{config.data_dir} does not hold the pictures the run in {workdir} began with, in "
            f"{theirs.data_dir}: their names, sizes or mirrored masks differ; give those to resume "
            f"it, or start a new run from its weights: another --workdir, --init-weights {workdir}"
        )


def save_identity(config: Config) -> None:
    """Writes the run's IDENTITY, unless it is there: then `require_same_data` has compared it."""
    path = Path(config.workdir) / IDENTITY
    if config.data_dir == SYNTHETIC or path.is_file():
        return
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(data_identity(config), indent=1) + "\n")
