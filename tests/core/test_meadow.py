"""The embedded data set: its files, its masks, and the promises that make it a fair task."""
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from utils.datasets import load_dataset
from utils.metrics import confusion_matrix, scores
from utils.oracles import bilinear_oracle

DATA = Path(__file__).parents[2] / "data"
FOLDER = DATA / "meadow"
# what has drawn the scenes is no package: nothing else imports it
sys.path.insert(0, str(DATA / "render_meadow"))

import scenes  # noqa: E402
from canvas import CLASSES, SIZE, VOID, VOID_COLOR  # noqa: E402

NUM_CLASSES = len(CLASSES)

# sRGB (linear) as people without one kind of cone see it: Machado, Oliveira & Fernandes 2009,
# severity 1.
COLOR_VISION = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868],
                   [0.114503, 0.786281, 0.099216],
                   [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968],
                     [0.280085, 0.672501, 0.047413],
                     [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779],
                   [-0.078411, 0.930809, 0.147602],
                   [0.004733, 0.691367, 0.303900]]}
LEAST_COLOR_DISTANCE = 27.5    # CIE76 in Lab; about 2 is just noticeable side by side


def stems_of(split):
    return (FOLDER / "ImageSets" / "Segmentation" / f"{split}.txt").read_text().split()


def read_split(split):
    """Photos uint8 (N, 256, 256, 3) and masks uint8 (N, 256, 256)."""
    stems = stems_of(split)
    photos = [np.array(Image.open(FOLDER / "JPEGImages" / f"{stem}.jpg")) for stem in stems]
    masks = [np.array(Image.open(FOLDER / "SegmentationClass" / f"{stem}.png")) for stem in stems]
    return np.stack(photos), np.stack(masks)


@pytest.fixture(scope="module")
def splits():
    return {split: read_split(split) for split in scenes.COUNTS}


def oracle_score(masks, stride):
    return scores(sum(confusion_matrix(mask,
                                       bilinear_oracle(mask, stride, NUM_CLASSES), NUM_CLASSES)
                      for mask in masks))["mean_iou"]


def test_files_are_the_committed_ones():
    assert scenes.folder_hash(FOLDER) == (FOLDER / "SHA256").read_text().strip()


def test_the_folder_is_small():
    assert sum(f.stat().st_size for f in FOLDER.rglob("*") if f.is_file()) < 6_000_000


def test_splits_have_their_sizes_and_share_no_scene(splits):
    lists = {split: stems_of(split) for split in splits}
    stems = [stem for names in lists.values() for stem in names]
    assert {split: len(names) for split, names in lists.items()} == scenes.COUNTS
    assert len(set(stems)) == len(stems)
    assert sorted(stems) == sorted(f.stem for f in (FOLDER / "JPEGImages").iterdir())
    assert sorted(stems) == sorted(f.stem for f in (FOLDER / "SegmentationClass").iterdir())
    photos = np.concatenate([photos for photos, _ in splits.values()])
    assert len({photo.tobytes() for photo in photos}) == len(stems)


def test_masks_are_palette_pngs_in_the_class_colours():
    table = [line.split() for line in (FOLDER / "classes.txt").read_text().splitlines()]
    assert [(int(i), name, tuple(map(int, color))) for i, name, *color in table] == \
        [(i, name, color) for i, (name, color) in enumerate(CLASSES.items())]
    for file in (FOLDER / "SegmentationClass").iterdir():
        with Image.open(file) as image:
            palette = np.array(image.getpalette(), np.uint8).reshape(-1, 3)
            ids = np.array(image)
            assert image.mode == "P" and image.size == (SIZE, SIZE)
        assert set(np.unique(ids)) <= {*range(NUM_CLASSES), VOID}
        shown = {**dict(enumerate(CLASSES.values())), VOID: VOID_COLOR}
        assert all(tuple(palette[i]) == shown[i] for i in np.unique(ids))


def test_void_is_a_thin_line(splits):
    for _, masks in splits.values():
        void = masks == VOID
        assert 0.01 < void.mean() < 0.06
        block = void[:, :-3, :-3]       # nowhere a void square of 4 x 4
        for dy in range(4):
            for dx in range(4):
                block = block & void[:, dy:SIZE - 3 + dy, dx:SIZE - 3 + dx]
        assert block.sum() <= len(masks)


