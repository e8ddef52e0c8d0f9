"""Run notebooks once for each point of a parameter grid, several at a time, and rank the results.

Each point is a run as `python -m tools.run` makes it: a process and a folder, in which sweep.log
shows how far it is. Dask hands the points to workers, on this machine or those of a scheduler. The
same command again keeps what is finished. A point that fails stops no other; one whose worker is
lost runs again. The sweep's folder gets a leaderboard: leaderboard.csv and leaderboard.png.

Points are scored on the validation split: you choose by these scores, and a test split that chose
is used up. With --test the best point alone is scored on test, once, at the end.
"""

import argparse
import contextlib
import shlex
import shutil
import sys
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from tools import run as runner
from tools.execute import RunError, guarded, short
from tools.run import run as run_notebooks
from tools.sweep import board, cluster, halving
from tools.sweep import grid as sweep_grid
from tools.sweep.grid import Point
from utils import runs

DEFAULT = ("03", "04")
LIMIT = 200  # points of a sweep without --yes
EPILOG = """\
examples:
  python -m tools.sweep -p learning_rate=1e-3,3e-3 -p seed=0,1,2 -p epochs=10 --name rates
  python -m tools.sweep --dataset camvid --data-dir ~/CamVid -p stride=32,16,8 -p seed=0..2 --test
  python -m tools.sweep -p learning_rate=1e-4..1e-1 -p stride=8,16 --random 16 --halving
  python -m tools.sweep rates.yaml --name rates --list > commands     for SLURM, GNU parallel
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

other machines: run `dask scheduler` on one of them and `dask worker ADDRESS --nthreads 1` on each,
in an environment with this repository installed at the same commit, and sweep into a folder that
all of them see under the same path. On GPUs: `dask cuda worker ADDRESS`, of dask-cuda.

exit code: 0 all points have finished, 1 one has failed or the sweep was refused, 130 interrupted
"""


def sweep(grid: dict[str, object], points: Iterable[dict] = (),
          notebooks: Iterable[str | Path] = DEFAULT, folder: str | Path = "", scheduler: str = "",
          workers: int = 0, timeout: int | None = None, limit: int = LIMIT,
          halve: bool = False) -> list[dict]:
    """Run notebooks once per point of a grid, and return the leaderboard: a dict per point.

    grid: parameter -> value or list of values. points: mappings, each combined with the grid.
    notebooks, timeout: see `tools.run.run`. folder: of the points' folders. scheduler: an address;
    "" starts `workers` processes here, 0 as many as fit. halve: see `halving`. Raises RunError for
    more than `limit` points, or if it cannot start or go on; `status` says why a point failed.
    """
    if workers < 0:
        raise RunError(f"--workers is {workers}; expected 1 or more, or 0 for as many as fit.")
    folder = runs.choose_folder(folder)
    planned, paths, arguments = _plan(grid, points, notebooks, folder, timeout, limit)
    if halve and any("epochs" not in point.parameters for point in planned):
        raise RunError(halving.LACKING)
    sets, digests = {}, {}
    for point in planned:
        if "dataset" in point.parameters:
            given = point.parameters["dataset"], point.parameters["data_dir"]
            if given not in sets:
                dataset, place = runner.find_data(*given)
                sets[given] = place, runner.check_data(dataset)
            point.parameters["data_dir"], digests[point.folder] = sets[given]
    waiting = [point for point in planned if not _is_finished(point, paths)
               or runs.read_record(point.folder).get("data", "") != digests.get(point.folder, "")]
    workers = workers or cluster.workers_here(len(waiting))
    environment, devices = ({}, []) if scheduler else (cluster.share_of(workers), cluster.gpus())
    with contextlib.ExitStack() as stack:
        results = ()
        if waiting:
            client = stack.enter_context(cluster.connect(scheduler, workers))
            run = partial(cluster.results, client, arguments=arguments, environment=environment,
                          devices=devices)
            results = halving.halve(planned, waiting, run) if halve else run(waiting)
            stack.enter_context(contextlib.closing(results))
        try:
            runs.run_folder(folder)
            stack.enter_context(runs.lock(folder))
            print(f"{len(planned)} points, each with {', '.join(path.stem for path in paths)}, "
                  f"into {folder.name}", flush=True)
            return _collect(planned, waiting, results, paths, folder)
        except (OSError, RuntimeError) as error:
            raise RunError(str(error)) from None


