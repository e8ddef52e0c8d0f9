"""The canonical form of notebooks, and how executed outputs get into it."""

import nbformat
import pytest
from nbformat import v4

from dev import notebooks
from tools import run
from tools.execute import RunError

PNG = "iVBORw0KGgo="
KERNEL = {"kernelspec": {"name": "python3", "display_name": "Python 3"},
          "language_info": {"name": "python"}}


def messy() -> nbformat.NotebookNode:
    """Return a notebook as an editor, papermill and a chatty cell leave it."""
    stream = [v4.new_output("stream", name=name, text=text)
              for name, text in (("stdout", "a\n"), ("stderr", "warning"), ("stdout", "b\n"))]
    figure = v4.new_output("display_data", data={"image/png": PNG + "\n", "text/plain": "<Figure>"},
                           metadata={"image/png": {"alt": "a horse"}, "needs_background": "light"})
    state = {"application/vnd.jupyter.widget-view+json": {}, "text/plain": "w"}
    outputs = [*stream, figure, v4.new_output("display_data", data=state)]
    metadata = {"tags": ["check"], "papermill": {"duration": 3}, "scrolled": True,
                "cellView": "form",
                "jupyter": {"source_hidden": True, "outputs_hidden": False}}
    cells = [v4.new_markdown_cell("# Zähle", id="title"),
             v4.new_code_cell("1\r\n2", id="one", execution_count=7, outputs=outputs,
                              metadata=metadata),
             v4.new_code_cell("3", id="one", metadata={"tags": []}), v4.new_code_cell("")]
    cells[-1]["id"] = "not valid!"
    metadata = {"kernelspec": {"name": "mine", "display_name": "Mine"}, "widgets": {"state": {}},
                "language_info": {"name": "python", "version": "3.11.7"}, "papermill": {}}
    made = v4.new_notebook(metadata=metadata)
    made.cells = cells  # not as an argument, which would be validated
    return made


def test_canonical_form():
    text = notebooks.canonical(messy())
    made = nbformat.reads(text, as_version=4)
    nbformat.validate(made)
    assert (made.nbformat, made.nbformat_minor) == (4, 5)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    assert made.metadata == {"language_info": {"name": "python"}, "kernelspec": kernel}
    title, code, same, empty = made.cells
    assert (code.metadata
            == {"tags": ["check"], "jupyter": {"source_hidden": True}, "cellView": "form"})
    assert same.metadata == title.metadata == {}
    assert code.source == "1\n2" and code.execution_count == 7
    stdout, figure, widget = code.outputs
    assert stdout.name == "stdout" and stdout.text == "a\nb\n"
    assert figure.data == {"image/png": PNG, "text/plain": "<Figure>"}
    assert figure.metadata == {"image/png": {"alt": "a horse"}}
    assert widget.data == {"text/plain": "w"}
    assert [cell.id for cell in made.cells] == ["title", "one", "cell-03", "cell-04"]
    assert text.endswith("}\n") and '\n "cells"' in text and "Zähle" in text
    assert notebooks.canonical(made) == text


def test_of_a_progress_bar_the_last_state_stays():
    text = "Epoch 1/2\n1/2 - loss: 2\b\b\b\b\r2/2 - loss: 1\r\nend\r\n"
    cell = v4.new_code_cell("fit()", outputs=[v4.new_output("stream", text=text)])
    made = nbformat.reads(notebooks.canonical(v4.new_notebook(cells=[cell])), as_version=4)
    assert made.cells[0].outputs[0].text.replace("\r", "") == "Epoch 1/2\n2/2 - loss: 1\nend\n"


