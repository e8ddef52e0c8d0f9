"""From files to batches. Photos and masks here hold their own coordinates: any slip shows."""

import itertools
import tracemalloc

import cv2
import numpy as np
import pytest
from PIL import Image

from utils import pipeline
from utils.datasets import load_dataset
from utils.images import THREADS
from utils.labels import VOID
from utils.pipeline import FILL, DecodedPairs, batches, crop, whole_images


def coordinates(height, width, axis):
    """A photo of which red is 2x and green 2y, and a mask that holds x (axis 0) or y (axis 1)."""
    y, x = np.mgrid[:height, :width]
    return np.stack([2 * x, 2 * y, 0 * x],
                    axis=2).astype(np.uint8), np.array((x, y)[axis], np.uint8)


def inside(where):
    """Take two pixels off the rim of a region."""
    return cv2.erode(np.uint8(where), np.ones((5, 5)), borderValue=0) > 0


def as_read(batch_list):
    return [(images.numpy(), masks.numpy()) for images, masks in batch_list]


def same(first, second):
    first, second = as_read(first), as_read(second)
    return len(first) == len(second) and all(
        (a == c).all() and (b == d).all() for (a, b), (c, d) in zip(first, second)
    )


@pytest.fixture(scope="module")
def samples(shared_voc):
    return load_dataset("voc", shared_voc).split("train")


# Crops


def test_centre_crop_is_a_plain_cut():
    image, mask = coordinates(90, 121, 0)
    for size in (32, 33, 64):
        cut, ids = crop(image, mask, size)
        top, left = (90 - size) // 2, (121 - size) // 2
        assert cut.shape == (size, size, 3) and cut.dtype == ids.dtype == np.uint8
        assert (cut == image[top:top + size, left:left + size]).all()
        assert (ids == mask[top:top + size, left:left + size]).all()


def test_outside_the_photo_is_void():
    image, mask = coordinates(20, 31, 1)
    cut, ids = crop(image, mask, 64)
    assert (ids != VOID).sum() == 20 * 31
    rows, columns = np.nonzero(ids != VOID)
    photo = slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)
    assert (cut[photo] == image).all() and (ids[photo] == mask).all()
    assert (cut[ids == VOID] == FILL).all()
    for i in range(10):
        cut, ids = crop(image, mask, 64, np.random.default_rng(i))
        assert len(np.unique(cut[inside(ids == VOID)], axis=0)) == 1


@pytest.mark.parametrize("axis", [0, 1])
def test_photo_and_mask_move_as_one(monkeypatch, axis):
    monkeypatch.setattr(pipeline, "_recolor", lambda image, rng: image)
    image, mask = coordinates(100, 120, axis)
    means = []
    for i in range(60):
        cut, ids = crop(image, mask, 48, np.random.default_rng(i))
        known = inside(ids != VOID)
        away = cut[..., axis][known] / 2 - ids[known]
        assert np.abs(away).max() <= 0.8  # half a pixel by nearest, a quarter by rounding
        means.append(away.mean())
    assert np.abs(np.mean(means)) < 0.05


def test_photo_and_mask_agree_in_finished_batches(tmp_path):
    rng = np.random.default_rng(0)
    mask = cv2.resize(rng.integers(0, 2, (6, 8)).astype(np.uint8), (96, 72),
                      interpolation=cv2.INTER_NEAREST)
    Image.fromarray((mask * 255)[..., None].repeat(3, axis=2)).save(tmp_path / "photo.png")
    Image.fromarray(mask).save(tmp_path / "mask.png")
    pair = (tmp_path / "photo.png", tmp_path / "mask.png")
    for images, masks in as_read(
        batches([pair] * 8, image_size=64, batch_size=4, augment=True, shuffle=True)
    ):
        for image, ids in zip(images, masks):
            light = image.mean(axis=2)
            middle = (np.median(light[ids == 1]) + np.median(light[ids == 0])) / 2
            # Void, edges and what lies beside them are left out: there photo and mask may round
            # differently.
            assert ((light > middle) == (ids == 1))[inside(ids == 1) | inside(ids == 0)].all()


