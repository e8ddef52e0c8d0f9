"""From files to batches: decode each pair once, then crop, zoom, flip and colour photo and mask together."""

import contextlib
import math
import os
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import keras
import numpy as np
import tensorflow as tf

from utils import progress
from utils.images import THREADS, read_image, read_mask
from utils.labels import VOID

# Pixels from outside the photo: ImageNet's mean colour, which the models turn into zero.
FILL = (124, 117, 104)
BATCH_PIXELS = 2 ** 22  # of whole photos: a network keeps some hundred bytes for each of their pixels


def read_pair(sample):
    """Return (uint8 (H, W, 3), uint8 (H, W)) of a (photo path, mask path); see `Dataset.read` for more checks."""
    return read_image(sample[0]), read_mask(sample[1])


class DecodedPairs:
    """The photos and masks of a split, decoded once: in memory while they fit comfortably, else on disk.

    samples: list of (photo path, mask path). read: function from a sample to (uint8 (H, W, 3), uint8
    (H, W)), such as a data set's `read`. split: its name, where masks that are all void are to be refused.
    memory_limit: bytes; by default a quarter of the machine's.
    `pairs[i]` is a pair, not to be written to; `len(pairs)` their number. What takes long reports its progress.
    Raises ValueError that lists every faulty file, OSError where the disk has no room.
    """

    def __init__(self, samples, read=read_pair, split="", memory_limit=None):
        self._limit = _memory() // 4 if memory_limit is None else memory_limit
        self._lock, self._used, self._file = threading.Lock(), 0, None
        self._pairs, faults = [], []
        report = progress.bar("decoding photos and masks", delay=3.0)
        with ThreadPoolExecutor(THREADS) as pool:
            for kept, fault in pool.map(lambda sample: self._decode(read, sample), samples):
                self._pairs.append(kept)
                faults += [fault] if fault else []
                report(len(self._pairs), len(samples))
        if faults:
            listed = "\n  ".join(faults[:20]) + (f"\n  and {len(faults) - 20} more" if len(faults) > 20 else "")
            raise ValueError(f"{len(faults)} of {len(samples)} pairs cannot be used:\n  {listed}")
        if not self._pairs:
            raise ValueError("there are no samples: the split is empty.")
        if split and all((mask == VOID).all() for _, mask in self):
            raise ValueError(f"split {split}: every pixel of its {len(self)} masks is void ({VOID}); expected "
                             f"ids of classes. Is {samples[0][1]} drawn as it should be?")

    def __len__(self):
        return len(self._pairs)

    def __getitem__(self, i):
        first, second = self._pairs[i]
        if isinstance(first, np.ndarray):
            return first, second
        place, (height, width) = first, second
        # A map of its own for each access: what a crop does not touch is not read, and nothing stays in memory.
        pixels = np.asarray(np.memmap(self._file, np.uint8, "r", place, (4 * height * width,)))
        image, mask = np.split(pixels, [3 * height * width])
        return image.reshape(height, width, 3), mask.reshape(height, width)

    def _decode(self, read, sample):
        try:
            image, mask = read(sample)
        except (OSError, ValueError) as error:
            return None, str(error)
        return self._keep(image, mask), None

    def _keep(self, image, mask):
        """Return the pair itself, or (place in the file, mask shape) after writing it there."""
        with self._lock:
            self._used += image.nbytes + mask.nbytes
            if self._used <= self._limit:
                return image, mask
            # /tmp is memory on many systems, /var/tmp is not. The file has no name: it goes however the process ends.
            folder = os.environ.get("TMPDIR") or ("/var/tmp" if os.access("/var/tmp", os.W_OK) else None)
            try:
                self._file = self._file or tempfile.TemporaryFile(dir=folder)
                place = self._file.seek(0, os.SEEK_END)
                self._file.write(np.ascontiguousarray(image))
                self._file.write(np.ascontiguousarray(mask))
                self._file.flush()
            except OSError as error:
                raise OSError(f"{folder or tempfile.gettempdir()} cannot hold the decoded photos ({error.strerror} "
                              f"after {self._used / 1e9:.1f} GB). Free some space, or set the environment variable "
                              "TMPDIR to a folder on a larger disk.") from None
            return place, mask.shape


def batches(samples, *, image_size, batch_size, augment=False, shuffle=False, seed=0, read=read_pair,
            scale=(0.75, 1.5), epochs=1, first_epoch=0, multiple_of=1, share=None):
    """Return a `tf.data.Dataset` of (float32 (B, S, S, 3) in 0..255 RGB, uint8 (B, S, S) class ids).

    samples: list of (photo path, mask path), or `DecodedPairs`. image_size: S, in pixels. Crops keep the
    photo's own aspect and, without `augment`, its scale: the centre is cut out, and what lies outside
    the photo is void. augment: a random place, zoom within `scale`, turn of up to 10 degrees, mirror
    image and colour cast; photo and mask move as one. shuffle: a new order each epoch. multiple_of: the
    number of devices that share each batch; a last batch that they do not divide is filled up, see `fill`.
    share: function from the sample numbers of a batch to those to make here, None for all.

    The dataset runs through the samples `epochs` times, keeps last batches that are smaller, and yields
    epoch `first_epoch` first. Order and augmentation depend only on (seed, epoch, sample), so that a
    training resumed at epoch 7 sees what an unbroken one would have seen.
    Raises ValueError that lists all faulty files before the first batch, or for a batch_size that
    `multiple_of` does not divide.
    """
    if image_size < 1 or batch_size < 1:
        raise ValueError(f"image_size is {image_size} and batch_size {batch_size}; both must be at least 1.")
    if batch_size % multiple_of:
        raise ValueError(f"batch_size is {batch_size}; expected a multiple of {multiple_of}, the number of devices "
                         "that share each batch.")
    pairs = samples if isinstance(samples, DecodedPairs) else DecodedPairs(samples, read)

    def orders():
        for epoch in range(first_epoch, first_epoch + epochs):
            order = np.random.default_rng((seed, epoch)).permutation(len(pairs)) if shuffle else np.arange(len(pairs))
            for start in range(0, len(pairs), batch_size):
                yield epoch, order[start:start + batch_size]

    def cut(epoch, order):
        crops = [crop(*pairs[i], image_size, np.random.default_rng((seed, epoch, i)) if augment else None, scale)
                 for i in order]
        images, masks = zip(*crops)
        return np.stack(images), np.stack(masks)

    batches_of_numbers = _shared(orders, batch_size, multiple_of, share)
    return _dataset(batches_of_numbers, cut, (None, image_size, image_size))


