"""What `tools.predict` writes: overlays, masks, confidence, areas.csv and scores.json."""

import csv
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # the command reports faulty videos itself

import cv2
import numpy as np
from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont

from tools import progress, tiff
from tools.deploy.labeller import Labeller, UsageError
from utils import images, labels, metrics, plots, runs

STRIP = 512  # rows that are coloured at a time


def label_photo(job, labeller: Labeller, made: dict[str, Path]) -> tuple:
    """Write the results of one photo to the paths in `made`: kind -> path.

    Returns pixels per class, void last; the best class of each pixel, None of a video; (H, W).
    """
    drops = tiff.drops_fourth_band(job.source)
    picture, stored = images.decode(job.source)
    image = images.to_rgb(picture, job.source)
    if stored.format == "TIFF" and stored.pages > 1:
        print(f"{job.source}: only the first of its {stored.pages} pages is labelled.",
              file=sys.stderr)
    if drops:
        print(f"{job.source}: its fourth band, no transparency, is left out.", file=sys.stderr)
    best, confidence = labeller.predict(image)
    ids = write_ids(made, "", labeller, best, confidence, job.georeference)
    if "overlay" in made:
        picture = overlay(labeller, image, ids, np.unique(ids))
        Image.fromarray(picture).save(made["overlay"], quality=92)
    return labeller.areas(ids), best, ids.shape


def write_ids(made, name, labeller, best, confidence, georeference=None) -> np.ndarray:
    """Write mask and confidence to the paths in `made`, / name; return ids, void if unsure."""
    ids = np.where(confidence < labeller.least, np.uint8(labels.VOID), best)
    if "confidence" in made:
        grey = Image.fromarray((255 * confidence).round().astype(np.uint8))
        grey.save(made["confidence"] / name)
    if "mask" in made:
        images.write_mask(made["mask"] / name, ids, labeller.colors)
        if georeference:
            with Image.open(made["mask"]) as mask:
                mask.load()
            mask.save(made["mask"], tiffinfo=georeference, compression="tiff_deflate")
    return ids


def label_video(job, labeller: Labeller, made: dict[str, Path]) -> tuple:
    """Do the same with a video: a video of overlays, and folders with a picture for each frame."""
    source, areas, done = job.source, [], 0
    clip, writer = cv2.VideoCapture(str(source)), cv2.VideoWriter()
    expected, rate = int(clip.get(cv2.CAP_PROP_FRAME_COUNT)), clip.get(cv2.CAP_PROP_FPS)
    for kind in made.keys() - {"overlay"}:
        made[kind].mkdir()
    report = progress.bar(f"{source.name}, frames")
    while (frame := clip.read()[1]) is not None:
        image, done = np.ascontiguousarray(frame[..., ::-1]), done + 1
        ids = write_ids(made, f"{done:06}.png", labeller, *labeller.predict(image))
        areas.append(labeller.areas(ids))
        if "overlay" in made:
            picture = overlay(labeller, image, ids, range(len(labeller.colors)))[..., ::-1]
            height, width = picture.shape[:2]  # the codec needs even sides
            picture = np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
            if not writer.isOpened():
                writer.open(str(made["overlay"]), cv2.VideoWriter.fourcc(*"mp4v"),
                            rate if 0 < rate < 1000 else 25, picture.shape[1::-1])
            writer.write(picture)
        report(done, max(expected, done + 1))
    writer.release()
    if not done:
        raise ValueError(f"{source}: no frame can be read. Is it a video, whole, in a format that "
                         "OpenCV knows?")
    report(done, done)
    if "overlay" in made:
        written = cv2.VideoCapture(str(made["overlay"])).get(cv2.CAP_PROP_FRAME_COUNT)
        if written < done:
            raise ValueError(f"{source}: its overlays cannot be written: too large, a full disk?")
    if done < expected:
        print(f"{source}: only {done} of its {expected} frames can be read.", file=sys.stderr)
    return np.mean(areas, axis=0).round(1), None, ids.shape


