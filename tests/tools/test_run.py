"""The runner, on toy notebooks that start a kernel and little else."""

import ast
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import numpy as np
import pytest
from filelock import FileLock
from papermill.exceptions import PapermillExecutionError
from PIL import Image

from tools import check
from tools import run as runner
from tools.execute import RunError, _Epochs, _reason
from tools.run import convert, main, run
from utils import runs

METADATA = {"kernelspec": {"name": "python3", "display_name": "P"},
            "language_info": {"name": "python"}}
SHARED = ("run_dir: str = ''\nepochs: int = 0  # 0: the recipe's\n"
          "learning_rate: float = 0.0\nname: str = 'x'")


def notebook(path: Path, *cells: str, parameters: str = SHARED) -> str:
    made = nbformat.v4.new_notebook(metadata=METADATA)
    made.cells = [nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})]
    made.cells += [nbformat.v4.new_code_cell(cell) for cell in cells]
    nbformat.write(made, path)
    return str(path)


def printed(path: Path) -> str:
    """Return all that the cells of an executed notebook printed."""
    executed = nbformat.read(path, as_version=4)
    outputs = [output for cell in executed.cells for output in cell.get("outputs", [])]
    return "".join(output.text for output in outputs if output.output_type == "stream")


def status(folder: Path) -> dict[str, str]:
    entries = json.loads((folder / "run.json").read_text(encoding="utf-8"))["notebooks"]
    return {stem: entry["status"] for stem, entry in entries.items()}


# What is refused before anything runs


@pytest.mark.parametrize("text, type_name, value", [
    ("1e-3", "float", 0.001), ("1E-3", "None", 0.001), ("5", "float", 5.0), ("010", "int", 10),
    ("1e3", "int", 1000), ("no", "str", "no"), ("007", "str", "007"), ("a: b", "str", "a: b"),
    ("'7'", "str", "7"), ("", "str", ""), ("a #2", "str", "a #2"), ("&x y", "str", "&x y"),
    ("yes", "bool", True), ("[1e-3, 2]", "list", [0.001, 2]), (3, "int", 3), (3, "float", 3.0),
    ("2026-01-01", "str", "2026-01-01"), ("C:\\data\\new", "str", "C:\\data\\new"),
])
def test_values_are_read_as_meant(text, type_name, value):
    got = convert("p", text, type_name)
    assert got == value and type(got) is type(value)


@pytest.mark.parametrize("text, type_name, kind", [
    ("many", "int", "a whole number"), ("2.5", "int", "a whole number"),
    ("yes", "int", "a whole number"),
    ("fast", "float", "a number"), ("1:30", "float", "a number"), ("2", "bool", "true or false"),
    ("0x10", "int", "a whole number"), ("0b11", "int", "a whole number"),
    ("1:30", "int", "a whole number"),
    ("inf", "int", "a whole number"), ("0x10", "float", "a number"),
    (True, "int", "a whole number"),
    ("", "int", "a whole"), (3, "str", "text"), ("{", "list", "a list"),
])
def test_values_of_another_type_are_refused(text, type_name, kind):
    with pytest.raises(RunError, match=f"Parameter epochs is .*must be {kind}"):
        convert("epochs", text, type_name)


def test_relative_folders_and_files_become_absolute(tmp_path, monkeypatch):
    (tmp_path / "photo.jpg").touch()
    monkeypatch.chdir(tmp_path)
    assert convert("data_dir", "data", "str") == str(tmp_path / "data")
    assert convert("photo", "photo.jpg", "str") == str(tmp_path / "photo.jpg")
    assert convert("dataset", "meadow", "str") == "meadow"
    assert convert("name", "a" * 300, "str") == "a" * 300  # longer than a file's name may be


def refused(argv: list[str], folder: Path, capsys) -> str:
    """Return the sentence with which the runner refuses `argv`; nothing may have been made."""
    assert main([*argv, "--run-dir", str(folder)]) == 1
    assert not folder.exists()
    said = capsys.readouterr()
    assert not said.out and "Traceback" not in said.err
    return said.err


def test_a_tilde_is_the_home_of_the_user(tmp_path, monkeypatch):
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    assert convert("data_dir", "~/photos", "str") == str(tmp_path / "photos")


def test_unknown_parameter_names_the_nearest(tmp_path, capsys):
    toy = notebook(tmp_path / "01_toy.ipynb")
    said = refused([toy, "-p", "learningrate", "1"], tmp_path / "run", capsys)
    assert "learningrate; did you mean 'learning_rate'?" in said
    assert "epochs, learning_rate, name, run_dir" in said
    assert "must be a whole number" in refused([toy, "-p", "epochs=ten"], tmp_path / "run", capsys)


