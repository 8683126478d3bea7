"""A trained network on pictures of any size: masks, probabilities, overlays.

    >>> from jaxparse import Parser
    >>> parser = Parser.load("weights.safetensors")
    >>> result = parser("photo.jpg")
    >>> result.classes.names[result.mask[24, 32]]
    'nose'
    >>> float(result.probability("hair").max()) <= 1
    True
    >>> result.save("mask.png")

The network sees the whole picture, resized to its input size; at one scale or several; with or
without the mirror image. Probabilities are averaged.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec
from PIL import Image

from jaxparse.classes import Classes, becomes
from jaxparse.config import Config
from jaxparse.data.images import as_picture
from jaxparse.data.masks import write_mask
from jaxparse.data.sources import resize_image
from jaxparse.devices import local_devices, make_mesh, replicated
from jaxparse.models.ops.resize import resize_bilinear
from jaxparse.parsing import regions
from jaxparse.parsing.network import make_logits_step
from jaxparse.parsing.overlay import overlay
from jaxparse.parsing.tiles import Level, assemble, tile_classes, tile_confidence, tile_probability
from jaxparse.weights.files import SHIPPED
from jaxparse.weights.find import load_network
from jaxparse.weights.hub import fetch

# Arrays are uint8 [H, W, 3] RGB or [H, W].
PictureLike: TypeAlias = str | Path | Image.Image | np.ndarray


@dataclass(frozen=True)
class TestTime:
    """Test-time augmentation: how the network sees a picture."""

    __test__ = False  # not a pytest class

    scales: tuple[float, ...] = (1.0,)
    """Scales of the network's input whose probabilities are averaged, such as 0.75 1 1.25."""
    flip: bool = False
    """Average with the mirrored picture as well, left and right classes exchanged."""

    def __post_init__(self) -> None:
        if not self.scales or not all(0.1 <= scale <= 4 for scale in self.scales):
            raise ValueError(f"scales are {self.scales}; give one or more, each between 0.1 and 4")


NO_TEST_TIME = TestTime()


class Picture(NamedTuple):
    """A picture prepared for the network."""

    source: PictureLike
    image: np.ndarray  # as the network takes it, uint8 [S, S, 3]
    size: tuple[int, int]  # its own (height, width)
    label: np.ndarray | None = None  # its true mask, for the caller


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

    @cached_property
    def mask(self) -> np.ndarray:
        """uint8 [H, W] of `classes`, at the picture's own size."""
        return self._assembled(tile_classes)

    def _assembled(self, compute: Callable[..., Array], **given: tuple[int, ...]) -> np.ndarray:
        tables = {"network": self.network, "classes": self.classes}
        return assemble(self.levels, self.size, partial(compute, **tables, **given))

    def probability(self, name: str) -> np.ndarray:
        """float32 [H, W], 0..1: the probability of one class, by its name."""
        return self._probability_of([name])

    def _probability_of(self, names: Sequence[str]) -> np.ndarray:
        """float32 [H, W]: the probability that a pixel is of any of the classes."""
        indices = tuple(map(self.classes.index, dict.fromkeys(names)))
        return self._assembled(tile_probability, indices=indices)

    def confidence(self) -> np.ndarray:
        """float32 [H, W], 0..1: the probability of the predicted class at every pixel."""
        return self._assembled(tile_confidence)

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
        pixels = np.bincount(self.mask.ravel(), minlength=len(names))
        return {
            name: float(number / self.mask.size)
            for name, number in zip(names, pixels, strict=True)
            if number
        }

    def overlay(self) -> Image.Image:
        """The picture blended with the mask's colours, with a legend on its right."""
        picture = np.asarray(as_picture(self.source))
        return Image.fromarray(overlay(picture, self.mask, self.classes))

    def save(self, path: str | Path) -> None:
        """Writes the mask as a palette PNG of class indices."""
        if Path(path).suffix.lower() != ".png":
            raise ValueError(f"masks are PNG files: {path} must end in .png")
        write_mask(Path(path), self.mask, self.classes)


