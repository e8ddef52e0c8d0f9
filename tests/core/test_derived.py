"""The recipe of a user's own data: from which masks, sizes and pixels it is derived."""

import numpy as np
import pytest

from utils.datasets import Dataset
from utils.labels import VOID
from utils.recipes import BACKBONE_VALUES, RECIPES, STRIDES, derive


class Drawn(Dataset):
    """A data set whose samples are the masks themselves."""

    def read(self, sample):
        return np.zeros((*sample.shape, 3), np.uint8), sample


def drawn(*masks, num_classes=2):
    names = tuple(f"class {i}" for i in range(num_classes))
    return Drawn("own", None, names, np.zeros((num_classes, 3), np.uint8), {"train": list(masks)})


def mask(height, width, share):
    """Class 1 in the first columns, class 0 in the others."""
    ids = np.zeros((height, width), np.uint8)
    ids[:, :int(share * width)] = 1
    return ids


def test_masks_are_taken_from_the_whole_list():
    masks = [mask(32, 32, 0)] * 150 + [mask(32, 32, 0.5)] * 150
    assert "25.0%" in drawn(*masks).recipe.reasons["class_weights"]


def test_void_has_no_share():
    ids = mask(32, 32, 0.25)
    ids[:, 16:] = VOID
    recipe = drawn(ids, ids).recipe
    assert "50.0%" in recipe.reasons["class_weights"] and recipe.class_weights == "none"


@pytest.mark.parametrize("pixels, amount, rule", [
    (1024, "10.0%", "none"), (205, "2.0%", "none"), (102, "1.0%", "root_median"),
    (5, "less than 0.1%", "root_median")])
def test_the_rarest_class_is_told_in_percent(pixels, amount, rule):
    ids = np.zeros(10240, np.uint8)
    ids[:pixels] = 1
    recipe = drawn(ids.reshape(80, 128)).recipe
    assert f" {amount} " in recipe.reasons["class_weights"] and recipe.class_weights == rule


@pytest.mark.parametrize("shapes, side", [
    ([(96, 200)] * 3, 96), ([(200, 96)] * 3, 96), ([(96, 96), (64, 64), (960, 960)], 96)])
def test_the_crop_follows_the_shorter_side_of_a_typical_photo(shapes, side):
    recipe = drawn(*(mask(*shape, 0.5) for shape in shapes)).recipe
    assert recipe.image_size == side and f"{side} pixels" in recipe.reasons["image_size"]


def test_the_recipe_of_the_same_photos_is_the_same():
    """Of large masks it looks at one window each, at random but not by chance."""
    ids = np.random.default_rng(0).integers(0, 2, (4, 900, 900), dtype=np.uint8)
    ids[:, :, 300:] = 0
    ids[:, 500:] = 1
    assert str(drawn(*ids).recipe) == str(drawn(*ids).recipe)


@pytest.mark.parametrize("stride", STRIDES)
def test_ninety_percent_of_the_masks_is_fine_enough(stride):
    def chosen(score):
        return derive(20, 256, [0.5, 0.5], {one: score if one == stride else float(one < stride)
                                           for one in STRIDES}).stride
    finer = {**dict(zip(STRIDES, STRIDES[1:])), STRIDES[-1]: STRIDES[-1]}
    assert chosen(0.905) == stride and chosen(0.895) == finer[stride]


@pytest.mark.parametrize("name", RECIPES)
def test_published_recipes_take_the_rate_of_their_backbone(name):
    recipe = RECIPES[name]
    usual = BACKBONE_VALUES[recipe.backbone]
    assert {key: getattr(recipe, key) for key in usual} == usual
    assert recipe.scale[0] < 1 < recipe.scale[1]
