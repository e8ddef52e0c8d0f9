"""Measure how fast this project is, beside what people use otherwise: results/bench.json.

Each section runs in a separate process, and alone where you like: `python -m dev.bench scores`.
Both sides of a row take turns in one run on one machine, after a warm-up that is not counted; rows
hold medians, with the smallest and largest of all repeats. A ratio above 1 is in our favour. Rows
of sections that are not run stay as they were measured before.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from utils import runs

FILE = runs.ROOT / "results" / "bench.json"


def row(name: str, unit: str, ours: list[float], baseline: list[float] = (), target: str = "",
        better: str = "lower") -> dict[str, object]:
    """Return a row of the table.

    ours, baseline: measurements in `unit`. target: such as "ratio >= 3" or "<= 0.5", which the
    ratio or ours is compared with. better: "lower" or "higher".
    """
    mine, other, ratio, met, other_range = median(ours), None, None, None, None
    if baseline:
        other, other_range = median(baseline), [min(baseline), max(baseline)]
        ratio = other / mine if better == "lower" else mine / other
    if target:
        relation, bound = target.removeprefix("ratio ").split()
        value = ratio if target.startswith("ratio") else mine
        met = value <= float(bound) if relation == "<=" else value >= float(bound)
    return {"name": name, "unit": unit, "ours": mine, "baseline": other, "ratio": ratio,
            "target": target, "met": met, "ours_range": [min(ours), max(ours)],
            "baseline_range": other_range, "repeats": len(ours)}


def take_turns(repeats: int, *sides: Callable[[], object]) -> list[list[float]]:
    """Return the seconds that each side's calls took: one call each not counted, then by turns."""
    seconds = [[] for _ in sides]
    for turn in range(repeats + 1):
        for side, found in zip(sides, seconds):
            start = time.perf_counter()
            side()
            if turn:
                found.append(time.perf_counter() - start)
    return seconds


def line(found: dict[str, object]) -> str:
    """Return a row as text."""
    def number(value):
        return "" if value is None else f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"

    low, high = map(number, found["ours_range"])
    verdict = {None: "", True: "met", False: "missed"}[found["met"]]
    return (f"{found['name']:<58}{number(found['ours']):>8} ({low} to {high}) {found['unit']:<10}"
            f"{number(found['baseline']):>9}{number(found['ratio']):>8}x  "
            f"{found['target']:<12} {verdict}")


def _one_after_another(names, options):
    """Measure each section in a process of its own, so that none has the memory of others."""
    given = ["--repeats", str(options.repeats), "--out", str(options.out)]
    failed = [name for name in names
              if subprocess.run([sys.executable, "-m", "dev.bench", name, *given]).returncode]
    if failed:
        print(f"these sections failed, and their rows are as they were: {', '.join(failed)}",
              file=sys.stderr)
    return int(bool(failed))


def main(argv: list[str] | None = None) -> int:
    from dev.bench import sections as bench_sections

    parser = argparse.ArgumentParser(prog="python -m dev.bench", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    sections = list(bench_sections.SECTIONS)
    parser.add_argument("sections", nargs="*", metavar="SECTION",
                        help=f"of {', '.join(sections)}; default: all")
    parser.add_argument("--repeats", type=int, default=5, help="of all but trainings (default 5)")
    parser.add_argument("--out", type=Path, default=FILE, help="default: results/bench.json")
    options = parser.parse_args(argv)
    unknown = [name for name in options.sections if name not in sections]
    if unknown:
        parser.error(f"there is no section {', '.join(unknown)}; "
                     f"expected some of {', '.join(sections)}.")
    names = options.sections or sections
    if len(names) > 1:
        return _one_after_another(names, options)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    name, section = names[0], bench_sections.SECTIONS[names[0]]
    before = json.loads(options.out.read_text("utf-8")) if options.out.is_file() else []
    rows = [old for old in before if old["section"] != name]
    print(f"\n{name}: {section.__doc__.splitlines()[0]}", flush=True)
    for measured in section(options):
        rows.append({"section": name, **measured, "machine": runs.machine(),
                     "versions": runs.versions()})
        print(line(rows[-1]), flush=True)
    rows.sort(key=lambda old: [*sections, old["section"]].index(old["section"]))
    runs.write_json(options.out, rows)
    print(f"\nwrote {options.out}")
    return 0
