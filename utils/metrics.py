"""Scores of a segmentation, from one confusion matrix for the whole data set.

Void pixels (255 in the truth) are never counted.
"""

import numpy as np

from utils.labels import VOID


def confusion_matrix(y_true, y_pred, num_classes, void=VOID):
    """Count how often each class of the truth was given each class by the prediction.

    y_true, y_pred: integer arrays of equal shape. Returns int64 (C, C): `confusion[i, j]` pixels
    of class i are labelled j. Add the matrices of all images, then call `scores` once. Raises
    ValueError for other shapes and dtypes, and for labels outside 0..C-1 that are not void.
    """
    y_true, y_pred = np.asarray(y_true), np.asarray(y_pred)
    if y_true.shape != y_pred.shape:
        raise ValueError(f"y_true has shape {y_true.shape}, y_pred {y_pred.shape}; not equal.")
    for name, array in (("y_true", y_true), ("y_pred", y_pred)):
        if array.dtype.kind not in "iub":
            raise ValueError(f"{name} has dtype {array.dtype}; expected integer class ids (of "
                             "logits or probabilities take the argmax over the classes first).")
    counted = y_true != void
    truth, prediction = y_true[counted], y_pred[counted]
    for name, labels in (("y_true", truth), ("y_pred", prediction)):
        if labels.size and (labels.min() < 0 or labels.max() >= num_classes):
            unknown = np.unique(labels[(labels < 0) | (labels >= num_classes)])[:5].tolist()
            raise ValueError(f"{name} holds labels {unknown}; expected 0 to {num_classes - 1}, or "
                             f"{void} for void.")
    # Two bytes hold the pairs of up to 256 classes: less memory to move.
    small = np.uint16 if num_classes <= 256 else np.int64
    pairs = truth.astype(small) * small(num_classes) + prediction.astype(small)
    return np.bincount(pairs, minlength=num_classes ** 2).reshape(num_classes, num_classes)


def scores(confusion):
    """Return the four scores of the FCN paper and the IoU of each class, from (C, C) counts.

    With n_ij pixels of class i labelled j and t_i = sum_j n_ij (Long et al. 2015, section 5):
    pixel_accuracy sum_i n_ii / sum_i t_i; mean_accuracy mean of n_ii / t_i; iou, float64 (C,),
    n_ii / (t_i + sum_j n_ji - n_ii); mean_iou its mean; frequency_weighted_iou sum_i t_i iou_i /
    sum_i t_i. Means leave out absent classes, whose iou is NaN.
    """
    confusion = np.asarray(confusion, np.float64)
    if confusion.ndim != 2 or confusion.shape[0] != confusion.shape[1]:
        raise ValueError(f"confusion has shape {confusion.shape}; expected (C, C).")
    correct = np.diag(confusion)
    truth, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        iou = correct / (truth + predicted - correct)
        return {"pixel_accuracy": float(correct.sum() / truth.sum()),
                "mean_accuracy": _mean_of_defined(correct / truth),
                "mean_iou": _mean_of_defined(iou),
                "frequency_weighted_iou": float((truth * np.nan_to_num(iou)).sum() / truth.sum()),
                "iou": iou}


def boundary_band(mask, width, void=VOID):
    """Return where the truth changes within `width` pixels: bool (H, W), False on void.

    mask: integers (H, W). width: at least 1, in rows, columns or diagonals; with 1, the two pixels
    at a border. A border to void counts. The "trimap" of Kohli, Ladicky & Torr 2009.
    """
    if width < 1:
        raise ValueError(f"width is {width}; expected at least 1 pixel.")
    mask = np.asarray(mask)
    near = np.zeros(mask.shape, bool)
    for axis in (0, 1):
        along, labels = near.swapaxes(0, axis), mask.swapaxes(0, axis)
        changes = labels[1:] != labels[:-1]
        along[1:] |= changes
        along[:-1] |= changes
    for axis in (0, 1):
        along = near.swapaxes(0, axis)
        before = along.copy()
        for step in range(1, min(width, len(along))):
            along[step:] |= before[:-step]
            along[:-step] |= before[step:]
    return near & (mask != void)


def _mean_of_defined(values):
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")
