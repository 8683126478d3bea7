import jax
import numpy as np

from jaxparse.parsing.network import highest_class, predict_label
from tests.parsed import require_highest, resized


def test_highest_class_and_the_lowest_of_a_tie() -> None:
    logits = np.random.default_rng(0).normal(size=(2, 19, 5, 7)).astype(np.float32)
    logits[0, [3, 11], 0, 0] = 9
    logits[1, :, 4, 6] = 0
    label = highest_class(logits)
    assert label.dtype == np.uint8 and label.shape == (2, 5, 7)
    np.testing.assert_array_equal(label, logits.argmax(1))
    assert (label[0, 0, 0], label[1, 4, 6]) == (3, 0)


def test_pictures_of_many_sizes_share_a_program_of_the_padded_size() -> None:
    logits = np.random.default_rng(1).normal(size=(16, 16, 19)).astype(np.float32)
    label_of = jax.jit(lambda size: predict_label(logits, size, (50, 70)))
    for size in [(50, 70), (37, 9), (1, 1)]:
        label = np.asarray(label_of(np.array(size, np.int32)))
        assert label.shape == (50, 70)
        require_highest(label[: size[0], : size[1]], resized(logits, size))