def commands(folder="", **chosen):
    """Return a line for the shell per point, in the order of a sweep; for arguments see `sweep`."""
    planned, _, arguments = _plan(folder=runs.choose_folder(folder), **chosen)
    command = ["python", "-m", "tools.run", *arguments, "--run-dir"]
    return [shlex.join([*command, str(point.folder), *point.options()]) for point in planned]


def _plan(grid, points, notebooks, folder, timeout, limit):
    """Return the points, the paths of the notebooks, and the words that name them to tools.run."""
    runner.check_timeout(timeout)
    paths = runner.find_notebooks(map(str, notebooks))
    planned = sweep_grid.plan(paths, sweep_grid.combine(grid, points, limit), folder)
    # A worker elsewhere has its own clone of the repository.
    arguments = [path.stem if path.parent == runner.NOTEBOOKS else str(path) for path in paths]
    return planned, paths, arguments + (["--timeout", str(timeout)] if timeout else [])


def _is_finished(point: Point, paths: list[Path]) -> bool:
    """Return whether a point's folder holds all notebooks, finished, with its parameters."""
    try:
        record = runs.read_record(point.folder)
    except OSError:
        return False  # tools.run says what is wrong with the folder
    return (not runs.differences(record["parameters"], point.parameters)
            and all(runner.is_finished(point.folder, record, path) for path in paths))


def _collect(points: list[Point], waiting: list[Point], results: Iterable[tuple],
             paths: list[Path], folder: Path) -> list[dict]:
    """Print and rank points as they end; keep the leaderboard in `folder`, and return it."""
    names, unfinished, start = sweep_grid.differing(points), {}, time.monotonic()
    ended = [point for point in points if point not in waiting]
    for number, row in enumerate(board.leaderboard(ended, {}, names), 1):
        print(f"[{number}/{len(points)}] {row['point']}  kept: {board.headline(row)}", flush=True)
    for point, why in results:
        ended.append(point)
        if not why and not _is_finished(point, paths):
            why = "its worker runs other notebooks or another utils/: update its clone"
        if why:
            unfinished[point.folder] = why
        board.write_csv(board.leaderboard(ended, unfinished, names), folder / "leaderboard.csv")
        row, = board.leaderboard([point], unfinished, names)
        label = " ".join(f"{name}={value}" for name, value in row["parameters"].items())
        print(f"[{len(ended)}/{len(points)}] {label or row['point']}  {board.headline(row)}, after "
              f"{runner.duration(time.monotonic() - start)}", flush=True)
    rows = board.leaderboard(points, unfinished, names)  # equal scores in the order of the grid
    board.write_csv(rows, folder / "leaderboard.csv")
    if any(board.SCORE in row["scores"] for row in rows):
        board.figure(rows).savefig(folder / "leaderboard.png", dpi=120)
    return rows


def score_test(rows: list[dict], folder: str | Path, timeout: int | None = None) -> dict:
    """Run notebook 04 for the best point of a leaderboard on the test split; return the scores.

    rows: what `sweep` returned. folder: the sweep's; 04 writes into the folder `test` of the point.
    Raises RunError where the point has no score or no model, or 04 fails.
    """
    best = Path(folder) / rows[0]["point"]
    if board.SCORE not in rows[0]["scores"]:
        raise RunError(f"--test: no point has a score. {best.name}: {rows[0]['status']}.")
    target, models = best / "test", ("model.keras", "model.json")
    if not all((best / name).is_file() for name in models):
        raise RunError(f"--test: {best} holds no {' or '.join(models)}: sweep over 03, too.")
    if target.exists():
        shutil.rmtree(target)  # of a model that may have been trained again since
    runs.run_folder(target)
    for name in models:
        shutil.copyfile(best / name, target / name)
    parameters = runs.read_record(best)["parameters"]
    given = {name: parameters[name] for name in ("dataset", "data_dir") if name in parameters}
    run_notebooks(["04"], given | {"split": "test"}, target, timeout)
    return board.metrics(target)["scores"]


