import numpy as np
import pytest

from jaxparse.classes import CELEBAMASK, parse_classes
from jaxparse.scoring.counts import count
from jaxparse.scoring.scores import (
    Scores,
    bootstrap_interval,
    joined_scores,
    likelier_order,
    picture_f1,
    sides_are_exchanged,
)
from tests.masks import blobs, matrix

NAN = float("nan")


def test_boundary_of_a_right_prediction_beside_ignored_pixels_is_right() -> None:
    label, _ = blobs(3, (120, 90))
    prediction = np.where(label == 255, 7, label).astype(np.uint8)
    result = Scores.of(*count(label, prediction, 19))
    labelled = ~np.isnan(result.iou)
    assert (result.boundary_iou[labelled] == 1).all() and labelled.sum() > 4
    assert np.isnan(result.boundary_iou[~labelled]).all()


def test_boundary_iou_by_hand() -> None:
    # 50×50: distance 1. Squares of 10×10, moved by 1: rings of 36 pixels; two sides of each ring
    # lie beside the other's, and the rings cross in 2 pixels: 2 + 0 shared, 36 + 36 - 2 in all.
    label, prediction = np.zeros((2, 50, 50), np.uint8)
    label[10:20, 10:20] = 1
    prediction[11:21, 11:21] = 1
    result = Scores.of(*count(label, prediction, 19))
    assert result.boundary_iou[1] == pytest.approx(2 / 70)
    assert result.iou[1] == pytest.approx(81 / 119)


def test_scores_by_hand() -> None:
    # Class 0: 6 of 8 found, 2 of class 1 taken for it; class 2 only predicted, 3 never found.
    result = Scores.of(matrix((0, 0, 6), (0, 2, 2), (1, 1, 3), (1, 0, 2), (3, 0, 1)))
    np.testing.assert_allclose(result.iou, [6 / 11, 3 / 5, 0, 0] + [NAN] * 15)
    np.testing.assert_allclose(result.accuracy, [6 / 8, 3 / 5, NAN, 0] + [NAN] * 15)
    np.testing.assert_allclose(result.f1, [12 / 17, 6 / 8, 0, 0] + [NAN] * 15)
    assert result.means() == {
        "aAcc": pytest.approx(9 / 14),
        "mIoU": pytest.approx((6 / 11 + 3 / 5) / 4),
        "mAcc": pytest.approx((6 / 8 + 3 / 5) / 3),
    }
    assert result.summary() == result.means() | {
        "mF1": pytest.approx((12 / 17 + 6 / 8) / 4),
        "mF1_without_background": pytest.approx((6 / 8) / 3),
    }


@pytest.mark.parametrize(
    ("names", "kept"),
    [
        (["hair", "skin", "BG"], [0, 1]),
        (["hair", "other", "background"], [0, 1]),
        (["hair", "other", "skin"], [0, 2]),
        (["hair", "skin", "nose"], [0, 1, 2]),
    ],
)
def test_background_is_the_class_of_that_name(names: list[str], kept: list[int]) -> None:
    confusion = np.array([[4, 1, 0], [2, 6, 1], [0, 3, 9]])
    f1 = np.array([8 / 11, 12 / 19, 18 / 22])
    summary = Scores.of(confusion, names=names).summary()
    assert summary["mF1_without_background"] == pytest.approx(f1[kept].mean())


def test_joined_names_of_any_spelling() -> None:
    data = {"names": ["background", "EyeLeft", "EyeRight", "l_brow", "r_brow"]}
    result = joined_scores(np.eye(5, dtype=np.int64), parse_classes(data, "x", "x.json"))
    assert result.names == ["background", "eye", "brow"]


def test_scores_equal_what_mmsegmentation_printed() -> None:
    # IoUMetric.intersect_and_union and total_area_to_metrics of mmsegmentation 1.2.2, in percent.
    rng = np.random.default_rng(5)
    label = rng.integers(0, 6, (24, 32)).astype(np.uint8)
    kept, other = rng.random((24, 32)) < 0.7, rng.integers(2, 8, (24, 32))
    prediction = np.where(kept, label, other).astype(np.uint8)
    label[rng.random((24, 32)) < 0.1] = 255
    result = Scores.of(*count(label, prediction, 19))
    iou = "75.68 70.59 61.97 61.24 57.42 52.99 0.00 0.00" + " nan" * 11
    accuracy = "75.68 70.59 71.54 78.22 75.42 65.14" + " nan" * 13
    dice = "86.15 82.76 76.52 75.96 72.95 69.27 0.00 0.00" + " nan" * 11
    pairs = ((iou, result.iou), (accuracy, result.accuracy), (dice, result.f1))
    for printed, values in pairs:
        assert printed == " ".join(f"{100 * value:.2f}" for value in values)
    assert f"{100 * result.pixel_accuracy:.2f}" == "72.69"
    assert result.mean_iou == pytest.approx(0.4748506, abs=1e-7)
    assert result.mean_accuracy == pytest.approx(0.72764635, abs=1e-7)


def test_scores_of_more_pixels_than_int32_holds() -> None:
    result = Scores.of(matrix((0, 0, 3 * 2**31), (0, 1, 2**31), (1, 1, 2**32)))
    np.testing.assert_allclose(result.iou[:2], [3 / 4, 2 / 3])
    assert result.pixel_accuracy == pytest.approx(5 / 6)


