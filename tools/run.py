"""Run the notebooks in order, each with the parameters it declares, into one folder per run.

Every notebook is executed by papermill in a kernel of its own. The run folder receives the executed
notebooks, run.json (parameters, versions, machine, seconds) and what the notebooks write: model, metrics,
figures. The same command again keeps what is finished and goes on where the run broke.
"""

import sys

if not (3, 11) <= sys.version_info[:2] <= (3, 13):
    sys.exit("This repository runs on Python 3.11 to 3.13, and this is Python %d.%d. Install one of those "
             "and run the same command with it." % sys.version_info[:2])

import argparse
import ast
import contextlib
import difflib
import hashlib
import json
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

    from tools.execute import Progress, RunError, execute, literal, short
    from tools import check, fetch
    from utils import datasets, progress, recipes, runs
except ImportError as missing:
    sys.exit(f"This Python lacks a package that the runner needs ({missing}). Use `make run`, which "
             "installs them all, or: python -m pip install -r requirements/core.txt")

NOTEBOOKS = runs.ROOT / "notebooks"
LISTED = 20  # faults of a data set, as many as a screen holds
DEFAULT = ("01", "02", "03", "04", "05")
TYPES = {"str": (str, "text"), "int": (int, "a whole number"), "float": (float, "a number"),
         "bool": (bool, "true or false"), "list": (list, "a list"), "dict": (dict, "a mapping")}
EXAMPLES = """examples:
  python -m tools.run                                    01 to 05 on the embedded meadow scenes
  python -m tools.run -p epochs 5 --name short           fewer epochs, into results/runs/short
  python -m tools.run --dataset camvid --data-dir DIR    another data set
  python -m tools.run 03 04 -p learning_rate 1e-3 -p seed=1 --name seed-1"""


# Which notebooks, with which parameters -----------------------------------------------------------------


def find_notebooks(names: Iterable[str]) -> list[Path]:
    """Return the notebooks that numbers ("03", "A1"), stems ("03_training") or paths name, sorted by stem."""
    paths = [*NOTEBOOKS.glob("[0-9]*.ipynb"), *NOTEBOOKS.glob("appendix/A[0-9]*.ipynb")]
    there = {path.stem: path for path in sorted(paths)}
    numbers = {stem.split("_")[0]: stem for stem in there}
    found = {}
    for name in names:
        given = Path(name).expanduser()
        stem = numbers.get(name.zfill(2), given.stem)
        if given.suffix == ".ipynb" and given.is_file():
            path = given.resolve()
        elif stem in there:
            path = there[stem]
        else:
            raise RunError(f"There is no notebook {name}{nearest(name, there)} "
                           f"There are: {', '.join(there) or 'none'}.")
        if found.setdefault(path.stem, path) != path:
            raise RunError(f"{found[path.stem]} and {path} would both become {path.name} in the run folder.")
    return [found[stem] for stem in sorted(found)]


def nearest(word: str, words: Iterable[str]) -> str:
    """Return the end of a sentence about a mistyped word: "; did you mean epochs?", or a full stop."""
    near = difflib.get_close_matches(word, list(words), n=2, cutoff=0.5)
    return f"; did you mean {' or '.join(near)}?" if near else "."


def declared_parameters(path: Path) -> dict[str, tuple[str, object]]:
    """Return type name ("int"; "None" without an annotation) and default of each declared parameter."""
    try:
        found = papermill.inspect_notebook(literal(path))
        return {name: (p["inferred_type_name"], ast.literal_eval(p["default"])) for name, p in found.items()}
    except Exception as error:  # papermill and nbformat raise a dozen kinds
        raise RunError(f"{path}: cannot read the notebook or its parameters cell ({error}).") from None


class Loader(NoDatesSafeLoader):
    """YAML, with 1e-3 as the number that everybody means."""


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+\.?\d*[eE][-+]?\d+$"), list("-+0123456789"))


def convert(name: str, value: object, type_name: str) -> object:
    """Return `value`, given as text or as a Python value, in the type that the notebook declares."""
    parsed = value
    if isinstance(value, str):
        with contextlib.suppress(yaml.YAMLError):
            parsed = yaml.load(value, Loader=Loader)
    if type_name == "str" and isinstance(value, str):
        parsed = parsed if isinstance(parsed, str) else value
        if parsed and (name.endswith("_dir") or Path(parsed).is_file()):
            parsed = os.path.abspath(os.path.expanduser(parsed))  # notebooks run in a folder of their own
    elif type_name in ("int", "float") and not isinstance(value, bool):
        parsed = value  # not YAML's reading, which takes 010 for 8, 0x10 for 16 and 1:30 for 90
        with contextlib.suppress(ValueError, TypeError, OverflowError):
            number = float(value)
            parsed = int(number) if type_name == "int" and number.is_integer() else number
    kind, words = TYPES.get(type_name, (object, ""))
    if not isinstance(parsed, kind) or (kind is int and isinstance(parsed, bool)):
        raise RunError(f"Parameter {name} is {value!r}; it must be {words} ({type_name}).")
    return parsed