def test_augmentation_brings_no_new_ids_and_keeps_the_range():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)
    mask = rng.choice(np.uint8([0, 7, 200]), (60, 80))
    for i in range(20):
        cut, ids = crop(image, mask, 48, np.random.default_rng(i))
        assert cut.dtype == np.uint8 and set(np.unique(ids)) <= {0, 7, 200, VOID}


def test_augmentation_zooms_turns_and_mirrors_within_its_limits(monkeypatch):
    monkeypatch.setattr(pipeline, "_recolor", lambda image, rng: image)
    image, mask = coordinates(120, 120, 0)
    zooms, turns, mirrored, places = [], [], [], []
    v, u = np.mgrid[:24, :24]
    for i in range(80):
        cut, ids = crop(image, mask, 24, np.random.default_rng(i), scale=(0.5, 2.0))
        known = inside(ids != VOID)
        # Each crop is an affine map, (x, y) of the photo = origin + across * u + down * v: fit it.
        terms = np.stack([np.ones(known.sum()), u[known], v[known]], axis=1)
        (origin, across, down), *_ = np.linalg.lstsq(terms, cut[known][:, :2] / 2, rcond=None)
        assert np.abs(terms @ [origin, across, down] - cut[known][:, :2] / 2).max() < 0.5
        assert np.hypot(*down) == pytest.approx(np.hypot(*across), rel=0.03)  # nothing is squashed
        assert down[1] > 0  # never upside down
        zooms.append(1 / np.hypot(*across))
        turns.append(np.degrees(np.arctan2(*down)))
        mirrored.append(across[0] < 0)
        places.append(origin + across * 11.5 + down * 11.5)
    assert 0.48 < min(zooms) < 0.6 and 1.7 < max(zooms) < 2.1
    assert -11 < min(turns) < -7 and 7 < max(turns) < 11
    assert 0.3 < np.mean(mirrored) < 0.7
    assert np.std(places, axis=0).min() > 10


# Batches


def test_batches_have_the_promised_types(samples):
    images, masks = next(iter(batches(samples, image_size=32, batch_size=2)))
    assert images.dtype == "float32" and images.shape == (2, 32, 32, 3)
    assert masks.dtype.is_integer and masks.shape == (2, 32, 32)


def test_without_augmentation_pixels_are_those_of_the_file(samples):
    images, masks = next(iter(batches(samples, image_size=32, batch_size=5)))
    for image, ids, (photo, mask) in zip(images.numpy(), masks.numpy(), samples):
        assert (image == np.array(Image.open(photo))[8:40, 16:48]).all() and image.max() > 128
        assert (ids == np.array(Image.open(mask))[8:40, 16:48]).all()


@pytest.mark.parametrize("batch_size, sizes", [(2, [2, 2, 1]), (5, [5]), (8, [5]), (1, [1] * 5)])
def test_no_sample_is_dropped(samples, batch_size, sizes):
    dataset = batches(samples, image_size=32, batch_size=batch_size, shuffle=True)
    assert [len(images) for images, _ in dataset] == sizes
    assert int(dataset.cardinality()) == len(sizes)
    in_order = np.concatenate(
        [images for images, _ in as_read(batches(samples, image_size=32, batch_size=5))]
    )
    shuffled = np.concatenate([images for images, _ in as_read(dataset)])
    assert sorted(map(bytes, in_order)) == sorted(map(bytes, shuffled))


def test_order_and_augmentation_follow_the_seed(samples):
    arguments = {"image_size": 24, "batch_size": 2, "augment": True, "shuffle": True,
                 "scale": (0.9, 1.1)}
    first = batches(samples, seed=3, **arguments)
    assert same(first, batches(samples, seed=3, **arguments))
    assert same(first, first)
    assert not same(first, batches(samples, seed=4, **arguments))


