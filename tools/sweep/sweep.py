"""Run notebooks once for each point of a parameter grid, several at a time, and rank the results.

Each point is a run of its own, as `python -m tools.run` makes it: a process, a folder with notebooks, model and scores,
and a training that resumes. Dask hands the points to workers: to a local cluster, or to any other by its scheduler's
address. The same command again keeps what is finished. A point that fails is reported and stops no other; one whose
worker is lost is run again elsewhere. The sweep's folder gets a leaderboard, best mean IoU first: leaderboard.csv and
leaderboard.png.

Points are scored on the validation split: you choose by these scores, and a test split that chose
is used up. With --test the best point alone is scored on test, once, at the end.
"""

import argparse
import contextlib
import filecmp
import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from tools.execute import RunError, short
from tools.run import (check_data, find_data, find_notebooks, fingerprint, is_finished, named_folder,
                       take_parameters)
from tools.run import run as run_notebooks
from tools.sweep import board as sweep_board
from tools.sweep import cluster as sweep_cluster
from tools.sweep import grid as sweep_grid
from tools.sweep.grid import Point
from tools.sweep.progress import Progress
from utils import runs

DEFAULT = ("03", "04")
LIMIT = 200  # points that a sweep may have unless somebody says that it is meant
EPILOG = """\
examples:
  python -m tools.sweep -p learning_rate=1e-3,3e-3 -p seed=0,1,2 -p epochs=10 --name rates
  python -m tools.sweep rates.yaml                                 the same, from a file
  python -m tools.sweep --dataset camvid --data-dir ~/CamVid -p stride=32,16,8 -p seed=0..2 --test
  python -m tools.sweep rates.yaml --scheduler tcp://10.0.0.1:8786 --run-dir /shared/rates

a file:
  notebooks: [03, 04]
  grid:                      # every combination; a single value is the same for all
    learning_rate: [1e-3, 3e-3]
    seed: [0, 1, 2]
    epochs: 10
  points:                    # may be left out; each with every combination of the grid
    - {image_size: 128, batch_size: 16}
    - {image_size: 256, batch_size: 4}

other machines: run `dask scheduler` on one of them and `dask worker ADDRESS --nthreads 1` on each, in an environment
with this repository installed, and sweep into a folder that all of them see under the same path.

exit code: 0 all points have finished, 1 one has failed or the sweep was refused, 130 interrupted
"""


def sweep(grid: dict[str, object], points: Iterable[dict] = (), notebooks: Iterable[str | Path] = DEFAULT,
          folder: str | Path = "", scheduler: str = "", workers: int = 0,
          timeout: int | None = None, limit: int = LIMIT) -> list[dict]:
    """Run notebooks once per point of a grid, and return the leaderboard: a dict per point, best mean IoU first.

    grid: parameter -> value or list of values; all combinations are run. points: mappings of parameters, each of which
    is combined with the grid. notebooks: numbers, stems or paths. folder: the sweep's, as in `runs.run_folder`, with a
    run folder per point in it. scheduler: address of a Dask scheduler; "" starts a cluster on this machine, of
    `workers` processes, or of as many as cores and memory allow. timeout: seconds that a cell may
    take. limit: more points are refused. Points are scored on val where nobody gives another
    `split`. Raises RunError where the sweep cannot start, or loses its scheduler; a point that
    fails has the reason as its `status`.
    """
    if workers < 0:
        raise RunError(f"--workers is {workers}; expected at least 1, or 0 for as many as the machine can take.")
    if timeout is not None and timeout < 1:
        raise RunError(f"--timeout is {timeout}; expected seconds, 1 or more. Without --timeout a "
                       "cell may take as long as it needs.")
    paths = find_notebooks(str(name) for name in notebooks)
    points = sweep_grid.plan(paths, sweep_grid.combine(grid, points, limit))
    for name, data_dir in sorted({(point.parameters["dataset"], point.parameters["data_dir"])
                                  for point in points
                                  if {"dataset", "data_dir"} <= point.parameters.keys()}):
        check_data(find_data(name, data_dir)[0])
    folder = runs.choose_folder(folder)
    is_new = not folder.exists()
    try:
        runs.run_folder(folder)
        points = [replace(point, folder=folder / point.folder) for point in points]
        with runs.lock(folder):
            return _sweep(points, paths, folder, scheduler, workers, timeout)
    except (OSError, RuntimeError) as error:
        raise RunError(str(error)) from None
    finally:
        if is_new:
            _remove_unused(folder)