def whole_images(samples, batch_size=1, read=read_pair, multiple_of=1, share=None):
    """Return a `tf.data.Dataset` of whole photos, for scores: (float32 (B, H, W, 3), uint8 (B, H, W)).

    Batches larger than one need photos of one size, and hold at most `BATCH_PIXELS`; otherwise every photo comes
    alone. multiple_of, share: as in
    `batches`; of a photo that comes alone each device gets a copy, and it is counted once.
    """
    pairs = samples if isinstance(samples, DecodedPairs) else DecodedPairs(samples, read)
    shapes = {pairs[i][1].shape for i in range(len(pairs))}
    size = 1
    if len(shapes) == 1:
        height, width = next(iter(shapes))
        size = max(1, min(batch_size, BATCH_PIXELS // (height * width)))

    def orders():
        for start in range(0, len(pairs), size):
            yield 0, np.arange(start, min(start + size, len(pairs)))

    def stack(epoch, order):
        images, masks = zip(*(pairs[i] for i in order))
        return np.stack(images), np.stack(masks)

    height, width = shapes.pop() if len(shapes) == 1 else (None, None)
    return _dataset(_shared(orders, size, multiple_of, share), stack, (None, height, width))


def fill(order, multiple_of, batch_size):
    """Fill the sample numbers of a batch up with copies, so that `multiple_of` devices can divide it.

    Returns (integer (B,) numbers, bool (B,): which are copies). The masks of copies become void, so that they count
    nothing in loss and scores. Batch normalization sees them in training: its statistics stay the same where all
    photos come equally often, which is so unless the batch would then exceed `batch_size`.
    """
    size = math.lcm(len(order), multiple_of)
    if size > batch_size:
        size = math.ceil(len(order) / multiple_of) * multiple_of
    return np.resize(order, size), np.arange(size) >= len(order)


def crop(image, mask, size, rng=None, scale=(0.75, 1.5)):
    """Cut one size x size square out of a photo and its mask with a single affine map.

    image: uint8 (H, W, 3). mask: uint8 (H, W). rng: `numpy.random.Generator` for a random crop, or None
    for the centre at the photo's own scale. Returns (uint8 (S, S, 3), uint8 (S, S)). The photo is
    interpolated, the mask takes the nearest pixel; outside the photo the mask is void.
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
    image = cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT,
                           borderValue=FILL)
    mask = cv2.warpAffine(mask, matrix, (size, size), flags=cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT,
                          borderValue=VOID)
    return (image if rng is None else _recolor(image, rng)), mask


def _recolor(image, rng):
    """Change contrast, brightness and colour cast a little, by one table of 256 values per channel."""
    contrast, brightness = rng.uniform(0.75, 1.25), rng.uniform(-25, 25)
    cast = rng.uniform(0.9, 1.1, 3)
    table = (np.arange(256)[:, None] - 128) * contrast * cast + 128 + brightness
    return cv2.LUT(image, table.round().clip(0, 255).astype(np.uint8)[None])


def _shared(orders, batch_size, multiple_of, share):
    """Return a function that yields (epoch, sample numbers, which are copies) of the batches to make here."""
    def parts():
        for epoch, order in orders():
            numbers, copies = fill(order, multiple_of, batch_size)
            yield (epoch, share(numbers), share(copies)) if share else (epoch, numbers, copies)

    return parts


def _dataset(parts, cut, shape):
    """Turn (epoch, sample numbers, which are copies) into batches, a few of them ahead of the training step."""
    if keras.backend.backend() != "tensorflow":
        with contextlib.suppress(RuntimeError):  # TensorFlow has begun to compute: too late
            tf.config.set_visible_devices([], "GPU")  # it would take the memory that the other backend needs

    def make(epoch, numbers, copies):
        images, masks = cut(epoch, numbers)
        masks[copies] = VOID
        return images, masks

    def load(epoch, numbers, copies):
        images, masks = tf.numpy_function(make, (epoch, numbers, copies), (tf.uint8, tf.uint8))
        return tf.cast(tf.ensure_shape(images, (*shape, 3)), tf.float32), tf.ensure_shape(masks, shape)

    count = sum(1 for _ in parts())
    signature = (tf.TensorSpec((), tf.int64), tf.TensorSpec((None,), tf.int64), tf.TensorSpec((None,), tf.bool))
    dataset = tf.data.Dataset.from_generator(parts, output_signature=signature)
    dataset = dataset.map(load, num_parallel_calls=2).prefetch(2)
    return dataset.apply(tf.data.experimental.assert_cardinality(count))


def _memory():
    """Return the bytes of memory of this machine, or of its container where that has less; 8 GB where nobody says."""
    sizes = []
    with contextlib.suppress(AttributeError, ValueError, OSError):
        sizes.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(ValueError, OSError):
            sizes.append(int(Path(file).read_text(encoding="ascii")))
    return min(sizes, default=8 * 10 ** 9)
