"""What the data check finds: faults, made one by one in a sound data set, and a remedy for each."""

import io
import itertools
import re
import shutil
import threading
from pathlib import Path
from unittest.mock import Mock

import cv2
import numpy as np
import pytest
from PIL import Image

from tools import check, progress
from tools.check import check_dataset, faults
from tools.check.__main__ import main
from utils import images
from utils.datasets import find_dataset, load_dataset
from utils.labels import VOID, VOID_COLOR

COLORS = np.uint8([[40, 160, 40], [200, 40, 40], [40, 60, 220]])


class Folder:
    """A folder in VOC layout whose files can be replaced, as arrays."""

    def __init__(self, root):
        self.root = root
        parts = "JPEGImages", "SegmentationClass", "ImageSets/Segmentation"
        self.photos, self.masks, self.lists = (root / part for part in parts)

    def photo(self, stem):
        return np.array(Image.open(self.photos / f"{stem}.png"))

    def mask(self, stem):
        return np.array(Image.open(self.masks / f"{stem}.png"))

    def painted(self, stem):
        """The mask in the colours of its classes, (H, W, 3)."""
        return np.vstack([COLORS, np.zeros((252, 3)),
                          [VOID_COLOR]]).astype(np.uint8)[self.mask(stem)]

    def save_photo(self, stem, array, **options):
        Image.fromarray(array).save(self.photos / f"{stem}.png", **options)

    def save_mask(self, stem, array, **options):
        Image.fromarray(array).save(self.masks / f"{stem}.png", **options)

    def problems(self):
        return check_dataset(find_dataset("voc", self.root))


@pytest.fixture
def folder(tmp_path, make_voc):
    return Folder(make_voc(tmp_path / "voc"))


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def encoded(array, format):
    file = io.BytesIO()
    Image.fromarray(array).save(file, format)
    return file


# One fault at a time: what breaks the data set, how bad that is, the file, what is said about it.


def lose_photo(folder):
    (folder.photos / "train1.png").unlink()


def lose_mask(folder):
    (folder.masks / "train1.png").unlink()


def wrong_format(folder):
    Image.fromarray(folder.mask("train1")).save(folder.masks / "train1.bmp")
    (folder.masks / "train1.png").unlink()


def smaller_mask(folder):
    folder.save_mask("train1", folder.mask("train1")[:40])


def strange_id(folder):
    mask = folder.mask("train1")
    mask[0, :7] = 9
    folder.save_mask("train1", mask)


def one_class_too_many(folder):
    mask = folder.mask("train1")
    mask[:2, :7] = 3
    folder.save_mask("train1", mask)


def empty_test(folder):
    (folder.lists / "test.txt").write_text("", encoding="utf-8")


def strange_color(folder):
    painted = folder.painted("train1")
    painted[0, :5] = (43, 160, 40)
    folder.save_mask("train1", painted)


def smoothed_colors(folder):
    painted = cv2.resize(folder.painted("train1"), (90, 70), interpolation=cv2.INTER_CUBIC)
    folder.save_mask("train1", cv2.resize(painted, (64, 48)))


def smoothed_ids(folder):
    folder.save_mask("train1", cv2.GaussianBlur(folder.mask("train1"), (5, 5), 0))


def colors_once_jpeg(folder):
    folder.save_mask("train1", np.array(Image.open(encoded(folder.painted("train1"), "JPEG"))))


def jpeg_named_png(folder):
    (folder.masks / "train1.png").write_bytes(encoded(folder.mask("train1"), "JPEG").getvalue())


def photo_for_a_mask(folder):
    photo = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    folder.save_photo("train1", photo)
    folder.save_mask("train1", photo)


def ids_times_257(folder):
    folder.save_mask("train1", folder.mask("train1").astype(np.uint16) * 257)


def renumbered_palette(folder):
    order = np.array([2, 0, 1, *range(3, 256)], np.uint8)
    picture = Image.fromarray(order[folder.mask("train1")])
    picture.putpalette(COLORS[[1, 2, 0]].tobytes() + bytes(3 * 253))
    picture.save(folder.masks / "train1.png")


def truncated_photo(folder):
    path = folder.photos / "train1.png"
    path.write_bytes(path.read_bytes()[:2000])


def empty_mask(folder):
    (folder.masks / "train1.png").write_bytes(b"")


def web_page(folder):
    (folder.photos / "train1.png").write_bytes(b"<html>404 not found</html>")