@pytest.mark.parametrize("name, value", [
    ("seed", "-1"), ("seed", "1099511627776"), ("learning_rate", "nan"), ("learning_rate", "inf"),
    ("learning_rate", "-1"), ("image_size", "31"), ("image_size", "10000"), ("epochs", "-3"),
    ("batch_size", "-1"),
])
def test_numbers_that_cannot_be_are_refused(name, value, tmp_path, capsys):
    shared = "run_dir: str = ''\nseed: int = 0\nlearning_rate: float = 0.0\nimage_size: int = 0\n"
    toy = notebook(tmp_path / "01_toy.ipynb",
                   parameters=f"{shared}epochs: int = 0\nbatch_size: int = 0")
    said = refused([toy, "-p", name, value], tmp_path / "run", capsys)
    assert f"{name} is {value.removesuffix('.0')}" in said and "expected" in said


@pytest.mark.parametrize("seconds", ["0", "-5"])
def test_a_timeout_that_cannot_be_is_refused(seconds, tmp_path, capsys):
    toy = notebook(tmp_path / "01_toy.ipynb")
    assert (f"--timeout is {seconds}" in refused([toy, "--timeout", seconds],
                                                 tmp_path / "run", capsys))


@pytest.mark.parametrize("argv", [["-p"], ["-p", "epochs"], ["-p", "=5"],
                                  ["-p", "seed=0", "-p", "seed=1", "--timeout", "0"],
                                  ["--param", "epochs", "5", "--timeout", "0"]])
def test_parameters_that_would_be_lost_are_refused(argv, capsys):
    assert main(argv) == 1
    assert "-p epochs 5, or -p epochs=5" in capsys.readouterr().err


def test_a_data_set_given_in_two_ways_is_refused(tmp_path, capsys):
    toy = notebook(tmp_path / "01_toy.ipynb")
    said = refused([toy, "-p", "dataset=voc", "--dataset", "meadow"], tmp_path / "run", capsys)
    assert "dataset is given twice" in said


def test_own_data_are_not_trained_as_meadow(shared_voc, tmp_path, capsys):
    toy = notebook(tmp_path / "01_toy.ipynb", parameters='dataset: str = "meadow"\n'
                                                         'data_dir: str = ""')
    said = refused([toy, "--data-dir", str(shared_voc)], tmp_path / "run", capsys)
    assert "--dataset voc" in said


def test_unknown_unreadable_and_clashing_notebooks(tmp_path, capsys):
    (tmp_path / "other").mkdir()
    one, two = notebook(tmp_path / "01_toy.ipynb"), notebook(tmp_path / "other" / "01_toy.ipynb")
    broken = tmp_path / "02_broken.ipynb"
    broken.write_text("{")
    derived = notebook(tmp_path / "03_derived.ipynb", parameters="epochs: int = 2 * 3")
    assert "There is no notebook 77" in refused(["77"], tmp_path / "run", capsys)
    assert "would both become 01_toy.ipynb" in refused([one, two], tmp_path / "run", capsys)
    assert "02_broken.ipynb: cannot read" in refused([str(broken)], tmp_path / "run", capsys)
    assert "03_derived.ipynb: cannot read" in refused([derived], tmp_path / "run", capsys)


def test_a_mistyped_path_is_not_a_notebook_of_the_repository(tmp_path):
    with pytest.raises(RunError, match="no notebook"):
        runner.find_notebooks([str(tmp_path / "03_training.ipynb")])


def test_notebooks_are_found_by_number_name_and_path_in_order(tmp_path, monkeypatch):
    for stem in ("01_first", "02_second"):
        notebook(tmp_path / f"{stem}.ipynb")
    monkeypatch.setattr(runner, "NOTEBOOKS", tmp_path)
    paths = [tmp_path / "01_first.ipynb", tmp_path / "02_second.ipynb"]
    assert runner.find_notebooks(["2", "01"]) == paths
    assert runner.find_notebooks(["02_second", str(paths[0]), "01"]) == paths
    (tmp_path / "appendix").mkdir()
    notebook(tmp_path / "appendix" / "A1_more.ipynb")
    assert (runner.find_notebooks(["A1", "02"])
            == [paths[1], tmp_path / "appendix" / "A1_more.ipynb"])
    with pytest.raises(RunError, match="did you mean '02_second'?"):
        runner.find_notebooks(["02_secnod"])


def test_folder_that_cannot_be_used(tmp_path, monkeypatch, capsys):
    toy = notebook(tmp_path / "01_toy.ipynb")
    (tmp_path / "file").touch()
    assert main([toy, "--run-dir", str(tmp_path / "file")]) == 1
    assert str(tmp_path / "file") in capsys.readouterr().err
    assert main([toy, "--run-dir", str(tmp_path / "file" / "run")]) == 1
    assert str(tmp_path / "file") in capsys.readouterr().err
    # would overwrite the notebook with its own execution
    assert main([toy, "--run-dir", str(tmp_path)]) == 1
    assert "01_toy.ipynb" in capsys.readouterr().err and not (tmp_path / "run.json").exists()

    def forbidden(**options):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(runs.tempfile, "TemporaryFile", forbidden)
        assert main([toy, "--run-dir", str(tmp_path / "run")]) == 1
    said = capsys.readouterr().err
    assert str(tmp_path / "run") in said and "Permission denied" in said


