"""Scores and oracles, against counts by hand, scikit-learn, OpenCV, and slow exact loops."""

import warnings
from fractions import Fraction

import cv2
import numpy as np
import pytest
import sklearn.metrics

from utils.metrics import boundary_band, confusion_matrix, scores
from utils.oracles import bilinear_oracle, by_stride, majority_oracle

VOID = 255
TRUTH = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 2, 2], [0, 0, 2, 2]])
PREDICTION = np.array([[0, 0, 0, 1], [0, 0, 1, 1], [0, 0, 1, 2], [0, 0, 1, 2]])


def blobs(seed, height, width, num_classes, void=0.1):
    """A label map with patches rather than noise, and some void."""
    rng = np.random.default_rng(seed)
    cells = rng.integers(0, num_classes, (-(-height // 3), -(-width // 3)))
    mask = cells.repeat(3, axis=0).repeat(3, axis=1)[:height, :width].astype(np.uint8)
    noise = rng.random(mask.shape)
    mask[noise < 0.2] = rng.integers(0, num_classes, (noise < 0.2).sum())
    mask[noise > 1 - void] = VOID
    return mask


# Confusion matrix and scores


def test_scores_of_two_small_maps_counted_by_hand():
    confusion = confusion_matrix(TRUTH, PREDICTION, 3)
    assert confusion.dtype == np.int64
    assert confusion.tolist() == [[8, 0, 0], [1, 3, 0], [0, 2, 2]]
    result = scores(confusion)
    # intersection over union: 8 of 9 pixels, 3 of 6, 2 of 4
    assert result["iou"] == pytest.approx([8 / 9, 3 / 6, 2 / 4], abs=1e-15)
    assert result["pixel_accuracy"] == 13 / 16
    assert result["mean_accuracy"] == pytest.approx((8 / 8 + 3 / 4 + 2 / 4) / 3, abs=1e-15)
    assert result["mean_iou"] == pytest.approx((8 / 9 + 3 / 6 + 2 / 4) / 3, abs=1e-15)
    assert result["frequency_weighted_iou"] == pytest.approx(
        (8 * 8 / 9 + 4 * 3 / 6 + 4 * 2 / 4) / 16, abs=1e-15
    )
    assert [type(value) for name, value in result.items() if name != "iou"] == [float] * 4


def test_iou_runs_from_zero_to_one():
    perfect = scores(confusion_matrix(TRUTH, TRUTH, 3))
    assert [perfect[name] for name in perfect if name != "iou"] == [1.0] * 4
    apart = scores(confusion_matrix(TRUTH, (TRUTH + 1) % 3, 3))
    assert [apart[name] for name in apart if name != "iou"] == [0.0] * 4


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64, np.uint16])
def test_agrees_with_scikit_learn(dtype):
    truth, prediction = blobs(1, 40, 50, 7), blobs(2, 40, 50, 7, void=0)
    confusion = confusion_matrix(truth.astype(dtype), prediction.astype(dtype), 7)
    known = truth != VOID
    expected = sklearn.metrics.confusion_matrix(truth[known], prediction[known], labels=range(7))
    assert (confusion == expected).all()
    result = scores(confusion)
    iou = sklearn.metrics.jaccard_score(truth[known], prediction[known], average=None)
    weighted = sklearn.metrics.jaccard_score(truth[known], prediction[known], average="weighted")
    recall = sklearn.metrics.recall_score(truth[known], prediction[known], average="macro")
    assert result["iou"] == pytest.approx(iou, abs=1e-12)
    assert result["mean_iou"] == pytest.approx(iou.mean(), abs=1e-12)
    assert result["frequency_weighted_iou"] == pytest.approx(weighted, abs=1e-12)
    assert result["mean_accuracy"] == pytest.approx(recall, abs=1e-12)
    assert (result["pixel_accuracy"]
            == pytest.approx((truth[known] == prediction[known]).mean(), abs=1e-12))


def test_void_is_never_counted():
    truth, prediction = blobs(3, 30, 30, 4), blobs(4, 30, 30, 4, void=0)
    before = confusion_matrix(truth, prediction, 4)
    assert before.sum() == (truth != VOID).sum() < truth.size
    for anything in (0, 3, 200, VOID):
        prediction[truth == VOID] = anything
        assert (confusion_matrix(truth, prediction, 4) == before).all()


def test_another_void_can_be_named():
    assert confusion_matrix([0, 1, 11], [0, 1, 0], 2, void=11).tolist() == [[1, 0], [0, 1]]


def test_class_zero_counts_like_any_other():
    confusion = confusion_matrix(np.array([0, 0, 1]), np.array([0, 1, 1]), 2)
    assert confusion.tolist() == [[1, 1], [0, 1]]
    assert scores(confusion)["mean_iou"] == 0.5
    swapped = scores(confusion_matrix(np.array([1, 1, 0]), np.array([1, 0, 0]), 2))
    assert swapped["mean_iou"] == 0.5


def test_absent_classes_are_nan_and_left_out():
    result = scores(confusion_matrix(np.array([0, 0, 1, 1]), np.array([0, 0, 1, 0]), 5))
    assert result["iou"][:2] == pytest.approx([2 / 3, 1 / 2])
    assert np.isnan(result["iou"][2:]).all()
    assert result["mean_iou"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert result["mean_accuracy"] == pytest.approx((1 + 1 / 2) / 2)


def test_a_class_only_predicted_or_only_missed_scores_zero():
    only_predicted = scores(confusion_matrix(np.array([0, 0]), np.array([0, 1]), 3))
    assert only_predicted["iou"][:2].tolist() == [0.5, 0.0] and np.isnan(only_predicted["iou"][2])
    assert only_predicted["mean_iou"] == 0.25
    assert only_predicted["mean_accuracy"] == 0.5  # no pixel of class 1 to be right about
    only_missed = scores(confusion_matrix(np.array([0, 1]), np.array([0, 0]), 2))
    assert only_missed["iou"].tolist() == [0.5, 0.0] and only_missed["mean_accuracy"] == 0.5


@pytest.mark.parametrize("truth", [np.zeros((0, 4), np.uint8), np.full((3, 4), VOID, np.uint8)])
def test_without_pixels_every_score_is_nan_and_nothing_warns(truth):
    confusion = confusion_matrix(truth, truth, 3)
    assert confusion.shape == (3, 3) and confusion.sum() == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = scores(confusion)
    assert all(np.isnan(result[name]).all() for name in result)


def test_mean_iou_is_neither_the_mean_over_images_nor_weighted_by_pixels():
    first = confusion_matrix(np.array([0] * 90 + [1] * 10), np.array([0] * 90 + [0] * 10), 2)
    second = confusion_matrix(np.array([0] * 10 + [1] * 90), np.array([0] * 10 + [1] * 90), 2)
    together = scores(first + second)
    assert together["iou"] == pytest.approx([100 / 110, 90 / 100])
    assert together["mean_iou"] == pytest.approx((100 / 110 + 90 / 100) / 2)
    over_images = (scores(first)["mean_iou"] + scores(second)["mean_iou"]) / 2
    assert over_images == pytest.approx((0.45 + 1) / 2)
    lone = scores(first)
    assert (lone["frequency_weighted_iou"] == pytest.approx(0.81)
            and lone["mean_iou"] == pytest.approx(0.45))


@pytest.mark.parametrize(
    "truth, prediction, sentence",
    [
        (
            np.zeros((2, 3), int),
            np.zeros((3, 2), int),
            r"y_true has shape \(2, 3\), y_pred \(3, 2\)",
        ),
        (np.zeros(2), np.zeros(2, int), "y_true has dtype float64; expected integer class ids"),
        (
            np.zeros(2, int),
            np.zeros(2, np.float32),
            "y_pred has dtype float32; expected integer class ids .* argmax",
        ),
        (np.array([0, 3]), np.array([0, 0]),
         r"y_true holds labels \[3\]; expected 0 to 2, or 255 for void"),
        (np.array([0, -1]), np.array([0, 0]), r"y_true holds labels \[-1\]"),
        (np.array([0, 1]), np.array([7, 255]), r"y_pred holds labels \[7, 255\]; expected 0 to 2"),
    ],
)
def test_wrong_labels_are_refused_with_a_sentence(truth, prediction, sentence):
    with pytest.raises(ValueError, match=sentence):
        confusion_matrix(truth, prediction, 3)


@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 2, 2)])
def test_scores_wants_a_square(shape):
    with pytest.raises(ValueError, match=r"expected \(C, C\)"):
        scores(np.zeros(shape))