def photo_turned_mask_not(folder):
    folder.save_photo("train1", np.rot90(folder.photo("train1")).copy(), exif=turned(6))
    folder.save_mask("train1", np.rot90(folder.mask("train1")).copy())


def in_two_lists(folder):
    (folder.lists / "val.txt").write_text("val0\nval1\ntrain1\n", encoding="utf-8")


def copied_to_val(folder):
    shutil.copy(folder.photos / "train1.png", folder.photos / "val1.png")
    shutil.copy(folder.masks / "train1.png", folder.masks / "val1.png")


def same_picture_in_another_format(folder):
    Image.fromarray(folder.photo("train1")).save(folder.photos / "val1.bmp")
    (folder.photos / "val1.png").unlink()


def fractions(folder):
    Image.fromarray(folder.photo("train1")[..., 0] / np.float32(255)).save(folder.photos
                                                                           / "train1.tif")
    (folder.photos / "train1.png").unlink()


def hide_disc(folder, split):
    for path in folder.masks.glob(f"{split}*.png"):
        mask = folder.mask(path.stem)
        folder.save_mask(path.stem, np.where(mask == 2, 0, mask).astype(np.uint8))


def class_in_val_only(folder):
    hide_disc(folder, "train")


def class_in_train_only(folder):
    hide_disc(folder, "val")


def count_from_one(folder):
    for path in folder.masks.iterdir():
        mask = folder.mask(path.stem)
        folder.save_mask(path.stem, np.where(mask == VOID, VOID, mask + 1).astype(np.uint8))


def black_and_white(folder):
    for path in folder.masks.iterdir():
        folder.save_mask(path.stem, np.where(folder.mask(path.stem) == 1, 255, 0).astype(np.uint8))


def nothing_but_void(folder):
    for path in folder.masks.iterdir():
        folder.save_mask(path.stem, np.full((48, 64), VOID, np.uint8))


def void_in_val(folder):
    for i in range(2):
        folder.save_mask(f"val{i}", np.full((48, 64), VOID, np.uint8))


def no_val(folder):
    (folder.lists / "val.txt").unlink()


def empty_val(folder):
    (folder.lists / "val.txt").write_text("", encoding="utf-8")


def void_mask(folder):
    folder.save_mask("train1", np.full((48, 64), VOID, np.uint8))


def one_black_and_white(folder):
    folder.save_mask("train1", np.where(folder.mask("train1") == 1, 255, 0).astype(np.uint8))


def half_smoothed(folder):
    mask = np.where(folder.mask("train1") == 1, 2, 0).astype(np.uint8)
    folder.save_mask("train1", cv2.blur(mask, (3, 3)))


def upside_down(folder):
    folder.save_photo("train1", folder.photo("train1")[::-1, ::-1].copy(), exif=turned(3))


def square_on_its_side(folder):
    folder.save_photo("train1", folder.photo("train1")[:48, :48].copy(), exif=turned(6))
    folder.save_mask("train1", folder.mask("train1")[:48, :48])


def listed_twice(folder):
    with open(folder.lists / "train.txt", "a", encoding="utf-8") as file:
        file.write("train1\n")


def copied_within_train(folder):
    shutil.copy(folder.photos / "train0.png", folder.photos / "train1.png")


def forgotten_pair(folder):
    folder.save_photo("new", 255 - folder.photo("train0"))
    folder.save_mask("new", folder.mask("train0"))


def forgotten_mask(folder):
    folder.save_mask("new", folder.mask("train0"))


def unused_class(folder):
    with open(folder.root / "classes.txt", "a", encoding="utf-8") as file:
        file.write("3 unicorn 250 250 250\n")


def thumbnail(folder):
    folder.save_photo("train1", folder.photo("train1")[:20])
    folder.save_mask("train1", folder.mask("train1")[:20])


def transparent(folder):
    alpha = np.full((48, 64), 255, np.uint8)
    alpha[:12] = 0
    folder.save_photo("train1", np.dstack([folder.photo("train1"), alpha]))


def half_transparent(folder):
    alpha = np.full((48, 64), 255, np.uint8)
    alpha[:, :16] = 128
    folder.save_photo("train1", np.dstack([folder.photo("train1"), alpha]))


def bytes_as_32_bits(folder):
    path = next(folder.photos.glob("train1.*"))
    pixels = folder.photo("train1")[..., 0].astype(np.int32)
    path.unlink()
    Image.fromarray(pixels).save(folder.photos / "train1.tif")


