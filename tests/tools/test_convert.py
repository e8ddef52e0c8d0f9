"""Your own photos and labels, in the forms that people have, become one layout; and the way back.

Expected masks are arrays made by hand, compared with what `load_dataset("voc", target)` serves.
"""

import base64
import errno
import hashlib
import io
import json
import os
import re
import shlex
import unicodedata
import zipfile

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw

from tools import convert as tool
from tools.check import check_dataset
from tools.convert import UsageError, convert
from tools.convert.__main__ import main
from tools.convert.classes import read_entries
from tools.convert.labelme import to_labelme
from utils.datasets import load_dataset
from utils.images import read_image

SIZE = HEIGHT, WIDTH = 12, 16
COLORS = [(0, 0, 0), (128, 0, 0), (0, 128, 0)]
NAMES = ("background", "horse", "sheep")
LABELMAP = (
    "# label:color_rgb:parts:actions\ncar:128,0,0::\nbackground:0,0,0::\ntraffic light:0,128,0::\n")


def ids_of(seed, classes=3):
    """A mask uint8 (12, 16) that holds all classes."""
    ids = np.random.default_rng(seed).integers(0, classes, SIZE, dtype=np.uint8)
    ids.flat[:classes] = range(classes)
    return ids


def pixels_of(seed, size=SIZE):
    return np.random.default_rng(seed + 1000).integers(0, 256, (*size, 3), dtype=np.uint8)


def save(path, array, colors=None, **how):
    """Save an array as a picture, with the colours of a palette if there are any."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(np.asarray(array, np.uint8))
    if colors is not None:
        picture.putpalette(np.uint8(colors).tobytes() + bytes(768 - 3 * len(colors)))
    picture.save(path, **how)


def pair(root, stem="a", mask=None, seed=0, photo="images/{}.png",
         label="masks/{}.png", colors=None):
    """Write one photo and its mask below `root`."""
    save(root / photo.format(stem), pixels_of(seed))
    save(root / label.format(stem), ids_of(seed) if mask is None else mask, colors)


@pytest.fixture
def source(tmp_path):
    """A folder with four photos and masks of ids 0 to 2, called a to d."""
    for seed, stem in enumerate("abcd"):
        pair(tmp_path / "source", stem, seed=seed)
    return tmp_path / "source"


@pytest.fixture
def target(tmp_path):
    return tmp_path / "target"


def served(target):
    """The data set of a converted folder, and stem -> (photo, mask) as training gets them."""
    dataset = load_dataset("voc", target)
    return dataset, {sample[1].stem: dataset.read(sample) for samples in dataset.splits.values()
                     for sample in samples}


def fingerprint(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [(str(path), path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
            for path in files]


def refusal(*arguments, **options):
    with pytest.raises(ValueError) as error:
        convert(*arguments, **options)
    return str(error.value)


# Masks of every kind


def test_ids_of_a_folder_are_served_unchanged(source, target):
    done = convert(source, target)
    dataset, pairs = served(target)
    assert pairs.keys() == set("abcd") and dataset.class_names == ("class_0", "class_1", "class_2")
    for seed, stem in enumerate("abcd"):
        assert (pairs[stem][0] == pixels_of(seed)).all() and (pairs[stem][1] == ids_of(seed)).all()
    assert (done.pixels
            == [*sum(np.bincount(ids_of(seed).ravel(), minlength=3) for seed in range(4)), 0])
    assert done.images == [4, 4, 4, 0]
    assert [problem for problem in check_dataset(dataset) if problem.severity == "error"] == []


def test_palette_masks_give_their_ids_and_colours(tmp_path, target):
    colors = [(10, 20, 30), (200, 50, 0), (0, 90, 200)]
    for seed, stem in enumerate("ab"):
        pair(tmp_path / "s", stem, seed=seed, colors=colors)
    convert(tmp_path / "s", target)
    dataset, pairs = served(target)
    assert dataset.colors.tolist() == [list(color) for color in colors]
    assert (pairs["b"][1] == ids_of(1)).all()


@pytest.mark.parametrize("table", [
    "0 background 0 0 0\n1 horse 128 0 0\n2 sheep 0 128 0\n",
    "background 0 0 0\nhorse 128 0 0  # 12 % of the pixels\n\nsheep 0 128 0\n",
    "name,r,g,b\nbackground, 0, 0, 0\nhorse, 128, 0, 0\nsheep, 0, 128, 0\n",
    "class_name,r,g,b\nbackground,0,0,0\nhorse,128,0,0\nsheep,0,128,0\n",
    "0 0 0\tbackground\n128 0 0\thorse\n0 128 0\tsheep\n",
    "# label:color_rgb:parts:actions\nbackground:0,0,0::\nhorse:128,0,0::\nsheep:0,128,0::\n",
])
def test_colour_masks_go_by_the_table_in_any_usual_form(tmp_path, target, table):
    for seed, stem in enumerate("ab"):
        pair(tmp_path / "s", stem, mask=np.uint8(COLORS)[ids_of(seed)], seed=seed)
    (tmp_path / "table.txt").write_text(table, encoding="utf-8")
    convert(tmp_path / "s", target, classes=tmp_path / "table.txt")
    dataset, pairs = served(target)
    assert (dataset.class_names == NAMES
            and dataset.colors.tolist() == [list(color) for color in COLORS])
    assert (pairs["a"][1] == ids_of(0)).all() and (pairs["b"][1] == ids_of(1)).all()


def test_colour_masks_may_have_void_amid_their_classes(tmp_path, target):
    for seed, stem in enumerate("ab"):
        pair(tmp_path / "s", stem, mask=np.uint8(COLORS)[ids_of(seed)], seed=seed)
    (tmp_path / "s"
     / "class_dict.csv").write_text("name,r,g,b\nroad,0,0,0\nVoid,128,0,0\ncar,0,128,0\n")
    convert(tmp_path / "s", target)
    dataset, pairs = served(target)
    assert (dataset.class_names == ("road", "car")
            and (pairs["b"][1] == np.uint8([0, 255, 1])[ids_of(1)]).all())


def test_palettes_that_tell_no_classes_apart_are_not_taken(tmp_path, target):
    for seed, stem in enumerate("ab"):
        pair(tmp_path / "s", stem, seed=seed, colors=[(i, i, i) for i in range(256)])
    convert(tmp_path / "s", target)
    assert served(target)[0].colors.tolist() == [[0, 0, 0], [128, 0, 0], [0, 128, 0]]


def test_colour_masks_without_a_table_get_a_draft_of_one(tmp_path, target):
    for seed, stem in enumerate("ab"):
        pair(tmp_path / "s", stem, mask=np.uint8(COLORS)[ids_of(seed)], seed=seed)
    said = refusal(tmp_path / "s", target)
    assert "--classes FILE" in said and "fault" not in said
    draft = re.findall(r"^ *(NAME .*)", said, re.MULTILINE)
    named = [line.replace("NAME", f"thing{i}") for i, line in enumerate(draft)]
    (tmp_path / "table.txt").write_text("\n".join(named))
    convert(tmp_path / "s", target, classes=tmp_path / "table.txt")
    dataset, pairs = served(target)
    assert (dataset.colors[pairs["a"][1]] == np.uint8(COLORS)[ids_of(0)]).all()


def test_a_draft_begins_with_the_most_frequent_colours(tmp_path, target):
    mask = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    mask[:20], mask[20:30] = COLORS[2], COLORS[1]
    save(tmp_path / "s" / "images" / "a.png", pixels_of(0, (40, 40)))
    save(tmp_path / "s" / "masks" / "a.png", mask)
    draft = re.findall(r"NAME (\d+ \d+ \d+)", refusal(tmp_path / "s", target))
    assert draft[:2] == ["0 128 0", "128 0 0"]


def test_unknown_colours_are_listed_with_their_pixels(tmp_path, target):
    mask = np.uint8(COLORS)[ids_of(0)]
    mask[2, 3:6] = (9, 9, 200)
    pair(tmp_path / "s", "a", mask=mask)
    pair(tmp_path / "s", "b", mask=np.uint8(COLORS)[ids_of(1)])
    (tmp_path / "s" / "classes.txt").write_text("background 0 0 0\nhorse 128 0 0\nsheep 0 128 0\n")
    said = refusal(tmp_path / "s", target)
    assert "a.png" in said and "(9, 9, 200) at 3 pixels" in said and "1 fault" in said


def test_grey_ids_in_three_channels_are_ids(tmp_path, target):
    for seed, stem in enumerate("ab"):
        pair(tmp_path / "s", stem, mask=np.repeat(ids_of(seed)[..., None], 3, axis=2), seed=seed)
    convert(tmp_path / "s", target, classes="background,horse,sheep")
    assert (served(target)[1]["b"][1] == ids_of(1)).all()


def test_files_in_colour_among_many_in_ids_are_not_misread(source, target):
    save(source / "masks" / "a.png", np.uint8(COLORS)[ids_of(0)])
    assert "colour" in refusal(source, target, classes=["background", "horse", "sheep"])
    (source / "classes.txt").write_text("background 0 0 0\nhorse 128 0 0\nsheep 0 128 0\n")
    said = refusal(source, target)
    assert "3 faults" in said and all(f"{stem}.png" in said for stem in "bcd")


def test_palettes_that_number_colours_differently_are_not_believed(tmp_path, target):
    swapped = [COLORS[0], COLORS[2], COLORS[1]]
    pair(tmp_path / "s", "a", colors=COLORS)
    pair(tmp_path / "s", "b", mask=np.uint8([0, 2, 1])[ids_of(1)], seed=1, colors=swapped)
    assert "palettes" in refusal(tmp_path / "s", target)
    (tmp_path / "s" / "classes.txt").write_text("background 0 0 0\nhorse 128 0 0\nsheep 0 128 0\n")
    convert(tmp_path / "s", target)
    pairs = served(target)[1]
    assert (pairs["a"][1] == ids_of(0)).all() and (pairs["b"][1] == ids_of(1)).all()


def test_names_alone_in_the_source_do_not_make_such_palettes_right(tmp_path, target):
    pair(tmp_path / "s", "a", colors=COLORS)
    pair(tmp_path / "s", "b", seed=1, colors=[COLORS[0], COLORS[2], COLORS[1]])
    (tmp_path / "s" / "classes.txt").write_text("background\nhorse\nsheep\n")
    assert "palettes" in refusal(tmp_path / "s", target)
    convert(tmp_path / "s", target, classes=str(tmp_path / "s" / "classes.txt"))
    assert (served(target)[1]["b"][1] == ids_of(1)).all()


def test_white_on_black_is_never_taken_for_void(tmp_path, target):
    for seed, stem in enumerate("ab"):
        pair(tmp_path / "s", stem, mask=255 * ids_of(seed, 2), seed=seed)
    said = refusal(tmp_path / "s", target, classes="background,horse,sheep")
    assert "0 and 255" in said and "--map 255=1" in said
    convert(tmp_path / "s", target, classes="background,horse", id_map={255: 1})
    dataset, pairs = served(target)
    assert dataset.class_names == ("background", "horse")
    assert (pairs["a"][1] == ids_of(0, 2)).all() and (pairs["b"][1] == ids_of(1, 2)).all()


def test_255_in_another_colour_than_white_is_asked_about(tmp_path, target):
    """As in VOC's palette, which paints void in cream."""
    cream = [(0, 0, 0)] * 255 + [(224, 224, 192)]
    for seed, stem in enumerate("ab"):
        pair(tmp_path / "s", stem, mask=255 * ids_of(seed, 2), seed=seed, colors=cream)
    said = refusal(tmp_path / "s", target)
    assert "--map 255=1" in said and "--void 255" in said


