"""Read a whole data set once and say what is wrong with it: which file, what was found, what to do.

With an error, training would fail, or learn or score something wrong. A warning is worth a look; a
note needs no action. Nothing is changed.
"""

import argparse
import shutil
import sys

from tools import progress
from tools.check import shares, survey, table, verdict
from utils import datasets

EPILOG = """\
examples:
  python -m tools.check my_photos                  a folder in VOC layout, or one above it
  python -m tools.check ~/CamVid --dataset camvid  a copy of a published data set
  python -m tools.check --dataset meadow           the scenes that come with the repository

exit code: 0 training can start (there may be warnings), 1 it would go wrong, 2 no such data set
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code: see --help; 130 interrupted."""
    parser = argparse.ArgumentParser("python -m tools.check", description=__doc__, epilog=EPILOG,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("data_dir", metavar="DATA_DIR", nargs="?", default="", help="the data set's folder")
    add("--dataset", metavar="NAME",
        help=f"one of {', '.join(datasets.NAMES)} (with DATA_DIR: voc)")
    arguments = parser.parse_args(argv)
    if not arguments.data_dir and not arguments.dataset:
        parser.error("which data set? Give its folder, or --dataset NAME")
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # file names may hold what a terminal cannot show
    try:
        dataset = datasets.find_dataset(arguments.dataset or "voc", arguments.data_dir)
        report = survey(dataset, progress.bar("reading pairs"))
    except (OSError, ValueError) as error:
        print(f"{error}\nFor a published data set add --dataset NAME; python -m tools.convert "
              "turns other folders into VOC's layout.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nInterrupted; nothing was changed.", file=sys.stderr)
        return 130
    print(f"{dataset.root}\n")
    if report.problems:
        width = shutil.get_terminal_size((110, 0)).columns
        print(f"{table(report.problems, dataset.root, max(width, 80))}\n")
    print(f"{shares(dataset, report)}\n\n{verdict(report.problems)}")
    return int(any(problem.severity == "error" for problem in report.problems))


if __name__ == "__main__":
    sys.exit(main())