def twelve_bits(folder):
    folder.save_photo("train1", folder.photo("train1")[..., 0].astype(np.uint16) * 16)


def near_infrared(folder, stem="train1"):
    bands = np.dstack([folder.photo(stem), folder.photo(stem)[..., 0]])
    Image.frombytes("RGBX", (64, 48), bands.tobytes()).save(folder.photos / f"{stem}.tif")
    (folder.photos / f"{stem}.png").unlink()


def five_bands(folder):
    near_infrared(folder)
    path = folder.photos / "train1.tif"
    # the tag SamplesPerPixel
    four, five = (b"\x15\x01\x03\0\x01\0\0\0" + number for number in (b"\4", b"\5"))
    path.write_bytes(path.read_bytes().replace(four, five))


def pages(folder):
    first = folder.photo("train1")
    Image.fromarray(first).save(folder.photos / "train1.tif", save_all=True,
                                append_images=[Image.fromarray(255 - first)])
    (folder.photos / "train1.png").unlink()


PHOTO, MASK = "JPEGImages/train1.png", "SegmentationClass/train1.png"
FAULTS = [
    (lose_photo, "error", "JPEGImages/train1.jpg", "no such file"),
    (lose_mask, "error", MASK, "no such file"),
    (wrong_format, "error", MASK, r"train1\.bmp"),
    (smaller_mask, "error", MASK, r"64x40.* train1\.png 64x48"),
    (strange_id, "error", MASK, r"7 pixels .*\[9\]"),
    (one_class_too_many, "error", MASK, r"14 pixels .*\[3\]"),
    (strange_color, "error", MASK, r"\(43, 160, 40\) at 5 pixels"),
    (smoothed_colors, "error", MASK, "smoothed"),
    (colors_once_jpeg, "error", MASK, "JPEG"),
    (smoothed_ids, "error", MASK, "smoothed"),
    (jpeg_named_png, "error", MASK, "JPEG"),
    (photo_for_a_mask, "error", MASK, "65536 colours"),
    (ids_times_257, "error", MASK, "65535"),
    (renumbered_palette, "error", MASK, "palette.*block"),
    (truncated_photo, "error", PHOTO, "damaged"),
    (empty_mask, "error", MASK, "empty"),
    (web_page, "error", PHOTO, "not an image"),
    (photo_turned_mask_not, "error", MASK, "EXIF orientation 6 .*64x48"),
    (in_two_lists, "error", PHOTO, "both train and val"),
    (copied_to_val, "error", "JPEGImages/val1.png", r"equals train1\.png in train\."),
    (same_picture_in_another_format, "error", "JPEGImages/val1.bmp",
     "equals train1.png in train, with another mask"),
    (five_bands, "error", "JPEGImages/train1.tif", "has 5 bands"),
    (fractions, "error", "JPEGImages/train1.tif", "8 or 16 bits"),
    (class_in_val_only, "error", "split val", r"\['disc'\], and train never"),
    (count_from_one, "error", "all masks", "from 1"),
    (black_and_white, "error", "all masks", "they hold 0 and 255"),
    (nothing_but_void, "error", "all masks", "they hold nothing but void"),
    (void_in_val, "error", "split val", "val hold nothing"),
    (no_val, "error", "split val", "there are train"),
    (empty_val, "error", "split val", "empty"),
    (empty_test, "warning", "split test", "empty"),
    (void_mask, "warning", MASK, "void"),
    (one_black_and_white, "warning", MASK, "black and white"),
    (half_smoothed, "warning", MASK, "smoothed"),
    (upside_down, "warning", MASK, r"EXIF orientation 3 .*train1\.png"),
    (square_on_its_side, "warning", MASK, r"EXIF orientation 6 .*train1\.png"),
    (listed_twice, "warning", PHOTO, "train 2 times"),
    (copied_within_train, "warning", PHOTO, r"equals train0\.png in train, with another mask"),
    (forgotten_pair, "warning", "JPEGImages/new.png", "in no list"),
    (forgotten_mask, "warning", "SegmentationClass/new.png", "without a photo"),
    (unused_class, "warning", "all masks", "unicorn"),
    (thumbnail, "warning", PHOTO, "64x20"),
    (transparent, "warning", PHOTO, "transparent at 25%"),
    (half_transparent, "warning", PHOTO, "transparent at 25%"),
    (twelve_bits, "warning", PHOTO, "16 bits .*black"),
    (bytes_as_32_bits, "warning", "JPEGImages/train1.tif", "32 bits .*low values"),
    (pages, "warning", "JPEGImages/train1.tif", "2 pages"),
    (class_in_train_only, "note", "split val", "disc"),
    (near_infrared, "note", "JPEGImages/train1.tif", "fourth band that is not transparency"),
]
# Faults of all masks or of a list, which also show in single files.
WIDE = {"count_from_one", "black_and_white", "nothing_but_void", "void_in_val", "no_val",
        "empty_val", "empty_test"}