@pytest.mark.parametrize("name", ["", "..", "a/b", "a\\b", "C:x"])
def test_name_must_be_a_plain_folder_name(name, capsys):
    assert main(["--name", name, "01"]) == 1
    assert "plain folder name" in capsys.readouterr().err


def test_a_name_and_a_folder_exclude_each_other(capsys):
    with pytest.raises(SystemExit):
        main(["--name", "a", "--run-dir", "b", "01"])
    assert "not allowed with" in capsys.readouterr().err


def test_default_run_folder_follows_name_data_set_and_environment(monkeypatch):
    def folder(*argv):
        return runner._options(list(argv))[2]

    all_runs = runs.ROOT / "results" / "runs"
    assert folder() == ""  # FCN_RUN_DIR, which conftest.py sets
    assert folder("--name", "a") == all_runs / "a"
    monkeypatch.delenv("FCN_RUN_DIR")
    assert folder() == all_runs / "meadow"
    assert folder("--dataset", "camvid") == folder("-p", "dataset=camvid") == all_runs / "camvid"
    assert folder("-p", "dataset", "../mine") == all_runs / "..-mine"
    assert folder("--run-dir", "here") == "here"


def test_data_set_is_looked_for_before_the_first_notebook(tmp_path, capsys):
    parameters = 'dataset: str = "meadow"\ndata_dir: str = ""'
    toy = notebook(tmp_path / "01_toy.ipynb", "1", parameters=parameters)
    assert main([toy, "--dataset", "meadows", "--run-dir", str(tmp_path / "run")]) == 1
    assert "did you mean 'meadow'" in capsys.readouterr().err
    assert (main([toy, "--dataset", "voc", "--data-dir", str(tmp_path), "--run-dir",
                  str(tmp_path / "run")]) == 1)
    assert "holds no voc data" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_published_copy_in_its_own_layout_is_converted_and_read_from_there(tmp_path,
                                                                             monkeypatch, capsys):
    """The notebooks, which read VOC's layout only, get the converted folder."""
    for split in ("train", "val"):
        for folder, pixels in ((split, np.zeros((4, 5, 3), np.uint8)),
                               (f"{split}annot", np.full((4, 5), 11, np.uint8))):
            (tmp_path / "SegNet" / folder).mkdir(parents=True)
            Image.fromarray(pixels).save(tmp_path / "SegNet" / folder / f"0001TP_{split}.png")
        (tmp_path / "SegNet"
         / f"{split}.txt").write_text(f"/a/{split}/0001TP_{split}.png /a/b.png\n")
    monkeypatch.setenv("FCN_DATA_DIR", str(tmp_path / "data"))
    code = "from utils import datasets\nprint(datasets.load_dataset(dataset, data_dir).root)"
    toy = notebook(tmp_path / "01_toy.ipynb", code, parameters=OWN)
    command = [toy, "--dataset", "camvid", "--data-dir", str(tmp_path / "SegNet"), "--run-dir",
               str(tmp_path / "run")]
    assert main(command) == 0
    assert printed(tmp_path / "run" / "01_toy.ipynb").strip() == str(tmp_path / "data" / "camvid")
    assert str(tmp_path / "SegNet") in capsys.readouterr().err
    assert main(command) == 0 and "kept" in capsys.readouterr().out


# What runs


def test_each_notebook_gets_what_it_declares(tmp_path, monkeypatch, capsys):
    """From another folder, with braces in a relative run folder, which papermill would format."""
    one = notebook(tmp_path / "01_one.ipynb",
                   "import os, sys\nprint(epochs, learning_rate)\nprint(run_dir, os.getcwd())",
                   "print(sys.executable)", "print('epoch 1/1  loss 0.5\\nnot shown')")
    two = notebook(tmp_path / "02_two.ipynb", "print(run_dir, seed)",
                   parameters="run_dir: str = ''\nseed: int = 0")
    elsewhere = tmp_path / "else where"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert (main([two, "-p", "epochs", "3", one, "-p", "learning_rate=1e-3", "--run-dir",
                  "{run}"]) == 0)
    folder = elsewhere / "{run}"
    lines = printed(folder / "01_one.ipynb").splitlines()
    assert lines[:3] == ["3 0.001", f"{folder} {tmp_path}", sys.executable]
    assert printed(folder / "02_two.ipynb").strip() == f"{folder} 0"
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    assert record["parameters"] == {"epochs": 3, "learning_rate": 0.001, "name": "x", "seed": 0}
    assert status(folder) == {"01_one": "finished", "02_two": "finished"}
    assert record["versions"]["papermill"] and record["machine"]["cores"]
    assert record["notebooks"]["01_one"]["seconds"] > 0
    said = capsys.readouterr()
    assert ("\n    epoch 1/1  loss 0.5\n" in said.out and "not shown" not in said.out
            and not said.err)
    assert "epochs=3, learning_rate=0.001; the others" in said.out and "[2/2] 02_two" in said.out
    assert "run folder  {run}" in said.out
    assert {path.name for path in elsewhere.iterdir()} == {"{run}"}


