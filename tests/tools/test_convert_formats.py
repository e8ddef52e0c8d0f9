"""Exports of labelling tools become masks. Expected masks are by numpy, or labelme's reader."""

import json
import re
import unicodedata

import numpy as np
import pytest
from PIL import Image

from tools.check import check_dataset
from tools.convert import UsageError, convert
from tools.convert.__main__ import main
from tools.convert.coco import decode
from utils.datasets import load_dataset

HEIGHT, WIDTH = SIZE = 40, 60
BOX = (5, 4, 30, 24)  # left, top, right, bottom: pixels of the outline included
SMALL = (10, 10, 14, 18)
STAR = [(30.5, 3.25), (50.75, 12), (44, 35.5), (28, 20.25), (12.5, 33)]  # no corner on a grid
NAMES = ["cow", "sheep"]


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def photo(path, seed=0, size=SIZE):
    save(path, np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8))


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text if isinstance(text, str) else json.dumps(text), encoding="utf-8")


def box(left, top, right, bottom):
    inside = np.zeros(SIZE, bool)
    inside[top:bottom + 1, left:right + 1] = True
    return inside


def corners(left, top, right, bottom):
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def flat(points):
    return [number for point in points for number in point]


def runs(mask):
    """Run lengths of a bool array, one-dimensional, the first of them for False."""
    changes = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(int), [0]]))).tolist()
    edges = [0, *changes] + ([mask.size] if not changes or changes[-1] != mask.size else [])
    return [after - before for before, after in zip(edges, edges[1:])]


def compressed(counts):
    """COCO's string: differences to the last but one from the fourth on, in groups of five bits."""
    text = ""
    for i, count in enumerate(counts):
        value = count - (counts[i - 2] if i > 2 else 0)
        while True:
            bits, value = value & 31, value >> 5
            last = value == (-1 if bits & 16 else 0)
            text += chr(bits + (0 if last else 32) + 48)
            if last:
                break
    return text


def by_labelme(tmp_path, points, name="cow"):
    """Where labelme draws a polygon, bool (H, W)."""
    root = tmp_path / "by labelme"
    photo(root / "a.png")
    write(root / "a.json", {"shapes": [{"label": name, "points": points, "shape_type": "polygon"}],
                            "imagePath": "a.png",
                            "imageData": None, "imageHeight": HEIGHT, "imageWidth": WIDTH})
    convert(root, tmp_path / "drawn", val=0)
    return served(tmp_path / "drawn")[1]["a"] == 1


def served(target):
    """The data set of a converted folder, and stem -> mask."""
    dataset = load_dataset("voc", target)
    samples = [sample for split in dataset.splits.values() for sample in split]
    return dataset, {sample[1].stem: dataset.read(sample)[1] for sample in samples}


def mask_of(source, target, **options):
    """Convert one photo and return its mask."""
    convert(source, target, val=0, **options)
    (mask,) = served(target)[1].values()
    return mask


def refusal(*arguments, **options):
    with pytest.raises(ValueError) as error:
        convert(*arguments, **options)
    return str(error.value)


@pytest.fixture
def source(tmp_path):
    return tmp_path / "source"


@pytest.fixture
def target(tmp_path):
    return tmp_path / "target"


# COCO


def coco(*annotations, file_name="a.png", categories=((1, "cow"), (2, "sheep")), **more):
    """A COCO file of one photo; an annotation is (category id, segmentation) or a dict."""
    listed = [one if isinstance(one, dict) else {"category_id": one[0], "segmentation": one[1]}
              for one in annotations]
    return {"images": [{"id": 7, "file_name": file_name, "width": WIDTH, "height": HEIGHT}],
            "categories": [{"id": i, "name": name} for i, name in categories],
            "annotations": [{"id": i, "image_id": 7, "iscrowd": 0} | one
                            for i, one in enumerate(listed)]} | more


def rle(mask, text=True):
    counts = runs(mask.ravel(order="F"))
    return {"size": list(mask.shape), "counts": compressed(counts) if text else counts}


def test_a_string_that_pycocotools_wrote_is_decoded():
    # Made with pycocotools 2.0: box(10, 5, 49, 29) without a hole, and one pixel.
    mask = box(10, 5, 49, 29) & ~box(20, 10, 29, 11)
    mask[0, 0] = True
    text = (
        r"01d<h0kC000000000000000000\OC==CC==CC==CC==CC==CC==CC==CC==CC==CC==700000000000000000000000000000000000000[<")
    assert decode(text) == runs(mask.ravel(order="F"))


def test_run_lengths_of_any_mask_come_back():
    for seed in range(50):
        rng = np.random.default_rng(seed)
        mask = rng.random(rng.integers(1, 300, 2)) < rng.choice([0.001, 0.5, 0.999])
        counts = runs(mask.ravel(order="F"))
        assert decode(compressed(counts)) == counts


def test_coco_polygons_and_run_lengths_are_drawn(source, target, tmp_path):
    photo(source / "a.png")
    hole = box(*SMALL) & ~box(11, 12, 12, 14)
    write(source / "labels.json",
          coco((2, [flat(STAR)]), (1, rle(box(0, 30, 9, 39))), (1, rle(hole, text=False))))
    mask = mask_of(source, target)
    expected = np.where(by_labelme(tmp_path, STAR), 2, 0)
    expected[box(0, 30, 9, 39)] = expected[hole] = 1
    assert (mask == expected).all()
    assert served(target)[0].class_names == ("background", "cow", "sheep")


