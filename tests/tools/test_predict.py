"""tools.predict: what it writes for photos and videos, and what it says to careless users."""

import csv
import errno
import functools
import json
import os
import shutil
from pathlib import Path

import cv2
import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, TiffImagePlugin

from tools.deploy import predict as tool
from tools.deploy import products
from utils import images, inference, metrics, models, plots

NAMES, COLORS = ["ground", "cow", "tree"], [[40, 40, 40], [250, 120, 10], [10, 200, 90]]


def photo(height=60, width=90, seed=0):
    """Patches of colour, uint8 (H, W, 3)."""
    patches = np.random.default_rng(seed).integers(0, 256, (-(-height // 15), -(-width // 15), 3),
                                                   dtype=np.uint8)
    return patches.repeat(15, axis=0).repeat(15, axis=1)[:height, :width]


def write_video(path, frames=4, size=(96, 64), rate=8):
    clip = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), rate, size)
    for seed in range(frames):
        clip.write(np.ascontiguousarray(photo(size[1], size[0], seed)[..., ::-1]))
    clip.release()
    return path


def frames_of(path):
    """Return the frames of a video, RGB."""
    clip = cv2.VideoCapture(str(path))
    return [frame[..., ::-1] for good, frame in (clip.read() for _ in range(100)) if good]