def test_what_nobody_gave_is_left_to_each_notebook(tmp_path, monkeypatch):
    """Two notebooks may have other defaults for one parameter."""
    got = {}
    monkeypatch.setattr(runner, "execute", lambda path, output, values, timeout: (
        got.update({path.stem: values}), output.touch()))
    one = notebook(tmp_path / "01_one.ipynb")
    two = notebook(tmp_path / "02_two.ipynb", parameters="run_dir: str = ''\nepochs: int = 7")
    run([one, two], {"learning_rate": "1e-3"}, tmp_path / "run")
    folder = str(tmp_path / "run")
    assert got == {"01_one": {"run_dir": folder, "learning_rate": 0.001},
                   "02_two": {"run_dir": folder}}


def test_same_folder_resumes_keeps_and_refuses(tmp_path, capsys):
    """A broken run goes on; changed code runs again; other parameters are refused."""
    folder, mended = tmp_path / "run", tmp_path / "mended"
    one = notebook(tmp_path / "01_one.ipynb", "open(f'{run_dir}/log', 'a').write('1')")
    two = notebook(tmp_path / "02_two.ipynb", f"open(r'{mended}').close()",
                   "open(f'{run_dir}/log', 'a').write('2')")
    three = notebook(tmp_path / "03_three.ipynb", "open(f'{run_dir}/log', 'a').write('3')")
    command = [one, two, three, "--run-dir", str(folder)]
    assert main(command) == 1
    assert (folder / "log").read_text() == "1"
    assert status(folder) == {"01_one": "finished", "02_two": "failed"}
    assert (folder / "02_two.ipynb").exists() and not (folder / "03_three.ipynb").exists()
    mended.touch()
    assert main(command) == 0 and (folder / "log").read_text() == "123"
    assert "01_one                    kept" in capsys.readouterr().out
    assert main(command) == 0 and (folder / "log").read_text() == "123"
    assert capsys.readouterr().out.count("kept") == 3

    assert main([*command, "-p", "epochs", "7"]) == 1
    said = capsys.readouterr().err
    assert "epochs was 0 and is now 7" in said and "--name" in said
    assert (folder / "log").read_text() == "123"

    notebook(tmp_path / "03_three.ipynb", "open(f'{run_dir}/log', 'a').write('three')")
    assert main(command) == 0 and (folder / "log").read_text() == "123three"
    (folder / "run.json").write_text("{")
    assert main(command) == 1 and "run.json is damaged" in capsys.readouterr().err


def test_running_a_notebook_again_makes_later_ones_stale(tmp_path, monkeypatch):
    executed = []
    monkeypatch.setattr(
        runner, "execute", lambda path, output, *more: (executed.append(path.stem), output.touch()))
    paths = [notebook(tmp_path / f"{stem}.ipynb") for stem in ("01_one", "02_two", "03_three")]
    run(paths, run_dir=tmp_path / "run")
    notebook(tmp_path / "02_two.ipynb", "1")
    run(paths[1:2], run_dir=tmp_path / "run")
    assert status(tmp_path / "run") == {"01_one": "finished", "02_two": "finished"}
    run(paths, run_dir=tmp_path / "run")
    assert executed == ["01_one", "02_two", "03_three", "02_two", "03_three"]


@pytest.fixture
def executed(monkeypatch):
    """The notebooks that were executed, by a stand-in that makes an empty file of each."""
    stems = []
    monkeypatch.setattr(
        runner, "execute", lambda path, output, *more: (stems.append(path.stem), output.touch()))
    return stems


def test_a_notebook_whose_result_is_gone_runs_again(tmp_path, executed):
    paths = [notebook(tmp_path / f"{stem}.ipynb") for stem in ("01_one", "02_two")]
    run(paths, run_dir=tmp_path / "run")
    (tmp_path / "run" / "02_two.ipynb").unlink()
    run(paths, run_dir=tmp_path / "run")
    assert executed == ["01_one", "02_two", "02_two"]


def test_a_notebook_that_was_cut_off_runs_again(tmp_path, monkeypatch, executed):
    """By a full disk, or a kill while papermill wrote it."""
    def cut(path, output, *more):
        output.write_text("{")
        raise RunError("No space left on device.")

    path, whole = notebook(tmp_path / "01_one.ipynb"), runner.execute
    monkeypatch.setattr(runner, "execute", cut)
    assert main([path, "--run-dir", str(tmp_path / "run")]) == 1
    monkeypatch.setattr(runner, "execute", whole)
    assert main([path, "--run-dir", str(tmp_path / "run")]) == 0 and executed == ["01_one"]


