"""Pictures of rare classes more often: repeat factors (Gupta et al. 2019, LVIS, arXiv:1908.03195).

Section 4.2 there: a class c that is in the share f_c of the pictures has the factor
max(1, sqrt(t / f_c)), a picture the largest factor of its classes. Here the fractional parts are
rounded by systematic sampling, so that every epoch has the same length and any place in the order
of all epochs can be computed without the places before it.
"""

import json
import math
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from jaxparse import cli
from jaxparse.data.sources import FolderSource, SyntheticSource
from jaxparse.files import atomic_path, brief, read_ahead, read_json, results, writing

Source = FolderSource | SyntheticSource
CLASSES_FILE = "mask_classes.json"  # in a run's folder: picture -> the classes in its mask
GOLDEN = (5**0.5 - 1) / 2  # whose multiples, modulo 1, are spread most evenly


def classes_of(source: Source, keep_bad: bool, index: int) -> list[int]:
    """The classes in one mask at its own size; with `keep_bad` none in an unreadable one."""
    try:
        label = source.label(index)
    except ValueError:
        if keep_bad:
            return []
        raise
    return np.flatnonzero(np.bincount(label.ravel(), minlength=256)[: len(source.classes)]).tolist()


def count_classes(
    source: Source, num_threads: int, keep_bad: bool = False, quiet: bool = False
) -> dict[str, list[int]]:
    """Name of each picture -> the classes in its mask; reads every mask, with a progress bar.

    Raises ValueError for an unreadable mask, unless `keep_bad`.
    """
    indices = range(len(source))
    read = read_ahead(partial(classes_of, source, keep_bad), indices, num_threads)
    found = cli.track(results(read), len(indices), "reading masks", quiet)
    return {source.name(i): classes for i, classes in zip(indices, found, strict=True)}


def read_classes(path: Path, names: list[str], count: int) -> dict[str, list[int]]:
    """What `count_classes` found for the pictures `names`, `count` classes at most, as the file
    holds it.

    Raises ValueError if the file is damaged or of other pictures.
    """
    again = f"delete {path.name} to read the masks again, or give another --workdir"
    counted = read_json(path, again)
    theirs = list(counted) if isinstance(counted, dict) else []
    if theirs != names:
        differing = sorted(set(theirs) ^ set(names))[:1] or ["their order"]
        raise ValueError(
            f"{path} is of {len(theirs)} pictures and the data folder has {len(names)} (first "
            f"difference: {differing[0]}): restore the data of this run, {again}"
        )
    known = set(range(count))
    for name, classes in counted.items():
        if not isinstance(classes, list) or not all(type(c) is int and c in known for c in classes):
            raise ValueError(f"{path} has {brief(classes)} for {brief(name)}, no classes; {again}")
    return counted


def known_classes(
    source: Source,
    workdir: str,
    num_threads: int,
    keep_bad: bool = False,
    process_index: int = 0,
) -> dict[str, list[int]]:
    """`count_classes`, once for a run: the result is kept in its folder (if `workdir` is one).

    The first process shows the progress and writes the file.
    """
    path = Path(workdir) / CLASSES_FILE
    if workdir and path.is_file():
        names = [source.name(index) for index in range(len(source))]
        return read_classes(path, names, len(source.classes))
    counted = count_classes(source, num_threads, keep_bad, quiet=process_index > 0)
    if workdir and process_index == 0:
        lines = (f"{json.dumps(name)}: {classes}" for name, classes in counted.items())
        with writing(CLASSES_FILE, workdir, "nothing is lost"), atomic_path(path) as temporary:
            temporary.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    return counted


def repeat_factors(present: np.ndarray, threshold: float) -> np.ndarray:
    """How often each picture is taken per epoch, on average: bool [N, C] -> float64 [N], >= 1."""
    shares = present.mean(0)
    factors = np.sqrt(threshold / np.where(shares > 0, shares, 1))
    return np.where(present, np.maximum(factors, 1), 1).max(1)


class RepeatedOrder:
    """The order of all pictures in all epochs: place 0, 1, 2, ... -> index of a picture.

    An epoch has as many places as the sum of the factors, rounded up. Picture i's share of them is
    places * factor_i / sum, at least 1: it is taken as often as the share's integer part or once
    more, by an offset that is new in every epoch, so that the mean over epochs is the share. Each
    epoch is shuffled by the seed and its number.
    """

    def __init__(self, factors: np.ndarray, seed: int) -> None:
        self.ends = np.cumsum(factors / factors.sum())  # of the pictures' parts of the line 0..1
        self.length = math.ceil(factors.sum())
        self.seed = seed
        # Threads that read ahead cross the border of two epochs.
        self._epoch = lru_cache(maxsize=2)(self.epoch)

    def epoch(self, number: int) -> np.ndarray:
        """Indices of the pictures of epoch `number`, int64 [length]."""
        start = np.random.default_rng(self.seed).random()
        # Equal steps along the line from an offset that is new in every epoch.
        places = (np.arange(self.length) + (start + number * GOLDEN) % 1) / self.length
        chosen = np.searchsorted(self.ends[:-1], places, side="right")
        return np.random.default_rng((self.seed, number)).permutation(chosen)

    def __getitem__(self, place: int) -> int:
        number, rest = divmod(place, self.length)
        return int(self._epoch(number)[rest])
