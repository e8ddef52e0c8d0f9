"""Turn your own photos and labels into the one layout that everything here reads (VOC's), once.

SOURCE is a folder of photos and masks, an export of CVAT ("Segmentation mask 1.1", folder or .zip), or a folder of
labelme's JSON files. TARGET becomes a folder for `--dataset voc --data-dir TARGET`: photos, palette masks, split
lists, class names. SOURCE is never changed. Faults are counted, the first 20 listed, and nothing is
written where there is one.
"""

import argparse
import os
import shutil
import sys
import zipfile
import zlib
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from tools.convert.base import (SPLITS, Options, UsageError, files_below, list_faults, nearest,
                                plural, some)
from tools.convert.folder import IMAGE_FOLDERS, MASK_FOLDERS, folders_called, read_cvat, read_folder
from tools.convert.labelme import read_labelme
from tools.convert.split import check_pattern, check_splits, split_samples
from tools.convert.write import write_lists, write_record, write_samples
from utils.images import Problem
from utils.labels import VOID

READERS = {"folder": read_folder, "cvat": read_cvat, "labelme": read_labelme}
EXAMPLES = """examples:
  python -m tools.convert photos_and_masks data/mine
  python -m tools.convert photos_and_masks data/mine --classes background,horse --map 255=1
  python -m tools.convert export.zip data/mine --images uploaded_photos
  python -m tools.convert labelled data/mine --val 0.15 --test 0.15
  python -m tools.convert frames data/mine --group '(clip\\d+)_'    frames of one clip in one split
  python -m tools.convert data/mine to_correct --to labelme     then: labelme to_correct --labels to_correct/labels.txt
"""


@dataclass
class Conversion:
    """What `convert` did.

    pixels, images: per class and, last, for void. splits: split -> number of photos. drawn: which
    splits were drawn, how, with which seed, from how many photos in how many groups; empty where
    the source has them all.
    """

    source: Path
    target: Path
    format: str
    class_names: tuple
    pixels: list
    images: list
    splits: dict
    skipped: list = field(default_factory=list)
    notes: list = field(default_factory=list)
    drawn: dict = field(default_factory=dict)

    def __str__(self):
        total = max(1, sum(self.pixels))
        rows = [f"{name:<24}{100 * pixels / total:>9.2f} %{images:>9}"
                for name, pixels, images in zip([*self.class_names, "void"], self.pixels, self.images)]
        splits = ", ".join(f"{split} {count}" for split, count in self.splits.items())
        return "\n".join([*(f"- {note}" for note in self.notes), "", f"{'class':<24}{'pixels':>11}{'images':>9}", *rows,
                          "", f"splits: {splits}", f"written to {self.target}"])


