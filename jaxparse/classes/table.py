"""A table of classes, and how masks of one table become those of another."""

from dataclasses import dataclass, field
from functools import cache, cached_property

import numpy as np

from jaxparse.classes.spelling import background, halves, spellings
from jaxparse.files import brief

IGNORE_LABEL = 255  # pixels that neither the loss nor the metrics count
MOST_CLASSES = IGNORE_LABEL  # 0..254


@dataclass(frozen=True)
class Classes:
    """A table of C classes. Two are equal if masks of one are masks of the other."""

    name: str = field(compare=False)
    names: tuple[str, ...]
    colours: tuple[tuple[int, int, int], ...] = field(compare=False)  # RGB, 0..255
    pairs: tuple[tuple[int, int], ...] = ()  # indices that a mirror image exchanges: left, right
    weights: tuple[float, ...] = ()  # in cross-entropy; none: all 1
    # In masks of other tools: value -> class, or 255 if ignored; none: the classes themselves.
    values: tuple[tuple[int, int], ...] = ()
    # Tables whose masks become this one's: for each of their classes its index here, or 255.
    sources: tuple[tuple["Classes", tuple[int, ...]], ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    def __str__(self) -> str:
        return self.name

    def index(self, name: str) -> int:
        """The class of that name. Raises ValueError, listing the names, if there is none."""
        if name not in self.names:
            raise ValueError(f"there is no class {brief(name)}; there are: {', '.join(self.names)}")
        return self.names.index(name)

    @cached_property
    def palette(self) -> np.ndarray:
        """The colours, uint8 [C, 3]."""
        return np.array(self.colours, np.uint8)

    @cached_property
    def mirrored(self) -> np.ndarray:
        """What each class becomes in a mirror image, [C]."""
        classes = np.arange(len(self))
        for left, right in self.pairs:
            classes[[left, right]] = right, left
        return classes

    @property
    def background(self) -> int:
        """The class that is named background, in any usual spelling, or other; 255 without one."""
        return background(self.names, IGNORE_LABEL)

    def part(self, index: int) -> str:
        """The name of a class in the usual spelling, without left or right."""
        return spellings(self.names)[index].removeprefix("left_").removeprefix("right_")

    @cached_property
    def class_of_value(self) -> np.ndarray:
        """The class of each value in masks of other tools, int16 [256]: 255 ignored, -1 none."""
        table = np.full(256, -1, np.int16)
        classes = (*enumerate(range(len(self))), (IGNORE_LABEL, IGNORE_LABEL))
        for value, index in self.values or classes:
            table[value] = index
        return table

    @property
    def values_in_words(self) -> str:
        """The values of masks of other tools."""
        if not self.values:
            return f"0..{len(self) - 1} and {IGNORE_LABEL}"
        *values, last = (value for value, _ in self.values)
        return brief(f"{', '.join(map(str, values))} and {last}")

    @property
    def halves_line(self) -> str | None:
        """A line on classes that are called left or right and are in no pair; None without any."""
        paired = {self.names[index] for pair in self.pairs for index in pair}
        if not (lone := [name for name in halves(self.names)[1] if name not in paired]):
            return None
        return (
            f"{brief(', '.join(lone))} of the classes {self} are not exchanged in mirror "
            'images, having no partner: name it under "pairs"'
        )


def becomes(source: Classes, target: Classes) -> tuple[int, ...]:
    """For each class of `source` its class in `target`, or 255 if its pixels are ignored there.

    Raises ValueError if masks of `source` cannot become those of `target`.
    """
    if (found := path_between(source, target)) is None:
        raise ValueError(
            f"the classes of {source.name} cannot become those of {target.name}: say how in the "
            f'file of {target.name}, under "from" (`python -m jaxparse.classes --help` shows how)'
        )
    return found


def path_between(source: Classes, target: Classes) -> tuple[int, ...] | None:
    if set(source.names) == set(target.names):
        return tuple(map(target.names.index, source.names))
    for table, places in target.sources:
        if (inner := path_between(source, table)) is not None:
            return _chained(inner, places)
    for table, places in source.sources:  # back again, where nothing was merged
        outer = path_between(table, target) if sorted(places) == list(range(len(table))) else None
        if outer is not None:
            return _chained(tuple(np.argsort(places).tolist()), outer)
    return None


def _chained(first: tuple[int, ...], second: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(IGNORE_LABEL if index == IGNORE_LABEL else second[index] for index in first)


@cache
def lookup(source: Classes, target: Classes) -> np.ndarray:
    """uint8 [256]: value in a mask of `source` -> in one of `target`. Raises as `becomes` does."""
    table = np.full(256, IGNORE_LABEL, np.uint8)
    table[: len(source)] = becomes(source, target)
    return table


def convert_label(label: np.ndarray, source: Classes, target: Classes) -> np.ndarray:
    """A mask uint8 [H, W] of `source` -> of `target`."""
    return label if source.names == target.names else lookup(source, target)[label]


def exchange_sides(label: np.ndarray, classes: Classes) -> np.ndarray:
    """A mask uint8 [H, W] with left and right exchanged; nothing moves."""
    table = np.arange(256, dtype=np.uint8)
    table[: len(classes)] = classes.mirrored
    return table[label]