@pytest.mark.parametrize("augment, shuffle", [(True, False), (False, True)])
def test_epochs_differ_and_a_resumed_one_is_the_same(samples, augment, shuffle):
    arguments = {"image_size": 24, "batch_size": 2, "augment": augment,
                 "shuffle": shuffle, "seed": 1}
    unbroken = list(batches(samples, epochs=4, **arguments))
    epochs = [unbroken[i:i + 3] for i in range(0, 12, 3)]
    assert not any(same(a, b) for a, b in itertools.combinations(epochs, 2))
    assert same(unbroken[6:], batches(samples, epochs=2, first_epoch=2, **arguments))


def test_what_does_not_fit_in_memory_is_decoded_again(samples):
    arguments = {"image_size": 32, "batch_size": 2, "augment": True, "shuffle": True}
    in_memory, decoded_again = DecodedPairs(samples), DecodedPairs(samples, memory_limit=0)
    some_decoded_again = DecodedPairs(samples, memory_limit=48 * 64 * 4 * 2)
    for pairs in (decoded_again, some_decoded_again):
        assert len(pairs) == 5
        assert all((a == b).all() for i in range(5) for a, b in zip(in_memory[i], pairs[i]))
        assert same(batches(in_memory, **arguments), batches(pairs, **arguments))


def large_pairs(count, side=512):
    """Samples and a read function for pairs of 1 MB that differ in one pixel."""
    def read(sample):
        image = np.full((side, side, 3), sample, np.uint8)
        return image, image[..., 0].copy()

    return list(range(count)), read


def test_what_does_not_fit_takes_no_memory():
    samples, read = large_pairs(60)
    tracemalloc.start()
    try:
        pairs = DecodedPairs(samples, read, memory_limit=5 * 2 ** 20)
        assert all((pairs[i][0] == i).all() and (pairs[i][1] == i).all() for i in samples)
        held, peak = (size / 2 ** 20 for size in tracemalloc.get_traced_memory())
    finally:
        tracemalloc.stop()
    assert held < 6 and peak < 6 + 3 * THREADS


def test_decoding_reports_progress_only_when_it_takes_long(monkeypatch, capsys):
    samples, read = large_pairs(3, side=8)
    DecodedPairs(samples, read)
    assert capsys.readouterr() == ("", "")
    clock = itertools.count(step=6)
    monkeypatch.setattr(pipeline.time, "monotonic", lambda: next(clock))
    DecodedPairs(samples, read)
    assert "2 of 3 photos" in capsys.readouterr().out


def test_files_are_decoded_once(samples):
    decoded = []

    def read(sample):
        decoded.append(sample)
        return pipeline.read_pair(sample)

    pairs = DecodedPairs(samples, read)
    list(batches(pairs, image_size=16, batch_size=2, epochs=3))
    list(whole_images(pairs))
    assert sorted(decoded) == sorted(samples)