def overlay(labeller, image: np.ndarray, ids: np.ndarray, classes: Sequence[int]) -> np.ndarray:
    """Return a photo with `classes` but background laid over, and a legend of them below it."""
    shown = [number for number in classes
             if number != labels.VOID and labeller.class_names[number] != "background"]
    names = [labeller.class_names[number] for number in shown]
    legend = draw_legend(image.shape[1], names, labeller.colors[shown])
    painted = np.full(256, labels.VOID, np.uint8)
    painted[shown] = shown
    picture = np.full((len(image) + len(legend), legend.shape[1], 3), 255, np.uint8)
    picture[len(image):] = legend
    # In strips: as a whole, a large photo would be in memory thirty times.
    for top in range(0, len(image), STRIP):
        first = max(top - 1, 0)  # the overlay of a row depends on the row above
        rows = slice(first, top + STRIP)
        laid = plots.overlay(image[rows], painted[ids[rows]], labeller.colors)[top - first:]
        picture[top:top + len(laid), :image.shape[1]] = laid
    return picture


def draw_legend(width: int, class_names: Sequence[str], colors: np.ndarray) -> np.ndarray:
    """Return a strip, uint8 (h, w, 3), of colours and names; w is `width`, or more for one name."""
    if not class_names:
        return np.empty((0, width, 3), np.uint8)
    size = max(12, width // 50)
    font = ImageFont.truetype(font_manager.findfont("DejaVu Sans"), size)
    cell = 3 * size + max(int(font.getlength(name)) for name in class_names)
    row, columns = 2 * size, max(1, width // cell)
    rows = math.ceil(len(class_names) / columns)
    strip = Image.new("RGB", (max(width, cell), rows * row), "white")
    draw = ImageDraw.Draw(strip)
    for number, (name, color) in enumerate(zip(class_names, colors.tolist())):
        x, y = number % columns * cell + size // 2, number // columns * row + size // 2
        draw.rectangle((x, y, x + size, y + size), fill=tuple(color), outline="black")
        draw.text((x + 3 * size // 2, y + size // 2), name, fill="black", font=font, anchor="lm")
    return np.asarray(strip)


def read_areas(path: Path, header: list[str], force: bool) -> dict[str, list]:
    """Return the rows of an earlier areas.csv by their first cell, or `header` alone, by 0.

    Raises UsageError for other classes, unless `force`.
    """
    rows = {}
    if path.is_file():
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
            rows = {number and row[0]: row for number, row in enumerate(csv.reader(file)) if row}
    if next(iter(rows.values()), None) == header:
        return rows
    if rows and not force:
        raise UsageError(f"{path} has other columns than this model has classes. Give another "
                         "--out, or --force to replace it.")
    return {0: header}


def write_areas(path: Path, rows: dict[str, list]) -> None:
    """Write rows as UTF-8; of file names that are not, the bytes are kept."""
    def write(temporary):
        with open(temporary, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            csv.writer(file).writerows(rows.values())

    runs.replace(path, write)


def compare(source, best, truth, colors) -> np.ndarray:
    """Return the confusion matrix of a photo; ValueError for a true mask that cannot be used."""
    mask = images.read_mask(truth, colors)
    problem = images.fault_of_pair((source, truth), best, mask, len(colors))
    if problem:
        raise ValueError(problem)
    return metrics.confusion_matrix(mask, best, len(colors))


def report_scores(confusion: np.ndarray, class_names: Sequence[str], path: Path) -> None:
    """Print the four scores and IoU per class, and write them to a JSON file."""
    scores = metrics.scores(confusion)
    scores["iou"] = dict(zip(class_names, scores["iou"].tolist()))
    runs.write_json(path, scores)
    ious = {f"IoU of {name}": value for name, value in scores.pop("iou").items()}
    for name, value in {**scores, **ious}.items():
        print(f"{name:<24} {'absent' if math.isnan(value) else f'{value:.3f}'}")
