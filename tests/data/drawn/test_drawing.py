"""The polygon canvas: what hides what, soft edges in the colours and hard ones in the label."""

import numpy as np
import pytest

from jaxparse.data.drawn.drawing import render


def test_image_edges_are_soft_and_label_edges_hard() -> None:
    diamond = np.array([(0.5, 0.1), (0.9, 0.5), (0.5, 0.9), (0.1, 0.5)])
    below = 1, np.array((200, 100, 50)), diamond
    above = 18, np.array((0, 100, 250)), diamond * (0.5, 1)
    colors, coverage, label = render((below, above), 40)
    assert set(np.unique(label)) == {0, 1, 18}
    np.testing.assert_array_equal(colors[20, 30], (200, 100, 50))
    np.testing.assert_array_equal(colors[20, 12], (0, 100, 250))  # the later shape hides the first
    assert label[20, 12] == 18
    assert coverage[0, 0, 0] == 0
    assert coverage[20, 20, 0] == 1
    edge = (coverage > 0.05) & (coverage < 0.95)
    assert 40 < edge.sum() < 200
    # Centres decide: what is mostly covered is labelled, what is mostly bare is not.
    assert (label[coverage[..., 0] > 0.7] > 0).all()
    assert (label[coverage[..., 0] < 0.3] == 0).all()
    assert coverage.mean() == pytest.approx((label > 0).mean(), abs=0.01)