def areas(out):
    """Return the rows of areas.csv, dicts."""
    with open(out / "areas.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def probabilities(network, image):
    """float64 (H, W, C), written another way than in the tool."""
    powers = np.exp(inference.logits(network, image).astype(np.float64))
    return powers / powers.sum(axis=2, keepdims=True)


@pytest.fixture(scope="module")
def network(random_fcn):
    return random_fcn(3)


@pytest.fixture(scope="module")
def model(network, tmp_path_factory):
    """The folder of a run, with a model of three classes and its card."""
    folder = tmp_path_factory.mktemp("run")
    network.save(folder / "model.keras")
    network.save_weights(folder / "model.weights.h5")
    card = {"fcn": {"num_classes": 3, "stride": 32, "backbone": "vgg_small"}, "class_names": NAMES,
            "colors": COLORS}
    (folder / "model.json").write_text(json.dumps(card), encoding="utf-8")
    return folder


@pytest.fixture
def folder(tmp_path):
    """Two photos, one of them in a folder below."""
    folder = tmp_path / "holiday"
    (folder / "day 2").mkdir(parents=True)
    Image.fromarray(photo()).save(folder / "a.png")
    Image.fromarray(photo(33, 47, 1)).save(folder / "day 2" / "b.TIF", format="TIFF")
    (folder / "notes.txt").write_text("no photo")
    return folder


# Opened once: most tests are about what comes before or after.
open_once = functools.cache(tool.load_labeller)


@pytest.fixture
def run(model, tmp_path, monkeypatch):
    """A function that runs the command, into tmp_path / "out", and returns its exit code."""
    monkeypatch.setattr(tool, "load_labeller", open_once)

    def command(*arguments, model=model):
        return tool.main(["--model", str(model), "--out", str(tmp_path / "out"),
                          *map(str, arguments)])

    return command


@pytest.fixture
def no_model(monkeypatch):
    """Make opening a model fail: what the user did wrong is to be said before, without a wait."""
    monkeypatch.setattr(tool, "load_labeller", lambda *_: pytest.fail("a model was opened"))


def written(out):
    """Return the files below a folder, but areas.csv, which is always there."""
    return sorted(path.relative_to(out).as_posix() for path in out.rglob("*")
                  if path.is_file() and path.name != "areas.csv")


# What is written


def test_folder_gives_overlays_and_masks_with_the_same_names(run, network, folder,
                                                             tmp_path, capsys):
    assert run(folder) == 0
    assert (written(tmp_path / "out")
            == ["masks/a.png", "masks/day 2/b.png", "overlays/a.jpg", "overlays/day 2/b.jpg"])
    for name in ("a", "day 2/b"):
        source = next((folder / name).parent.glob(f"{Path(name).name}.*"))
        ids = images.read_mask(tmp_path / "out" / "masks" / f"{name}.png")
        assert ((ids == inference.predict(network, images.read_image(source))).all()
                and len(np.unique(ids)) > 1)
    said = capsys.readouterr()
    assert "2 of 2 done" in said.out and "masks" in said.out and "photos: 2 of 2" in said.err


def test_mask_is_a_palette_png_of_the_classes_colours(run, folder, tmp_path):
    run(folder / "a.png")
    mask = Image.open(tmp_path / "out" / "masks" / "a.png")
    assert mask.mode == "P" and np.reshape(mask.getpalette(), (-1, 3))[:3].tolist() == COLORS


def test_overlay_is_the_photo_with_class_colours_and_a_legend_below(run, network, folder, tmp_path):
    run(folder / "a.png")
    found = np.asarray(Image.open(tmp_path / "out" / "overlays" / "a.jpg")).astype(int)
    ids = inference.predict(network, photo())
    expected = plots.overlay(photo(), ids, np.uint8(COLORS))
    assert np.abs(found[:60, :90] - expected).mean() < 6  # JPEG's
    legend = found[60:].reshape(-1, 3)
    for number in range(3):
        near = (np.abs(legend - COLORS[number]).max(axis=1) < 40).sum() > 50
        assert near == (number in ids), f"the legend names what is seen: {NAMES[number]}"


@pytest.mark.parametrize("height",
                         [2, products.STRIP - 1, products.STRIP + 1, 2 * products.STRIP + 1])
def test_overlay_in_strips_equals_overlay_as_a_whole(height):
    image, colors = photo(height, 20), np.uint8(COLORS)
    ids = np.random.default_rng(0).integers(0, 3, (height, 20), dtype=np.uint8)
    found = products.overlay(tool.Labeller(None, NAMES, colors), image, ids, range(3))
    assert (found[:height, :20] == plots.overlay(image, ids, colors)).all()


@pytest.mark.parametrize("width", [1, 100, 5000])
def test_legend_holds_every_name_at_any_width(width):
    names = ["background", "château", "дерево",
             "a very long name of a class that is wider than the photo"]
    colors = np.uint8([[50, 50, 50], [200, 0, 0], [0, 200, 0], [0, 0, 200]])
    legend = products.draw_legend(width, names, colors)
    assert legend.dtype == np.uint8 and legend.shape[1] >= width
    for color in colors:
        patch = np.argwhere((legend == color).all(axis=2))
        assert len(patch) > 80 and patch[:, 1].max() < legend.shape[1] - 12


def test_names_of_the_legend_stand_beside_their_colours():
    """A narrow name and a wide one: right of its colour, the wide one has more ink."""
    colors = np.uint8([[200, 0, 0], [0, 0, 200]])
    for names, wide in ((["i", "WWWW"], 1), (["WWWW", "i"], 0)):
        legend = products.draw_legend(900, names, colors)
        first, second = (np.argwhere((legend == color).all(axis=2))[:, 1] for color in colors)
        assert first.max() < second.min()
        dark = legend.max(axis=2) < 100
        ink = [dark[:, first.max() + 3:second.min() - 3].sum(), dark[:, second.max() + 3:].sum()]
        assert ink[wide] > 2 * ink[1 - wide] > 0


def test_the_legend_of_an_overlay_is_that_of_its_classes():
    colors, image = np.uint8(COLORS), photo(40, 600)
    ids = np.full((40, 600), 2, np.uint8)
    found = products.overlay(tool.Labeller(None, NAMES, colors), image, ids, [0, 2])
    expected = products.draw_legend(600, [NAMES[0], NAMES[2]], colors[[0, 2]])
    np.testing.assert_array_equal(found[40:], expected)


@pytest.mark.parametrize("what, names",
                         [("overlay", ["overlays/a.jpg"]), ("mask", ["masks/a.png"])])
def test_only_what_is_asked_for_is_written(run, folder, tmp_path, what, names):
    assert run(folder / "a.png", "--write", what) == 0
    assert written(tmp_path / "out") == names


def test_photos_are_read_as_everywhere_here(run, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    Image.fromarray(photo()).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    Image.fromarray(photo()[..., 0].astype(np.uint16) * 257).save(tmp_path / "deep.png")
    assert run(tmp_path / "turned.jpg", tmp_path / "deep.png", "--write", "mask") == 0
    assert images.read_mask(tmp_path / "out" / "masks" / "turned.png").shape == (90, 60)
    assert images.read_mask(tmp_path / "out" / "masks" / "deep.png").shape == (60, 90)


def test_video_gives_a_video_and_a_mask_for_each_frame(run, network, tmp_path, capsys):
    source = write_video(tmp_path / "clip.avi", size=(95, 64))
    frames = frames_of(source)
    assert run(source) == 0
    masks = sorted((tmp_path / "out" / "masks" / "clip.avi").iterdir())
    assert [mask.name for mask in masks] == ["000001.png", "000002.png", "000003.png", "000004.png"]
    for frame, mask in zip(frames, masks):
        assert (images.read_mask(mask) == inference.predict(network, frame)).all()
    overlays = frames_of(tmp_path / "out" / "overlays" / "clip.mp4")
    height, width = frames[0].shape[:2]
    assert (len(overlays) == len(frames) == 4 and overlays[0].shape[1] >= width
            and overlays[0].shape[0] > height)
    expected = plots.overlay(frames[1], inference.predict(network, frames[1]), np.uint8(COLORS))
    assert np.abs(overlays[1][:height, :width].astype(int) - expected).mean() < 12  # MPEG's
    assert (cv2.VideoCapture(str(tmp_path / "out" / "overlays"
                                 / "clip.mp4")).get(cv2.CAP_PROP_FPS) == 8)
    assert "clip.avi, frames: 4 of 4" in capsys.readouterr().err


def test_a_photo_and_a_video_of_one_name_are_kept_apart(run, folder, tmp_path):
    write_video(folder / "a.avi", frames=1)
    assert run(folder) == 0
    assert written(tmp_path / "out") == ["masks/a.avi/000001.png", "masks/a.png",
                                         "masks/day 2/b.png",
                                         "overlays/a.jpg", "overlays/a.mp4", "overlays/day 2/b.jpg"]


def test_two_photos_of_one_name_are_refused_and_both_named(run, no_model, folder, tmp_path, capsys):
    Image.fromarray(photo(20, 20)).save(folder / "A.jpg")
    assert run(folder, "--write", "mask") == 2
    said = capsys.readouterr().err
    assert ("A.jpg" in said and "a.png" in said and "--out" in said
            and not (tmp_path / "out").exists())


@pytest.mark.parametrize("place", ["seen", "."])
def test_results_inside_the_folder_are_not_labelled_the_next_time(run, folder, place):
    for _ in range(2):
        assert run(folder, "--out", folder / place, "--force") == 0
    assert {row["photo"] for row in areas(folder / place)} == {"a.png", "day 2/b.TIF"}


@pytest.mark.parametrize("tile, given", [([], (None, 1024)), (["--tile", "0"], (None, None)),
                                         (["--tile", "64"], (64, 64))])
def test_large_photos_go_in_tiles(run, folder, monkeypatch, tile, given):
    tiles = {}

    def windows(network, image, side):
        tiles[image.shape[1]] = side
        return [(..., image, ...)]

    monkeypatch.setattr(inference, "windows", windows)
    Image.fromarray(photo(10, 2049)).save(folder / "wide.png")
    assert run(folder, "--write", "mask", *tile) == 0
    assert (tiles[90], tiles[2049]) == given


# Areas, confidence, scores


def counts(ids):
    return [str((ids == number).sum()) for number in (0, 1, 2, 255)]


def test_areas_hold_the_pixels_of_each_class_of_each_photo(run, network, folder, tmp_path):
    assert run(folder) == 0
    first, second = areas(tmp_path / "out")
    assert list(first) == ["photo", "width", "height", *NAMES, "void"]
    assert ((first["photo"], first["width"], first["height"]) == ("a.png", "90", "60")
            and second["photo"] == "day 2/b.TIF")
    for row, image in ((first, photo()), (second, photo(33, 47, 1))):
        assert list(row.values())[3:] == counts(inference.predict(network, image))


def test_areas_of_a_video_are_the_means_of_its_frames(run, network, tmp_path):
    source = write_video(tmp_path / "clip.avi", frames=3)
    assert run(source, "--write", "mask") == 0
    (row,) = areas(tmp_path / "out")
    each = [[(inference.predict(network, frame) == number).sum() for number in range(3)]
            for frame in frames_of(source)]
    assert np.abs(np.mean(each, axis=0) - [float(row[name]) for name in NAMES]).max() <= 0.05
    assert row["photo"] == "clip.avi" and row["width"] == "96"


def test_areas_of_earlier_commands_are_kept_and_those_of_one_photo_replaced(run, folder, tmp_path):
    for arguments in ([folder / "a.png"], [folder / "day 2" / "b.TIF"],
                      [folder / "a.png", "--force"]):
        assert run(*arguments) == 0
    assert [row["photo"] for row in areas(tmp_path / "out")] == ["a.png", "b.TIF"]


def test_areas_of_another_model_are_not_overwritten_unless_asked_for(run, folder, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    other = "photo,width,height,sky,void\nc.png,1,1,1,0\n"
    (tmp_path / "out" / "areas.csv").write_text(other)
    assert run(folder / "a.png") == 2
    assert ("areas.csv has other columns" in capsys.readouterr().err
            and not written(tmp_path / "out"))
    assert (tmp_path / "out" / "areas.csv").read_text() == other
    assert (run(folder / "a.png", "--force") == 0
            and [row["photo"] for row in areas(tmp_path / "out")] == ["a.png"])


@pytest.mark.skipif(os.name == "nt", reason="Windows has names in Unicode alone")
def test_areas_take_every_name_of_a_file(run, tmp_path):
    names = ["größe, \"1\".png", "новый.png", os.fsdecode(b"caf\xe9.png")]
    for name in names:
        Image.fromarray(photo()).save(tmp_path / name)
    assert run(*(tmp_path / name for name in names), "--write", "mask") == 0
    with open(tmp_path / "out" / "areas.csv", encoding="utf-8", errors="surrogateescape",
              newline="") as file:
        assert [row[0] for row in csv.reader(file)] == ["photo", *names]


@pytest.mark.parametrize("tile", [[], ["--tile", "32"]])
def test_confidence_is_the_probability_of_the_best_class(run, network, tmp_path, tile):
    image = photo(45, 900)  # wider than what a cell sees
    Image.fromarray(image).save(tmp_path / "a.png")
    assert run(tmp_path / "a.png", "--write", "confidence,mask", *tile) == 0
    assert written(tmp_path / "out") == ["confidence/a.png", "masks/a.png"]
    found = Image.open(tmp_path / "out" / "confidence" / "a.png")
    expected = 255 * probabilities(network, image).max(axis=2)
    assert (found.mode == "L" and np.abs(np.asarray(found) - expected).max() < 0.51
            and expected.std() > 0.1)
    assert (images.read_mask(tmp_path / "out" / "masks" / "a.png")
            == inference.predict(network, image)).all()


def test_confidence_of_a_video_is_a_folder_of_frames(run, tmp_path):
    assert run(write_video(tmp_path / "clip.avi", frames=2), "--write", "confidence") == 0
    assert (written(tmp_path / "out")
            == ["confidence/clip.avi/000001.png", "confidence/clip.avi/000002.png"])


def test_pixels_below_the_least_confidence_are_void_clear_and_counted_as_void(run, network,
                                                                              folder, tmp_path):
    shares = probabilities(network, photo()).max(axis=2)
    least = float(np.median(shares))
    assert run(folder / "a.png", "--min-confidence", least) == 0
    ids = images.read_mask(tmp_path / "out" / "masks" / "a.png")
    sure = np.abs(shares - least) > 1e-5
    assert ((ids == 255) == (shares < least))[sure].all() and 0.3 < np.mean(ids == 255) < 0.7
    assert list(areas(tmp_path / "out")[0].values())[3:] == counts(ids)
    overlay = np.asarray(Image.open(tmp_path / "out" / "overlays" / "a.jpg"))[:60, :90].astype(int)
    inside = cv2.erode((ids == 255).astype(np.uint8), np.ones((9, 9))) > 0  # JPEG smears borders
    assert inside.any() and np.abs(overlay - photo())[inside].mean() < 15


@pytest.mark.parametrize("least", ["-0.1", "1.1", "nan"])
def test_impossible_probabilities_are_refused(no_model, folder, capsys, least):
    assert tool.main([str(folder), f"--min-confidence={least}"]) == 2
    assert f"--min-confidence {least}: expected 0 to 1" in capsys.readouterr().err


def test_background_stays_clear_and_out_of_the_legend():
    ids = np.zeros((20, 60), np.uint8)
    ids[:, 30:] = 1
    image, cows = photo(20, 60), tool.Labeller(None, ["background", "cow", "tree"],
                                               np.uint8(COLORS))
    found = products.overlay(cows, image, ids, [0, 1])
    assert ((found[:20, :30] == image[:, :30]).all()
            and (found[:20, 30:60] != image[:, 30:]).any(axis=2).mean() > 0.9)
    patches = [(found[20:] == color).all(axis=2).sum() for color in COLORS]
    assert patches[1] > 80 and max(patches[0], patches[2]) < 20
    assert (products.overlay(cows, image, 0 * ids, [0]) == image).all()


@pytest.fixture
def truth(folder, tmp_path):
    """A folder with a true mask for each photo, the second in colours."""
    truth = tmp_path / "truth"
    (truth / "day 2").mkdir(parents=True)
    ids = np.random.default_rng(0).integers(0, 3, (60, 90), dtype=np.uint8)
    ids[:9] = 255
    images.write_mask(truth / "a.png", ids, COLORS)
    Image.fromarray(np.uint8(COLORS)[ids[9:42, :47]]).save(truth / "day 2" / "b.png")
    return truth


def test_truth_scores_all_photos_together(run, network, folder, truth, tmp_path, capsys):
    # scores count the best class
    assert run(folder, "--truth", truth, "--min-confidence", 0.9) == 0
    ids = images.read_mask(truth / "a.png")
    expected = metrics.scores(
        metrics.confusion_matrix(ids, inference.predict(network, photo()), 3)
        + metrics.confusion_matrix(ids[9:42, :47], inference.predict(network, photo(33, 47, 1)), 3))
    found = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert found.pop("iou") == dict(zip(NAMES, expected.pop("iou"))) and found == expected
    said = capsys.readouterr().out
    assert f"{found['mean_iou']:.3f}" in said and all(f"IoU of {name}" in said for name in NAMES)


def test_a_class_that_no_photo_shows_has_no_score(tmp_path, capsys):
    products.report_scores(np.diag([5, 3, 0]), NAMES, tmp_path / "scores.json")
    said = capsys.readouterr().out.splitlines()
    assert said[-3:] == [f"{f'IoU of {name}':<24} {value}"
                         for name, value in zip(NAMES, ("1.000", "1.000", "absent"))]
    assert json.loads((tmp_path / "scores.json").read_text())["iou"]["tree"] is None


def test_a_tilde_is_the_home_folder(run, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert run(f"~/{folder.relative_to(tmp_path).as_posix()}/a.png") == 0


def test_true_masks_are_never_replaced(run, no_model, folder, truth, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    truth.rename(tmp_path / "out" / "masks")
    before = (tmp_path / "out" / "masks" / "a.png").read_bytes()
    assert run(folder, "--truth", tmp_path / "out" / "masks", "--force") == 2
    assert "is read" in capsys.readouterr().err
    assert (tmp_path / "out" / "masks" / "a.png").read_bytes() == before


def test_true_masks_are_not_taken_for_photos(run, folder, truth, tmp_path):
    """As in the folder that tools.convert writes, given whole."""
    truth.rename(folder / "SegmentationClass")
    assert run(folder, "--truth", folder / "SegmentationClass") == 0
    assert {row["photo"] for row in areas(tmp_path / "out")} == {"a.png", "day 2/b.TIF"}


def test_rows_that_another_command_adds_meanwhile_stay(run, folder, tmp_path, monkeypatch):
    assert run(folder / "a.png", "--write", "mask") == 0
    rest = tool.label_all

    def meanwhile(*arguments):
        file = tmp_path / "out" / "areas.csv"
        lines = file.read_text().splitlines()
        file.write_text("\n".join([*lines, lines[1].replace("a.png", "photo")]) + "\n")
        return rest(*arguments)

    monkeypatch.setattr(tool, "label_all", meanwhile)
    assert run(folder / "day 2" / "b.TIF", "--write", "mask") == 0
    assert [row["photo"] for row in areas(tmp_path / "out")] == ["a.png", "photo", "b.TIF"]


def test_further_pages_are_pointed_out(run, tmp_path, capsys):
    pages = [Image.fromarray(photo(seed=seed)) for seed in range(3)]
    pages[0].save(tmp_path / "stack.tif", save_all=True, append_images=pages[1:])
    assert run(tmp_path / "stack.tif", "--write", "mask") == 0
    assert "stack.tif: only the first of its 3 pages" in capsys.readouterr().err


def test_photos_without_truth_are_named(run, folder, truth, tmp_path, capsys):
    (truth / "day 2" / "b.png").unlink()
    assert run(folder, "--truth", truth) == 0
    said = capsys.readouterr().err
    assert "not scored" in said and "b.TIF" in said and "a.png" not in said
    (truth / "a.png").unlink()
    assert run(folder, "--truth", truth, "--force") == 2
    assert "holds no mask that has the name of a photo" in capsys.readouterr().err


def test_truth_is_found_by_the_name_alone(run, folder, truth):
    os.replace(truth / "day 2" / "b.png", truth / "b.png")
    assert tool.find_truths([tool.Job(folder, Path("day 2/b.TIF"))], truth) == {
        tool.Job(folder, Path("day 2/b.TIF")): truth / "b.png"}


def test_one_true_mask_is_not_that_of_two_photos(run, no_model, folder, truth, capsys):
    shutil.copy(folder / "a.png", folder / "day 2" / "a.png")
    assert run(folder, "--truth", truth) == 2
    assert "photos of one name would share a mask" in capsys.readouterr().err


def test_scores_of_an_earlier_command_do_not_stay(run, folder, truth, tmp_path):
    assert run(folder, "--truth", truth) == 0 and (tmp_path / "out" / "scores.json").exists()
    for file, size in ((truth / "a.png", (60, 90)), (truth / "day 2" / "b.png", (33, 47))):
        images.write_mask(file, np.full(size, 255, np.uint8), COLORS)
    assert run(folder, "--truth", truth, "--force") == 0
    assert not (tmp_path / "out" / "scores.json").exists()


def test_earlier_results_are_not_taken_for_photos(run, folder):
    for name in ("one", "two"):
        assert run(folder, "--out", folder / name) == 0
    assert {row["photo"] for row in areas(folder / "two")} == {"a.png", "day 2/b.TIF"}


def test_truth_of_another_size_is_named_and_the_rest_is_scored(run, folder, truth,
                                                               tmp_path, capsys):
    images.write_mask(truth / "day 2" / "b.png", np.zeros((5, 7), np.uint8), COLORS)
    assert run(folder, "--truth", truth) == 1
    said = capsys.readouterr()
    assert ("b.png: the mask is 7x5 pixels, its photo b.TIF 47x33" in said.err
            and "mean_iou" in said.out)
    assert "2 of 2 done" in said.out and len(written(tmp_path / "out")) == 5


def test_scores_are_not_overwritten(run, no_model, folder, truth, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "scores.json").write_text("{}")
    assert (run(folder, "--truth", truth) == 2
            and "scores.json is there already" in capsys.readouterr().err)


@pytest.mark.parametrize("tile", [[], ["--tile", "32"]])
def test_flip_averages_the_probabilities_of_photo_and_mirror_image(run, network, tmp_path, tile):
    image = photo(45, 928)
    Image.fromarray(image).save(tmp_path / "a.png")
    assert run(tmp_path / "a.png", "--write", "mask,confidence", "--flip", *tile) == 0
    mirrored = probabilities(network, image[:, ::-1])[:, ::-1]
    expected = (probabilities(network, image) + mirrored) / 2
    ids = images.read_mask(tmp_path / "out" / "masks" / "a.png")
    assert (ids == expected.argmax(axis=2)).mean() > 0.999
    assert (ids != inference.predict(network, image)).any(), "the mirror image changed nothing"
    confidence = np.asarray(Image.open(tmp_path / "out" / "confidence" / "a.png"))
    assert np.abs(confidence - 255 * expected.max(axis=2)).max() < 0.52


def test_flip_in_tiles_gives_the_same_at_a_width_that_32_does_not_divide(run, network, tmp_path):
    image = photo(45, 901)
    Image.fromarray(image).save(tmp_path / "a.png")
    filled = np.full((45, 928, 3), models.MEAN, np.float32)
    filled[:, :901] = image
    expected = probabilities(network, image)
    expected += probabilities(network, filled[:, ::-1])[:, ::-1][:, :901]
    found = []
    for tile in ([], ["--tile", "32"]):
        assert run(tmp_path / "a.png", "--write", "mask", "--flip", "--force", *tile) == 0
        found.append(images.read_mask(tmp_path / "out" / "masks" / "a.png"))
    assert (found[0] == found[1]).mean() > 0.999
    assert (found[0] == expected.argmax(axis=2))[:, -32:].mean() > 0.999


# TIFFs from surveys

GEO = {33550: (0.5, 0.5, 0.0), 33922: (0.0, 0.0, 0.0, 300000.0, 5200000.0, 0.0),
       34735: (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32632),
       34737: "UTM 32N|", 42113: "0"}


def write_geotiff(path, image, orientation=1, **options):
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in {**GEO, 274: orientation}.items():
        tags.tagtype[tag] = 3 if tag in (274, 34735) else 2 if isinstance(value, str) else 12
        tags[tag] = value
    Image.fromarray(image).save(path, tiffinfo=tags, **options)


def test_mask_of_a_geotiff_keeps_its_georeference(run, network, tmp_path):
    write_geotiff(tmp_path / "field.tif", photo())
    Image.fromarray(photo()).save(tmp_path / "plain.tif")
    assert run(tmp_path / "field.tif", tmp_path / "plain.tif", "--write", "mask") == 0
    assert written(tmp_path / "out") == ["masks/field.tif", "masks/plain.png"]
    mask = Image.open(tmp_path / "out" / "masks" / "field.tif")
    assert {tag: mask.tag_v2.get(tag) for tag in GEO} == {**GEO, 42113: "255"}
    assert mask.mode == "P" and np.reshape(mask.getpalette(), (-1, 3))[:3].tolist() == COLORS
    assert (np.asarray(mask) == inference.predict(network, photo())).all()


def test_the_georeference_of_a_turned_photo_does_not_fit_its_mask(run, network, tmp_path):
    write_geotiff(tmp_path / "turned.tif", photo(), orientation=6)
    assert run(tmp_path / "turned.tif", "--write", "mask") == 0
    ids = images.read_mask(tmp_path / "out" / "masks" / "turned.png")
    assert (ids == inference.predict(network, np.rot90(photo(), -1))).all()


def test_mask_of_a_large_geotiff_keeps_its_georeference(run, network, tmp_path):
    """A BigTIFF, with 64 bits for offsets; Pillow before 11.1 writes an ordinary one instead."""
    write_geotiff(tmp_path / "large.tif", photo(), big_tiff=True)
    assert run(tmp_path / "large.tif", "--write", "mask") == 0
    mask = Image.open(tmp_path / "out" / "masks" / "large.tif")
    assert {tag: mask.tag_v2.get(tag) for tag in GEO} == {**GEO, 42113: "255"}
    assert (np.asarray(mask) == inference.predict(network, photo())).all()


def write_bands(path, bands, photometric=2, extra=()):
    """Write a TIFF of uint8 (H, W, B), as libtiff does for more bands than Pillow writes."""
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    height, width, count = bands.shape
    values = {256: width, 257: height, 258: (8,) * count, 259: 1, 262: photometric,
              277: count, 278: height,
              279: bands.size, 273: 0, **({338: extra} if extra else {})}
    for tag, value in values.items():
        tags[tag] = value
    # 273 then says where these begin
    path.write_bytes(b"II*\0\x08\0\0\0" + tags.tobytes(8) + bands.tobytes())


@pytest.mark.parametrize("extra", [(), (0,)])
def test_a_fourth_band_is_named(run, network, tmp_path, capsys, extra):
    bands = np.dstack([photo(), photo(seed=1)[..., 0]])
    write_bands(tmp_path / "near_infrared.tif", bands, extra=extra)
    assert run(tmp_path / "near_infrared.tif", "--write", "mask") == 0
    said = capsys.readouterr().err
    assert [line for line in said.splitlines() if "near_infrared.tif" in line
            and "its fourth band, no transparency, is left out" in line]
    ids = images.read_mask(tmp_path / "out" / "masks" / "near_infrared.png")
    assert (ids == inference.predict(network, photo())).all()


def test_transparency_is_no_fourth_band(run, tmp_path, capsys):
    write_bands(tmp_path / "clear.tif", np.dstack([photo(), photo()[..., 0]]), extra=(2,))
    assert run(tmp_path / "clear.tif") == 0 and "band" not in capsys.readouterr().err


@pytest.mark.parametrize("mode", ["LA", "CMYK"])
def test_grey_with_transparency_and_print_colours_lose_no_band(run, tmp_path, capsys, mode):
    Image.fromarray(photo()).convert(mode).save(tmp_path / "photo.tif")
    assert run(tmp_path / "photo.tif") == 0 and "band" not in capsys.readouterr().err


@pytest.mark.parametrize("count, photometric, extra",
                         [(5, 2, (0, 0)), (5, 1, (0,) * 4), (4, 1, (0,) * 3), (5, 2, (2, 0))])
def test_more_bands_are_refused_by_name(run, tmp_path, capsys, count, photometric, extra):
    write_bands(tmp_path / "many.tif", np.zeros((40, 40, count), np.uint8), photometric, extra)
    assert run(tmp_path / "many.tif") == 1
    said = capsys.readouterr().err
    assert f"many.tif: has {count} bands; expected red, green and blue. Write three bands" in said
    assert not written(tmp_path / "out")


# Which model


@pytest.mark.parametrize("name", ["", "model.keras", "model.weights.h5"])
def test_model_is_a_run_or_a_file(run, model, network, folder, tmp_path, name):
    assert run(folder / "a.png", "--write", "mask", model=model / name) == 0
    ids = images.read_mask(tmp_path / "out" / "masks" / "a.png")
    assert (ids == inference.predict(network, photo())).all()


def test_without_a_model_the_kept_one_labels(folder, tmp_path):
    assert tool.main([str(folder / "a.png"), "--out", str(tmp_path / "out")]) == 0
    assert images.read_mask(tmp_path / "out" / "masks" / "a.png").max() < 8


def test_model_without_a_card_has_numbered_classes(run, network, folder, tmp_path, capsys):
    network.save(tmp_path / "alone.keras")
    assert run(folder / "a.png", model=tmp_path / "alone.keras") == 0
    said = capsys.readouterr().err
    assert "alone.json is not there, so the classes have numbers for names" in said


# What goes wrong


def test_broken_files_are_named_and_the_rest_is_done(run, folder, tmp_path, capsys):
    (folder / "broken.jpg").write_bytes(b"no picture")
    (folder / "clip.mp4").write_bytes(b"no video")
    assert run(folder) == 1
    assert len(written(tmp_path / "out")) == 4
    said = capsys.readouterr()
    assert "2 of 4 done" in said.out and "2 failed:" in said.err and "Traceback" not in said.err
    assert ("broken.jpg: is not an image" in said.err
            and "clip.mp4: no frame can be read" in said.err)


def test_video_without_frames_leaves_nothing(run, tmp_path, capsys):
    assert run(write_video(tmp_path / "empty.avi", frames=0)) == 1
    assert "empty.avi: no frame can be read" in capsys.readouterr().err
    assert not written(tmp_path / "out")


def test_overlays_that_are_cut_off_are_a_fault(run, tmp_path, capsys, monkeypatch):
    """By a full disk, or where files may have four gigabytes; OpenCV says nothing."""
    real = cv2.VideoCapture
    monkeypatch.setattr(cv2, "VideoCapture", lambda path: real(
        "nothing" if path.endswith(".mp4") else path))
    assert run(write_video(tmp_path / "clip.avi")) == 1
    assert "clip.avi: its overlays cannot be written" in capsys.readouterr().err
    assert not written(tmp_path / "out")


def test_video_that_breaks_off_is_reported(run, tmp_path, capsys, monkeypatch):
    source = write_video(tmp_path / "clip.avi")
    real = cv2.VideoCapture

    class Longer:
        def __init__(self, path):
            self.clip = real(path)
            self.read = self.clip.read

        def get(self, what):
            return 9 if what == cv2.CAP_PROP_FRAME_COUNT else self.clip.get(what)

    monkeypatch.setattr(cv2, "VideoCapture", Longer)
    assert run(source, "--write", "mask") == 0
    assert "clip.avi: only 4 of its 9 frames can be read" in capsys.readouterr().err
    assert len(written(tmp_path / "out")) == 4


@pytest.mark.parametrize("arguments, said", [
    (["missing.jpg"], "missing.jpg: there is no such file or folder"),
    (["holiday/a.png", "gone"], "gone: there is no such file or folder"),
    (["empty"], "empty: holds no photos"),
    (["holiday", "--out", "holiday/a.png"], "--out holiday/a.png: cannot be written"),
    (["holiday", "--out", "holiday/a.png/below"], "holiday/a.png/below: cannot be written"),
    (["holiday/a.png", "other/a.png"], "would both become")])
def test_what_cannot_start_says_why_before_a_model_is_opened(no_model, folder, tmp_path,
                                                             monkeypatch, capsys, arguments,
                                                             said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    Image.fromarray(photo()).save(tmp_path / "other" / "a.png")
    assert tool.main(arguments) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not (tmp_path / "predictions").exists() or not written(tmp_path / "predictions")


@pytest.mark.parametrize("name, said", [
    ("nowhere.keras", "there is no such model file"), ("day 2", "holds no model.keras"),
    ("notes.keras", "cannot be opened as a model"),
    ("lonely.weights.h5", "needs its card, lonely.json, beside it")])
def test_model_that_cannot_be_opened_is_named(run, folder, capsys, name, said):
    for file in ("notes.keras", "lonely.weights.h5"):
        (folder / file).write_text("no model")
    assert run(folder / "a.png", model=folder / name) == 2
    error = capsys.readouterr().err
    assert said in error and name in error and error.count("\n") == 1


def test_card_of_another_model_is_refused(run, network, folder, tmp_path, capsys):
    network.save(tmp_path / "mine.keras")
    (tmp_path
     / "mine.json").write_text(json.dumps({"class_names": NAMES[:2], "colors": COLORS[:2]}))
    assert run(folder, model=tmp_path / "mine.keras") == 2
    said = capsys.readouterr().err
    assert "has 3 classes" in said and "mine.json names 2" in said


@pytest.mark.parametrize("option", [["--tile", "-3"], ["--tile", "many"], ["--write", "all"],
                                    ["--write", "mask,"],
                                    ["--write", ""], ["--min-confidence", "much"], []])
def test_wrong_options_end_with_two(no_model, option):
    with pytest.raises(SystemExit) as end:
        tool.main(["photo.jpg", *option] if option else [])
    assert end.value.code == 2


@pytest.mark.parametrize("arguments, name", [
    ([""], "INPUT"), (["a.png", " "], "INPUT"), (["a.png", "--out", ""], "--out"),
    (["a.png", "--model", ""], "--model")])
def test_empty_paths_are_refused(no_model, folder, monkeypatch, capsys, arguments, name):
    """As an unset variable of the shell gives them: they would mean the working directory."""
    monkeypatch.chdir(folder)
    before = written(folder)
    with pytest.raises(SystemExit) as end:
        tool.main(arguments)
    error = capsys.readouterr().err
    assert end.value.code == 2 and name in error and "is empty" in error
    assert written(folder) == before


@pytest.mark.skipif(not hasattr(os, "symlink") or os.name == "nt",
                    reason="Windows lets few users make links")
def test_links_that_lead_nowhere_are_left_out(run, folder, tmp_path, capsys):
    (folder / "gone.jpg").symlink_to("nowhere.jpg")
    (folder / "circle.jpg").symlink_to("circle.jpg")
    (folder / "day 2" / "up").symlink_to(folder)
    (folder / "linked.png").symlink_to("a.png")
    assert run(folder, "--write", "mask") == 0 and "3 of 3 done" in capsys.readouterr().out
    assert written(tmp_path / "out") == ["masks/a.png", "masks/day 2/b.png", "masks/linked.png"]


def test_nothing_is_overwritten_unless_asked_for(run, no_model, folder, tmp_path, capsys):
    target = tmp_path / "out" / "masks" / "a.png"
    target.parent.mkdir(parents=True)
    target.write_bytes(b"mended by hand")
    assert run(folder) == 2
    said = capsys.readouterr().err
    assert "a.png is there already" in said and "--force" in said
    assert written(tmp_path / "out") == ["masks/a.png"] and target.read_bytes() == b"mended by hand"


def test_force_replaces_all_frames_of_a_longer_video(run, tmp_path):
    assert run(write_video(tmp_path / "clip.avi", frames=4), "--write", "mask") == 0
    write_video(tmp_path / "clip.avi", frames=2)
    assert run(tmp_path / "clip.avi", "--write", "mask", "--force") == 0
    assert written(tmp_path / "out") == ["masks/clip.avi/000001.png", "masks/clip.avi/000002.png"]


def test_a_full_disk_is_named_and_leaves_nothing_half_written(run, folder, tmp_path,
                                                              monkeypatch, capsys):
    def write_mask(path, ids, colors):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(images, "write_mask", write_mask)
    assert run(folder) == 1
    error = capsys.readouterr().err
    assert "a.png: [Errno 28] No space left on device" in error and "Traceback" not in error
    assert not written(tmp_path / "out")


def test_a_file_in_the_way_is_named(run, folder, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "masks").write_text("mine")
    assert run(folder) == 1
    assert str(tmp_path / "out" / "masks") in capsys.readouterr().err
    assert (tmp_path / "out" / "masks").read_text() == "mine"


def test_a_video_beside_a_folder_of_its_frames_keeps_both_apart(run, tmp_path):
    folder = tmp_path / "in"
    (folder / "clip").mkdir(parents=True)
    Image.fromarray(photo()).save(folder / "clip" / "frame.png")
    write_video(folder / "clip.avi", frames=2)
    assert run(folder, "--write", "mask") == 0
    assert written(tmp_path / "out") == ["masks/clip.avi/000001.png", "masks/clip.avi/000002.png",
                                         "masks/clip/frame.png"]


def test_a_network_of_another_kind_is_refused_in_a_sentence(tmp_path):
    pixels = keras.Input((8, 8, 3))
    keras.Model(pixels, keras.layers.Dense(2)(keras.layers.Flatten()(pixels))).save(tmp_path
                                                                                    / "other.keras")
    with pytest.raises(tool.UsageError, match="other.keras: is no network of this project"):
        tool.load_labeller(tmp_path / "other.keras", None)


def test_a_damaged_card_is_named(model, tmp_path):
    for name in ("model.keras", "model.json"):
        shutil.copy((model if model.is_dir() else model.parent) / "model.keras", tmp_path / name)
    with pytest.raises(tool.UsageError, match="model.json cannot be used"):
        tool.load_labeller(tmp_path / "model.keras", None)


@pytest.mark.parametrize("changed", [
    {"colors": [[300, 0, 0], [0, 0, 0], [1, 1, 1]]}, {"colors": [[-1, 0, 0], [0, 0, 0], [1, 1, 1]]},
    {"colors": [[1, 2], [0, 0], [1, 1]]}, {"colors": ["red", "green", "blue"]}, {"colors": 7},
    {"colors": None},
    {"colors": [[0.5, 0, 0], [0, 0, 0], [1, 1, 1]]}, {"colors": COLORS[:2]}, {"colors": {"a": 1}},
    {"class_names": [1, 2, 3]}, {"class_names": ["a", "", "c"]},
    {"class_names": ["a", "b\nb", "c"]},
    {"class_names": None}, {"class_names": "abc"}, {"class_names": {"a": 1}},
])
def test_a_card_with_impossible_names_or_colors_is_refused(model, tmp_path, capsys, changed):
    for name in ("model.keras", "model.json"):
        shutil.copy(model / name, tmp_path)
    card = json.loads((tmp_path / "model.json").read_text(encoding="utf-8")) | changed
    (tmp_path / "model.json").write_text(json.dumps(card), encoding="utf-8")
    Image.fromarray(photo()).save(tmp_path / "a.png")
    assert (tool.main([str(tmp_path / "a.png"), "--model", str(tmp_path), "--out",
                       str(tmp_path / "out")]) == 2)
    error = capsys.readouterr().err
    assert "model.json" in error and next(iter(changed)) in error and "Traceback" not in error
    assert not written(tmp_path / "out")


@pytest.mark.parametrize("text", ["[]", "[" * 100_000, "7"])
def test_a_card_that_is_no_mapping_is_refused(model, tmp_path, text):
    shutil.copy(model / "model.keras", tmp_path)
    (tmp_path / "model.json").write_text(text)
    with pytest.raises(tool.UsageError, match="model.json cannot be used"):
        tool.load_labeller(tmp_path, None)


def test_a_network_for_one_size_of_photos_is_refused(random_fcn, tmp_path):
    random_fcn(3, input_shape=(64, 96, 3)).save(tmp_path / "model.keras")
    with pytest.raises(tool.UsageError, match="model.keras: .*96x64"):
        tool.load_labeller(tmp_path, None)


@pytest.mark.parametrize("trouble", [
    MemoryError(), RuntimeError("RESOURCE_EXHAUSTED: out of memory"),
    tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")])
def test_photo_too_large_for_memory_gets_advice(run, folder, monkeypatch, capsys, trouble):
    def windows(*_):
        raise trouble

    monkeypatch.setattr(inference, "windows", windows)
    assert run(folder / "a.png") == 1
    assert "a.png: does not fit into memory. Give a smaller --tile" in capsys.readouterr().err


def test_interrupted_job_keeps_what_is_finished(run, folder, tmp_path, monkeypatch, capsys):
    real = tool.label_photo

    def label_photo(job, *rest):
        if job.source.stem == "b":
            raise KeyboardInterrupt
        return real(job, *rest)

    monkeypatch.setattr(tool, "label_photo", label_photo)
    assert run(folder) == 130
    assert written(tmp_path / "out") == ["masks/a.png", "overlays/a.jpg"]
    assert "Interrupted" in capsys.readouterr().err
    assert [row["photo"] for row in areas(tmp_path / "out")] == ["a.png"]


def test_help_tells_inputs_results_and_exit_codes():
    text = tool._parser().format_help()
    for word in ("a photo, a video or a folder", "--model", "--tile", "--force",
                 "exit code: 0 all done", "examples:"):
        assert word in text
