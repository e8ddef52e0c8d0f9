"""From a trained model to label maps and scores."""

import math

import numpy as np
from keras import ops

from utils import metrics, models


def predict(model, image, tile=None):
    """Label every pixel of a photo, (H, W, 3) RGB in 0..255 of any size: uint8 (H, W) class ids.

    tile: None, or the side in pixels of the tiles in which to label a photo too large for memory;
    each sees as much around it as the network can, so the result is the same.
    """
    ids = np.empty(np.shape(image)[:2], np.uint8)
    for place, window, inner in windows(model, image, tile):
        ids[place] = logits(model, window)[inner].argmax(axis=2)
    return ids


def windows(model, image, tile=None):
    """Yield (place, window, inner) for each tile of a photo; the arguments are those of `predict`.

    place: slices of the photo. window: the photo there and around. inner: where the tile is in it.
    """
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"image has shape {image.shape}; expected (H, W, 3) RGB.")
    if tile is not None and tile < 1:
        raise ValueError(f"tile is {tile}; expected at least 1 pixel, or None for no tiles.")
    # Tiles start on the grid of cells. Upsampling by steps looks up to 48 pixels sideways, too.
    side = math.ceil((tile or max(image.shape)) / 32) * 32
    margin = math.ceil((models.receptive_field(model) // 2 + 48) / 32) * 32
    for y in range(0, image.shape[0], side):
        for x in range(0, image.shape[1], side):
            top, left = max(0, y - margin), max(0, x - margin)
            window = image[top:y + side + margin, left:x + side + margin]
            inner = np.s_[y - top:y - top + side, x - left:x - left + side]
            yield np.s_[y:y + side, x:x + side], window, inner


def logits(model, image):
    """Return float32 (H, W, C), the model's logits for one (H, W, 3) RGB photo in 0..255."""
    photos = np.asarray(image, np.float32)[None]
    if model.jit_compile:  # XLA, on GPUs and with JAX, would compile again for every size
        return ops.convert_to_numpy(model(photos, training=False))[0]
    return model.predict_on_batch(photos)[0]  # compiled once: several times as fast


def evaluate(model, dataset, split):
    """Return the confusion matrix, int64 (C, C), of a model on a split of a `Dataset`."""
    confusion = np.zeros((dataset.num_classes,) * 2, np.int64)
    for sample in dataset.split(split):
        image, mask = dataset.read(sample)
        confusion += metrics.confusion_matrix(mask, predict(model, image), dataset.num_classes)
    return confusion
