"""Recipes: derived from the masks of own data, written down for published data sets."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from utils import models, oracles, training
from utils.datasets import load_dataset
from utils.metrics import confusion_matrix, scores
from utils.recipes import RECIPES, STRIDES, Recipe, derive

RESULTS = Path(__file__).resolve().parents[2] / "results"
SMOOTH = {32: 0.92, 16: 0.95, 8: 0.97, 4: 0.98, 2: 0.99}
FINE = {32: 0.44, 16: 0.54, 8: 0.77, 4: 0.95, 2: 0.98}
THREADS = {32: 0.1, 16: 0.2, 8: 0.3, 4: 0.5, 2: 0.7}


def derived(photos=24, side=512, shares=(0.5, 0.5), drawn=FINE):
    return derive(photos, side, np.array(shares), drawn)


@pytest.mark.parametrize("drawn, stride", [(SMOOTH, 32), (FINE, 4), (THREADS, 2)])
def test_the_stride_is_the_coarsest_that_can_draw_the_masks(drawn, stride):
    recipe = derived(drawn=drawn)
    assert recipe.stride == stride
    assert f"{drawn[8]:.2f}" in recipe.reasons["stride"]


def test_masks_that_show_nothing_where_they_are_measured_keep_the_papers_stride():
    assert derived(drawn=dict.fromkeys(STRIDES, np.nan)).stride == 32


@pytest.mark.parametrize("photos, low, high", [
    (1, 1500, 1500), (24, 1500, 1500), (60, 1500, 1515), (200, 2000, 2000), (367, 3680, 3680),
    (1560, 5800, 6200), (23_000, 5750, 5750), (200_000, 50_000, 50_000)])
def test_steps_have_a_floor_and_a_ceiling_but_every_photo_is_seen(photos, low, high):
    recipe = derived(photos=photos)
    assert low <= recipe.epochs * math.ceil(photos / recipe.batch_size) <= high
    assert min(recipe.epochs, 8) <= len(recipe.validation_epochs) <= 13
    assert recipe.validation_epochs[-1] == recipe.epochs


@pytest.mark.parametrize("shares, rule", [
    ((0.5, 0.5), "none"), ((0.97, 0.03), "none"), ((0.99, 0.01), "root_median"),
    ((0.7, 0.3, 0.0), "none")])  # a class that no mask shows is not rare but absent
def test_a_rare_class_brings_weights(shares, rule):
    assert derived(shares=shares).class_weights == rule


@pytest.mark.parametrize("side, crop, widest", [
    (20, 64, 0.7), (100, 128, 0.7), (192, 192, 0.7), (360, 256, 0.7), (966, 256, 0.53),
    (3000, 256, 0.25)])
def test_crop_and_zoom_follow_the_size_of_the_photos(side, crop, widest):
    recipe = derived(side=side)
    assert (recipe.image_size, recipe.scale[0]) == (crop, widest)
    assert recipe.scale[0] < 1 < recipe.scale[1]


def test_every_value_is_printed_with_its_reason():
    recipe = derived()
    for name in recipe.values():
        line = next(line for line in str(recipe).splitlines() if line.startswith(name))
        assert (str(recipe.values()[name]) in line and recipe.reasons[name] in line
                and recipe.reasons[name])


# From a folder


def striped(root, width, photos=3, size=96):
    """Write a data set whose masks are vertical stripes of two classes, `width` pixels each."""
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "classes.txt").write_text("0 odd 0 0 0\n1 even 255 255 255\n")
    mask = np.tile((np.arange(size) // width % 2).astype(np.uint8), (size, 1))
    for number in range(photos):
        Image.fromarray(mask * 200).save(root / f"JPEGImages/{number}.png")
        Image.fromarray(mask).save(root / f"SegmentationClass/{number}.png")
    names = "".join(f"{number}\n" for number in range(photos))
    for split in ("train", "val"):
        (root / f"ImageSets/Segmentation/{split}.txt").write_text(names)
    return load_dataset("voc", root)


def test_the_recipe_of_a_folder_comes_from_its_masks(tmp_path):
    wide, narrow = striped(tmp_path / "wide", 48), striped(tmp_path / "narrow", 3)
    assert wide.recipe.stride > narrow.recipe.stride
    for data in (wide, narrow):
        masks = [data.read(sample)[1] for sample in data.split("train")]
        for stride, drawn in oracles.by_stride(masks, 2).items():
            confusion = sum(confusion_matrix(m, oracles.bilinear_oracle(m, stride, 2), 2)
                            for m in masks)
            assert drawn == scores(confusion)["mean_iou"]
        assert data.recipe.image_size == 96 and data.recipe.epochs == 1500


def test_what_a_stride_can_draw_leaves_void_out_and_takes_absent_classes():
    mask = np.full((64, 64), 255, np.uint8)
    mask[:32] = 7
    assert (oracles.by_stride([mask, np.full((40, 70), 255, np.uint8)], 9)
            == dict.fromkeys(STRIDES, 1.0))


def test_a_faulty_mask_is_named(voc):
    photo, mask = load_dataset("voc", voc).split("train")[0]
    Image.fromarray(np.full((48, 64), 9, np.uint8)).save(mask)
    with pytest.raises(ValueError, match=mask.name):
        load_dataset("voc", voc).recipe


# Weights bring their backbone and its rate


def test_another_backbone_brings_its_rate_unless_one_is_given():
    recipe = derived()
    fine_tuned = recipe.override(backbone="vgg16")
    assert (fine_tuned.learning_rate, fine_tuned.optimizer) == (1e-4, "adam")
    assert fine_tuned.override(backbone="vgg_small") == recipe
    assert recipe.override(backbone="vgg16", learning_rate=1e-5).learning_rate == 1e-5
    assert recipe.override(learning_rate=1e-5).override(backbone="vgg16").learning_rate == 1e-5
    with pytest.raises(ValueError, match="backbone.*vgg16"):
        recipe.override(backbone="vgg61")


def test_weights_name_their_backbone(tmp_path, random_fcn):
    random_fcn(3).save(tmp_path / "model.keras")
    assert models.backbone_for("") == models.backbone_for(None) == ""
    assert (models.backbone_for("imagenet")
            == models.backbone_for("some/vgg16.weights.h5") == "vgg16")
    assert models.backbone_for("imagenet", "mobilenet_v2") == "mobilenet_v2"
    assert models.backbone_for("imagenet", "vgg_small") == "vgg16"
    assert (models.backbone_for(models.KEPT_MODEL) == models.backbone_for(tmp_path / "model.keras")
            == "vgg_small")


def test_training_takes_the_backbone_of_its_weights(tmp_path, voc, random_fcn):
    start = random_fcn(3)
    start.save(tmp_path / "start.keras")
    recipe = Recipe(image_size=32, epochs=1, backbone="vgg16", learning_rate=1e-4, stride=16)
    data = load_dataset("voc", voc)
    trained = training.train(data, recipe, tmp_path / "run", weights=tmp_path / "start.keras")
    assert trained.model.name == "fcn16s_vgg_small"
    kept = json.loads((tmp_path / "run" / "recipe.json").read_text())
    assert kept["backbone"]["value"] == "vgg_small" and kept["stride"]["value"] == 16
    with pytest.raises(ValueError, match="mobilenet_v2"):
        training.train(data, recipe.override(backbone="mobilenet_v2"), tmp_path / "other",
                       weights=tmp_path / "start.keras")


# What published data sets use


def differences(recipe, measured):
    """Values of a recipe that differ from the parameters that a result was measured with."""
    values = json.loads(json.dumps(recipe.values()))
    return {name for name in values.keys() & measured.keys() if values[name] != measured[name]}


def test_recipes_are_those_that_the_results_were_measured_with():
    meadow = json.loads((RESULTS / "meadow.json").read_text())["parameters"]
    kept = json.loads((RESULTS / "model" / "model.json").read_text())["parameters"]
    assert not differences(RECIPES["meadow"], meadow) and not differences(RECIPES["meadow"], kept)
    assert meadow.keys() >= RECIPES["meadow"].values().keys()
    rows = json.loads((RESULTS / "camvid.json").read_text())
    assert {row["parameters"]["stride"] for row in rows} == {32, 16, 8}
    assert all(differences(RECIPES["camvid"], row["parameters"]) <= {"stride"} for row in rows)
