"""The table of planted faults fits the code: each still applies, compiles, and names its tests."""

import ast
import functools
from collections import Counter
from pathlib import Path

import pytest

from dev import mutants

ROOT = Path(__file__).resolve().parents[2]
TABLE = mutants.table()
MODULES = sorted(path.stem for path in (ROOT / "utils").glob("*.py") if path.stem != "__init__")
LEAST = {"utils": 150, "tools": 150, "notebooks": 150}


@functools.cache
def functions(path):
    """The test functions that a file defines."""
    return {node.name for node in ast.walk(ast.parse(path.read_text("utf-8")))
            if isinstance(node, ast.FunctionDef)}


def test_each_fault_still_applies():
    """`mutate` raises ValueError unless the text is there exactly once; what it gives is Python."""
    for mutant in TABLE:
        text = mutants.mutate(mutant)
        if mutant.file.endswith(".py"):
            try:
                compile(text, mutant.file, "exec")
            except SyntaxError as error:
                pytest.fail(f"{mutant.id}: {mutant.file} is no Python with it ({error})")


def test_each_fault_says_what_it_does_and_names_tests_that_exist():
    for mutant in TABLE:
        assert mutant.means and (mutant.tests or mutant.equivalent), mutant.id
        for name in mutant.tests:
            file, _, function = name.partition("::")
            assert (ROOT / file).is_file(), f"{mutant.id}: there is no {file}"
            if function:
                name = function.partition("[")[0]
                assert name in functions(ROOT / file), f"{mutant.id}: {file} has no {function}"


def test_no_fault_is_planted_twice():
    faults = Counter((mutant.file, mutant.find, mutant.replace) for mutant in TABLE)
    assert [fault for fault, count in faults.items() if count > 1] == []


@pytest.mark.parametrize("module", MODULES)
def test_every_module_has_its_faults(module):
    planted = [mutant for mutant in TABLE if mutant.file == f"utils/{module}.py"]
    assert len([mutant for mutant in planted if not mutant.equivalent]) >= 5
    assert (ROOT / "dev" / "mutants" / f"{module}.toml").is_file()


def test_every_module_of_tools_has_its_faults():
    planted = Counter(mutant.file for mutant in TABLE if not mutant.equivalent)
    files = {path.relative_to(ROOT).as_posix(): len(path.read_text("utf-8").splitlines())
             for path in (ROOT / "tools").rglob("*.py")}
    assert [name for name, lines in files.items() if planted[name] < lines // 40] == []


@pytest.mark.parametrize("folder, least", LEAST.items())
def test_the_table_is_long_enough(folder, least):
    planted = [mutant for mutant in TABLE if mutant.file.startswith(f"{folder}/")]
    assert len([mutant for mutant in planted if not mutant.equivalent]) >= least


def test_two_faults_with_one_id_are_refused(tmp_path, monkeypatch):
    row = '[[mutant]]\nid = "a"\nfile = "utils/labels.py"\nfind = "VOID = 255"\n' \
          'replace = "VOID = 0"\nmeans = "void is class 0"\ntests = []\n'
    (tmp_path / "one.toml").write_text(row)
    (tmp_path / "two.toml").write_text(row.replace("VOID = 0", "VOID = 1"))
    monkeypatch.setattr(mutants, "TABLES", tmp_path)
    with pytest.raises(ValueError, match="called a"):
        mutants.table()


@pytest.mark.parametrize("find, times", [("no such text", "0"), ("VOID", r"\d+")])
def test_a_fault_that_does_not_apply_is_named(find, times):
    mutant = mutants.Mutant("gone", "utils/labels.py", find, "x", "", ())
    with pytest.raises(ValueError, match=f"gone: '{find}' occurs {times} times"):
        mutants.mutate(mutant)


@pytest.mark.parametrize("said, left", [("tests/core/test_labels.py::test_a", 0), ("", 1),
                                        ("NO TEST RAN: usage: pytest", 1)])
def test_a_fault_counts_as_noticed_where_a_test_failed(said, left, monkeypatch):
    monkeypatch.setattr(mutants, "copy_files", lambda folder: folder)
    monkeypatch.setattr(mutants, "try_out", lambda copy, mutant: (said, 1.0))
    assert len(mutants.run(mutants.table("labels")[:1], 1)) == left


def test_a_test_that_is_not_there_is_said(tmp_path):
    assert mutants.run_tests(tmp_path, ("tests/none.py",))[0].startswith("NO TEST RAN")
