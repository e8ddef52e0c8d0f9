"""Set up a virtual environment with everything the notebooks need: ``python tools/set_up.py``.

Runs before anything is installed, so it uses the standard library alone. What is up to date is left
as it is, so that a second call takes a fraction of a second.
"""
from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "requirements"
OLDEST, NEWEST = (3, 11), (3, 13)
RECORD = "fcn32-set-up.json"


class SetUpError(Exception):
    """Set-up cannot continue; the message is the sentence the user reads."""


def check_python(version: tuple[int, int], name: str, remedy: str = "install one of these and "
                 "name it: make run PYTHON=python3.13") -> None:
    """Raise SetUpError unless ``version``, found in ``name``, is one the notebooks run on."""
    if not OLDEST <= tuple(version) <= NEWEST:
        raise SetUpError(f"{name} is Python {version[0]}.{version[1]}, but the notebooks need "
                         f"Python 3.11, 3.12 or 3.13: {remedy}.")


def venv_python(venv: Path) -> Path:
    """The path of the Python program inside the virtual environment ``venv``."""
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def run(*command: str | Path, quiet: bool = False) -> subprocess.CompletedProcess:
    """Run a command in an empty folder, so that nothing is imported from here by chance."""
    pipe = subprocess.PIPE if quiet else None
    with tempfile.TemporaryDirectory() as folder:
        return subprocess.run(list(map(str, command)), cwd=folder, text=True, stdout=pipe,
                              stderr=pipe)


def make_venv(venv: Path) -> Path:
    """Create ``venv``, or repair it where its Python or pip is missing, and return its Python."""
    python = venv_python(venv)
    if python.exists():
        found = run(python, "-c", "import sys; print(*sys.version_info[:2])", quiet=True)
        if found.returncode == 0:
            version = tuple(map(int, found.stdout.split()))
            check_python(version, str(venv), "remove that folder and run this again")
            if run(python, "-c", "import pip", quiet=True).returncode == 0:
                return python
    check_python(sys.version_info[:2], sys.executable)
    if importlib.util.find_spec("ensurepip") is None:  # Debian and Ubuntu leave it out
        raise SetUpError("This Python cannot make virtual environments; on Debian or Ubuntu: "
                         f"sudo apt install python3.{sys.version_info[1]}-venv")
    say(f"creating {venv.name} with Python {sys.version.split()[0]}")
    made = run(sys.executable, "-m", "venv", venv, quiet=True)
    if made.returncode:
        raise SetUpError(f"{sys.executable} could not create {venv}: "
                         f"{last_line(made.stderr or made.stdout)}")
    return python


def get_uv(python: Path) -> bool:
    """Put uv, several times faster than pip, into the environment; False if unavailable."""
    if run(python, "-m", "uv", "--version", quiet=True).returncode == 0:
        return True
    lock = (REQUIREMENTS / "extra.lock").read_text("utf-8")
    with tempfile.TemporaryDirectory() as folder:
        entry = Path(folder) / "uv.txt"  # its version and hashes
        entry.write_text(re.search(r"(?m)^uv==.*(?:\n[ \t]+.*)*", lock)[0] + "\n", "utf-8")
        return run(python, "-m", "pip", "install", "--quiet", "--require-hashes", "-r", entry,
                   quiet=True).returncode == 0


def install(python: Path, uv: bool, *arguments: str | Path) -> None:
    """Install with uv, or with pip where uv is missing or fails (it ignores pip's settings)."""
    quiet = [] if sys.stderr.isatty() else ["--quiet"]
    if uv:
        # Compiled once here, as pip does: under PYTHONDONTWRITEBYTECODE, common in containers,
        # every start of TensorFlow would otherwise take 23 s instead of 7.
        options = [*quiet, "--compile-bytecode", "--python", python]
        if run(python, "-m", "uv", "pip", "install", *options, *arguments).returncode == 0:
            return
        say("uv failed, see above; trying again with pip")
    options = [*quiet, "--disable-pip-version-check"]
    if run(python, "-m", "pip", "install", *options, *arguments).returncode:
        raise SetUpError("Not everything could be installed, see the lines above: check the "
                         "network and the free disk space, then run the same command again.")


def requirements(name: str, versions: str) -> list[str]:
    """What the installer is given for ``name``, "core" or "extra".

    "locked" means exactly the lock file, with its hashes; "newest" and "lowest" the ends of the
    ranges (the lowest by uv alone); "colab" Google Colab's versions, and the newest that fit them.
    """
    if versions == "locked":
        return ["--require-hashes", "-r", str(REQUIREMENTS / f"{name}.lock")]
    options = {"colab": ["-c", str(REQUIREMENTS / "colab.txt")], "newest": ["--upgrade"],
               "lowest": ["--resolution", "lowest-direct", "setuptools>=77"]}
    return ["-r", str(REQUIREMENTS / f"{name}.txt"), *options[versions]]


