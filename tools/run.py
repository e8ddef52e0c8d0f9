"""Run the notebooks in order, each with the parameters it declares, into one folder per run.

papermill executes every notebook in a separate kernel. The run folder receives the executed
notebooks, run.json (parameters, versions, machine, seconds) and what the notebooks write: model,
metrics, figures. The same command again keeps what is finished and continues where the run broke.
"""

import sys

if not (3, 11) <= sys.version_info[:2] <= (3, 13):
    sys.exit("This repository runs on Python 3.11 to 3.13, and this is Python "
             f"{sys.version_info[0]}.{sys.version_info[1]}. Install one of those and run the same "
             "command with it.")

import argparse
import ast
import contextlib
import hashlib
import os
import re
import time
from collections.abc import Iterable
from pathlib import Path

try:
    import nbformat
    import papermill
    import yaml
    from papermill.iorw import NoDatesSafeLoader

    from tools import check, fetch, progress
    from tools.execute import RunError, execute, guarded, literal, short
    from utils import datasets, images, recipes, runs
except ImportError as missing:
    sys.exit(f"This Python lacks a package that the runner needs ({missing}). Use `make run`, "
             "which installs them all, or: python -m pip install -r requirements/core.txt")

NOTEBOOKS = runs.ROOT / "notebooks"
DEFAULT = ("01", "02", "03", "04", "05")
TYPES = {"str": (str, "text"), "int": (int, "a whole number"), "float": (float, "a number"),
         "bool": (bool, "true or false"), "list": (list, "a list"), "dict": (dict, "a mapping")}
EXAMPLES = """examples:
  python -m tools.run                                    01 to 05 on the embedded meadow scenes
  python -m tools.run -p epochs 5 --name short           fewer epochs, into results/runs/short
  python -m tools.run --dataset camvid --data-dir DIR    another data set
  python -m tools.run 03 04 -p learning_rate 1e-3 -p seed=1 --name seed-1"""


# Notebooks and parameters ----------------------------------------------------------------------


def find_notebooks(names: Iterable[str]) -> list[Path]:
    """Return the notebooks that numbers ("03", "A1"), stems or paths name, sorted by stem."""
    paths = [*NOTEBOOKS.glob("[0-9]*.ipynb"), *NOTEBOOKS.glob("appendix/A[0-9]*.ipynb")]
    known = {path.stem: path for path in sorted(paths)}
    numbers = {stem.split("_")[0]: path for stem, path in known.items()}
    found = {}
    for name in names:
        path = Path(os.path.expanduser(name)).resolve()
        if path.suffix != ".ipynb" or not path.is_file():
            path = numbers.get(name.zfill(2)) or known.get(name.removesuffix(".ipynb"))
        if path is None:
            raise RunError(f"There is no notebook {name}{recipes.nearest(name, known)}")
        if found.setdefault(path.stem, path) != path:
            raise RunError(f"{found[path.stem]} and {path} would both become {path.name}: run them "
                           "into two folders.")
    return [found[stem] for stem in sorted(found)]


def declared_parameters(path: Path) -> dict[str, tuple[str, object]]:
    """Return the type ("int"; "None" without one) and default of each parameter of a notebook."""
    try:
        found = papermill.inspect_notebook(literal(path))
        return {name: (p["inferred_type_name"], ast.literal_eval(p["default"]))
                for name, p in found.items()}
    except Exception as error:  # papermill and nbformat raise a dozen kinds
        raise RunError(f"{path}: cannot read the notebook or its parameters cell ({error})."
                       ) from None


class Loader(NoDatesSafeLoader):
    """YAML that reads 1e-3 as a number."""


Loader.add_implicit_resolver("tag:yaml.org,2002:float",
                             re.compile(r"[-+]?\d+\.?\d*[eE][-+]?\d+$"), list("-+0123456789"))


def convert(name: str, value: object, type_name: str) -> object:
    """Return `value`, given as text or as a Python value, in the type that a notebook declares."""
    parsed = value
    if type_name in ("int", "float"):  # YAML would read 010 as 8 and 1:30 as 90
        with contextlib.suppress(ValueError, TypeError, OverflowError):
            number = float(value)
            parsed = int(number) if type_name == "int" and number.is_integer() else number
    elif isinstance(value, str):
        with contextlib.suppress(yaml.YAMLError):
            parsed = yaml.load(value, Loader=Loader)
        if type_name == "str" and not (value[:1] in "'\"" and isinstance(parsed, str)):
            parsed = value  # text is text, but in quotation marks
        if type_name == "str" and parsed and (name.endswith("_dir") or os.path.isfile(parsed)):
            parsed = os.path.abspath(os.path.expanduser(parsed))  # notebooks run elsewhere
    kind, words = TYPES.get(type_name, (object, ""))
    if not isinstance(parsed, kind) or (isinstance(value, bool) and kind in (int, float)):
        raise RunError(f"Parameter {name} is {value!r}; it must be {words} ({type_name}).")
    return parsed