def _parser() -> argparse.ArgumentParser:
    parser = runner.parser("python -m tools.sweep", __doc__, EPILOG, "sweep")
    parser.add_argument("notebooks", nargs="*", metavar="NOTEBOOK | FILE.yaml",
                        help="notebooks by number, name or path (default: 03 and 04), or a file")
    parser.add_argument("-p", "--parameter", metavar="NAME=A,B,C", help="values of a parameter, "
                        "instead of the file's; 0..4 are five; may be repeated")
    who = parser.add_mutually_exclusive_group()
    who.add_argument("--workers", type=int, default=0, metavar="N", help="points at a time on this "
                     "machine (default: one per GPU, else one per core that has 3 GB of memory)")
    who.add_argument("--scheduler", default="", metavar="ADDRESS", help="of Dask, for its workers")
    parser.add_argument("--test", action="store_true", help="score the best point alone on test")
    parser.add_argument("--random", type=int, default=0, metavar="N", help="draw N points from "
                        "lists and from ranges such as learning_rate=1e-4..1e-2")
    parser.add_argument("--search-seed", type=int, default=0, metavar="SEED", help="of --random")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--halving", action="store_true",
                     help="after 1/4 and 1/2 of the epochs, only the best half trains on")
    how.add_argument("--list", action="store_true", help="print the points' commands, run nothing")
    parser.add_argument("--yes", action="store_true", help=f"run more than {LIMIT} points")
    return parser


def _command(argv: list[str]) -> int:
    options, given = runner.parse(_parser(), argv)
    chosen = _chosen(options, given)
    folder = runner.folder_of(options, "sweep")
    chosen |= {"folder": folder, "timeout": options.timeout,
               "limit": sys.maxsize if options.yes else LIMIT}
    if options.list:
        print(*commands(**chosen), sep="\n")
        return 0
    rows = sweep(scheduler=options.scheduler, workers=options.workers, halve=options.halving,
                 **chosen)
    folder = runs.choose_folder(folder)
    print(f"\n{board.table(rows)}\n\nleaderboard {short(folder / 'leaderboard.csv')}, .png")
    if options.test:
        print("\ntest, for the best point alone:")
        scores = score_test(rows, folder, options.timeout)
        print(f"\n{rows[0]['point']}: mean IoU {scores[board.SCORE]:.3f} on test")
    return int(any(map(board.has_failed, rows)))


def _chosen(options: argparse.Namespace, given: dict[str, str]) -> dict:
    """Return the grid, points and notebooks that the command line and its file name."""
    files = [name for name in options.notebooks if name.endswith((".yaml", ".yml"))]
    if len(files) > 1:
        raise RunError(f"{len(files)} files were given, {' and '.join(files)}; a sweep takes one.")
    content = sweep_grid.read_file(Path(files[0]).expanduser()) if files else {}
    grid, points = content.get("grid", {}), content.get("points", [])
    grid |= {name: sweep_grid.read_values(name, text) for name, text in given.items()}
    grid |= {name: getattr(options, name) for name in ("dataset", "data_dir")
             if getattr(options, name) is not None}  # may hold commas
    if not grid and not points:
        raise RunError("There is nothing to sweep over: give values, such as "
                       "-p learning_rate=1e-3,3e-3, or a file.")
    if options.random < 0:
        raise RunError(f"--random is {options.random}; expected how many points to draw.")
    if options.random:
        points = sweep_grid.draw(grid, points, options.random, options.search_seed)
        grid = {}
    named = [name for name in options.notebooks if name not in files]
    return {"grid": grid, "points": points,
            "notebooks": named or content.get("notebooks") or DEFAULT}


def main(argv: list[str] | None = None) -> int:
    """Run the command; return 0 if all finished, 1 if some failed or refused, 130 interrupted."""
    return guarded(lambda: _command(sys.argv[1:] if argv is None else argv))