def resolve(declared: dict[Path, dict], given: dict[str, object]) -> tuple[dict, dict[Path, dict]]:
    """Return all parameters of the run by name, and for each notebook those given ones that it declares."""
    everything = {name: default for names in declared.values() for name, (_, default) in names.items()}
    for name in given:
        if name not in everything:
            raise RunError(f"No notebook of this run has a parameter {name}{nearest(name, everything)}\n"
                           f"Declared are: {', '.join(sorted(everything)) or 'none'}.")
    chosen = {path: {name: convert(name, given[name], type_name) for name, (type_name, _) in names.items()
                     if name in given} for path, names in declared.items()}
    for values in chosen.values():
        everything.update(values)
    numbers = {name: everything.get(name) for name in recipes.LIMITS}
    try:  # 0 is the recipe's value
        recipes.check_numbers(**{name: value for name, value in numbers.items()
                                  if value and isinstance(value, (int, float))})
    except ValueError as error:
        raise RunError(f"Parameter {error}") from None
    everything.pop("run_dir", None)
    return everything, chosen


# The run ------------------------------------------------------------------------------------------------


def run(notebooks: Iterable[str | Path] = DEFAULT, parameters: dict | None = None, run_dir: str | Path = "",
        timeout: int | None = None) -> Path:
    """Run notebooks into a run folder, and return the folder.

    `notebooks`: numbers, stems or paths. `parameters`: values, or their text, by name; each notebook gets
    those it declares. `run_dir`: the run folder; "" takes FCN_RUN_DIR, else results/runs/default. `timeout`:
    seconds that a cell may take. Raises RunError where anything stops the run.
    """
    if timeout is not None and timeout < 1:
        raise RunError(f"--timeout is {timeout}; expected seconds, 1 or more. Without it a cell takes what it takes.")
    parameters = dict(parameters or {})
    run_dir = run_dir or parameters.pop("run_dir", "")
    paths = find_notebooks(str(name) for name in notebooks)
    declared = {path: declared_parameters(path) for path in paths}
    everything, chosen = resolve(declared, parameters)
    dataset = None
    if {"dataset", "data_dir"} <= everything.keys():
        dataset, data_dir = find_data(everything["dataset"], everything["data_dir"])
        if data_dir != everything["data_dir"]:  # the notebooks read what was converted
            everything["data_dir"] = data_dir
            for path in paths:
                if "data_dir" in declared[path]:
                    chosen[path]["data_dir"] = data_dir
    try:
        folder = runs.choose_folder(run_dir)
        _refuse_notebooks(folder, paths)
        checked = check_data(dataset, runs.read_record(folder).get("data", ""))
        folder = runs.run_folder(run_dir)
        with runs.lock(folder):
            record = _open_record(folder, everything, checked)
            print(f"Run folder  {short(folder)}\nParameters  {_echo(everything, chosen)}", flush=True)
            for number, path in enumerate(paths, 1):
                if "run_dir" in declared[path]:
                    chosen[path]["run_dir"] = str(folder)
                label = f"[{number}/{len(paths)}] {path.stem:<24}"
                _run_one(folder, record, path, label, chosen[path], timeout)
    except (OSError, RuntimeError) as error:
        raise RunError(str(error)) from None
    return folder


def find_data(name: str, data_dir: str) -> tuple[datasets.Dataset, str]:
    """Fetch or convert a published data set at its first use; return it, and the folder it is read from.

    Before the first notebook: a download shows its progress, and a wrong folder fails at once.
    """
    load = datasets.load_dataset
    if name == "voc":
        load = datasets.find_dataset  # check_data lists what is missing
    try:
        data_dir = fetch.ensure(name, data_dir)
        return load(name, data_dir), data_dir
    except (OSError, ValueError) as error:
        raise RunError(str(error)) from None


