"""How `tools.convert` draws splits: by class, in groups, no class in val that train lacks."""

import csv
import itertools
import re

import numpy as np
import pytest
from PIL import Image

from tools import convert as tool
from tools.check import check_dataset
from tools.check.__main__ import main as check_command
from tools.convert import UsageError, convert
from tools.convert.__main__ import main
from tools.convert.base import Sample
from tools.convert.split import draw, groups_of
from utils.datasets import load_dataset

SIZE = HEIGHT, WIDTH = 16, 24


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array, np.uint8)).save(path)


def mask_of(classes):
    """A mask uint8 (16, 24) with a column of 4 pixels for each class, class 0 elsewhere."""
    mask = np.zeros(SIZE, np.uint8)
    for place, number in enumerate(classes):
        mask[:, 4 * place:4 * place + 4] = number
    return mask


def write(root, shows, names=None, seed=0):
    """Write a photo of noise and a mask for each list of classes, called 00, 01 ... or `names`."""
    rng = np.random.default_rng(seed)
    for number, classes in enumerate(shows):
        name = names[number] if names else f"{number:02}"
        save(root / "images" / f"{name}.png", rng.integers(0, 256, (*SIZE, 3)))
        save(root / "masks" / f"{name}.png", mask_of(classes))
    return root


def lists_of(target):
    lists = (target / "ImageSets" / "Segmentation").iterdir()
    return {path.stem: path.read_text().split() for path in lists}


def counts_of(target):
    return {split: len(stems) for split, stems in lists_of(target).items()}


def homes_of(target):
    return {stem: split for split, stems in lists_of(target).items() for stem in stems}


def masks_of(target):
    """Stem -> mask, as training gets it."""
    dataset = load_dataset("voc", target)
    samples = [sample for split in dataset.splits.values() for sample in split]
    return {sample[1].stem: dataset.read(sample)[1] for sample in samples}


def errors_of(target):
    problems = check_dataset(load_dataset("voc", target))
    return [str(problem) for problem in problems if problem.severity == "error"]


def refusal(*arguments, **options):
    with pytest.raises(ValueError) as error:
        convert(*arguments, **options)
    return str(error.value)


# The draw


def best_without(holds, sizes, most):
    """Try everything: the most photos, up to `most`, that train can spare; None without any."""
    found = []
    for count in range(1, len(sizes)):
        for held in itertools.combinations(range(len(sizes)), count):
            train = [group for group in range(len(sizes)) if group not in held]
            if (holds[train].any(axis=0) == holds.any(axis=0)).all():
                found.append(sizes[list(held)].sum())
    return max((size for size in found if size <= most), default=0) if found else None


@pytest.mark.parametrize("grouped", [False, True])
def test_the_draw_finds_a_split_wherever_trying_everything_does(grouped):
    rng = np.random.default_rng(int(grouped))
    outcomes = set()
    for trial in range(300):
        photos, classes = rng.integers(3, 10), rng.integers(1, 7)
        shown = rng.random((photos, classes)) < rng.choice([0.15, 0.3, 0.6])
        groups = np.arange(photos)
        if grouped:
            groups = rng.integers(0, rng.integers(2, photos + 1), photos)
            groups = np.unique(groups, return_inverse=True)[1]
        sizes = np.bincount(groups)
        holds = np.array([shown[groups == group].any(axis=0) for group in range(len(sizes))])
        names = [f"class {i}" for i in range(classes)]
        best = best_without(holds, sizes, round(0.3 * photos))
        outcomes.add(best is None)
        if best is None:
            with pytest.raises(ValueError, match="cannot be split|no split leaves every class"):
                draw(shown, groups, [0.3], trial, names)
            continue
        subsets = draw(shown, groups, [0.3], trial, names)
        assert set(subsets) == {0, 1}
        assert all(len(set(subsets[groups == group])) == 1 for group in groups)
        assert (shown[subsets == 0].any(axis=0) == shown.any(axis=0)).all()
        held = (subsets == 1).sum()
        assert best - sizes.max() <= held <= round(0.3 * photos) + sizes.max() * grouped
    assert outcomes == {False, True}