@pytest.mark.parametrize("split", scenes.COUNTS)
def test_every_class_is_in_a_good_share_of_the_images(splits, split):
    masks = splits[split][1]
    share = {name: np.mean([(mask == i).sum() >= 60 for mask in masks])
             for i, name in enumerate(CLASSES)}
    assert share.pop("background") == 1
    assert min(share.values()) >= 0.25, share


def test_stride_32_loses_what_stride_8_keeps(splits):
    masks = splits["test"][1]
    coarse, fine = oracle_score(masks, 32), oracle_score(masks, 8)
    assert 0.70 <= coarse <= 0.85
    assert fine >= coarse + 0.10


def test_colour_alone_does_not_tell_the_classes(splits):
    """Train's most frequent class per cell of a 32 x 32 x 32 RGB histogram, scored on test."""
    def cell(photos):
        red, green, blue = np.moveaxis(photos // 8, -1, 0).astype(np.int64)
        return (red * 32 + green) * 32 + blue

    photos, masks = splits["train"]
    known = masks != VOID
    counts = np.bincount(cell(photos)[known] * NUM_CLASSES + masks[known],
                         minlength=32 ** 3 * NUM_CLASSES)
    majority = counts.reshape(-1, NUM_CLASSES).argmax(axis=1)
    photos, masks = splits["test"]
    guess = majority[cell(photos)].astype(np.uint8)
    by_colour = scores(confusion_matrix(masks, guess, NUM_CLASSES))["mean_iou"]
    assert by_colour <= oracle_score(masks, 32) / 2


@pytest.mark.parametrize("vision", COLOR_VISION)
def test_class_colours_stay_apart(vision):
    colors = np.array([*CLASSES.values(), VOID_COLOR]) / 255
    linear = np.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.transpose(COLOR_VISION[vision]), 0, 1)
    xyz = (seen @ np.transpose([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722],
                                [0.0193, 0.1192, 0.9505]]))
    x, y, z = np.where(xyz / [0.9505, 1, 1.089] > 0.008856, np.cbrt(xyz / [0.9505, 1, 1.089]),
                       7.787 * xyz / [0.9505, 1, 1.089] + 16 / 116).T
    lab = np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)
    distance = np.linalg.norm(lab[:, None] - lab[None], axis=-1)
    assert distance[np.triu_indices(len(lab), 1)].min() >= LEAST_COLOR_DISTANCE


@pytest.mark.parametrize("split, index", [("train", 0), ("test", 7)])
def test_the_renderer_makes_the_committed_scenes(splits, split, index):
    photo, mask = scenes.render_scene(0, split, index)
    photos, masks = splits[split]
    assert (mask == masks[index]).mean() >= 0.995
    assert np.abs(photo.astype(float) - photos[index]).mean() < 6      # the rest is JPEG


def test_another_seed_gives_other_scenes():
    assert (scenes.render_scene(1, "val", 0)[1] != scenes.render_scene(0, "val", 0)[1]).any()


def test_the_command_writes_a_whole_data_set(tmp_path, monkeypatch, capsys):
    counts = [part for split in scenes.COUNTS for part in (f"--count-{split}", "1")]
    monkeypatch.setattr("sys.argv",
                        ["render_meadow", "--out", str(tmp_path), "--workers", "1", *counts])
    scenes.main()
    assert "scene 3/3" in capsys.readouterr().out
    assert (tmp_path / "SHA256").read_text().strip() == scenes.folder_hash(tmp_path)
    assert (tmp_path / "ImageSets" / "Segmentation" / "val.txt").read_text() == "val_000\n"
    ids = np.array(Image.open(tmp_path / "SegmentationClass" / "val_000.png"))
    committed = np.array(Image.open(FOLDER / "SegmentationClass" / "val_000.png"))
    assert (ids == committed).mean() >= 0.995


def test_the_kept_model_knows_the_classes_of_meadow():
    file, data = DATA.parent / "results" / "model" / "model.json", load_dataset("meadow")
    card = json.loads(file.read_text(encoding="utf-8"))
    assert (tuple(card["class_names"]) == data.class_names
            and card["colors"] == data.colors.tolist())
