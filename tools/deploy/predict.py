"""Label every pixel of your photos and videos with a trained model.

An INPUT is a photo, a video, or a folder: then all photos and videos in and below it. What is written has their names:
OUT/overlays holds the photos with class colours laid over and a legend below, OUT/masks palette PNGs (class ids for
programs, class colours for people). A video becomes a video of overlays, without sound, and a folder of masks, one for
each frame. The inputs are never changed.
"""

import argparse
import contextlib
import errno
import itertools
import json
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # what is wrong with a video, the command says itself

import cv2
import numpy as np
from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont

from tools import progress
from utils import images, labels, plots

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
LONGEST = 100  # characters of a class name, which the legend shows in one line
LARGE, TILE = 2048, 1024  # pixels: photos with a longer side are worked off in tiles of this side
KINDS = {"overlay": ("overlay",), "mask": ("mask",), "both": ("overlay", "mask")}
EPILOG = """\
examples:
  python -m tools.predict photo.jpg                              with the small model that comes with the repository
  python -m tools.predict holiday --model results/runs/mine      a whole folder, with the model of your own run
  python -m tools.predict clip.mp4 --write overlay --out seen    a video
  python -m tools.predict new --model mine/model.keras --write mask --out to_correct

exit code: 0 all done; 1 some files failed: they are listed at the end, the others are done; 2 nothing was done: wrong
arguments, no such file or model, or no right to write
"""


class UsageError(Exception):
    """What keeps the command from starting, in a sentence."""


class OutputError(Exception):
    """A result that cannot be written, in a sentence: nor can the others."""


@dataclass(frozen=True)
class Job:
    """source: a photo or video. name: that of its results, below OUT's folders and without suffix."""

    source: Path
    name: Path

    @property
    def is_video(self) -> bool:
        return self.source.suffix.lower() in VIDEO_SUFFIXES

    def target(self, out: Path, kind: str) -> Path:
        """Return where its overlay or its mask goes; the masks of a video go into a folder."""
        if kind == "overlay":
            return out / "overlays" / f"{self.name}{'.mp4' if self.is_video else '.jpg'}"
        return out / "masks" / (self.name if self.is_video else f"{self.name}.png")


@dataclass(frozen=True)
class Labeller:
    """predict: from a photo, uint8 (H, W, 3) RGB, to ids, uint8 (H, W). colors: uint8 (C, 3)."""

    predict: Callable
    class_names: tuple
    colors: np.ndarray


# What is to be done -------------------------------------------------------------------------------------


def find_jobs(inputs: list[Path], out: Path) -> list[Job]:
    """Return a job for every photo and video, photos first. Raises UsageError where there are none."""
    found = [(path, path.relative_to(given) if given.is_dir() else Path(path.name))
             for given in inputs for path in (_below(given, out) if given.is_dir() else [given])]
    lost = [path for path, _ in found if not os.path.exists(path)]
    for path in lost:
        if not path.is_symlink():
            raise UsageError(f"{path}: there is no such file or folder.")
        print(f"{path}: skipped, since this link leads to no file.", file=sys.stderr)
    found = [(path, name) for path, name in found if path not in lost]
    if not found:
        raise UsageError(f"{', '.join(map(str, inputs))}: holds no photos ({' '.join(images.PHOTO_SUFFIXES)}) and no "
                         f"videos ({' '.join(VIDEO_SUFFIXES)}).")
    # Some file systems take A.jpg and a.jpg for the same.
    stems = Counter(str(name.with_suffix("")).lower() for _, name in found)
    folders = {str(folder).lower() for _, name in found for folder in name.parents}
    jobs = {}
    for path, name in found:
        shared = stems[str(name.with_suffix("")).lower()] > 1
        # A video's masks get a folder of its name, which must not be that of photos beside it.
        shared |= path.suffix.lower() in VIDEO_SUFFIXES and str(name.with_suffix("")).lower() in folders
        name = name.with_name(f"{name.stem}_{name.suffix[1:]}") if shared else name.with_suffix("")
        other = jobs.setdefault(str(name).lower(), Job(path, name)).source
        if other != path:
            raise UsageError(f"{other} and {path} would both become {name} in {out}: label them one after the other, "
                             "each with its own --out.")
    return sorted(jobs.values(), key=lambda job: job.is_video)


def _below(folder: Path, out: Path) -> Iterator[Path]:
    own = os.path.realpath(out)  # not Path.resolve, which fails on links that lead in a circle
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders
                            if not name.startswith(".") and os.path.realpath(Path(place) / name) != own)
        yield from (Path(place) / name for name in sorted(names) if not name.startswith(".")
                    and Path(name).suffix.lower() in (*images.PHOTO_SUFFIXES, *VIDEO_SUFFIXES))


