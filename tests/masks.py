"""Masks and confusion matrices for tests of scores."""

import numpy as np


def matrix(*cells: tuple[int, int, int]) -> np.ndarray:
    """[19, 19] of (label, prediction, pixels)."""
    confusion = np.zeros((19, 19), np.int64)
    for label, prediction, pixels in cells:
        confusion[label, prediction] = pixels
    return confusion


def blobs(seed: int, size: tuple[int, int], ignored: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """A label of rectangles, some ignored, and a prediction that differs by further rectangles."""
    rng = np.random.default_rng(seed)
    label = np.zeros(size, np.uint8)
    prediction = label
    for index in range(30):
        if index == 22:
            prediction = label.copy()
        y, x = rng.integers(0, size)
        height, width = 1 + rng.integers(0, np.array(size) // 2 + 1)
        mask = label if index < 22 else prediction
        mask[y : y + height, x : x + width] = rng.integers(0, 16)
    if ignored:
        label[rng.random(size) < 0.002] = 255
        label[: size[0] // 8, size[1] // 2 :] = 255
    return label, prediction
