"""Successive halving: twice, the better half of the points trains on, and the others stop.

All train a quarter of their epochs, the better half then half of them, and the better half of those
to the end: half the epochs of the grid. Runs resume where they were stopped.
"""

import contextlib
import json
import math
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from tools.run import RunError
from tools.sweep.grid import Point

LACKING = ("--halving needs a notebook that trains into its run folder with val_mean_iou after "
           "epochs, as 03 does: leave it out.")


def score_at(folder: Path, share: float) -> tuple[int, float] | None:
    """Return the epochs and best val mean IoU of a run that has trained `share` of its epochs.

    They are those up to the first validation from there on, whatever it has trained since.
    """
    with contextlib.suppress(OSError, LookupError, ValueError, zipfile.BadZipFile):
        with np.load(folder / "training" / "state.npz") as state:  # reads these two alone
            history, given = (json.loads(str(state[name])) for name in ("history", "parameters"))
        scored = [row for row in history if row.get("val_mean_iou", -1.0) >= 0]
        end = min(row["epoch"] for row in scored if row["epoch"] >= share * given["epochs"])
        return end, max(row["val_mean_iou"] for row in scored if row["epoch"] <= end)
    return None


def halve(points: Sequence[Point], waiting: Sequence[Point],
          run: Callable) -> Iterator[tuple[Point, str | tuple]]:
    """Yield each point of `waiting` as it ends: see `cluster.results`, or `score_at` if it stopped.

    The other points are finished. run: makes such pairs of points and, as `share`, of their epochs.
    """
    for share in (1 / 4, 1 / 2):
        for point, why in run([p for p in waiting if not score_at(p.folder, share)], share=share):
            if why:
                points = [p for p in points if p != point]
                yield point, why
            elif not score_at(point.folder, share):
                raise RunError(LACKING)
        scores = {p.folder: score_at(p.folder, share) or (0, 0.0) for p in points}
        ranked = sorted(points, key=lambda p: -scores[p.folder][1])
        points = ranked[:math.ceil(len(ranked) / 2)]
        yield from ((p, (share, *scores[p.folder])) for p in ranked[len(points):] if p in waiting)
        waiting = [p for p in waiting if p in points]
    yield from run(waiting)
