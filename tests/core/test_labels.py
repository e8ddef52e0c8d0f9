"""Class ids and colours, against the colours that the VOC devkit publishes."""

import numpy as np
import pytest

from utils.labels import VOID, VOID_COLOR, colors_to_ids, ids_to_colors, palette, voc_colormap

# background, aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, diningtable, dog,
# horse,
# motorbike, person, pottedplant, sheep, sofa, train, tvmonitor
PUBLISHED = [
    (0, 0, 0),
    (128, 0, 0),
    (0, 128, 0),
    (128, 128, 0),
    (0, 0, 128),
    (128, 0, 128),
    (0, 128, 128),
    (128, 128, 128),
    (64, 0, 0),
    (192, 0, 0),
    (64, 128, 0),
    (192, 128, 0),
    (64, 0, 128),
    (192, 0, 128),
    (64, 128, 128),
    (192, 128, 128),
    (0, 64, 0),
    (128, 64, 0),
    (0, 192, 0),
    (128, 192, 0),
    (0, 64, 128),
]


def test_colormap_is_the_published_one():
    colors = voc_colormap(21)
    assert colors.dtype == np.uint8 and colors.tolist() == [list(color) for color in PUBLISHED]


def test_colormap_has_256_different_colours_and_ends_with_void():
    colors = voc_colormap()
    assert colors.shape == (256, 3) and len(np.unique(colors, axis=0)) == 256
    assert tuple(colors[VOID]) == VOID_COLOR == (224, 224, 192)
    assert voc_colormap(0).shape == (0, 3)


@pytest.mark.parametrize("n", [-1, 257])
def test_colormap_says_how_many_colours_there_are(n):
    with pytest.raises(ValueError, match=f"n is {n}; a palette has 0 to 256"):
        voc_colormap(n)


def test_ids_and_colours_are_inverse():
    ids = np.random.default_rng(0).choice([*range(21), VOID], (37, 53)).astype(np.uint8)
    colors = voc_colormap(21)
    rgb = ids_to_colors(ids, colors)
    assert rgb.shape == (37, 53, 3) and rgb.dtype == np.uint8
    expected = [[PUBLISHED[i] if i != VOID else VOID_COLOR for i in row] for row in ids]
    assert (rgb == expected).all()
    back = colors_to_ids(rgb, colors)
    assert back.dtype == np.uint8 and (back == ids).all()


def test_class_wins_over_void_and_lower_id_over_higher():
    colors = np.uint8([[1, 2, 3], VOID_COLOR, [1, 2, 3]])
    assert colors_to_ids(colors[None], colors).tolist() == [[0, 1, 0]]


def test_unknown_colours_are_listed_with_their_pixels():
    rgb = np.zeros((4, 5, 3), np.uint8)
    rgb[0, :3] = (10, 20, 30)
    rgb[1, 0] = (255, 254, 253)
    with pytest.raises(
        ValueError,
        match=r"\(10, 20, 30\) at 3 pixels, \(255, 254, 253\) at 1 pixels\. Use the exact"
    ):
        colors_to_ids(rgb, voc_colormap(21))


def test_only_the_five_commonest_unknown_colours_are_listed():
    rgb = np.zeros((1, 8, 3), np.uint8)
    rgb[0, :, 0] = np.arange(1, 9)
    with pytest.raises(ValueError, match="and 3 more colours") as error:
        colors_to_ids(rgb, np.zeros((1, 3), np.uint8))
    assert str(error.value).count("pixels") == 5


@pytest.mark.parametrize(
    "rgb", [np.zeros((4, 5), np.uint8), np.zeros((4, 5, 4), np.uint8), np.zeros((4, 5, 3))]
)
def test_picture_must_be_uint8_rgb(rgb):
    with pytest.raises(ValueError, match=r"expected uint8 \(H, W, 3\)"):
        colors_to_ids(rgb, voc_colormap(3))


@pytest.mark.parametrize("shape", [(3, 4), (256, 3), (3,)])
def test_colour_table_must_fit(shape):
    with pytest.raises(ValueError, match="colors has shape .* 255"):
        colors_to_ids(np.zeros((1, 1, 3), np.uint8), np.zeros(shape, np.uint8))


@pytest.mark.parametrize("strange", [3, 254, -1, 256])
def test_ids_outside_the_classes_are_named(strange):
    with pytest.raises(ValueError,
                       match=rf"ids \[{strange}\] stand for no class; expected 0 to 2, or 255"):
        ids_to_colors(np.array([[0, 255, strange]]), voc_colormap(3))


def test_palette_has_classes_void_and_black_between():
    table = palette(voc_colormap(3))
    assert table.shape == (256, 3) and table.dtype == np.uint8
    assert ((table[:3] == PUBLISHED[:3]).all() and tuple(table[255]) == VOID_COLOR
            and not table[3:255].any())