def test_scores_of_nothing_are_nan() -> None:
    result = Scores.of(matrix(), np.zeros((3, 19), np.int64))
    assert np.isnan([*result.iou, *result.accuracy, *result.f1, *result.boundary_iou]).all()
    assert np.isnan([*result.summary().values()]).all()


def test_left_and_right_joined_by_hand() -> None:
    # Half of the left eye taken for the right one is right when they are one class.
    confusion = matrix((0, 0, 9), (4, 4, 5), (4, 5, 5), (5, 5, 4), (5, 0, 1), (18, 18, 2))
    result = joined_scores(confusion, CELEBAMASK)
    assert len(result.names) == len(result.iou) == 16
    assert result.names[3:8] == ["eye_glasses", "eye", "brow", "ear", "mouth"]
    wanted = {"background": 9 / 10, "eye": 14 / 15, "cloth": 1}
    for name, iou in zip(result.names, result.iou, strict=True):
        assert iou == pytest.approx(wanted.get(name, NAN), nan_ok=True)
    assert result.accuracy[4] == pytest.approx(14 / 15)
    assert result.pixel_accuracy == pytest.approx(25 / 26)


def test_f1_of_pictures_takes_the_classes_of_their_labels() -> None:
    # Class 2 is only predicted and lowers class 0 alone; class 3 was never found.
    confusions = np.stack([matrix((0, 0, 6), (0, 2, 2), (1, 1, 3)), matrix((0, 0, 4), (3, 0, 2))])
    np.testing.assert_allclose(picture_f1(confusions), [(12 / 14 + 1) / 2, (8 / 10 + 0) / 2])


def test_interval_is_that_of_resampled_pictures() -> None:
    counts = [count(*blobs(seed, (48, 48)), 19).confusion for seed in range(12)]
    confusions = np.stack(counts)
    rng, means = np.random.default_rng(1), []
    for _ in range(2000):
        means.append(Scores.of(confusions[rng.integers(0, 12, 12)].sum(0)).mean_iou)
    interval = bootstrap_interval(confusions)
    assert interval == bootstrap_interval(confusions)
    assert interval != bootstrap_interval(confusions, seed=1)
    low, high = np.percentile(means, (2.5, 97.5))
    assert interval == (pytest.approx(low, abs=0.01), pytest.approx(high, abs=0.01))
    assert low < Scores.of(confusions.sum(0)).mean_iou < high and high - low > 0.05


def test_interval_of_one_picture_and_of_any_number_of_samples() -> None:
    confusion = count(*blobs(0, (48, 48)), 19).confusion
    whole = pytest.approx(Scores.of(confusion).mean_iou)
    assert bootstrap_interval(confusion[None], samples=3) == (whole, whole)
    low, high = bootstrap_interval(np.stack([confusion, 2 * confusion]), samples=101)
    assert (low, high) == (whole, whole)


def test_a_confused_order_of_labels_is_found() -> None:
    other = tuple(np.random.default_rng(0).permutation(19).tolist())
    orders = {"ours": tuple(range(19)), "other": other}
    mask, prediction = blobs(2, (64, 64), ignored=False)
    written = np.argsort(other)[mask].astype(np.uint8)  # value v in `other` is our class other[v]
    assert np.array_equal(np.array(other)[written], mask)
    assert likelier_order(count(written, prediction, 19).confusion, orders) == "other"
    assert likelier_order(count(prediction, written, 19).confusion.T, orders) == "other"
    assert likelier_order(count(mask, prediction, 19).confusion, orders) is None
    assert (
        likelier_order(matrix(), orders) is None and likelier_order(matrix((0, 0, 1)), {}) is None
    )


def test_a_small_gain_is_no_other_order() -> None:
    # Exchanging two of many classes gains 2 / 10.5 only.
    exchanged = (0, 2, 1, *range(3, 19))
    confusion = matrix((1, 2, 9), (2, 1, 9), *((i, i, 9) for i in range(3, 19)))
    assert Scores.of(confusion).mean_iou == pytest.approx(16 / 18)
    assert likelier_order(confusion, {"exchanged": exchanged}) is None
    confusion = matrix((1, 2, 9), (2, 1, 9), *((i, i, 9) for i in range(3, 10)))
    assert likelier_order(confusion, {"exchanged": exchanged}) == "exchanged"


def test_names_of_scores_are_the_classes() -> None:
    assert Scores.of(matrix()).names == CELEBAMASK.names


def test_exchanged_sides_are_noticed() -> None:
    """Eyes 4 5, brows 6 7, ears 8 9: two of the three must mostly be crossed."""
    right = [(index, index, 10) for index in range(4, 10)]
    assert not sides_are_exchanged(matrix(*right), CELEBAMASK)
    assert sides_are_exchanged(matrix(*((a, b ^ 1, n) for a, b, n in right)), CELEBAMASK)
    eyes = (4, 5, 30), (5, 4, 30)
    assert not sides_are_exchanged(matrix(*right, *eyes), CELEBAMASK)
    assert sides_are_exchanged(matrix(*right, *eyes, (6, 7, 11), (7, 6, 11)), CELEBAMASK)
    assert not sides_are_exchanged(matrix((1, 1, 5)), CELEBAMASK)