@pytest.mark.parametrize("order", [1, -1])
def test_smaller_objects_of_coco_lie_over_larger_ones(source, target, order):
    photo(source / "a.png")
    # The second object has two parts, each smaller than the third object, both together larger.
    parts = [flat(corners(*BOX)), flat(corners(40, 5, 58, 38))]
    write(source / "labels.json", coco(*[(1, parts), (2, [flat(corners(*SMALL))]),
                                         (2, rle(box(35, 10, 45, 30)))][::order]))
    expected = np.where(box(*BOX) | box(40, 5, 58, 38), 1, 0)
    expected[box(*SMALL) | box(35, 10, 45, 30)] = 2
    assert (mask_of(source, target) == expected).all()


def test_crowds_are_void_below_objects_unless_a_tool_marks_all_masks_so(source, target, tmp_path):
    photo(source / "a.png")
    crowd = {"category_id": 1, "segmentation": rle(box(*SMALL), text=False), "iscrowd": 1}
    data = coco((2, [flat(corners(5, 15, 30, 24))]), crowd)
    write(source / "labels.json", data | {"info": {"description": "COCO 2017", "url": ""}})
    assert "void: 1 crowd (iscrowd)" in convert(source, target, val=0).notes
    expected = np.where(box(*SMALL), 255, 0)
    expected[box(5, 15, 30, 24)] = 2
    assert (served(target)[1]["a"] == expected).all()
    expected[box(*SMALL)] = 1
    darwin = {"description": "Exported from Darwin", "year": 2026}
    for number, info in enumerate(({"contributor": "", "year": ""}, {}, None, darwin)):
        write(source / "labels.json", data | {"info": info})
        assert (mask_of(source, tmp_path / f"other {number}") == expected).all()


def test_categories_count_by_their_ids_whatever_their_order(source, target):
    photo(source / "a.png")
    categories = ((90, "sheep dog"), (3, "background"), (17, "cow"))
    write(source / "labels.json",
          coco((90, [flat(corners(*BOX))]), (17, [flat(corners(*SMALL))]), categories=categories))
    mask = mask_of(source, target)
    assert served(target)[0].class_names == ("background", "cow", "sheep_dog")
    assert (mask == np.where(box(*SMALL), 1, np.where(box(*BOX), 2, 0))).all()


def test_the_folders_of_coco_itself_are_read(source, target):
    for split, boxes in (("train", BOX), ("val", SMALL)):
        for name in (f"0001_{split}.jpg", "0002.jpg"):
            photo(source / f"{split}2017" / name, len(name))
        data = coco((1, [flat(corners(*boxes))]), file_name="0002.jpg")
        data["images"].append({"id": 8, "file_name": f"0001_{split}.jpg", "width": WIDTH,
                               "height": HEIGHT})
        write(source / "annotations" / f"instances_{split}2017.json", data)
        write(source / "annotations" / f"person_keypoints_{split}2017.json", data)
        write(source / "annotations" / f"captions_{split}2017.json",
              {"images": [], "annotations": [{"caption": "a cow"}]})
    done = convert(source, target)
    masks = served(target)[1]
    assert done.splits == {"train": 2, "val": 2} and masks.keys() == {
        "train_0001_train", "train_0002", "val_0001_val", "val_0002"}
    assert (masks["train_0002"] == box(*BOX)).all() and (masks["val_0002"] == box(*SMALL)).all()
    assert any("2 photos without a mask or shapes" in note for note in done.notes)


def test_files_of_coco_are_read_whatever_they_are_called(source, target):
    for split, name in (("train", "instances_train"), ("val", "val")):
        photo(source / split / "a.png", len(split))
        write(source / "annotations" / f"{name}.json", coco((1, [flat(STAR)])))
    assert convert(source, target).splits == {"train": 1, "val": 1}


def test_objects_of_photos_that_coco_does_not_list_are_counted(source, target):
    photo(source / "a.png")
    stray = {"category_id": 1, "segmentation": [flat(STAR)], "image_id": 99}
    data = coco((1, [flat(corners(*BOX))]), stray)
    write(source / "labels.json", data)
    notes = convert(source, target, val=0).notes
    assert any("1 object of photos that no file lists" in note for note in notes)
    write(source / "labels.json", data | {"images": 2 * data["images"]})
    assert "labels.json: is no whole COCO file" in refusal(source, target.with_name("other"))


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_of_photos_with_two_suffixes_the_named_one_is_taken(source, target, name):
    photo(source / "images" / "a.jpg", 0)
    photo(source / "images" / "a.png", 1)
    write(source / "labels.json", coco((1, [flat(STAR)]), file_name=name))
    convert(source, target, val=0)
    assert [path.name for path in (target / "JPEGImages").iterdir()] == [name]


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_with_composed_and_combining_letters_mean_the_same(source, target, forms):
    file, name = (unicodedata.normalize(form, "caf\u00e9.png") for form in forms)
    photo(source / file)
    write(source / "labels.json", coco((1, [flat(STAR)]), file_name=name))
    assert mask_of(source, target).any()


