"""Finding data sets on disk, what is said about faulty ones, and their recipes."""

import shutil

import numpy as np
import pytest
from PIL import Image

from tools.check import check_dataset
from utils import recipes
from utils.datasets import load_dataset
from utils.images import read_mask, write_mask
from utils.labels import VOID, voc_colormap
from utils.recipes import Recipe

RGB = np.random.default_rng(0).integers(0, 256, (6, 10, 3), dtype=np.uint8)


def saved(path, array, **options):
    Image.fromarray(array).save(path, **options)
    return path


# Data sets on disk


def test_voc_layout_is_read(voc):
    dataset = load_dataset("voc", voc)
    assert dataset.class_names == ("ground", "block", "disc") and dataset.num_classes == 3
    assert dataset.colors.dtype == np.uint8 and dataset.colors.tolist() == [
        [40, 160, 40],
        [200, 40, 40],
        [40, 60, 220],
    ]
    assert ({name: len(samples) for name, samples in dataset.splits.items()}
            == {"train": 5, "val": 2})
    image, mask = dataset.read(dataset.split("val")[1])
    assert (image.shape == (48, 64, 3) and mask.shape == (48, 64)
            and set(np.unique(mask)) <= {0, 1, 2, VOID})
    assert check_dataset(dataset) == []


def test_identity_tells_trainings_on_other_photos_apart(voc, tmp_path, make_voc):
    one = load_dataset("voc", voc).identity()
    assert (one["photos"].startswith("train 5, val 2, digest ")
            and one["class_names"] == ["ground", "block", "disc"])
    assert load_dataset("voc", make_voc(tmp_path / "again")).identity() == one
    photo = load_dataset("voc", voc).split("train")[0][0]
    Image.fromarray(RGB).save(photo)
    assert load_dataset("voc", voc).identity()["photos"] != one["photos"]


@pytest.mark.parametrize("lists, splits", [
    (("train", "val", "trainval"), {"train", "val"}),
    (("train", "trainval"), {"train", "trainval"}),
    (("train", "val", "test", "mine"), {"train", "val", "test", "mine"})])
def test_every_list_is_a_split_but_vocs_name_for_both(voc, lists, splits):
    folder = voc / "ImageSets" / "Segmentation"
    text = (folder / "val.txt").read_text()
    (folder / "val.txt").unlink()
    for name in lists[1:]:
        (folder / f"{name}.txt").write_text(text)
    assert load_dataset("voc", voc).splits.keys() == splits


def test_an_empty_split_is_named(voc):
    (voc / "ImageSets" / "Segmentation" / "val.txt").write_text("# none yet\n")
    with pytest.raises(ValueError, match="voc has no photos in split 'val'"):
        load_dataset("voc", voc).split("val")


@pytest.mark.parametrize("text, said", [
    ("", "two classes or more"),
    ("0 cow 0 0 0\n", "two classes or more"),
    ("0 cow 0 0 0\n1 cow 1 1 1\n", "duplicate: .*cow"),
    ("\n".join(f"{i} c{i} 0 0 0" for i in range(256)), "c255.* at most 254"),
])
def test_class_tables_that_cannot_be_meant_are_refused(voc, text, said):
    (voc / "classes.txt").write_text(text)
    with pytest.raises(ValueError, match=f"classes.txt: .*{said}"):
        load_dataset("voc", voc)


@pytest.mark.parametrize("name", ["classes.txt", "ImageSets/Segmentation/train.txt"])
def test_texts_that_are_not_utf8_are_named(voc, name):
    (voc / name).write_bytes("0 müller 0 0 0\n".encode("utf-16"))
    with pytest.raises(ValueError, match=f"{name}: .*UTF-8"):
        load_dataset("voc", voc)


@pytest.mark.parametrize("stem, line", [
    ("my photo 1", "my photo 1"), ("cow", "cow  1"), ("cow", "cow -1"), ("cow", "cow 0"),
    ("cow", "cow.jpg"), ("v1.5", "v1.5"),
])
def test_lists_name_photos_in_several_ways(voc, stem, line):
    photo, mask = load_dataset("voc", voc).split("train")[0]
    photo = photo.rename(photo.with_name(f"{stem}.jpg"))
    mask = mask.rename(mask.with_name(f"{stem}.png"))
    (voc / "ImageSets" / "Segmentation" / "train.txt").write_text(f"{line}\n", encoding="utf-8")
    assert load_dataset("voc", voc).split("train") == [(photo, mask)]


@pytest.mark.parametrize("line, name", [("5", "5.jpg"), ("5.jpg", "5.jpg.jpg")])
def test_lists_name_stems_before_files(voc, line, name):
    photo, mask = load_dataset("voc", voc).split("train")[0]
    for stem in ("5", "5.jpg"):
        shutil.copyfile(photo, photo.with_name(f"{stem}.jpg"))
        shutil.copyfile(mask, mask.with_name(f"{stem}.png"))
    (voc / "ImageSets" / "Segmentation" / "train.txt").write_text(f"{line}\n", encoding="utf-8")
    (found, _), = load_dataset("voc", voc).split("train")
    assert found.name == name


