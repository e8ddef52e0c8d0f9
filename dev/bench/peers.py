"""What `dev.bench` compares this project with, rebuilt here from descriptions.

- *older*: the tutorial that this one started from: photos squashed to 256x256 and decoded again in
  each epoch, one-hot masks by colour, a one-hot IoU.
- *naive*: what one would write first: batch normalization after every convolution, with Keras'
  momentum, a fixed learning rate, Keras' own loss, float32.
"""

import dataclasses

import keras
import numpy as np
from keras import layers
from PIL import Image

from utils import models
from utils.labels import VOID, ids_to_colors

SIDE = 256
MEAN, SPREAD = np.float32((0.485, 0.456, 0.406)), np.float32((0.229, 0.224, 0.225))


def older_pair(sample, data):
    """Return (float32 (256, 256, 3), float32 (256, 256, C)): a sample squashed, one-hot."""
    size = (SIDE, SIDE)
    photo = Image.open(sample[0]).convert("RGB").resize(size, Image.BILINEAR)
    mask = Image.open(sample[1])
    if mask.mode != "P":  # masks without colours
        mask = Image.fromarray(ids_to_colors(data.read(sample)[1], data.colors))
    mask = np.asarray(mask.convert("RGB").resize(size, Image.NEAREST))
    one_hot = np.stack([(mask == color).all(axis=2) for color in data.colors], axis=2)
    return (np.asarray(photo, np.float32) / 255 - MEAN) / SPREAD, one_hot.astype(np.float32)


def older_scores(truth, prediction):
    """Return the frequency-weighted IoU of a batch from one-hot (B, H, W, C) arrays, class by class."""
    score = 0.0
    for c in range(truth.shape[3]):
        intersection = np.logical_and(truth[..., c], prediction[..., c]).sum()
        union = np.logical_or(truth[..., c], prediction[..., c]).sum()
        if union:
            score += truth[..., c].sum() / truth[..., 0].size * intersection / union
    return score


def network(backbone, num_classes, stride=32, precision="float32", **changes):
    """Return the FCN on one of the backbones with some of its fields changed, see `models.Backbone`."""
    models.BACKBONES["changed"] = dataclasses.replace(models.BACKBONES[backbone], **changes)
    try:
        return models.fcn(num_classes, stride, "changed", precision=precision)
    finally:
        del models.BACKBONES["changed"]


def naive_network(num_classes, stride=32):
    """Return the small network, normalized after every convolution, compiled as Keras does."""
    model = network("vgg_small", num_classes, stride, normalized=1)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.99
    model.compile(keras.optimizers.Adam(1e-3),
                  keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=VOID))
    return model