@pytest.mark.parametrize("fault, severity, file, found", FAULTS,
                         ids=[row[0].__name__ for row in FAULTS])
def test_every_fault_is_told_once_with_file_and_remedy(folder, fault, severity, file, found):
    fault(folder)
    problems = folder.problems()
    told = [problem for problem in problems if re.search(found, problem.found)]
    assert [problem.severity for problem in told] == [severity]
    assert Path(told[0].file).as_posix().endswith(file)
    assert f"{told[0].found} {told[0].remedy}".strip().endswith((".", "?", ")."))
    assert problems == told or fault.__name__ in WIDE


def test_a_name_in_another_case_is_pointed_out(folder):
    (folder.photos / "train1.png").rename(folder.photos / "TRAIN1.png")
    if not (folder.photos / "train1.png").is_file():  # Windows and macOS take both for one
        (problem,) = folder.problems()
        assert "the file is called TRAIN1.png" in problem.found


def test_the_preview_that_a_phone_adds_is_no_second_page(folder):
    first = folder.photo("train1")
    Image.fromarray(first).save(folder.photos / "train1.jpg", "MPO", save_all=True,
                                append_images=[Image.fromarray(first[::4, ::4])])
    (folder.photos / "train1.png").unlink()
    assert folder.problems() == []


def test_photos_with_a_fourth_band_share_one_note(folder):
    for stem in ("train1", "train2"):
        near_infrared(folder, stem)
    (row,) = check.table(folder.problems(), folder.root, width=1000).splitlines()
    assert (row.startswith("note") and "train1.tif" in row and "train2.tif" in row
            and "fourth band" in row)


def test_sound_data_sets_have_no_problems(folder):
    assert folder.problems() == []
    assert check_dataset(load_dataset("meadow")) == []


def test_each_two_splits_are_compared(tmp_path, make_voc):
    """Lists that share a photo, and copies under other names, with a test split beside val."""
    folder = Folder(make_voc(tmp_path / "voc", {"train": 4, "val": 2, "test": 2}))
    (folder.lists / "test.txt").write_text("test0\ntest1\ntrain1\nval0\n", encoding="utf-8")
    for part in (folder.photos, folder.masks):
        shutil.copy(part / "train2.png", part / "test0.png")
        shutil.copy(part / "val1.png", part / "test1.png")
    told = {(problem.severity, Path(problem.file).stem, *re.findall("train2?|val1?|test1?|equals",
                                                                    problem.found))
            for problem in folder.problems()}
    assert {row[:2] + tuple(sorted(row[2:])) for row in told} == {
        ("error", "train1", "test", "train"), ("warning", "val0", "test", "val"),
        ("error", "test0", "equals", "test", "train", "train2"),
        ("warning", "val1", "equals", "test", "test1", "val")}


