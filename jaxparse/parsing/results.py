"""What a Parser gives: the parsing of a picture, or of a photograph of several faces."""

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from jax import Array
from PIL import Image

from jaxparse.classes import IGNORE_LABEL, Classes
from jaxparse.data.images import as_picture
from jaxparse.data.masks import write_mask
from jaxparse.parsing import regions
from jaxparse.parsing.alignment import align
from jaxparse.parsing.doubts import doubt
from jaxparse.parsing.faces import Face, describe
from jaxparse.parsing.overlay import OPACITY, overlay
from jaxparse.parsing.placed import Placed, assemble_placed
from jaxparse.parsing.tiles import Level, assemble, tile_classes, tile_confidence, tile_probability

# Arrays are uint8 [H, W, 3] RGB or [H, W].
PictureLike: TypeAlias = str | Path | Image.Image | np.ndarray


class NoFaceError(ValueError):
    """A photograph or clip has no mask, since no face was found in it."""


class Picture(NamedTuple):
    """A picture prepared for the network."""

    source: PictureLike
    images: list[np.ndarray]  # one uint8 [S, S, 3], or the aligned crop of each of its faces
    size: tuple[int, int]  # its own (height, width)
    label: np.ndarray | None = None  # its true mask, for the caller
    faces: tuple[Face, ...] | None = None  # the nearest first; None: not looked for


class Parsing:
    """The network's result for one picture.

    The logits, of the network's classes, are kept at its resolution: about 1 MB.
    """

    def __init__(
        self, picture: Picture, levels: Sequence[Level], network: Classes, classes: Classes
    ) -> None:
        self.source = picture.source
        self.label = picture.label
        self.levels = levels
        self.size = picture.size
        self.network, self.classes = network, classes

    is_faceless = False  # faces were looked for, and there is none

    @cached_property
    def mask(self) -> np.ndarray:
        """uint8 [H, W] of `classes`, at the picture's own size."""
        return self._assembled(tile_classes, np.uint8(self.classes.background))

    def _assembled(
        self, compute: Callable[..., Array], outside: np.generic, **given: np.ndarray
    ) -> np.ndarray:
        """[H, W] from a function of tiles; `outside` is its value where there is no face."""
        return assemble(self.levels, self.size, partial(compute, **self._tables, **given))

    @property
    def _tables(self) -> dict[str, Classes]:
        return {"network": self.network, "classes": self.classes}

    @cached_property
    def doubt(self) -> str:
        """Why this cannot be a face that fills its picture, such as "it has no nose"; else ""."""
        return doubt(self.mask, self.classes)

    def probability(self, name: str) -> np.ndarray:
        """float32 [H, W], 0..1: the probability of one class, by its name."""
        return self._probability_of([name])

    def _probability_of(self, names: Sequence[str]) -> np.ndarray:
        """float32 [H, W]: the probability that a pixel is of any of the classes."""
        chosen = np.zeros(len(self.classes), np.float32)
        chosen[[self.classes.index(name) for name in names]] = 1
        outside = chosen[background] if (background := self.classes.background) < len(chosen) else 0
        return self._assembled(tile_probability, np.float32(outside), chosen=chosen)

    def confidence(self) -> np.ndarray:
        """float32 [H, W], 0..1: the probability of the predicted class at every pixel."""
        return self._assembled(tile_confidence, np.float32(1))

    def region(
        self, names: Sequence[str], *, hard: bool = False, grow: int = 0, feather: int = 0
    ) -> np.ndarray:
        """uint8 [H, W]: the probability of any of these classes, 0..255, as an alpha channel.

        With `hard` it is 0 or 255, from the mask. Then the region grows by a disc of radius `grow`
        pixels, or shrinks if that is negative, and its edge fades over `feather` pixels to each
        side. Raises ValueError for an unknown class, and if `feather` is negative.
        """
        edge = regions.Edge(hard, grow, feather)
        names = (names,) if isinstance(names, str) else tuple(names)
        if edge.hard:
            table = np.zeros(256, np.uint8)
            table[[self.classes.index(name) for name in names]] = 255
            region = table[self.mask]
        else:
            region = np.rint(255 * np.minimum(self._probability_of(names), 1)).astype(np.uint8)
        return regions.feather(regions.grow(region, edge.grow), edge.feather)

    def area(self) -> dict[str, float]:
        """Class name -> its share of the picture, 0..1, for the classes that occur."""
        names = self.classes.names
        pixels = np.bincount(self.mask.ravel(), minlength=IGNORE_LABEL)[: len(names)]
        return {
            name: float(number / self.mask.size)
            for name, number in zip(names, pixels, strict=True)
            if number
        }

    def overlay(self, opacity: float = OPACITY) -> Image.Image:
        """The picture under the mask's colours, which hide it by `opacity`, 0..1, and a legend."""
        picture = np.asarray(as_picture(self.source))
        return Image.fromarray(overlay(picture, self.mask, self.classes, opacity))

    def save(self, path: str | Path) -> None:
        """Writes the mask as a palette PNG of class indices."""
        if Path(path).suffix.lower() != ".png":
            raise ValueError(f"masks are PNG files: {path} must end in .png")
        write_mask(Path(path), self.mask, self.classes)


class Photograph(Parsing):
    """The parsing of a whole photograph: of each of its faces, put back where it is.

    Outside of all crops is `classes.background`, also where no face is found: 255, ignored, if
    no class is called that. Where faces overlap the nearer one, that is the larger, is in front.
    """

    def __init__(
        self,
        picture: Picture,
        levels: Sequence[Sequence[Level]],
        network: Classes,
        classes: Classes,
    ) -> None:
        self.faces = picture.faces  # the nearest first
        self.crops = picture.images  # aligned as in CelebA-HQ, each uint8 [S, S, 3]
        super().__init__(picture, levels, network, classes)

    doubt = ""  # faces were looked for: they need not fill it

    @property
    def is_faceless(self) -> bool:
        """Whether no face was found."""
        return not self.faces

    def _assembled(
        self, compute: Callable[..., Array], outside: np.generic, **given: int
    ) -> np.ndarray:
        faces = [
            Placed(levels, align(face.points), len(crop), face.box)
            for face, crop, levels in zip(self.faces, self.crops, self.levels, strict=True)
        ]
        classify = partial(tile_classes, **self._tables)
        values = None if compute is tile_classes else partial(compute, **self._tables, **given)
        return assemble_placed(
            faces[::-1], self.size, outside, self.classes.background, classify, values
        )

    def each_face(self) -> list[Parsing]:
        """The parsing of every aligned crop, at the network's input size [S, S]."""
        return [
            Parsing(Picture(crop, [crop], crop.shape[:2]), levels, self.network, self.classes)
            for crop, levels in zip(self.crops, self.levels, strict=True)
        ]

    def describe(self) -> dict[str, Any]:
        """For JSON: the photograph's size, and of every face box, points, score and crop."""
        height, width = self.size
        return {"width": width, "height": height, "faces": [describe(face) for face in self.faces]}