def convert(source, target, format="", to="voc", val=None, test=None, seed=0, group="",
            skip_faulty=False, tolerance=0.0, progress=False, **options):
    """Convert `source` into the folder `target`, in one piece or not at all, and return a `Conversion`.

    source: folder or .zip. target: a folder that does not exist yet, or is empty. format: "folder", "cvat" or
    "labelme"; "" guesses. to: "voc", or "labelme" for JSON files to correct in labelme, whose outlines may then leave
    the mask's by `tolerance` pixels (0: exact). val, test: fractions of the photos, 0.2 and 0 by default, drawn with
    `seed`, stratified by class, where the source has no splits. group: a regular expression; photos
    stay in one split if it matches the same text in their names. skip_faulty: leave faulty photos
    out. progress: show it.
    options: see `tools.convert.base.Options`.
    Raises UsageError, a ValueError, for wrong arguments; ValueError that counts the faults and
    lists the first; OSError if writing fails.
    """
    source, target = Path(source).expanduser(), Path(target).expanduser()
    options = Options(**options)
    _check_arguments(source, target, format, to, tolerance, val, test, seed, options)
    check_pattern(group)
    part = target.absolute().with_name(f".{target.absolute().name}.{os.getpid()}.part")
    unpacked = part / ".source"
    try:
        (part / ".work").mkdir(parents=True)
        root = _opened(source, unpacked)
        format = format or _guess(root)
        found = READERS[format](root, options)
        _check_samples(found, options, root)
        check_splits(found.samples, val, test, group)
        results = write_samples(found, part, to, tolerance, progress)
        faults = found.faults + [result for result in results if isinstance(result, Problem)]
        kept = [pair for pair in zip(found.samples, results) if not isinstance(pair[1], Problem)]
        kept.sort(key=lambda pair: pair[0].stem)
        if found.questions or (faults and not skip_faulty) or not kept:
            raise ValueError(_report(source, found.questions, faults))
        samples = [sample for sample, _ in kept]
        counts = np.array([written.pixels for _, written in kept])
        _check_shown(counts.sum(axis=0) > 0, found.class_names, to)
        found.notes += _remarks(format, found, samples, faults)
        how = {"val": val, "test": test, "seed": seed, "group": group}
        photos = [written.photo for _, written in kept]
        splits, drawn = split_samples(samples, counts[:, :-1] > 0, photos, found.class_names, how,
                                      found.notes)
        done = Conversion(str(source), str(target), format, found.class_names, counts.sum(axis=0).tolist(),
                          (counts > 0).sum(axis=0).tolist(), {split: len(stems) for split, stems in splits.items()},
                          [str(fault).replace(str(unpacked), str(source)) for fault in faults],
                          found.notes, drawn)
        write_lists(part, to, found, splits)
        settings = asdict(options) | {"to": to, **how}
        write_record(part / "conversion.json", asdict(done), settings, samples)
        _put_in_place(part, target, [part / ".work", unpacked])
    except ValueError as error:
        kind = UsageError if isinstance(error, UsageError) else ValueError
        raise kind(str(error).replace(str(unpacked), str(source))) from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return done


def _put_in_place(part, target, scraps):
    for folder in scraps:
        shutil.rmtree(folder, ignore_errors=True)
    if target.is_dir():
        target.rmdir()
    os.replace(part, target)


# Before ---------------------------------------------------------------------------------------------------


def _check_arguments(source, target, format, to, tolerance, val, test, seed, options):
    if not source.is_dir() and source.suffix.lower() != ".zip":
        raise UsageError(f"{source}: {'is no folder and no .zip' if source.exists() else 'there is no such folder'}. "
                         "Give the folder with your photos and labels, or a .zip of it.")
    if not source.exists():
        raise UsageError(f"{source}: there is no such file.")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"{target}: is there already, and not empty. Choose another TARGET, or delete it first.")
    if target.resolve().is_relative_to(source.resolve()):
        raise UsageError(f"{target}: lies inside {source}, which is never changed. Choose a TARGET outside it.")
    for option, name, names in (("--format", format, ["folder", "cvat", "labelme"]), ("--to", to, ["voc", "labelme"]),
                                ("--missing", options.missing, ["skip", "background"])):
        if name and name not in names:
            raise UsageError(f"{option} {name}: there is no such choice{nearest(name, names)}")
    for option, value in (("--val", val), ("--test", test)):
        if not 0 <= (value or 0) < 1:
            raise UsageError(f"{option} {value}: expected a fraction of the photos, such as 0.2.")
    if (0.2 if val is None else val) + (test or 0) >= 1:
        raise UsageError("--val and --test together leave no photos to train on.")
    for option, value in (("--tolerance", tolerance), ("--seed", seed)):
        if value < 0:
            raise UsageError(f"{option} {value}: expected 0 or more.")
    if large := [word for word in options.void if word.isdecimal() and int(word) > VOID]:
        raise UsageError(f"--void {large[0]}: expected ids from 0 to {VOID}, or names of classes.")


def _opened(source, folder):
    """Return the folder to read: `source`, or its zip unpacked into `folder`, or the one folder that these hold."""
    root = source
    if source.is_file():
        root = folder
        try:
            with zipfile.ZipFile(source) as archive:
                outside = [name for name in archive.namelist() if ".." in Path(name).parts or Path(name).is_absolute()]
                if outside:
                    raise ValueError(f"{source}: holds {outside[0]!r}, which leads out of its folder; not unpacked.")
                archive.extractall(root)
        except (zipfile.BadZipFile, RuntimeError, zlib.error, EOFError) as error:
            raise ValueError(f"{source}: cannot be unpacked as .zip ({error}). Give a folder or a .zip.") from None
    while True:
        inside = [path for path in root.iterdir() if not path.name.startswith((".", "__MACOSX"))]
        known = (*IMAGE_FOLDERS, *MASK_FOLDERS, *SPLITS)
        if len(inside) != 1 or not inside[0].is_dir() or inside[0].name.lower() in known:
            return root
        root = inside[0]


