"""Sweeps of a toy notebook: what is planned and refused; the fate of points, workers, processes."""

import contextlib
import csv
import json
import math
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest

from tools import execute, run
from tools.execute import RunError
from tools.sweep import board as sweep_board
from tools.sweep import cluster as sweep_cluster
from tools.sweep import grid as sweep_grid
from tools.sweep import halving, sweep
from tools.sweep.grid import Point, combine, differing, draw, folder_name, plan
from utils import runs

PARAMETERS = ("run_dir: str = ''\nrate: float = 0.0\nseed: int = 0\n"
              "wait_for: str = ''\ndata_dir: str = ''")
# Says who runs it, waits for a file if it is told to, fails at a rate above 1, and else writes
# scores.
CELLS = ("import json, os, time\nfrom pathlib import Path",
         "open(f'{run_dir}/pids', 'a').write(f'{os.getpid()}\\n')\n"
         "print('epoch 1/2  loss 0.5  0:01 left', flush=True)",
         "while wait_for and not Path(wait_for).exists():\n    time.sleep(0.1)",
         "if rate > 1:\n    raise ValueError('rate is too high\\nmuch too high')",
         "scores = {'mean_iou': rate / 2 + seed / 100, 'pixel_accuracy': 0.75, 'iou': [0.5]}",
         "Path(run_dir, 'metrics.json').write_text(json.dumps({'scores': scores}))")


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """The path of the toy notebook."""
    path = tmp_path_factory.mktemp("toy") / "01_toy.ipynb"
    made = nbformat.v4.new_notebook(metadata={"kernelspec": {"name": "python3",
                                                             "display_name": "P"},
                                              "language_info": {"name": "python"}})
    made.cells = [nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
                  *map(nbformat.v4.new_code_cell, CELLS)]
    nbformat.write(made, path)
    return path


# What is planned


def test_every_combination_of_the_grid_with_every_listed_point():
    assert combine({"a": [1, 2], "b": 3}, []) == [{"a": 1, "b": 3}, {"a": 2, "b": 3}]
    assert combine({"a": [1, 2]}, [{"c": 5}, {"c": 6, "d": 7}]) == [
        {"c": 5, "a": 1}, {"c": 5, "a": 2}, {"c": 6, "d": 7, "a": 1}, {"c": 6, "d": 7, "a": 2}]
    assert combine({}, [{"c": 5}]) == [{"c": 5}]


@pytest.mark.parametrize("grid, points, sentence", [
    ({"a": []}, [], "Parameter a has no values"),
    ({"a": 1}, [{"a": 2}], "Parameter a is in the grid and in the point"),
    ({"a": 1}, ["b"], "A point is 'b'; expected a mapping"),
])
def test_grids_without_sense_are_refused(grid, points, sentence):
    with pytest.raises(RunError, match=sentence):
        combine(grid, points)


def test_points_are_typed_named_and_run_once(toy, tmp_path):
    points = plan([toy], combine({"rate": ["1e-3", 0.001, "0.5"], "seed": ["0"]}, []), tmp_path)
    assert ([point.given for point in points]
            == [{"rate": 0.001, "seed": 0}, {"rate": 0.5, "seed": 0}])
    assert [point.folder.name for point in points] == ["rate=0.001,seed=0", "rate=0.5,seed=0"]
    assert points[0].parameters == {"rate": 0.001, "seed": 0, "wait_for": "", "data_dir": ""}
    assert differing(points) == ["rate"]


def test_sweeps_of_faulty_data_leave_no_folder(toy, tmp_path, make_voc):
    voc = make_voc(tmp_path / "voc")
    (voc / "JPEGImages" / "train0.png").write_bytes(b"")
    with_data = nbformat.read(toy, as_version=4)
    with_data.cells[0].source += "\ndataset: str = 'voc'"
    nbformat.write(with_data, tmp_path / "01_toy.ipynb")
    for grid, sentence in (({"seed": -1}, "seed is -1"),
                           ({"seed": 0, "data_dir": str(voc)}, "train0.png: the file is empty")):
        with pytest.raises(RunError, match=sentence):
            sweep.sweep(grid, notebooks=[tmp_path / "01_toy.ipynb"], folder=tmp_path / "sweep")
        assert not (tmp_path / "sweep").exists()


def test_points_of_data_that_have_changed_run_again(toy, tmp_path, monkeypatch):
    with_data = nbformat.read(toy, as_version=4)
    with_data.cells[0].source += "\ndataset: str = 'voc'"
    nbformat.write(with_data, tmp_path / "01_toy.ipynb")
    monkeypatch.setattr(run, "find_data", lambda name, folder: (None, folder))
    monkeypatch.setattr(run, "check_data", lambda dataset: "today")
    monkeypatch.setattr(sweep, "_is_finished", lambda point, paths: True)
    monkeypatch.setattr(sweep, "_collect", lambda planned, waiting, *_: waiting)
    told = {"grid": {"seed": [0, 1]}, "notebooks": [tmp_path / "01_toy.ipynb"],
            "folder": tmp_path / "sweep"}
    points = sweep.sweep(**told)
    for point, data in zip(points, ("today", "yesterday")):
        point.folder.mkdir(parents=True)
        runs.write_json(point.folder / "run.json", {"parameters": {}, "notebooks": {},
                                                    "data": data})
    assert [point.given["seed"] for point in sweep.sweep(**told)] == [1]