def resolve(declared: dict[Path, dict], given: dict[str, object]) -> dict[str, object]:
    """Return all parameters of a run by name: those given, in their types, and defaults."""
    everything = {name: about for names in declared.values() for name, about in names.items()}
    for name in given:
        if name not in everything:
            hint = recipes.nearest(name, sorted(everything))
            raise RunError(f"No notebook of this run has a parameter {name}{hint}")
    values = {name: convert(name, given[name], type_name) if name in given else default
              for name, (type_name, default) in everything.items()}
    try:  # 0 is the recipe's value
        recipes.check_numbers(**{name: values[name] for name in recipes.LIMITS
                                 if isinstance(values.get(name), (int, float)) and values[name]})
    except ValueError as error:
        raise RunError(f"Parameter {error}") from None
    values.pop("run_dir", None)
    return values


# The run ---------------------------------------------------------------------------------------


def run(notebooks: Iterable[str | Path] = DEFAULT, parameters: dict | None = None,
        run_dir: str | Path = "", timeout: int | None = None) -> Path:
    """Run notebooks, by number, stem or path, into a run folder, and return the folder.

    parameters: values, or their text, by name; each notebook gets those it declares. run_dir: ""
    takes FCN_RUN_DIR, else results/runs/default. timeout: seconds of a cell. Raises RunError.
    """
    check_timeout(timeout)
    given = dict(parameters or {})
    run_dir = run_dir or given.pop("run_dir", "")
    declared = {path: declared_parameters(path) for path in find_notebooks(map(str, notebooks))}
    values, dataset = resolve(declared, given), None
    if {"dataset", "data_dir"} <= values.keys():
        dataset, values["data_dir"] = find_data(values["dataset"], values["data_dir"])
    try:
        folder = runs.choose_folder(run_dir)
        _keep_own_notebooks(folder, declared)
        checked = check_data(dataset, runs.read_record(folder).get("data", ""))
        runs.run_folder(folder)
        with runs.lock(folder):
            record = _open_record(folder, values, checked)
            shown = [f"{name}={values[name]}" for name in sorted(given) if name in values]
            rest = f"{', '.join(shown)}; the others have" if shown else "all have"
            print(f"Run folder  {short(folder)}\nParameters  {rest} their defaults", flush=True)
            values["run_dir"] = str(folder)
            for number, (path, names) in enumerate(declared.items(), 1):
                own = {name: values[name] for name in names if name in given or name == "run_dir"}
                label = f"[{number}/{len(declared)}] {path.stem:<24}"
                _run_one(folder, record, path, label, own, timeout)
    except (OSError, RuntimeError) as error:
        raise RunError(str(error)) from None
    return folder


def check_timeout(timeout: int | None) -> None:
    """Raise RunError where a cell would get less than a second."""
    if timeout is not None and timeout < 1:
        raise RunError(f"--timeout is {timeout}; expected seconds, 1 or more, or no --timeout.")


def find_data(name: str, data_dir: str) -> tuple[datasets.Dataset, str]:
    """Return a data set, fetched or converted at its first use, and the folder it is read from."""
    if name == "meadow" and data_dir:
        raise RunError(f"data_dir is {data_dir}, and the data set meadow: add --dataset voc for a "
                       "folder of your own.")
    try:
        data_dir = fetch.ensure(name, data_dir)
        # Of an own folder, check_data lists what is missing.
        load = datasets.find_dataset if name == "voc" else datasets.load_dataset
        return load(name, data_dir), data_dir
    except (OSError, ValueError) as error:
        raise RunError(str(error)) from None


def check_data(dataset: datasets.Dataset | None, checked: str = "") -> str:
    """Read all photos and masks of an own folder; print warnings, raise RunError with the faults.

    Returns a digest of the files; those of `checked`, an earlier digest, are not read again.
    """
    if dataset is None or dataset.name != "voc":
        return ""
    files = {path for split in dataset.splits.values() for pair in split for path in pair}
    states = [(str(path), path.stat().st_size, path.stat().st_mtime_ns)
              for path in sorted(files) if path.is_file()]
    digest = hashlib.sha256(repr(states).encode()).hexdigest()
    if digest == checked:
        return digest
    problems = check.check_dataset(dataset, progress.bar("checking photos and masks", delay=2.0))
    for severity in ("error", "warning"):
        found = [problem for problem in problems if problem.severity == severity]
        text = f"{dataset.root} has {severity}s: {len(found)}{images.bullets(found)}"
        if found and severity == "error":
            raise RunError(f"{text}\nNothing was run. A table of all: "
                           f"python -m tools.check {dataset.root}")
        if found:
            print(f"{text}\nTraining can start.", flush=True)
    return digest