def _guess(root):
    """Return the format of a folder; ValueError, with what to do, for formats that are known and not read here."""
    if (root / "labelmap.txt").is_file() and (root / "SegmentationClass").is_dir():
        return "cvat"
    if folders_called(root, MASK_FOLDERS):
        return "folder"
    for file in files_below(root, (".json", ".xml")):
        text = file.read_text(encoding="utf-8", errors="replace")
        if file.suffix.lower() == ".json" and '"shapes"' in text:
            return "labelme"
        if '"segmentation"' in text or "<annotations>" in text:
            raise ValueError(f"{file}: is {'COCO' if file.suffix == '.json' else 'CVAT'}'s list of outlines, which is "
                             "not read here. Export from your tool as masks, in CVAT as 'Segmentation mask 1.1'.")
    return "folder"


def _check_samples(found, settings, root):
    """Refuse what the samples as a whole do not allow; mark those that would get the same name."""
    if not found.samples and not found.faults:
        raise ValueError(f"{root}: found no photos with labels. {'; '.join(found.notes)}")
    beyond = [f"{a}={b}" for a, b in settings.id_map.items() if not (0 <= b < len(found.class_names) or b == VOID)]
    if beyond and found.class_names and not found.questions:
        raise UsageError(f"--map {beyond[0]}: there are the classes 0 to {len(found.class_names) - 1} "
                         f"({some(found.class_names)}), and {VOID} for void.")
    stems = {}
    for sample in found.samples:
        stems.setdefault(sample.stem.lower(), []).append(sample)
    for same in (same for same in stems.values() if len(same) > 1):
        for sample, other in zip(same, same[1:] + same[:1]):
            sample.fault = sample.fault or Problem(str(sample.file), f"would get the name {sample.stem}, as "
                                                   f"{other.file} would.", "Rename one of them.")


def _check_shown(shown, class_names, to):
    """Refuse masks that show nothing to learn. shown: bool (C + 1,), void last."""
    seen = np.flatnonzero(shown[:-1]).tolist()
    if to == "voc" and shown[-1] and (not seen or (seen == [0] and len(class_names) > 1)):
        names = " and ".join([*(class_names[i] for i in seen), "void"])
        raise ValueError(f"all masks together show nothing but {names}, so there is nothing to "
                         "learn. Check --void and --map, or label something else, too.")


def _remarks(format, found, samples, faults):
    """Return notes on faulty photos, those without a mask and those that their EXIF tag turns."""
    empty = [sample for sample in samples if sample.label is None]
    unsure = [sample for sample in samples if sample.unsure and format != "labelme"]
    notes = [f"{plural(len(empty), 'photo')} without a mask taken for nothing but {found.class_names[0]}"] * bool(empty)
    if faults:
        notes.append(f"left out: {plural(len(faults), 'fault')}, see skipped in conversion.json")
    if unsure:
        notes.append(f"EXIF tags turn {plural(len(unsure), 'photo')}, such as {unsure[0].file.name}, and sizes do not "
                     "tell whether the masks are turned, too: look at them; if not, see --ignore-exif")
    return notes


def _report(source, questions, faults):
    """Return what is wrong, in one text: questions, the number of faults, and the first ones."""
    lines = [f"{source} cannot be converted as it is, and nothing was written."]
    lines += [f"\n{question}" for question in questions]
    if faults:
        lines += [f"\n{plural(len(faults), 'fault')}:", list_faults(faults),
                  "\nFix them, or leave those files out with --skip-faulty."]
    return "\n".join(lines)


# The command ----------------------------------------------------------------------------------------------


def _id_map(texts):
    """Return {255: 1, 100: 2} for ["255=1,100=2"]."""
    pairs = [pair.partition("=") for text in texts for pair in text.split(",") if pair]
    for one, _, other in pairs:
        if not (one.strip().isdecimal() and other.strip().isdecimal() and max(int(one), int(other)) <= VOID):
            raise UsageError(f"--map {one}={other}: expected ids from 0 to {VOID}, such as --map 255=1,100=2.")
    return {int(one): int(other) for one, _, other in pairs}