def test_a_change_in_utils_makes_a_result_stale_and_one_in_prose_does_not(
        tmp_path, monkeypatch, executed):
    path = Path(notebook(tmp_path / "01_one.ipynb", "1"))
    monkeypatch.setattr(runs, "ROOT", put(tmp_path / "copy", "utils/metrics.py"))
    run([path], run_dir=tmp_path / "run")
    with_prose = nbformat.read(path, as_version=4)
    with_prose.cells.insert(0, nbformat.v4.new_markdown_cell("Read this first."))
    nbformat.write(with_prose, path)
    run([path], run_dir=tmp_path / "run")
    assert executed == ["01_one"]
    put(tmp_path / "copy", "utils/metrics.py", b"another score")
    run([path], run_dir=tmp_path / "run")
    assert executed == ["01_one"] * 2


def test_a_training_under_way_is_not_continued_with_other_parameters(tmp_path, monkeypatch):
    """Before anything has finished: the state of epochs that are done is what would be lost."""
    def execute(path, output, *more):
        raise RunError("the disk is full")

    monkeypatch.setattr(runner, "execute", execute)
    toy, folder = notebook(tmp_path / "01_toy.ipynb"), tmp_path / "run"
    for epochs in (3, 4):  # nothing was begun: other parameters are welcome
        with pytest.raises(RunError, match="disk is full"):
            run([toy], {"epochs": epochs}, folder)
    put(folder, "training/state.npz")
    with pytest.raises(RunError, match="epochs was 4 and is now 5"):
        run([toy], {"epochs": 5}, folder)


def test_failing_notebook_is_reported_on_one_screen(tmp_path, capsys):
    cell = "\n".join(["value = 1"] * 40 + [
        "raise ValueError('photo.jpg: found 3 sizes, expected 1\\n' + 'x\\n' * 90)"])
    bad = notebook(tmp_path / "01_bad.ipynb", "print('fine')", cell, "print('never')")
    after = notebook(tmp_path / "02_after.ipynb")
    folder = tmp_path / "run"
    assert main([bad, after, "--run-dir", str(folder)]) == 1
    said = capsys.readouterr().err
    # as Jupyter counts, with the injected parameters
    assert "Notebook 01_bad failed in cell 4 of 5" in said
    assert "ValueError: photo.jpg: found 3 sizes, expected 1" in said
    assert "> raise ValueError" in said and str(folder / "01_bad.ipynb") in said
    assert len(said.splitlines()) <= 45 and "site-packages" not in said
    left = nbformat.read(folder / "01_bad.ipynb", as_version=4)
    assert ("fine" in printed(folder / "01_bad.ipynb")
            and "never" not in printed(folder / "01_bad.ipynb"))
    assert any(cell.get("execution_count") == 4 for cell in left.cells)
    assert not (folder / "02_after.ipynb").exists() and status(folder) == {"01_bad": "failed"}


@pytest.mark.parametrize("marked", ["Cell In[3], line 2\n", "Cell In [3], line 2\n",
                                    "<ipython-input-3-0123456789ab> in <module>\n"
                                    "      1 one = 1\n----> 2 one / 0\n      3 two = 2\n"])
def test_the_failing_line_is_found_as_each_ipython_marks_it(marked):
    error = PapermillExecutionError(1, 3, "", "ZeroDivisionError", "division by zero", [marked])
    assert _reason(error) == ("ZeroDivisionError: division by zero", 2)


@pytest.mark.parametrize("cell, reason", [
    ("import os\nos._exit(9)", "kernel died"),
    ("import time\ntime.sleep(60)", "ran longer than 2 seconds"),
    ("import sys\nsys.exit(0)", "ended the notebook before its last cell"),
    ("raise SystemExit('Install Python 3.11.')", "\n\nInstall Python 3.11.\n"),
    ("import no_such_package", "pip install -r requirements/core.txt"),
])
def test_other_ways_to_fail(cell, reason, tmp_path, capfd, caplog):
    """papermill itself calls the first three completed."""
    bad = notebook(tmp_path / "01_bad.ipynb", cell, "print('never')")
    assert main([bad, "--run-dir", str(tmp_path / "run"), "--timeout", "2"]) == 1
    said = capfd.readouterr()
    assert reason in said.err and "cell 3 of 4" in said.err and cell.splitlines()[0] in said.err
    assert "Traceback" not in said.err and "ERROR" not in said.err + said.out and not caplog.records
    assert (status(tmp_path / "run") == {"01_bad": "failed"}
            and (tmp_path / "run" / "01_bad.ipynb").exists())


