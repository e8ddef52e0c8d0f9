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


def majority_oracle(mask, stride, num_classes, void=VOID):
    """Return what the truth becomes on a grid of `stride`: each cell filled with its commonest class.

    mask: integers (H, W), any size. Returns uint8 (H, W), never void. Ties go to the lower id; a cell
    of nothing but void takes its neighbours' class. This is how well a network that says one class
    per cell could do.
    """
    cells = _class_fractions(mask, stride, num_classes, void)
    ids = cells.argmax(axis=2).astype(np.uint8)
    height, width = np.shape(mask)
    return ids.repeat(stride, axis=0).repeat(stride, axis=1)[:height, :width]


def bilinear_oracle(mask, stride, num_classes, void=VOID):
    """Return the truth after a bottleneck of one vector of class fractions per cell.

    The fraction of each class is taken in every stride x stride cell, upsampled bilinearly (cell
    centres half a cell from the border, border values held) and the largest wins: what an FCN's
    last two steps would do with perfect scores. A reference, not a strict bound: scores that are not
    fractions can bring out finer shapes. Same arguments and result as `majority_oracle`.
    """
    cells = _class_fractions(mask, stride, num_classes, void)
    height, width = np.shape(mask)
    rows = _bilinear_weights(cells.shape[0], stride)[:height]
    columns = _bilinear_weights(cells.shape[1], stride)[:width]
    upsampled = columns @ (rows @ cells.reshape(len(cells), -1)).reshape(height, -1, num_classes)
    # Rounding keeps equal fractions equal, so that ties go to the lower id on every machine.
    return np.round(upsampled, 9, out=upsampled).argmax(axis=2).astype(np.uint8)


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


def _class_fractions(mask, stride, num_classes, void):
    """Return float64 (h, w, C): the share of each class among the non-void pixels of each cell."""
    mask = np.asarray(mask)
    known = mask[mask != void]
    if known.size and (known.min() < 0 or known.max() >= num_classes):
        raise ValueError(f"mask holds labels {np.unique(known)[-3:].tolist()}; expected 0 to {num_classes - 1}, "
                         f"or {void} for void.")
    rows, columns = (-(-side // stride) for side in mask.shape)
    labels = np.full((rows * stride, columns * stride), num_classes)  # void, and what pads the last cells
    labels[:mask.shape[0], :mask.shape[1]] = np.where(mask == void, num_classes, mask)
    cells = np.arange(rows * columns).reshape(rows, 1, columns, 1)
    pairs = cells * (num_classes + 1) + labels.reshape(rows, stride, columns, stride)
    counts = np.bincount(pairs.ravel(), minlength=rows * columns * (num_classes + 1))
    counts = counts.reshape(rows, columns, num_classes + 1)[..., :num_classes]
    total = counts.sum(axis=2, keepdims=True)
    fractions = counts / np.maximum(total, 1)
    return _fill_from_neighbours(fractions, total[..., 0] > 0)


def _fill_from_neighbours(values, known):
    """Give each unknown cell the mean of its known neighbours, ring after ring."""
    values, known = values.copy(), known.copy()
    while known.any() and not known.all():
        padded_known = np.pad(known, 1)
        padded_values = np.pad(values * known[..., None], ((1, 1), (1, 1), (0, 0)))
        height, width = known.shape
        windows = [(slice(y, y + height), slice(x, x + width)) for y in range(3) for x in range(3)]
        neighbours = sum(padded_known[window].astype(int) for window in windows)
        total = sum(padded_values[window] for window in windows)
        reached = ~known & (neighbours > 0)
        values[reached] = total[reached] / neighbours[reached][:, None]
        known |= reached
    return values


def _bilinear_weights(cells, stride):
    """Return float64 (cells * stride, cells): each row interpolates one pixel from the cell centres."""
    position = (np.arange(cells * stride) + 0.5) / stride - 0.5
    position = position.clip(0, cells - 1)
    return np.maximum(0, 1 - np.abs(position[:, None] - np.arange(cells)))


def _spread(near, steps, axis):
    """Let True spread `steps` cells both ways along `axis`."""
    near = np.moveaxis(near, axis, 0)
    spread = near.copy()
    for step in range(1, min(steps, len(near) - 1) + 1):
        spread[step:] |= near[:-step]
        spread[:-step] |= near[step:]
    return np.moveaxis(spread, 0, axis)