def _parser():
    parser = argparse.ArgumentParser("python -m tools.convert", description=__doc__, epilog=EXAMPLES,
                                     formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    add = parser.add_argument
    add("source", metavar="SOURCE", help="folder or .zip; it is not changed")
    add("target", metavar="TARGET", help="folder to make")
    add("--format", default="", metavar="NAME", help="folder, cvat or labelme; guessed without it")
    add("--to", default="voc", metavar="NAME", help="voc (default), or labelme: JSON files to correct in labelme")
    add("--tolerance", type=float, default=0.0, metavar="PIXELS",
        help="to labelme: simpler outlines that may be off by so much (default 0: exact; 1 is easier to edit)")
    add("--classes", default="", metavar="FILE", help="classes, one a line: NAME, NAME R G B, ID NAME R G B, R G B "
        "NAME or CVAT's labelmap.txt; or names with commas between. Without it: SOURCE's classes.txt or the like")
    add("--images", default="", metavar="FOLDER", help="photos, in SOURCE or elsewhere")
    add("--masks", default="", metavar="FOLDER", help="masks, in SOURCE or elsewhere")
    add("--mask-suffix", default="", metavar="TEXT", help="take masks whose names end so, such as "
        "_gtFine_labelIds")
    add("--map", action="append", default=[], metavar="ID=CLASS", help="ids in the masks that become other classes, "
        "such as 255=1,100=2")
    add("--void", action="append", default=[], metavar="ID|NAME", help="ids or class names that become void "
        "(left out of training and scores), such as 0,unlabelled. 255 and classes called void or ignore are it anyway")
    add("--binary", action="store_true", help="masks show one thing in white on black, JPEG or smoothed too: 128 and "
        "brighter is foreground")
    add("--missing", default="", metavar="WHAT", help="photos without a mask: skip (leave out) or background (they "
        "show none of the classes); without it they are faults, or in labelme's case skipped")
    add("--ignore-exif", action="store_true", help="masks belong to the photos as stored, not as turned by EXIF tags")
    add("--val", type=float, metavar="FRACTION", help="photos to validate on, where SOURCE has no splits (default 0.2)")
    add("--test", type=float, metavar="FRACTION", help="photos to test on, where SOURCE has no splits (default 0)")
    add("--seed", type=int, default=0, help="of the draw, which gives each split its share of "
        "every class (default 0)")
    add("--group", default="", metavar="REGEX", help="keep photos in one split if REGEX matches "
        "the same text in their names (with folders, without suffix; the text of group 1 if there "
        r"is one), such as '(clip\d+)_' for frames of one clip. Roboflow's copies NAME.rf.HASH and "
        "equal photos stay together anyway")
    add("--skip-faulty", action="store_true", help="leave faulty photos out instead of converting nothing")
    return parser


def main(argv=None):
    """Run the command and return its exit code: 0 done, 1 faults in the data, 2 wrong arguments, 130 interrupted."""
    options = vars(_parser().parse_args(argv))
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # file names may hold what a terminal cannot show
    try:
        options["id_map"] = _id_map(options.pop("map"))
        options["void"] = tuple(word.strip() for text in options["void"] for word in text.split(",") if word.strip())
        done = convert(**options, progress=True)
    except ValueError as error:
        print(f"\n{error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except OSError as error:
        source = Path(options["source"]).expanduser().resolve()
        reading = error.filename and Path(error.filename).resolve().is_relative_to(source)
        print(f"\n{error.filename} could not be read ({error.strerror}); nothing was written." if reading else
              f"\n{options['target']} could not be written ({error}), and nothing was left behind.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted: nothing was written.", file=sys.stderr)
        return 130
    print(f"\n{options['source']} read as {done.format}\n{done}\n\nNext:\n  {_next(done, options['to'])}")
    return 0


def _next(done, to):
    target = f'"{done.target}"' if " " in done.target else done.target
    if to == "labelme":
        return f"labelme {target} --labels {target}/labels.txt\n  python -m tools.convert {target} CORRECTED"
    return f"python -m tools.check {target}\n  python -m tools.run --dataset voc --data-dir {target}"