def test_locked_folder_is_refused_and_a_dead_lock_is_not(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(runner, "execute", lambda path, output, *more: output.touch())
    toy, folder = notebook(tmp_path / "01_toy.ipynb"), tmp_path / "run"
    folder.mkdir()
    with FileLock(folder / ".lock"):
        assert main([toy, "--run-dir", str(folder)]) == 1
    said = capsys.readouterr().err
    assert str(folder) in said and "in use" in said and not status(folder)
    (folder / ".lock").touch()
    assert main([toy, "--run-dir", str(folder)]) == 0


def heed_interrupts() -> None:
    """A shell's background jobs ignore SIGINT, and so do their children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.skipif(os.name != "posix", reason="Windows has no SIGINT to send to one process")
def test_interrupt_stops_runner_and_kernel(tmp_path):
    cell = ("import os, time\nopen('pid.part', 'w').write(str(os.getpid()))\n"
            "os.rename('pid.part', 'pid')\ntime.sleep(99)")
    toy, folder, pid = notebook(tmp_path / "01_toy.ipynb", cell), tmp_path / "run", tmp_path / "pid"
    process = subprocess.Popen([sys.executable, "-m", "tools.run", toy, "--run-dir", str(folder)],
                               cwd=runs.ROOT, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True,
                               preexec_fn=heed_interrupts if os.name == "posix" else None)
    try:
        wait(pid.exists, 60)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130 and "The same command" in err and "Traceback" not in err + out
    assert status(folder) == {"01_toy": "interrupted"}

    def gone() -> bool:
        try:
            os.kill(int(pid.read_text()), 0)
        except ProcessLookupError:
            return True
        return False

    wait(gone, 10)


def wait(done, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, f"still not so after {seconds} s"
        time.sleep(0.1)


# The user's own data are looked at first

OWN = "run_dir: str = ''\ndataset: str = 'meadow'\ndata_dir: str = ''"


@pytest.fixture
def own(tmp_path, make_voc, monkeypatch):
    """A function that runs the command on a folder of the user's, and the folder."""
    monkeypatch.setattr(runner, "execute", lambda path, output, *more: output.touch())
    toy, voc = notebook(tmp_path / "01_toy.ipynb", parameters=OWN), make_voc(tmp_path / "voc")

    def command() -> int:
        return main([toy, "--dataset", "voc", "--data-dir", str(voc), "--run-dir",
                     str(tmp_path / "run")])

    return command, voc


def test_faults_of_own_data_stop_the_run_before_its_first_notebook(own, tmp_path, capsys):
    command, voc = own
    (voc / "JPEGImages" / "train1.png").write_bytes(b"")
    (voc / "SegmentationClass" / "train2.png").unlink()
    assert command() == 1
    said = capsys.readouterr()
    assert ("train1.png: the file is empty" in said.err and "train2.png" in said.err
            and "errors: 2" in said.err)
    assert not said.out and "Traceback" not in said.err and not (tmp_path / "run").exists()


def test_at_most_twenty_faults_are_listed(own, make_voc, capsys):
    command, voc = own
    make_voc(voc, {"train": 30, "val": 2})
    for mask in (voc / "SegmentationClass").glob("train*.png"):
        mask.unlink()
    assert command() == 1
    said = capsys.readouterr().err
    assert ("errors: 30" in said and "10 more" in said
            and len(re.findall(r"train\d+\.png", said)) == 20)


def test_warnings_about_own_data_are_printed_once_and_the_run_goes_on(own, tmp_path,
                                                                      monkeypatch, capsys):
    command, voc = own
    make_small = Image.new("RGB", (20, 20), (90, 140, 60))
    make_small.save(voc / "JPEGImages" / "train0.png")
    Image.fromarray(np.uint8(np.eye(20))).save(voc / "SegmentationClass" / "train0.png")
    assert command() == 0
    said = capsys.readouterr().out
    assert "warnings: 1" in said and "train0.png: the photo is only 20x20" in said
    assert (said.index("train0.png") < said.index("01_toy")
            and status(tmp_path / "run") == {"01_toy": "finished"})
    read = []
    look_at = check.look_at
    monkeypatch.setattr(check, "look_at", lambda *given: read.append(given) or look_at(*given))
    assert command() == 0 and not read and "train0.png" not in capsys.readouterr().out
    (voc / "JPEGImages" / "val0.png").write_bytes(b"")
    # files that have changed are read again
    assert command() == 1 and read and "val0.png" in capsys.readouterr().err


def test_corrected_masks_make_results_stale(own, tmp_path, monkeypatch):
    (command, voc), executed = own, []
    monkeypatch.setattr(runner, "execute",
                        lambda path, output, *more: (executed.append(path.stem), output.touch()))
    assert command() == command() == 0 and executed == ["01_toy"]
    file = voc / "SegmentationClass" / "train0.png"
    mask = Image.open(file)
    mask.putpixel((0, 0), 1)
    mask.save(file)
    assert command() == 0 and executed == ["01_toy"] * 2


def test_published_data_are_not_read_before(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "execute", lambda path, output, *more: output.touch())
    monkeypatch.setattr(check, "look_at", lambda *_: pytest.fail("a photo was read"))
    assert (main([notebook(tmp_path / "01_toy.ipynb", parameters=OWN), "--run-dir",
                  str(tmp_path / "run")]) == 0)


# What is shown


def test_only_lines_of_training_are_shown_whole(capsys):
    shown = _Epochs()
    for piece in ("epo", "ch 1/2  loss 0.5\nother\nepoch 2", "/2\n"):
        shown.write(piece)
    assert capsys.readouterr().out.splitlines() == ["    epoch 1/2  loss 0.5", "    epoch 2/2"]


def test_summary_shows_scores_and_where_to_look(tmp_path):
    runs.write_json(tmp_path / "run.json", {"notebooks": {"03_training": {"seconds": 119.6}}})
    assert "iou" not in runner.summary(tmp_path)
    runs.write_json(tmp_path / "metrics.json", {
        "dataset": "meadow", "split": "test", "images": 80, "oracles": {"bilinear": 0.75},
        "baseline_mean_iou": 0.06, "fraction_of_bilinear_oracle": 0.9,
        "scores": {"pixel_accuracy": 0.95, "mean_iou": 0.675}})
    (tmp_path / "model.keras").touch()
    said = runner.summary(tmp_path)
    for words in ("meadow, test split, 80 images", "0.90 of 0.750", "0.950", "0.060"):
        assert words in said
    assert str(tmp_path / "model.keras") in said and "figures" not in said


def test_durations_in_words():
    assert [runner.duration(seconds) for seconds in (44.6, 119.6)] == ["45 s", "2 min 00 s"]


def test_help_has_examples(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0 and "--dataset camvid --data-dir DIR" in capsys.readouterr().out


# What the runner needs


def test_wrong_python_and_missing_packages_get_one_sentence(monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(sys, "version_info", (3, 10, 4))
        with pytest.raises(SystemExit, match="3.11 to 3.13, and this is Python 3.10"):
            importlib.reload(runner)
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "papermill", None)
        with pytest.raises(SystemExit, match="papermill.*make run"):
            importlib.reload(runner)
    importlib.reload(runner)


def test_python_range_is_the_one_of_pyproject():
    import tomllib

    project = tomllib.loads((runs.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    source = ast.parse((runs.ROOT / "tools" / "run.py").read_text(encoding="utf-8"))
    check = next(node for node in source.body if isinstance(node, ast.If))
    numbers = [node.value for node in ast.walk(check.test) if isinstance(node, ast.Constant)]
    first, last = sorted(number for number in numbers if isinstance(number, int) and number > 3)
    assert project["requires-python"] == f">=3.{first},<3.{last + 1}"


# utils.runs


def test_run_folder_takes_parameter_then_environment_then_default(tmp_path, monkeypatch):
    monkeypatch.setenv("FCN_RUN_DIR", str(tmp_path / "environment"))
    assert runs.run_folder(tmp_path / "given" / "deep") == tmp_path / "given" / "deep"
    assert runs.run_folder() == tmp_path / "environment" and (tmp_path / "environment").is_dir()
    monkeypatch.delenv("FCN_RUN_DIR")
    monkeypatch.setattr(runs, "ROOT", tmp_path)
    assert runs.run_folder("") == tmp_path / "results" / "runs" / "default"


# Nothing of the user's is replaced


def contents(folder: Path) -> dict[str, bytes | None]:
    """Return the bytes of each file below `folder`, None for folders."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
            for path in folder.rglob("*")}


def put(folder: Path, name: str, content: bytes = b"the user's") -> Path:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize("name", [
    "masks/one.png", "Masks/one.png", "figures/iou.png", "photos/one.jpg",
    "model.keras", "model.json",
    "model.weights.h5", "history.json", "metrics.json", "recipe.json", "training/state.npz",
    "tensorboard/train/events", "fcn32s.keras", "fcn16s/model.keras", "own-1/classes.txt",
    "deployment/visit/one.jpg", "sweeps/rates/leaderboard.csv", "leaderboard.csv",
    "03_training.ipynb",
])
def test_folder_with_files_of_the_users_is_refused(name, tmp_path, monkeypatch, capsys):
    toy = notebook(tmp_path / "01_toy.ipynb", "open(f'{run_dir}/made', 'w').write('1')")
    own = put(put(tmp_path / "own", name), "notes.txt")
    before = contents(own)
    with pytest.raises(FileExistsError, match=f"own .*{name.split('/')[0]}"):
        runs.run_folder(own)
    monkeypatch.setenv("FCN_RUN_DIR", str(own))
    with pytest.raises(FileExistsError):
        runs.run_folder()
    for argv in ([toy], [toy, "-p", "run_dir", str(own)], [toy, "--run-dir", str(own)]):
        assert main(argv) == 1
        said = capsys.readouterr().err
        assert str(own) in said and name.split("/")[0] in said and "Traceback" not in said
    assert contents(own) == before


def test_other_files_of_the_users_stay_as_they_are(tmp_path):
    toy = notebook(tmp_path / "01_toy.ipynb", "open(f'{run_dir}/metrics.json', 'w').write('{}')")
    own = put(put(tmp_path / "own", "notes.txt"), "holiday/one.jpg")
    before = contents(own)
    folder = run([toy], run_dir=own)
    assert (folder == own and contents(own).items() >= before.items()
            and status(own) == {"01_toy": "finished"})
    assert runs.run_folder(own) == own  # that holds the run's metrics.json now


def test_new_folder_is_marked_for_the_next_notebook(tmp_path):
    folder = put(runs.run_folder(tmp_path / "new"), "masks/one.png")
    assert runs.run_folder(folder) == folder
    notebook(folder / "01_toy.ipynb")
    before = contents(folder)
    with pytest.raises(RunError, match="01_toy.ipynb"):  # one of the user's in a run's folder
        run([folder / "01_toy.ipynb"], run_dir=folder)
    assert contents(folder) == before


def test_folders_of_the_first_version_still_open(tmp_path):
    card = b'{"fcn": {"num_classes": 2}, "dataset": "voc", "class_names": ["a", "b"], "colors": []}'
    with_model = put(put(tmp_path / "model", "model.json", card), "model.keras")
    with_state = put(tmp_path / "state", "training/.lock", b"")
    np.savez(with_state / "training" / "state.npz", history="[]", parameters="{}")
    put(with_state, "metrics.json")
    for folder in (with_model, with_state):
        assert runs.run_folder(folder) == folder and (folder / "run.json").is_file()
    other_card = put(tmp_path / "other", "model.json",
                     b'{"class_name": "Functional", "config": {}}')
    other_state = put(tmp_path / "other_state", "training/.lock", b"")
    np.savez(other_state / "training" / "state.npz", weights=[1])
    copied = put(put(put(tmp_path / "copied", "model.json", card), "model.keras"), "masks/one.png")
    for folder in (other_card, other_state, copied):
        with pytest.raises(FileExistsError):
            runs.run_folder(folder)


def test_papermill_may_have_begun_to_write_the_notebook(tmp_path):
    put(tmp_path, "03_training.ipynb", b'{"metadata": {"papermill": {}}, "cells": []}')
    (tmp_path / "training").mkdir()  # no file is in it that could be lost
    assert runs.run_folder(tmp_path) == tmp_path


@pytest.mark.parametrize("text", [
    "{", "[]", "5", "", "[" * 100_000, '{"parameters": {}}', '{"parameters": [], "notebooks": {}}',
    '{"parameters": {}, "notebooks": []}',
    '{"project": "another program"}',
])
def test_record_changed_by_hand_is_refused(text, tmp_path, capsys):
    toy, folder = notebook(tmp_path / "01_toy.ipynb"), put(tmp_path / "run", "run.json",
                                                           text.encode())
    assert main([toy, "--run-dir", str(folder)]) == 1
    said = capsys.readouterr().err
    assert str(folder / "run.json") in said and "Traceback" not in said
    assert contents(folder) == {"run.json": text.encode()}


def test_json_is_plain_and_whole(tmp_path):
    path = tmp_path / "metrics.json"
    runs.write_json(path, {"iou": np.array([0.5, np.nan]), "n": np.int64(3),
                           "best": float("inf"), "p": path})
    written = json.loads(path.read_text(encoding="utf-8"))
    assert written == {"iou": [0.5, None], "n": 3, "best": None, "p": str(path)}
    before = path.read_bytes()
    with pytest.raises(TypeError):
        runs.write_json(path, {"model": object()})
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_machine_and_versions_name_no_person_and_import_no_tensorflow():
    code = ("import sys; from utils import runs; runs.versions(); runs.machine(); "
            "sys.exit('tensorflow' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", code], cwd=runs.ROOT).returncode == 0
    assert set(runs.machine()) == {"cores", "processor", "system"}
    assert runs.versions()["python"] == ".".join(map(str, sys.version_info[:3]))
    assert "tensorflow" in runs.versions()


def test_differences_name_what_changed():
    assert (runs.differences({"epochs": 5, "a": 1}, {"epochs": 3, "b": 2})
            == "epochs was 5 and is now 3")
    assert runs.differences({"epochs": 5}, {"epochs": 5}) == ""


def test_replaced_files_are_whole_or_as_before(tmp_path):
    file = tmp_path / "state.npz"
    runs.replace(file, lambda temporary: temporary.write_bytes(b"first"))

    def broken_off(temporary):
        # Keras goes by the ending
        assert temporary.parent == tmp_path and temporary.suffix == file.suffix
        temporary.write_bytes(b"sec")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runs.replace(file, broken_off)
    assert file.read_bytes() == b"first" and list(tmp_path.iterdir()) == [file]


def test_papermill_alone_runs_a_notebook_from_any_folder(tmp_path):
    """The cells of 03 up to its resolved parameters: what they import is installed."""
    given = nbformat.read(runs.ROOT / "notebooks" / "03_training.ipynb", as_version=4)
    stop = next(number for number, cell in enumerate(given.cells) if "run_folder(" in cell.source)
    given.cells = given.cells[:stop + 1]
    nbformat.write(given, tmp_path / "begin.ipynb")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = subprocess.run([sys.executable, "-m", "papermill", tmp_path / "begin.ipynb", "out.ipynb",
                           "-p", "epochs", "5"],
                          cwd=elsewhere, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(r"epochs\s+5", printed(elsewhere / "out.ipynb"))
    assert {path.name for path in elsewhere.iterdir()} == {"out.ipynb"}