def check_targets(targets: list[Path], out: Path, force: bool) -> None:
    """Raise UsageError where results would overwrite something, or cannot be written."""
    there = [target for target in targets if target.exists()]
    if there and not force:
        more = f" (and {len(there) - 1} more)" if len(there) > 1 else ""
        raise UsageError(f"{there[0]}{more}: is there already. Give another --out, or --force to replace it.")
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()  # os.access is wrong on Windows and network disks
    except OSError as error:
        raise UsageError(f"--out {out}: cannot be written ({error.strerror}). Choose another folder.") from None


# The model ----------------------------------------------------------------------------------------------


def load_labeller(path: Path | None, tile: int | None) -> Labeller:
    """Open a model and its card. path: a run's folder, a .keras or .weights.h5 file, None for the kept model.

    tile: as in `--tile`. Raises UsageError where there is no model, or a card of another one.
    """
    with _quiet():
        from utils import inference, models
        path = path or models.KEPT_MODEL
        if path.is_dir():
            if not (path / "model.keras").is_file():
                raise UsageError(f"--model {path}: this folder holds no model.keras. Give the folder of a run in which "
                                 "notebook 03 has trained, or a model file.")
            path = path / "model.keras"
        card = path.with_name(f"{path.name.removesuffix('.weights.h5').removesuffix('.keras')}.json")
        if path.name.endswith(".weights.h5") and path.is_file() and not card.is_file():
            raise UsageError(f"--model {path}: needs its card, {card.name}, beside it.")
        try:
            model = models.load(path)
        except (OSError, ValueError) as error:
            raise UsageError(f"--model {error}") from None
    classes, size = model.output_shape[-1], model.input_shape[1:3]
    if any(size):
        raise UsageError(f"--model {path}: takes only photos of {size[1]}x{size[0]} pixels; expected any size.")
    names, colors = _read_card(card, classes)
    if not card.is_file():
        print(f"{card} is not there, so the classes have numbers for names.", file=sys.stderr)

    def predict(image: np.ndarray) -> np.ndarray:
        auto = TILE if max(image.shape) > LARGE else 0
        try:
            return inference.predict(model, image, (auto if tile is None else tile) or None)
        except Exception as error:  # each backend has a kind of its own
            if "RESOURCE_EXHAUSTED" in str(error) or "ResourceExhausted" in type(error).__name__:
                raise MemoryError from None
            raise

    return Labeller(predict, tuple(names), colors)


def _read_card(card: Path, classes: int) -> tuple[list[str], np.ndarray]:
    """Return names and colours, uint8 (C, 3), of a model's classes; raises UsageError for impossible ones."""
    try:
        about = json.loads(card.read_text(encoding="utf-8")) if card.is_file() else {}
        names = about.get("class_names", [f"class {number}" for number in range(classes)])
        colors = about.get("colors", labels.voc_colormap(classes).tolist())
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise UsageError(f"--model: its card {card} cannot be read ({error}). Copy it again from its run, or take "
                         "it away: then the classes have numbers for names.") from None
    if not _has_length(names, classes) or not all(map(_is_name, names)):
        raise UsageError(f"--model: its card {card} has the class_names {str(names)[:80]}; expected {classes} texts "
                         f"of one line and at most {LONGEST} characters.")
    if not _has_length(colors, classes) or not all(map(_is_color, colors)):
        raise UsageError(f"--model: its card {card} has the colors {str(colors)[:80]}; expected {classes} times "
                         "red, green and blue, whole numbers from 0 to 255.")
    return names, np.uint8(colors)


def _has_length(value: object, length: int) -> bool:
    return isinstance(value, list) and len(value) == length


def _is_name(value: object) -> bool:
    return isinstance(value, str) and value.splitlines() == [value] and len(value) <= LONGEST


def _is_color(value: object) -> bool:
    return _has_length(value, 3) and all(type(part) is int and 0 <= part <= 255 for part in value)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep off the screen what TensorFlow's C++ code says as it starts, which no setting silences."""
    sys.stderr.flush()
    screen = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(screen, 2)
        os.close(screen)


# Photos and videos --------------------------------------------------------------------------------------