def _keep_own_notebooks(folder: Path, paths: Iterable[Path]) -> None:
    """Raise RunError where executed notebooks would replace files that no run has written."""
    own = runs.read_record(folder)["notebooks"]  # a full disk or a kill may have cut these off
    for file in (folder / path.name for path in paths if path.stem not in own):
        if file.exists() and file.stat().st_size and not runs.is_executed(file):
            raise RunError(f"{file}: no run wrote this notebook, and this one would replace it. "
                           "Choose another folder with --name or --run-dir.")


def _open_record(folder: Path, values: dict, checked: str) -> dict:
    """Return the record of the run in `folder`, new or to be continued; refuses other parameters.

    checked: the digest of `check_data`.
    """
    record = runs.read_record(folder)
    changed = runs.differences(record["parameters"], values)
    finished = [entry for entry in record["notebooks"].values() if entry["status"] == "finished"]
    # A run that broke before anything was finished has nothing to lose.
    if changed and (finished or (folder / "training" / "state.npz").is_file()):
        raise RunError(f"{short(folder)} holds a run with other parameters: {changed}.\n"
                       "Give this run another folder with --name, or delete that folder first.")
    if record.get("data", checked) != checked:  # results of other photos and masks are not kept
        record["notebooks"] = {}
    record["parameters"] |= values
    record |= {"versions": runs.versions(), "machine": runs.machine(), "data": checked}
    runs.write_json(folder / "run.json", record)
    return record


def _run_one(folder: Path, record: dict, path: Path, label: str, values: dict,
             timeout: int | None) -> None:
    """Execute one notebook and record how it went; keep it where the same code finished it."""
    if is_finished(folder, record, path):
        seconds = record["notebooks"][path.stem]["seconds"]
        print(f"{label}  kept: finished before, in {duration(seconds)}", flush=True)
        return
    # Later notebooks may build on this one, so their earlier results no longer count.
    earlier = {stem: entry for stem, entry in record["notebooks"].items() if stem < path.stem}
    entry = {"status": "running", "code": fingerprint(path)}
    record["notebooks"] = earlier | {path.stem: entry}
    runs.write_json(folder / "run.json", record)
    print(label.rstrip(), flush=True)
    start = time.monotonic()
    try:
        execute(path, folder / path.name, values, timeout)
        entry["status"] = "finished"
    except BaseException as error:
        entry["status"] = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        raise
    finally:
        entry["seconds"] = round(time.monotonic() - start, 1)
        print(f"{label}  {entry['status']} in {duration(entry['seconds'])}", flush=True)
        with contextlib.suppress(OSError):  # a full disk must not hide the error above
            runs.write_json(folder / "run.json", record)


def is_finished(folder: Path, record: dict, path: Path) -> bool:
    """Return whether the run in `folder` has finished a notebook with the code of today."""
    entry = record["notebooks"].get(path.stem, {})
    return (entry.get("status") == "finished" and entry.get("code") == fingerprint(path)
            and (folder / path.name).exists())


def fingerprint(path: Path) -> str:
    """Return a hash of the notebook's code and of utils/: results of other code are not kept."""
    cells = nbformat.read(path, as_version=4).cells
    texts = [cell.source for cell in cells if cell.cell_type == "code"]
    texts += [file.read_text("utf-8") for file in sorted((runs.ROOT / "utils").glob("*.py"))]
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


def duration(seconds: float) -> str:
    """Return seconds in words: "45 s" or "2 min 05 s"."""
    seconds = round(seconds)
    return f"{seconds} s" if seconds < 90 else f"{seconds // 60} min {seconds % 60:02} s"


# The command -----------------------------------------------------------------------------------


