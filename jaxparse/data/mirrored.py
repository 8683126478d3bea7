"""Masks whose left and right are exchanged: a list of names, one a line, for --mirrored-masks.

Some masks of CelebAMask-HQ call the person's left eye, brow and ear right. The list names the
pictures without suffix; `jaxparse.report` writes one.
"""

from pathlib import Path

from jaxparse.config import Config
from jaxparse.data.folders import match_names
from jaxparse.files import atomic_path

SPLITS = ("train", "val")


def read_names(path: str | Path) -> set[str]:
    """The names in the list, without empty lines. Raises ValueError if it cannot be read."""
    fix = "give a file with a picture's name, without suffix, on each line"
    if not Path(path).is_file():
        raise ValueError(f"there is no list of mirrored masks {path}; {fix}, or `none`")
    data = Path(path).read_bytes()
    if b"\0" in data:
        raise ValueError(f"{path} is not a text file; {fix}")
    lines = data.decode("utf-8", "surrogateescape").splitlines()
    return {line.strip() for line in lines if line.strip()}


def write_names(path: Path, names: set[str]) -> None:
    """Writes the list, sorted."""
    with atomic_path(path) as temporary:
        temporary.write_text(
            "".join(f"{name}\n" for name in sorted(names)), "utf-8", "surrogateescape"
        )


def listed_names(config: Config) -> set[str]:
    """The names in the list that `config.mirrored_masks` is, none without one."""
    return set() if config.mirrored_masks == "none" else read_names(config.mirrored_masks)


def mirrored_masks(config: Config) -> dict[str, frozenset[str]]:
    """Split (train, val) -> names of its masks that `config.mirrored_masks` lists.

    Raises ValueError naming a listed mask that is in neither split, or in both.
    """
    listed = listed_names(config)
    if not listed:
        return dict.fromkeys(SPLITS, frozenset())
    found = {split: listed & _names(config.data_dir, split) for split in SPLITS}
    if unknown := sorted(listed - found["train"] - found["val"]):
        more = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
        raise ValueError(
            f"{config.mirrored_masks} names {unknown[0]}{more}, which is in neither train nor val "
            f"of {config.data_dir}; remove the line, or give the list of this data folder"
        )
    if twice := sorted(found["train"] & found["val"]):
        raise ValueError(
            f"{config.mirrored_masks} names {twice[0]}, which is in both train and val of "
            f"{config.data_dir}; rename one of the two pictures and its mask"
        )
    return {split: frozenset(names) for split, names in found.items()}


def _names(data_dir: str, split: str) -> set[str]:
    """Names of the split's pictures; none if there is no such split, as where one is evaluated."""
    try:
        return {image.stem for image, _ in match_names(data_dir, split)[0]}
    except ValueError:
        return set()


def mirrored_line(config: Config) -> str:
    """One line for the terminal: how many masks of each split are on the list."""
    found = mirrored_masks(config)
    counts = " and ".join(f"{len(found[split])} of {split}" for split in SPLITS)
    return f"left and right exchanged in the masks that {config.mirrored_masks} lists: {counts}"