def label_photo(job: Job, labeller: Labeller, out: Path, kinds: tuple[str, ...]) -> None:
    """Write the results of one photo. Raises `images.ImageError` or FileNotFoundError for one that cannot be read."""
    image = images.read_image(job.source)
    ids = labeller.predict(image)
    if "mask" in kinds:
        with _in_place(job.target(out, "mask")) as path:
            images.write_mask(path, ids, labeller.colors)
    if "overlay" in kinds:
        seen = np.unique(ids)
        legend = draw_legend(image.shape[1], [labeller.class_names[i] for i in seen], labeller.colors[seen])
        with _in_place(job.target(out, "overlay")) as path:
            Image.fromarray(_above(_laid_over(image, ids, labeller.colors), legend)).save(path, quality=92)


def label_video(job: Job, labeller: Labeller, out: Path, kinds: tuple[str, ...]) -> None:
    """Write the results of one video. Raises ValueError where not a frame of it can be read."""
    clip = cv2.VideoCapture(str(job.source))
    expected, rate = int(max(clip.get(cv2.CAP_PROP_FRAME_COUNT), 0)), clip.get(cv2.CAP_PROP_FPS)
    frame, done = clip.read()[1], 0
    if frame is None:
        raise ValueError(f"{job.source}: no frame can be read: it is no video, or damaged, or in a format that OpenCV "
                         "does not know.")
    report = progress.bar(f"{job.source.name}, frames")
    with contextlib.ExitStack() as stack:
        writers = []
        if "overlay" in kinds:
            path = stack.enter_context(_in_place(job.target(out, "overlay")))
            writers.append(stack.enter_context(_video(path, frame.shape, rate, labeller)))
        if "mask" in kinds:
            writers.append(_mask_folder(stack.enter_context(_in_place(job.target(out, "mask"))), labeller))
        while frame is not None:
            image, done = np.ascontiguousarray(frame[..., ::-1]), done + 1
            ids = labeller.predict(image)
            for write in writers:
                write(image, ids)
            frame = clip.read()[1]
            report(done, done if frame is None else max(expected, done + 1))
    if done < expected:
        print(f"{job.source}: only {done} of its {expected} frames can be read.", file=sys.stderr)


@contextlib.contextmanager
def _video(path: Path, shape: tuple, rate: float, labeller: Labeller) -> Iterator[Callable]:
    """Yield a function that adds a frame, uint8 (H, W, 3) RGB, and its ids to a video with a legend of all classes."""
    legend = draw_legend(shape[1], labeller.class_names, labeller.colors)
    height, width = _above(np.zeros(shape, np.uint8), legend).shape[:2]
    even = height % 2, width % 2  # the codec halves the colours' resolution
    size = width + even[1], height + even[0]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), rate if 0 < rate < 1000 else 25, size)
    if not writer.isOpened():
        raise ValueError(f"{path.parent}: OpenCV cannot write a video of {size[0]}x{size[1]} pixels there.")

    def write(image, ids):
        picture = _above(_laid_over(image, ids, labeller.colors), legend)
        writer.write(np.pad(picture, ((0, even[0]), (0, even[1]), (0, 0)), mode="edge")[..., ::-1])

    try:
        yield write
    finally:
        writer.release()


def _mask_folder(folder: Path, labeller: Labeller) -> Callable:
    """Return a function that writes the ids of the next frame into `folder`: 000001.png and so on."""
    folder.mkdir()
    numbers = itertools.count(1)
    return lambda image, ids: images.write_mask(folder / f"{next(numbers):06}.png", ids, labeller.colors)