def test_a_folder_whose_name_ends_in_the_word_of_a_split_is_none(source, target):
    data = coco((1, [flat(STAR)]))
    data["images"].append(data["images"][0] | {"id": 8, "file_name": "b.png"})
    photo(source / "steam_train" / "a.png", 0)
    photo(source / "bus" / "b.png", 1)
    write(source / "labels.json", data)
    convert(source, target, val=0)
    assert served(target)[1].keys() == {"steam_train_a", "bus_b"}


@pytest.mark.parametrize("form", ["labelme", "coco", "cvat"])
def test_two_labels_of_one_photo_are_refused(source, target, form):
    """As where the photo of one is missing, and that of the other is called so, too."""
    photo(source / "val" / "a.png")
    shapes = {"shapes": [{"label": "cow", "points": STAR, "shape_type": "polygon"}],
              "imagePath": "a.png", "imageData": None, "imageHeight": HEIGHT, "imageWidth": WIDTH}
    for split in ("train", "val"):
        if form == "labelme":
            write(source / split / "a.json", shapes)
        elif form == "coco":
            write(source / f"instances_{split}.json", coco((1, [flat(STAR)])))
        else:
            write_subsets(source, "a.png")
    message = refusal(source, target)
    assert "2 faults" in message and message.count("would label") == 2 and "a.png" in message


def test_files_of_coco_say_the_split_before_folders_do(source, target):
    """As where val was held out of the photos in a folder called train."""
    for split, names in (("train", "ab"), ("val", "c")):
        for name in names:
            photo(source / "images" / "train" / f"{name}.png", ord(name))
        data = coco((1, [flat(STAR)]))
        data["images"] = [{"id": 7 + i, "file_name": f"{name}.png", "width": WIDTH,
                           "height": HEIGHT} for i, name in enumerate(names)]
        write(source / "annotations" / f"instances_{split}.json", data)
    assert convert(source, target).splits == {"train": 2, "val": 1}
    assert load_dataset("voc", target).splits["val"][0][0].stem.endswith("c")


def test_masks_are_no_photos_of_background(source, target):
    for name in "ab":
        photo(source / "images" / f"{name}.png", ord(name))
        photo(source / "masks" / f"{name}.png", ord(name))
    write(source / "labels.json", coco((1, [flat(STAR)])))
    convert(source, target, format="coco", missing="background", val=0)
    assert served(target)[1].keys() == {"a", "b"}


def test_of_a_file_in_which_nothing_is_drawn_the_check_says_so(source, target):
    photo(source / "a.png")
    write(source / "annotations.xml",
          cvat('<box label="cow" xtl="5" ytl="4" xbr="30" ybr="9"></box>'))
    assert "not drawn: 1 box" in convert(source, target, val=0).notes
    said = "; ".join(map(str, check_dataset(load_dataset("voc", target))))
    assert "none shows ['cow', 'sheep']" in said


def test_masks_beside_coco_files_are_not_taken_for_photos(source, target):
    photo(source / "images" / "val" / "a.png")
    for folder in ("panoptic_val", "Panoptic/val"):
        photo(source / "Annotations" / folder / "a.png", seed=1)
    write(source / "Annotations" / "instances_val.json", coco((1, [flat(STAR)])))
    write(source / "Annotations" / "instances_train.json",
          coco((1, [flat(STAR)]), file_name="train/b.png"))
    photo(source / "images" / "train" / "b.png", seed=2)
    convert(source, target, format="coco")
    image = load_dataset("voc", target).splits["val"][0][0]
    assert (np.array(Image.open(image))
            == np.array(Image.open(source / "images" / "val" / "a.png"))).all()


def test_roboflows_coco_has_photos_beside_and_a_category_that_groups(source, target):
    for split in ("train", "valid", "test"):
        photo(source / split / "a_jpg.rf.0f3c.jpg", len(split))
        data = coco((1, [flat(corners(*BOX))]), (2, [flat(corners(*SMALL))]),
                    file_name="a_jpg.rf.0f3c.jpg")
        data["categories"] = [{"id": 0, "name": "farm", "supercategory": "none"},
                              {"id": 1, "name": "cow", "supercategory": "farm"},
                              {"id": 2, "name": "sheep", "supercategory": "farm"}]
        write(source / split / "_annotations.coco.json", data)
    done = convert(source, target)
    assert (done.splits == {"train": 1, "val": 1, "test": 1}
            and done.class_names == ("background", "cow", "sheep"))


@pytest.mark.parametrize("wrong, said", [
    ((1, []), "box without an outline"),
    ((1, [[1, 2, 3, 4]]), "2 points"),
    ((1, [[1, 2, 3, 4, 5, 6, 7]]), "no whole labels"),
    ((1, [[1, 2, 3, float("nan"), 5, 6]]), "no number"),
    ((1, [[1, 2, 3, 1e30, 5, 6]]), "no number"),
    ((1, [["a", 2, 3, 4, 5, 6]]), "no whole labels"),
    ((9, [[1, 2, 3, 4, 5, 1]]), "KeyError"),
    ((1, {"size": [40, 60], "counts": [10 ** 12]}), "do not fill"),
    ((1, {"size": [40, 60], "counts": [2500, -100]}), "do not fill"),
    ((1, {"size": [10 ** 9, 10 ** 9], "counts": [10 ** 18]}), "not the photo's"),
    ((1, {"size": [80, 120], "counts": [100, 9500]}), "not the photo's"),
    ((1, {"size": [40, 60], "counts": "o" * 10 ** 6}), "damaged"),
    ((1, {"size": [40, 60], "counts": "\u00e9"}), "damaged"),
    ((1, {"size": [40], "counts": [2400]}), "cannot be "),
    ((1, 5), "no whole labels"),
])
def test_faulty_outlines_of_coco_name_file_and_photo(source, target, wrong, said):
    photo(source / "a.png")
    write(source / "labels.json", coco(wrong))
    message = refusal(source, target)
    assert "labels.json: " in message and said in message and "1 fault" in message