def _remove_unused(folder: Path) -> None:
    """Remove the folder of a sweep that was refused: it holds nothing but a lock and its mark."""
    with contextlib.suppress(OSError):
        if {path.name for path in folder.iterdir()} <= {".lock", "run.json"}:
            shutil.rmtree(folder)


def require_test(grid: dict[str, object], points: Iterable[dict], limit: int = LIMIT) -> None:
    """Raise RunError where a data set of the sweep has no test split."""
    given = [runs.DEFAULTS | assignment for assignment in sweep_grid.combine(grid, points, limit)]
    for name, data_dir in sorted({(one["dataset"], one["data_dir"]) for one in given}):
        dataset, _ = find_data(name, data_dir)
        try:
            dataset.split("test")
        except ValueError as error:
            raise RunError(f"--test: {error}") from None


def score_test(rows: list[dict], folder: str | Path, timeout: int | None = None) -> dict:
    """Run notebook 04 for the best point of a leaderboard on the test split, and return the scores.

    rows: what `sweep` returned. folder: the sweep's. What 04 makes goes into the folder `test` of
    the point. Raises RunError where the point has no score or no model, or 04 fails.
    """
    best = Path(folder) / rows[0]["point"]
    if sweep_board.SCORE not in rows[0]["scores"]:
        raise RunError(f"--test: no point has a score, so none is the best. {best.name}: "
                       f"{rows[0]['status']}.")
    target, models = best / "test", ("model.keras", "model.json")
    if missing := [name for name in models if not (best / name).is_file()]:
        raise RunError(f"--test: {best} holds no {missing[0]}. Sweep over notebook 03, too: it "
                       "writes it.")
    copy = target / models[0]
    if copy.exists() and not filecmp.cmp(best / models[0], copy, shallow=False):
        shutil.rmtree(target)  # of a model that has been trained again since
    runs.run_folder(target)
    for name in models:
        shutil.copyfile(best / name, target / name)
    parameters = json.loads((best / "run.json").read_text(encoding="utf-8"))["parameters"]
    given = {name: parameters[name] for name in ("dataset", "data_dir") if name in parameters}
    run_notebooks(["04"], given | {"split": "test"}, target, timeout)
    return sweep_board.metrics(target)["scores"]


def _sweep(points: list[Point], paths: list[Path], folder: Path, scheduler: str, workers: int,
           timeout: int | None) -> list[dict]:
    names = sweep_grid.differing(points)
    codes = {path: fingerprint(path) for path in paths}
    kept = [point for point in points if _is_finished(point, codes)]
    waiting = [point for point in points if point not in kept]
    progress, failed, ended = Progress(len(points), names), {}, list(kept)
    print(f"{len(points)} points, each with {', '.join(path.stem for path in paths)}, into {folder.name}", flush=True)
    for point in kept:
        progress.end(point, f"kept: {sweep_board.headline(point.folder)}")
    with contextlib.closing(_run(waiting, paths, folder, scheduler, workers, timeout, progress)) as results:
        for point, why in results:
            ended.append(point)
            failed |= {point.folder: why} if why else {}
            progress.end(point, f"FAILED: {why}" if why else sweep_board.headline(point.folder))
            sweep_board.write_csv(sweep_board.leaderboard(ended, failed, names), folder / "leaderboard.csv")
    rows = sweep_board.leaderboard(points, failed, names)
    sweep_board.write_csv(rows, folder / "leaderboard.csv")
    if any(sweep_board.SCORE in row["scores"] for row in rows):
        sweep_board.figure(rows).savefig(folder / "leaderboard.png", dpi=120)
    return rows


def _is_finished(point: Point, codes: dict[Path, str]) -> bool:
    try:
        record = json.loads((point.folder / "run.json").read_text(encoding="utf-8"))
        same = not runs.differences(record["parameters"], point.parameters)
        return same and all(is_finished(point.folder, record, path, code) for path, code in codes.items())
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return False  # tools.run says what is wrong with the folder


