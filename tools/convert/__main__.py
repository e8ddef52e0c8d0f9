"""Turn your own photos and labels into the one layout that everything here reads (VOC's), once.

SOURCE is a folder or .zip: photos and masks (also of Roboflow, labelme2voc, Supervisely or
Cityscapes), CVAT's "Segmentation mask 1.1" or "CVAT for images 1.1", COCO instances, YOLO
segmentation, or labelme's JSON files; its files tell which. TARGET becomes a folder for `--dataset
voc --data-dir TARGET`: photos, palette masks, split lists, class names. SOURCE is never changed.
Faults are counted, the first 20 listed, and nothing is written where there is one.
"""

import argparse
import re
import sys

from tools.convert import convert
from tools.convert.base import UsageError
from utils.labels import VOID

EPILOG = """examples:
  python -m tools.convert photos_and_masks data/mine
  python -m tools.convert photos_and_masks data/mine --classes background,horse --map 255=1
  python -m tools.convert export.zip data/mine --images uploaded_photos
  python -m tools.convert frames data/mine --group '(clip\\d+)_'    frames of a clip stay together
  python -m tools.convert cityscapes data/streets --masks gtFine --mask-suffix _gtFine_labelIds
  python -m tools.convert export.zip data/mine --rename cow=animal --rename horse=animal
  python -m tools.convert data/mine to_correct --to labelme         correct masks in labelme
"""


def _parser():
    parser = argparse.ArgumentParser("python -m tools.convert", description=__doc__, epilog=EPILOG,
                                     formatter_class=argparse.RawDescriptionHelpFormatter,
                                     allow_abbrev=False)
    add = parser.add_argument
    add("source", metavar="SOURCE", help="folder or .zip; it is not changed")
    add("target", metavar="TARGET", help="folder to make")
    add("--format", default="", help="folder, cvat (masks), cvat-images, coco, yolo or "
        "labelme; without it the files tell")
    add("--to", default="voc", help="voc (default), or labelme: JSON files to correct in labelme")
    add("--tolerance", type=float, default=0.0, metavar="PIXELS", help="to labelme: simpler "
        "outlines that may be off by so much (default 0: exact; 1 is easier to edit)")
    add("--classes", default="", metavar="FILE", help="classes, one a line: NAME, NAME R G B, ID "
        "NAME R G B, R G B NAME or CVAT's labelmap.txt; or names with commas between. Without it: "
        "SOURCE's classes.txt or the like")
    add("--images", default="", metavar="FOLDER", help="photos, in SOURCE or elsewhere")
    add("--masks", default="", metavar="FOLDER", help="masks, in SOURCE or elsewhere")
    add("--mask-suffix", default="", metavar="TEXT",
        help="take masks whose names end so, such as _gtFine_labelIds")
    add("--mask-prefix", default="", metavar="TEXT", help="take masks whose names begin so")
    add("--rename", action="append", default=[], metavar="NAME=NEW",
        help="give a class another name; classes of one name become one class")
    add("--max-side", type=int, default=0, metavar="PIXELS", help="shrink larger photos and their "
        "masks, so that the longer side has so many pixels")
    add("--map", action="append", default=[], metavar="ID=CLASS",
        help="ids in the masks that become other classes, such as 255=1,100=2")
    add("--void", action="append", default=[], metavar="ID|NAME",
        help="ids or class names that become void (left out of training and scores), such as "
        "0,unlabelled. 255 and classes called void or ignore are it anyway")
    add("--binary", action="store_true", help="masks show one thing in white on black, JPEG or "
        "smoothed too: 128 and brighter is foreground")
    add("--missing", default="", metavar="WHAT", help="photos without a mask: skip (leave out) or "
        "background (they show none of the classes); without it they are faults, or skipped where "
        "the labels are outlines")
    add("--ignore-exif", action="store_true",
        help="masks belong to the photos as stored, not as turned by EXIF tags")
    add("--val", type=float, metavar="FRACTION",
        help="photos to validate on, where SOURCE has no splits (default 0.2)")
    add("--test", type=float, metavar="FRACTION",
        help="photos to test on, where SOURCE has no splits (default 0)")
    add("--seed", type=int, default=0,
        help="of the draw, which gives each split its share of every class (default 0)")
    add("--group", default="", metavar="REGEX", help="keep photos in one split if REGEX matches "
        "the same text in their names (with folders, without suffix; the text of group 1 if there "
        r"is one), such as '(clip\d+)_' for frames of one clip. Roboflow's copies NAME.rf.HASH and "
        "equal photos stay together anyway")
    add("--skip-faulty", action="store_true",
        help="leave faulty photos out instead of converting nothing")
    return parser


def _pairs(option, texts, pattern, expected):
    """Return {"cow": "animal"} for ["cow=animal"]."""
    pairs = [re.fullmatch(rf"\s*({pattern})\s*=\s*({pattern})\s*", text) for text in texts]
    if None in pairs:
        raise UsageError(f"--{option} {texts[pairs.index(None)]}: expected {expected}.")
    return dict(pair.groups() for pair in pairs)


def main(argv=None):
    """Run the command and return its exit code: 0 done, 1 faults in the data, 2 wrong arguments."""
    options = vars(_parser().parse_args(argv))
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # file names may hold what a terminal cannot show
    try:
        ids = [pair for text in options.pop("map") for pair in text.split(",") if pair]
        ids = _pairs("map", ids, r"\d+", f"ids from 0 to {VOID}, such as --map 255=1,100=2")
        options["id_map"] = {int(one): int(other) for one, other in ids.items()}
        options["rename"] = _pairs("rename", options["rename"], ".+?", "NAME=NEW: cow=animal")
        words = [word.strip() for text in options["void"] for word in text.split(",")]
        options["void"] = [word for word in words if word]
        done = convert(**options, progress=True)
    except ValueError as error:
        print(f"\n{error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except OSError as error:
        print(f"\n{error}; nothing was written.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted: nothing was written.", file=sys.stderr)
        return 130
    target = f'"{done.target}"' if " " in done.target else done.target
    commands = (f"python -m tools.check {target}",
                f"python -m tools.run --dataset voc --data-dir {target}")
    if options["to"] == "labelme":
        commands = (f"labelme {target} --labels {target}/labels.txt",
                    f"python -m tools.convert {target} CORRECTED")
    print(f"\n{options['source']} read as {done.format}\n{done}\n\nNext:", *commands, sep="\n  ")
    return 0


if __name__ == "__main__":
    sys.exit(main())