def test_coco_files_that_nobody_wrote_are_named(source, target):
    photo(source / "a.png")
    for text in ('{"images": [], "segmentation"', '{"segmentation": ' + "[" * 100_000,
                 '["segmentation"]',
                 json.dumps(coco((1, [[1, 2, 3]])) | {"categories": {"a": 1}})):
        write(source / "labels.json", text)
        assert "labels.json: is no whole COCO file" in refusal(source, target)


def test_points_outside_the_photo_are_cut_off(source, target):
    photo(source / "a.png")
    write(source / "labels.json", coco((1, [flat(corners(-500, -20, 10, 4000))])))
    assert (mask_of(source, target) == box(0, 0, 10, 39)).all()


def test_photos_that_are_not_there_or_are_there_twice_are_faults(source, target, tmp_path):
    write(source / "labels.json", coco((1, [flat(STAR)])))
    assert "its photo a.png is not there" in refusal(source, target)
    photo(source / "x" / "a.png")
    photo(source / "y" / "a.png")
    message = refusal(source, target)
    assert ("its photo a.png is not there, or several are called so" in message
            and "--images" in message)
    photo(tmp_path / "elsewhere" / "a.png")
    (source / "x" / "a.png").unlink()
    (source / "y" / "a.png").unlink()
    convert(source, target, images=tmp_path / "elsewhere", val=0)


def test_names_do_not_lead_out_of_the_source(source, target, tmp_path):
    photo(tmp_path / "secret.png")
    for name in ("../secret.png", str(tmp_path / "secret.png")):
        write(source / "labels.json", coco((1, [flat(STAR)]), file_name=name))
        assert "is not there" in refusal(source, target)


# CVAT for images


def cvat(*shapes, labels=NAMES, name="a.png", head="", more=""):
    listed = "".join(f"<label><name>{label}</name><color>#ff0000</color></label>"
                     for label in labels)
    return (f'<?xml version="1.0" encoding="utf-8"?>{head}<annotations><version>1.1</version>'
            f'<meta><task><labels>{listed}</labels></task></meta>'
            f'<image id="0" name="{name}" width="{WIDTH}" height="{HEIGHT}"{more}>'
            f'{"".join(shapes)}</image></annotations>')


def polygon(label, points, **attributes):
    listed = ";".join(f"{x},{y}" for x, y in points)
    more = "".join(f' {key}="{value}"' for key, value in attributes.items())
    return f'<polygon label="{label}" occluded="0" points="{listed}"{more}></polygon>'


def test_cvat_shapes_are_drawn_by_z_order(source, target, tmp_path):
    photo(source / "images" / "a.png")
    ring = ~box(*SMALL)[10:19, 10:15]
    ring[2:4, 1:3] = True
    counts = ", ".join(map(str, runs(ring.ravel())))
    write(source / "annotations.xml", cvat(
        polygon("cow", corners(*SMALL), z_order=2), polygon("sheep", corners(*BOX), z_order=1),
        polygon("cow", STAR, z_order=0), polygon("cow", corners(0, 0, 59, 39), outside=1),
        f'<mask label="sheep" rle="{counts}" left="50" top="30" width="5" height="9" '
        'z_order="3"></mask>',
        '<polyline label="cow" points="1,1;5,5"></polyline>',
        '<box label="cow" xtl="5" ytl="4" xbr="30" ybr="9"></box>'))
    convert(source, target, val=0)
    expected = np.where(by_labelme(tmp_path, STAR), 1, 0)
    expected[box(*BOX)] = 2
    expected[box(*SMALL)] = 1
    expected[30:39, 50:55][ring] = 2
    dataset, masks = served(target)
    assert (masks["a"] == expected).all() and dataset.class_names == ("background", "cow", "sheep")
    assert "not drawn: 1 polyline, 1 box" in (target / "conversion.txt").read_text()


def test_labels_of_cvat_count_in_the_order_of_the_task(source, target):
    photo(source / "a.png")
    write(source / "annotations.xml",
          cvat(polygon("sheep", corners(*BOX)), labels=["traffic light", "sheep", "cow"]))
    assert (mask_of(source, target) == 2 * box(*BOX)).all()
    assert served(target)[0].class_names == ("background", "traffic_light", "sheep", "cow")


def test_parts_of_a_skeleton_of_cvat_are_no_classes(source, target):
    photo(source / "a.png")
    part = "<label><name>knee</name><parent>person</parent></label></labels>"
    write(source / "annotations.xml",
          cvat(polygon("sheep", corners(*BOX))).replace("</labels>", part))
    convert(source, target, val=0)
    assert served(target)[0].class_names == ("background", *NAMES)


