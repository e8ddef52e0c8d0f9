"""From files to batches: decode each pair once, then crop, zoom, flip and recolour it."""

import contextlib
import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import cv2
import keras
import numpy as np
import tensorflow as tf

from utils.images import THREADS, bullets, read_image, read_mask
from utils.labels import VOID

# Pixels from outside the photo: ImageNet's mean colour, which the models turn into zero.
FILL = (124, 117, 104)
BATCH_PIXELS = 2 ** 22  # of whole photos: a network keeps some hundred bytes for each of them
MEMORY = 2 * 2 ** 30  # bytes of decoded pairs: train and val fit in 8 GB


def read_pair(sample):
    """Return uint8 (H, W, 3) and (H, W) of a (photo path, mask path), unchecked."""
    return read_image(sample[0]), read_mask(sample[1])


class DecodedPairs:
    """The photos and masks of a split, decoded once; beyond `memory_limit` bytes, each time.

    samples: list of (photo path, mask path). read: function from a sample to (uint8 (H, W, 3),
    uint8 (H, W)), like `pairs[i]`. split: its name, to refuse masks that are all void. ValueError
    lists every faulty file.
    """

    def __init__(self, samples, read=read_pair, split="", memory_limit=MEMORY):
        self._samples, self._read = samples, read
        self._free, self._lock, reported = memory_limit, threading.Lock(), time.monotonic()
        self._pairs, self.shapes, faults = [], set(), []
        with ThreadPoolExecutor(THREADS) as pool:
            for pair, fault in pool.map(self._decode, samples):
                self._pairs.append(pair)
                faults += [fault] if fault else []
                if time.monotonic() - reported > 10:
                    reported = time.monotonic()
                    print(f"decoding: {len(self)} of {len(samples)} photos", flush=True)
        if faults:
            raise ValueError(f"{len(faults)} of {len(samples)} pairs cannot be used:"
                             f"{bullets(faults)}")
        if not self._pairs:
            raise ValueError("there are no samples: the split is empty.")
        if split and all((mask == VOID).all() for _, mask in self):
            raise ValueError(f"split {split}: every pixel of its {len(self)} masks is void, such as"
                             f" in {samples[0][1]}; expected ids of classes.")

    def __len__(self):
        return len(self._pairs)

    def __getitem__(self, i):
        return self._pairs[i] or self._read(self._samples[i])

    def _decode(self, sample):
        """Return (the pair, or None if memory is full or it is faulty; what is wrong, or "")."""
        try:
            image, mask = self._read(sample)
        except (OSError, ValueError) as error:
            return None, str(error)
        with self._lock:
            self.shapes.add(mask.shape)
            self._free -= image.nbytes + mask.nbytes
            return ((image, mask) if self._free >= 0 else None), ""


def batches(samples, *, image_size, batch_size, augment=False, shuffle=False, seed=0,
            read=read_pair, scale=(0.75, 1.5), epochs=1, first_epoch=0, multiple_of=1, share=None):
    """Return a `tf.data.Dataset` of crops: (float32 (B, S, S, 3) RGB in 0..255, uint8 (B, S, S)).

    samples: list of (photo path, mask path), or `DecodedPairs`. image_size: S. augment: random
    crops, see `crop`. shuffle: a new order each epoch. Both depend on (seed, epoch, sample) alone:
    epochs from `first_epoch` on equal those of an unbroken run. multiple_of: number of devices, see
    `fill`. share: which sample numbers of a batch to load here. Raises ValueError for faulty files.
    """
    if image_size < 1 or batch_size < 1 or batch_size % multiple_of:
        raise ValueError(f"image_size is {image_size} and batch_size is {batch_size}; expected at "
                         f"least 1, and batches that {multiple_of} devices can share.")
    pairs = samples if isinstance(samples, DecodedPairs) else DecodedPairs(samples, read)

    def orders():
        for epoch in range(first_epoch, first_epoch + epochs):
            order = np.arange(len(pairs))
            if shuffle:
                order = np.random.default_rng((seed, epoch)).permutation(len(pairs))
            for start in range(0, len(pairs), batch_size):
                yield epoch, order[start:start + batch_size]

    def cut(epoch, i):
        rng = np.random.default_rng((seed, epoch, i)) if augment else None
        return crop(*pairs[i], image_size, rng, scale)

    return _dataset(orders, cut, (image_size, image_size), batch_size, multiple_of, share)