def check_data(dataset: datasets.Dataset | None, checked: str = "") -> str:
    """Read all photos and masks of an own folder; print warnings, and raise RunError with the faults.

    checked: what an earlier call returned; the same files are not read again. Returns a digest of the files' names,
    sizes and times, "" for a data set that is published, or None.
    """
    if dataset is None or dataset.name != "voc":
        return ""
    digest = hashlib.sha256()
    for path in sorted({path for split in dataset.splits.values() for sample in split for path in sample}):
        state = path.stat() if path.is_file() else None
        digest.update(f"{path} {state and (state.st_size, state.st_mtime_ns)}\n".encode())
    if digest.hexdigest() == checked:
        return checked
    problems = check.check_dataset(dataset, progress.bar("checking photos and masks", delay=2.0))
    errors, warnings = ([problem for problem in problems if problem.severity == severity]
                        for severity in ("error", "warning"))
    if errors:
        raise RunError(f"{dataset.root}: training would go wrong, the data set has {_listed(errors, 'error')}\n"
                       f"Nothing was run. For a table of all: python -m tools.check {dataset.root}")
    if warnings:
        print(f"{dataset.root}: training can start, with {_listed(warnings, 'warning')}", flush=True)
    return digest.hexdigest()


def _listed(problems: list, kind: str) -> str:
    lines = [f"{len(problems)} {kind}{'s' if len(problems) > 1 else ''}:", *map(str, problems[:LISTED])]
    if len(problems) > LISTED:
        lines.append(f"and {len(problems) - LISTED} more")
    return "\n  ".join(lines)


def _echo(everything: dict, chosen: dict[Path, dict]) -> str:
    given = {name for values in chosen.values() for name in values if name in everything}
    words = ", ".join(f"{name}={everything[name]}" for name in sorted(given))
    words = re.sub(r"//[^/\s]*@", "//...@", words)  # no password of an address
    return f"{words}; the others have their defaults" if words else "all have their defaults"


def _refuse_notebooks(folder: Path, paths: list[Path]) -> None:
    """Raise RunError where executed notebooks would replace files that no run has written."""
    there = [folder / path.name for path in paths if (folder / path.name).exists()]
    if (folder / "run.json").exists():
        there = [file for file in there if file.stat().st_size and not runs.is_executed(file)]
    if there:
        raise RunError(f"{folder} holds {', '.join(file.name for file in there)}, which no run wrote and this "
                       "one would replace. Choose another folder with --name or --run-dir.")


def _open_record(folder: Path, everything: dict, checked: str) -> dict:
    """Return the record of the run in `folder`, new or to be continued; refuses other parameters.

    checked: the digest of data that `check_data` has found to be fine.
    """
    file, record = folder / "run.json", runs.read_record(folder)
    changed = runs.differences(record["parameters"], everything)
    # A run that broke before anything was finished has nothing to lose: a mended typing error may go on there.
    finished = any(entry["status"] == "finished" for entry in record["notebooks"].values())
    if changed and (finished or (folder / "training" / "state.npz").is_file()):
        raise RunError(f"{short(folder)} holds a run with other parameters: {changed}.\n"
                       "Give this run a folder of its own with --name, or delete that folder first.")
    record["parameters"] |= everything
    record |= {"versions": runs.versions(), "machine": runs.machine(), "data": checked}
    runs.write_json(file, record)
    return record


def _run_one(folder: Path, record: dict, path: Path, label: str, parameters: dict, timeout: int | None):
    """Execute one notebook and record how it went, or keep it where the same code finished it before."""
    code = fingerprint(path)
    if is_finished(folder, record, path, code):
        seconds = record["notebooks"][path.stem]["seconds"]
        print(f"{label}  kept: finished before, in {duration(seconds)}", flush=True)
        return
    # Later notebooks may build on this one, so what they made before counts no more.
    record["notebooks"] = {stem: entry for stem, entry in record["notebooks"].items() if stem < path.stem}
    entry = record["notebooks"][path.stem] = {"status": "running", "code": code}
    runs.write_json(folder / "run.json", record)
    progress, start = Progress(label), time.monotonic()
    try:
        execute(path, folder / path.name, parameters, timeout, progress)
        entry["status"] = "finished"
    except BaseException as error:
        entry["status"] = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        raise
    finally:
        entry["seconds"] = round(time.monotonic() - start, 1)
        progress.show(f"{entry['status']} in {duration(entry['seconds'])}", last=True)
        with contextlib.suppress(OSError):  # a full disk must not hide the error above
            runs.write_json(folder / "run.json", record)


def is_finished(folder: Path, record: dict, path: Path, code: str) -> bool:
    """Return whether the run in `folder` has finished the notebook `path`, whose fingerprint is `code`."""
    before = record["notebooks"].get(path.stem, {})
    return before.get("status") == "finished" and before.get("code") == code and (folder / path.name).exists()