@pytest.mark.parametrize("seed", range(5))
def test_each_split_gets_its_share_of_every_class(tmp_path, seed):
    shows = [[1]] * 20 + [[2]] * 10 + [[2, 3]] * 10 + [[4]] * 5 + [[5]] * 2 + [[6]]
    write(tmp_path / "s", shows)
    convert(tmp_path / "s", tmp_path / "t", val=0.2, seed=seed)
    lists = lists_of(tmp_path / "t")
    all_photos = [sum(number in classes for classes in shows) for number in range(1, 7)]
    in_val = [sum(number in shows[int(stem)] for stem in lists["val"]) for number in range(1, 7)]
    assert len(lists["val"]) == round(0.2 * len(shows)) and in_val[5] == 0
    assert all(abs(count - 0.2 * total) <= 1 for count, total in zip(in_val, all_photos)), in_val


def test_random_data_sets_pass_the_check(tmp_path):
    rng = np.random.default_rng(3)
    drawn = 0
    for trial in range(25):
        shows = [rng.choice(np.arange(1, 6), rng.integers(0, 4), replace=False).tolist()
                 for _ in range(rng.integers(4, 13))]
        names = [f"clip{rng.integers(4)}_{number:02}" for number in range(len(shows))]
        write(tmp_path / f"s{trial}", shows, names, seed=trial)
        target, grouped = tmp_path / f"t{trial}", bool(trial % 2)
        test, group = 0.25 if trial % 3 else None, r"clip\d" if grouped else ""
        classes = "ground,class1,class2,class3,class4,class5"
        try:
            done = convert(tmp_path / f"s{trial}", target, classes=classes, val=0.25, test=test,
                           group=group, seed=trial)
        except ValueError as error:
            assert re.search("cannot be split|no split leaves", str(error)) and not target.exists()
            continue
        drawn += 1
        lists = lists_of(target)
        assert errors_of(target) == []
        assert sorted(sum(lists.values(), [])) == sorted(names) and len(lists) == 2 + bool(test)
        if grouped:
            clips = [name[:5] for name in names]
            largest = max(clips.count(clip) for clip in clips)
            homes = {(stem[:5], split) for split, stems in lists.items() for stem in stems}
            assert len(homes) == len({clip for clip, _ in homes}) == groups_in(done)
            assert abs(len(lists["val"]) - 0.25 * len(names)) <= largest
        shown = {number for classes in shows for number in classes}
        assert shown == {number for stem in lists["train"] for number in shows[names.index(stem)]}
    assert drawn > 15


def test_the_draw_is_the_same_again_and_told(tmp_path):
    write(tmp_path / "s", [[1], [2], [1, 2], [], [1], [2], [1, 2], []])
    done = [convert(tmp_path / "s", tmp_path / f"t{i}", seed=4) for i in range(2)]
    assert lists_of(tmp_path / "t0") == lists_of(tmp_path / "t1")
    convert(tmp_path / "s", tmp_path / "t2", seed=5)
    assert lists_of(tmp_path / "t0") != lists_of(tmp_path / "t2")
    assert re.search(r"val \(2 photos\) of 8 photos; stratified by class, seed 4", str(done[0]))


def test_photos_that_no_split_can_spare_are_refused_with_their_classes(tmp_path):
    write(tmp_path / "s", [[1], [2], [3]])
    said = refusal(tmp_path / "s", tmp_path / "t", classes="ground,cow,sheep,barn")
    assert "cow, sheep, barn" in said and "--val 0" in said and not (tmp_path / "t").exists()
    convert(tmp_path / "s", tmp_path / "t", val=0)
    assert lists_of(tmp_path / "t").keys() == {"train"}


# Groups


def groups_in(done):
    return int(re.search(r"drawn: .* of .* in (\d+) groups;", str(done))[1])


CLIPS = [f"clip{clip}_{frame:03}" for clip in range(5) for frame in range(3)]


