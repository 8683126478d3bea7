import numpy as np
import pytest

from jaxparse.classes import CELEBAMASK
from jaxparse.data.drawn.picture import draw_face
from jaxparse.report.__main__ import MIRRORED_FROM
from jaxparse.report.suspects import (
    mirrored_shares,
    mislabelled_scores,
    surely_mirrored,
    weigh,
)
from jaxparse.scoring.counts import count


def face(index: int) -> np.ndarray:
    return draw_face(0, index, 64)[1]


def weighed(label: np.ndarray, prediction: np.ndarray, confidence: float = 0.9) -> np.ndarray:
    return weigh(label, prediction, np.full(label.shape, confidence, np.float32), 19)


def test_errors_count_as_the_network_is_confident() -> None:
    label = np.array([[0, 4, 4], [255, 18, 18]], np.uint8)
    prediction = np.array([[0, 5, 5], [3, 18, 0]], np.uint8)
    confidence = np.array([[0.5, 0.25, 1], [1, 0.5, 0.75]], np.float32)
    weights = weigh(label, prediction, confidence, 19)
    wanted = np.zeros((19, 19))
    wanted[0, 0], wanted[4, 5], wanted[18, 18], wanted[18, 0] = 1, 1.25, 1, 0.75
    np.testing.assert_array_equal(weights, wanted)


def test_each_part_of_the_face_votes_on_mirroring() -> None:
    plain, mirrored, ears, none = np.zeros((4, 19, 19))
    for matrix in (plain, mirrored, ears):
        matrix[1, 1] = 1000
    plain[range(4, 10), range(4, 10)] = 10
    mirrored[range(4, 10), CELEBAMASK.mirrored[4:10]] = 10
    mirrored[4, 4] = 20 / 3  # of the eyes 3/4 are exchanged
    ears[[4, 5, 6, 7, 8, 9], [4, 5, 6, 7, 9, 8]] = 10, 10, 10, 10, 500, 500
    none[1, 1] = 1000
    none[4, 5] = 0.05  # too few pixels to vote
    shares = mirrored_shares(np.stack([plain, mirrored, ears, none]), CELEBAMASK)
    np.testing.assert_allclose(shares, [0, (3 / 4 + 2) / 3, 1 / 3, 0])


def test_only_masks_of_which_two_parts_are_exchanged_are_surely_mirrored() -> None:
    plain, mirrored, eyes_right, profile, two, ear = matrices = np.zeros((6, 19, 19))
    for matrix in matrices:
        matrix[1, 1] = 1000
    plain[range(4, 10), range(4, 10)] = 10
    mirrored[range(4, 10), CELEBAMASK.mirrored[4:10]] = 10
    mirrored[4, 4] = 9  # of the eyes 20 of 29 are exchanged
    eyes_right[[4, 5, 6, 7, 8, 9], [4, 5, 7, 6, 9, 8]] = 10
    profile[8, 9] = 500
    two[[6, 8], [7, 9]] = 10
    ear[[4, 6, 8], [5, 7, 8]] = 10, 10, 500
    assert surely_mirrored(matrices, CELEBAMASK).tolist() == [False, True, False, False, True, True]


def test_drawn_faces_with_left_and_right_exchanged_are_found() -> None:
    labels = [face(index) for index in range(12)]
    weights = [weighed(label, np.roll(label, 1, axis=1)) for label in labels]
    weights += [
        weighed(CELEBAMASK.mirrored[x].astype(np.uint8), np.roll(x, 1, axis=1)) for x in labels
    ]
    shares = mirrored_shares(np.stack(weights), CELEBAMASK)
    assert ((shares > MIRRORED_FROM) == np.repeat([False, True], 12)).all()
    assert (surely_mirrored(np.stack(weights), CELEBAMASK) == np.repeat([False, True], 12)).all()


def test_a_wrong_mask_is_more_suspicious_than_what_is_usually_wrong() -> None:
    labels = [face(index) for index in range(12)]
    predictions = [np.roll(label, 1, axis=1) for label in labels]  # every edge is a little wrong
    for prediction in predictions:
        prediction[prediction == 10] = 1  # never a mouth
    labels[3] = np.where(labels[3] == 13, 0, labels[3]).astype(np.uint8)  # no hair
    labels[5] = CELEBAMASK.mirrored[labels[5]].astype(np.uint8)  # must not count here
    predictions[7] = np.where(labels[7] == 13, 0, labels[7]).astype(np.uint8)
    confidence = [0.05 if index == 7 else 0.9 for index in range(12)]  # of 7 it is unsure
    weights = np.stack(list(map(weighed, labels, predictions, confidence)))
    confusions = np.stack(
        [count(*pair, 19).confusion for pair in zip(labels, predictions, strict=True)]
    )
    scores = mislabelled_scores(confusions, weights, CELEBAMASK)
    assert scores.argmax() == 3
    assert scores[7] < scores[3] * (0.05 / 0.9) ** 2  # as shortfalls are squared
    for matrices in (confusions, weights):
        matrices[5] = matrices[5][CELEBAMASK.mirrored]
    np.testing.assert_allclose(mislabelled_scores(confusions, weights, CELEBAMASK), scores)


def test_suspicion_by_hand() -> None:
    confusions = np.zeros((2, 19, 19), np.int64)
    confusions[0, 1, 1] = 100
    confusions[1, 1, 0], confusions[1, 0, 0] = 100, 300
    weights = confusions.astype(float)
    weights[1, 1, 0] = 50
    scores = mislabelled_scores(confusions, weights, CELEBAMASK)
    # Skin: usually 50 of 200 pixels count as wrong, in the second picture 50 of 100, which are
    # 1/4 of it. The first has no error; the background is wrong in the second only, as usual.
    assert scores.tolist() == pytest.approx([0, (150 / 200 - 50 / 100) ** 2 * (1 / 4) ** 0.5])