def test_all_faulty_files_are_listed_in_one_error(voc):
    dataset = load_dataset("voc", voc)
    (voc / "JPEGImages" / "train1.png").write_bytes(b"")
    (voc / "SegmentationClass" / "train3.png").write_bytes(b"no image")
    Image.fromarray(np.full((48, 64), 9, np.uint8)).save(voc / "SegmentationClass" / "train4.png")
    with pytest.raises(ValueError, match="3 of 5 pairs cannot be used") as error:
        batches(dataset.split("train"), image_size=32, batch_size=2, read=dataset.read)
    for part in (
        "train1.png: the file is empty",
        "train3.png: is not an image",
        "train4.png: 3072 pixels have the ids",
    ):
        assert part in str(error.value)


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        ({"image_size": 0, "batch_size": 2}, "image_size is 0 and batch_size is 2"),
        ({"image_size": 8, "batch_size": -1}, "image_size is 8 and batch_size is -1"),
    ],
)
def test_sizes_must_be_positive(samples, arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        batches(samples, **arguments)


def test_an_empty_split_is_refused():
    with pytest.raises(ValueError, match="there are no samples: the split is empty"):
        batches([], image_size=8, batch_size=1)


# Whole photos


def test_whole_images_are_neither_cut_nor_dropped(samples):
    parts = as_read(whole_images(samples, batch_size=2))
    assert [images.shape for images, _ in parts] == [(2, 48, 64, 3), (2, 48, 64, 3), (1, 48, 64, 3)]
    images, masks = (np.concatenate(part) for part in zip(*parts))
    assert images.dtype == np.float32
    for image, ids, (photo, mask) in zip(images, masks, samples):
        assert ((image == np.array(Image.open(photo))).all()
                and (ids == np.array(Image.open(mask))).all())


def test_whole_images_of_several_sizes_come_alone(tmp_path, make_voc):
    big, small = make_voc(tmp_path / "a"), make_voc(tmp_path / "b", size=(31, 47))
    both = load_dataset("voc", big).split("val") + load_dataset("voc", small).split("val")
    shapes = [masks.shape for _, masks in whole_images(both, batch_size=4)]
    assert shapes == [(1, 48, 64), (1, 48, 64), (1, 31, 47), (1, 31, 47)]


# Several devices


@pytest.mark.parametrize(
    "order, devices, batch_size, filled",
    [
        ([7, 3, 5, 1], 2, 4, [7, 3, 5, 1]),
        ([6], 2, 4, [6, 6]),
        ([7, 3, 5], 2, 8, [7, 3, 5, 7, 3, 5]),  # all equally often
        ([7, 3, 5], 2, 4, [7, 3, 5, 7]),  # else the batch would grow beyond its size
        ([4], 1, 4, [4]),
    ],
)
def test_filling_up_by_hand(order, devices, batch_size, filled):
    numbers, copies = pipeline.fill(np.array(order), devices, batch_size)
    assert numbers.tolist() == filled and numbers[~copies].tolist() == order


def test_last_batch_is_filled_with_void_copies(shared_voc):
    pairs = pipeline.DecodedPairs(load_dataset("voc", shared_voc).split("train"))
    given = dict(image_size=32, batch_size=4, augment=True, shuffle=True, seed=1, epochs=2)
    for (images, masks), (filled, filled_masks) in zip(
            pipeline.batches(pairs, **given).as_numpy_iterator(),
            pipeline.batches(pairs, **given, multiple_of=4).as_numpy_iterator(), strict=True):
        assert len(filled) == 4
        assert ((filled[:len(images)] == images).all()
                and (filled_masks[:len(images)] == masks).all())
        assert ((filled[len(images):] == images[0]).all()
                and (filled_masks[len(images):] == VOID).all())


def test_photos_of_many_sizes_are_copied_to_all_devices_and_counted_once(make_voc, tmp_path):
    first = load_dataset("voc", make_voc(tmp_path / "a", {"train": 1, "val": 1})).split("val")
    second = load_dataset("voc", make_voc(tmp_path / "b", {"train": 1, "val": 1},
                                          size=(40, 33))).split("val")
    for images, masks in pipeline.whole_images(first + second, 4,
                                               multiple_of=2).as_numpy_iterator():
        assert (images[0] == images[1]).all()
        assert (masks[0] != VOID).any() and (masks[1] == VOID).all()


def test_batches_that_devices_cannot_share_are_refused(shared_voc):
    samples = load_dataset("voc", shared_voc).split("train")
    with pytest.raises(ValueError, match="batch_size is 6; .* 4 devices"):
        pipeline.batches(samples, image_size=32, batch_size=6, multiple_of=4)


def test_large_photos_are_scored_alone(monkeypatch):
    pairs = [(np.zeros((40, 50, 3), np.uint8), np.zeros((40, 50), np.uint8))] * 5
    kept = pipeline.DecodedPairs(range(5), pairs.__getitem__)
    for most, sizes in ((2 ** 22, [4, 1]), (2 * 40 * 50, [2, 2, 1]), (1, [1] * 5)):
        monkeypatch.setattr(pipeline, "BATCH_PIXELS", most)
        assert [len(images) for images, _ in pipeline.whole_images(kept, 4)] == sizes