@pytest.mark.parametrize("group", [r"clip\d", r"^(.+)_\d+$", r"(clip\d)_"])
def test_photos_of_one_clip_stay_together(tmp_path, group):
    write(tmp_path / "s", [[1, 2]] * 15, CLIPS)
    done = convert(tmp_path / "s", tmp_path / "t", group=group, test=0.2)
    assert counts_of(tmp_path / "t") == {"train": 9, "val": 3, "test": 3}
    assert len({(stem[:5], split) for stem, split in homes_of(tmp_path / "t").items()}) == 5
    assert "of 15 photos in 5 groups" in str(done)
    assert repr(group) in (tmp_path / "t" / "conversion.txt").read_text()


@pytest.mark.parametrize("seed", range(5))
def test_fractions_are_of_photos_not_of_clips(tmp_path, seed):
    """To half a clip, which is how near whole clips come."""
    sizes = 10, 4, 3, 3
    names = [f"clip{clip}_{i:02}" for clip, size in enumerate(sizes) for i in range(size)]
    write(tmp_path / "s", [[1]] * 20, names)
    convert(tmp_path / "s", tmp_path / "t", group=r"clip\d", val=0.5, seed=seed)
    assert abs(counts_of(tmp_path / "t")["val"] - 0.5 * sum(sizes)) <= max(sizes) / 2


def test_photos_without_a_match_stand_alone_and_folders_count(tmp_path):
    names = ["a/1", "a/2", "a/3", "b/1", "b/2", "b/3", "x", "y"]
    write(tmp_path / "s", [[1]] * 8, names)
    done = convert(tmp_path / "s", tmp_path / "t", group="^(.)/", val=0.4)
    homes = homes_of(tmp_path / "t")
    assert all(len({homes[f"{clip}_{i}"] for i in (1, 2, 3)}) == 1 for clip in "ab")
    assert groups_in(done) == 4 and "2 photos without a match" in str(done)


@pytest.mark.parametrize("names", [["a/train/1", "a/train/2", "b/val/1"],
                                   ["train1", "train2", "val1"]])
def test_groups_go_by_names_without_the_folders_of_splits(tmp_path, names):
    write(tmp_path / "s", [[1]] * 3, names)
    done = convert(tmp_path / "s", tmp_path / "t", group=r"^(./|[a-z]+)\d$")
    assert r"\d$: 3 photos in 2 groups" in str(done)


@pytest.mark.parametrize("form", ["{}.rf.{}", "{}_jpg.rf.{}"])
def test_copies_that_roboflow_made_stay_together(tmp_path, form):
    hashes = [f"{number:032x}" for number in range(24)]
    names = [form.format(f"house{number // 3}", text) for number, text in enumerate(hashes)]
    write(tmp_path / "s", [[1]] * 24, names)
    done = convert(tmp_path / "s", tmp_path / "t")
    homes = homes_of(tmp_path / "t").items()
    assert len({(stem.split(".rf.")[0], split) for stem, split in homes}) == 8
    assert groups_in(done) == 8 and "Roboflow" in str(done)


def test_equal_photos_stay_together_even_of_several_clips(tmp_path):
    write(tmp_path / "s", [[1]] * 9, [f"{clip}{i}" for clip in "abc" for i in range(3)])
    images = tmp_path / "s" / "images"
    (images / "b1.png").write_bytes((images / "a0.png").read_bytes())
    for trial in range(6):
        done = convert(tmp_path / "s", tmp_path / f"t{trial}", seed=trial, group="^.")
        homes = homes_of(tmp_path / f"t{trial}")
        assert len({homes[stem] for stem in homes if stem[0] in "ab"}) == 1
        assert groups_in(done) == 2
        assert errors_of(tmp_path / f"t{trial}") == []
    assert "1 photo with the same pixels" in str(done)