def _run(points: list[Point], paths: list[Path], folder: Path, scheduler: str, workers: int, timeout: int | None,
         progress: Progress) -> Iterator[tuple[Point, str]]:
    """Yield the points as they end, each with why it failed, or ""."""
    if not points:
        return
    sweep_cluster.require()
    workers = workers or sweep_cluster.workers_here(len(points))
    devices = [] if scheduler else sweep_cluster.gpus()
    arguments = [sweep_cluster.name_for_workers(path) for path in paths]
    arguments += ["--timeout", str(timeout)] if timeout else []
    environment = {} if scheduler else sweep_cluster.share_of(workers)
    with sweep_cluster.connect(scheduler, workers) as client:
        if scheduler:
            sweep_cluster.check_workers(client, folder, paths)
        results = sweep_cluster.results(client, points, arguments, environment, devices, progress)
        with contextlib.closing(results):
            yield from results


# The command --------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m tools.sweep", description=__doc__, epilog=EPILOG,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", metavar="NOTEBOOK | FILE.yaml",
                        help="notebooks, by number, name or path (default: 03 and 04), or a file that says it all")
    parser.add_argument("-p", "--parameter", metavar="NAME=A,B,C", help="values of a parameter; "
                        "0..4 are whole numbers from 0 to 4; may be given again. It takes the "
                        "place of the file's. Where a value holds a comma: use a file")
    parser.add_argument("--dataset", metavar="NAME", help="the data set: the same as -p dataset=NAME")
    parser.add_argument("--data-dir", metavar="DIR", help="where its files are: the same as -p data_dir=DIR")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--name", help="the sweep's folder: results/runs/NAME (default: sweep)")
    where.add_argument("--run-dir", metavar="DIR", default="", help="the sweep's folder anywhere (or: FCN_RUN_DIR)")
    who = parser.add_mutually_exclusive_group()
    who.add_argument("--workers", type=int, default=0, metavar="N", help="points at a time on this machine (default: "
                     "one per GPU; without any, one per core that has 3 GB of memory)")
    who.add_argument("--scheduler", default="", metavar="ADDRESS", help="use the workers of this Dask scheduler")
    parser.add_argument("--timeout", type=int, metavar="SECONDS", help="stop a cell that takes longer")
    parser.add_argument("--test", action="store_true",
                        help="at the end, score the best point, and no other, on the test split")
    parser.add_argument("--yes", action="store_true", help=f"run more than {LIMIT} points")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code: 0 all finished, 1 some failed or refused, 130 interrupted."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a terminal that lacks a character must not stop a sweep
    try:
        rest, given = take_parameters(sys.argv[1:] if argv is None else argv)
        options = _parser().parse_intermixed_args(rest)
        folder, arguments = _chosen(options, given)
        limit = sys.maxsize if options.yes else LIMIT
        if options.test:
            require_test(arguments["grid"], arguments["points"], limit)
        rows = sweep(folder=folder, scheduler=options.scheduler, workers=options.workers, timeout=options.timeout,
                     limit=limit, **arguments)
        folder = runs.run_folder(folder)
        print(f"\n{sweep_board.table(rows)}\n\nleaderboard {short(folder / 'leaderboard.csv')}, .png")
        if options.test:
            print("\ntest, for the best point alone:")
            scores = score_test(rows, folder, options.timeout)
            print(f"\n{sweep_board.sentence_on_test(rows[0], scores, folder)}")
    except RunError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted. The same command goes on from here: finished points are kept, and trainings resume at "
              "their last finished epoch.", file=sys.stderr)
        return 130
    return int(any(row["status"] != "finished" for row in rows))


def _chosen(options: argparse.Namespace, given: dict[str, str]) -> tuple[str | Path, dict]:
    """Return the sweep's folder, and the arguments of `sweep` that say what to run."""
    files = [name for name in options.notebooks if name.endswith((".yaml", ".yml"))]
    if len(files) > 1:
        raise RunError(f"{len(files)} files were given, {' and '.join(files)}; a sweep takes one.")
    content = sweep_grid.read_file(Path(files[0]).expanduser()) if files else {}
    grid = content.get("grid") or {}
    grid |= {name: sweep_grid.read_values(name, text) for name, text in given.items()}
    grid |= {name: value for name, value in (("dataset", options.dataset), ("data_dir", options.data_dir))
             if value is not None}
    points = content.get("points") or []
    if not grid and not points:
        raise RunError("There is nothing to sweep over: give values, such as -p learning_rate=1e-3,3e-3, or a file.")
    notebooks = [name for name in options.notebooks if name not in files] or content.get("notebooks") or DEFAULT
    folder = options.run_dir
    if not folder and (options.name or not os.environ.get("FCN_RUN_DIR")):
        folder = named_folder(options.name or "sweep")
    return folder, {"grid": grid, "points": points, "notebooks": notebooks}
