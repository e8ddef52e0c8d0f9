"""The notebooks' set-up cell: on a simulated Colab, inside a checkout, and nowhere near one."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "notebooks" / "01_data_loading.ipynb"
# Makes the interpreter forget where the repository is installed, as on a machine that never saw it.
FORGET = f"""
import subprocess, sys
sys.path[:] = [path for path in sys.path if path != {str(ROOT)!r}]
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in str(finder).lower()]
sys.path_importer_cache.clear()
commands = []
really_run = subprocess.run
def record(command, *arguments, **options):
    if command[0] != "uname":  # the standard library's platform.processor asks it
        commands.append(command[:2])
    return really_run(command, *arguments, **options)
subprocess.run = record
"""
COLAB = {"COLAB_RELEASE_TAG": "release-colab"}
KAGGLE = {"KAGGLE_KERNEL_RUN_TYPE": "Interactive"}
ADDRESS = "https://github.com/fcn32-notebooks/fcn32-notebooks"


def code_of(notebook, count):
    """Return the first code cells of a notebook as one script."""
    cells = [cell.source for cell in nbformat.read(notebook, as_version=4).cells
             if cell.cell_type == "code"]
    return "\n\n".join(cells[:count])


def python(script, folder, **environment):
    names = {**os.environ, "PYTHONPATH": "", "TF_CPP_MIN_LOG_LEVEL": "3", **environment}
    return subprocess.run([sys.executable, "-c", script], cwd=folder, env=names,
                          capture_output=True, text=True)


@pytest.fixture
def remote(tmp_path):
    """A git repository with this checkout's files, to clone from."""
    remote = tmp_path / "remote" / "fcn32-notebooks"
    for part in ("utils", "tools", "data/meadow", "results/model"):
        shutil.copytree(ROOT / part, remote / part, ignore=shutil.ignore_patterns("__pycache__"))
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    for command in (["init", "--quiet"], ["add", "."],
                    [*identity, "commit", "--quiet", "-m", "all"]):
        subprocess.run(["git", *command], cwd=remote, check=True)
    return remote


@pytest.mark.parametrize("host", [
    pytest.param(COLAB, id="colab"),
    pytest.param(KAGGLE, id="kaggle", marks=pytest.mark.slow)])
def test_colab_and_kaggle_clone_once_and_install_nothing(host, remote, tmp_path):
    content = tmp_path / "content"
    content.mkdir()
    report = ("\n\nimport utils, numpy, sys\nprint('FROM', utils.__file__)\n"
              "print('RAN', [c for c in commands if c != 'ls'])\n"  # which an older IPython runs
              "print('DATA', data.name, len(data.splits['train']))")
    script = FORGET + code_of(NOTEBOOK, 4) + report
    # git takes the clone from the folder in place of the address.
    host |= {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": f"url.{remote}.insteadOf",
             "GIT_CONFIG_VALUE_0": ADDRESS}
    first = python(script, content, **host)
    assert first.returncode == 0, first.stderr
    assert f"FROM {content / 'fcn32-notebooks'}" in first.stdout
    assert "RAN [['git', 'clone']]" in first.stdout and "DATA meadow 200" in first.stdout
    again = python(script, content, **host)
    assert "RAN []" in again.stdout, again.stderr


def test_inside_a_checkout_nothing_is_cloned(remote):
    (remote / "notebooks").mkdir()
    script = (FORGET + code_of(NOTEBOOK, 1)
              + "\n\nimport utils.labels\nprint('FROM', utils.__file__, commands)")
    done = python(script, remote / "notebooks")
    assert f"FROM {remote / 'utils'}" in done.stdout, done.stderr
    assert done.stdout.rstrip().endswith("[]")


def test_a_foreign_utils_is_passed_over(remote):
    (remote / "notebooks").mkdir()
    (remote / "notebooks" / "utils.py").write_text("labels = None\n")
    script = (FORGET + code_of(NOTEBOOK, 1)
              + "\n\nimport utils.labels\nprint('FROM', utils.__file__)")
    assert f"FROM {remote / 'utils'}" in python(script, remote / "notebooks").stdout


def test_elsewhere_one_sentence_says_what_to_do(tmp_path):
    done = python(FORGET + code_of(NOTEBOOK, 1), tmp_path)
    assert done.returncode == 1
    said = done.stderr.splitlines()[-1]
    assert "utils is not found: open this notebook in the repository" in said