@pytest.mark.parametrize("seed", range(10))
def test_a_group_is_all_that_a_chain_of_clips_and_equal_photos_ties_together(seed):
    """Expected is what steps from photo to photo reach, one more step at a time."""
    rng = np.random.default_rng(seed)
    clips, photos = rng.integers(0, 6, 10), rng.integers(0, 8, 10)
    samples = [Sample(f"clip{clip}_{i}", "", None, None) for i, clip in enumerate(clips)]
    found = groups_of(samples, [bytes([photo]) for photo in photos], r"clip\d", [])
    linked = (clips[:, None] == clips) | (photos[:, None] == photos)
    for _ in range(10):
        linked = linked @ linked
    np.testing.assert_array_equal(found[:, None] == found, linked)
    assert sorted(set(found)) == list(range(len(set(found))))


@pytest.mark.parametrize("group, word", [("clip(", "regular"), ("film", "'clip0_000'")])
def test_a_regex_without_sense_is_refused_at_once(tmp_path, monkeypatch, capsys, group, word):
    write(tmp_path / "s", [[1]] * 15, CLIPS)
    monkeypatch.setattr(tool, "write_samples", lambda *_: pytest.fail("photos were converted"))
    assert main([str(tmp_path / "s"), str(tmp_path / "t"), "--group", group]) == 2
    said = capsys.readouterr().err
    assert f"--group {group}" in said and word in said


def test_a_split_that_the_source_has_is_refused_at_once(tmp_path, monkeypatch):
    write(tmp_path / "s", [[1]] * 4)
    (tmp_path / "s" / "train.txt").write_text("00\n01\n")
    (tmp_path / "s" / "val.txt").write_text("02\n03\n")
    monkeypatch.setattr(tool, "write_samples", lambda *_: pytest.fail("photos were converted"))
    for option, value in (("val", 0), ("val", 0.3)):
        with pytest.raises(UsageError, match=f"--{option} {value}: .*already"):
            convert(tmp_path / "s", tmp_path / "t", **{option: value})


# Long lists


def test_an_error_holds_the_count_and_the_first_faults(tmp_path):
    write(tmp_path / "s", [[1]] * 100)
    for path in (tmp_path / "s" / "masks").iterdir():
        if path.stem != "42":
            path.write_bytes(b"")
    said = refusal(tmp_path / "s", tmp_path / "t", classes="ground,cow")
    assert ("99 faults" in said and "00.png" in said and "and 79 more" in said
            and len(said.split("\n")) < 30)
    done = convert(tmp_path / "s", tmp_path / "t", classes="ground,cow", val=0, skip_faulty=True)
    assert len(done.skipped) == 99 and "99 faults" in str(done) and len(str(done).split("\n")) < 20


# Exports and masks as people have them


def roboflow(root, shows, classes, folder="train"):
    """Write what Roboflow exports as "semantic segmentation masks"."""
    rng = np.random.default_rng(ord(folder[0]))
    for number, shown in enumerate(shows):
        stem = root / folder / f"photo{number}_jpg.rf.{number:032x}"
        save(stem.with_name(f"{stem.name}.jpg"), rng.integers(0, 256, (*SIZE, 3)))
        save(stem.with_name(f"{stem.name}_mask.png"), mask_of(shown))
    with open(root / folder / "_classes.csv", "w", encoding="utf-8", newline="") as file:
        file.write("Pixel Value, Class\n")
        csv.writer(file).writerows((i, f" {name}") for i, name in enumerate(classes))


def test_a_roboflow_export_needs_no_option(tmp_path, capsys):
    classes = ["background", "Cow statue", "Grass", "rail track", "umbrella"]
    roboflow(tmp_path / "s", [[1, 3], [1], [3], [1, 3]], classes)
    assert main([str(tmp_path / "s"), str(tmp_path / "t")]) == 0
    said = capsys.readouterr().out
    assert "_classes.csv" in said
    assert check_command([str(tmp_path / "t")]) == 0
    dataset = load_dataset("voc", tmp_path / "t")
    assert dataset.class_names == ("background", "Cow_statue", "Grass", "rail_track", "umbrella")
    masks = masks_of(tmp_path / "t")
    assert (masks[f"train_photo0_jpg.rf.{0:032x}"] == mask_of([1, 3])).all()