def test_a_leaderboard_that_cannot_be_written_gets_one_sentence(toy, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device", "leaderboard.csv")

    monkeypatch.setattr(sweep, "_collect", full)
    with pytest.raises(RunError, match="No space left.*leaderboard.csv"):
        sweep.sweep({"seed": 0}, notebooks=[toy], folder=tmp_path / "sweep")


def test_points_know_the_folder_that_their_runs_read(toy, tmp_path, monkeypatch):
    """A published copy is converted at first use: the record of a run says where to."""
    with_data = nbformat.read(toy, as_version=4)
    with_data.cells[0].source += "\ndataset: str = 'camvid'"
    nbformat.write(with_data, tmp_path / "01_toy.ipynb")
    monkeypatch.setattr(run, "find_data", lambda name, folder: (None, f"{folder} converted"))
    seen = []
    monkeypatch.setattr(sweep, "_is_finished", lambda point, paths: seen.append(point) or True)
    monkeypatch.setattr(sweep, "_collect", lambda *_: [])
    sweep.sweep({"seed": [0, 1], "data_dir": "/copy"}, notebooks=[tmp_path / "01_toy.ipynb"],
                folder=tmp_path / "sweep")
    assert [point.parameters["data_dir"] for point in seen] == ["/copy converted"] * 2


def test_whole_numbers_of_a_file_are_counted(toy):
    points = combine({"seed": "0..4", "rate": 0.5}, [])
    assert [point["seed"] for point in points] == list("01234")


def test_a_leaderboard_of_the_users_is_not_replaced(toy, tmp_path):
    (tmp_path / "leaderboard.csv").write_text("the user's")
    with pytest.raises(RunError, match="leaderboard.csv"):
        sweep.sweep({"seed": 0}, notebooks=[toy], folder=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["leaderboard.csv"]
    assert (tmp_path / "leaderboard.csv").read_text() == "the user's"


def test_points_are_scored_on_val_unless_somebody_says_otherwise(toy, tmp_path):
    scored = nbformat.read(toy, as_version=4)
    scored.cells[0].source += "\nsplit: str = ''"
    nbformat.write(scored, tmp_path / "02_scored.ipynb")
    paths = [toy, tmp_path / "02_scored.ipynb"]
    given = combine({"seed": [0, 1]}, []) + [{"split": "test"}, {"split": ""}]
    assert [point.parameters["split"] for point in plan(paths, given)] == ["val", "val", "test", ""]
    assert plan(paths, given)[0].given == {"seed": 0, "split": "val"}
    assert run.declared_parameters(run.find_notebooks(["04"])[0])["split"] == ("str", "")


@pytest.mark.parametrize("given, sentence", [
    ({"rat": 1}, "parameter rat; did you mean 'rate'"),
    ({"seed": "many"}, "seed is 'many'; it must be a whole number"),
    ({"run_dir": "x"}, "run_dir cannot be swept over"),
])
def test_parameters_that_do_not_fit_are_refused(toy, tmp_path, given, sentence):
    with pytest.raises(RunError, match=sentence):
        plan([toy], [given], tmp_path)


def test_folder_names_differ_where_parameters_do():
    paths = [os.path.join(os.sep, place, "my data") for place in ("one", "two")]
    names = {folder_name({"data_dir": path, "rate": 0.5}) for path in paths}
    names |= {folder_name({"text": "x" * 200 + end}) for end in "ab"}
    assert len(names) == 4 and all(len(name) < 120 for name in names)
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789_.,=-") for name in names)


def test_a_file_says_it_all(toy, tmp_path, monkeypatch):
    file = tmp_path / "rates.yaml"
    file.write_text(
        f"notebooks: ['{toy}']\ngrid: {{rate: [1e-3, 2e-3], seed: 0}}\npoints: [{{wait_for: a}}]")
    monkeypatch.setattr(sweep, "sweep", lambda **given: pytest.fail(json.dumps(given, default=str)))
    with pytest.raises(pytest.fail.Exception) as called:
        sweep.main([str(file), "-p", "seed=1,2", "--data-dir", "d", "--workers", "3", "--run-dir",
                    str(tmp_path)])
    assert json.loads(str(called.value)) == {
        "folder": str(tmp_path), "scheduler": "", "workers": 3, "timeout": None,
        "halve": False, "limit": sweep.LIMIT, "notebooks": [str(toy)],
        "grid": {"rate": [0.001, 0.002], "seed": ["1", "2"], "data_dir": "d"},
        "points": [{"wait_for": "a"}]}


def test_numbers_of_a_file_are_those_of_a_command_line(tmp_path):
    """YAML would read 010 as 8, and 1:30 as 90."""
    (tmp_path / "grid.yaml").write_text("grid: {seed: [010, 8], sizes: [[32, 1e-3]]}")
    assert sweep_grid.read_file(tmp_path / "grid.yaml") == {
        "grid": {"seed": [10, 8], "sizes": [[32, 0.001]]}}
    (tmp_path / "grid.yaml").write_text("grid: {rate: 1:30}")
    with pytest.raises(RunError, match="cannot be read .*1:30"):
        sweep_grid.read_file(tmp_path / "grid.yaml")


def test_a_key_that_a_file_gives_twice_is_refused(tmp_path):
    (tmp_path / "grid.yaml").write_text("grid:\n  seed: [0, 1]\n  stride: 8\n  seed: 2")
    with pytest.raises(RunError, match="grid.yaml: .*twice: seed, stride, seed"):
        sweep_grid.read_file(tmp_path / "grid.yaml")


@pytest.mark.parametrize("text, sentence", [
    ("grid: [", "cannot be read as YAML"),
    ("- 1", "expected a mapping with notebooks, grid, points"),
    ("gird: {}", "there is no key gird; did you mean 'grid'?"),
    ("grid: [1]", "grid is .*1.*; expected a dict"),
    ("points: {a: 1}", "points is .*; expected a list"),
])
def test_files_without_sense_are_refused(text, sentence, tmp_path, capsys):
    (tmp_path / "grid.yaml").write_text(text)
    assert sweep.main([str(tmp_path / "grid.yaml")]) == 1
    said = capsys.readouterr().err
    assert "grid.yaml: " in said and "Traceback" not in said
    with pytest.raises(RunError, match=sentence):
        sweep_grid.read_file(tmp_path / "grid.yaml")


def test_commands_without_sense_are_refused(toy, capsys):
    def said(*argv):
        assert sweep.main(list(argv)) == 1
        return capsys.readouterr().err

    assert "nothing to sweep over" in said("03")
    assert "a sweep takes one" in said("a.yaml", "b.yaml")
    assert "b.yaml: cannot be read" in said("b.yaml")
    assert "--workers is -1" in said("-p", "seed=1,2", "--workers", "-1")
    assert "--random is -1" in said("-p", "seed=1,2", "--random", "-1")
    assert "--timeout is 0" in said("-p", "seed=1,2", "--timeout", "0")
    assert "plain folder name" in said("-p", "seed=1,2", "--name", "a/b")
    assert "There is no notebook 77" in said("77", "-p", "seed=1,2")
    assert "--scheduler nowhere: " in said(str(toy), "-p", "seed=1,2", "--scheduler", "nowhere")


@pytest.mark.parametrize("address", ["nowhere", "tcp://host", "ftp://host:1", "host:port"])
def test_an_address_that_cannot_be_is_refused_without_a_client(address, monkeypatch):
    monkeypatch.setattr(sweep_cluster, "Client", lambda *_,
                        **__: pytest.fail("a client was started"))
    with pytest.raises(RunError, match=f"--scheduler {address}"), sweep_cluster.connect(address, 1):
        pass


def test_a_client_whose_thread_does_not_start_is_a_run_error(monkeypatch):
    def client(*_, **__):
        raise AssertionError  # as distributed's LoopRunner, on a machine that is too busy

    monkeypatch.setattr(sweep_cluster, "Client", client)
    with pytest.raises(RunError, match="--scheduler tcp://host:1"):
        with sweep_cluster.connect("tcp://host:1", 1):
            pass


def test_refused_sweeps_leave_no_folder(toy, tmp_path, capsys):
    for refused in (["-p", "sed=1,2"], ["-p", "seed=1,2", "--scheduler", "nowhere"]):
        assert sweep.main([str(toy), *refused, "--run-dir", str(tmp_path / "new")]) == 1
        assert list(tmp_path.iterdir()) == [], capsys.readouterr().err
    (tmp_path / "mine").mkdir()
    assert sweep.main([str(toy), *refused, "--run-dir", str(tmp_path / "mine")]) == 1
    assert (tmp_path / "mine").is_dir()


def test_ranges_and_sweeps_that_are_too_large(toy, tmp_path, monkeypatch, capsys):
    assert sweep_grid.read_values("seed", "0..3") == ["0", "1", "2", "3"]
    assert sweep_grid.read_values("rate", "1e-3, 3e-3,-1..1") == ["1e-3", "3e-3", "-1", "0", "1"]
    for text in ("5..2", "0..100000000000"):
        with pytest.raises(RunError, match=f"seed is {text}"):
            sweep_grid.read_values("seed", text)
    chosen = []
    monkeypatch.setattr(sweep, "_collect", lambda points, *_: chosen.extend(points) or [])
    monkeypatch.setattr(sweep, "_is_finished", lambda *_: True)
    command = [str(toy), "-p", "seed=1..5000", "-p", "rate=0,1", "--run-dir", str(tmp_path / "s")]
    assert sweep.main(command) == 1
    said = capsys.readouterr().err
    assert "10,000 points" in said and "--yes" in said
    assert not chosen and not (tmp_path / "s").exists()
    monkeypatch.setattr(sweep_board, "table", lambda rows: "")
    assert sweep.main([*command, "--yes"]) == 0 and len(chosen) == 10_000


def test_drawn_points_lie_in_their_ranges_and_are_the_same_again():
    grid = {"rate": ["1e-4..1e-1"], "momentum": "0.5..0.9", "stride": ["8", "16"], "epochs": 8}
    points = draw(grid, [{"seed": 0}, {"seed": 1}], 200)
    assert points == draw(grid, [{"seed": 0}, {"seed": 1}], 200) and len(points) == 200
    assert (points[:20] == draw(grid, [{"seed": 0}, {"seed": 1}], 20)
            != draw(grid, [{"seed": 0}, {"seed": 1}], 20, 1))
    rates, momenta = ([point[name] for point in points] for name in ("rate", "momentum"))
    assert 1e-4 <= min(rates) and max(rates) <= 1e-1 and 0.5 <= min(momenta) and max(momenta) <= 0.9
    # 3.2e-3 is the middle of the logs
    assert 2e-3 < np.median(rates) < 5e-3 and 0.68 < np.median(momenta) < 0.72
    for name, values in (("stride", ["8", "16"]), ("seed", [0, 1])):
        counts = [[point[name] for point in points].count(value) for value in values]
        assert sum(counts) == 200 and min(counts) > 70
    assert {point["epochs"] for point in points} == {8}


def test_drawn_points_differ():
    assert sorted(point["a"] for point in draw({"a": [1, 2, 3]}, [], 3)) == [1, 2, 3]
    assert len(draw({"a": [1, 2]}, [], 5)) == 2
    assert len(draw({"a": "0..1"}, [], 2)) == 2
    with pytest.raises(RunError, match="a has no values"):
        draw({"a": []}, [], 2)
    with pytest.raises(RunError, match="rate has a range.*--random"):
        combine({"rate": ["1e-4..1e-2"]}, [])


def listed(capsys, *argv):
    """The commands that --list prints, as lists of words."""
    assert sweep.main([*argv, "--list"]) == 0
    return [shlex.split(line) for line in capsys.readouterr().out.splitlines()]


def test_listed_commands_are_those_of_the_points_and_nothing_runs(toy, tmp_path, capsys):
    folder = tmp_path / "my sweep"
    commands = listed(capsys, str(toy), "-p", "rate=0.25,0.5", "-p", "wait_for=a b",
                      "--timeout", "9",
                      "--run-dir", str(folder))
    assert ([command[:6] for command in commands]
            == [["python", "-m", "tools.run", str(toy), "--timeout", "9"]] * 2)
    points = plan([toy], combine({"rate": [0.25, 0.5], "wait_for": "a b"}, []), folder)
    for command, point in zip(commands, points):
        options, given, place = run._options(command[3:])
        assert Path(place) == point.folder and options.notebooks == [str(toy)]
        assert run.resolve({toy: run.declared_parameters(toy)}, given) == point.parameters
    assert not folder.exists()
    assert (listed(capsys, "-p", "stride=8", "--run-dir", str(folder))[0][3:5]
            == ["03_training", "04_iou_evaluation"])


def test_random_points_are_the_same_for_the_same_command(toy, tmp_path, capsys):
    command = [str(toy), "-p", "rate=1e-4..1e-2", "-p", "seed=0..4", "--run-dir", str(tmp_path),
               "--random", "5"]
    first = listed(capsys, *command)
    assert len(first) == 5 and listed(capsys, *command, "--search-seed", "0") == first
    assert listed(capsys, *command, "--search-seed", "1") != first
    assert (sweep.main([*command[:-1], "201", "--list"]) == 1
            and "201 points" in capsys.readouterr().err)


def test_help_says_what_a_file_holds(capsys):
    with pytest.raises(SystemExit) as stop:
        sweep.main(["--help"])
    said = capsys.readouterr().out
    assert (stop.value.code == 0 and "learning_rate: [1e-3, 3e-3]" in said
            and "dask worker ADDRESS" in said)


# The machine


def test_one_worker_per_gpu_else_per_core_with_memory(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sweep_cluster, "CPU_COUNT", 8)
    monkeypatch.setattr(sweep_cluster, "MEMORY_LIMIT", 16 * 10 ** 9)
    assert sweep_cluster.workers_here(20) == 5 and sweep_cluster.workers_here(3) == 3
    assert sweep_cluster.share_of(4)["OMP_NUM_THREADS"] == os.environ.get("OMP_NUM_THREADS", "2")
    monkeypatch.setattr(sweep_cluster, "MEMORY_LIMIT", 10 ** 9)
    assert sweep_cluster.workers_here(20) == 1
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert sweep_cluster.gpus() == ["2", "5"] and sweep_cluster.workers_here(20) == 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert sweep_cluster.gpus() == []


@pytest.mark.skipif(os.name == "nt", reason="a shell script stands in for nvidia-smi")
def test_gpus_are_counted_without_tensorflow(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text(
        "#!/bin/sh\necho 'GPU 0: One (UUID: GPU-1)'\necho 'GPU 1: Two (UUID: GPU-2)'\n")
    program.chmod(0o755)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert sweep_cluster.gpus() == ["0", "1"]


def test_workers_divide_the_gpus_and_points_get_their_share_of_the_cores(tmp_path, monkeypatch):
    started = []

    class Process(contextlib.AbstractContextManager):
        returncode = 0

        def __init__(self, command, env, **_):
            started.append(env)

        def __exit__(self, *_):
            pass

        def poll(self):
            return self.returncode

    monkeypatch.setattr(sweep_cluster, "Event", Never)
    monkeypatch.setattr(sweep_cluster.subprocess, "Popen", Process)
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    for name in ("0", "1", "2"):
        worker = SimpleNamespace(name=name)
        monkeypatch.setattr(sweep_cluster, "get_worker", lambda worker=worker: worker)
        share = {"OMP_NUM_THREADS": "3"}
        assert sweep_cluster.run_point(str(tmp_path), [], share, ["4", "7"], "stop") == ""
    assert [env["CUDA_VISIBLE_DEVICES"] for env in started] == ["4", "7", "4"]
    assert {env["OMP_NUM_THREADS"] for env in started} == {"3"} and "PATH" in started[0]


@pytest.mark.parametrize("value, kind", [
    (True, "bool"), (1e-3, "float"), ([16, 32], "list"), ({"a": 1}, "dict"), ("", "str"),
    ("C:\\new data", "str"), ("a, b=c", "str"), ("7", "str"), ("true", "str"),
    ("château", "str"), ("my 📷/a #2.jpg", "str")])
def test_values_reach_a_point_as_they_are(value, kind, tmp_path, monkeypatch):
    class Client:
        def submit(self, function, folder, arguments, *_, **__):
            self.arguments = arguments
            return Future()

    class Future:
        status = "finished"

        def exception(self):
            return None

        def result(self):
            return ""

    monkeypatch.setattr(sweep_cluster, "Event", Never)
    monkeypatch.setattr(sweep_cluster, "as_completed", list)
    client, point = Client(), Point(tmp_path, {"name": value}, {})
    assert list(sweep_cluster.results(client, [point], ["03"], {}, [])) == [(point, "")]
    rest, given = run.take_parameters(client.arguments)
    found = run.convert("name", given["name"], kind)
    assert rest == ["03"] and found == value and type(found) is type(value)


# Why a point failed


def test_reason_names_notebook_cell_and_error(tmp_path):
    cells = [nbformat.v4.new_code_cell("first = 1\n\nraise ValueError('no')") for _ in range(9)]
    for cell in cells[:4]:
        cell.metadata["papermill"] = {"start_time": "2026-01-01"}
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "01_toy.ipynb")
    report = execute._report(Path("01_toy.ipynb"), tmp_path / "01_toy.ipynb", 3,
                             "ValueError: no\nnever")
    text = f"Run folder  x\n[1/1] 01_toy\n\n{report}\n"
    assert sweep_cluster.reason(1, text) == "notebook 01_toy, cell 4 of 9: ValueError: no"
    assert sweep_cluster.reason(0, text) == ""
    refusal = "Run folder  x\n\nrun.json is damaged.\nDelete it.\n"
    assert sweep_cluster.reason(1, refusal) == "run.json is damaged. Delete it."
    assert "killed (signal 9)" in sweep_cluster.reason(-9, "Run folder  x\n")
    assert "exit code 3" in sweep_cluster.reason(3, "")


def test_a_worker_that_does_not_see_the_folder_is_named(tmp_path):
    assert (str(tmp_path / "gone") in sweep_cluster.run_point(str(tmp_path / "gone"), [],
                                                              {}, [], "stop"))


class Never:
    """A Dask event that nobody sets."""

    name = "stop"

    def __init__(self, name=None, client=None):
        pass

    def wait(self, timeout):
        time.sleep(0.1)


def test_reason_is_that_of_the_last_attempt(tmp_path, monkeypatch):
    """sweep.log is added to: what an earlier attempt said is no reason."""
    monkeypatch.setattr(sweep_cluster, "Event", Never)
    old = "Notebook 01_old failed in cell 1 of 2:\n\n  1 / 0\n\nZeroDivisionError: old\n"
    (tmp_path / "sweep.log").write_text(old)
    said = sweep_cluster.run_point(str(tmp_path), ["77"], {}, [], "stop")
    assert said.startswith("There is no notebook 77") and "old" not in said
    assert (tmp_path / "sweep.log").read_text().startswith(old)


# The leaderboard


def results(folder, *values):
    """Write the folders of points, (parameters, mean IoU or None) each, and return the points."""
    points = []
    for number, (parameters, score) in enumerate(values):
        points.append(Point(folder / f"p{number}", {}, parameters))
        points[-1].folder.mkdir()
        notebooks = {name: {"status": "finished", "seconds": seconds}
                     for name, seconds in (("a", 60), ("b", 5.5))}
        runs.write_json(points[-1].folder / "run.json", {"parameters": {}, "notebooks": notebooks})
        if score is not None:
            runs.write_json(points[-1].folder / "metrics.json",
                            {"split": "val", "scores": {"mean_iou": score, "iou": [score]}})
    return points


def test_leaderboard_is_ranked_and_shows_what_differs(tmp_path):
    points = results(tmp_path, ({"rate": 0.1, "seed": 0, "same": 1}, 0.4),
                     ({"rate": 0.2, "seed": 0, "same": 1}, 0.6),
                     ({"rate": 9.0, "seed": 0, "same": 1}, 0.9))
    rows = sweep_board.leaderboard(points, {points[2].folder: "notebook a, cell 2 of 3: no"},
                                   differing(points))
    assert [row["point"] for row in rows] == ["p1", "p0", "p2"]
    assert rows[0]["parameters"] == {"rate": 0.2} and rows[0]["scores"] == {"mean_iou": 0.6}
    sweep_board.write_csv(rows, tmp_path / "board.csv")
    with open(tmp_path / "board.csv", encoding="utf-8", newline="") as file:
        assert list(csv.reader(file)) == [
            ["point", "rate", "split", "mean_iou", "seconds", "status"],
            ["p1", "0.2", "val", "0.6", "65.5", "finished"],
            ["p0", "0.1", "val", "0.4", "65.5", "finished"],
            ["p2", "9.0", "", "", "65.5", "notebook a, cell 2 of 3: no"]]
    text = sweep_board.table(rows).splitlines()
    assert text[0] == "ranked by mean IoU on val"
    assert text[2].split() == ["1.", "0.2", "0.600", "66", "s"]
    assert text[4] == "p2: notebook a, cell 2 of 3: no"


def test_equal_scores_are_in_the_order_of_the_grid_however_the_points_ended(tmp_path, monkeypatch):
    points = results(tmp_path, *(({"seed": seed}, 0.5) for seed in range(3)))
    monkeypatch.setattr(sweep, "_is_finished", lambda *_: True)
    ended = [(point, "") for point in reversed(points)]
    board = sweep._collect(points, points, ended, [], tmp_path)
    assert [row["point"] for row in board] == ["p0", "p1", "p2"]
    assert sweep._collect(points, [], (), [], tmp_path) == board


def test_scores_of_several_splits_are_not_called_by_one(tmp_path):
    points = results(tmp_path, ({"split": "val"}, 0.4), ({"split": "test"}, 0.6),
                     ({"split": ""}, 0.2))
    for point, score in ((points[1], 0.6), (points[2], 0.2)):  # "" is the data set's choice
        runs.write_json(point.folder / "metrics.json",
                        {"split": "test", "scores": {"mean_iou": score}})
    rows = sweep_board.leaderboard(points, {}, differing(points))
    sweep_board.write_csv(rows, tmp_path / "board.csv")
    head, first, second, third = (tmp_path / "board.csv").read_text().splitlines()
    assert head == "point,split,mean_iou,seconds,status"
    assert first.startswith("p1,test,0.6") and second.startswith("p0,val,0.4")
    assert third.startswith("p2,test,0.2")
    assert sweep_board.table(rows).splitlines()[0] == "ranked by mean IoU"


def test_leaderboard_reads_what_notebook_04_writes(tmp_path):
    points = results(tmp_path, ({"seed": 0}, None))
    (points[0].folder
     / "metrics.json").write_bytes((runs.ROOT / "results" / "meadow.json").read_bytes())
    row = sweep_board.leaderboard(points, {}, [])[0]
    scores = row["scores"]
    assert row["split"] == "test"
    assert set(scores) == {"pixel_accuracy", "mean_accuracy", "mean_iou", "frequency_weighted_iou"}
    (points[0].folder / "metrics.json").write_text("{")
    (points[0].folder / "run.json").write_text("{")
    assert sweep_board.leaderboard(points, {}, [])[0]["scores"] == {}


def test_a_point_is_kept_only_with_its_own_parameters(toy, tmp_path):
    entry = {"status": "finished", "code": run.fingerprint(toy)}
    runs.write_json(tmp_path / "run.json",
                    {"parameters": {"seed": 5}, "notebooks": {"01_toy": entry}})
    (tmp_path / "01_toy.ipynb").touch()
    assert sweep._is_finished(Point(tmp_path, {}, {"seed": 5}), [toy])
    assert not sweep._is_finished(Point(tmp_path, {}, {"seed": 6}), [toy])


def test_figure_has_a_row_per_configuration_and_a_dot_per_seed(tmp_path):
    points = results(tmp_path, *(({"rate": rate, "seed": seed}, rate + seed / 10)
                                 for rate in (0.1, 0.5) for seed in (0, 1)))
    axis = sweep_board.figure(sweep_board.leaderboard(points, {}, differing(points))).axes[0]
    assert "on val" in axis.get_xlabel()
    assert [label.get_text() for label in axis.get_yticklabels()] == ["rate=0.5", "rate=0.1"]
    dots, mean = (np.asarray(axis.collections[i].get_offsets()) for i in (0, 1))
    assert (dots == pytest.approx(np.array([[0.6, -0.15], [0.5, 0.15]]))
            and mean == pytest.approx(np.array([[0.55, 0]])))
    assert axis.get_ylim()[0] > axis.get_ylim()[1]  # the best on top


def test_rows_of_the_figure_are_ordered_by_their_means(tmp_path):
    """The best single run is of the configuration with the lower mean."""
    points = results(tmp_path, *(({"rate": rate, "seed": seed}, score) for rate, seed, score in (
        (0.1, 0, 0.9), (0.1, 1, 0.1), (0.5, 0, 0.6), (0.5, 1, 0.7))))
    axis = sweep_board.figure(sweep_board.leaderboard(points, {}, differing(points))).axes[0]
    labels = {text.get_text(): place
              for place, text in zip(axis.get_yticks(), axis.get_yticklabels())}
    assert labels == {"rate=0.5": 0, "rate=0.1": 1}
    dots = np.concatenate([axis.collections[i].get_offsets() for i in (0, 2)])
    for score, place in ((0.9, 1), (0.1, 1), (0.6, 0), (0.7, 0)):
        height, = dots[np.isclose(dots[:, 0], score), 1]
        assert abs(height - place) < 0.5


def test_a_figure_shows_the_best_thirty(tmp_path):
    points = results(tmp_path, *(({"rate": i}, i / 100) for i in range(40)))
    axis = sweep_board.figure(sweep_board.leaderboard(points, {}, differing(points))).axes[0]
    shown = [label.get_text() for label in axis.get_yticklabels()]
    assert shown == [f"rate={i}" for i in range(39, 9, -1)]


def test_a_failed_point_ends_the_command_with_1(toy, tmp_path, monkeypatch):
    points = results(tmp_path, *(({"seed": seed}, 0.5) for seed in range(2)))
    failed = {}
    monkeypatch.setattr(sweep, "sweep",
                        lambda **_: sweep_board.leaderboard(points, failed, ["seed"]))
    command = [str(toy), "-p", "seed=0,1", "--run-dir", str(tmp_path)]
    assert sweep.main(command) == 0
    failed[points[1].folder] = "notebook a, cell 2 of 3: no"
    assert sweep.main(command) == 1


def test_points_get_the_time_limit_and_count_only_if_this_code_ran_them(toy, tmp_path, monkeypatch):
    given = []

    def run_elsewhere(client, points, arguments, environment, devices):
        given.append(arguments)
        for point in points:
            point.folder.mkdir()
            runs.write_json(point.folder / "metrics.json", {"scores": {"mean_iou": 0.5}})
            yield point, ""

    monkeypatch.setattr(sweep_cluster, "connect", lambda *_: contextlib.nullcontext())
    monkeypatch.setattr(sweep_cluster, "results", run_elsewhere)
    rows = sweep.sweep({"seed": [0, 1]}, notebooks=[toy], folder=tmp_path / "sweep", timeout=7)
    assert given == [[str(toy), "--timeout", "7"]]
    assert [row["scores"] for row in rows] == [{}, {}]
    assert all("update its clone" in row["status"] for row in rows)


# Halving


def train(folder, scores, epochs=8):
    """Write the state of a run after len(scores) of so many epochs; None: not validated."""
    history = [{"epoch": number, "loss": 1.0} | ({} if score is None else {"val_mean_iou": score})
               for number, score in enumerate(scores, 1)]
    (folder / "training").mkdir(parents=True, exist_ok=True)
    np.savez(folder / "training" / "state.npz", history=json.dumps(history), state0=np.zeros(3),
             parameters=json.dumps({"epochs": epochs}))


def test_progress_is_that_of_the_first_validation_after_a_share_of_the_epochs(tmp_path):
    assert halving.score_at(tmp_path, 1 / 4) is None
    train(tmp_path, [0.1, 0.3, 0.2, 0.9])
    assert (halving.score_at(tmp_path, 1 / 4) == (2, 0.3)
            and halving.score_at(tmp_path, 1 / 2) == (4, 0.9))
    assert halving.score_at(tmp_path, 1) is None
    train(tmp_path, [None, None, 0.4], epochs=4)  # validated late
    assert halving.score_at(tmp_path, 1 / 4) == (3, 0.4)
    train(tmp_path, [None, float("nan"), None, None])
    assert halving.score_at(tmp_path, 1 / 4) is None
    (tmp_path / "training" / "state.npz").write_bytes(b"PK\x03\x04 broken")
    assert halving.score_at(tmp_path, 1 / 4) is None


def halved(points, curves, failing=()):
    """What `halve` yields, and the (name, share) it ran; curves: name -> the scores of 8 epochs."""
    ran, trained = [], {}

    def run(some, share=1):
        for point in reversed(some):  # they end in any order
            name = point.folder.name
            ran.append((name, share))
            trained[name] = math.ceil(8 * share)
            train(point.folder, curves[name][:trained[name]])
            yield point, "it broke" if name in failing else ""

    return {point.folder.name: why
            for point, why in halving.halve(points, points, run)}, ran, trained


def test_the_best_half_trains_on_twice(tmp_path):
    points = [Point(tmp_path / name, {}, {}) for name in "abcdefg"]
    curves = {name: [rate * epoch / 8 for epoch in range(1, 9)]
              for name, rate in zip("abcdefg", (0.1, 0.7, 0.3, 0.2, 0.6, 0.4, 0.5))}
    curves["d"] = [0.01, 0.02] + [0.9] * 6  # it would have won, but starts late
    ended, _, trained = halved(points, curves)
    assert trained == dict(a=2, b=8, c=2, d=2, e=8, f=4, g=4)
    assert {name for name, why in ended.items() if why == ""} == {"b", "e"}
    assert ended["g"] == (1 / 2, 4, 0.25) and ended["d"] == (1 / 4, 2, 0.02)


def test_halving_again_trains_nothing_twice_and_a_failure_takes_no_place(tmp_path):
    points = [Point(tmp_path / name, {}, {}) for name in "abcd"]
    curves = {name: [rate] * 8 for name, rate in zip("abcd", (0.1, 0.4, 0.3, 0.2))}
    ended, _, trained = halved(points, curves, failing="b")
    assert ended == {"a": (1 / 4, 2, 0.1), "b": "it broke", "c": "", "d": (1 / 2, 4, 0.2)}
    again, ran, _ = halved(points, curves)
    assert (ran == [("b", 1 / 2), ("b", 1)]
            and again == {"a": (1 / 4, 2, 0.1), "b": "", "c": (1 / 2, 4, 0.3),
                          "d": (1 / 4, 2, 0.2)})


def test_finished_points_are_compared_but_neither_run_nor_stopped(tmp_path):
    points = [Point(tmp_path / name, {}, {}) for name in "abcd"]
    for point, score in zip(points, (0.1, 0.2, 0.3, 0.4)):
        train(point.folder, [score] * (4 if point in points[1:3] else 8))
    ran = []
    ended = halving.halve(points, points[1:3], lambda some,
                          share=1: ran.extend((p, share) for p in some) or [])
    assert list(ended) == [(points[1], (1 / 4, 2, 0.2)), (points[2], (1 / 2, 4, 0.3))] and ran == []


def test_stopped_points_rank_below_those_that_went_on_and_do_not_fail(tmp_path,
                                                                      monkeypatch, capsys):
    points = results(tmp_path, ({"rate": 1}, 0.5), ({"rate": 2}, None), ({"rate": 3}, None),
                     ({"rate": 4}, None))
    monkeypatch.setattr(sweep, "_is_finished", lambda *_: True)
    # Of different lengths in all: who came into the second round trained fewer epochs.
    ended = [(points[3], "it broke"), (points[1], (1 / 4, 10, 0.9)),
             (points[2], (1 / 2, 4, 0.6)), (points[0], "")]
    rows = sweep._collect(points, points, ended, [], tmp_path)
    assert [row["point"] for row in rows] == ["p0", "p2", "p1", "p3"]
    assert [row["status"] for row in rows] == ["finished", "stopped after 4 epochs",
                                               "stopped after 10 epochs",
                                               "it broke"]
    said = capsys.readouterr().out
    assert "stopped after 10 epochs" in said and "0.900 on val" in said
    assert said.count("FAILED") == 1
    text = sweep_board.table(rows).splitlines()
    assert text[0] == "ranked by mean IoU on val"
    assert text[3].split() == ["2.", "3", "0.600", "66", "s", "stopped", "after", "4", "epochs"]
    assert (text[5] == "p3: it broke"
            and list(map(sweep_board.has_failed, rows)) == [False, False, False, True])
    assert "p1,2,val,0.9,65.5,stopped after 10 epochs" in (tmp_path / "leaderboard.csv").read_text()
    assert ([label.get_text()
             for label in sweep_board.figure(rows).axes[0].get_yticklabels()] == ["rate=1"])


def test_halving_without_scores_per_epoch_is_refused(toy, tmp_path, capsys):
    assert (sweep.main([str(toy), "-p", "seed=0,1", "--halving", "--run-dir",
                        str(tmp_path / "new")]) == 1)
    assert "--halving needs" in capsys.readouterr().err and not (tmp_path / "new").exists()
    points = [Point(tmp_path / "a", {}, {})]
    with pytest.raises(RunError, match="--halving needs"):
        list(halving.halve(points, points, lambda some, share=1: [(point, "") for point in some]))


# Test, for the best point alone


@pytest.fixture
def scored(tmp_path, monkeypatch):
    """A sweep's folder with two points, its rows, and what 04 was asked for; it scores 0.5."""
    points = results(tmp_path, ({"seed": 0}, 0.4), ({"seed": 1}, 0.6))
    for point in points:
        runs.write_json(point.folder / "run.json", {
            "parameters": {"dataset": "meadow", "data_dir": "", "split": "val"}, "notebooks": {}})
        for name in ("model.keras", "model.json"):
            (point.folder / name).write_text(f"{name} of {point.folder.name}")
    asked = []

    def run_notebooks(notebooks, parameters, folder, timeout):
        asked.append((notebooks, parameters, folder, (folder / "model.keras").read_text()))
        runs.write_json(folder / "metrics.json", {"split": "test", "scores": {"mean_iou": 0.5}})

    monkeypatch.setattr(sweep, "run_notebooks", run_notebooks)
    return tmp_path, sweep_board.leaderboard(points, {}, ["seed"]), asked


def test_test_is_scored_for_the_best_point_in_a_folder_of_its_own(scored):
    folder, rows, asked = scored
    scores = sweep.score_test(rows, folder)
    assert scores == {"mean_iou": 0.5} and asked == [
        (["04"], {"dataset": "meadow", "data_dir": "", "split": "test"}, folder / "p1" / "test",
         "model.keras of p1")]
    assert json.loads((folder / "p1" / "metrics.json").read_text())["split"] == "val"
    assert not (folder / "p0" / "test").exists()


def test_test_is_scored_again_by_the_model_of_today(scored):
    folder, rows, asked = scored
    sweep.score_test(rows, folder)
    finished = folder / "p1" / "test" / "04_iou_evaluation.ipynb"
    finished.touch()  # it would be kept, with the scores of the earlier model
    (folder / "p1" / "model.keras").write_text("model.keras of p9")
    sweep.score_test(rows, folder)
    assert asked[1][3] == "model.keras of p9" and not finished.exists()


def test_without_score_or_model_nothing_is_scored(scored):
    folder, rows, asked = scored
    (folder / "p1" / "model.keras").unlink()
    with pytest.raises(RunError, match="p1 holds no model.keras"):
        sweep.score_test(rows, folder)
    with pytest.raises(RunError, match="no point has a score"):
        sweep.score_test([{**rows[0], "scores": {}, "status": "it failed"}], folder)
    assert asked == []


# What runs


def wait(done, seconds=120):
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, f"still not so after {seconds} s"
        time.sleep(0.1)


def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def kernels(folder):
    """The process numbers that the toy has written in a run folder."""
    return ([int(line) for line in (folder / "pids").read_text().split()]
            if (folder / "pids").exists() else [])


@pytest.fixture
def cluster(tmp_path):
    """A Dask scheduler's address and two workers, processes that end with the test."""
    file = tmp_path / "scheduler.json"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    started = [subprocess.Popen([sys.executable, "-m", "distributed.cli.dask_scheduler",
                                 "--host", "127.0.0.1", "--port", "0", "--no-dashboard",
                                 "--scheduler-file", file], **quiet)]
    try:
        wait(lambda: file.exists() and file.read_text().rstrip().endswith("}"))
        address = json.loads(file.read_text())["address"]
        started += [subprocess.Popen([sys.executable, "-m", "distributed.cli.dask_worker", address,
                                      "--nthreads", "1", "--no-nanny", "--no-dashboard"],
                                     cwd=tmp_path, **quiet)
                    for _ in range(2)]
        yield address, started[1:]
    finally:
        for process in started:
            process.kill()
            process.wait()


@pytest.mark.skipif(os.name == "nt", reason="Windows kills otherwise")
@pytest.mark.slow
def test_a_lost_workers_point_runs_elsewhere_and_a_failed_one_stops_nothing(toy, tmp_path,
                                                                            cluster, capfd):
    address, workers = cluster
    folder, go = tmp_path / "sweep", tmp_path / "go"
    shown = {}

    def kill_the_first_points_worker():
        wait(lambda: any(kernels(path) for path in folder.glob("rate=0.5*")))
        shown["lost"], = kernels(next(folder.glob("rate=0.5*")))
        # The worker that runs it is its grandparent: kernel, process of the point, worker.
        listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True)
        parents = dict(line.split() for line in listed.stdout.splitlines())
        owner = int(parents[parents[str(shown["lost"])]])
        next(worker for worker in workers if worker.pid == owner).kill()
        wait(lambda: gone(shown["lost"]))
        go.touch()

    killer = threading.Thread(target=kill_the_first_points_worker)
    killer.start()
    command = [str(toy), "-p", "seed=1", "-p", f"wait_for={go}", "--run-dir", str(folder)]
    code = sweep.main([*command, "-p", "rate=0.5,2", "--scheduler", address])
    killer.join()
    said = capfd.readouterr()
    assert code == 1 and "Traceback" not in said.out + said.err, said
    assert "mean IoU 0.260" in said.out
    failure = "rate=2.0  FAILED: notebook 01_toy, cell 6 of 8: ValueError: rate is too high"
    assert failure in said.out
    first, = folder.glob("rate=0.5*")
    assert (len(kernels(first)) == 2
            and all(gone(pid) for path in folder.glob("rate=*") for pid in kernels(path)))
    record = json.loads((first / "run.json").read_text())
    assert record["notebooks"]["01_toy"]["status"] == "finished"
    with open(folder / "leaderboard.csv", encoding="utf-8", newline="") as file:
        best, worst = csv.DictReader(file)
    assert (best["rate"], best["mean_iou"], best["status"]) == ("0.5", "0.26", "finished")
    assert ((worst["rate"], worst["mean_iou"]) == ("2.0", "")
            and "rate is too high" in worst["status"])
    assert (folder / "leaderboard.png").stat().st_size > 1000

    # no worker is asked
    assert sweep.main([*command, "-p", "rate=0.5", "--scheduler", "tcp://127.0.0.1:1"]) == 0
    assert "kept: mean IoU 0.260" in capfd.readouterr().out and len(kernels(first)) == 2


# Trains on from its state to the next rung of halving, and waits there to be stopped; scores after
# all 8 epochs.
TRAINING = """import json, time
from pathlib import Path
import numpy as np
state, history = Path(run_dir, "training", "state.npz"), []
state.parent.mkdir(exist_ok=True)
if state.exists():
    history = json.loads(str(np.load(state)["history"]))
begun = len(history)
for epoch in range(begun + 1, 9):
    history.append({"epoch": epoch, "val_mean_iou": rate * epoch, "begun": begun})
    np.savez(state.with_name("part.npz"), history=json.dumps(history),
             parameters=json.dumps({"epochs": 8}))
    state.with_name("part.npz").replace(state)
    if epoch in (2, 4):
        time.sleep(300)
scores = {"split": "val", "scores": {"mean_iou": rate * 8}}
Path(run_dir, "metrics.json").write_text(json.dumps(scores))"""


@pytest.mark.skipif(os.name == "nt", reason="Windows interrupts otherwise")
@pytest.mark.slow
def test_halving_stops_runs_at_their_rungs_and_the_winner_resumes(toy, tmp_path, capfd):
    notebook = nbformat.read(toy, as_version=4)
    notebook.cells[1:] = [nbformat.v4.new_code_cell(TRAINING)]
    notebook.cells[0].source += "\nepochs: int = 8"
    nbformat.write(notebook, tmp_path / "02_train.ipynb")
    command = [str(tmp_path / "02_train.ipynb"), "-p", "rate=0.05,0.1", "--halving",
               "--workers", "2",
               "--run-dir", str(tmp_path / "sweep")]
    assert sweep.main(command) == 0, capfd.readouterr()
    said = capfd.readouterr().out
    assert ("rate=0.05  stopped after 2 epochs: mean IoU 0.100 on val" in said
            and "rate=0.1  mean IoU 0.800" in said)
    histories = [json.loads(str(np.load(tmp_path / "sweep" / f"rate={rate}" / "training"
                                        / "state.npz")["history"]))
                 for rate in (0.05, 0.1)]
    assert ([[row["begun"] for row in history] for history in histories]
            == [[0, 0], [0, 0, 2, 2, 4, 4, 4, 4]])
    with open(tmp_path / "sweep" / "leaderboard.csv", encoding="utf-8", newline="") as file:
        best, stopped = csv.DictReader(file)
    assert ((best["rate"], best["status"]) == ("0.1", "finished")
            and stopped["status"] == "stopped after 2 epochs")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT to send to one process")
@pytest.mark.slow
def test_interrupt_leaves_nothing_running_and_the_folder_free(toy, tmp_path):
    folder = tmp_path / "sweep"
    command = [sys.executable, "-m", "tools.sweep", str(toy), "-p", "seed=1", "-p",
               f"wait_for={tmp_path / 'never'}",
               "--workers", "1", "--run-dir", str(folder)]
    process = subprocess.Popen(command, cwd=runs.ROOT, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True,
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    try:
        wait(lambda: any(kernels(path) for path in folder.glob("*")))
        place = next(folder.glob("*seed=1*"))
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130 and "The same command" in err and "Traceback" not in err + out
    assert gone(kernels(place)[0])
    with runs.lock(place), runs.lock(folder):
        assert (json.loads((place / "run.json").read_text())["notebooks"]["01_toy"]["status"]
                == "interrupted")