# Oracles


def slow_cells(mask, stride, num_classes):
    """Exact shares per cell, {(row, column): [C Fractions]}; void takes its neighbours'."""
    height, width = mask.shape
    rows, columns = -(-height // stride), -(-width // stride)
    cells = {}
    for row in range(rows):
        for column in range(columns):
            known = [
                int(i)
                for i in mask[row * stride:(row + 1) * stride,
                              column * stride:(column + 1) * stride].flat
                if i != VOID
            ]
            if known:
                cells[row,
                      column] = [Fraction(known.count(i), len(known)) for i in range(num_classes)]
    while cells and len(cells) < rows * columns:
        filled = {}
        for row in range(rows):
            for column in range(columns):
                near = [
                    cells[row + y, column + x]
                    for y in (-1, 0, 1)
                    for x in (-1, 0, 1)
                    if (row + y, column + x) in cells
                ]
                if (row, column) not in cells and near:
                    filled[row, column] = [
                        sum(share[i] for share in near) / len(near) for i in range(num_classes)
                    ]
        cells.update(filled)
    return cells


def slow_majority(mask, stride, num_classes):
    cells = slow_cells(mask, stride, num_classes)
    return np.array(
        [
            [
                cells[y // stride, x // stride].index(max(cells[y // stride, x // stride]))
                for x in range(mask.shape[1])
            ]
            for y in range(mask.shape[0])
        ]
    )


def slow_bilinear(mask, stride, num_classes):
    cells = slow_cells(mask, stride, num_classes)
    rows, columns = -(-mask.shape[0] // stride), -(-mask.shape[1] // stride)

    def neighbours(pixel, count):
        at = (Fraction(2 * pixel + 1, 2) - Fraction(stride, 2)) / stride
        at = min(max(at, Fraction(0)), Fraction(count - 1))
        low = int(at)
        return [(low, 1 - (at - low)), (min(low + 1, count - 1), at - low)]

    ids = np.zeros(mask.shape, int)
    for y in range(mask.shape[0]):
        for x in range(mask.shape[1]):
            total = [
                sum(
                    wy * wx * cells[row, column][i]
                    for row, wy in neighbours(y, rows)
                    for column, wx in neighbours(x, columns)
                )
                for i in range(num_classes)
            ]
            ids[y, x] = total.index(max(total))
    return ids


SIZES = [(16, 24, 4), (13, 17, 4), (1, 1, 32), (31, 9, 8), (5, 40, 16), (12, 12, 3)]


@pytest.mark.parametrize("height, width, stride", SIZES)
@pytest.mark.parametrize("oracle, slow",
                         [(majority_oracle, slow_majority), (bilinear_oracle, slow_bilinear)])
def test_oracles_equal_slow_loops_over_exact_fractions(oracle, slow, height, width, stride):
    for seed in range(3):
        mask = blobs(seed, height, width, 3, void=0.4)
        mask[0, 0] = 1
        mask[:stride, stride:2 * stride] = VOID
        mask[stride:3 * stride, :stride] = VOID
        result = oracle(mask, stride, 3)
        assert result.dtype == np.uint8 and result.shape == mask.shape
        assert (result == slow(mask, stride, 3)).all()


@pytest.mark.parametrize("oracle", [majority_oracle, bilinear_oracle])
def test_ties_go_to_the_lower_id(oracle):
    assert (oracle(np.array([[3, 1], [1, 3]]), 2, 4) == 1).all()
    assert (oracle(np.array([[2, 0], [0, 2]]), 2, 3) == 0).all()


@pytest.mark.parametrize("oracle, lower", [(majority_oracle, 16), (bilinear_oracle, 8)])
def test_cells_of_void_take_their_neighbours_class(oracle, lower):
    mask = np.full((4, 12), VOID)
    mask[:, :4] = 2
    assert (oracle(mask, 4, 3) == 2).all()
    mask[:, 8:] = 1
    # Between the two the cell is a tie: all of it the lower id, or the half that lies nearer.
    assert (oracle(mask, 4, 3)[:, 4:8] == 1).sum() == lower
    assert VOID not in oracle(mask, 4, 3)


@pytest.mark.parametrize("oracle", [majority_oracle, bilinear_oracle])
def test_void_inside_a_cell_does_not_vote(oracle):
    mask = np.full((4, 4), VOID)
    mask[0, 0] = 1
    assert (oracle(mask, 4, 3) == 1).all()
    assert oracle(np.full((5, 5), VOID), 4, 3).shape == (5, 5)


@pytest.mark.parametrize("oracle", [majority_oracle, bilinear_oracle])
def test_stride_one_gives_the_mask_back(oracle):
    mask = blobs(5, 9, 14, 6, void=0)
    assert (oracle(mask, 1, 6) == mask).all()


@pytest.mark.parametrize("oracle", [majority_oracle, bilinear_oracle])
def test_oracles_refuse_ids_that_stand_for_no_class(oracle):
    with pytest.raises(ValueError, match=r"mask holds labels .*7\]; expected 0 to 2, or 255"):
        oracle(np.array([[0, 7]]), 2, 3)


def test_oracles_upsample_as_opencv_does():
    stride, num_classes = 8, 4
    mask = blobs(6, 48, 64, num_classes, void=0)
    one_hot = np.eye(num_classes, dtype=np.float32)[mask]
    fractions = cv2.resize(one_hot, (8, 6), interpolation=cv2.INTER_AREA)
    smooth = cv2.resize(fractions, (64, 48), interpolation=cv2.INTER_LINEAR)
    best = np.sort(smooth, axis=2)
    clear = best[..., -1] - best[..., -2] > 1e-4
    assert clear.mean() > 0.95
    assert (bilinear_oracle(mask, stride, num_classes) == smooth.argmax(axis=2))[clear].all()
    blocks = cv2.resize(
        fractions.round(4).argmax(axis=2).astype(np.uint8), (64, 48),
        interpolation=cv2.INTER_NEAREST
    )
    assert (majority_oracle(mask, stride, num_classes) == blocks).all()


def test_what_strides_can_draw_is_counted_over_all_masks():
    masks = [blobs(1, 30, 50, 4), blobs(2, 64, 40, 4, void=0.3), np.zeros((16, 16), np.uint8)]
    found = by_stride(masks, 6)  # two classes in no mask
    assert list(found) == [32, 16, 8, 4, 2]
    for stride, drawn in found.items():
        confusion = sum(confusion_matrix(mask, bilinear_oracle(mask, stride, 6), 6)
                        for mask in masks)
        assert drawn == scores(confusion)["mean_iou"]


# Band around borders


@pytest.mark.parametrize("width", [1, 2, 3, 7, 100])
def test_boundary_band_equals_dilated_edges(width):
    mask = np.zeros((40, 53), np.uint8)
    cv2.circle(mask, (20, 18), 9, 2, -1)
    cv2.rectangle(mask, (35, 25), (52, 39), 1, -1)
    mask[:4, 45:] = VOID
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    edges = cv2.dilate(mask, cross) != cv2.erode(mask, cross)
    square = np.ones((2 * width - 1, 2 * width - 1), np.uint8)
    expected = cv2.dilate(edges.astype(np.uint8), square).astype(bool) & (mask != VOID)
    band = boundary_band(mask, width)
    assert band.dtype == bool and (band == expected).all()


def test_boundary_band_of_width_one_is_the_two_pixels_beside_a_border():
    assert boundary_band(np.array([[0, 0, 0, 1, 1, 1]]), 1).tolist() == [
        [False, False, True, True, False, False]
    ]
    assert (boundary_band(np.array([[0, 0, 255, 1, 1]]), 1).tolist()
            == [[False, True, False, True, False]])
    assert not boundary_band(np.ones((4, 4), int), 3).any()


@pytest.mark.parametrize("width", [0, -2])
def test_boundary_band_needs_a_width(width):
    with pytest.raises(ValueError, match=f"width is {width}; expected at least 1 pixel"):
        boundary_band(TRUTH, width)


@pytest.mark.parametrize("num_classes", [2, 255, 256, 257, 300])
def test_pairs_of_the_highest_labels_are_counted_however_many_classes(num_classes):
    last = num_classes - 1
    confusion = confusion_matrix(np.int64([last, last, 0]), np.int64([last, 0, last]),
                                 num_classes, void=-1)
    assert (confusion.sum() == 3
            and confusion[last, last] == confusion[last, 0] == confusion[0, last] == 1)
