"""Label every pixel of your photos and videos with a trained model.

An INPUT is a photo, a video, or a folder: then all photos and videos in and below it. Results have
the names of their inputs: OUT/overlays holds the photos with class colours laid over and a legend
below, OUT/masks palette PNGs (class ids for programs, class colours for people). A video becomes a
video of overlays, without sound, and a folder of masks, one for each frame. Inputs are never
changed.
"""

import argparse
import contextlib
import json
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

from tools import progress
from utils import images, labels, plots

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
LARGE, TILE = 2048, 1024  # pixels: photos with a longer side are processed in tiles of this side
STRIP = 512  # rows that are coloured at a time
KINDS = {"overlay": ("overlay",), "mask": ("mask",), "both": ("overlay", "mask")}
EPILOG = """\
examples:
  python -m tools.predict photo.jpg                          with the model of this repository
  python -m tools.predict holiday --model results/runs/mine  a whole folder, with your run's model
  python -m tools.predict clip.mp4 --write overlay --out seen
  python -m tools.predict new --model mine/model.keras --write mask --out to_correct

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

    def target(self, kind: str) -> Path:
        """Return where in OUT its overlay or mask goes; a video's masks go into a folder."""
        if kind == "overlay":
            return "overlays" / self.name.with_suffix(".mp4" if self.is_video else ".jpg")
        return "masks" / (self.name if self.is_video else self.name.with_suffix(".png"))


@dataclass(frozen=True)
class Labeller:
    """predict: from uint8 (H, W, 3) RGB to ids, uint8 (H, W). colors: uint8 (C, 3)."""

    predict: Callable
    class_names: Sequence[str]
    colors: np.ndarray

    def overlay(self, image: np.ndarray, ids: np.ndarray, classes: Sequence[int]) -> np.ndarray:
        """Return a photo with its classes laid over, and a legend of `classes` below it."""
        names = [self.class_names[number] for number in classes]
        legend = draw_legend(image.shape[1], names, self.colors[classes])
        picture = np.full((len(image) + len(legend), legend.shape[1], 3), 255, np.uint8)
        picture[len(image):] = legend
        # In strips: as a whole, a large photo would be in memory thirty times.
        for top in range(0, len(image), STRIP):
            first = max(top - 1, 0)  # the overlay of a row depends on the row above
            rows = slice(first, top + STRIP)
            laid = plots.overlay(image[rows], ids[rows], self.colors)[top - first:]
            picture[top:top + len(laid), :image.shape[1]] = laid
        return picture


# Jobs ------------------------------------------------------------------------------------------


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


def check_out(jobs: Sequence[Job], out: Path, kinds: Sequence[str], force: bool) -> None:
    """Raise UsageError where results would overwrite something, or cannot be written."""
    targets = [out / job.target(kind) for job in jobs for kind in kinds]
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


# The model -------------------------------------------------------------------------------------


def load_labeller(path: Path | None, tile: int | None) -> Labeller:
    """Open a model and its card; raises UsageError where one of them cannot be used.

    path: a run's folder, a .keras or .weights.h5 file, None for the kept model. tile: see --tile.
    """
    with _silent_start():
        from utils import inference, models

        path = path or models.KEPT_MODEL
        if path.is_dir():
            path = path / "model.keras"
            if not path.is_file():
                raise UsageError(f"--model {path.parent}: this folder holds no model.keras. Give "
                                 "the folder of a run of notebook 03, or a model file.")
        stem = path.name.removesuffix(".weights.h5").removesuffix(".keras")
        card = path.with_name(f"{stem}.json")
        if path.name.endswith(".weights.h5") and path.is_file() and not card.is_file():
            raise UsageError(f"--model {path}: needs its card, {card.name}, beside it.")
        try:
            model = models.load(path)
        except (OSError, ValueError) as error:
            raise UsageError(f"--model {error}") from None
    if any(model.input_shape[1:3]):
        height, width = model.input_shape[1:3]
        raise UsageError(f"--model {path}: takes photos of {width}x{height} pixels; expected any.")
    names, colors = _read_card(card, model.output_shape[-1])

    def predict(image: np.ndarray) -> np.ndarray:
        side = tile
        if tile is None:
            side = TILE if max(image.shape) > LARGE else 0
        try:
            return inference.predict(model, image, side or None)
        except Exception as error:  # each backend has its own kind
            if "RESOURCE_EXHAUSTED" in str(error) or "ResourceExhausted" in type(error).__name__:
                raise MemoryError from None
            raise

    return Labeller(predict, names, colors)


def _read_card(card: Path, classes: int) -> tuple[list[str], np.ndarray]:
    """Return names and colours, uint8 (C, 3), of a model's classes, numbers without a card."""
    if not card.is_file():
        print(f"{card} is not there, so the classes have numbers for names.", file=sys.stderr)
        return [f"class {number}" for number in range(classes)], labels.voc_colormap(classes)
    try:
        about = json.loads(card.read_text(encoding="utf-8"))
        names, colors = about["class_names"], np.asarray(about["colors"])
        whole = (colors.shape, colors.dtype.kind) == ((classes, 3), "i")
        if not whole or (colors != colors.clip(0, 255)).any():
            raise ValueError(f"colors must be {classes} times red, green and blue, 0 to 255")
        if not isinstance(names, list) or len(names) != classes or not all(map(_is_line, names)):
            raise ValueError(f"class_names must be {classes} texts of one line")
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise UsageError(f"--model: its card {card} cannot be used: {error}. Copy it again from "
                         "its run, or remove it: the classes are then numbered.") from None
    return names, np.uint8(colors)


