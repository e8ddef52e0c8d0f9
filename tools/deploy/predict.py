"""Label every pixel of your photos and videos with a trained model.

An INPUT is a photo, a video, or a folder: then all photos and videos in and below it. Results have
the names of their inputs, which are never changed. A video becomes a video of overlays, without
sound, and a folder of masks, one for each frame. In DIR:

  overlays     class colours laid over the photos, except on background, and a legend
  masks        palette PNGs of class ids; of a GeoTIFF, a palette .tif with its georeference
  confidence   grey PNGs: 255 where the best class has probability 1
  areas.csv    pixels of each class, a row for each photo; for a video the mean of its frames
  scores.json  with --truth: the four scores and IoU per class, over all photos together
"""

import argparse
import contextlib
import csv
import functools
import io
import json
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # the command reports faulty videos itself

import cv2
import numpy as np
from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont

from tools import progress, tiff
from utils import images, labels, metrics, plots, runs

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
LARGE, TILE = 2048, 1024  # pixels: photos with a longer side are processed in tiles of this side
STRIP = 512  # rows that are coloured at a time
FOLDERS = {"overlay": Path("overlays"), "mask": Path("masks"), "confidence": Path("confidence")}
EPILOG = """\
examples:
  python -m tools.predict photo.jpg                          with the model of this repository
  python -m tools.predict holiday --model results/runs/mine  a whole folder, with your run's model
  python -m tools.predict clip.mp4 --write overlay --out seen
  python -m tools.predict new --model mine/model.keras --write mask --out to_correct
  python -m tools.predict new --write mask,confidence --min-confidence 0.8 --truth checked

exit code: 0 all done; 1 some files failed: they are listed at the end, the others are done;
2 nothing was done: wrong arguments, no such file or model, or no right to write
"""


class UsageError(Exception):
    """What keeps the command from starting, in a sentence."""


@dataclass(frozen=True)
class Job:
    """source: a photo or video. name: the path of its results below OUT's folders."""

    source: Path
    name: Path

    @property
    def is_video(self) -> bool:
        return self.source.suffix.lower() in VIDEO_SUFFIXES

    @functools.cached_property
    def georeference(self):
        """The GeoTIFF tags of its mask, or None."""
        return tiff.georeference(self.source) if ".tif" in self.source.suffix.lower() else None

    def target(self, kind: str) -> Path:
        """Return where in OUT a result goes; a video's masks go into a folder."""
        suffix = ".png"
        if kind == "overlay":
            suffix = ".mp4" if self.is_video else ".jpg"
        elif self.is_video:
            suffix = self.name.suffix
        elif kind == "mask" and self.georeference:
            suffix = ".tif"
        return FOLDERS[kind] / self.name.with_suffix(suffix)


@dataclass(frozen=True)
class Labeller:
    """predict: from uint8 (H, W, 3) RGB to ids, uint8 (H, W), and their probabilities, float32.

    colors: uint8 (C, 3). least: pixels whose class is less probable become void.
    """

    predict: Callable
    class_names: Sequence[str]
    colors: np.ndarray
    least: float = 0.0

    def overlay(self, image: np.ndarray, ids: np.ndarray, classes: Sequence[int]) -> np.ndarray:
        """Return a photo with `classes` but background laid over, and a legend of them below it."""
        shown = [number for number in classes
                 if number != labels.VOID and self.class_names[number] != "background"]
        names = [self.class_names[number] for number in shown]
        legend = draw_legend(image.shape[1], names, self.colors[shown])
        painted = np.full(256, labels.VOID, np.uint8)
        painted[shown] = shown
        picture = np.full((len(image) + len(legend), legend.shape[1], 3), 255, np.uint8)
        picture[len(image):] = legend
        # In strips: as a whole, a large photo would be in memory thirty times.
        for top in range(0, len(image), STRIP):
            first = max(top - 1, 0)  # the overlay of a row depends on the row above
            rows = slice(first, top + STRIP)
            laid = plots.overlay(image[rows], painted[ids[rows]], self.colors)[top - first:]
            picture[top:top + len(laid), :image.shape[1]] = laid
        return picture

    def areas(self, ids: np.ndarray) -> np.ndarray:
        """Return the pixels of each class, int64 (C + 1,), void last."""
        counted = sum(np.bincount(row, minlength=labels.VOID + 1) for row in ids)
        return counted[[*range(len(self.colors)), labels.VOID]]