def write_subsets(source, name, *changes):
    """Write a file of two photos, in the subsets Train and Validation; changes: of the second."""
    text = cvat(polygon("cow", STAR), name=name, more=' subset="Train"')
    other = text[text.index("<image"):text.index("</annotations>")]
    for old, new in (("Train", "Validation"), *changes):
        other = other.replace(old, new)
    write(source / "annotations.xml", text.replace("</annotations>", other + "</annotations>"))


def test_subsets_of_cvat_are_splits(source, target):
    write_subsets(source, "cam 1/a.png", ("a.png", "b.png"))
    for seed, stem in enumerate("ab"):
        photo(source / "images" / "cam 1" / f"{stem}.png", seed)
    done = convert(source, target)
    assert (done.splits == {"train": 1, "val": 1}
            and served(target)[1].keys() == {"train_cam_1_a", "val_cam_1_b"})


def test_equal_names_in_two_subsets_of_cvat_are_found_in_their_folders(source, target):
    """CVAT writes images/SUBSET/NAME, the subset spelled as in the task."""
    write_subsets(source, "f_0.png", ("cow", "sheep"))
    for seed, subset in enumerate(("Train", "Validation")):
        photo(source / "images" / subset / "f_0.png", seed)
    assert convert(source, target).splits == {"train": 1, "val": 1}
    dataset, masks = served(target)
    assert sorted(np.unique(masks[name])[-1] for name in masks) == [1, 2]
    image = Image.open(dataset.splits["val"][0][0])
    assert (np.array(image)
            == np.array(Image.open(source / "images" / "Validation" / "f_0.png"))).all()


@pytest.mark.parametrize("shape", [
    polygon("cow", [(1, 1), (5, 5)]), polygon("cow", [("nan", 1), (5, 5), (5, 1)]),
    polygon("cow", [("x", 1)]),
    polygon("horse", STAR), '<polygon label="cow"></polygon>', polygon("cow", STAR, z_order="top"),
    '<mask label="cow" rle="5, 4" left="0" top="0" width="5" height="9"></mask>',
    '<mask label="cow" rle="9999999999999999999999" left="0" top="0" width="5" height="9"></mask>',
    '<mask label="cow" rle="1" left="0" top="0" width="99999999" height="99999999"></mask>',
    '<mask label="cow" rle="45" left="x" top="0" width="5" height="9"></mask>'])
def test_faulty_shapes_of_cvat_name_their_file(source, target, shape):
    photo(source / "a.png")
    write(source / "annotations.xml", cvat(shape))
    message = refusal(source, target)
    assert "annotations.xml: " in message and "1 fault" in message


def test_files_with_entities_tracks_or_damage_are_refused(source, target):
    photo(source / "a.png")
    bomb = '<!DOCTYPE a [<!ENTITY x "ha"><!ENTITY y "&x;&x;&x;">]>'
    write(source / "annotations.xml", cvat(polygon("&y;", STAR), head=bomb))
    assert "DOCTYPE" in refusal(source, target)
    write(source / "annotations.xml",
          cvat(polygon("cow", STAR)).replace("</annotations>", "<track/></annotations>"))
    assert "CVAT for images 1.1" in refusal(source, target)
    write(source / "annotations.xml", cvat(polygon("cow", STAR))[:-20])
    assert "annotations.xml: is no whole XML file" in refusal(source, target)


# YOLO


def yolo_line(number, points):
    return " ".join([str(number), *(f"{x / WIDTH:.9f} {y / HEIGHT:.9f}" for x, y in points)])


def yolo(source, stem, *lines, layout="{split}/images", split="train", seed=0):
    folder = layout.format(split=split)
    photo(source / folder / f"{stem}.jpg", seed)
    write(source / folder.replace("images", "labels") / f"{stem}.txt", "\n".join(lines))


@pytest.mark.parametrize("layout, valid", [("{split}/images", "valid"), ("images/{split}", "val")])
@pytest.mark.parametrize("names", ["names: [cow, sheep]\nnc: 2\ntrain: ../train/images\n",
                                   "path: .\nnames:\n  1: sheep\n  0: cow\n"])
def test_yolo_outlines_are_drawn_in_both_layouts(source, target, tmp_path, layout, valid, names):
    write(source / "data.yaml", names)
    small, large = yolo_line(0, corners(*SMALL)), yolo_line(1, corners(*BOX))
    yolo(source, "a", small, large, layout=layout)
    yolo(source, "a", yolo_line(0, STAR), layout=layout, split=valid, seed=1)
    yolo(source, "b", layout=layout, seed=2)
    done = convert(source, target)
    dataset, masks = served(target)
    assert done.format == "yolo" and dataset.class_names == ("background", "cow", "sheep")
    assert done.splits == {"train": 2, "val": 1} and masks.keys() == {"train_a", "train_b", "val_a"}
    assert ((masks["train_a"] == np.where(box(*SMALL), 1, 2 * box(*BOX))).all()
            and not masks["train_b"].any())
    assert (masks["val_a"] == by_labelme(tmp_path, STAR)).all()


def test_photos_of_yolo_without_a_file_are_left_out_or_background(source, target, tmp_path):
    write(source / "data.yaml", "names: [cow]")
    yolo(source, "a", yolo_line(0, STAR))
    photo(source / "train" / "images" / "b.jpg")
    assert any("without labels: 1 photo" in note for note in convert(source, target, val=0).notes)
    convert(source, tmp_path / "other", missing="background", val=0)
    assert not served(tmp_path / "other")[1]["train_b"].any()


