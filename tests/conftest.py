"""Small data sets and models that several test files use."""

import numpy as np
import pytest
from PIL import Image

# Three classes told apart by colour, so that a few steps of training change something.
CLASSES = "0 ground 40 160 40\n1 block 200 40 40\n2 disc 40 60 220\n"
PHOTO_COLORS = np.uint8([[90, 140, 60], [190, 70, 60], [60, 80, 190]])
CLASS_COLORS = np.uint8([[40, 160, 40], [200, 40, 40], [40, 60, 220]])


def _scene(seed, height=48, width=64):
    """Return (photo uint8 (H, W, 3), mask uint8 (H, W)): a block and a disc on the ground, a void seam."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    mask = np.zeros((height, width), np.uint8)
    top, left = rng.integers(0, height // 2), rng.integers(0, width // 2)
    mask[top:top + height // 3, left:left + width // 3] = 1
    radius = min(height, width) // 5
    mask[(y - rng.integers(0, height)) ** 2 + (x - rng.integers(0, width)) ** 2 < radius**2] = 2
    image = (PHOTO_COLORS[mask] + rng.normal(0, 12, (height, width, 3))).clip(0, 255).astype(np.uint8)
    mask[:, width // 2] = 255
    return image, mask


def _make_voc(root, splits=None, size=(48, 64), classes=CLASSES):
    """Write scenes in VOC layout below `root`; splits: name -> number of scenes. Returns `root`."""
    splits = {"train": 5, "val": 2} if splits is None else splits
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "classes.txt").write_text(classes, encoding="utf-8")
    for number, (split, count) in enumerate(splits.items()):
        stems = [f"{split}{i}" for i in range(count)]
        (root / "ImageSets" / "Segmentation" / f"{split}.txt").write_text(
            "\n".join(stems) + "\n", encoding="utf-8"
        )
        for i, stem in enumerate(stems):
            image, mask = _scene(100 * number + i, *size)
            Image.fromarray(image).save(root / "JPEGImages" / f"{stem}.png")
            picture = Image.fromarray(mask)
            # All 256 entries: Pillow stores fewer bits for a short palette, and 255 would be cut off.
            picture.putpalette(CLASS_COLORS.tobytes() + bytes(3 * 253))
            picture.save(root / "SegmentationClass" / f"{stem}.png")
    return root


@pytest.fixture(scope="session")
def make_voc():
    """A function that writes a small data set in VOC layout."""
    return _make_voc


@pytest.fixture
def voc(tmp_path):
    """A folder in VOC layout: 5 scenes to train on, 2 to validate."""
    return _make_voc(tmp_path / "voc")


@pytest.fixture(scope="session")
def shared_voc(tmp_path_factory):
    """The same, shared by all tests that only read it."""
    return _make_voc(tmp_path_factory.mktemp("data") / "voc")


@pytest.fixture(scope="session")
def random_fcn():
    """A function that builds an FCN that tells places apart: its scores are random, not zero."""

    def build(num_classes=4, seed=0, **arguments):
        import keras
        from utils import models

        keras.utils.set_random_seed(seed)
        model = models.fcn(num_classes, **{"backbone": "vgg_small", **arguments})
        rng = np.random.default_rng(seed)
        for layer in model.layers:
            if layer.name.startswith("score"):
                layer.set_weights(
                    [rng.normal(size=weight.shape).astype(np.float32) for weight in layer.get_weights()]
                )
            elif layer.name.startswith(("block", "fc")) and layer.get_weights():
                layer.bias.assign(rng.normal(0, 0.2, layer.bias.shape))
        patches = rng.uniform(0, 255, (1, 6, 10, 3)).repeat(16, axis=1).repeat(16, axis=2)
        logits = keras.ops.convert_to_numpy(model(patches[:,:model.input_shape[1],:model.input_shape[2]]))
        score = model.get_layer("score")
        score.bias.assign(score.bias - logits.mean(axis=(0, 1, 2)))  # else one class wins everywhere
        return model

    return build