def test_masks_in_the_format_of_phones_are_jpegs(tmp_path, target):
    pair(tmp_path / "s")
    masks = [Image.fromarray(255 * ids_of(seed, 2)) for seed in (0, 1)]
    masks[0].save(tmp_path / "s" / "masks" / "a.png", "MPO", save_all=True, append_images=masks[1:])
    assert "is a JPEG inside" in refusal(tmp_path / "s", target)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_binary_takes_smoothed_and_compressed_white_on_black(tmp_path, target, suffix):
    blocks = [ids_of(seed, 2)[::4, ::4].repeat(4, 0).repeat(4, 1) for seed in (0, 1)]
    for seed, (stem, block) in enumerate(zip("ab", blocks)):
        pair(tmp_path / "s", stem, seed=seed)
        (tmp_path / "s" / "masks" / f"{stem}.png").unlink()
        save(tmp_path / "s" / "masks" / f"{stem}.{suffix}", 20 + 210 * block)
    if suffix == "jpg":
        assert "is a JPEG inside" in refusal(tmp_path / "s", target)
    convert(tmp_path / "s", target, binary=True)
    dataset, pairs = served(target)
    assert dataset.class_names == ("background", "foreground")
    assert all((pairs[stem][1] == block).all() for stem, block in zip("ab", blocks))


