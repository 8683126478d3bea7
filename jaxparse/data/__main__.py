"""`python -m jaxparse.data DIR`: what a data folder holds, and every bad file in it."""

if __name__ == "__main__":
    from jaxparse.__main__ import start

    start("data")

import os
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from jaxparse import cli
from jaxparse.classes import CELEBAMASK, IGNORE_LABEL, Classes
from jaxparse.data.folders import match_names, other_files_line
from jaxparse.data.images import open_picture
from jaxparse.data.masks import read_pair
from jaxparse.data.suspicions import suspicions
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
    warnings: list[str] = field(default_factory=list)

    def add(self, pair: PairReport) -> None:
        """Counts one more good pair."""
        self.sizes[pair.size] += 1
        self.image_modes[pair.image_mode] += 1
        self.mask_modes[pair.mask_mode] += 1
        self.pixels += pair.pixels
        self.pictures += pair.pixels > 0


def check_split(
    data_dir: Path, split: str, classes: Classes, labels_are: Classes | None = None
) -> SplitReport:
    """Reads every pair of `split` in threads, with a progress bar; collects the faults."""
    report = SplitReport()
    try:
        matches, report.faults = match_names(data_dir, split)
        if line := other_files_line(data_dir, split):
            report.warnings.append(line)
    except ValueError as error:
        report.faults = [str(error)]
        return report
    checked = read_ahead(
        partial(_check_pair, classes=classes, labels_are=labels_are), matches, os.cpu_count() or 1
    )
    for _, pair in cli.track(checked, len(matches), split):
        if isinstance(pair, ValueError):
            report.faults.append(str(pair))
        else:
            report.add(pair)
    report.warnings += suspicions(split, report.pictures, report.sizes.total(), classes)
    return report


def _check_pair(
    match: tuple[Path, Path], classes: Classes, labels_are: Classes | None
) -> PairReport:
    image, label = read_pair(*match, classes, labels_are)
    image_mode, mask_mode = map(_file_mode, match)
    pixels = np.bincount(label.ravel(), minlength=256)
    return PairReport(f"{image.width}x{image.height}", image_mode, mask_mode, pixels)


def _file_mode(path: Path) -> str:
    with open_picture(path) as picture:
        return picture.mode


def print_check(
    check: Path, /, classes: Classes = CELEBAMASK, labels_are: Classes | None = None
) -> int:
    """Reads every file of train and val, prints a summary and every bad file.

    Args:
        check: Folder with train/ and val/; also as --check.
        classes: Table that the masks are read as.
        labels_are: Table that they are in, if it is another one.

    Returns 0 if all files are good, else 1.
    """
    reports = {split: check_split(check, split, classes, labels_are) for split in SPLITS}
    console = Console()
    console.print(files_table(reports), shares_table(reports, classes))
    # Not through rich: it would wrap the lines, which people search and copy.
    faults = [fault for report in reports.values() for fault in report.faults]
    warnings = [line for report in reports.values() for line in report.warnings]
    verdict = f"{len(faults)} bad" if faults else "all files can be read"
    print("\n".join([*faults, *warnings, verdict if warnings or faults else "all files are good"]))
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
    """The five most common, as `512x512: 700, 256x256: 3`."""
    common = [f"{key}: {count}" for key, count in counter.most_common(5)]
    return ", ".join(common + ["…"] * (len(counter) > 5))


def shares_table(reports: dict[str, SplitReport], classes: Classes) -> Table:
    """Per class and split, in percent: its share of the pixels, and of the pictures showing it."""
    table = Table("class", *(f"{split} {unit} %" for split in reports for unit in UNITS))
    for column in table.columns[1:]:
        column.justify = "right"
    for value, name in [*enumerate(classes.names), (IGNORE_LABEL, "ignored")]:
        shares = []
        for report in reports.values():
            shares.append(report.pixels[value] / max(report.pixels.sum(), 1))
            shares.append(report.pictures[value] / max(report.sizes.total(), 1))
        table.add_row(f"{value} {name}", *(f"{100 * share:.2f}" for share in shares))
    return table


def main() -> int:
    """Command line: `DIR`, or as once `--check DIR`."""
    return cli.command(print_check, "data", {"--check": "", "--data-dir": ""})
