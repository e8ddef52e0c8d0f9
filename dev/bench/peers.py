"""What `dev.bench` measures this project against, rebuilt here from their descriptions.

- *older*: the tutorial that this one started from. VGG16, two 1x1x4096 layers and a ladder of five transposed
  convolutions, Adam 1e-3 on one-hot binary cross-entropy, photos squashed to 256x256, ten a step, decoded in each
  epoch anew, a one-hot IoU. (It was written in PyTorch; these are its layers in Keras.)
- *naive*: these notebooks with what one would write first: batch normalization after every convolution, with Keras'
  momentum, a fixed learning rate, Keras' own loss, float32, and every photo decoded in each epoch.
"""

import dataclasses

import cv2
import keras
import numpy as np
from keras import layers
from PIL import Image

from utils import models, pipeline
from utils.labels import VOID, ids_to_colors

SIDE = 256
BATCH = 10
MEAN, SPREAD = np.float32((0.485, 0.456, 0.406)), np.float32((0.229, 0.224, 0.225))


def older_pair(sample, data):
    """Return (float32 (256, 256, 3), float32 (256, 256, C)) of a sample of a `Dataset`: squashed, one-hot by colour."""
    photo = np.asarray(Image.open(sample[0]).convert("RGB").resize((SIDE, SIDE), Image.BILINEAR), np.float32) / 255
    mask = Image.open(sample[1])
    if mask.mode != "P":  # masks without colours
        mask = Image.fromarray(ids_to_colors(data.read(sample)[1], data.colors))
    mask = np.asarray(mask.convert("RGB").resize((SIDE, SIDE), Image.NEAREST))
    one_hot = np.stack([(mask == color).all(axis=2) for color in data.colors], axis=2)
    return (photo - MEAN) / SPREAD, one_hot.astype(np.float32)


def older_network(num_classes):
    """Return the older tutorial's network for 256x256 photos: logits at their size, per class and pixel."""
    x = images = keras.Input((SIDE, SIDE, 3))
    for widths in models.BACKBONES["vgg16"].convs:
        for width in widths:
            x = layers.Conv2D(width, 3, padding="same", activation="relu")(x)
        x = layers.MaxPooling2D(2)(x)
    for _ in range(2):
        x = layers.Dropout(0.5)(layers.Conv2D(4096, 1, activation="relu")(x))
    for width in (512, 256, 128, 64, 32):
        x = layers.Conv2DTranspose(width, 3, strides=2, padding="same", activation="relu")(x)
        x = layers.BatchNormalization()(x)
    model = keras.Model(images, layers.Conv2D(num_classes, 1)(x))
    model.compile(keras.optimizers.Adam(1e-3), keras.losses.BinaryCrossentropy(from_logits=True))
    return model


def older_scores(truth, prediction):
    """Return the frequency-weighted IoU of a batch from one-hot (B, H, W, C) arrays, class by class."""
    score = 0.0
    for c in range(truth.shape[3]):
        intersection = np.logical_and(truth[..., c], prediction[..., c]).sum()
        union = np.logical_or(truth[..., c], prediction[..., c]).sum()
        if union:
            score += truth[..., c].sum() / truth[..., 0].size * intersection / union
    return score


def squashed(image):
    """Return a photo as `older_network` wants it, float32 (256, 256, 3)."""
    return (cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR).astype(np.float32) / 255 - MEAN) / SPREAD


def network(backbone, num_classes, stride=32, precision="float32", **changes):
    """Return the FCN on one of the backbones with some of its fields changed, see `models.Backbone`."""
    models.BACKBONES["changed"] = dataclasses.replace(models.BACKBONES[backbone], **changes)
    try:
        return models.fcn(num_classes, stride, "changed", precision=precision)
    finally:
        del models.BACKBONES["changed"]


def naive_network(num_classes, stride=32):
    """Return the small network with batch normalization after every convolution, compiled with Keras' own choices."""
    model = network("vgg_small", num_classes, stride, normalized=1)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.99
    model.compile(keras.optimizers.Adam(1e-3),
                  keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=VOID))
    return model


class UncachedPairs(pipeline.DecodedPairs):
    """A split whose photos and masks are read from their files whenever they are asked for."""

    def __init__(self, samples, read):
        self._samples, self._read_one = samples, read

    def __len__(self):
        return len(self._samples)

    def __getitem__(self, i):
        return self._read_one(self._samples[i])