def test_without_classes_txt_the_classes_are_vocs(voc):
    (voc / "classes.txt").unlink()
    dataset = load_dataset("voc", str(voc))
    assert (dataset.num_classes == 21 and dataset.class_names[15] == "person"
            and dataset.class_names[-1] == "tvmonitor")
    assert (dataset.colors == voc_colormap(21)).all()


def test_meadow_can_lie_elsewhere_and_is_scored_on_test(tmp_path, make_voc):
    dataset = load_dataset("meadow", make_voc(tmp_path / "copy", {"train": 2, "val": 1, "test": 1}))
    assert dataset.name == "meadow" and dataset.test_split == "test"
    assert len(dataset.split("test")) == 1


@pytest.mark.parametrize("above", ["", "one", "one/two", "one/two/three"])
def test_data_dir_may_be_a_folder_above(tmp_path, make_voc, above):
    make_voc(tmp_path / "downloads" / above)
    assert len(load_dataset("voc", tmp_path / "downloads").split("train")) == 5


@pytest.mark.parametrize(
    "name, sentence",
    [
        ("voc", 'dataset "voc" needs data_dir: a folder in VOC layout'),
        ("medow", "dataset is 'medow'; did you mean 'meadow'.*voc2007, voc2012, oxford_pets"),
        ("zzz", "dataset is 'zzz'. There are: meadow"),
    ],
)
def test_data_set_names_are_checked(name, sentence):
    with pytest.raises(ValueError, match=sentence):
        load_dataset(name)


def test_data_dir_must_hold_the_data_set(tmp_path):
    for name, folder in (("voc", tmp_path), ("camvid", tmp_path), ("meadow", tmp_path)):
        with pytest.raises(FileNotFoundError, match=f"holds no {name} data") as error:
            load_dataset(name, folder)
        assert str(folder) in str(error.value)
    with pytest.raises(FileNotFoundError, match="nowhere.*holds no voc data"):
        load_dataset("voc", "nowhere")


def test_split_names_get_a_hint(voc):
    with pytest.raises(
        ValueError, match="voc .*split 'vall'; did you mean 'val'. There are: train, val"
    ):
        load_dataset("voc", voc).split("vall")


def test_missing_partners_are_listed_at_once(voc):
    for file in ("JPEGImages/train1.png", "SegmentationClass/train1.png",
                 "SegmentationClass/train4.png"):
        (voc / file).unlink()
    with pytest.raises(ValueError, match=r"files that are not there \(3\)") as error:
        load_dataset("voc", voc)
    assert all(name in str(error.value) for name in ("train1.jpg", "train1.png", "train4.png"))
    assert "Add them, or take their lines out" in str(error.value)


def test_long_lists_of_missing_files_are_cut(voc):
    (voc / "ImageSets/Segmentation/train.txt").write_text(
        "\n".join(f"x{i}" for i in range(15)), encoding="utf-8"
    )
    with pytest.raises(ValueError, match=r"(?s)not there \(30\).*and 10 more") as error:
        load_dataset("voc", voc)
    assert str(error.value).count(f"{voc}") == 20


def test_lists_may_hold_blank_lines_comments_and_windows_ends(voc):
    list_file = voc / "ImageSets/Segmentation/train.txt"
    list_file.write_bytes(b"\xef\xbb\xbf# scenes\r\n\r\ntrain0\r\ntrain1  1\r\n")
    samples = load_dataset("voc", voc).split("train")
    assert [image.stem for image, _ in samples] == ["train0", "train1"]


@pytest.mark.parametrize(
    "text, found",
    [
        ("0 ground 1 2 3\n2 block 4 5 6",
         "found '2 block 4 5 6'; expected '1 NAME RED GREEN BLUE'"),
        ("1 ground 1 2 3", "expected '0 NAME RED GREEN BLUE', ids from 0"),
        ("0 ground 1 2", "found '0 ground 1 2'"),
        ("0 ground 1 2 256", "found '0 ground 1 2 256'"),
        ("0 ground 1 2 x", "found '0 ground 1 2 x'"),
        ("0 ground 1 2 ²", "found '0 ground 1 2 ²'"),
        (f"0 ground 1 2 {'9' * 5000}", "found '0 ground"),
        ("² ground 1 2 3", "found '² ground 1 2 3'"),
        ("0 wide ground 1 2 3", "found '0 wide ground 1 2 3'"),
    ],
)
def test_faults_of_classes_txt_are_shown(voc, text, found):
    (voc / "classes.txt").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=found) as error:
        load_dataset("voc", voc)
    assert str(voc / "classes.txt") in str(error.value)


@pytest.mark.parametrize("line", ["/photos/one",
                                  "/JPEGImages/one.jpg /SegmentationClass/one.png", "../../one"])
