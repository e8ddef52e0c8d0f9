"""The notebooks as files, and all of them in one run with tiny parameters."""

import ast
import io
import json
import os
import re
import statistics
import tokenize
import tomllib
from fnmatch import fnmatchcase
from pathlib import Path

import nbformat
import pytest

from dev import notebooks as tool
from tools.execute import is_run
from tools.run import declared_parameters, run
from utils import runs

PATHS = tool.tracked()
PROJECT = tomllib.loads((runs.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REPOSITORY = PROJECT["urls"]["Repository"]
SHARED = {"dataset": ("str", "meadow"), "data_dir": ("str", ""), "run_dir": ("str", ""),
          "image_size": ("int", 0), "batch_size": ("int", 0), "epochs": ("int", 0),
          "learning_rate": ("float", 0.0), "backbone": ("str", ""), "weights": ("str", ""),
          "stride": ("int", 0), "precision": ("str", "auto"), "seed": ("int", 0)}
TINY = {"image_size": 64, "batch_size": 16, "epochs": 1}
VERBS = {"Add", "Build", "Compare", "Deploy", "Evaluate", "Export", "Load", "Prepare",
         "Refine", "Run",
         "Scale", "Segment", "Sweep", "Train", "Use", "Visualise"}
MACHINE_PATH = re.compile(
    r"/home/|/Users/|/root/|/tmp/|/private/|/var/folders/|\b[A-Z]:\\|site-packages")
PICTURES = ("image/png", "image/jpeg")
CHECK = re.compile(r"\bassert\b|\bcheck\w*\(")

each = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def cells(path: Path, kind: str = "code") -> list[nbformat.NotebookNode]:
    """Return the notebook's cells of one kind, leaving out empty ones."""
    return [cell for cell in tool.read(path).cells if cell.cell_type == kind
            and cell.source.strip()]


def prose(path: Path) -> str:
    return "\n\n".join(cell.source for cell in cells(path, "markdown"))


def tags(cell) -> list[str]:
    return cell.metadata.get("tags", [])


def texts(cell) -> list[str]:
    """Return what a cell put out as text."""
    return [output.get("text") or output.get("data", {}).get("text/plain", "")
            for output in cell.outputs]


# Form


@each
def test_canonical_form(path):
    assert not tool.not_canonical([path]), f"{path.name}: run python -m dev.notebooks --canonical"
    assert path.stat().st_size < 1_500_000


@each
def test_executed_in_order_without_errors(path):
    code = cells(path)
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert not [output.ename for output in outputs if output.output_type == "error"]
    assert not [output.text for output in outputs if output.get("name") == "stderr"]
    assert sum(bool(cell.outputs)
               for cell in code) > len(code) / 3, "most cells should show something"


def words(path: Path) -> int:
    """Return how many words of prose a notebook has, with folded answers, without addresses."""
    plain = re.sub(r"\]\([^)]*\)|<[^>]+>|```.*?```", " ", prose(path), flags=re.DOTALL)
    return len(re.findall(r"[^\W_][\w’'.,/–-]*", plain))


def is_figure(output) -> bool:
    return any(kind in output.get("data", {}) for kind in PICTURES)


def is_collapsed(cell) -> bool:
    return cell.metadata.get("jupyter", {}).get("source_hidden", False)


@each
def test_cells_and_lines_are_short(path):
    code = cells(path)
    lengths = [len(cell.source.splitlines()) for cell in code]
    assert max(lengths) <= 20 and statistics.median(lengths) <= 5
    assert not [line for cell in code for line in cell.source.splitlines() if len(line) > 100]


@each
def test_reading_fits_into_a_lesson(path):
    code = cells(path)
    figures = sum(is_figure(output) for cell in code for output in cell.outputs)
    lines = sum(len(cell.source.splitlines()) for cell in code if not is_collapsed(cell))
    assert len(tool.read(path).cells) <= 60
    assert words(path) <= 2000 and words(path) <= 250 * figures
    minutes = words(path) / 200 + lines / 15 + figures / 2
    assert minutes <= 25, "in a minute: 200 words, 15 lines or 2 figures"


@each
def test_numbers_are_shown_rather_than_verdicts(path):
    verdicts = [text for cell in cells(path) for output, text in zip(cell.outputs, texts(cell))
                if not is_figure(output) and re.search(r"\b(True|False)\b", text)]
    assert len(verdicts) <= 4


# The authors' code, what an exercise asks for, sums in the text itself, results/README.md.
QUOTED = {"02_fcn32_architecture": {"0.99"}, "04_iou_evaluation": {"0.25"},
          "05_visualization": {"0.00", "0.16", "0.22"},
          "A2_optimizer_and_precision": {"0.709"}}


@each
def test_numbers_in_the_text_are_printed_or_in_the_code(path):
    """Those with two decimals or more, but for exercises' answers; printed ones may have more."""
    shown = "\n".join("\n".join([cell.source, *texts(cell)]) for cell in cells(path))
    values = [float(number) for number in re.findall(r"\d+\.\d+", shown)]
    text = re.sub(r"(?s)<details>.*?</details>|\]\([^)]*\)|https?://\S+", "", prose(path))
    for number in set(re.findall(r"(?<![\d.])[01]\.\d{2,}", text)) - QUOTED.get(path.stem, set()):
        decimals = len(number.partition(".")[2])
        assert number in {f"{value:.{decimals}f}" for value in values}, number


@each
def test_no_machine_paths(path):
    for cell in tool.read(path).cells:
        for text in [cell.source, *(texts(cell) if cell.cell_type == "code" else [])]:
            found = MACHINE_PATH.search(text)
            assert not found, f"{path.name}: {found[0]} in: {text[:200]}"


# Parameters


@each
def test_parameters_are_annotated_literals_with_help(path):
    tagged = [cell for cell in cells(path) if "parameters" in tags(cell)]
    assert len(tagged) == 1, "one cell carries the tag parameters"
    source = tagged[0].source
    comments = {token.start[0] for token in tokenize.generate_tokens(io.StringIO(source).readline)
                if token.type == tokenize.COMMENT}
    for node in ast.parse(source).body:
        annotated = isinstance(node, ast.AnnAssign) and node.value
        assert annotated, f"not name: type = value: {ast.unparse(node)}"
        ast.literal_eval(node.value)
        assert node.end_lineno in comments, f"{ast.unparse(node)} has no help after it"


@each
def test_shared_parameters_have_the_same_type_and_default_everywhere(path):
    declared = declared_parameters(path)
    writes = "run_folder" in path.read_text(encoding="utf-8")
    assert "run_dir" in declared or not writes, "it writes somewhere"
    assert ({name: declared[name] for name in declared if name in SHARED}
            == {name: SHARED[name] for name in declared if name in SHARED})
    for other in PATHS:
        for name, meaning in declared_parameters(other).items():
            assert declared.get(name, meaning) == meaning, f"{name} differs from {other.name}"


IMPOSSIBLE = [("seed", -1), ("seed", 2**40), ("image_size", 31), ("image_size", 10_000),
              ("learning_rate", float("inf")), ("scene", "test_230"), ("calibration", 0),
              ("scored", -1)]


@pytest.mark.parametrize("path, name, value", [
    pytest.param(path, name, value, id=f"{path.stem[:2]}-{name}-{value}")
    for path in PATHS for name, value in IMPOSSIBLE
    # its sweep refuses them
    if name in declared_parameters(path) and not path.stem.startswith("08")])
def test_impossible_values_are_refused_in_the_first_cell_after_the_parameters(path, name, value):
    code = cells(path)
    given = next(number for number, cell in enumerate(code) if "parameters" in tags(cell))
    names = {}
    for cell in code[:given + 1]:
        exec(cell.source, names)
    with pytest.raises(ValueError, match=f"{name} is {re.escape(repr(value))}"):
        exec(code[given + 1].source, names | {name: value})


# Regression checks


@each
def test_ignored_outputs_are_few_and_followed_by_a_check(path):
    """What nbval ignores, one of the next two compared cells checks; versions come last."""
    code = cells(path)
    ignored = [number for number, cell in enumerate(code) if "nbval-ignore-output" in tags(cell)]
    assert len(ignored) <= len(code) / 5
    for number in ignored:
        later = [cell.source for cell in code[number + 1:]
                 if "nbval-ignore-output" not in tags(cell)]
        assert number == len(code) - 1 or any(map(CHECK.search, later[:2])), \
            f"{path.name}: no check after cell {number + 1}:\n{code[number].source}"
    others = {tag for cell in code for tag in tags(cell)} - {"nbval-ignore-output", "parameters"}
    assert not [tag for tag in others if tag.startswith("nbval") or tag == "raises-exception"]


@each
def test_figures_have_alt_text_and_a_digest(path):
    for number, cell in enumerate(cells(path), 1):
        figures = [(kind, output) for output in cell.outputs for kind in output.get("data", {})
                   if kind in PICTURES]
        assert len(figures) <= 1, f"{path.name}: cell {number} shows {len(figures)} figures"
        for kind, figure in figures:
            alt = figure.metadata.get(kind, {}).get("alt", "")
            where = f"{path.name}: the figure of cell {number}"
            assert len(alt) >= 20, f"{where} has no alt text (plots.show)"
            drawn = figure.data["text/plain"].removeprefix(alt)
            assert re.search(r"axes|frames", drawn), f"{where} has no digest"
        by_pyplot = re.search(r"\bplt\.show\(", cell.source)
        assert not by_pyplot, f"{path.name}: cell {number} shows by pyplot"
    linked = re.search(r"!\[[^\]]*\]\((?!https?:)", prose(path))
    assert not linked, "figures are outputs, not linked files"


# Template


@each
def test_title_badge_and_what_to_expect(path):
    first = cells(path, "markdown")[0].source
    title = re.match(r"# (?:\d+[.:]? *)?(\w+)", first)
    verb = title and title[1]
    assert verb in VERBS, f"{path.name}: the title starts with one of VERBS: {first[:60]}"
    assert len(re.findall(r"^# ", prose(path), re.MULTILINE)) == 1
    page = f"blob/main/{path.relative_to(runs.ROOT).as_posix()}"
    owner_name = REPOSITORY.removeprefix("https://github.com/")
    assert (re.findall(r"https://colab\.research\.google\.com/github/([^)\s\"]+)", first)
            == [f"{owner_name}/{page}"])
    assert (re.findall(r"https://kaggle\.com/kernels/welcome\?src=([^)\s\"]+)", first)
            == [f"{REPOSITORY}/{page}"])
    for word in ("do", "learn", "need"):
        assert re.search(rf"you(?: wi|'|’)ll {word}", prose(path),
                         re.IGNORECASE), f"what you will {word}"
    assert re.search(r"read\w* (time )?.*minutes?\b.*\brun", first,
                     re.IGNORECASE | re.DOTALL), "reading and run time"


@each
def test_set_up_cell_is_the_same_everywhere(path):
    def set_up(path):
        return [cell.source for cell in cells(path) if cell.source.startswith("# @title Set-up")]

    assert len(set_up(path)) == 1 and set_up(path) == set_up(PATHS[0])
    first = cells(path)[0]
    assert set_up(path)[0] == first.source, "it comes first"
    assert len(first.source.splitlines()) <= 11
    assert (first.metadata["jupyter"] == {"source_hidden": True}
            and first.metadata["cellView"] == "form")
    clone = re.findall(r"https://github\.com/[\w./-]+", set_up(path)[0])
    assert {address.removesuffix(".git") for address in clone} <= {REPOSITORY}


@each
def test_exercises_summary_and_versions(path):
    _, heading, exercises = prose(path).partition("\n## Exercises")
    assert heading, "a section Exercises"
    assert 2 <= exercises.count("<details>") <= 4
    assert (prose(path).count("<details>") == prose(path).count("</details>")
            > exercises.count("<details>"))
    empty = [cell for cell in tool.read(path).cells if cell.cell_type == "code"
             and not cell.source.strip()]
    assert len(empty) == exercises.count("<details>"), "an empty cell to try each exercise in"
    assert re.search(r"^## Summary", prose(path), re.MULTILINE)
    assert re.search(r"versions?\b",
                     cells(path)[-1].source), "the last code cell prints the versions"


@each
def test_links(path):
    """Previous and next notebook are linked; every link inside the repository leads somewhere."""
    links = set(re.findall(r"\]\((?!https?:|#|attachment:)([^)\s#]+)", prose(path)))
    assert not [link for link in links if not (path.parent / link).exists()]
    if path.parent.name == "appendix":
        assert any(link.startswith("../0")
                   for link in links), "a link back to the notebook it belongs to"
        return
    numbered = [other for other in PATHS if other.parent == path.parent]
    position = numbered.index(path)
    neighbours = numbered[max(0, position - 1):position] + numbered[position + 1:position + 2]
    assert {other.name for other in neighbours} <= links


# Execution


def tracked_files() -> dict[Path, tuple[int, int]]:
    """Return size and time of every file that a run must not touch."""
    files = []
    for folder, folders, names in os.walk(runs.ROOT):
        folders[:] = [name for name in folders
                      if not name.startswith((".", "__pycache__"))
                      and name not in ("runs", "build")]
        files += [Path(folder, name) for name in names]
    return {file: (file.stat().st_size, file.stat().st_mtime_ns) for file in files}


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory):
    """Run all notebooks once, with tiny parameters; return the run folder and the files before."""
    if not PATHS:
        pytest.skip("no notebooks")
    declared = set().union(*(declared_parameters(path) for path in PATHS))
    before = tracked_files()
    folder = run(PATHS, {name: value for name, value in TINY.items() if name in declared},
                 tmp_path_factory.mktemp("tiny") / "run", timeout=300)
    return folder, before


@pytest.mark.slow
def test_all_notebooks_run_with_tiny_parameters(tiny_run):
    folder, _ = tiny_run
    entries = json.loads((folder / "run.json").read_text(encoding="utf-8"))["notebooks"]
    assert list(entries) == [path.stem for path in PATHS]
    assert {entry["status"] for entry in entries.values()} == {"finished"}
    for path in PATHS:
        assert all(cell.execution_count for cell in cells(folder / path.name) if is_run(cell))


@pytest.mark.slow
def test_notebooks_write_only_into_the_run_folder(tiny_run):
    assert tracked_files() == tiny_run[1]


@pytest.mark.slow
def test_all_that_a_run_writes_is_refused_where_the_user_has_it(tiny_run):
    """A name that is new here belongs into `runs.WRITTEN`."""
    folder, _ = tiny_run
    names = {path.name for path in folder.iterdir() if not path.name.startswith(".")} - {"run.json"}
    unknown = [name for name in names
               if not any(fnmatchcase(name, known) for known in runs.WRITTEN)]
    assert not unknown


@pytest.mark.slow
def test_run_leaves_model_scores_and_figures(tiny_run):
    folder, _ = tiny_run
    if not any(path.stem.startswith("05") for path in PATHS):
        pytest.skip("not all of 01 to 05 are there")
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["dataset"] == "meadow" and 0 <= metrics["scores"]["mean_iou"] <= 1
    assert metrics["parameters"]["epochs"] == 1
    assert (folder / "model.keras").is_file()
    for source, _ in tool.COPIES:
        assert (folder / source).is_file(), source
