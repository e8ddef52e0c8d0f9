"""What the truth becomes on a grid of cells: the best that scores of one cell at a time can do."""

import numpy as np

from utils.labels import VOID
from utils.metrics import confusion_matrix, scores


def by_stride(masks, num_classes, strides=(32, 16, 8, 4, 2), void=VOID):
    """Return stride -> mean IoU of `bilinear_oracle` over all masks: what a stride can draw."""
    confusion = {stride: np.zeros((num_classes, num_classes), np.int64) for stride in strides}
    for mask in masks:
        classes, ids = np.unique(mask, return_inverse=True)  # few of many classes: less to compute
        ids = np.where(mask == void, void, ids.reshape(mask.shape))
        for stride in strides:
            drawn = classes[bilinear_oracle(ids, stride, len(classes), void)]
            confusion[stride] += confusion_matrix(mask, drawn, num_classes, void)
    return {stride: scores(confusion[stride])["mean_iou"] for stride in strides}


def majority_oracle(mask, stride, num_classes, void=VOID):
    """Return the truth if each stride x stride cell is filled with its commonest class.

    mask: integers (H, W). Returns uint8 (H, W), never void. Ties go to the lower id, cells of void
    to their neighbours' class.
    """
    cells = _class_fractions(mask, stride, num_classes, void)
    ids = cells.argmax(axis=2).astype(np.uint8)
    height, width = np.shape(mask)
    return ids.repeat(stride, axis=0).repeat(stride, axis=1)[:height, :width]


def bilinear_oracle(mask, stride, num_classes, void=VOID):
    """Return the truth after a bottleneck of one vector of class fractions per cell.

    The fractions of each cell are upsampled bilinearly and the largest wins: an FCN's last two
    steps with perfect scores. A reference, not a strict bound: scores that are not fractions can
    draw finer shapes. Same arguments and result as `majority_oracle`.
    """
    cells = _class_fractions(mask, stride, num_classes, void)
    height, width = np.shape(mask)
    rows = _bilinear_weights(cells.shape[0], stride)[:height]
    columns = _bilinear_weights(cells.shape[1], stride)[:width]
    upsampled = columns @ (rows @ cells.reshape(len(cells), -1)).reshape(height, -1, num_classes)
    # Rounding keeps equal fractions equal, so that ties go to the lower id on every machine.
    return np.round(upsampled, 9, out=upsampled).argmax(axis=2).astype(np.uint8)


def _class_fractions(mask, stride, num_classes, void):
    """Return float64 (h, w, C): the share of each class among the non-void pixels of each cell."""
    mask = np.asarray(mask)
    known = mask[mask != void]
    if known.size and (known.min() < 0 or known.max() >= num_classes):
        raise ValueError(f"mask holds labels {np.unique(known)[-3:].tolist()}; expected 0 to "
                         f"{num_classes - 1}, or {void} for void.")
    rows, columns = (-(-side // stride) for side in mask.shape)
    labels = np.full((rows * stride, columns * stride), num_classes)  # void, and what fills cells
    labels[:mask.shape[0], :mask.shape[1]] = np.where(mask == void, num_classes, mask)
    cells = np.arange(rows * columns).reshape(rows, 1, columns, 1)
    pairs = cells * (num_classes + 1) + labels.reshape(rows, stride, columns, stride)
    counts = np.bincount(pairs.ravel(), minlength=rows * columns * (num_classes + 1))
    counts = counts.reshape(rows, columns, num_classes + 1)[..., :num_classes]
    total = counts.sum(axis=2, keepdims=True)
    return _fill_from_neighbours(counts / np.maximum(total, 1), total[..., 0] > 0)


def _fill_from_neighbours(values, known):
    """Give each unknown cell the mean of its known neighbours, ring after ring."""
    height, width = known.shape
    while known.any() and not known.all():
        # The last channel counts the known neighbours.
        cells = np.pad(np.dstack([values, np.ones(known.shape)]) * known[..., None],
                       ((1, 1), (1, 1), (0, 0)))
        total = sum(cells[y:y + height, x:x + width] for y in range(3) for x in range(3))
        reached = ~known & (total[..., -1] > 0)
        values[reached] = total[reached][:, :-1] / total[reached][:, -1:]
        known = known | reached
    return values


def _bilinear_weights(cells, stride):
    """Return float64 (cells * stride, cells): each row interpolates a pixel from cell centres."""
    position = (np.arange(cells * stride) + 0.5) / stride - 0.5
    position = position.clip(0, cells - 1)
    return np.maximum(0, 1 - np.abs(position[:, None] - np.arange(cells)))
