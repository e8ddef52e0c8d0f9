"""Download a published data set, check it, and bring it into VOC's layout in data/NAME.

The same command resumes a broken download. FCN_DATA_DIR names another folder than data/.
"""

import argparse
import sys

from tools.fetch import fetch
from tools.fetch.sources import SOURCES
from utils import datasets


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code: 0 it is there, 1 it is not, 130 interrupted."""
    parser = argparse.ArgumentParser("python -m tools.fetch", description=__doc__)
    parser.add_argument("name", metavar="NAME", help=f"one of {', '.join(SOURCES)}")
    parser.add_argument("--from", dest="given", default="", metavar="FOLDER_OR_ARCHIVE",
                        help="make it from this copy, as published, instead of downloading it")
    options = parser.parse_args(argv)
    try:
        folder = fetch(options.name, options.given)
        splits = datasets.load_dataset(options.name, folder).splits
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted; the same command resumes the download.", file=sys.stderr)
        return 130
    counts = ", ".join(f"{split} {len(samples)}" for split, samples in splits.items())
    print(f"{options.name}: {counts}, in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