def _is_line(value: object) -> bool:
    return isinstance(value, str) and value.splitlines() == [value]


@contextlib.contextmanager
def _silent_start() -> Iterator[None]:
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


# Photos and videos -----------------------------------------------------------------------------


def label(job: Job, labeller: Labeller, out: Path, kinds: Sequence[str]) -> None:
    """Write the results of a photo or video, all or none. Raises OSError or ValueError."""
    with tempfile.TemporaryDirectory(prefix=".", dir=out) as place:
        made = {kind: Path(place) / kind / job.target(kind).name for kind in kinds}
        for path in made.values():
            path.parent.mkdir()
        (label_video if job.is_video else label_photo)(job.source, labeller, made)
        for kind, path in made.items():
            target = out / job.target(kind)
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.is_dir():
                shutil.rmtree(target)
            os.replace(path, target)


def label_photo(source: Path, labeller: Labeller, made: dict[str, Path]) -> None:
    """Write the results of one photo to the paths in `made`: kind -> path."""
    image = images.read_image(source)
    ids = labeller.predict(image)
    if "mask" in made:
        images.write_mask(made["mask"], ids, labeller.colors)
    if "overlay" in made:
        picture = labeller.overlay(image, ids, np.unique(ids))
        Image.fromarray(picture).save(made["overlay"], quality=92)


def label_video(source: Path, labeller: Labeller, made: dict[str, Path]) -> None:
    """Write the results of one video to the paths in `made`: a video, and a folder of masks."""
    clip, writer = cv2.VideoCapture(str(source)), None
    expected, rate = int(clip.get(cv2.CAP_PROP_FRAME_COUNT)), clip.get(cv2.CAP_PROP_FPS)
    if "mask" in made:
        made["mask"].mkdir()
    report, done = progress.bar(f"{source.name}, frames"), 0
    while (frame := clip.read()[1]) is not None:
        image, done = np.ascontiguousarray(frame[..., ::-1]), done + 1
        ids = labeller.predict(image)
        if "mask" in made:
            images.write_mask(made["mask"] / f"{done:06}.png", ids, labeller.colors)
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


def draw_legend(width: int, class_names: Sequence[str], colors: np.ndarray) -> np.ndarray:
    """Return a strip, uint8 (h, w, 3), of colours and names; w is `width`, or more for one name."""
    size = max(12, width // 50)
    font = ImageFont.truetype(font_manager.findfont("DejaVu Sans"), size)
    cell = 3 * size + max(int(font.getlength(name)) for name in class_names)
    row, columns = 2 * size, max(1, width // cell)
    rows = -(-len(class_names) // columns)
    strip = Image.new("RGB", (max(width, cell), rows * row), "white")
    draw = ImageDraw.Draw(strip)
    for number, (name, color) in enumerate(zip(class_names, colors.tolist())):
        x, y = number % columns * cell + size // 2, number // columns * row + size // 2
        draw.rectangle((x, y, x + size, y + size), fill=tuple(color), outline="black")
        draw.text((x + 3 * size // 2, y + size // 2), name, fill="black", font=font, anchor="lm")
    return np.asarray(strip)


# The command -----------------------------------------------------------------------------------


def label_all(jobs: Sequence[Job], labeller: Labeller, out: Path,
              kinds: Sequence[str]) -> list[str]:
    """Do all jobs; return a line for each that failed."""
    photos = sum(not job.is_video for job in jobs)
    report, failed = progress.bar("photos"), []
    for number, job in enumerate(jobs, 1):
        try:
            label(job, labeller, out, kinds)
        except MemoryError:
            failed.append(f"{job.source}: does not fit into memory. Give a smaller --tile, such as "
                          "512.")
        except (OSError, ValueError) as error:
            failed.append(str(error) if str(job.source) in str(error) else f"{job.source}: {error}")
        if not job.is_video:
            report(number, photos)
    return failed


def predict(options: argparse.Namespace) -> int:
    """Label what the options name, print what was done, and return the exit code."""
    kinds, out = KINDS[options.write], options.out
    jobs = find_jobs(options.inputs, out, kinds)
    check_out(jobs, out, kinds, options.force)
    failed = label_all(jobs, load_labeller(options.model, options.tile), out, kinds)
    if len(failed) < len(jobs):
        for kind in kinds:
            print(f"{kind + 's':<9} {out / (kind + 's')}")
    print(f"{len(jobs) - len(failed)} of {len(jobs)} done")
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
    parser.add_argument("--write", metavar="WHAT", choices=KINDS, default="both",
                        help="overlay, mask or both (default)")
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
    except UsageError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nInterrupted; what was finished is kept.", file=sys.stderr)
        return 130