def test_photos_elsewhere_without_labels_are_left_out_or_background(source, target, tmp_path):
    write(source / "data.yaml", "names: [cow]")
    write(source / "labels" / "a.txt", yolo_line(0, STAR))
    for seed, stem in enumerate("ab"):
        photo(tmp_path / "photos" / f"{stem}.jpg", seed)
    notes = convert(source, target, images=tmp_path / "photos", val=0).notes
    assert any("without labels: 1 photo" in note for note in notes)
    convert(source, tmp_path / "other", images=tmp_path / "photos", missing="background", val=0)
    assert served(tmp_path / "other")[1].keys() == {"a", "b"}


def test_a_folder_of_photos_in_the_source_goes_before_one_here(source, target, monkeypatch):
    write(source / "data.yaml", "names: [cow]")
    write(source / "labels" / "a.txt", yolo_line(0, STAR))
    photo(source / "images" / "a.jpg")
    photo(source.parent / "images" / "b.jpg", 1)
    monkeypatch.chdir(source.parent)
    convert(source, target, images="images", missing="background", val=0)
    assert served(target)[1].keys() == {"a"}


@pytest.mark.parametrize("other", ["coco8-seg.yaml", "args.yaml"])
def test_yolo_has_its_names_in_data_yaml(source, target, other):
    yolo(source, "a", yolo_line(0, STAR))
    write(source / "data.yaml", "names: [cow]")
    write(source / other, "names: {0: person, 1: bicycle}")
    convert(source, target, val=0)
    assert served(target)[0].class_names == ("background", "cow")


@pytest.mark.parametrize("options", [
    ["--map", "1=0"], ["--binary"], ["--masks", "labels"], ["--mask-prefix", "a"],
    ["--mask-suffix", "a"], ["--images", "nowhere"]])
def test_options_that_outlines_cannot_follow_are_refused(source, target, options, capsys):
    yolo(source, "a", yolo_line(0, STAR))
    write(source / "data.yaml", "names: [cow]")
    assert main([str(source), str(target), "--val", "0", *options]) == 2
    assert options[0] in capsys.readouterr().err and not target.exists()


def test_photos_of_yolo_are_measured_as_they_are_seen(source, target, tmp_path):
    write(source / "data.yaml", "names: [cow]")
    yolo(source, "a", yolo_line(0, corners(*BOX)))
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    Image.fromarray(np.rot90(upright)).save(source / "train" / "images" / "a.jpg", exif=exif)
    assert (mask_of(source, target) == box(*BOX)).all()
    assert mask_of(source, tmp_path / "stored", ignore_exif=True).shape == (WIDTH, HEIGHT)


def test_faults_of_yolo_are_named(source, target):
    yolo(source, "a", yolo_line(0, STAR))
    assert "data.yaml: expected the names" in refusal(source, target)
    write(source / "data.yaml", "names: [cow]")
    wrong = {"box": "0 0.5 0.5 0.2 0.2", "odd": "0 0.1 0.2 0.3 0.4 0.5", "nan": "0 nan 0 0 1 1 1",
             "word": "0 a b c d e f",
             "class": "3 0.1 0.1 0.2 0.2 0.1 0.2", "far": "0 1e9 0 0 1 1 1",
             "float": "0.5 0 0 0 1 1 1"}
    for stem, line in wrong.items():
        yolo(source, stem, line)
    write(source / "train" / "labels" / "ghost.txt", yolo_line(0, STAR))
    message = refusal(source, target)
    assert (f"{len(wrong) + 1} faults" in message
            and all(f"{stem}.txt" in message for stem in [*wrong, "ghost"]))
    assert "box; export outlines" in message


@pytest.mark.parametrize("text", ["names: !!python/object/apply:os.getcwd []", "names: 5",
                                  "names: [", "- 1", "nc: 3",
                                  "[" * 5000, "a: &a [x, x]\nb: &b [*a, *a]\nnames: [*b, *a]"])
def test_strange_yaml_is_refused(source, target, text):
    yolo(source, "a", yolo_line(0, STAR))
    write(source / "data.yaml", text)
    assert "data.yaml: expected" in refusal(source, target)


# Masks of other tools


def ids_of(seed, classes=3):
    ids = np.random.default_rng(seed).integers(0, classes, SIZE, dtype=np.uint8)
    ids.flat[:classes] = range(classes)
    return ids


def pairs(source, photos="images/{}.jpg", masks="masks/{}.png", stems="abcd", classes=3):
    for seed, stem in enumerate(stems):
        photo(source / photos.format(stem), seed)
        save(source / masks.format(stem), ids_of(seed, classes))


@pytest.mark.parametrize("name, text", [
    ("class_names.txt", "_background_\ncow\nsheep dog\n"),
    ("dataset_meta.json", '{"label_map": {"0": "background", "1": "cow", "2": "sheep dog"}}'),
    ("dataset_meta.json",
     '{"label_map": {"0": "background", "1": "cow", "2": "sheep dog"}, "background_label": "0", '
                          '"segmentation_colors": [[0, 0, 0], [9, 8, 7], [1, 2, 3]]}')])