def find_jobs(inputs: Sequence[Path], out: Path, kinds: Sequence[str]) -> list[Job]:
    """Return a job for every photo and video, photos first. Raises UsageError if none is found."""
    jobs = []
    for given in inputs:
        if given.is_dir():
            jobs += [Job(path, path.relative_to(given)) for path in _files_below(given, out)]
        elif given.exists():
            jobs.append(Job(given, Path(given.name)))
        else:
            raise UsageError(f"{given}: there is no such file or folder.")
    if not jobs:
        raise UsageError(f"{', '.join(map(str, inputs))}: holds no photos "
                         f"({' '.join(images.PHOTO_SUFFIXES)}) and no videos "
                         f"({' '.join(VIDEO_SUFFIXES)}).")
    taken = {}
    for job in jobs:
        for kind in kinds:
            key = str(job.target(kind)).lower()  # some file systems take A.jpg for a.jpg
            other = taken.setdefault(key, job.source)
            if other != job.source:
                raise UsageError(f"{other} and {job.source} would both become {job.target(kind)}: "
                                 "label them one after the other, each with another --out.")
    return sorted(dict.fromkeys(jobs), key=lambda job: job.is_video)


def _files_below(folder: Path, out: Path) -> Iterator[Path]:
    own = os.path.realpath(out)  # not Path.resolve, which fails on links that lead in a circle
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".")
                            and os.path.realpath(Path(place) / name) != own)
        for path in (Path(place) / name for name in sorted(names)):
            wanted = path.suffix.lower() in (*images.PHOTO_SUFFIXES, *VIDEO_SUFFIXES)
            if wanted and not path.name.startswith(".") and os.path.exists(path):
                yield path


def find_truths(jobs: Sequence[Job], folder: Path) -> dict[Job, Path]:
    """Return the true masks of photos: in `folder`, with the photo's path or name, any suffix."""
    masks = {path.relative_to(folder).with_suffix(""): path
             for path in _files_below(folder, folder) if path.suffix not in VIDEO_SUFFIXES}
    photos = [job for job in jobs if not job.is_video]
    truths = {job: masks.get(job.name.with_suffix(""), masks.get(Path(job.name.stem)))
              for job in photos}
    without = [job.source for job in photos if not truths[job]]
    if len(without) == len(photos):
        raise UsageError(f"--truth {folder}: holds no mask that has the name of a photo.")
    if without:
        print(f"without a mask in {folder}, not scored:{images.bullets(without)}", file=sys.stderr)
    return {job: truth for job, truth in truths.items() if truth}


def check_out(targets: Sequence[Path], out: Path, force: bool) -> None:
    """Raise UsageError where results would overwrite something, or cannot be written."""
    there = [target for target in targets if target.exists()]
    if there and not force:
        raise UsageError(f"{there[0]} is there already, as are {len(there) - 1} other results. "
                         "Give another --out, or --force to replace them.")
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()  # os.access is wrong on Windows, network disks
    except OSError as error:
        raise UsageError(f"--out {out}: cannot be written ({error.strerror}). Choose another "
                         "folder.") from None


def open_model(path: Path | None):
    """Return (model, card) of a run's folder, a model file, or None: the kept model.

    card: a dict with class_names, colors, uint8 (C, 3), and fcn. Raises UsageError where model or
    card cannot be used.
    """
    with silence():
        from utils import models

        path = path or models.KEPT_MODEL
        if path.is_dir():
            path = path / "model.keras"
            if not path.is_file():
                raise UsageError(f"{path.parent}: this folder holds no model.keras. Give "
                                 "the folder of a run of notebook 03, or a model file.")
        stem = path.name.removesuffix(".weights.h5").removesuffix(".keras")
        card = path.with_name(f"{stem}.json")
        if path.name.endswith(".weights.h5") and path.is_file() and not card.is_file():
            raise UsageError(f"{path}: needs its card, {card.name}, beside it.")
        try:
            model = models.load(path)
        except (OSError, ValueError) as error:
            raise UsageError(str(error)) from None
    if any(model.input_shape[1:3]):
        height, width = model.input_shape[1:3]
        raise UsageError(f"{path}: takes photos of {width}x{height} pixels; expected any.")
    return model, _read_card(card, model.output_shape[-1])


