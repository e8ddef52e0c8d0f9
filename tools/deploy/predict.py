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
import functools
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tools import progress, tiff
from tools.deploy.labeller import LARGE, TILE, Labeller, UsageError, load_labeller
from tools.deploy.products import (compare, label_photo, label_video, read_areas, report_scores,
                                   write_areas)
from utils import images

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
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
        suffixes = {"overlay": ".jpg", "mask": ".tif" if self.georeference else ".png"}
        if self.is_video:
            suffixes = {"overlay": ".mp4", "mask": self.name.suffix, "confidence": self.name.suffix}
        return FOLDERS[kind] / self.name.with_suffix(suffixes.get(kind, ".png"))


def find_jobs(inputs: Sequence[Path], skip: Sequence[Path], kinds: Sequence[str]) -> list[Job]:
    """Return a job for every photo and video, photos first. Raises UsageError if none is found."""
    jobs = []
    for given in inputs:
        if not given.exists():
            raise UsageError(f"{given}: there is no such file or folder.")
        files, folder = [given], given.parent
        if given.is_dir():
            files, folder = _files_below(given, skip), given
        jobs += [Job(path, path.relative_to(folder)) for path in files]
    if not jobs:
        raise UsageError(f"{', '.join(map(str, inputs))}: holds no photos "
                         f"({' '.join(images.PHOTO_SUFFIXES)}) and no videos "
                         f"({' '.join(VIDEO_SUFFIXES)}).")
    taken = {}
    for job, target in ((job, job.target(kind)) for job in jobs for kind in kinds):
        other = taken.setdefault(str(target).lower(), job.source)  # on some disks A.jpg is a.jpg
        if other != job.source:
            raise UsageError(f"{other} and {job.source} would both become {target}: label them "
                             "one after the other, each with another --out.")
    return sorted(dict.fromkeys(jobs), key=lambda job: job.is_video)


def _files_below(folder: Path, skip: Sequence[Path] = ()) -> Iterator[Path]:
    left = {*map(os.path.realpath, skip)}  # Path.resolve fails on links that lead in a circle
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".")
                            and os.path.realpath(Path(place) / name) not in left
                            and not Path(place, name, "areas.csv").exists())  # earlier results
        for path in (Path(place) / name for name in sorted(names)):
            wanted = path.suffix.lower() in (*images.PHOTO_SUFFIXES, *VIDEO_SUFFIXES)
            if wanted and not path.name.startswith(".") and os.path.exists(path):
                yield path


def find_truths(jobs: Sequence[Job], folder: Path) -> dict[Job, Path]:
    """Return the true masks of photos: in `folder`, with the photo's path or name, any suffix."""
    masks = {path.relative_to(folder).with_suffix(""): path
             for path in _files_below(folder) if path.suffix not in VIDEO_SUFFIXES}
    photos = [job for job in jobs if not job.is_video]
    truths = {job: masks.get(job.name.with_suffix(""), masks.get(Path(job.name.stem)))
              for job in photos}
    without = [job.source for job in photos if not truths[job]]
    if len(without) == len(photos):
        raise UsageError(f"--truth {folder}: holds no mask that has the name of a photo.")
    if len({*truths.values()} - {None}) < len(photos) - len(without):
        raise UsageError(f"--truth {folder}: photos of one name would share a mask: put the masks "
                         "into folders that are called like those of the photos.")
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


def predict(options: argparse.Namespace) -> int:
    """Label what the options name, print what was done, and return the exit code."""
    kinds, out, done = options.write, options.out, {}
    if not 0 <= options.min_confidence <= 1:
        raise UsageError(f"--min-confidence {options.min_confidence}: expected 0 to 1.")
    skip = [out, *(out / name for name in FOLDERS.values()), options.truth or out]
    jobs = find_jobs(options.inputs, skip, kinds)
    truths = find_truths(jobs, options.truth) if options.truth else {}
    targets = [out / job.target(kind) for job in jobs for kind in kinds]
    if truths:
        targets.append(out / "scores.json")
    read = {os.path.realpath(path) for path in (*truths.values(), *(job.source for job in jobs))}
    for target in targets:
        if os.path.realpath(target) in read:
            raise UsageError(f"{target} is read, and would be replaced: give another --out.")
    check_out(targets, out, options.force)
    labeller = load_labeller(options.model, options.tile, options.flip, options.min_confidence)
    header = ["photo", "width", "height", *labeller.class_names, "void"]
    read_areas(out / "areas.csv", header, options.force)
    try:
        failed, confusion = label_all(jobs, labeller, out, kinds, truths, done)
    finally:
        if done:
            rows = read_areas(out / "areas.csv", header, options.force)  # others may add, too
            write_areas(out / "areas.csv", {**rows, **done})
    if truths:
        (out / "scores.json").unlink(missing_ok=True)
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
    parser.add_argument("inputs", metavar="INPUT", nargs="+", type=a_path,
                        help="a photo, a video or a folder")
    parser.add_argument("--model", metavar="PATH", type=a_path, help="the folder of a run, a "
                        "model.keras, or a .weights.h5 with its card beside it; without it, the "
                        "small model in results/model, which knows the meadow scenes")
    parser.add_argument("--write", metavar="WHAT", type=some_of(FOLDERS), default="overlay,mask",
                        help="some of overlay,mask,confidence; default: overlay,mask")
    parser.add_argument("--min-confidence", metavar="P", type=float, default=0.0,
                        help="pixels whose best class has a probability below P, 0 to 1, become "
                        "void: 255 in masks, clear in overlays. Scores count their best class")
    parser.add_argument("--truth", metavar="DIR", type=a_path, help="score photos with the true "
                        "masks in DIR that have their names")
    parser.add_argument("--flip", action="store_true", help="average the probabilities of a photo "
                        "and of its mirror image: takes twice the time, is a little better")
    parser.add_argument("--out", metavar="DIR", type=a_path, default=Path("predictions"),
                        help="where to write (default: predictions, in the working directory)")
    parser.add_argument("--tile", metavar="PIXELS", type=_tile, help="process photos in tiles of "
                        "this side, which takes less memory and gives the same; 0 for never. "
                        f"Default: tiles of {TILE} for photos with a side over {LARGE}")
    parser.add_argument("--force", action="store_true",
                        help="replace what is in DIR already, instead of refusing to")
    return parser


def a_path(text: str) -> Path:
    """An argparse type: a path, and no empty one; ~ is the home folder."""
    if not text.strip():
        raise argparse.ArgumentTypeError("is empty; expected a path. Is a shell variable not set?")
    return Path(os.path.expanduser(text))  # Path's own raises for ~ and an unknown user


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
