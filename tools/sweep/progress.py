"""What a sweep tells while it runs, and in which words it says that a point failed."""

import json
import re
import shutil
import sys
import time
from collections.abc import Collection
from pathlib import Path
from statistics import fmean

from tools.run import duration
from tools.sweep.grid import Point

SECONDS = 10.0  # from one report to the next, where lines pile up


class Progress:
    """The lines of a sweep: one for each point that ends, and what the running ones do.

    A terminal shows the latter in its last line, rewritten; elsewhere they get a line each when something has changed,
    every ten seconds at most.
    """

    def __init__(self, total: int, names: list[str]):
        self.total, self.names, self.live = total, names, sys.stdout.isatty()
        self.ended, self.lasted, self.reported = 0, [], time.monotonic()
        self.told: list[str] = []
        self.running: dict[str, dict] = {}  # folder -> label, when it started, its worker and what that does now

    def begin(self, point: Point) -> None:
        """Note that a point is on its way to a worker."""
        self.running[str(point.folder)] = {"label": point.label(self.names), "start": time.monotonic(), "worker": "",
                                           "now": "starts"}

    def event(self, event: tuple[float, dict]) -> None:
        """Take what `sweep_point.run_point` tells of a point; called from Dask's thread."""
        state, line = self.running.get(event[1]["folder"]), event[1].get("line", "")
        if state is None:
            return
        if "begins" in event[1]:
            state |= {"worker": event[1]["begins"], "now": "starts"}
        elif found := re.match(r"\[\d+/\d+\] (\d+|\S+)", line):
            state["now"] = f"notebook {found[1]}"
        elif line.startswith("    epoch "):
            state["now"] = f"{state['now'].partition(',')[0]}, {' '.join(line.split())}"

    def end(self, point: Point, text: str) -> None:
        """Say in a line of its own how a point ended."""
        state = self.running.pop(str(point.folder), None)
        self.ended += 1
        seconds = ""
        if state:
            self.lasted.append(time.monotonic() - state["start"])
            seconds = f", {duration(self.lasted[-1])}"
        self._line(f"[{self.ended}/{self.total}] {point.label(self.names)}  {text}{seconds}")

    def show(self, waiting: int, workers: Collection[str]) -> None:
        """Show what the running points do, and say when one has lost its worker. workers: addresses of those there."""
        states = list(self.running.values())
        for state in states:
            if state["worker"] and state["worker"] not in workers:
                self._line(f"{state['label']}: its worker {state['worker']} was lost, and the next free one takes over")
                state |= {"worker": "", "now": "waits for a worker"}
        if self.live:
            parts = [f"{state['label']}: {state['now']}" for state in states]
            line = " | ".join([self._counts(waiting, len(workers)), *parts])
            width = shutil.get_terminal_size().columns - 1
            print(f"\r{line[:width]:<{width}}", end="", flush=True)
        elif time.monotonic() - self.reported > SECONDS:
            told, self.told = self.told, [self._counts(waiting, len(workers)),
                                          *(f"    {state['label']}: {state['now']}" for state in states)]
            for line in self.told:
                if line not in told:
                    self._line(line)
            self.reported = time.monotonic()

    def _counts(self, waiting: int, workers: int) -> str:
        counts = f"{self.ended} of {self.total} done, {len(self.running)} running"
        if not workers:
            return f"{counts}; no worker is left, waiting for one"
        if not self.lasted:
            return counts
        left = (waiting + len(self.running) / 2) * fmean(self.lasted) / workers
        return f"{counts}, about {duration(left)} left"

    def _line(self, text: str) -> None:
        width = shutil.get_terminal_size().columns - 1
        print(f"\r{'':<{width}}\r" * self.live + text, flush=True)
        self.reported = time.monotonic()


def reason(folder: Path, code: int, lines: list[str]) -> str:
    """Return why the process of a point failed, in a sentence with its notebook and cell; "" if it did not.

    code, lines: its exit code and what it printed.
    """
    if not code:
        return ""
    text = "\n".join(lines)
    if failed := re.search(r"(?m)^Notebook (\S+) failed in (.+):$", text):
        parts = [part for part in text[failed.end():].split("\n\n") if part.strip() and not part.startswith("  ")]
        return f"notebook {failed[1]}, {failed[2]}: {parts[0].strip().splitlines()[0]}"
    if code < 0:
        return f"{_running(folder)}: its process was killed (signal {-code}); often the machine ran out of memory"
    last = lines[-1:] if "Traceback" in text else text.rpartition("\n\n")[2].split()
    return " ".join(last) or f"its process ended with exit code {code}"


def _running(folder: Path) -> str:
    """Return which notebook and cell a killed run was in, as far as its files tell."""
    try:
        notebooks = json.loads((folder / "run.json").read_text(encoding="utf-8"))["notebooks"]
        stem = next(stem for stem, entry in notebooks.items() if entry["status"] == "running")
        cells = json.loads((folder / f"{stem}.ipynb").read_text(encoding="utf-8"))["cells"]
        states = [cell["metadata"].get("papermill", {}).get("status") for cell in cells if cell["cell_type"] == "code"]
        return f"notebook {stem}, cell {states.index('running') + 1} of {len(states)}"
    except (OSError, ValueError, LookupError, StopIteration):
        return "before its first notebook"
