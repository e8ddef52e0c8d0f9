"""What came out of a sweep: a leaderboard as CSV, as a figure and as text."""

import csv
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean

from matplotlib.figure import Figure

from tools.run import duration
from tools.sweep.grid import Point
from utils import plots, runs

SCORE = "mean_iou"
UNSCORED = {"split": "", "scores": {}}
SHOWN = 30  # rows that a figure has room for


def leaderboard(points: Iterable[Point], unfinished: dict[Path, str | tuple],
                names: list[str]) -> list[dict]:
    """Return a dict per point, best mean IoU first; of halving, those that trained longest first.

    point: its folder's name. parameters: the values of `names`. split, scores: see `metrics`; empty
    if it failed. seconds: of all its notebooks. status: "finished", the reason that `unfinished`
    gives for its folder, or "stopped after 2 epochs" where that gives epochs and mean IoU.
    """
    rows, trained = [], {}
    for point in points:
        why = unfinished.get(point.folder, "finished")
        share, found = (1, metrics(point.folder)) if why == "finished" else (0, UNSCORED)
        if isinstance(why, tuple):
            share, epochs, score = why
            found = {"split": "val", "scores": {SCORE: score}}
            why = f"stopped after {epochs} epochs"
        entries = runs.read_json(point.folder / "run.json").get("notebooks", {}).values()
        rows.append({"point": point.folder.name,
                     "parameters": {name: point.parameters.get(name) for name in names},
                     "seconds": round(sum(entry.get("seconds", 0) for entry in entries), 1),
                     "status": why, **found})
        trained[point.folder.name] = share
    return sorted(rows, key=lambda row: (-trained[row["point"]], -row["scores"].get(SCORE, -1.0)))


def metrics(folder: Path) -> dict[str, object]:
    """Return the split and the scores, those that are numbers, of a folder's metrics.json."""
    found = UNSCORED | runs.read_json(folder / "metrics.json")  # a notebook need not score
    numbers = {name: float(value) for name, value in found["scores"].items()
               if isinstance(value, (int, float))}
    return {"split": found["split"], "scores": numbers}


def has_failed(row: dict) -> bool:
    """Return whether a point was neither finished nor, with a score, stopped."""
    return row["status"] != "finished" and not row["scores"]


def headline(row: dict) -> str:
    """Return how a point ended: "mean IoU 0.431 on val"."""
    if SCORE not in row["scores"]:
        return f"FAILED: {row['status']}" if has_failed(row) else "finished"
    stopped = f"{row['status']}: " if row["status"] != "finished" else ""
    return f"{stopped}mean IoU {row['scores'][SCORE]:.3f}{_on([row])}"


def _on(rows: Iterable[dict]) -> str:
    """Return " on val" if all rows were scored on val; "" if they differ or do not say."""
    splits = {row["split"] for row in rows if row["scores"]}
    return f" on {min(splits)}" if len(splits) == 1 and splits != {""} else ""


def write_csv(rows: list[dict], path: Path) -> None:
    """Write a leaderboard as a table with a head line; scores that a row lacks are left empty."""
    scores = (name for row in rows for name in row["scores"])
    columns = ["point", *rows[0]["parameters"], "split", *scores, "seconds", "status"]
    with open(path, "w", encoding="utf-8", newline="") as file:
        # Each column once: split may also be a parameter that is swept over.
        writer = csv.DictWriter(file, dict.fromkeys(columns), extrasaction="ignore")
        writer.writeheader()
        writer.writerows(row["parameters"] | row["scores"] | row for row in rows)


def table(rows: list[dict]) -> str:
    """Return a leaderboard as text: its split, a line per point, then what failed, and why."""
    finished = [row for row in rows if not has_failed(row)]
    scores = dict.fromkeys(name for row in finished for name in row["scores"])
    cells = [["", *rows[0]["parameters"], *(name.replace("_", " ") for name in scores), "time", ""]]
    for rank, row in enumerate(finished, 1):
        found = [f"{row['scores'][name]:.3f}" if name in row["scores"] else "" for name in scores]
        cells.append([f"{rank}.", *map(str, row["parameters"].values()), *found,
                      duration(row["seconds"]), row["status"].removeprefix("finished")])
    widths = [max(map(len, column)) for column in zip(*cells)]
    lines = ["  ".join(map(str.rjust, line, widths)).rstrip() for line in cells]
    ranked = [f"ranked by mean IoU{_on(finished)}", *lines] if finished else []
    failed = [f"{row['point']}: {row['status']}" for row in rows if has_failed(row)]
    return "\n".join(ranked + failed)


def figure(rows: list[dict]) -> Figure:
    """Draw mean IoU, best first: a dot per run, and a row for runs that differ only in the seed."""
    groups: dict[str, list[float]] = {}
    for row in rows:
        label = "  ".join(f"{name}={value}" for name, value in row["parameters"].items()
                          if name != "seed")
        if row["status"] == "finished" and SCORE in row["scores"]:
            groups.setdefault(label or "all", []).append(row["scores"][SCORE])
    best = sorted(groups.items(), key=lambda group: -fmean(group[1]))[:SHOWN]
    made = Figure(figsize=(7.2, 0.34 * len(best) + 1.0), layout="constrained")
    axis = made.subplots()
    for place, (_, values) in enumerate(best):
        # One above the other, so that equal scores stay visible.
        heights = [place + 0.6 * ((i + 0.5) / len(values) - 0.5) for i in range(len(values))]
        axis.scatter(values, heights, s=40, color=plots.BLUE, alpha=0.7, linewidth=0, zorder=3)
        axis.scatter(fmean(values), place, marker="|", s=260, color="black", linewidth=2, zorder=4)
    axis.set_yticks(range(len(best)), [label for label, _ in best], fontsize=9)
    axis.set_ylim(len(best) - 0.5, -0.5)
    axis.set_xlabel(f"mean IoU{_on(rows)}: a dot per run, a bar at their mean")
    axis.grid(axis="x", alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    return made
