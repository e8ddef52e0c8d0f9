"""Scores of a segmentation, from one confusion matrix for the whole data set.

Everything here is numpy and counts pixels, so a score computed today equals the one computed next
year. Void pixels (255 in the truth) are never counted.
"""

import numpy as np

from utils.labels import VOID


def confusion_matrix(y_true, y_pred, num_classes, void=VOID):
    """Count how often each class of the truth was given each class by the prediction.

    y_true, y_pred: integer arrays of equal shape, any number of dimensions. Pixels whose truth is
    `void` are left out. Returns int64 (C, C): `confusion[i, j]` is the number of pixels of class i
    that were labelled j. Add the matrices of all images, then call `scores` once.
    Raises ValueError for shapes that differ, for arrays that are not integers, and for labels
    outside 0..C-1 in the truth (other than void) or in the prediction where the truth is not void.
    """
    y_true, y_pred = np.asarray(y_true), np.asarray(y_pred)
    if y_true.shape != y_pred.shape:
        raise ValueError(f"y_true has shape {y_true.shape}, y_pred {y_pred.shape}; they must be equal.")
    for name, array in (("y_true", y_true), ("y_pred", y_pred)):
        if array.dtype.kind not in "iub":
            raise ValueError(f"{name} has dtype {array.dtype}; expected integer class ids "
                             "(for logits or probabilities take the argmax over the classes first).")
    counted = y_true != void
    truth, prediction = y_true[counted], y_pred[counted]
    for name, labels in (("y_true", truth), ("y_pred", prediction)):
        if labels.size and (labels.min() < 0 or labels.max() >= num_classes):
            strange = np.unique(labels[(labels < 0) | (labels >= num_classes)])[:5].tolist()
            raise ValueError(f"{name} holds labels {strange}; expected 0 to {num_classes - 1}, or {void} for void.")
    # Two bytes hold the pairs of up to 256 classes: less memory to move.
    small = np.uint16 if num_classes <= 256 else np.int64
    pairs = np.bincount(truth.astype(small) * small(num_classes) + prediction.astype(small),
                        minlength=num_classes ** 2)
    return pairs.reshape(num_classes, num_classes)


def scores(confusion):
    """Return the four scores of the FCN paper and the IoU of each class.

    confusion: (C, C) pixel counts, rows are truth. With n_ij pixels of class i labelled j and
    t_i = sum_j n_ij (Long, Shelhamer & Darrell 2015, section 5):

    - pixel_accuracy: sum_i n_ii / sum_i t_i
    - mean_accuracy: mean over classes of n_ii / t_i
    - iou (C,): n_ii / (t_i + sum_j n_ji - n_ii), from 0 (no overlap) to 1 (perfect)
    - mean_iou: mean of iou over classes
    - frequency_weighted_iou: sum_i t_i iou_i / sum_i t_i

    A class in neither truth nor prediction has IoU NaN and is left out of the mean; a class that is
    not in the truth has no accuracy. Without any pixel every score is NaN.
    Raises ValueError if `confusion` is not square.
    """
    confusion = np.asarray(confusion, np.float64)
    if confusion.ndim != 2 or confusion.shape[0] != confusion.shape[1]:
        raise ValueError(f"confusion has shape {confusion.shape}; expected (C, C).")
    correct = np.diag(confusion)
    truth, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        accuracy = correct / truth
        iou = correct / (truth + predicted - correct)
        pixel_accuracy = correct.sum() / truth.sum()
        frequency_weighted_iou = (truth * np.nan_to_num(iou)).sum() / truth.sum()
    return {
        "pixel_accuracy": float(pixel_accuracy),
        "mean_accuracy": _mean_of_defined(accuracy),
        "mean_iou": _mean_of_defined(iou),
        "frequency_weighted_iou": float(frequency_weighted_iou),
        "iou": iou,
    }


def boundary_band(mask, width, void=VOID):
    """Return where the truth changes within `width` pixels: bool (H, W), False on void.

    mask: integers (H, W). width: at least 1, in pixels, measured along rows, columns and diagonals
    (Chebyshev distance); with width 1 the two pixels on either side of a border belong to the band.
    Void counts as a label of its own, because data sets draw it along object contours. The "trimap"
    of Kohli, Ladicky & Torr 2009 and Krahenbuhl & Koltun 2011.
    """
    if width < 1:
        raise ValueError(f"width is {width}; expected at least 1 pixel.")
    mask = np.asarray(mask)
    near = np.zeros(mask.shape, bool)
    across = mask[:, 1:] != mask[:, :-1]
    down = mask[1:] != mask[:-1]
    near[:, 1:] |= across
    near[:, :-1] |= across
    near[1:] |= down
    near[:-1] |= down
    for axis in (0, 1):
        near = _spread(near, width - 1, axis)
    return near & (mask != void)


def _mean_of_defined(values):
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")


def _spread(near, steps, axis):
    """Let True spread `steps` cells both ways along `axis`."""
    near = np.moveaxis(near, axis, 0)
    spread = near.copy()
    for step in range(1, min(steps, len(near) - 1) + 1):
        spread[step:] |= near[:-step]
        spread[:-step] |= near[step:]
    return np.moveaxis(spread, 0, axis)
