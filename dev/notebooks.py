"""Keep the tracked notebooks in one form; execute them to refresh their outputs and results/.

Without an option, all are executed with their default parameters in a fresh run folder; only when
every one went through are outputs stored in notebooks/, and figures and scores in results/.
"""

import argparse
import re
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from tools import run
from tools.execute import RunError, is_run, short
from utils import runs

METADATA = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"}}
# (file in the run folder, file in results/)
COPIES = [("figures/photo.png", "horse.png"), ("figures/sem_seg.png", "sem_seg.png"),
          ("figures/sem_seg_inf.png", "sem_seg_inf.png"), ("figures/hero.png", "hero.png"),
          ("metrics.json", "meadow.json")]
MODEL_COPIES = [("model.weights.h5", "model/model.weights.h5"), ("model.json", "model/model.json")]


def canonical(notebook: NotebookNode) -> str:
    """Return `notebook`'s text in the one form that is tracked, so that diffs show what changed.

    nbformat 4.5; kernel python3; no widget state, timings or other machine metadata; cells keep
    their ids, tags and whether they are collapsed; printed pieces are one output, without stderr.
    """
    taken: set[str] = set()
    cells = [_canonical_cell(cell, number, taken) for number, cell in enumerate(notebook.cells, 1)]
    plain = {"cells": cells, "metadata": METADATA, "nbformat": 4, "nbformat_minor": 5}
    return nbformat.writes(nbformat.from_dict(plain), version=4).rstrip("\n") + "\n"


def _canonical_cell(cell: NotebookNode, number: int, taken: set[str]) -> dict:
    name = cell.get("id", "")
    while not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name) or name in taken:
        name, number = f"cell-{number:02}", number + 1
    taken.add(name)
    plain = {"id": name, "cell_type": cell.cell_type, "metadata": _kept_metadata(cell.metadata),
             "source": cell.source.replace("\r\n", "\n")}
    if cell.get("attachments"):
        plain["attachments"] = cell.attachments
    if cell.cell_type == "code":
        plain |= {"execution_count": cell.get("execution_count"),
                  "outputs": _canonical_outputs(cell.outputs)}
    return plain


def _kept_metadata(metadata: dict) -> dict:
    """Keep tags, and the two keys that collapse a cell: in Jupyter and, as a form, on Colab."""
    hidden = metadata.get("jupyter", {}).get("source_hidden")
    form = metadata.get("cellView") == "form"
    kept = {"tags": metadata.get("tags"), "jupyter": hidden and {"source_hidden": True},
            "cellView": form and "form"}
    return {key: value for key, value in kept.items() if value}


def _canonical_outputs(outputs: list[NotebookNode]) -> list[dict]:
    kept: list[dict] = []
    for output in outputs:
        if output.output_type == "stream" and output.name == "stderr":
            continue
        plain = dict(output)
        if "data" in plain:
            data = {kind: value.replace("\n", "") if kind in ("image/png", "image/jpeg") else value
                    for kind, value in output.data.items() if "jupyter.widget" not in kind}
            metadata = output.get("metadata", {})
            plain |= {"data": data,
                      "metadata": {kind: metadata[kind] for kind in metadata if kind in data}}
        if plain["output_type"] == "stream" and kept and kept[-1]["output_type"] == "stream":
            kept[-1]["text"] += plain["text"]
        else:
            kept.append(plain)
    for plain in kept:
        if plain["output_type"] == "stream":  # a progress bar is what a terminal shows in the end
            text = re.sub(r"\x08+", "", plain["text"])
            plain["text"] = re.sub("[^\n]*\r(?=[^\n])", "", text)
    return kept


def read(path: Path) -> NotebookNode:
    """Return the notebook at `path`; raises RunError where it is none."""
    try:
        return nbformat.read(path, as_version=4)
    except Exception as error:  # nbformat raises a dozen kinds
        raise RunError(f"{path}: not a notebook ({error}).") from None


def with_outputs(source: NotebookNode, executed: NotebookNode) -> NotebookNode:
    """Return `source` with the outputs of its execution; cells of injected parameters are left out.

    Code cells count 1 to n, as if none had been injected. Raises RunError where cells differ.
    """
    cells = [cell for cell in executed.cells
             if "injected-parameters" not in cell.metadata.get("tags", [])]
    if [cell.source for cell in cells] != [cell.source for cell in source.cells]:
        raise RunError("The executed notebook has other cells than its source: was it edited?")
    pairs = [(cell, done) for cell, done in zip(source.cells, cells) if is_run(cell)]
    for count, (cell, done) in enumerate(pairs, 1):
        cell.execution_count, cell.outputs = count, done.outputs
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = count
    return source


def store(folder: Path, paths: Iterable[Path], copies: Iterable[tuple[str, str]]) -> None:
    """Take outputs and results of the run in `folder`: all, or nothing where a part is missing."""
    texts = {path: canonical(with_outputs(read(path), read(folder / path.name))) for path in paths}
    files = {runs.ROOT / "results" / target: folder / source for source, target in copies}
    missing = [str(source.relative_to(folder)) for source in files.values() if not source.is_file()]
    if missing:
        raise RunError(f"The run left no {', '.join(missing)} in {short(folder)}; nothing stored.")
    for path, text in texts.items():
        _replace(path, text.encode("utf-8"))
    for target, source in files.items():
        _replace(target, source.read_bytes())
        print(f"stored {short(target)}")


def _replace(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    runs.replace(path, lambda temporary: temporary.write_bytes(content))


def refresh(names: list[str], model: bool = False) -> None:
    """Execute notebooks (all, without names) with default parameters and store what they gave.

    Results are copied only when all notebooks ran; the kept model only when `model` says so.
    """
    paths = run.find_notebooks(names or [path.stem for path in tracked()])
    folder = runs.ROOT / "results" / "runs" / "notebooks"
    if folder.exists():
        with runs.lock(folder):  # refuses to take the folder from under another run
            pass
        shutil.rmtree(folder)
    run.run(paths, run_dir=folder)
    store(folder, paths, [] if names else COPIES + MODEL_COPIES * model)


def tracked() -> list[Path]:
    """Return the repository's notebooks, those of the appendix last."""
    return sorted(run.NOTEBOOKS.rglob("*.ipynb"), key=lambda path: path.stem)


def not_canonical(paths: Iterable[Path]) -> list[Path]:
    """Return those notebooks that are not in the canonical form."""
    return [path for path in paths if path.read_bytes() != canonical(read(path)).encode("utf-8")]


def main(argv: list[str] | None = None) -> int:
    """Run the command; return its exit code: 0 done, 1 failed or not canonical."""
    parser = argparse.ArgumentParser("python -m dev.notebooks", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", metavar="NOTEBOOK", help="name or number; else all")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--canonical", action="store_true", help="only bring files into that form")
    what.add_argument("--check", action="store_true", help="only name files not in that form")
    what.add_argument("--model", action="store_true", help="also renew results/model/")
    options = parser.parse_args(argv)
    try:
        if not (options.canonical or options.check):
            refresh(options.notebooks, options.model)
            return 0
        paths = run.find_notebooks(options.notebooks) if options.notebooks else tracked()
        changed = not_canonical(paths)
        for path in changed:
            print(f"{short(path)}: {'not in canonical form' if options.check else 'rewritten'}")
            if options.canonical:
                _replace(path, canonical(read(path)).encode("utf-8"))
        return int(options.check and bool(changed))
    except (RunError, OSError, RuntimeError) as error:
        print(f"\n{error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
