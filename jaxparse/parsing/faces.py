"""Faces in a photograph, and the detector that finds them: MTCNN (Zhang et al. 2016,
arXiv:1604.02878), the package `mtcnn`, whose weights lie in its wheel.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from PIL import Image

from jaxparse.files import unusable
from jaxparse.parsing.alignment import align, corners, side

# Photographs are shrunk to this before faces are looked for: mtcnn compares all candidates with
# each other, which takes gigabytes at 12 megapixels. Its smallest face, 20 pixels, is then about a
# sixtieth of the longer side.
LONGEST_SIDE = 1280


class Face(NamedTuple):
    """A face, in pixels of its photograph: x to the right and y down from the top left corner."""

    box: tuple[float, float, float, float]  # left, top, right, bottom
    # [5, 2], x and y: eye, eye, nose, corner of the mouth, corner of the mouth; of each two first
    # that on the left of the picture, if the face is upright.
    points: np.ndarray
    score: float  # 0..1


# uint8 [H, W, 3] in RGB -> its faces, in any order; called by several threads at once.
Detector: TypeAlias = Callable[[np.ndarray], Sequence[Face]]


def load_detector() -> Detector:
    """MTCNN's detector. Raises ValueError if the package is missing."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow's notices on the processor
    try:
        import mtcnn
        from mtcnn.stages import StageONet, StagePNet, StageRNet
    except ImportError as error:
        raise ValueError(f"finding faces: {unusable('mtcnn', 'faces', error)}") from error
    # By their whole paths: mtcnn prefers files of these names in the current folder, and unpickles
    # whatever they are.
    folder = os.path.join(os.path.dirname(mtcnn.__file__), "assets", "weights")
    stages = ((StagePNet, "pnet"), (StageRNet, "rnet"), (StageONet, "onet"))
    network = mtcnn.MTCNN(
        [stage(weights=os.path.join(folder, f"{name}.lz4")) for stage, name in stages]
    )

    def detect(image: np.ndarray) -> list[Face]:
        small = Image.fromarray(image)
        small.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
        found = network.detect_faces(np.asarray(small), box_format="xyxy", output_type="numpy")
        enlarged = np.array([image.shape[1] / small.width, image.shape[0] / small.height])
        return [_face(row, enlarged) for row in found]

    return detect


def _face(row: np.ndarray, enlarged: np.ndarray) -> Face:
    """mtcnn's row: picture, left, top, right, bottom, score, five x, five y."""
    left, top, right, bottom = map(float, row[1:5] * np.tile(enlarged, 2))
    return Face((left, top, right, bottom), row[6:].reshape(2, 5).T * enlarged, float(row[5]))


def nearest_first(faces: Iterable[Face]) -> tuple[Face, ...]:
    """The faces by the size of their aligned crops, the largest first."""
    return tuple(sorted(faces, key=lambda face: -side(align(face.points))))


def describe(face: Face) -> dict[str, Any]:
    """A face for JSON, in pixels with two decimals; `crop` has the corners of its aligned crop,
    clockwise from that which is shown at the top left.
    """
    return {
        "box": np.round(face.box, 2).tolist(),
        "points": np.round(face.points, 2).tolist(),
        "score": round(float(face.score), 4),
        "crop": np.round(corners(align(face.points)), 2).tolist(),
    }