def test_plain_photos_of_other_sizes_are_no_copies(folder):
    for stem, size in (("train0", (48, 64)), ("val0", (64, 48))):
        folder.save_photo(stem, np.full((*size, 3), 90, np.uint8))
        folder.save_mask(stem, np.repeat(np.uint8([0, 1, 2]), size[0] * size[1] // 3).reshape(size))
    assert folder.problems() == []


def test_a_name_in_other_case_is_pointed_to(folder):
    if (folder.photos / "TRAIN1.png").exists():
        pytest.skip("this file system takes names in any case")
    (folder.lists / "train.txt").write_text("train0\nTRAIN1\ntrain2\ntrain3\ntrain4\n")
    told = {Path(problem.file).name: problem.found for problem in folder.problems()
            if problem.severity == "error"}
    assert set(told.values()) == {"is in a list, but the file is called train1.png."}


def test_hidden_files_are_no_photos(folder):
    for part in (folder.photos, folder.masks):
        shutil.copy(part / "train1.png", part / "._train1.png")  # as macOS writes beside its own
    assert folder.problems() == []


def test_every_row_of_a_tall_mask_is_read(folder):
    tall = np.full((2 * faults.STRIP + 9, 40), 1, np.uint8)
    tall[-3:] = 2
    folder.save_mask("train1", tall)
    folder.save_photo("train1", np.repeat(tall[..., None] * 50, 3, axis=2))
    before = check.survey(load_dataset("voc", folder.root))
    others = [folder.mask(f"train{i}") for i in (0, 2, 3, 4)]
    for i, own in ((1, tall.size - 120), (2, 120)):
        assert before.pixels["train"][i] == own + sum((mask == i).sum() for mask in others)
    tall[-1, :5] = 9
    folder.save_mask("train1", tall)
    found = [re.sub(";.*", "", problem.found) for problem in folder.problems()]
    assert found == ["5 pixels have the ids [9]"]


def test_a_palette_of_other_colours_is_no_fault(folder):
    picture = Image.fromarray(folder.mask("train1"))
    picture.putpalette(COLORS[1].tobytes() + bytes([1, 2, 3, 7, 7, 7]) + bytes(3 * 253))
    picture.save(folder.masks / "train1.png")
    assert folder.problems() == []


def test_masks_resized_with_interpolation_are_found(tmp_path, make_voc):
    meadow = load_dataset("meadow")
    folder = Folder(make_voc(tmp_path / "voc"))
    shutil.copy(meadow.root / "classes.txt", folder.root)
    for i, (photo, mask) in enumerate(meadow.split("train")[:5]):
        larger = [cv2.resize(np.array(Image.open(path)), (384, 384)) for path in (photo, mask)]
        folder.save_photo(f"train{i}", larger[0])
        folder.save_mask(f"train{i}", larger[1])
    smoothed = [Path(problem.file).stem for problem in folder.problems()
                if "looks smoothed" in problem.found]
    assert smoothed == [f"train{i}" for i in range(5)]


def test_faults_come_sorted_and_together(folder):
    for fault in (void_mask, in_two_lists, near_infrared, forgotten_pair):
        fault(folder)
    problems = folder.problems()
    assert [(problem.severity, Path(problem.file).name) for problem in problems] == [
        ("error", "train1.tif"), ("warning", "new.png"), ("warning", "train1.png"),
        ("note", "train1.tif")]
    assert problems == folder.problems()


def test_nothing_is_said_of_classes_while_masks_are_unread(folder):
    class_in_val_only(folder)
    empty_mask(folder)
    assert [problem.found for problem in folder.problems()] == ["the file is empty."]


def test_every_file_is_decoded_once_and_several_at_a_time(folder, monkeypatch):
    decoded, calls, together = [], itertools.count(), threading.Barrier(2)

    def decode(path):
        if next(calls) < 2:
            together.wait(timeout=20)  # a lone thread would wait in vain
        decoded.append(str(path))
        return images.decode(path)

    monkeypatch.setattr(faults, "decode", decode)
    steps = []
    dataset = load_dataset("voc", folder.root)
    check_dataset(dataset, progress=lambda done, total: steps.append((done, total)))
    assert (sorted(decoded) == sorted(str(path) for split in dataset.splits.values()
                                      for pair in split for path in pair))
    assert steps == [(done, 7) for done in range(1, 8)]


def test_pixels_are_counted_per_split_and_class(folder):
    report = check.survey(load_dataset("voc", folder.root))
    for split, count in (("train", 5), ("val", 2)):
        masks = np.stack([folder.mask(f"{split}{i}") for i in range(count)])
        assert report.pixels[split].tolist() == [(masks == i).sum() for i in (0, 1, 2, VOID)]


# How it is shown


def problem(file, found, severity="error", remedy="Mend it."):
    return images.Problem(f"set/{file}", found, remedy, severity)


def test_a_table_joins_what_differs_in_file_size_and_count_only():
    problems = [problem(f"{i}.png", f"{i} pixels have the ids [7]; expected 0 to 3.")
                for i in range(1, 301)]
    problems += [problem("1.png", "5 pixels have the ids [8]; expected 0 to 3.")]
    problems += [problem(f"{i}.png", f"the mask is {i}x9 pixels, its photo {i}.jpg 9x9.")
                 for i in (3, 4)]
    rows = check.table(problems, "set", width=200).splitlines()
    assert len(rows) == 3 and all(row.startswith("error") for row in rows)
    assert "1.png, 2.png, 3.png and 297 more: " in rows[0] and "[8]" in rows[1]
    assert "3.png, 4.png: " in rows[2]


def test_a_table_of_nothing_says_so():
    assert check.table([]) == "no problems"


def test_a_table_fits_its_width_and_loses_no_word(folder):
    for fault in (strange_color, copied_to_val, forgotten_pair):
        fault(folder)
    problems = folder.problems()
    for width in (80, 110, 140):
        text = check.table(problems, folder.root, width)
        assert max(map(len, text.splitlines())) <= width
        for row in problems:
            words = set(re.findall(r"[a-z]{4,}", f"{row.found} {row.remedy}"))
            assert not words - set(re.findall(r"[a-z]+", text))
    assert "SegmentationClass/train1.png" in text and str(folder.root) not in text


# The command


@pytest.mark.parametrize("fault, code, verdict", [
    (None, 0, "can start"), (thumbnail, 0, "1 warning: .*can start"),
    (near_infrared, 0, "1 note: .*can start"),
    (strange_id, 1, "1 error: .*wrong"), (lose_mask, 1, "1 error: .*wrong"),
])
def test_the_command_ends_with_a_verdict_and_an_exit_code(folder, capsys, fault, code, verdict):
    if fault:
        fault(folder)
    assert main([str(folder.root)]) == code
    out = capsys.readouterr().out
    assert re.search(verdict, out.splitlines()[-1]) and ("train1" in out) == bool(fault)
    assert (re.search(r"^pairs +5 +2$", out, re.MULTILINE)
            and re.search(r"^disc +\d+\.\d\d% +\d", out, re.MULTILINE))


def test_shares_are_of_all_pixels(folder, capsys):
    main([str(folder.root)])
    masks = np.stack([folder.mask(f"val{i}") for i in range(2)])
    expected = [f"{100 * (masks == i).mean():.2f}%" for i in (0, 1, 2, VOID)]
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ([row[2] for row in rows if row
             and row[0] in ("ground", "block", "disc", "void")] == expected)


@pytest.mark.parametrize("arguments, sentence", [
    (["nowhere"], "nowhere"), (["{empty}"], "--dataset NAME.* tools.convert"),
    (["--dataset", "medow"], "'medow'.*'meadow'"),
])
def test_what_is_no_data_set_is_told_in_a_sentence(tmp_path, capsys, arguments, sentence):
    assert main([argument.format(empty=tmp_path) for argument in arguments]) == 2
    told = capsys.readouterr()
    assert (re.search(sentence, told.err.replace("\n", " ")) and "Traceback" not in told.err
            and not told.out)


def test_an_interrupted_check_says_so(folder, monkeypatch, capsys):
    monkeypatch.setattr("tools.check.__main__.survey", Mock(side_effect=KeyboardInterrupt))
    assert main([str(folder.root)]) == 130 and "Interrupted" in capsys.readouterr().err


def test_a_wide_terminal_has_shorter_tables(folder, monkeypatch, capsys):
    strange_id(folder)
    lines = []
    for columns in ("40", "80", "300"):
        monkeypatch.setenv("COLUMNS", columns)
        main([str(folder.root)])
        lines.append(capsys.readouterr().out.splitlines())
    assert lines[0] == lines[1] and len(lines[1]) > len(lines[2])


def test_a_command_without_a_data_set_is_refused(capsys):
    with pytest.raises(SystemExit) as exit:
        main([])
    assert exit.value.code == 2 and "--dataset NAME" in capsys.readouterr().err


# Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_rewrites_a_line_on_a_terminal(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    screen = Terminal()
    report = progress.bar("reading", stream=screen)
    for done in range(1, 5):
        report(done, 4)
    lines = screen.getvalue().split("\r")
    assert lines[2] == f"reading: [{'#' * 12}{'.' * 12}] 2 of 4, 2 s"
    assert lines[4].endswith("4 of 4, 4 s\n") and screen.getvalue().count("\n") == 1


def test_progress_adds_few_lines_to_a_log_and_none_for_short_jobs(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    log, short = io.StringIO(), io.StringIO()
    report, silent = progress.bar("reading", stream=log), progress.bar("reading",
                                                                       delay=99.0, stream=short)
    for done in range(1, 51):
        now[0] += 0.5
        report(done, 50)
        silent(done, 50)
    assert (log.getvalue()
            == "reading: 20 of 50, 10 s\nreading: 40 of 50, 20 s\nreading: 50 of 50, 25 s\n")
    assert short.getvalue() == ""