def fingerprint(path: Path) -> str:
    """Return a hash of the notebook's code and of utils/: what another one gave is not kept."""
    cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    modules = [file.read_text(encoding="utf-8") for file in sorted((runs.ROOT / "utils").glob("*.py"))]
    return hashlib.sha256("\0".join(cells + modules).encode()).hexdigest()[:16]


def duration(seconds: float) -> str:
    """Return seconds in words: "45 s" or "2 min 05 s"."""
    seconds = round(seconds)
    return f"{seconds} s" if seconds < 90 else f"{seconds // 60} min {seconds % 60:02} s"


# The command --------------------------------------------------------------------------------------------


def summary(folder: Path) -> str:
    """Return the scores of the run in `folder`, where it left any, and where to look."""
    lines = []
    metrics = {}
    with contextlib.suppress(OSError, ValueError):
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    if "fraction_of_bilinear_oracle" in metrics:  # as notebook 04 writes them; other notebooks may write less
        share, oracle = metrics["fraction_of_bilinear_oracle"], metrics["oracles"]["bilinear"]
        notes = {"mean_iou": f"   {share:.2f} of {oracle:.3f}, the true masks at this stride"}
        lines += [f"{metrics['dataset']}, {metrics['split']} split, {metrics['images']} images"]
        lines += [f"  {name.replace('_', ' '):<24} {value:.3f}{notes.get(name, '')}"
                  for name, value in metrics["scores"].items() if isinstance(value, float)]
        lines += [f"  {'mean iou, one class only':<24} {metrics['baseline_mean_iou']:.3f}", ""]
    places = {"run folder": folder, "figures": folder / "figures", "model": folder / "model.keras"}
    lines += [f"{name:<11} {short(path)}" for name, path in places.items() if path.exists()]
    for stem, entry in json.loads((folder / "run.json").read_text(encoding="utf-8"))["notebooks"].items():
        if "seconds" in entry:  # not of one that was killed
            lines += [f"{'notebook':<11} {short(folder / stem)}.ipynb, {duration(entry['seconds'])}"]
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
        if not name or value is None:
            raise RunError("-p needs a name and a value: -p epochs 5, or -p epochs=5.")
        given[name] = value
    return rest, given


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m tools.run", description=__doc__, epilog=EXAMPLES,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", metavar="NOTEBOOK", default=DEFAULT,
                        help="numbers (03), names (03_training) or paths; without any, 01 to 05")
    parser.add_argument("--dataset", metavar="NAME", help="the data set: the same as -p dataset NAME")
    parser.add_argument("--data-dir", metavar="DIR", help="where its files are: the same as -p data_dir DIR")
    parser.add_argument("-p", "--parameter", metavar=("NAME", "VALUE"), nargs=2,
                        help="a parameter of the notebooks (NAME=VALUE will do too); may be given again")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--name", help="run folder results/runs/NAME; without it, the name of the data set")
    where.add_argument("--run-dir", metavar="DIR", default="", help="run folder anywhere (or: FCN_RUN_DIR)")
    parser.add_argument("--timeout", type=int, metavar="SECONDS", help="stop a cell that takes longer")
    return parser


def _chosen_folder(options: argparse.Namespace, parameters: dict) -> str | Path:
    if options.run_dir or (not options.name and ("run_dir" in parameters or os.environ.get("FCN_RUN_DIR"))):
        return options.run_dir
    return named_folder(options.name or re.sub(r"[^\w.-]+", "-", parameters.get("dataset", "meadow")))


def named_folder(name: str) -> Path:
    """Return the folder of the runs called `name`; raises RunError where that is no plain folder name."""
    if name in (".", "..") or re.search(r"[/\\:]", name):
        raise RunError(f"--name is {name!r}; it must be a plain folder name. For other places: --run-dir.")
    return runs.ROOT / "results" / "runs" / name


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code: 0 done, 1 failed or refused, 130 interrupted."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a terminal that lacks a character must not stop a training
    try:
        rest, parameters = take_parameters(sys.argv[1:] if argv is None else argv)
        options = _parser().parse_intermixed_args(rest)
        given = {"dataset": options.dataset, "data_dir": options.data_dir}
        parameters |= {name: value for name, value in given.items() if value is not None}
        folder = run(options.notebooks, parameters, _chosen_folder(options, parameters), options.timeout)
        print(f"\n{summary(folder)}")
    except RunError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted. The same command goes on from here: what is finished is kept, and a training "
              "resumes at its last finished epoch.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