class Parser:
    """A network with its weights, ready for pictures."""

    def __init__(
        self,
        config: Config,
        params: dict[str, Any],
        batch_stats: dict[str, Any],
        test_time: TestTime = NO_TEST_TIME,
        classes: Classes | None = None,
    ) -> None:
        """Uses the network, image_size and batch_size (pictures per call) of `config`.

        Masks are of the table `classes`, by default the network's own. Raises ValueError if the
        network's cannot become those. The batch is divided among this process's devices if it is a
        multiple of their number.
        """
        self.test_time = test_time
        self.classes = classes or config.classes
        becomes(config.classes, self.classes)  # raises if it cannot
        self._classes = config.classes
        self.image_size = config.image_size
        self.batch_size = config.batch_size
        self._resize_filter = config.resize_filter
        self._align_corners = config.align_corners
        devices = local_devices()
        mesh = make_mesh(devices if config.batch_size % len(devices) == 0 else devices[:1])
        self._sharding = NamedSharding(mesh, PartitionSpec("data"))
        weights = jax.device_put((params, batch_stats), replicated(mesh))
        self._network = partial(make_logits_step(config), *weights)

    @classmethod
    def load(
        cls,
        weights: str | Path = SHIPPED,
        test_time: TestTime = NO_TEST_TIME,
        batch_size: int = 4,
        classes: Classes | None = None,
    ) -> "Parser":
        """The network of a weights file (.safetensors), of a run's folder (its best weights), or of
        a repository of the Hugging Face hub ("user/name").

        Without `weights` the one that comes with the package. Masks are of the table `classes`, by
        default the network's own. Raises ValueError if the file is missing, damaged or not a
        jaxparse file.
        """
        config, *arrays = load_network(weights)
        return cls(replace(config, batch_size=batch_size), *arrays, test_time, classes)

    @classmethod
    def from_pretrained(
        cls, name: str, test_time: TestTime = NO_TEST_TIME, batch_size: int = 4
    ) -> "Parser":
        """The network of a repository of the Hugging Face hub: "user/name" or "user/name@revision".

        Downloaded, and converted if another package wrote it, once. Raises ValueError if the hub
        cannot be reached or the network is not one of those that jaxparse knows.
        """
        return cls.load(fetch(name), test_time, batch_size)

    def __call__(self, pictures: PictureLike | Sequence[PictureLike]) -> Parsing | list[Parsing]:
        """The parsing of a picture (a path, a PIL image or an array), or of each of several.

        Raises ValueError if one cannot be read.
        """
        is_array = hasattr(pictures, "__array__")  # also of jax, which iterate over rows
        if (
            is_array
            or isinstance(pictures, PictureLike | bytes)
            or not isinstance(pictures, Iterable)
        ):
            picture = self.prepare(pictures)
            # Do not pad a single picture to a whole batch.
            return next(self.parse([picture], self._sharding.mesh.size))
        return list(self.parse(map(self.prepare, pictures)))

    def prepare(self, source: PictureLike, label: np.ndarray | None = None) -> Picture:
        """Reads and resizes a picture on the host: for threads that read ahead."""
        picture = as_picture(source)
        image = resize_image(picture, self.image_size, self._resize_filter)
        return Picture(source, image, picture.size[::-1], label)

    def parse(
        self, pictures: Iterable[Picture], batch_size: int | None = None
    ) -> Iterator[Parsing]:
        """Parsings, in order, from batches of one size, by default the parser's."""
        batch_size = batch_size or self.batch_size
        batch: list[Picture] = []
        for picture in pictures:
            batch.append(picture)
            if len(batch) == batch_size:
                yield from self._parse_batch(batch, batch_size)
                batch = []
        if batch:
            yield from self._parse_batch(batch, batch_size)

    def _parse_batch(self, batch: list[Picture], batch_size: int) -> Iterator[Parsing]:
        images = np.stack([picture.image for picture in batch])
        sides = [round(self.image_size * scale) for scale in self.test_time.scales]
        logits = [self._logits(images, side, batch_size) for side in sides]
        tables = self._classes, self.classes
        for index, picture in enumerate(batch):
            yield Parsing(picture, [Level(x[index], self._align_corners) for x in logits], *tables)

    def _logits(self, images: np.ndarray, side: int, batch_size: int) -> Array:
        """uint8 [≤ batch_size, S, S, 3] -> float32 [batch_size, F, h, w, C] at that input size."""
        images = np.pad(images, ((0, batch_size - len(images)), (0, 0), (0, 0), (0, 0)))
        views = [images, images[:, :, ::-1]] if self.test_time.flip else [images]
        logits = []
        for view in views:
            view = jax.device_put(np.ascontiguousarray(view), self._sharding)
            logits.append(self._network(view if side == view.shape[1] else _resize(view, side)))
        device = self._sharding.mesh.devices.flat[0]
        return jax.device_put(jnp.stack(logits, axis=1), device)


@partial(jax.jit, static_argnames="side")
def _resize(images: Array, side: int) -> Array:
    """uint8 [B, S, S, 3] -> float32 [B, side, side, 3], without antialiasing, as OpenCV does."""
    return resize_bilinear(images.astype(jnp.float32), (side, side))