def summary(folder: Path) -> str:
    """Return the scores of the run in `folder`, if notebook 04 left any, and where to look."""
    lines, metrics = [], runs.read_json(folder / "metrics.json")
    if "fraction_of_bilinear_oracle" in metrics:  # other notebooks write less than 04
        lines.append(f"{metrics['dataset']}, {metrics['split']} split, {metrics['images']} images")
        scores = metrics["scores"] | {"mean_iou, one class only": metrics["baseline_mean_iou"]}
        lines += [f"  {name.replace('_', ' '):<24} {value:.3f}"
                  for name, value in scores.items() if isinstance(value, float)]
        lines.append(f"  mean iou is {metrics['fraction_of_bilinear_oracle']:.2f} of "
                     f"{metrics['oracles']['bilinear']:.3f}, the true masks at this stride\n")
    places = {"run folder": folder, "figures": folder / "figures", "model": folder / "model.keras"}
    lines += [f"{name:<11} {short(path)}" for name, path in places.items() if path.exists()]
    return "\n".join(lines)


def take_parameters(argv: list[str]) -> tuple[list[str], dict[str, str]]:
    """Split `-p NAME VALUE` and `-p NAME=VALUE` off; argparse has no option of one word or two."""
    words, rest, given = iter(argv), [], {}
    for word in words:
        if word not in ("-p", "--parameter"):
            rest.append(word)
            continue
        name, equals, value = next(words, "").partition("=")
        value = value if equals else next(words, None)
        if not name or value is None or name in given:
            raise RunError("-p needs a name, once, and a value: -p epochs 5, or -p epochs=5.")
        given[name] = value
    return rest, given


def parser(prog: str, description: str, epilog: str, folder: str) -> argparse.ArgumentParser:
    """Return the options that runs and sweeps have in common; folder: the default of --name."""
    made = argparse.ArgumentParser(prog, description=description, epilog=epilog,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--dataset", metavar="NAME", help="the data set: the same as -p dataset=NAME")
    made.add_argument("--data-dir", metavar="DIR", help="where its files are: as -p data_dir=DIR")
    where = made.add_mutually_exclusive_group()
    where.add_argument("--name", help=f"write into results/runs/NAME; default: {folder}")
    where.add_argument("--run-dir", metavar="DIR", default="", help="or FCN_RUN_DIR: any folder")
    made.add_argument("--timeout", type=int, metavar="SECONDS", help="stop a cell after so long")
    return made


def parse(made: argparse.ArgumentParser, argv: list[str]) -> tuple[argparse.Namespace, dict]:
    """Return the options of a command line for `parser`, and the texts of all parameters."""
    rest, given = take_parameters(argv)
    options = made.parse_intermixed_args(rest)
    if options.parameter:  # --param, -pseed=0
        raise RunError("write parameters as -p epochs 5, or -p epochs=5.")
    chosen = {name: getattr(options, name) for name in ("dataset", "data_dir")
              if getattr(options, name) is not None}
    if twice := sorted(chosen.keys() & given.keys()):
        raise RunError(f"{twice[0]} is given twice: with -p, and with an option of its own.")
    return options, given | chosen


def folder_of(options: argparse.Namespace, usual: str) -> str | Path:
    """Return the folder that --run-dir or --name gives, else "" for FCN_RUN_DIR, else `usual`'s."""
    if options.name is None and (options.run_dir or os.environ.get("FCN_RUN_DIR")):
        return options.run_dir
    name = usual if options.name is None else options.name
    if name in ("", ".", "..") or re.search(r"[/\\:]", name):
        raise RunError(f"--name is {name!r}; it must be a plain folder name. Else: --run-dir.")
    return runs.ROOT / "results" / "runs" / name


def _options(argv: list[str]) -> tuple[argparse.Namespace, dict[str, str], str | Path]:
    """Return the options, the parameters and the run folder that a command line gives."""
    made = parser("python -m tools.run", __doc__, EXAMPLES, "the name of the data set")
    made.add_argument("notebooks", nargs="*", metavar="NOTEBOOK", default=DEFAULT,
                      help="numbers (03), names (03_training) or paths; without any, 01 to 05")
    made.add_argument("-p", "--parameter", metavar=("NAME", "VALUE"), nargs=2,
                      help="a parameter of the notebooks, also as NAME=VALUE; may be repeated")
    options, given = parse(made, argv)
    name = re.sub(r"[^\w.-]+", "-", given.get("dataset", "meadow"))
    chosen = options.name or options.run_dir or "run_dir" not in given
    return options, given, folder_of(options, name) if chosen else ""


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code: 0 done, 1 failed or refused, 130 interrupted."""
    def command() -> int:
        options, given, folder = _options(sys.argv[1:] if argv is None else argv)
        print(f"\n{summary(run(options.notebooks, given, folder, options.timeout))}")
        return 0

    return guarded(command)


if __name__ == "__main__":
    sys.exit(main())