def fix_opencv(python: Path, uv: bool) -> None:
    """Replace opencv-python by its headless twin where libraries of its windows are missing."""
    tried = run(python, "-c", "import cv2", quiet=True)
    if tried.returncode == 0:
        return
    found = re.search(r"(lib[^\s:]+\.so[.\d]*): cannot open shared object", tried.stderr)
    asked = "from importlib.metadata import version; print(version('opencv-python'))"
    version = run(python, "-c", asked, quiet=True).stdout.strip()
    if not found or not version:
        raise SetUpError(f"`import cv2` fails: {last_line(tried.stderr)}. If it misses a system "
                         "library, install that (Debian or Ubuntu: sudo apt install libgl1 "
                         "libglib2.0-0).")
    say(f"this machine has no {found[1]}, which only OpenCV's windows need: replacing "
        f"opencv-python with opencv-python-headless {version}")
    # Both wheels own the folder cv2, so both are removed before one is installed.
    run(python, "-m", "pip", "uninstall", "--quiet", "--yes", "opencv-python",
        "opencv-python-headless", quiet=True)
    install(python, uv, "--no-deps", f"opencv-python-headless=={version}")
    tried = run(python, "-c", "import cv2", quiet=True)
    if tried.returncode:
        raise SetUpError(f"`import cv2` still fails: {last_line(tried.stderr)}")


def check_utils(python: Path) -> None:
    """Raise SetUpError where `import utils` would find another package of that name."""
    found = run(python, "-c", "import utils; print(utils.__file__)", quiet=True)
    if found.returncode or Path(found.stdout.strip()).resolve().parent != ROOT / "utils":
        raise SetUpError(f"`import utils` finds {found.stdout.strip() or last_line(found.stderr)}, "
                         f"not {ROOT / 'utils'}: uninstall it, or unset PYTHONPATH, and run this "
                         "again.")


def fingerprint(name: str, versions: str) -> str:
    """A digest of all that decides what is installed for ``name``, and where ROOT is."""
    digest = hashlib.sha256(f"{ROOT} {versions}".encode())
    for file in ("colab.txt", f"{name}.txt", f"{name}.lock", "../pyproject.toml"):
        digest.update((REQUIREMENTS / file).read_bytes())
    return digest.hexdigest()


def set_up(venv: Path, extra: bool = False, versions: str = "locked") -> None:
    """Bring ``venv`` up to date: core, this repository (editable), with ``extra`` the rest."""
    started, python, record = time.monotonic(), make_venv(venv), venv / RECORD
    done = json.loads(record.read_text("utf-8") or "{}") if record.exists() else {}
    wanted = ["core", "extra"] if extra else ["core"]
    stale = [name for name in wanted if done.get(name) != fingerprint(name, versions)]
    if not stale:
        return
    record.unlink(missing_ok=True)  # written at the end: an install that breaks off has no record
    uv = get_uv(python)
    for name in stale:
        say(f"installing {name} ({versions} versions) with {'uv' if uv else 'pip'}")
        install(python, uv, *requirements(name, versions))
        done[name] = fingerprint(name, versions)
    # The environment's own setuptools builds it, so that nothing comes from outside the lock.
    install(python, uv, "--no-deps", "--no-build-isolation", "-e", ROOT)
    fix_opencv(python, uv)
    check_utils(python)
    record.write_text(json.dumps(done, indent=1) + "\n", "utf-8")
    say(f"done in {time.monotonic() - started:.0f} s")


def last_line(text: str) -> str:
    """The last line of ``text`` that is not blank: of a traceback, the error itself."""
    return ([line.strip() for line in text.splitlines() if line.strip()] or ["no message"])[-1]


def say(text: str) -> None:
    print(f"set-up: {text}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--venv", type=Path, default=".venv",
                        help="folder to install into (default: .venv)")
    parser.add_argument("--extra", action="store_true",
                        help="also install what tests, sweeps and exports need")
    parser.add_argument("--versions", choices=["locked", "newest", "lowest", "colab"],
                        default="locked", help="the lock file's (default), the newest or lowest of "
                        "the ranges, or Google Colab's")
    arguments = parser.parse_args()
    try:
        set_up((ROOT / arguments.venv).resolve(), arguments.extra, arguments.versions)
    except SetUpError as error:
        sys.exit(f"set-up: {error}")


if __name__ == "__main__":
    main()
