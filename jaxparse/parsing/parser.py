"""A trained network on pictures of any size: masks, probabilities, overlays.

    >>> from jaxparse import Parser
    >>> parser = Parser.load("weights.safetensors")
    >>> result = parser("photo.jpg")
    >>> result.classes.names[result.mask[24, 32]] in result.area()
    True
    >>> float(result.probability("hair").max()) <= 1
    True
    >>> result.save("mask.png")

The network sees the whole picture, resized to its input size; at one scale or several; with or
without the mirror image. Probabilities are averaged.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice, tee
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec

from jaxparse.classes import Classes, becomes, load_classes
from jaxparse.config import Config, Precision, config_json
from jaxparse.data.images import as_picture
from jaxparse.data.sources import resize_image
from jaxparse.devices import local_devices, make_mesh, replicated
from jaxparse.models.ops.resize import resize_bilinear
from jaxparse.parsing.alignment import align, crop
from jaxparse.parsing.faces import Detector, load_detector, nearest_first
from jaxparse.parsing.network import make_logits_step
from jaxparse.parsing.results import Parsing, Photograph, Picture, PictureLike
from jaxparse.parsing.tiles import Level
from jaxparse.programs import Program
from jaxparse.weights.find import load_network


@dataclass(frozen=True)
class TestTime:
    """How the network sees a picture: test-time augmentation, and the type that it computes in."""

    __test__ = False  # not a pytest class

    scales: tuple[float, ...] = (1.0,)
    """Scales of the network's input whose probabilities are averaged, such as 0.75 1 1.25."""
    flip: bool = False
    """Average with the mirrored picture as well, left and right classes exchanged."""
    precision: Precision = "float32"
    """Type of the feature maps. 16 bits change a few pixels in a thousand; they save memory and, on
    GPUs, time, and are slower on most CPUs. Weights, norms, softmax and logits stay float32."""

    def __post_init__(self) -> None:
        if not self.scales or not all(0.1 <= scale <= 4 for scale in self.scales):
            raise ValueError(f"scales are {self.scales}; give one or more, each between 0.1 and 4")


NO_TEST_TIME = TestTime()


class Parser:
    """A network with its weights, ready for pictures."""

    def __init__(
        self,
        config: Config,
        params: dict[str, Any],
        batch_stats: dict[str, Any],
        test_time: TestTime = NO_TEST_TIME,
        classes: Classes | str | Path | None = None,
        faces: bool = False,
        detector: Detector | None = None,
    ) -> None:
        """Uses the network, image_size and batch_size (pictures per call) of `config`.

        Masks are of the table `classes`, its name or its .json file, by default the network's own.
        Raises ValueError if the network's cannot become those. The batch is divided among this
        process's devices if it is a multiple of their number.

        With `faces`, pictures are whole photographs: their faces are found by `detector`, by
        default that of the package mtcnn, aligned and parsed. Raises ValueError if that is missing.
        """
        self._detector = (detector or load_detector()) if faces else None
        self.test_time = test_time
        self.classes = load_classes(classes) if classes else config.classes
        becomes(config.classes, self.classes)  # raises if it cannot
        if test_time.flip and (line := config.classes.halves_line):
            logging.getLogger(__name__).warning(line)
        self._classes = config.classes
        self.image_size = config.image_size
        self.batch_size = config.batch_size
        self._resize_filter = config.resize_filter
        self._align_corners = config.align_corners
        devices = local_devices()
        mesh = make_mesh(devices if config.batch_size % len(devices) == 0 else devices[:1])
        self._sharding = NamedSharding(mesh, PartitionSpec("data"))
        weights = jax.device_put((params, batch_stats), replicated(mesh))
        make = partial(make_logits_step, config, test_time.precision)
        # The others of its fields might change the network.
        about = config_json(replace(config, batch_size=1, accumulate_steps=1, num_workers=1))
        self._network = partial(Program(make, about, test_time.precision), *weights)

    @classmethod
    def load(
        cls,
        weights: str | Path | None = None,
        test_time: TestTime = NO_TEST_TIME,
        batch_size: int = 4,
        classes: Classes | str | Path | None = None,
        faces: bool = False,
        detector: Detector | None = None,
    ) -> "Parser":
        """The network of a weights file (.safetensors), of a folder (a run's best weights, or those
        of a clone of a repository), or of a repository of the Hugging Face hub: "user/name",
        "user/name/FILE" or either with "@REVISION".

        A repository is downloaded, and converted if another package wrote it, once. Without
        `weights` it is the network that comes with the package, whose name is taken as well; a file
        or folder of the same name comes before it. Masks are of the table `classes`, by default the
        network's own. Raises ValueError if the file is missing, damaged or not a jaxparse file, the
        hub cannot be reached, or the network is not one that jaxparse knows.
        """
        config, *arrays = load_network(weights)
        settings = test_time, classes, faces, detector
        return cls(replace(config, batch_size=batch_size), *arrays, *settings)

    from_pretrained = load  # as other packages call it

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
            single = len(picture.images) == 1
            return next(self.parse([picture], self._sharding.mesh.size if single else None))
        return list(self.parse(map(self.prepare, pictures)))

    def prepare(self, source: PictureLike, label: np.ndarray | None = None) -> Picture:
        """Reads a picture and resizes it, or cuts out its faces: for threads that read ahead."""
        picture = as_picture(source)
        size = picture.size[::-1]
        if self._detector is None:
            images = [resize_image(picture, self.image_size, self._resize_filter)]
            return Picture(source, images, size, label)
        photo = np.asarray(picture)
        faces = nearest_first(self._detector(photo))
        crops = [crop(photo, align(face.points), self.image_size) for face in faces]
        return Picture(source, crops, size, label, faces)

    def parse(
        self, pictures: Iterable[Picture], batch_size: int | None = None
    ) -> Iterator[Parsing]:
        """Parsings, in order, from batches of one size, by default the parser's.

        Faces of several photographs share a batch.
        """
        pictures, ahead = tee(pictures)
        images = (image for picture in ahead for image in picture.images)
        levels = self._levels(images, batch_size or self.batch_size)
        tables = self._classes, self.classes
        for picture in pictures:
            of_images = [next(levels) for _ in picture.images]
            if picture.faces is None:
                yield Parsing(picture, of_images[0], *tables)
            else:
                yield Photograph(picture, of_images, *tables)

    def _levels(self, images: Iterator[np.ndarray], batch_size: int) -> Iterator[list[Level]]:
        """The logits of every image at each scale, in order."""
        sides = [round(self.image_size * scale) for scale in self.test_time.scales]
        while batch := list(islice(images, batch_size)):
            logits = [self._logits(np.stack(batch), side, batch_size) for side in sides]
            for index in range(len(batch)):
                yield [Level(x[index], self._align_corners) for x in logits]

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
