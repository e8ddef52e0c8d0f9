"""Style and spelling of the whole repository, as pyproject.toml sets them."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(*command):
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_ruff_has_no_complaint():
    done = run(sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format", "concise")
    assert done.returncode == 0, done.stdout + done.stderr


def test_words_are_spelled_right():
    program = shutil.which("codespell", path=Path(sys.executable).parent)
    done = run(program)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("text, rule", [
    ("import os\n", "F401"), ("x = 1" + " " * 100 + "# long\n", "E501"),
    ("def f(x=[]):\n    return x\n", "B006")])
def test_ruff_sees_a_fault(text, rule):
    """As configured here: a new file is held to every rule."""
    done = subprocess.run([sys.executable, "-m", "ruff", "check", "--no-cache", "--stdin-filename",
                           "tools/new.py", "-"], cwd=ROOT, input=text,
                          capture_output=True, text=True)
    assert done.returncode == 1 and rule in done.stdout
