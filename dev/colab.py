"""Renew requirements/colab.txt: what ours need of Google Colab's packages, at its versions.

`python -m dev.colab FILE` reads Colab's list (`pip freeze` of a runtime) from a file, solves our
ranges under it with uv for Colab's Python, and writes the pins; it fails where no versions fit.
"""

import re
import subprocess
import sys
from pathlib import Path

REQUIREMENTS = Path(__file__).resolve().parents[1] / "requirements"
PYTHON = "3.13"
HEAD = """# Google Colab's versions of what ours need (Python {python}), from `python -m dev.colab`.
# `make test-colab` installs these, and the newest of everything else.
"""


def name(line: str) -> str:
    """Return the normalized package name of a line `name==version`."""
    return re.sub(r"[-_.]+", "-", line.partition("==")[0].strip()).lower()


def main(freeze: Path) -> int:
    """Write the pins; returns 1 where nothing fits."""
    published = {name(line) for line in freeze.read_text("utf-8").splitlines() if "==" in line}
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--python-version", PYTHON,
               "--no-header", "--no-annotate", "--constraints", freeze,
               REQUIREMENTS / "core.txt", REQUIREMENTS / "extra.txt"]
    solved = subprocess.run(command, capture_output=True, text=True)
    if solved.returncode:
        print(solved.stderr, file=sys.stderr)
        return 1
    # What builds the repository's own package is not what runs the notebooks.
    needed = [line for line in solved.stdout.splitlines()
              if name(line) in published and name(line) != "setuptools"]
    text = HEAD.format(python=PYTHON) + "\n".join(needed) + "\n"
    (REQUIREMENTS / "colab.txt").write_text(text, "utf-8")
    print(f"{len(needed)} of Colab's {len(published)} packages are needed here")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