def test_the_splits_of_a_roboflow_export_have_one_list_of_classes(tmp_path):
    roboflow(tmp_path / "s", [[1], [2]], ["background", "cow", "barn"])
    roboflow(tmp_path / "s", [[1, 2]], ["background", "cow", "barn"], "valid")
    convert(tmp_path / "s", tmp_path / "t")
    assert counts_of(tmp_path / "t") == {"train": 2, "val": 1}
    roboflow(tmp_path / "s", [[1, 2]], ["background", "barn", "cow"], "valid")
    said = refusal(tmp_path / "s", tmp_path / "other")
    assert "valid" in said and "_classes.csv: differs" in said and "--classes" in said


@pytest.mark.parametrize("options, names", [({}, ("background", "foreground")),
                                            ({"classes": "membrane,cell"}, ("membrane", "cell")),
                                            ({"classes": "0 sky,255 cow"}, ("sky", "cow")),
                                            ({"classes": "255 cow,0 sky"}, ("sky", "cow")),
                                            ({"classes": ["cow"]}, ("background", "cow")),
                                            ({"classes": ["1 cow"]}, ("background", "cow"))])
def test_masks_of_0_and_255_are_two_classes(tmp_path, options, names):
    write(tmp_path / "s", [[255], [255], [], [255]])
    done = convert(tmp_path / "s", tmp_path / "t", **options)
    assert load_dataset("voc", tmp_path / "t").class_names == names
    assert "--void 255" in str(done) and done.pixels[2] == 0 and errors_of(tmp_path / "t") == []
    masks = masks_of(tmp_path / "t")
    assert (masks["00"] == (mask_of([255]) == 255)).all() and (masks["02"] == 0).all()


def test_255_stays_void_where_anything_says_so(tmp_path):
    write(tmp_path / "s", [[255], [255], [1]])
    convert(tmp_path / "s", tmp_path / "t", classes="ground,cow")  # a third value is there
    assert (masks_of(tmp_path / "t")["00"] == mask_of([255])).all()
    write(tmp_path / "two", [[255], [255]])
    for options in ({"void": (255,)}, {"void": (255,), "classes": "ground,cow"}):
        assert "nothing to learn" in refusal(tmp_path / "two", tmp_path / "other", **options)
    assert "--map 255=1" in refusal(tmp_path / "two", tmp_path / "other", classes="ground,cow,barn")


def test_void_in_a_palette_of_another_colour_is_asked_about(tmp_path):
    for number in range(2):
        save(tmp_path / "s" / "images" / f"{number}.png", np.full((*SIZE, 3), number))
        picture = Image.fromarray(mask_of([255]))
        picture.putpalette(bytes(3 * 255) + bytes((224, 224, 192)))
        (tmp_path / "s" / "masks").mkdir(exist_ok=True)
        picture.save(tmp_path / "s" / "masks" / f"{number}.png")
    assert "--map 255=1" in refusal(tmp_path / "s", tmp_path / "t")


def test_annotations_beside_images_are_pairs(tmp_path):
    write(tmp_path / "s", [[1], [1], [1]])
    for folder, ending in (("images", "image"), ("masks", "annotation")):
        for path in list((tmp_path / "s" / folder).iterdir()):
            path.rename(path.with_name(f"{path.stem}_{ending}.png"))
    assert convert(tmp_path / "s", tmp_path / "t").splits == {"train": 2, "val": 1}


def test_pairing_errors_name_the_option_that_helps(tmp_path):
    write(tmp_path / "s", [[1], [1], [1]])
    masks = list((tmp_path / "s" / "masks").iterdir())
    masks[0].rename(masks[0].with_name(f"{masks[0].stem}_ids.png"))
    said = refusal(tmp_path / "s", tmp_path / "t")
    assert "2 faults" in said and said.count("--mask-suffix") == 2
    for path in masks[1:]:
        path.rename(path.with_name(f"{path.stem}_ids.png"))
    assert "--mask-suffix" in refusal(tmp_path / "s", tmp_path / "t")
    convert(tmp_path / "s", tmp_path / "t", mask_suffix="_ids")
