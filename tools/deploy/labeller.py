"""A trained model, opened to label photos and videos."""

import contextlib
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils import labels, runs

LARGE, TILE = 2048, 1024  # pixels: photos with a longer side are processed in tiles of this side


class UsageError(Exception):
    """What keeps the command from starting, in a sentence."""


@dataclass(frozen=True)
class Labeller:
    """predict: from uint8 (H, W, 3) RGB to ids, uint8 (H, W), and their probabilities, float32.

    colors: uint8 (C, 3). least: pixels whose class is less probable become void.
    """

    predict: Callable
    class_names: Sequence[str]
    colors: np.ndarray
    least: float = 0.0

    def areas(self, ids: np.ndarray) -> np.ndarray:
        """Return the pixels of each class, int64 (C + 1,), void last."""
        counted = sum(np.bincount(row, minlength=labels.VOID + 1) for row in ids)
        return counted[[*range(len(self.colors)), labels.VOID]]


def open_model(path: Path | None):
    """Return (model, card) of a run's folder, a model file, or None: the kept model.

    card: a dict with class_names, colors, uint8 (C, 3), and fcn. Raises UsageError.
    """
    with silence():
        from utils import models

        path = path or models.KEPT_MODEL
        if path.is_dir():
            path = path / "model.keras"
            if not path.is_file():
                raise UsageError(f"{path.parent}: this folder holds no model.keras. Give "
                                 "the folder of a run of notebook 03, or a model file.")
        stem = path.name.removesuffix(".weights.h5").removesuffix(".keras")
        card = path.with_name(f"{stem}.json")
        if path.name.endswith(".weights.h5") and path.is_file() and not card.is_file():
            raise UsageError(f"{path}: needs its card, {card.name}, beside it.")
        try:
            model = models.load(path)
        except (OSError, ValueError) as error:
            raise UsageError(str(error)) from None
    if any(model.input_shape[1:3]):
        height, width = model.input_shape[1:3]
        raise UsageError(f"{path}: takes photos of {width}x{height} pixels; expected any.")
    return model, _read_card(card, model.output_shape[-1])


def load_labeller(path: Path | None, tile: int | None, flip=False, least=0.0) -> Labeller:
    """Open a model; the arguments are those of the command. Raises what `open_model` raises."""
    model, card = open_model(path)
    from utils import inference

    scores = flipped_logits if flip else inference.logits

    def predict(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        side = tile
        if tile is None:
            side = TILE if max(image.shape) > LARGE else 0
        ids, confidence = np.empty(image.shape[:2], np.uint8), np.empty(image.shape[:2], np.float32)
        try:
            for place, window, inner in inference.windows(model, image, side or None):
                found = scores(model, window)[inner]
                ids[place] = found.argmax(axis=2)
                found = found - found.max(axis=2, keepdims=True)
                confidence[place] = 1 / np.exp(found, out=found).sum(axis=2)
        except Exception as error:  # each backend has its own kind
            if "RESOURCE_EXHAUSTED" in str(error) or "ResourceExhausted" in type(error).__name__:
                raise MemoryError from None
            raise
        return ids, confidence

    return Labeller(predict, card["class_names"], card["colors"], least)


def flipped_logits(model, image: np.ndarray) -> np.ndarray:
    """Return float32 (H, W, C): log of a photo's plus its mirror image's probabilities."""
    from keras import ops

    from utils import inference, models

    # Filled up to whole cells on the same side in both, so that tiles give the same as the whole.
    height, width = image.shape[:2]
    filled = np.full((height, math.ceil(width / 32) * 32, 3), models.MEAN, np.float32)
    filled[:, :width] = image
    both = inference.logits(model, filled), inference.logits(model, filled[:, ::-1])[:, ::-1]
    return np.log(sum(ops.convert_to_numpy(ops.softmax(one)) for one in both) + 1e-30)[:, :width]


def _read_card(card: Path, classes: int) -> dict:
    """Return a model's card, checked; without one, the classes have numbers for names."""
    if not card.is_file():
        print(f"{card} is not there, so the classes have numbers for names.", file=sys.stderr)
        return {"class_names": [f"class {number}" for number in range(classes)],
                "colors": labels.voc_colormap(classes), "fcn": {}}
    about = {"fcn": {}, **runs.read_json(card)}
    names, colors, fault = about.get("class_names"), np.empty(0), ""
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        colors = np.uint8(about.get("colors"))
    if not isinstance(names, list) or any(str(name).splitlines() != [name] for name in names):
        fault = "class_names must be texts of one line"
    elif colors.shape != (classes, 3) or colors.tolist() != about["colors"]:
        fault = f"colors must be {classes} times red, green and blue, 0 to 255"
    if fault:
        raise UsageError(f"The model's card {card} cannot be used: {fault}. Copy it again from "
                         "its run, or remove it: the classes are then numbered.")
    return about | {"colors": colors}


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Keep TensorFlow's start-up lines off the screen; no setting silences all of them."""
    sys.stderr.flush()
    screen = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(screen, 2)
        os.close(screen)
