"""A training as TensorBoard shows it: losses, scores, learning rate and example overlays, epoch by epoch."""

import importlib.util
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from utils import inference
from utils.labels import VOID, ids_to_colors

EXAMPLES = 3  # validation photos that are shown
SIDE = 512  # pixels; of larger photos every second, third, ... pixel is shown
NOT_DRAWN = ("epoch", "seconds")


class Board(keras.callbacks.Callback):
    """Write the history of a `callbacks.Checkpoint` as TensorBoard's event files, and examples of each validated epoch.

    folder: where they go, such as run_dir/tensorboard, with `train` and `validation` in it. checkpoint: it must stand
    before this in the list of callbacks. pairs: validation photos and masks, such as `pipeline.DecodedPairs`. colors:
    uint8 (C, 3). Steps are epochs, counted from 1. What the files hold is not written again; what they lack of earlier
    epochs, after a kill or because this was switched on late, is added, but for the examples, which nobody has kept.
    Raises ImportError where the package tensorboard is missing.
    """

    def __init__(self, folder, checkpoint, pairs, colors):
        super().__init__()
        if importlib.util.find_spec("tensorboard") is None:
            raise ImportError("tensorboard=True needs the package tensorboard, which is not installed: "
                              "python -m pip install tensorboard, or train without it.")
        self.folder, self.checkpoint, self.colors = Path(folder), checkpoint, colors
        self.examples = [pairs[i] for i in range(min(EXAMPLES, len(pairs)))]

    def on_train_begin(self, logs=None):
        self._written = {part: written(self.folder / part) for part in ("train", "validation")}
        self._writers = {part: tf.summary.create_file_writer(str(self.folder / part)) for part in self._written}
        self._catch_up()

    def on_epoch_end(self, epoch, logs=None):
        self._catch_up()

    def on_train_end(self, logs=None):
        for writer in self._writers.values():
            writer.close()

    def _catch_up(self):
        row = {}
        for row in self.checkpoint.history:
            for name, value in row.items():
                if name not in NOT_DRAWN:
                    part = "validation" if name.startswith("val_") else "train"
                    self._write(part, name.removeprefix("val_"), row["epoch"], tf.summary.scalar, lambda: value)
        if "val_loss" in row:  # the weights at hand are those of the last epoch
            for number, (image, truth) in enumerate(self.examples, start=1):
                self._write("validation", f"example_{number}", row["epoch"], tf.summary.image,
                            lambda: self._picture(image, truth))
        for writer in self._writers.values():
            writer.flush()

    def _write(self, part, tag, step, summary, data):
        if (tag, step) not in self._written[part]:
            with self._writers[part].as_default():
                summary(tag, data(), step=step)
            self._written[part].add((tag, step))

    def _picture(self, image, truth):
        """Return uint8 (1, H, 3 W, 3): the photo, and laid over it the truth and the prediction."""
        step = -(-max(truth.shape) // SIDE)
        overlays = [overlay(image, ids, self.colors) for ids in (truth, inference.predict(self.model, image))]
        return np.hstack([image, *overlays])[None, ::step, ::step]


def overlay(image, ids, colors):
    """Return uint8 (H, W, 3): a photo under its classes' colours; where ids are void it stays as it is."""
    mixed = 0.4 * image + 0.6 * ids_to_colors(ids, colors)
    return np.where((ids == VOID)[..., None], image, mixed).astype(np.uint8)


def written(folder):
    """Return the set of (tag, step) that the event files in `folder` hold; what a kill has cut off is left out."""
    found = set()
    for file in sorted(Path(folder).glob("events.*")):
        try:
            for record in tf.data.TFRecordDataset(str(file)):
                event = tf.compat.v1.Event.FromString(record.numpy())
                found |= {(value.tag, event.step) for value in event.summary.value}
        except tf.errors.DataLossError:
            continue
    return found
