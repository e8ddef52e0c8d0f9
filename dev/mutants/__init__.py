"""Faults planted on purpose, one at a time, to see if the tests notice: `python -m dev.mutants`.

A table (`*.toml` beside this file) holds the mutants: `[[mutant]]` with `id`; `file`, and for a
notebook `cell`, the id of the cell; `find`, text that occurs there once, and `replace`; `means`,
what a user would see; `tests`, what pytest is given (for a notebook nbval and, if named, more). A
mutant that changes nothing anybody could see has `equivalent`, the reason.
"""

import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
TABLES = Path(__file__).parent


@dataclass(frozen=True)
class Mutant:
    """One fault. tests: arguments of pytest; equivalent: why no test can notice it, else ""."""

    id: str
    file: str
    find: str
    replace: str
    means: str
    tests: tuple[str, ...]
    cell: str = ""
    equivalent: str = ""


def table(only: str = "") -> list[Mutant]:
    """Return the mutants whose id or file contains `only`; raises ValueError for two of one id."""
    rows = [row for path in sorted(TABLES.glob("*.toml"))
            for row in tomllib.loads(path.read_text("utf-8"))["mutant"]]
    mutants = [Mutant(**{**row, "tests": tuple(row["tests"])}) for row in rows]
    ids = [mutant.id for mutant in mutants]
    twice = sorted({name for name in ids if ids.count(name) > 1})
    if twice:
        raise ValueError(f"two mutants are called {', '.join(twice)}; give each its own id.")
    return [mutant for mutant in mutants if only in mutant.id or only in mutant.file]


def mutate(mutant: Mutant, root: Path = ROOT) -> str:
    """Return the mutant's file with its fault; raises ValueError where `find` is not there once."""
    path = root / mutant.file
    if not mutant.cell:
        return _replaced(mutant, path.read_text("utf-8"))
    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if cell["id"] == mutant.cell]
    if len(cells) != 1:
        raise ValueError(f"{mutant.id}: {mutant.file} has {len(cells)} cells {mutant.cell}, not 1.")
    cells[0].source = _replaced(mutant, cells[0].source)
    return nbformat.writes(notebook)


def _replaced(mutant: Mutant, text: str) -> str:
    count = text.count(mutant.find)
    if count != 1 or mutant.find == mutant.replace:
        raise ValueError(f"{mutant.id}: {mutant.find!r} occurs {count} times in {mutant.file}; "
                         "expected once.")
    return text.replace(mutant.find, mutant.replace)


def copy_files(folder: Path) -> Path:
    """Copy the tracked files, in which one mutant at a time is tried."""
    listed = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT)
    for name in listed.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def run_tests(folder: Path, tests: tuple[str, ...], timeout: float = 600) -> tuple[str, float]:
    """Return the first test in a copy that fails, "" for none, and the seconds."""
    options = ["-x", "-q", "-p", "no:cacheprovider", "--tb=no", "-rfE", "--nbval", *tests]
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(["keras", "nbformat", "cv2"])  # imported once
    begun = time.monotonic()
    with tempfile.NamedTemporaryFile("r", encoding="utf-8") as said:
        process = forks.Process(target=_pytest, args=(folder, options, said.name))
        process.start()
        process.join(timeout)
        if process.is_alive():
            process.kill()
            return "it ran too long", time.monotonic() - begun
        text = said.read()
    failed = [line for line in text.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    where = failed[0].partition(" ")[2] if failed else f"NO TEST RAN: {text[-200:]}"
    return where.partition(" - ")[0] if process.exitcode else "", time.monotonic() - begun


def _pytest(folder: Path, options: list[str], said: str) -> None:
    """Run pytest in a copy, in a process of its own that has Keras imported already."""
    os.environ |= {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    sys.modules.pop("dev", None)  # what runs this is not what is tested
    with open(said, "w", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.exit(pytest.main(options))


def try_out(folder: Path, mutant: Mutant) -> tuple[str, float]:
    """Plant the fault in a copy, run its tests, and put the file back."""
    path = folder / mutant.file
    before = path.read_bytes()
    try:
        path.write_text(mutate(mutant, folder), "utf-8")
        return run_tests(folder, mutant.tests)
    finally:
        path.write_bytes(before)


def run(mutants: list[Mutant], at_once: int) -> list[Mutant]:
    """Try the mutants, `at_once` at a time, print who noticed each, and return the unnoticed."""
    survivors = []
    with (tempfile.TemporaryDirectory(prefix="mutants-") as place,
          ThreadPoolExecutor(at_once) as pool):
        copies = [copy_files(Path(place, str(number))) for number in range(at_once)]

        def work(mutant: Mutant) -> tuple[str, float]:
            copy = copies.pop()
            try:
                return try_out(copy, mutant)
            finally:
                copies.append(copy)

        waiting = {pool.submit(work, mutant): mutant for mutant in mutants}
        for number, future in enumerate(as_completed(waiting), 1):
            mutant, (noticed, seconds) = waiting[future], future.result()
            print(f"{number:3}/{len(mutants)} {seconds:4.0f} s  {mutant.id:36} "
                  f"{noticed or 'NOT NOTICED: ' + mutant.means}", flush=True)
            if not noticed or noticed.startswith("NO TEST RAN"):
                survivors.append(mutant)
    return survivors
