"""What the random crops are like: place, zoom and colours, and what the seed changes."""

import numpy as np
import pytest

from utils import pipeline
from utils.labels import VOID
from utils.pipeline import DecodedPairs, batches, crop


def coordinates(height, width):
    """A photo of which red is 2x and green 2y, and a mask that holds x."""
    y, x = np.mgrid[:height, :width]
    return np.stack([2 * x, 2 * y, 0 * x], axis=2).astype(np.uint8), x.astype(np.uint8)


def fitted(cut, ids):
    """The affine map of a crop of `coordinates`: (origin, across, down), each (x, y)."""
    known = ids != VOID
    v, u = np.nonzero(known)
    terms = np.stack([np.ones(len(u)), u, v], axis=1)
    return np.linalg.lstsq(terms, cut[known][:, :2] / 2, rcond=None)[0]


def crops(count, height, width, size, scale):
    image, mask = coordinates(height, width)
    return [crop(image, mask, size, np.random.default_rng(seed), scale) for seed in range(count)]


@pytest.fixture
def plain(monkeypatch):
    """Leave colours as they are."""
    monkeypatch.setattr(pipeline, "_recolor", lambda image, rng: image)


# Place and zoom


def test_photos_are_enlarged_as_often_as_shrunk(plain):
    zooms = [1 / np.hypot(*fitted(*one)[1]) for one in crops(400, 100, 100, 24, (0.25, 4.0))]
    assert 0.43 < np.mean(np.array(zooms) > 1) < 0.57  # drawn evenly, it would be 0.8


@pytest.mark.parametrize("height, width", [(40, 120), (120, 40)])
def test_crops_of_wide_and_tall_photos_reach_all_sides_and_stay_inside(plain, height, width):
    cuts = crops(80, height, width, 24, (1.0, 1.0))
    middles = [origin + 11.5 * (across + down) for origin, across, down in
               (fitted(*one) for one in cuts)]
    low, high = np.min(middles, axis=0), np.max(middles, axis=0)
    for side, first, last in zip((width, height), low, high):
        assert 11 < first < 11.5 + 0.1 * side and side - 12.5 - 0.1 * side < last < side - 12
    assert np.mean([(ids == VOID).mean() for _, ids in cuts]) < 0.05  # what turning leaves open


def test_enlarged_photos_are_interpolated_and_masks_are_not(plain):
    for cut, ids in crops(5, 100, 100, 48, (4.0, 4.0)):
        origin, across, down = fitted(cut, ids)
        v, u = np.mgrid[:48, :48]
        x = origin[0] + across[0] * u + down[0] * v
        known = ids != VOID
        # Red is 2x to within its rounding; a step of a whole pixel would be off by 1. The nearest
        # pixel is half a pixel away, and in OpenCV 4.10 a tenth farther (0.606).
        assert np.abs(cut[..., 0] - 2 * x)[known].max() < 0.7
        assert np.abs(ids - x)[known].max() < 0.61


def test_the_zoom_of_the_recipe_reaches_the_batches(plain):
    pairs = DecodedPairs([0], read=lambda sample: coordinates(120, 120))
    for scale, low, high in (((1.0, 1.0), 22, 29), ((4.0, 4.0), 5, 8), ((0.5, 0.5), 44, 57)):
        for _, masks in batches(pairs, image_size=24, batch_size=1, augment=True, scale=scale,
                                epochs=4):
            ids = masks.numpy()[masks.numpy() != VOID].astype(int)
            assert low <= np.ptp(ids) <= high


# Colours


def recolored(value, seed):
    """The colour that a crop makes of a grey photo: float (3,)."""
    image = np.full((60, 60, 3), value, np.uint8)
    cut, _ = crop(image, image[..., 0] * 0, 16, np.random.default_rng(seed), (1.0, 1.0))
    return np.median(cut, axis=(0, 1))


def test_colours_change_within_their_limits():
    """A line per channel: contrast 3/4 to 5/4 times cast 0.9 to 1.1, brightness up to 25."""
    dark, light = (np.array([recolored(value, seed) for seed in range(200)]) for value in (90, 166))
    slopes, middles = (light - dark) / 76, (light + dark) / 2
    contrast, cast = slopes.mean(axis=1), slopes / slopes.mean(axis=1, keepdims=True)
    assert 0.65 < contrast.min() < 0.8 and 1.2 < contrast.max() < 1.4
    assert 0.83 < cast.min() < 0.95 and 1.05 < cast.max() < 1.17
    assert np.abs(np.corrcoef(cast.T)[np.triu_indices(3, 1)]).max() < 0.7  # each by itself
    # Middle grey changes by brightness alone, the same in all channels.
    assert np.ptp(middles, axis=1).max() <= 1
    assert -26 < middles.min() - 128 < -21 and 21 < middles.max() - 128 < 26
    assert np.mean(middles) == pytest.approx(128, abs=3)


def test_bright_stays_bright_and_dark_stays_dark():
    for seed in range(60):
        assert recolored(255, seed).min() > 180 and recolored(0, seed).max() < 75


def test_centre_crops_keep_their_colours():
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert (crop(image, image[..., 0], 32)[0] == image).all()


# Seeds


def drawn(**given):
    pairs = DecodedPairs(range(6), read=lambda number: coordinates(40 + number, 60))
    return np.concatenate([images.numpy() for images, _ in
                           batches(pairs, image_size=24, batch_size=4, **given)])


@pytest.mark.parametrize("augment, shuffle", [(True, False), (False, True), (True, True)])
def test_order_and_crops_each_follow_the_seed(augment, shuffle):
    first, again, other = (drawn(augment=augment, shuffle=shuffle, seed=seed) for seed in (1, 1, 2))
    assert (first == again).all() and (first != other).any()


def test_photos_of_one_epoch_are_changed_each_in_its_own_way():
    pairs = DecodedPairs(range(6), read=lambda number: coordinates(60, 60))  # six times the same
    (images, _), = batches(pairs, image_size=24, batch_size=6, augment=True, seed=1)
    assert len({image.tobytes() for image in images.numpy()}) == 6


# Shares of a batch, and void


@pytest.mark.parametrize("first", [0, 1])
def test_a_process_loads_its_share_of_each_batch(first):
    pairs = DecodedPairs(range(7), read=lambda number: coordinates(40 + number, 60))
    given = {"image_size": 24, "batch_size": 4, "shuffle": True, "multiple_of": 2}
    whole = batches(pairs, **given)
    parts = batches(pairs, **given, share=lambda numbers: numbers[first::2])
    for (images, masks), (part, part_masks) in zip(whole, parts, strict=True):
        assert (part == images[first::2]).numpy().all()
        assert (part_masks == masks[first::2]).numpy().all()


def test_one_mask_may_be_all_void():
    def read(number):
        image, mask = coordinates(8, 8)
        return image, mask if number else np.full_like(mask, VOID)

    assert len(DecodedPairs(range(2), read, split="train")) == 2
    with pytest.raises(ValueError, match="split train: every pixel"):
        DecodedPairs(["one.png"], lambda sample: read(0), split="train")