@contextlib.contextmanager
def _in_place(target: Path) -> Iterator[Path]:
    """Yield a path to write to, and put what is there in the place of `target` when all went well."""
    path = target.with_name(f".{os.getpid()}.{target.name}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield path
        if target.is_dir():
            shutil.rmtree(target)
        os.replace(path, target)
    except OSError as error:
        if error.errno is None:  # not the disk's, but of the encoder, about this picture
            raise
        remedy = "Make room" if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)) else "Mend that"
        raise OutputError(f"{target}: cannot be written ({error.strerror}). {remedy}, then run the same command again "
                          "with --force.") from None
    finally:
        with contextlib.suppress(OSError):  # what went wrong before is what counts
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _laid_over(image: np.ndarray, ids: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """Return `plots.overlay`, computed in strips: as a whole, a large photo would be in memory thirty times."""
    laid = np.empty_like(image)
    for top in range(0, len(image), images.STRIP):
        first = max(top - 1, 0)  # a row more, to see where classes change
        rows = slice(first, top + images.STRIP)
        laid[top:top + images.STRIP] = plots.overlay(image[rows], ids[rows], colors)[top - first:]
    return laid


def draw_legend(width: int, class_names: Sequence[str], colors: np.ndarray) -> np.ndarray:
    """Return a strip, uint8 (h, w, 3), with class names beside their colours; w is `width`, or more for one entry."""
    size = max(12, width // 50)
    font = ImageFont.truetype(font_manager.findfont("DejaVu Sans"), size)
    entries = [int(font.getlength(name)) + 3 * size for name in class_names]
    width, row = max(width, *entries), round(1.7 * size)
    places, x, y = [], 0, 0
    for entry in entries:
        if x + entry > width:
            x, y = 0, y + row
        places.append((x, y))
        x += entry
    strip = Image.new("RGB", (width, y + row), "white")
    draw = ImageDraw.Draw(strip)
    for name, color, (x, y) in zip(class_names, colors.tolist(), places):
        corner = x + size // 2, y + round(0.35 * size)
        draw.rectangle((*corner, corner[0] + size, corner[1] + size), fill=tuple(color), outline="black")
        draw.text((x + 2 * size, y + row // 2), name, fill="black", font=font, anchor="lm")
    return np.asarray(strip)


def _above(picture: np.ndarray, legend: np.ndarray) -> np.ndarray:
    """Return a picture with a legend of at least its width below it."""
    wide = np.full((len(picture), legend.shape[1], 3), 255, np.uint8)
    wide[:, :picture.shape[1]] = picture
    return np.concatenate([wide, legend])


# The command --------------------------------------------------------------------------------------------


def label_all(jobs: list[Job], labeller: Labeller, out: Path, kinds: tuple[str, ...]) -> tuple[int, list[str]]:
    """Do all jobs; return how many were done, and a line for each that failed. Raises OutputError on a full disk."""
    photos = sum(not job.is_video for job in jobs)
    report, failed = progress.bar("photos"), []
    for number, job in enumerate(jobs, 1):
        try:
            (label_video if job.is_video else label_photo)(job, labeller, out, kinds)
        except MemoryError:
            failed.append(f"{job.source}: does not fit into memory. Give a smaller --tile, such as 512.")
        except (OSError, ValueError) as error:
            failed.append(str(error) if str(job.source) in str(error) else f"{job.source}: {error}")
        if not job.is_video:
            report(number, photos)
    return len(jobs) - len(failed), failed


def predict(options: argparse.Namespace) -> int:
    """Label what the options name, say what was done, and return the exit code."""
    kinds, out = KINDS[options.write], options.out
    jobs = find_jobs(options.inputs, out)
    check_targets([job.target(out, kind) for job in jobs for kind in kinds], out, options.force)
    labeller = load_labeller(options.model, options.tile)
    done, failed = label_all(jobs, labeller, out, kinds)
    for kind in kinds if done else ():
        print(f"{kind + 's':<9} {out / (kind + 's')}")
    print(f"{done} of {len(jobs)} done")
    if failed:
        print(f"{len(failed)} failed:", *failed, sep="\n  ", file=sys.stderr)
    return int(bool(failed))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m tools.predict", description=__doc__, epilog=EPILOG,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", metavar="INPUT", nargs="+", type=_path, help="a photo, a video or a folder")
    parser.add_argument("--model", metavar="PATH", type=_path, help="the folder of a run, a model.keras, or a "
                        ".weights.h5 with its card beside it; without it, the small model in results/model, which "
                        "knows the meadow scenes")
    parser.add_argument("--write", metavar="WHAT", choices=KINDS, default="both",
                        help="overlay, mask or both (default)")
    parser.add_argument("--out", metavar="DIR", type=_path, default=Path("predictions"),
                        help="where to write (default: predictions, in the working directory)")
    parser.add_argument("--tile", metavar="PIXELS", type=_tile, help="work photos off in squares of this side, which "
                        "takes less memory and gives the same; 0 for never. Without it, photos with a side over "
                        f"{LARGE} go in squares of {TILE}")
    parser.add_argument("--force", action="store_true", help="replace what is in DIR already, instead of refusing to")
    return parser


def _path(text: str) -> Path:
    if not text.strip():
        raise argparse.ArgumentTypeError("is empty; expected a path. Is a variable of the shell not set?")
    return Path(text).expanduser()


def _tile(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is no side in pixels, such as 1024")
    return int(text)


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code: 0 all done, 1 some failed, 2 nothing done, 130 interrupted."""
    options = _parser().parse_args(argv)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # file names may hold what a terminal cannot show
    try:
        return predict(options)
    except UsageError as error:
        print(error, file=sys.stderr)
        return 2
    except OutputError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted; what was finished is kept.", file=sys.stderr)
        return 130