def whole_images(samples, batch_size=1, read=read_pair, multiple_of=1, share=None):
    """Return a `tf.data.Dataset` of whole photos: (float32 (B, H, W, 3), uint8 (B, H, W)).

    Photos of several sizes come one by one; of one size, `batch_size` together if they have at most
    `BATCH_PIXELS`. The other arguments are those of `batches`.
    """
    pairs = samples if isinstance(samples, DecodedPairs) else DecodedPairs(samples, read)
    size, shape = 1, (None, None)
    if len(pairs.shapes) == 1:
        shape, = pairs.shapes
        size = max(1, min(batch_size, BATCH_PIXELS // math.prod(shape)))

    def orders():
        for start in range(0, len(pairs), size):
            yield 0, np.arange(start, min(start + size, len(pairs)))

    return _dataset(orders, lambda epoch, i: pairs[i], shape, size, multiple_of, share)


def fill(order, multiple_of, batch_size):
    """Repeat sample numbers of a batch until `multiple_of` devices can divide it evenly.

    Returns (integer (B,) numbers, bool (B,): which are repeated). Repeated masks become void, so
    that they do not count. Batch normalization sees all equally often, if `batch_size` allows it.
    """
    size = math.lcm(len(order), multiple_of)
    if size > batch_size:
        size = math.ceil(len(order) / multiple_of) * multiple_of
    return np.resize(order, size), np.arange(size) >= len(order)


def crop(image, mask, size, rng=None, scale=(0.75, 1.5)):
    """Cut one square out of a photo and its mask with a single affine map.

    image: uint8 (H, W, 3). mask: uint8 (H, W). rng: `numpy.random.Generator` for a random place,
    zoom within `scale`, turn of up to 10 degrees, mirroring and colours; None for the centre as it
    is. The photo is interpolated, the mask takes the nearest pixel, and void outside the photo.
    """
    height, width = mask.shape
    zoom, angle, flip = 1.0, 0.0, 1.0
    center = np.array([(width - 1) / 2, (height - 1) / 2])
    if rng is None:
        # A whole number of pixels, so that nothing is interpolated.
        center = np.floor(center - (size - 1) / 2) + (size - 1) / 2
    else:
        zoom = np.exp(rng.uniform(*np.log(scale)))
        angle = rng.uniform(-10, 10)
        flip = rng.choice((-1.0, 1.0))
        room = np.abs(np.array([width, height]) - size / zoom) / 2
        center += rng.uniform(-room, room)
    matrix = cv2.getRotationMatrix2D(center.tolist(), angle, zoom)
    matrix[:, 2] += (size - 1) / 2 - center
    matrix[0] = flip * matrix[0] + [0, 0, (size - 1) * (flip < 0)]
    image = cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_LINEAR,
                           borderMode=cv2.BORDER_CONSTANT, borderValue=FILL)
    mask = cv2.warpAffine(mask, matrix, (size, size), flags=cv2.INTER_NEAREST,
                          borderMode=cv2.BORDER_CONSTANT, borderValue=VOID)
    return (image if rng is None else _recolor(image, rng)), mask


def _recolor(image, rng):
    """Change contrast, brightness and colour cast a little, by a table of 256 values a channel."""
    contrast, brightness = rng.uniform(0.75, 1.25), rng.uniform(-25, 25)
    cast = rng.uniform(0.9, 1.1, 3)
    table = (np.arange(256)[:, None] - 128) * contrast * cast + 128 + brightness
    return cv2.LUT(image, table.round().clip(0, 255).astype(np.uint8)[None])


def _dataset(orders, cut, shape, batch_size, multiple_of, share):
    """Turn (epoch, sample numbers) into batches, a few of them ahead of the training step."""
    if keras.backend.backend() != "tensorflow":
        with contextlib.suppress(RuntimeError):  # TensorFlow has begun to compute: too late
            tf.config.set_visible_devices([], "GPU")  # it would take the other backend's memory

    def parts():
        for epoch, order in orders():
            numbers, copies = fill(order, multiple_of, batch_size)
            yield (epoch, share(numbers), share(copies)) if share else (epoch, numbers, copies)

    def make(epoch, numbers, copies):
        images, masks = map(np.stack, zip(*(cut(epoch, i) for i in numbers)))
        masks[copies] = VOID
        return images, masks

    def load(*part):
        images, masks = tf.numpy_function(make, part, (tf.uint8, tf.uint8))
        images = tf.cast(tf.ensure_shape(images, (None, *shape, 3)), tf.float32)
        return images, tf.ensure_shape(masks, (None, *shape))

    signature = (tf.TensorSpec((), tf.int64), tf.TensorSpec((None,), tf.int64),
                 tf.TensorSpec((None,), tf.bool))
    dataset = tf.data.Dataset.from_generator(parts, output_signature=signature)
    dataset = dataset.map(load, num_parallel_calls=2).prefetch(2)
    count = sum(1 for _ in parts())
    return dataset.apply(tf.data.experimental.assert_cardinality(count))