def test_lists_of_labelme2voc_and_datumaro_name_the_classes(source, target, name, text):
    pairs(source, "JPEGImages/{}.jpg", "SegmentationClass/{}.png")
    write(source / name, text)
    convert(source, target)
    dataset, masks = served(target)
    assert (dataset.class_names == ("background", "cow", "sheep_dog")
            and (masks["b"] == ids_of(1)).all())
    assert dataset.colors[1].tolist() == ([9, 8, 7] if "colors" in text else [128, 0, 0])


def test_ignored_pixels_of_labelme2voc_are_void(source, target):
    pairs(source, "JPEGImages/{}.jpg", "SegmentationClass/{}.png")
    ids = ids_of(0)
    ids[:5] = 255
    save(source / "SegmentationClass" / "a.png", ids)
    write(source / "class_names.txt", "_background_\ncow\nsheep\n")
    convert(source, target)
    assert (served(target)[1]["a"] == ids).all()


@pytest.mark.parametrize("text", ["{", "[]", '{"label_map": 3}', '{"label_map": {"0": 1}}',
                                  '{"label_map": {"a b": "cow"}, '
                                  '"segmentation_colors": [[1, 2, 999]]}'])
def test_faulty_lists_of_datumaro_are_named(source, target, text):
    pairs(source)
    write(source / "dataset_meta.json", text)
    assert "dataset_meta.json: " in refusal(source, target)


def test_machine_masks_of_supervisely_are_read(source, target):
    for name in ("ds0", "ds1"):
        pairs(source, name + "/img/{}.jpg", name + "/masks_machine/{}.png", stems="ab")
        write(source / name / "ann" / "a.jpg.json", {"objects": []})
        photo(source / name / "masks_human" / "a.png")
    write(source / "meta.json", {"classes": [{"title": "cow"}, {"title": "sheep dog"}], "tags": []})
    write(source / "obj_class_to_machine_color.json", {"cow": [1, 1, 1], "sheep dog": [2, 2, 2]})
    save(source / "ds0" / "masks_machine" / "a.png", ids_of(0)[..., None].repeat(3, axis=2))
    convert(source, target)
    dataset, masks = served(target)
    assert dataset.class_names == ("background", "cow", "sheep_dog")
    assert (masks.keys() == {"ds0_a", "ds0_b", "ds1_a", "ds1_b"}
            and (masks["ds0_a"] == ids_of(0)).all())


def cityscapes(source):
    used = np.uint8([0, 7, 11, 26, 33, 4])
    for seed, split in enumerate(("train", "train", "val")):
        stem = f"{split}/aachen/aachen_00000{seed}_000019"
        photo(source / "leftImg8bit" / f"{stem}_leftImg8bit.png", seed)
        for kind in ("instanceIds", "labelIds"):
            save(source / "gtFine" / f"{stem}_gtFine_{kind}.png", used[ids_of(seed, 6)])
        photo(source / "gtFine" / f"{stem}_gtFine_color.png")
        write(source / "gtFine" / f"{stem}_gtFine_polygons.json",
              {"imgHeight": 4, "objects": [{"polygon": []}]})


@pytest.mark.parametrize("options", [[], ["--masks", "gtFine", "--mask-suffix", "_gtFine_labelIds"],
                                     ["--mask-suffix", "_labelIds"]])
def test_cityscapes_is_read_as_the_help_says(source, target, options, capsys):
    cityscapes(source)
    assert main([str(source), str(target), *options]) == 0, capsys.readouterr().err
    dataset, masks = served(target)
    assert len(dataset.class_names) == 19 and dataset.class_names[::18] == ("road", "bicycle")
    assert ({split: len(samples) for split, samples in dataset.splits.items()}
            == {"train": 2, "val": 1})
    assert (masks["val_aachen_aachen_000002_000019_leftImg8bit"]
            == np.uint8([255, 0, 2, 13, 18, 255])[ids_of(2, 6)]).all()


# Pairs


@pytest.mark.parametrize("photos, masks", [
    ("images/image_{}.jpg", "masks/mask_{}.png"), ("images/{}.jpg", "masks/gt_{}.png"),
    ("img_{}.jpg", "mask_{}.png"),
    ("images/cam/img-{}.jpg", "masks/cam/label-{}.png"),
    ("images/{}_image.png", "annotations/{}_annotation.png")])
def test_prefixes_pair_photos_and_masks(source, target, photos, masks):
    pairs(source, photos, masks, stems=["0001", "0002", "0003"])
    convert(source, target)
    found = served(target)[1]
    assert len(found) == 3 and all((mask == ids_of(int(stem[-1 if stem[-1].isdecimal()
                                                            else -7]) - 1)).all()
                                   for stem, mask in found.items())


def test_other_prefixes_can_be_said(source, target):
    pairs(source, "images/{}.jpg", "masks/ids-of-{}.png")
    for stem in "abcd":
        photo(source / "masks" / f"preview-of-{stem}.png")
    message = refusal(source, target)
    assert "8 faults" not in message and "--mask-prefix" in message and "--mask-suffix" in message
    assert main([str(source), str(target), "--mask-prefix", "ids-of-"]) == 0
    assert (served(target)[1]["b"] == ids_of(1)).all()


# Other names, other sizes