def load_labeller(path: Path | None, tile: int | None, flip=False, least=0.0) -> Labeller:
    """Open a model; the arguments are those of the command. Raises what `open_model` raises."""
    model, card = open_model(path)
    from utils import inference

    scores = flipped_logits if flip else inference.logits

    def predict(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        side = tile
        if tile is None:
            side = TILE if max(image.shape) > LARGE else 0
        ids = np.empty(image.shape[:2], np.uint8)
        confidence = np.empty(image.shape[:2], np.float32)
        try:
            for place, window, inner in inference.windows(model, image, side or None):
                found = scores(model, window)[inner]
                ids[place] = found.argmax(axis=2)
                found = found - found.max(axis=2, keepdims=True)
                confidence[place] = 1 / np.exp(found, out=found).sum(axis=2)
        except Exception as error:  # each backend has its own kind
            if "RESOURCE_EXHAUSTED" in str(error) or "ResourceExhausted" in type(error).__name__:
                raise MemoryError from None
            raise
        return ids, confidence

    return Labeller(predict, card["class_names"], card["colors"], least)


def flipped_logits(model, image: np.ndarray) -> np.ndarray:
    """Return float32 (H, W, C): log of a photo's plus its mirror image's probabilities."""
    from keras import ops

    from utils import inference, models

    # Filled up to whole cells on the same side in both, so that tiles give the same as the whole.
    height, width = image.shape[:2]
    filled = np.full((height, math.ceil(width / 32) * 32, 3), models.MEAN, np.float32)
    filled[:, :width] = image
    both = inference.logits(model, filled), inference.logits(model, filled[:, ::-1])[:, ::-1]
    return np.log(sum(ops.convert_to_numpy(ops.softmax(one)) for one in both) + 1e-30)[:, :width]


def _read_card(card: Path, classes: int) -> dict:
    """Return a model's card, checked; without one, the classes have numbers for names."""
    if not card.is_file():
        print(f"{card} is not there, so the classes have numbers for names.", file=sys.stderr)
        return {"class_names": [f"class {number}" for number in range(classes)],
                "colors": labels.voc_colormap(classes), "fcn": {}}
    try:
        about = json.loads(card.read_text(encoding="utf-8"))
        names, colors = about["class_names"], np.asarray(about["colors"])
        whole = (colors.shape, colors.dtype.kind) == ((classes, 3), "i")
        if not whole or (colors != colors.clip(0, 255)).any():
            raise ValueError(f"colors must be {classes} times red, green and blue, 0 to 255")
        if not isinstance(names, list) or len(names) != classes or not all(map(_is_line, names)):
            raise ValueError(f"class_names must be {classes} texts of one line")
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise UsageError(f"The model's card {card} cannot be used: {error}. Copy it again from "
                         "its run, or remove it: the classes are then numbered.") from None
    return {"fcn": {}, **about, "colors": np.uint8(colors)}


def _is_line(value: object) -> bool:
    return isinstance(value, str) and value.splitlines() == [value]


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Keep TensorFlow's start-up lines off the screen; no setting silences all of them."""
    sys.stderr.flush()
    screen = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(screen, 2)
        os.close(screen)


def label(job: Job, labeller: Labeller, out: Path, kinds: Sequence[str]) -> tuple:
    """Write all results of a job or none; return its row of areas.csv, and a photo's best classes.

    Raises OSError or ValueError.
    """
    with tempfile.TemporaryDirectory(prefix=".", dir=out) as place:
        made = {kind: Path(place) / kind / job.target(kind).name for kind in kinds}
        for path in made.values():
            path.parent.mkdir()
        write = label_video if job.is_video else label_photo
        areas, best, (height, width) = write(job, labeller, made)
        for kind, path in made.items():
            target = out / job.target(kind)
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.is_dir():
                shutil.rmtree(target)
            os.replace(path, target)
    return [job.name.as_posix(), width, height, *areas.tolist()], best


def label_photo(job: Job, labeller: Labeller, made: dict[str, Path]) -> tuple:
    """Write the results of one photo to the paths in `made`: kind -> path.

    Returns pixels per class, void last; the best class of each pixel, None of a video; (H, W).
    """
    drops = tiff.drops_fourth_band(job.source)
    image = images.read_image(job.source)
    if drops:
        print(f"{job.source}: its fourth band, no transparency, is left out.", file=sys.stderr)
    best, confidence = labeller.predict(image)
    ids = write_ids(made, "", labeller, best, confidence, job.georeference)
    if "overlay" in made:
        picture = labeller.overlay(image, ids, np.unique(ids))
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


def label_video(job: Job, labeller: Labeller, made: dict[str, Path]) -> tuple:
    """Do the same with a video: a video of overlays, and folders with a picture for each frame."""
    source, areas = job.source, []
    clip, writer = cv2.VideoCapture(str(source)), None
    expected, rate = int(clip.get(cv2.CAP_PROP_FRAME_COUNT)), clip.get(cv2.CAP_PROP_FPS)
    for kind in made.keys() - {"overlay"}:
        made[kind].mkdir()
    report, done = progress.bar(f"{source.name}, frames"), 0
    while (frame := clip.read()[1]) is not None:
        image, done = np.ascontiguousarray(frame[..., ::-1]), done + 1
        ids = write_ids(made, f"{done:06}.png", labeller, *labeller.predict(image))
        areas.append(labeller.areas(ids))
        if "overlay" in made:
            picture = labeller.overlay(image, ids, range(len(labeller.colors)))
            height, width = picture.shape[:2]
            even = ((0, height % 2), (0, width % 2), (0, 0))  # the codec needs even sides
            picture = np.pad(picture, even, mode="edge")[..., ::-1]
            if writer is None:
                codec = cv2.VideoWriter.fourcc(*"mp4v")
                writer = cv2.VideoWriter(str(made["overlay"]), codec,
                                         rate if 0 < rate < 1000 else 25, picture.shape[1::-1])
            writer.write(picture)
        report(done, max(expected, done + 1))
    if not done:
        raise ValueError(f"{source}: no frame can be read. Is it a video, whole, in a format that "
                         "OpenCV knows?")
    report(done, done)
    if writer is not None:
        writer.release()
        if not made["overlay"].is_file():
            raise ValueError(f"{source}: OpenCV cannot write a video of its size.")
    if done < expected:
        print(f"{source}: only {done} of its {expected} frames can be read.", file=sys.stderr)
    return np.mean(areas, axis=0).round(1), None, ids.shape


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


def label_all(jobs, labeller, out, kinds, truths, rows) -> tuple[list[str], np.ndarray]:
    """Do all jobs, and add to `rows` those of areas.csv.

    Returns a line for each that failed, and the confusion matrix of those with a true mask.
    """
    photos = sum(not job.is_video for job in jobs)
    report, failed = progress.bar("photos"), []
    confusion = np.zeros((len(labeller.colors),) * 2, np.int64)
    for number, job in enumerate(jobs, 1):
        try:
            row, best = label(job, labeller, out, kinds)
            rows[row[0]] = row
            if job in truths:
                confusion += compare(job.source, best, truths[job], labeller.colors)
        except MemoryError:
            failed.append(f"{job.source}: does not fit into memory. Give a smaller --tile, such as "
                          "512.")
        except (OSError, ValueError) as error:
            failed.append(str(error) if str(job.source) in str(error) else f"{job.source}: {error}")
        if not job.is_video:
            report(number, photos)
    return failed, confusion


def compare(source, best, truth, colors) -> np.ndarray:
    """Return the confusion matrix of a photo; ValueError for a true mask that cannot be used."""
    mask = images.read_mask(truth, colors)
    problem = images.fault_of_pair((source, truth), best, mask, len(colors))
    if problem:
        raise ValueError(problem)
    return metrics.confusion_matrix(mask, best, len(colors))


def read_areas(path: Path, header: list[str], force: bool) -> dict[str, list]:
    """Return the rows of an earlier areas.csv by their first cell, or `header` alone.

    Raises UsageError for other classes, unless `force`.
    """
    text = path.read_bytes().decode("utf-8", "surrogateescape") if path.is_file() else ""
    rows = {row[0]: row for row in csv.reader(io.StringIO(text, newline="")) if row}
    if next(iter(rows.values()), None) == header:
        return rows
    if rows and not force:
        raise UsageError(f"{path} has other columns than this model has classes. Give another "
                         "--out, or --force to replace it.")
    return {"photo": header}


def write_areas(path: Path, rows: dict[str, list]) -> None:
    """Write rows as UTF-8; of file names that are not, the bytes are kept."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows.values())
    data = text.getvalue().encode("utf-8", "surrogateescape")
    runs.replace(path, lambda temporary: temporary.write_bytes(data))


def report_scores(confusion: np.ndarray, class_names: Sequence[str], path: Path) -> None:
    """Print the four scores and IoU per class, and write them to a JSON file."""
    scores = metrics.scores(confusion)
    scores["iou"] = dict(zip(class_names, scores["iou"].tolist()))
    runs.write_json(path, scores)
    ious = {f"IoU of {name}": value for name, value in scores.pop("iou").items()}
    for name, value in {**scores, **ious}.items():
        print(f"{name:<24} {'absent' if math.isnan(value) else f'{value:.3f}'}")


def predict(options: argparse.Namespace) -> int:
    """Label what the options name, print what was done, and return the exit code."""
    kinds, out = options.write, options.out
    if not 0 <= options.min_confidence <= 1:
        raise UsageError(f"--min-confidence {options.min_confidence}: expected 0 to 1.")
    jobs = find_jobs(options.inputs, out, kinds)
    truths = find_truths(jobs, options.truth) if options.truth else {}
    targets = [out / job.target(kind) for job in jobs for kind in kinds]
    if truths:
        targets.append(out / "scores.json")
    check_out(targets, out, options.force)
    labeller = load_labeller(options.model, options.tile, options.flip, options.min_confidence)
    header = ["photo", "width", "height", *labeller.class_names, "void"]
    rows = read_areas(out / "areas.csv", header, options.force)
    done = {}
    try:
        failed, confusion = label_all(jobs, labeller, out, kinds, truths, done)
    finally:
        if done:
            write_areas(out / "areas.csv", {**rows, **done})
    if confusion.any():
        report_scores(confusion, labeller.class_names, out / "scores.json")
    if done:
        for path in [*map(FOLDERS.get, kinds), "areas.csv"]:
            print(f"{str(path):<11} {out / path}")
    print(f"{len(done)} of {len(jobs)} done")
    if failed:
        print(f"{len(failed)} failed:", *failed, sep="\n  ", file=sys.stderr)
    return int(bool(failed))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m tools.predict", description=__doc__, epilog=EPILOG,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", metavar="INPUT", nargs="+", type=_path,
                        help="a photo, a video or a folder")
    parser.add_argument("--model", metavar="PATH", type=_path, help="the folder of a run, a "
                        "model.keras, or a .weights.h5 with its card beside it; without it, the "
                        "small model in results/model, which knows the meadow scenes")
    parser.add_argument("--write", metavar="WHAT", type=_kinds, default="both",
                        help="overlay, mask, confidence, or several: overlay,mask (default, also "
                        "called both)")
    parser.add_argument("--min-confidence", metavar="P", type=float, default=0.0,
                        help="pixels whose best class has a probability below P, 0 to 1, become "
                        "void: 255 in masks, clear in overlays. Scores count their best class")
    parser.add_argument("--truth", metavar="DIR", type=_path, help="score photos with the true "
                        "masks in DIR that have their names")
    parser.add_argument("--flip", action="store_true", help="average the probabilities of a photo "
                        "and of its mirror image: takes twice the time, is a little better")
    parser.add_argument("--out", metavar="DIR", type=_path, default=Path("predictions"),
                        help="where to write (default: predictions, in the working directory)")
    parser.add_argument("--tile", metavar="PIXELS", type=_tile, help="process photos in tiles of "
                        "this side, which takes less memory and gives the same; 0 for never. "
                        f"Default: tiles of {TILE} for photos with a side over {LARGE}")
    parser.add_argument("--force", action="store_true",
                        help="replace what is in DIR already, instead of refusing to")
    return parser


def _path(text: str) -> Path:
    if not text.strip():
        raise argparse.ArgumentTypeError("is empty; expected a path. Is a shell variable not set?")
    return Path(text).expanduser()


def _kinds(text: str) -> list[str]:
    return some_of(FOLDERS)(text.replace("both", "overlay,mask"))


def some_of(names: Sequence[str]) -> Callable:
    """Return an argparse type: names with commas between them, as a list in their own order."""
    def chosen(text: str) -> list[str]:
        if not set(text.split(",")) <= set(names):
            raise argparse.ArgumentTypeError(f"{text!r}: expected some of {','.join(names)}")
        return [name for name in names if name in text.split(",")]

    return chosen


def _tile(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is no side in pixels, such as 1024")
    return int(text)


def main(argv: list[str] | None = None) -> int:
    """Run the command; return 0 all done, 1 some failed, 2 nothing done, 130 interrupted."""
    options = _parser().parse_args(argv)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # for file names that a terminal cannot show
    try:
        return predict(options)
    except (UsageError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nInterrupted; what was finished is kept.", file=sys.stderr)
        return 130
