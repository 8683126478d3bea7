"""`python -m jaxparse.data --check DIR`: what a data folder holds, and every file that is bad."""

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TaskID
from rich.table import Table

from jaxparse.classes import IGNORE_LABEL, NAMES
from jaxparse.cli import run
from jaxparse.data.folders import match_names
from jaxparse.data.images import read_pair
from jaxparse.files import read_ahead

SPLITS = ("train", "val")
UNITS = ("pixels", "pictures")


@dataclass(frozen=True)
class PairReport:
    """What one good pair holds."""

    size: str  # "512x512", width x height
    image_mode: str  # Pillow's, as in the file
    mask_mode: str
    pixels: np.ndarray  # [256] int64, by label value


@dataclass
class SplitReport:
    """Counts over the good pairs of a split, and a line on every fault."""

    sizes: Counter[str] = field(default_factory=Counter)
    image_modes: Counter[str] = field(default_factory=Counter)
    mask_modes: Counter[str] = field(default_factory=Counter)
    # [256] int64, by label value: pixels, and pictures with at least one such pixel
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    pictures: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    faults: list[str] = field(default_factory=list)

    def add(self, pair: PairReport) -> None:
        """Counts one more good pair."""
        self.sizes[pair.size] += 1
        self.image_modes[pair.image_mode] += 1
        self.mask_modes[pair.mask_mode] += 1
        self.pixels += pair.pixels
        self.pictures += pair.pixels > 0


def check_split(data_dir: Path, split: str, advance: Callable[[int, int], None]) -> SplitReport:
    """Reads every pair of `split` in threads. Faults are collected: none raises.

    `advance(done, total)` is called after each pair, for a progress bar.
    """
    report = SplitReport()
    try:
        matches, report.faults = match_names(data_dir, split)
    except ValueError as error:
        report.faults = [str(error)]
        return report
    results = read_ahead(_check_pair, matches, os.cpu_count() or 1)
    for done, result in enumerate(results, start=1):
        if isinstance(result, ValueError):
            report.faults.append(str(result))
        else:
            report.add(result)
        advance(done, len(matches))
    return report


def _check_pair(match: tuple[Path, Path]) -> PairReport | ValueError:
    """What the pair holds, or what is wrong with it."""
    try:
        image, label = read_pair(*match)
    except ValueError as error:
        return error
    image_mode, mask_mode = map(_file_mode, match)
    pixels = np.bincount(label.ravel(), minlength=256)
    return PairReport(f"{image.width}x{image.height}", image_mode, mask_mode, pixels)


def _file_mode(path: Path) -> str:
    with Image.open(path) as picture:
        return picture.mode


def print_check(check: Path) -> int:
    """Reads every file of train and val, prints what there is and every bad file.

    Args:
        check: Folder with train/ and val/ to go through.

    Returns 0 if all files are good, else 1.
    """
    reports = {}
    with Progress(*Progress.get_default_columns(), MofNCompleteColumn()) as progress:
        for split in SPLITS:
            task = progress.add_task(split, total=None)

            def advance(done: int, total: int, task: TaskID = task) -> None:
                progress.update(task, completed=done, total=total)

            reports[split] = check_split(check, split, advance)
    console = Console()
    console.print(files_table(reports), class_table(reports))
    # Not through rich: it would wrap the lines, which people grep and copy.
    faults = [fault for report in reports.values() for fault in report.faults]
    print("\n".join([*faults, f"{len(faults)} bad" if faults else "all files are good"]))
    return 1 if faults else 0


def files_table(reports: dict[str, SplitReport]) -> Table:
    """One row per split: good pairs, faults, sizes, modes."""
    table = Table("split", "good pairs", "bad", "width x height", "image modes", "mask modes")
    for split, report in reports.items():
        counters = (report.sizes, report.image_modes, report.mask_modes)
        total, faults = report.sizes.total(), len(report.faults)
        table.add_row(split, str(total), str(faults), *map(_counts, counters))
    return table


def _counts(counter: Counter[str]) -> str:
    """The commonest five, as `512x512: 700, 256x256: 3`."""
    common = [f"{key}: {count}" for key, count in counter.most_common(5)]
    return ", ".join(common + ["…"] * (len(counter) > 5))


def class_table(reports: dict[str, SplitReport]) -> Table:
    """Per class and split: share of the pixels, and share of the pictures that show it."""
    table = Table("class", *(f"{split} {unit} %" for split in reports for unit in UNITS))
    for column in table.columns[1:]:
        column.justify = "right"
    for value, name in [*enumerate(NAMES), (IGNORE_LABEL, "ignored")]:
        shares = []
        for report in reports.values():
            shares.append(report.pixels[value] / max(report.pixels.sum(), 1))
            shares.append(report.pictures[value] / max(report.sizes.total(), 1))
        table.add_row(f"{value} {name}", *(f"{100 * share:.2f}" for share in shares))
    return table


def main() -> int:
    """Command line: `--check DIR`."""
    import tyro

    return tyro.cli(print_check, prog="python -m jaxparse.data")


if __name__ == "__main__":
    run(main)