def test_binary_takes_128_and_brighter_for_the_foreground(tmp_path, target):
    greys = np.arange(64, 256, dtype=np.uint8).reshape(12, 16)
    pair(tmp_path / "s", "a")
    save(tmp_path / "s" / "masks" / "a.png", greys)
    convert(tmp_path / "s", target, binary=True, val=0)
    np.testing.assert_array_equal(served(target)[1]["a"][1], greys // 128)


def test_binary_masks_may_be_white_all_over(tmp_path, target):
    pair(tmp_path / "s", mask=np.full(SIZE, 255))
    convert(tmp_path / "s", target, binary=True, val=0)
    assert (served(target)[1]["a"][1] == 1).all()


def test_void_is_255_and_what_is_said_to_be(tmp_path, target):
    ids = ids_of(0, 4)
    ids[5, 5] = 255
    for seed, stem in enumerate("ab"):
        pair(tmp_path / "s", stem, seed=seed, mask=ids)
    convert(tmp_path / "s", target, void=(3,))
    dataset, pairs = served(target)
    assert dataset.num_classes == 3
    assert (pairs["a"][1] == np.where(ids == 3, 255, ids)).all()


@pytest.mark.parametrize("name, void", [
    ("void", ()), ("Ignored", ()), ("unlabelled", ("unlabelled",))])
def test_classes_called_void_are_left_out_and_the_others_move_up(tmp_path, target, name, void):
    for seed, stem in enumerate("ab"):
        pair(tmp_path / "s", stem, seed=seed)
    convert(tmp_path / "s", target, classes=["grass", name, "sheep"], void=void)
    dataset, pairs = served(target)
    assert dataset.class_names == ("grass", "sheep")
    assert (pairs["a"][1] == np.uint8([0, 255, 1])[ids_of(0)]).all()


def test_gaps_in_ids_are_asked_about_and_the_answer_works(tmp_path, target):
    for seed, stem in enumerate("ab"):
        pair(tmp_path / "s", stem, mask=np.uint8([0, 100, 200])[ids_of(seed)], seed=seed)
    said = refusal(tmp_path / "s", target)
    assert "0, 100, 200" in said and "--map 100=1,200=2" in said and "255 is void" in said
    convert(tmp_path / "s", target, id_map={100: 1, 200: 2})
    assert (served(target)[1]["b"][1] == ids_of(1)).all()


def test_a_list_of_classes_may_number_them_as_the_masks_do(tmp_path, target):
    for seed, stem in enumerate("ab"):
        pair(tmp_path / "s", stem, mask=np.uint8([7, 11, 26])[ids_of(seed)], seed=seed)
    (tmp_path / "s" / "classes.txt").write_text("7 road\n11 building\n26 car\n")
    convert(tmp_path / "s", target)
    dataset, pairs = served(target)
    assert dataset.class_names == ("road", "building", "car") and (pairs["a"][1] == ids_of(0)).all()


def test_ids_that_no_class_has_are_faults(source, target):
    mask = ids_of(0)
    mask[0, :4] = 77
    save(source / "masks" / "a.png", mask)
    said = refusal(source, target, classes="background,horse,sheep")
    assert "a.png: 4 pixels have the ids [77]" in said and "1 fault" in said


def test_the_list_of_labelme_numbers_from_background(tmp_path, target):
    for seed, stem in enumerate("ab"):
        pair(tmp_path / "s", stem, seed=seed)
    (tmp_path / "s" / "labels.txt").write_text("__ignore__\n_background_\nhorse\nsheep\n")
    convert(tmp_path / "s", target)
    dataset, pairs = served(target)
    assert dataset.class_names == NAMES and (pairs["a"][1] == ids_of(0)).all()


@pytest.mark.parametrize("text, said", [
    ("background\nhorse\nhorse\n", "duplicate name horse"),
    ("a 1 2 3\nb 1 2 3\n", "duplicate colour"),
    ("0 a\n300 b\n", "found '300 b'"),
    ("a 1 2 300\n", "found 'a 1 2 300'"),
    ("\n# nothing\n", "holds no class"),
])
def test_faulty_lists_of_classes_are_refused(tmp_path, text, said):
    (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(ValueError, match=said):
        read_entries(tmp_path / "classes.txt")


def test_names_of_classes_may_hold_number_signs_and_colons(tmp_path):
    (tmp_path / "classes.txt").write_text("C# 0 0 0\nbolt_#1 9 8 7  # a bolt\na:b:c 1 2 3\n")
    entries = read_entries(tmp_path / "classes.txt")
    assert [entry.name for entry in entries] == ["C#", "bolt_#1", "a:b:c"]
    assert [entry.color for entry in entries] == [(0, 0, 0), (9, 8, 7), (1, 2, 3)]


# Photos and masks that belong together


@pytest.mark.parametrize("photo, label, stem, split", [
    ("images/{}.jpg", "masks/{}_mask.png", "a", ""),
    ("imgs/{}.jpg", "labels/{}_L.png", "a", ""),
    ("JPEGImages/{}.jpg", "SegmentationClass/{}.png", "a", ""),
    ("images/{}_sat.jpg", "masks/{}_mask.png", "a_sat", ""),
    ("images/{}.jpg", "masks/{}.jpg.png", "a", ""),
    ("images/cam 1/{}.jpg", "masks/cam 1/{}.png", "cam_1_a", ""),
    ("images/cam/{}.jpg", "masks/{}.png", "cam_a", ""),
    ("images/train/{}.jpg", "masks/train/{}.png", "train_a", "train"),
    ("train/images/{}.jpg", "train/masks/{}.png", "train_a", "train"),
    ("train/{}.jpg", "train_labels/{}_L.png", "train_a", "train"),
    ("train/{}.jpg", "trainannot/{}.png", "train_a", "train"),
    ("{}.jpg", "{}_mask.png", "a", ""),
    ("{}.jpg", "{}.png", "a", ""),
    ("outer/images/{}.jpg", "outer/masks/{}.png", "a", ""),
])
def test_pairs_are_found_under_the_usual_names(tmp_path, target, photo, label, stem, split):
    for seed, name in enumerate("abc"):
        pair(tmp_path / "s", name, seed=seed, photo=photo, label=label)
    convert(tmp_path / "s", target)
    dataset, pairs = served(target)
    assert len(pairs) == 3 and (pairs[stem][1] == ids_of(0)).all()
    assert set(dataset.splits) == {"train", "val"}


def test_folders_and_endings_can_be_said(tmp_path, target):
    for seed, stem in enumerate("ab"):
        pair(tmp_path / "s", stem, seed=seed, photo="left/{}_left.png",
             label="fine/{}_left_ids.png")
        save(tmp_path / "s" / "fine" / f"{stem}_left_color.png", pixels_of(3))
    assert "Name them with --images" in refusal(tmp_path / "s", target)
    convert(tmp_path / "s", target, images="left", masks=tmp_path / "s" / "fine",
            mask_suffix="_ids")
    assert (served(target)[1]["a_left"][1] == ids_of(0)).all()


def test_hidden_twins_of_macos_are_no_photos(tmp_path, target):
    for seed, stem in enumerate(["day 1/a", "day 1/b"]):
        pair(tmp_path / "s", stem, seed=seed)
    for name in ("images/day 1/._a.png", "masks/day 1/._a.png", "images/day 1/__MACOSX/a.png"):
        (tmp_path / "s" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "s" / name).write_bytes(b"Apple")
    convert(tmp_path / "s", target)
    assert sorted(served(target)[1]) == ["day_1_a", "day_1_b"]


@pytest.mark.skipif(os.name == "nt", reason="Windows lets few users make links")
def test_folders_that_are_links_are_read(source, target, tmp_path):
    (source / "images").rename(tmp_path / "disk")
    (source / "images").mkdir()
    (source / "images" / "cam").symlink_to(tmp_path / "disk")
    for folder in ("images", "masks"):
        (source / folder / "up").symlink_to(source)  # a circle
    convert(source, target)
    assert served(target)[1].keys() == {"cam_a", "cam_b", "cam_c", "cam_d"}


def test_names_with_composed_and_combining_letters_mean_the_same(tmp_path, target):
    """macOS writes an e and its accent as two letters, most others as one."""
    for seed, stem in enumerate(["caf\u00e9 1", "caf\u00e9 2"]):
        pair(tmp_path / "s", stem, seed=seed)
        photo = tmp_path / "s" / "images" / f"{stem}.png"
        photo.rename(photo.with_name(unicodedata.normalize("NFD", photo.name)))
    convert(tmp_path / "s", target)
    assert (served(target)[1]["caf\u00e9_2"][1] == ids_of(1)).all()


@pytest.mark.parametrize("photos, mask, left", [
    (["0", "0_rgb"], "0", "0_rgb"), (["img_z", "z"], "z_mask", "img_z"),
    (["0_rgb", "img_0"], "0_mask", "img_0")])
def test_a_mask_belongs_to_one_photo(tmp_path, target, photos, mask, left):
    for seed, stem in enumerate(photos):
        save(tmp_path / "s" / "images" / f"{stem}.png", pixels_of(seed))
    save(tmp_path / "s" / "masks" / f"{mask}.png", ids_of(0))
    said = refusal(tmp_path / "s", target)
    assert "1 fault" in said and f"{left}.png: has no mask" in said


def test_a_folder_whose_masks_are_called_otherwise_is_not_dropped(tmp_path, target):
    for seed, (folder, masks) in enumerate({"day1": "masks", "day2": "label_maps"}.items()):
        pair(tmp_path / "s", "a", seed=seed, photo=f"{folder}/images/{{}}.png",
             label=f"{folder}/{masks}/{{}}.png")
    said = refusal(tmp_path / "s", target)
    assert "day2/label_maps/a.png: is a mask" in said and "day2/images/a.png: has no mask" in said


def test_an_exact_name_goes_before_an_ending(tmp_path, target):
    for seed, stem in enumerate(["car", "car_l", "bus"]):
        pair(tmp_path / "s", stem, seed=seed)
    convert(tmp_path / "s", target)
    pairs = served(target)[1]
    assert (pairs["car"][1] == ids_of(0)).all() and (pairs["car_l"][1] == ids_of(1)).all()


def test_photos_without_masks_can_be_skipped_or_show_background(source, target):
    (source / "masks" / "b.png").unlink()
    assert "b.png: has no mask" in refusal(source, target)
    convert(source, target, missing="skip")
    assert served(target)[1].keys() == set("acd")
    done = convert(source, target.with_name("other"), missing="background")
    assert (served(target.with_name("other"))[1]["b"][1] == 0).all()
    assert any("1 photo without a mask" in note for note in done.notes)


@pytest.mark.parametrize("classes, shown", [("road,sky,car", 255), ("sky,background,car", 1)])
def test_photos_without_masks_show_the_class_called_background_or_void(source, target, classes,
                                                                       shown):
    (source / "masks" / "b.png").unlink()
    convert(source, target, missing="background", classes=classes)
    assert (served(target)[1]["b"][1] == shown).all()


def test_a_split_folder_without_masks_is_left_out(tmp_path, target):
    for seed, stem in enumerate("abc"):
        pair(tmp_path / "s", stem, seed=seed, photo="train/{}.png", label="train_masks/{}_mask.png")
    save(tmp_path / "s" / "test" / "d.png", pixels_of(3))
    done = convert(tmp_path / "s", target)
    assert served(target)[1].keys() == {"train_a", "train_b", "train_c"}
    assert any("left out: test, which has photos and no masks" in note for note in done.notes)


def test_a_mask_that_fits_photos_of_two_folders_is_nobodys(tmp_path, target):
    for folder in ("cam1", "cam2"):
        save(tmp_path / "s" / "images" / folder / "1.png", pixels_of(len(folder)))
    pair(tmp_path / "s", "2", photo="images/cam1/{}.png")
    save(tmp_path / "s" / "masks" / "1.png", ids_of(0))
    assert "1.png" in refusal(tmp_path / "s", target)


def test_split_folders_may_have_a_year(tmp_path, target):
    for seed, folder in enumerate(("train2017", "train2017", "val2017")):
        pair(tmp_path / "s", f"{seed}", seed=seed, photo=f"images/{folder}/{{}}.png",
             label=f"masks/{folder}/{{}}.png")
    assert convert(tmp_path / "s", target).splits == {"train": 2, "val": 1}


@pytest.mark.parametrize("format", ["folder", "labelme"])
def test_split_folders_may_lie_in_other_folders(tmp_path, target, format):
    for seed, folder in enumerate(("a/train", "b/train", "b/val")):
        if format == "folder":
            pair(tmp_path / "s", f"{folder}/1", seed=seed)
        else:
            labelled(tmp_path / "s" / folder, "1", shape("cow", (2, 2), (9, 2), (9, 9)))
    assert convert(tmp_path / "s", target).splits == {"train": 2, "val": 1}


def test_further_pages_of_a_photo_are_pointed_out(source, target):
    pages = [Image.fromarray(pixels_of(seed)) for seed in range(3)]
    (source / "images" / "a.png").unlink()
    pages[0].save(source / "images" / "a.tif", save_all=True, append_images=pages[1:])
    assert any("first page" in note and "a.tif" in note for note in convert(source, target).notes)


def test_several_masks_of_one_photo_are_a_fault(source, target):
    (source / "masks" / "a.png").rename(source / "masks" / "a_mask.png")
    save(source / "masks" / "a_gt.png", ids_of(0))
    assert "a.png: has 2 masks: a_gt.png, a_mask.png" in refusal(source, target)


def test_names_that_fit_nowhere_are_shown(tmp_path, target):
    pair(tmp_path / "s", "a")
    (tmp_path / "s" / "masks" / "a.png").rename(tmp_path / "s" / "masks" / "mask of a.png")
    said = refusal(tmp_path / "s", target)
    assert "images/a.png: " in said and "mask of a.png: " in said and "--mask-suffix" in said


def test_stems_that_would_become_equal_are_refused(source, target):
    pair(source, "x y")
    pair(source, "x_y")
    said = refusal(source, target)
    assert "x y.png: would get the name x_y" in said and "2 faults" in said
    convert(source, target, skip_faulty=True)
    assert served(target)[1].keys() == set("abcd")


# Photos as people have them


def test_stems_that_differ_in_case_alone_are_refused(tmp_path, target):
    """Windows and macOS take one for the other."""
    for seed, stem in enumerate(["b/A", "b_a", "c"]):
        pair(tmp_path / "s", stem, seed=seed)
    said = refusal(tmp_path / "s", target)
    assert said.count("would get the name b_a") == 2


def test_plain_photos_are_copied_byte_for_byte(tmp_path, target):
    root = tmp_path / "s"
    kinds = {"a.JPG": {"quality": 80}, "b.png": {}, "c.webp": {"lossless": True}, "d.bmp": {}}
    for name, how in kinds.items():
        save(root / "images" / name, pixels_of(0), **how)
        save(root / "masks" / f"{name[0]}.png", ids_of(0))
    save(root / "images" / "e.png", pixels_of(0)[..., 0])
    save(root / "masks" / "e.png", ids_of(0))
    convert(root, target)
    served(target)
    for name in [*kinds, "e.png"]:
        kept = (target / "JPEGImages" / name).with_suffix(f".{name[2:].lower()}")
        assert kept.read_bytes() == (root / "images" / name).read_bytes()


def test_other_photos_become_png_with_the_pixels_that_are_read(tmp_path, target):
    root, alpha = tmp_path / "s", np.dstack([pixels_of(0), pixels_of(1)[..., 0]])
    (root / "images").mkdir(parents=True)
    Image.fromarray(alpha).save(root / "images" / "alpha.png")
    Image.fromarray(pixels_of(1)).convert("CMYK").save(root / "images" / "cmyk.jpg")
    Image.fromarray(pixels_of(2)[..., 0].astype(np.uint16) * 257).save(root / "images" / "deep.png")
    cv2.imwrite(str(root / "images" / "deeper.png"), pixels_of(4).astype(np.uint16) * 257)
    Image.fromarray(pixels_of(3)).convert("P").save(root / "images" / "palette.png")
    stems = ("alpha", "cmyk", "deep", "deeper", "palette")
    for stem in stems:
        save(root / "masks" / f"{stem}.png", ids_of(0))
    convert(root, target)
    assert (sorted(path.name for path in (target / "JPEGImages").iterdir())
            == [f"{stem}.png" for stem in stems])
    for stem, path in zip(stems, sorted((root / "images").iterdir())):
        with Image.open(target / "JPEGImages" / f"{stem}.png") as stored:
            assert stored.mode == "RGB" and (np.array(stored) == read_image(path)).all()
        # bits per channel, in a PNG's header
        assert (target / "JPEGImages" / f"{stem}.png").read_bytes()[24] == 8


def turned(path, upright, orientation=6):
    """Save a photo as a camera held sideways does: turned, with a tag that turns it back."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    save(path, np.rot90(upright, {6: 1, 3: 2}[orientation]), exif=exif)


def test_turned_photos_are_stored_upright_beside_their_masks(tmp_path, target):
    for seed, stem in enumerate("ab"):
        pair(tmp_path / "s", stem, seed=seed)
        turned(tmp_path / "s" / "images" / f"{stem}.png", pixels_of(seed))
    done = convert(tmp_path / "s", target)
    with Image.open(target / "JPEGImages" / "b.png") as stored:
        assert 0x0112 not in stored.getexif() and (np.array(stored) == pixels_of(1)).all()
    assert ((served(target)[1]["b"][1] == ids_of(1)).all()
            and not any("EXIF" in note for note in done.notes))


def test_masks_of_photos_as_stored_are_a_fault_that_an_option_mends(tmp_path, target):
    for seed, stem in enumerate("ab"):
        pair(tmp_path / "s", stem, mask=np.rot90(ids_of(seed)), seed=seed)
        turned(tmp_path / "s" / "images" / f"{stem}.png", pixels_of(seed))
    said = refusal(tmp_path / "s", target)
    assert "It fits the photo as stored" in said and "--ignore-exif" in said
    convert(tmp_path / "s", target, ignore_exif=True)
    image, mask = served(target)[1]["b"]
    assert (image == np.rot90(pixels_of(1))).all() and (mask == np.rot90(ids_of(1))).all()


def test_photos_upside_down_are_pointed_out(source, target):
    turned(source / "images" / "a.png", pixels_of(0), orientation=3)
    notes = convert(source, target).notes
    assert any("EXIF tags turn 1 photo, such as a.png" in note for note in notes)


# Splits


def lists_of(target):
    return {path.stem: path.read_text().split()
            for path in (target / "ImageSets" / "Segmentation").iterdir()}


def test_the_random_split_is_seeded_stored_and_disjoint(tmp_path, target):
    for seed in range(20):
        pair(tmp_path / "s", f"{seed:02}", seed=seed)
    convert(tmp_path / "s", target)
    first = lists_of(target)
    assert {split: len(stems) for split, stems in first.items()} == {"train": 16, "val": 4}
    assert sorted(first["train"] + first["val"]) == [f"{seed:02}" for seed in range(20)]
    convert(tmp_path / "s", tmp_path / "again")
    convert(tmp_path / "s", tmp_path / "other", seed=1)
    assert lists_of(tmp_path / "again") == first != lists_of(tmp_path / "other")
    convert(tmp_path / "s", tmp_path / "three", val=0.15, test=0.15)
    assert ([len(lists_of(tmp_path / "three")[split])
             for split in ("train", "val", "test")] == [14, 3, 3])


@pytest.mark.parametrize("folder, names", [("", {"train": "train.txt", "val": "valid.txt"}),
                                           ("ImageSets/Segmentation",
                                            {"train": "Train.txt", "val": "Validation.txt"})])
@pytest.mark.parametrize("line", ["{}", "{}.png", "{} 1", "images/{}.png",
                                  "/elsewhere/images/{}.png /elsewhere/masks/{}.png"])
def test_lists_of_the_source_are_kept(source, target, folder, names, line):
    (source / folder).mkdir(parents=True, exist_ok=True)
    (source / folder
     / names["train"]).write_text("".join(line.format(stem, stem) + "\n" for stem in "ca"))
    (source / folder / names["val"]).write_text(line.format("b", "b") + "\n")
    if folder:
        (source / folder / "trainval.txt").write_text("a\nb\nc\nd\n")
    done = convert(source, target)
    assert lists_of(target) == {"train": ["a", "c"], "val": ["b"]}
    assert any("no list names them: 1 photo" in note for note in done.notes)


def test_masks_that_no_list_names_need_no_photo(source, target):
    (source / "train.txt").write_text("a\nb\n")
    (source / "val.txt").write_text("c\n")
    (source / "images" / "d.png").unlink()
    convert(source, target)
    assert served(target)[1].keys() == set("abc")


def test_a_source_without_val_gets_one_from_train(source, target):
    (source / "train.txt").write_text("a\nb\nc\n")
    (source / "test.txt").write_text("d\n")
    convert(source, target)
    lists = lists_of(target)
    assert lists["test"] == ["d"] and len(lists["val"]) == 1
    assert sorted(lists["train"] + lists["val"]) == ["a", "b", "c"]
    (source / "test.txt").rename(source / "val.txt")
    convert(source, target.with_name("other"), test=0.3)
    lists = lists_of(target.with_name("other"))
    assert lists["val"] == ["d"] and len(lists["test"]) == 1 and len(lists["train"]) == 2


def test_faulty_lists_are_faults(source, target):
    (source / "train.txt").write_text("a\nb\nghost\n")
    (source / "val.txt").write_text("b\nc\n")
    said = refusal(source, target)
    assert "train.txt: names 'ghost', and no labelled photo" in said
    assert "val.txt: names 'b', which the list of train" in said


def test_a_line_of_a_list_means_no_photo_of_another_folder(tmp_path, target):
    """Cameras number their photos alike: b/1 is not a/1, and 11 is not 1."""
    for seed, stem in enumerate(["b/1", "b/11", "b/2"]):
        pair(tmp_path / "s", stem, seed=seed)
    (tmp_path / "s" / "train.txt").write_text("b/1\nb/2\n")
    for line in ("a/1", "1/1", "b/111", "2b/1"):
        (tmp_path / "s" / "val.txt").write_text(f"{line}\n")
        assert f"names {line!r}, and no labelled photo" in refusal(tmp_path / "s", target)
    (tmp_path / "s" / "val.txt").write_text("b/11\n")
    convert(tmp_path / "s", target)
    assert (target / "ImageSets" / "Segmentation" / "val.txt").read_text() == "b_11\n"


def test_a_split_that_the_source_has_is_not_drawn_again(source, target):
    (source / "train.txt").write_text("a\nb\n")
    (source / "val.txt").write_text("c\n")
    with pytest.raises(UsageError, match="--val 0.3: the source has this split already"):
        convert(source, target, val=0.3)


def test_one_photo_cannot_be_split(tmp_path, target):
    pair(tmp_path / "s")
    assert re.search("1 photo .*--val 0", refusal(tmp_path / "s", target))
    convert(tmp_path / "s", target, val=0)
    assert lists_of(target) == {"train": ["a"]}


# Faults, all of them, and nothing written


@pytest.fixture
def faulty(source):
    """Of the four photos one is fine; and there is one fault of each kind."""
    pair(source, "e", seed=4)
    (source / "masks" / "a.png").unlink()
    save(source / "masks" / "orphan.png", ids_of(0))
    save(source / "masks" / "b.png", ids_of(0)[:8])
    (source / "images" / "c.png").write_bytes((source / "images" / "c.png").read_bytes()[:150])
    (source / "masks" / "d.png").write_bytes(b"")
    return source


def test_all_faults_are_listed_and_nothing_is_written(faulty, target):
    before = fingerprint(faulty)
    said = refusal(faulty, target)
    for sentence in ("5 faults", "a.png: has no mask in",
                     "orphan.png: is a mask, and its photo is not in",
                     "b.png: the mask is 16x8 pixels, its photo b.png 16x12",
                     "c.png: the image is damaged",
                     "d.png: the file is empty"):
        assert sentence in said
    assert ([path.name for path in target.parent.iterdir()] == ["source"]
            and fingerprint(faulty) == before)


def test_faulty_files_can_be_left_out(faulty, target):
    save(faulty / "images" / "f.png", pixels_of(5))
    save(faulty / "masks" / "f.png", ids_of(5))
    done = convert(faulty, target, skip_faulty=True)
    assert served(target)[1].keys() == {"e", "f"} and len(done.skipped) == 5
    assert (target / "conversion.txt").read_text().splitlines()[-5:] == done.skipped


@pytest.mark.parametrize("lost", ["train", "val"])
def test_a_split_of_faulty_files_alone_cannot_be_left_out(tmp_path, target, lost):
    for seed, name in enumerate(("train/a", "train/b", "val/c")):
        pair(tmp_path / "s", name, seed=seed, mask=ids_of(0)[:8] if lost in name else None)
    said = refusal(tmp_path / "s", target, skip_faulty=True)
    assert f"nothing of {lost} is left" in said and f"{lost}/" in said and not target.exists()


def test_the_target_must_be_new_or_empty_and_outside_the_source(source, target):
    (target / "sub").mkdir(parents=True)
    with pytest.raises(UsageError, match="is there already, and not empty"):
        convert(source, target)
    (target / "sub").rmdir()
    convert(source, target)
    with pytest.raises(UsageError, match="inside .*source"):
        convert(source, source / "new")


def test_a_broken_conversion_leaves_nothing_behind(source, target, monkeypatch, capsys):
    before = fingerprint(source)
    for error, code in ((OSError(28, "No space left on device"), 1), (KeyboardInterrupt(), 130)):
        monkeypatch.setattr("tools.convert.write.write_mask", lambda *_,
                            error=error: (_ for _ in ()).throw(error))
        with pytest.raises(type(error)):
            convert(source, target)
        assert main([str(source), str(target)]) == code
        assert "othing was written" in capsys.readouterr().err
        assert [path.name for path in target.parent.iterdir()] == ["source"]
    assert fingerprint(source) == before


def test_the_next_commands_can_be_typed_as_they_stand(source, tmp_path, capsys):
    one, other = tmp_path / "my set", tmp_path / "to correct"
    assert main([str(source), str(one)]) == 0
    check, run = map(shlex.split, capsys.readouterr().out.splitlines()[-2:])
    assert check == ["python", "-m", "tools.check", str(one)]
    assert run == ["python", "-m", "tools.run", "--dataset", "voc", "--data-dir", str(one)]
    assert main([str(one), str(other), "--to", "labelme"]) == 0
    labelme, back = map(shlex.split, capsys.readouterr().out.splitlines()[-2:])
    assert labelme == ["labelme", str(other), "--labels", f"{other}/labels.txt"]
    assert (other / "labels.txt").is_file()
    assert back == ["python", "-m", "tools.convert", str(other), "CORRECTED"]


def test_the_record_says_where_the_data_are_from(source, target):
    pair(source, "with space")
    convert(source, target, classes="background,horse,sheep", seed=5)
    record = (target / "conversion.txt").read_text()
    assert f"{source} read as folder" in record and "seed=5" in record
    assert ("splits: train 4, val 1" in record
            and (target / "JPEGImages" / "with_space.png").is_file())


# CVAT


@pytest.fixture
def cvat(tmp_path):
    """CVAT's "Segmentation mask 1.1": labels by the alphabet, frames with folders and spaces."""
    root = tmp_path / "cvat"
    for seed in range(3):
        save(root / "SegmentationClass" / "cam 1" / f"frame {seed}.png",
             np.uint8(COLORS)[ids_of(seed)])
        save(root / "SegmentationObject" / "cam 1" / f"frame {seed}.png", pixels_of(seed))
        save(root / "JPEGImages" / "cam 1" / f"frame {seed}.jpg", pixels_of(seed))
    (root / "labelmap.txt").write_text(LABELMAP)
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    (root / "ImageSets" / "Segmentation"
     / "default.txt").write_text("".join(f"cam 1/frame {i}\n" for i in range(3)))
    return root


def check_cvat(target, prefix="cam_1_"):
    dataset, pairs = served(target)
    assert dataset.class_names == ("background", "car", "traffic_light")
    assert dataset.colors.tolist() == [[0, 0, 0], [128, 0, 0], [0, 128, 0]]
    assert pairs.keys() == {f"{prefix}frame_{i}" for i in range(3)}
    assert all((pairs[f"{prefix}frame_{i}"][1] == ids_of(i)).all() for i in range(3))
    assert ({split: len(samples) for split, samples in dataset.splits.items()}
            == {"train": 2, "val": 1})


def test_cvat_folders_and_zips_are_recognised(cvat, target, tmp_path):
    assert convert(cvat, target).format == "cvat"
    check_cvat(target)
    with zipfile.ZipFile(tmp_path / "task.zip", "w") as archive:
        for path in cvat.rglob("*"):
            archive.write(path, path.relative_to(cvat))
    convert(tmp_path / "task.zip", tmp_path / "from zip")
    check_cvat(tmp_path / "from zip")
    assert sorted(path.name for path in (tmp_path / "from zip").iterdir()) == [
        "ImageSets", "JPEGImages", "SegmentationClass", "classes.txt", "conversion.txt"]


@pytest.mark.parametrize("images, prefix", [("", "cam_1_"), ("cam 1", "")])
def test_cvat_exports_without_photos_take_those_that_were_uploaded(cvat, target, tmp_path,
                                                                   images, prefix):
    (cvat / "JPEGImages").rename(tmp_path / "uploaded")
    assert "--images" in refusal(cvat, target)
    convert(cvat, target, images=tmp_path / "uploaded" / images)
    check_cvat(target, prefix)


@pytest.mark.parametrize("order, colors", [([1, 0, 2], None), ([2, 1, 0], COLORS[::-1])])
def test_cvat_palettes_go_by_colour_and_grey_masks_by_line(cvat, target, order, colors):
    # Lines of the labelmap: 0 car, 1 background, 2 traffic light.
    for seed in range(3):
        path = cvat / "SegmentationClass" / "cam 1" / f"frame {seed}.png"
        save(path, np.uint8(order)[ids_of(seed)], colors)
    convert(cvat, target)
    check_cvat(target)


def test_cvat_subsets_become_splits(cvat, target):
    lists = cvat / "ImageSets" / "Segmentation"
    (lists / "default.txt").unlink()
    (lists / "Train.txt").write_text("cam 1/frame 0\ncam 1/frame 2\n")
    (lists / "Validation.txt").write_text("cam 1/frame 1\n")
    convert(cvat, target)
    assert (lists_of(target)
            == {"train": ["cam_1_frame_0", "cam_1_frame_2"], "val": ["cam_1_frame_1"]})


def test_cvat_frames_on_which_nothing_was_drawn(cvat, target):
    (cvat / "SegmentationClass" / "cam 1" / "frame 1.png").unlink()
    assert "frame 1.jpg: has no mask" in refusal(cvat, target)
    convert(cvat, target, missing="background")
    assert (served(target)[1]["cam_1_frame_1"][1] == 0).all()


def test_cvat_backgrounds_without_black_go_by_name(cvat, target):
    (cvat / "labelmap.txt").write_text(
        "car:128,0,0::\nbackground:0,128,0:: # as in CVAT's documentation\n")
    for seed in range(3):
        save(cvat / "SegmentationClass" / "cam 1" / f"frame {seed}.png",
             np.uint8(COLORS)[ids_of(seed, 2) + 1])
    convert(cvat, target)
    dataset, pairs = served(target)
    assert (dataset.class_names == ("background", "car")
            and dataset.colors.tolist() == [[0, 128, 0], [128, 0, 0]])
    assert (pairs["cam_1_frame_0"][1] == 1 - ids_of(0, 2)).all()


def test_a_black_label_of_cvat_is_the_background_whatever_its_name(cvat, target):
    (cvat / "labelmap.txt").write_text("car:128,0,0::\nnothing:0,0,0::\ntraffic light:0,128,0::\n")
    convert(cvat, target)
    dataset, pairs = served(target)
    assert dataset.class_names == ("nothing", "car", "traffic_light")
    assert (pairs["cam_1_frame_0"][1] == ids_of(0)).all()


def test_archives_with_the_backslashes_of_windows_are_read(cvat, target, tmp_path):
    with zipfile.ZipFile(tmp_path / "task.zip", "w") as archive:
        for path in cvat.rglob("*.*"):
            name = str(path.relative_to(cvat.parent)).replace("/", "\\")
            archive.writestr(zipfile.ZipInfo(name), path.read_bytes())
    convert(tmp_path / "task.zip", target)
    check_cvat(target)


@pytest.mark.parametrize("name", ["..\\out.txt", "../out.txt", "/out.txt", "a/../../out.txt"])
def test_archives_that_lead_outside_are_refused(tmp_path, target, name):
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr(name, "x")
    assert "leads out of its folder" in refusal(tmp_path / "evil.zip", target)
    assert [path.name for path in tmp_path.iterdir()] == ["evil.zip"]


def test_broken_archives_are_named(tmp_path, target):
    (tmp_path / "task.zip").write_bytes(b"PK\x03\x04 and then nothing")
    assert "task.zip: cannot be unpacked" in refusal(tmp_path / "task.zip", target)


def test_archives_with_damaged_contents_are_named(tmp_path, target):
    with zipfile.ZipFile(tmp_path / "task.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.txt", "text " * 1000)
    data = bytearray((tmp_path / "task.zip").read_bytes())
    data[35:45] = b"\xff" * 10
    (tmp_path / "task.zip").write_bytes(data)
    assert "task.zip: cannot be unpacked" in refusal(tmp_path / "task.zip", target)


def test_a_source_that_cannot_be_read_is_not_called_the_target(source, target, monkeypatch, capsys):
    def denied(root, options):
        raise PermissionError(errno.EACCES, "Permission denied", str(source / "a.json"))

    monkeypatch.setitem(tool.READERS, "folder", denied)
    assert main([str(source), str(target), "--format", "folder"]) == 1
    said = capsys.readouterr().err
    assert (str(source / "a.json") in said and "Permission denied" in said
            and str(target) not in said)


# labelme


def shape(label, *points, kind="polygon", **more):
    return {"label": label, "points": [list(point) for point in points], "group_id": None,
            "shape_type": kind,
            "flags": {}, **more}


def labelled(root, stem, *shapes, size=(24, 32), **more):
    """Write a labelme file and its photo."""
    root.mkdir(parents=True, exist_ok=True)
    save(root / f"{stem}.png", pixels_of(0, size))
    contents = {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": f"{stem}.png",
                "imageData": None,
                "imageHeight": size[0], "imageWidth": size[1]} | more
    (root / f"{stem}.json").write_text(json.dumps(contents), encoding="utf-8")


def drawn(tmp_path, *shapes, **options):
    """The mask of some shapes on a photo of 32x24 pixels."""
    labelled(tmp_path / "labelled", "a", *shapes)
    convert(tmp_path / "labelled", tmp_path / "drawn", val=0, **options)
    return served(tmp_path / "drawn")[1]["a"][1]


def box(left, top, right, bottom):
    """Where a box is, borders included, bool (24, 32)."""
    inside = np.zeros((24, 32), bool)
    inside[top:bottom + 1, left:right + 1] = True
    return inside


@pytest.mark.parametrize("folder", ["annotations", "images", "."])
def test_split_folders_of_labelme_are_found(tmp_path, target, folder):
    for split, count in (("train", 2), ("val", 1)):
        for i in range(count):
            labelled(tmp_path / "s" / folder / split, f"{i}", shape("cow", (2, 2), (9, 2), (9, 9)))
    assert convert(tmp_path / "s", target, format="labelme").splits == {"train": 2, "val": 1}


def test_a_labelled_photo_is_not_taken_for_background_too(tmp_path, target):
    """Whether its file embeds it, or its suffix has capitals."""
    root = tmp_path / "s"
    cow = shape("cow", (2, 2), (9, 2), (9, 9))
    labelled(root, "0", cow)
    (root / "0.png").rename(root / "0.PNG")
    labelled(root / "json", "1", cow, imagePath="..\\photos\\1.png")
    (root / "photos").mkdir()
    (root / "json" / "1.png").rename(root / "photos" / "1.png")
    file = root / "json" / "1.json"
    embedded = base64.b64encode((root / "photos" / "1.png").read_bytes()).decode()
    file.write_text(json.dumps(json.loads(file.read_text()) | {"imageData": embedded}))
    save(root / "photos" / "2.png", pixels_of(2, (24, 32)))
    convert(root, target, missing="background", val=0)
    masks = {stem: mask for stem, (_, mask) in served(target)[1].items()}
    assert len(masks) == 3 and sum(mask.any() for mask in masks.values()) == 2


def test_polygons_and_rectangles_include_their_borders(tmp_path):
    mask = drawn(tmp_path, shape("b", (20, 9), (26, 15), kind="rectangle"),
                 shape("a", (2, 3), (8, 3), (8, 7), (2, 7)),
                 shape("a", (30, 20), (28, 18), kind="rectangle"))
    assert (mask == box(2, 3, 8, 7) + 2 * box(20, 9, 26, 15) + box(28, 18, 30, 20)).all()


def test_later_shapes_lie_over_earlier_ones(tmp_path):
    mask = drawn(tmp_path, shape("cow", (2, 2), (20, 2), (20, 20), (2, 20)),
                 shape("sheep", (5, 5), (9, 9), kind="rectangle"),
                 shape("__ignore__", (8, 8), (12, 12), kind="rectangle"),
                 shape("_background_", (15, 15), (16, 17), kind="rectangle"))
    expected = np.where(box(2, 2, 20, 20), 1, 0)
    expected[box(5, 5, 9, 9)] = 2
    expected[box(8, 8, 12, 12)] = 255
    expected[box(15, 15, 16, 17)] = 0
    assert (mask == expected).all()


def test_a_triangle_counted_by_hand(tmp_path):
    mask = drawn(tmp_path, shape("a", (4, 2), (4, 10), (12, 10)))
    assert ([int((mask[row] == 1).sum()) for row in range(1, 12)]
            == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0])


def test_points_between_pixels_are_cut_as_labelme_cuts_them(tmp_path):
    """A click at 5.6 is in the pixel 5: labelme gives Pillow the numbers as they are."""
    corners = (1.6, 2.6), (5.6, 2.6), (5.6, 6.4), (1.6, 6.4)
    mask = drawn(tmp_path, shape("a", *corners),
                 shape("b", (20.9, 9.5), (26.7, 15.8), kind="rectangle"))
    assert (mask == box(1, 2, 5, 6) + 2 * box(20, 9, 26, 15)).all()


@pytest.mark.parametrize("seed", range(3))
def test_polygons_of_any_points_are_drawn_as_labelme_draws_them(tmp_path, seed):
    """Expected is labelme's shape_to_mask: Pillow's polygon of the points as they are."""
    rng = np.random.default_rng(seed)
    shapes, expected = [], np.zeros((24, 32), np.uint8)
    for number in (1, 2, 1, 2):
        points = [tuple(point) for point in rng.uniform((0, 0), (31, 23), (5, 2)).tolist()]
        shapes.append(shape("_ab"[number], *points))
        picture = Image.new("1", (32, 24), 0)
        ImageDraw.Draw(picture).polygon(xy=points, outline=1, fill=1)
        expected[np.array(picture)] = number
    assert (drawn(tmp_path, *shapes) == expected).all()


def test_circles_points_and_lines_are_drawn_as_labelme_does(tmp_path):
    mask = drawn(tmp_path, shape("a", (8, 12), (12, 12), kind="circle"))
    y, x = np.mgrid[:24, :32]
    radius = np.hypot(x - 8, y - 12)
    assert (mask[radius <= 3.5] == 1).all() and (mask[radius >= 5] == 0).all()
    assert mask[12, 4:13].all() and not mask[12, 3] and not mask[12, 13]


@pytest.mark.parametrize("kind, points, rows, columns", [
    ("point", [(10, 12)], (7, 17), (5, 15)),
    ("line", [(5, 12), (25, 12)], (7, 16), (5, 25)),
    ("linestrip", [(5, 12), (15, 12), (25, 12)], (7, 16), (5, 25)),
])
def test_thin_shapes_have_the_width_that_labelme_gives_them(tmp_path, kind, points, rows, columns):
    filled = np.argwhere(drawn(tmp_path, shape("a", *points, kind=kind)))
    (top, left), (bottom, right) = filled.min(axis=0), filled.max(axis=0)
    assert abs(top - rows[0]) <= 1 and abs(bottom - rows[1]) <= 1 and bottom - top in (9, 10)
    assert abs(left - columns[0]) <= 1 and abs(right - columns[1]) <= 1


def test_shapes_of_the_type_mask_are_put_in_place(tmp_path):
    picture = io.BytesIO()
    Image.fromarray(np.uint8([[0, 1, 1], [1, 0, 1]]) * 255).save(picture, "PNG")
    code = base64.b64encode(picture.getvalue()).decode()
    mask = drawn(tmp_path, shape("a", (1, 1), (6, 6), kind="rectangle"),
                 shape("b", (20, 9), (21, 9), kind="mask", mask=code),
                 shape("b", (3, 4), (5, 5), kind="mask", mask=code),
                 shape("b", (30, 23), (32, 24), kind="mask", mask=code))
    expected = np.where(box(1, 1, 6, 6), 1, 0)
    expected[4, 4:6] = expected[5, 3] = expected[5, 5] = 2
    expected[23, 31] = expected[9, 21] = 2
    assert (mask == expected).all()


def test_shapes_of_the_type_mask_that_were_moved_are_whole_at_the_nearest_pixel(tmp_path):
    picture = io.BytesIO()
    Image.fromarray(np.full((3, 4), 255, np.uint8)).save(picture, "PNG")
    code = base64.b64encode(picture.getvalue()).decode()
    mask = drawn(tmp_path, shape("a", (3.6, 4.4), (6.6, 6.4), kind="mask", mask=code))
    assert (mask == box(4, 4, 7, 6)).all()


def test_labels_are_numbered_in_the_alphabet_or_as_the_list_has_them(tmp_path):
    shapes = [shape("sheep dog", (1, 1), (2, 2), kind="rectangle"),
              shape("cow", (5, 5), (6, 6), kind="rectangle")]
    assert drawn(tmp_path, *shapes)[5, 5] == 1
    assert load_dataset("voc", tmp_path / "drawn").class_names == ("background", "cow", "sheep_dog")
    (tmp_path / "labelled"
     / "labels.txt").write_text("__ignore__\n_background_\nsheep dog\nhorse\ncow\n")
    convert(tmp_path / "labelled", tmp_path / "listed", val=0)
    dataset, pairs = served(tmp_path / "listed")
    assert (dataset.class_names == ("background", "sheep_dog", "horse", "cow")
            and pairs["a"][1][5, 5] == 3)


def test_without_a_background_in_the_list_the_rest_is_void(tmp_path):
    (tmp_path / "list.txt").write_text("0 sky 1 2 3\n1 road 4 5 6\n")
    mask = drawn(tmp_path, shape("road", (3, 3), (9, 9), kind="rectangle"),
                 classes=tmp_path / "list.txt")
    assert (mask == np.where(box(3, 3, 9, 9), 1, 255)).all()


def test_embedded_photos_come_before_files_and_are_not_turned(tmp_path, target):
    root, exif, photo = tmp_path / "s", Image.Exif(), io.BytesIO()
    exif[0x0112] = 6
    Image.fromarray(pixels_of(7, (24, 32))).save(photo, "PNG", exif=exif)
    labelled(root, "a", shape("cow", (1, 2), (3, 4), kind="rectangle"), imagePath="..\\gone\\x.jpg",
             imageData=base64.b64encode(photo.getvalue()).decode())
    convert(root, target, val=0)
    image, mask = served(target)[1]["a"]
    assert (image == pixels_of(7, (24, 32))).all() and (mask == box(1, 2, 3, 4)).all()


def test_photo_files_are_turned_upright_as_labelme_shows_them(tmp_path, target):
    labelled(tmp_path / "s", "a", shape("cow", (1, 2), (3, 4), kind="rectangle"))
    turned(tmp_path / "s" / "a.png", pixels_of(7, (24, 32)))
    convert(tmp_path / "s", target, val=0)
    image, mask = served(target)[1]["a"]
    assert (image == pixels_of(7, (24, 32))).all() and (mask == box(1, 2, 3, 4)).all()


@pytest.mark.parametrize("path", ["../photos/a.png", "..\\photos\\a.png", "C:\\elsewhere\\a.png",
                                  "/gone/a.png"])
def test_photos_are_found_where_the_file_says_or_in_the_named_folder(tmp_path, target, path):
    labelled(tmp_path / "s" / "json", "a", shape("cow", (1, 2), (3, 4), kind="rectangle"),
             imagePath=path)
    (tmp_path / "s" / "photos").mkdir()
    (tmp_path / "s" / "json" / "a.png").rename(tmp_path / "s" / "photos" / "a.png")
    convert(tmp_path / "s", target, val=0, images="" if path.startswith("..") else "photos")
    assert served(target)[1].popitem()[1][1].sum() == 9


@pytest.mark.parametrize("path", ["../photos/a.png", "..\\photos\\a.png"])
def test_photos_may_lie_beside_the_folder_of_labelme_files(tmp_path, target, path):
    labelled(tmp_path / "json", "a", shape("cow", (1, 2), (3, 4), kind="rectangle"), imagePath=path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "json" / "a.png").rename(tmp_path / "photos" / "a.png")
    convert(tmp_path / "json", target, val=0)
    assert served(target)[1].popitem()[1][1].sum() == 9


def test_all_faults_of_labelme_files_are_listed(tmp_path, target):
    root, fine = tmp_path / "s", shape("cow", (1, 1), (9, 1), (9, 9))
    (tmp_path / "labels.txt").write_text("__ignore__\n_background_\ncow\n")
    labelled(root, "fine", fine)
    labelled(root, "few", shape("cow", (1, 1), (9, 1)))
    labelled(root, "kind", shape("cow", (1, 1), (9, 1), kind="spline"))
    labelled(root, "nan", shape("cow", (1, 1), (9, None), (9, 9)))
    labelled(root, "typo", shape("cwo", (1, 1), (9, 1), (9, 9)))
    labelled(root, "size", fine, imageHeight=48, imageWidth=64)
    labelled(root, "gone", fine)
    labelled(root, "data", fine, imageData="bm8gcGhvdG8=")
    (root / "gone.png").unlink()
    labelled(root, "broken", fine)
    (root / "broken.json").write_text('{"shapes": [')
    said = refusal(root, target, classes=tmp_path / "labels.txt")
    for keywords in ("8 faults", "few.json: .*2 points", "kind.json: .*spline",
                     "nan.json: .*shape 1",
                     "typo.json: .*cwo.* labels.txt", "size.json: .*64x48", "gone.json: .*gone.png",
                     "broken.json: .*whole", "data.json: .*embedded"):
        assert re.search(keywords, said), keywords


@pytest.mark.parametrize("text", [
    '{"shapes": ' * 100_000, '{"shapes": [], "flags": ' + "[" * 100_000 + "]" * 100_000 + "}",
    f"1{'0' * 400}", "1e300", "-1e9", "1e400", "9" * 5000], ids=range(7))
@pytest.mark.parametrize("kind", ["polygon", "mask"])
def test_labelme_files_that_no_labelme_wrote_are_named(tmp_path, target, text, kind):
    """Nested without end, or with a coordinate far from any photo."""
    corners = [(1, 1), (1234, 9), (9, 9)][:3 if kind == "polygon" else 2]
    labelled(tmp_path / "s", "a", shape("cow", *corners, kind=kind, mask="bm8gcGhvdG8="))
    file = tmp_path / "s" / "a.json"
    written = file.read_text().replace("1234", text)
    file.write_text(text if "shapes" in text else written)
    assert "a.json: " in refusal(tmp_path / "s", target)


@pytest.mark.parametrize("size", [(0, 24), (-32, -24), (None, 24), (1e9, 1e9), ("a", 3)])
def test_labelme_files_without_a_size_are_named(tmp_path, target, size):
    labelled(tmp_path / "s", "a", shape("cow", (1, 1), (9, 1), (9, 9)), imageWidth=size[0],
             imageHeight=size[1])
    assert "a.json: " in refusal(tmp_path / "s", target)


def test_masks_that_show_nothing_but_background_are_refused(tmp_path, target):
    for stem in "ab":
        pair(tmp_path / "s", stem, mask=np.zeros(SIZE))
    assert "nothing to learn" in refusal(tmp_path / "s", target)


@pytest.mark.parametrize("classes, said", [("", "but void"), ("sky,cow", "but sky or void")])
def test_masks_that_show_nothing_but_void_are_refused(tmp_path, target, classes, said):
    for seed, stem in enumerate("ab"):
        pair(tmp_path / "s", stem, mask=np.full(SIZE, 255), seed=seed)
    assert said in refusal(tmp_path / "s", target, classes=classes)


@pytest.mark.parametrize("classes, value, said", [
    ("0 void,1 horse", 1, "but horse or void"), ("0 horse,255 void", 255, "but 0 and 255")])
def test_a_class_and_void_are_not_two_classes(tmp_path, target, classes, value, said):
    for seed, stem in enumerate("ab"):
        pair(tmp_path / "s", stem, mask=value * ids_of(seed, 2), seed=seed)
    assert said in refusal(tmp_path / "s", target, classes=classes)


def test_photos_without_a_labelme_file_are_left_out_or_background(tmp_path, target):
    labelled(tmp_path / "s", "a", shape("cow", (1, 1), (9, 1), (9, 9)))
    save(tmp_path / "s" / "b.png", pixels_of(1))
    assert any("without labels: 1 photo" in note
               for note in convert(tmp_path / "s", target, val=0).notes)
    convert(tmp_path / "s", tmp_path / "other", missing="background")
    assert (served(tmp_path / "other")[1]["b"][1] == 0).all()
    (tmp_path / "list.txt").write_text("0 sky 1 2 3\n1 cow 4 5 6\n")
    done = convert(tmp_path / "s", tmp_path / "void", missing="background",
                   classes=tmp_path / "list.txt")
    assert (served(tmp_path / "void")[1]["b"][1] == 255).all()  # no class is the background
    assert any("nothing but void" in note for note in done.notes)


# The way back


def noisy(seed, classes=4, void=True):
    """A mask uint8 with islands, holes, touching corners and lines of one pixel."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, classes, rng.integers(2, 30, 2), dtype=np.uint8)
    if seed % 2:
        ids = ids[::3, ::3].repeat(3, 0).repeat(3, 1)
    return np.where(rng.random(ids.shape) < 0.1 * void, 255, ids).astype(np.uint8)


def redraw(contents, start, ids):
    """Draw labelme's polygons as labelme does, filled and in their order, but with OpenCV."""
    mask = np.full((contents["imageHeight"], contents["imageWidth"]), start, np.uint8)
    for one in contents["shapes"]:
        assert one["shape_type"] == "polygon" and len(one["points"]) > 2
        cv2.drawContours(mask, [np.int32(one["points"])], 0, int(ids[one["label"]]), -1)
    return mask


@pytest.mark.parametrize("seed", range(12))
def test_shapes_give_the_mask_back_exactly(seed):
    mask = noisy(seed)
    contents = to_labelme(mask, ["background", "a", "b", "c"], "x.jpg")
    ids = {"_background_": 0, "a": 1, "b": 2, "c": 3, "__ignore__": 255}
    assert (redraw(contents, 0, ids) == mask).all()
    contents = to_labelme(mask, ["sky", "a", "b", "c"], "x.jpg")
    assert (redraw(contents, 255, ids | {"sky": 0}) == mask).all()


def test_holes_are_drawn_after_what_is_around_them():
    mask = np.zeros((24, 32), np.uint8)
    mask[box(2, 2, 20, 20)] = 1
    mask[box(5, 5, 15, 15)] = 2
    mask[box(8, 8, 10, 10)] = 0
    labels = [one["label"] for one in to_labelme(mask, NAMES, "a.jpg")["shapes"]]
    assert labels == ["horse", "sheep", "_background_"]


def test_a_tolerance_saves_points_and_moves_borders_only():
    y, x = np.mgrid[:120, :120]
    mask = (np.hypot(x - 60, y - 60) < 40).astype(np.uint8)
    exact, simple = (to_labelme(mask, ["background", "disc"], "a.jpg", tolerance)
                     for tolerance in (0, 1))
    assert len(simple["shapes"][0]["points"]) < len(exact["shapes"][0]["points"]) / 3
    again = redraw(simple, 0, {"disc": 1})
    assert 0 < (again != mask).mean() < 0.02
    assert (again == mask)[np.abs(np.hypot(x - 60, y - 60) - 40) > 2.5].all()


@pytest.mark.parametrize("names", [("background", "block", "disc"), ("ground", "block", "disc")])
def test_a_data_set_survives_the_way_to_labelme_and_back(make_voc, tmp_path, target, names):
    colors = ("40 160 40", "200 40 40", "40 60 220")
    table = "".join(f"{i} {name} {color}\n" for i, (name, color) in enumerate(zip(names, colors)))
    root = make_voc(tmp_path / "voc", {"train": 3, "val": 2, "test": 1}, classes=table)
    convert(root, tmp_path / "labelme", to="labelme")
    listed = [name for name in names if name != "background"]
    listed = ["__ignore__", "_background_", *listed]  # labelme2voc asks for the first two
    assert (tmp_path / "labelme" / "labels.txt").read_text().split() == listed
    assert convert(tmp_path / "labelme", target).format == "labelme"
    (before, old), (after, new) = served(root), served(target)
    assert (after.class_names == before.class_names == names
            and (after.colors == before.colors).all())
    assert ({split: len(pairs) for split, pairs in after.splits.items()}
            == {"train": 3, "val": 2, "test": 1})
    assert all((old[stem][0] == new[stem][0]).all() and (old[stem][1] == new[stem][1]).all()
               for stem in old)


def test_a_correction_in_labelme_arrives(source, target, tmp_path):
    convert(source, tmp_path / "labelme", to="labelme", classes="background,horse,sheep")
    contents = json.loads((tmp_path / "labelme" / "a.json").read_text())
    contents["shapes"].append(shape("sheep", (3, 3), (6, 6), kind="rectangle"))
    (tmp_path / "labelme" / "a.json").write_text(json.dumps(contents))
    convert(tmp_path / "labelme", target)
    expected = ids_of(0)
    expected[3:7, 3:7] = 2
    assert (served(target)[1]["a"][1] == expected).all()


def test_predicted_masks_alone_go_back_with_their_photos(tmp_path, target):
    for seed, stem in enumerate("ab"):
        save(tmp_path / "photos" / f"{stem}.png", pixels_of(seed))
        save(tmp_path / "predicted" / f"{stem}.png", ids_of(seed), COLORS)
    convert(tmp_path / "predicted", target, to="labelme", images=tmp_path / "photos",
            classes="background,horse,sheep")
    convert(target, tmp_path / "again")
    assert (served(tmp_path / "again")[1]["b"][1] == ids_of(1)).all()


# The command


def test_the_command_says_what_it_did_and_what_is_next(source, target, capsys):
    assert main([str(source), str(target), "--classes", "background,horse,sheep"]) == 0
    said = capsys.readouterr().out
    assert ("read as folder" in said and "splits: train 3, val 1" in said
            and re.search(r"horse +\d+\.\d\d % +4", said))
    assert f"python -m tools.check {target}" in said and f"--data-dir {target}" in said


@pytest.mark.parametrize("options, said", [
    (["--format", "cvta"], "did you mean 'cvat'"),
    (["--map", "255:1"], "expected ids from 0 to 255"),
    (["--map", "2=5", "--classes", "a,b,c"], "there are the classes 0 to 2"),
    (["--val", "1.5"], "expected fractions"),
    (["--val", "0.5", "--test", "0.5"], "leave some to train on"),
    (["--missing", "ignore"], "There are: skip, background"),
    (["--void", "cat", "--classes", "car,dog,cow"], "did you mean 'car'"),
    (["--classes", "nowhere.txt"], "there is no such file"),
    (["--images", "nowhere"], "there is no such folder"),
    (["--void", "300"], "--void 300: expected ids from 0 to 255"),
    (["--to", "labelme", "--tolerance", "-1"], "--tolerance -1.0: expected 0 or more"),
    (["--seed", "-1"], "--seed -1: expected 0 or more"),
    (["--classes", "cow,horse,cow"], "duplicate name cow"),
])
def test_wrong_options_end_with_2_and_a_sentence(source, target, capsys, options, said):
    assert main([str(source), str(target), *options]) == 2
    assert said in capsys.readouterr().err and not target.exists()


def test_faults_end_with_1_and_wrong_places_with_2(faulty, target, tmp_path, capsys):
    assert main([str(faulty), str(target)]) == 1
    assert "5 faults" in capsys.readouterr().err
    assert main([str(faulty), str(target), "--skip-faulty", "--val", "0"]) == 0
    assert main([str(tmp_path / "nowhere"), str(target)]) == 2
    with pytest.raises(SystemExit) as stop:
        main([str(faulty)])
    assert stop.value.code == 2


def test_map_and_void_take_several(tmp_path, target):
    for seed, stem in enumerate("ab"):
        pair(tmp_path / "s", stem, seed=seed, mask=np.uint8([0, 50, 100])[ids_of(0)])
    assert (main([str(tmp_path / "s"), str(target), "--map", "50=1", "--map", "100=0", "--void",
                  "0,200"]) == 0)
    assert (served(target)[1]["a"][1] == np.uint8([255, 1, 0])[ids_of(0)]).all()