def test_lists_name_photos_of_the_data_set_only(voc, line):
    file = voc / "ImageSets" / "Segmentation" / "val.txt"
    file.write_text(f"val0\n{line}\n", encoding="utf-8")
    with pytest.raises(ValueError, match="JPEGImages") as error:
        load_dataset("voc", voc)
    assert str(file) in str(error.value) and repr(line) in str(error.value)


@pytest.mark.parametrize("name", ["ImageSets/Segmentation/val.txt",
                                  "ImageSets/Segmentation/train.txt", "classes.txt"])
def test_a_folder_in_the_place_of_a_text_file_is_named(voc, name):
    (voc / name).unlink()
    (voc / name).mkdir()
    with pytest.raises(ValueError, match="expected a text file") as error:
        load_dataset("voc", voc)
    assert str(voc / name) in str(error.value)


def test_scenes_are_found_by_name(voc):
    dataset = load_dataset("voc", voc)
    assert dataset.find("train", "train3") == 3
    assert (dataset.find("train", "", default="train2") == 2
            and dataset.find("train", "", default="test_023") == 0)
    for scene in ("trian3", "train9", "test_023", "x"):
        with pytest.raises(ValueError, match=f"scene is '{scene}'.*train[0-4]"):
            dataset.find("train", scene)


# What is wrong with a data set


def test_read_refuses_sizes_that_differ_and_strange_ids(voc):
    dataset = load_dataset("voc", voc)
    sample = dataset.split("train")[0]
    saved(sample[1], np.zeros((64, 48), np.uint8))
    sizes = r"train0\.png: the mask is 48x64 pixels, its photo train0\.png 64x48"
    with pytest.raises(ValueError, match=sizes) as error:
        dataset.read(sample)
    assert str(error.value).startswith(f"{sample[1]}: ")
    mask = np.zeros((48, 64), np.uint8)
    mask[0, :7] = (3, 3, 3, 9, 200, 254, 255)
    saved(sample[1], mask)
    strange = r"6 pixels have the ids \[3, 9, 200, 254\]; expected 0 to 2, or 255"
    with pytest.raises(ValueError, match=strange) as error:
        dataset.read(sample)
    assert str(error.value).startswith(f"{sample[1]}: ")


# Recipes


def test_zero_and_empty_mean_the_recipe():
    recipe = Recipe(epochs=7, backbone="vgg_small")
    assert (recipe.override(epochs=0, backbone="", learning_rate=0.0, image_size=0,
                            batch_size=0) == recipe)
    changed = recipe.override(epochs=3, backbone="vgg16")
    assert (changed.epochs, changed.backbone, changed.batch_size) == (3, "vgg16", recipe.batch_size)


@pytest.mark.parametrize("name, value", [
    ("image_size", -1), ("image_size", 1), ("image_size", 31), ("image_size", 10_000),
    ("image_size", 64.5),
    ("batch_size", -1), ("epochs", -1), ("epochs", 2.5), ("epochs", "3"), ("learning_rate", -1.0),
    ("learning_rate", float("nan")), ("learning_rate", float("inf")), ("learning_rate", "0.001"),
])
def test_values_that_cannot_be_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value!r}; expected"):
        Recipe().override(**{name: value})
    with pytest.raises(ValueError, match=name):
        Recipe(**{name: value})


def test_smallest_and_largest_values_are_taken():
    for name, (smallest, largest, _) in recipes.LIMITS.items():
        recipes.check_numbers(**{name: smallest})
        recipes.check_numbers(**{name: largest})


@pytest.mark.parametrize("seed", [-1, 2**32, 1.5, "0"])
def test_seeds_that_no_generator_takes_are_refused(seed):
    with pytest.raises(ValueError, match=f"seed is {seed!r}; expected .* 4294967295"):
        recipes.check_numbers(seed=seed)


def test_a_mistyped_rule_of_class_weights_is_refused_at_once():
    sentence = r"class_weights is 'medium'; did you mean 'median'\? There are: none, median"
    with pytest.raises(ValueError, match=sentence):
        Recipe().override(class_weights="medium")
    assert Recipe().override(class_weights="root_median").class_weights == "root_median"


def test_every_data_set_reads_what_it_writes(tmp_path, voc):
    dataset = load_dataset("voc", voc)
    _, mask = dataset.read(dataset.split("train")[0])
    write_mask(tmp_path / "a.png", mask, dataset.colors)
    assert (read_mask(tmp_path / "a.png") == mask).all()
    assert dataset.read((dataset.split("train")[0][0], tmp_path / "a.png"))[1].shape == mask.shape


def test_hidden_twins_of_lists_are_no_lists(voc):
    """As macOS writes beside its own on other systems' disks."""
    lists = voc / "ImageSets" / "Segmentation"
    (lists / "._train.txt").write_bytes(b"\x00\x05\x16\x07\xa3\xff")
    assert load_dataset("voc", voc).splits.keys() == {"train", "val"}