def test_classes_get_other_names_or_become_one(source, target, tmp_path, capsys):
    pairs(source, classes=4)
    listed = ["--classes", "background,cow,weed,sheep dog"]
    assert (main([str(source), str(target), *listed, "--rename", "sheep dog = cow", "--rename",
                  "weed=plant"]) == 0)
    dataset, masks = served(target)
    assert dataset.class_names == ("background", "cow", "plant")
    assert (masks["a"] == np.uint8([0, 1, 2, 1])[ids_of(0, 4)]).all()
    assert main([str(source), str(tmp_path / "void"), *listed, "--rename", "weed=void"]) == 0
    dataset, masks = served(tmp_path / "void")
    assert dataset.class_names == ("background", "cow", "sheep_dog")
    assert (masks["a"] == np.uint8([0, 1, 255, 2])[ids_of(0, 4)]).all()
    for wrong, said in (("cwo=plant", "did you mean 'cow'"), ("cow", "expected NAME=NEW"),
                        ("=a", "expected NAME=NEW")):
        assert main([str(source), str(tmp_path / "wrong"), *listed, "--rename", wrong]) == 2
        assert said in capsys.readouterr().err
    assert main([str(source), str(tmp_path / "wrong"), "--rename", "class_1=cow"]) == 2
    assert "--classes" in capsys.readouterr().err


def test_colours_of_one_class_become_one(source, target):
    colors = np.uint8([(0, 0, 0), (128, 0, 0), (0, 128, 0)])
    for seed, stem in enumerate("ab"):
        photo(source / "images" / f"{stem}.jpg", seed)
        save(source / "masks" / f"{stem}.png", colors[ids_of(seed)])
    write(source / "classes.txt", "soil 0 0 0\nplant 128 0 0\nplant 0 128 0\n")
    assert "--rename" in refusal(source, target)
    write(source / "classes.txt", "soil 0 0 0\nplant 128 0 0\nleaf 0 128 0\n")
    convert(source, target, rename={"leaf": "plant"})
    dataset, masks = served(target)
    assert (dataset.class_names == ("soil", "plant")
            and dataset.colors.tolist() == [[0, 0, 0], [128, 0, 0]])
    assert (masks["a"] == np.minimum(ids_of(0), 1)).all()


def test_labels_of_outlines_become_one(source, target):
    photo(source / "a.png")
    write(source / "labels.json", coco((1, [flat(corners(*SMALL))]), (2, [flat(corners(*BOX))])))
    assert (mask_of(source, target, rename={"sheep": "animal", "cow": "animal"}) == box(*BOX)).all()
    assert served(target)[0].class_names == ("background", "animal")


def test_large_photos_shrink_with_their_masks(source, target, capsys):
    for seed, (stem, size) in enumerate({"a": (80, 120), "b": (120, 80), "c": (30, 20),
                                         "d": (1, 120)}.items()):
        rng = np.random.default_rng(seed)
        save(source / "images" / f"{stem}.png", rng.integers(0, 256, (*size, 3), dtype=np.uint8))
        save(source / "masks" / f"{stem}.png", rng.integers(0, 3, size, dtype=np.uint8))
    assert main([str(source), str(target), "--max-side", "30", "--classes", "sky,cow,sheep"]) == 0
    dataset = load_dataset("voc", target)
    read = {sample[1].stem: dataset.read(sample) for split in dataset.splits.values()
            for sample in split}
    sizes = {stem: mask.shape for stem, (_, mask) in read.items()}
    assert sizes == {"a": (20, 30), "b": (30, 20), "c": (30, 20), "d": (1, 30)}
    original, mask = (np.array(Image.open(source / folder / "a.png")).astype(float)
                      for folder in ("images", "masks"))
    assert abs(original.reshape(20, 4, 30, 4, 3).mean(axis=(1, 3)) - read["a"][0]).max() <= 1
    inside = mask.reshape(20, 4, 30, 4)[:, 1:3, :, 1:3].transpose(0, 2, 1, 3).reshape(20, 30, 4)
    assert (inside == read["a"][1][..., None]).any(axis=2).all()
    assert ((target / "JPEGImages" / "c.png").read_bytes()
            == (source / "images" / "c.png").read_bytes())
    assert (main([str(source), str(target) + "2", "--max-side", "-3"]) == 2
            and "--max-side" in capsys.readouterr().err)


# Which format


def test_formats_that_fit_at_once_are_listed_with_the_option(source, target):
    pairs(source)
    write(source / "labels.json", coco((1, [flat(corners(*BOX))]), file_name="images/a.jpg"))
    write(source / "annotations.xml", cvat(polygon("cow", STAR), name="a.jpg"))
    with pytest.raises(UsageError) as error:
        convert(source, target)
    message = str(error.value)
    assert all(re.search(rf"\b{format} \(", message)
               for format in ("folder", "coco", "cvat-images"))
    assert "--format" in message and not target.exists()
    assert convert(source, target, format="coco", images="images", val=0).splits == {"train": 1}


def test_what_goes_to_labelme_holds_no_other_json(source, target):
    pairs(source)
    convert(source, target, to="labelme", classes="background,cow,sheep")
    assert all("shapes" in json.loads(file.read_text()) for file in target.glob("*.json"))
    assert len(list(target.glob("*.json"))) == 4 and (target / "conversion.txt").is_file()