@pytest.mark.filterwarnings("ignore::nbformat.warnings.DuplicateCellId")
def test_check_names_files_and_canonical_mends_them(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run, "NOTEBOOKS", tmp_path)
    path = tmp_path / "01_toy.ipynb"
    nbformat.write(messy(), path)
    assert notebooks.main(["--check"]) == 1
    assert "01_toy.ipynb: not in canonical form" in capsys.readouterr().out
    assert notebooks.main(["--canonical"]) == 0 and notebooks.main(["--check", "01"]) == 0
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert notebooks.main(["--check"]) == 1
    path.write_text("no notebook")
    assert notebooks.main(["--check"]) == 1
    assert "01_toy.ipynb: not a notebook" in capsys.readouterr().err


@pytest.fixture
def toys(tmp_path, monkeypatch):
    """Two notebooks in a repository of their own; the second makes the files for results/."""
    root = tmp_path / "repository"
    (root / "notebooks").mkdir(parents=True)
    monkeypatch.setattr(run, "NOTEBOOKS", root / "notebooks")
    monkeypatch.setattr(notebooks.runs, "ROOT", root)
    copies = [("figures/horse.png", "horse.png"), ("metrics.json", "meadow.json")]
    monkeypatch.setattr(notebooks, "COPIES", copies)
    parameters = v4.new_code_cell("run_dir: str = ''", metadata={"tags": ["parameters"]})
    first = v4.new_notebook(metadata=KERNEL, cells=[
        v4.new_markdown_cell("# Count"), parameters,
        v4.new_code_cell("2 * 21"), v4.new_code_cell(""), v4.new_code_cell("print('x')")])
    second = v4.new_notebook(metadata=KERNEL, cells=[parameters.copy(), v4.new_code_cell(
        "from pathlib import Path\n(Path(run_dir) / 'figures').mkdir()\n"
        "(Path(run_dir) / 'figures/horse.png').write_bytes(b'png')\n"
        "Path(run_dir, 'metrics.json').write_text('{}')")])
    nbformat.write(first, root / "notebooks" / "01_count.ipynb")
    nbformat.write(second, root / "notebooks" / "02_draw.ipynb")
    return root


def snapshot(root):
    files = [path for path in root.rglob("*") if path.is_file() and "runs" not in path.parts]
    return {path: path.read_bytes() for path in files}


def test_outputs_and_results_are_refreshed(toys):
    notebooks.refresh([])
    stored = notebooks.read(toys / "notebooks" / "01_count.ipynb")
    assert [cell.cell_type for cell in stored.cells] == ["markdown", "code", "code", "code", "code"]
    assert [cell.execution_count for cell in stored.cells[1:]] == [1, 2, None, 3]
    result = stored.cells[2].outputs[0]
    assert result.data == {"text/plain": "42"} and result.execution_count == 2
    assert stored.cells[4].outputs[0].text == "x\n"
    assert (toys / "results" / "horse.png").read_bytes() == b"png"
    assert (toys / "results" / "meadow.json").exists()
    assert notebooks.not_canonical(notebooks.tracked()) == []
    before = snapshot(toys)
    notebooks.refresh([])
    assert snapshot(toys) == before


def test_one_notebook_renews_its_outputs_and_no_results(toys):
    notebooks.refresh(["02"])
    assert notebooks.read(toys / "notebooks" / "02_draw.ipynb").cells[1].execution_count == 2
    assert [path.name for path in (toys / "results").iterdir()] == ["runs"]


@pytest.mark.parametrize("cell, message", [
    ("1 / 0", "ZeroDivisionError"), ("pass", "left no .*horse.png, metrics.json")])
def test_nothing_is_touched_when_a_notebook_fails_or_a_result_is_missing(cell, message, toys):
    path = toys / "notebooks" / "02_draw.ipynb"
    second = notebooks.read(path)
    second.cells[1].source = cell
    nbformat.write(second, path)
    before = snapshot(toys)
    with pytest.raises(RunError, match=message):
        notebooks.refresh([])
    assert snapshot(toys) == before


def test_edited_meanwhile_is_refused():
    source, executed = messy(), messy()
    executed.cells[1].source = "other"
    with pytest.raises(RunError, match="other cells"):
        notebooks.with_outputs(source, executed)
