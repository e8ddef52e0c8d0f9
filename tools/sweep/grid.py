"""What a sweep runs: the points of a parameter grid, each with its folder."""

import hashlib
import itertools
import json
import math
import random
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import yaml

from tools.run import Loader, RunError, declared_parameters, resolve
from utils.recipes import nearest

KINDS = {"notebooks": list, "grid": dict, "points": list}
LONGEST = 100  # characters of a folder name
LARGEST = 100_000  # values that a range may have
NUMBER = r"\s*([-+]?\d*\.?\d+(?:[eE][-+]?\d+)?)\s*"
RANGE = re.compile(rf"{NUMBER}\.\.{NUMBER}")
WHOLE = re.compile(r"(-?\d+)\.\.(-?\d+)")


@dataclass(frozen=True)
class Point:
    """folder: its run folder. given: what the sweep sets. parameters: all, with their defaults."""

    folder: Path
    given: dict
    parameters: dict

    def options(self) -> list[str]:
        """Return the words that give tools.run what the sweep sets."""
        return [word for name, value in self.given.items()
                for word in ("-p", f"{name}={json.dumps(value, ensure_ascii=False)}")]


class FileLoader(Loader):
    """YAML that reads 010 as ten, as a command line does, and refuses a key given twice."""

    def construct_mapping(self, node, deep=False):
        keys = [str(key.value) for key, _ in node.value]
        if len({*keys}) < len(keys):
            raise yaml.YAMLError(f"a key is given twice: {', '.join(keys)}")
        return super().construct_mapping(node, deep)


FileLoader.add_constructor("tag:yaml.org,2002:int", lambda _, node: int(node.value))


def read_file(path: Path) -> dict:
    """Return what a sweep's YAML file holds: notebooks, grid and points, or some of them."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=FileLoader)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise RunError(f"{path}: cannot be read as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise RunError(f"{path}: expected a mapping with {', '.join(KINDS)} or some of them.")
    for key, value in content.items():
        if key not in KINDS:
            raise RunError(f"{path}: there is no key {key}{nearest(str(key), KINDS)}")
        if not isinstance(value, KINDS[key]):
            raise RunError(f"{path}: {key} is {value!r}; expected a {KINDS[key].__name__}.")
    return content


def read_values(name: str, text: str) -> list[str]:
    """Return the values that a text such as "1e-3,3e-3" or "0..4" lists."""
    found = []
    for word in map(str.strip, text.split(",")):
        ends = WHOLE.fullmatch(word)
        numbers = range(int(ends[1]), int(ends[2]) + 1) if ends else [word]
        if not 0 < len(numbers) <= LARGEST:
            raise RunError(f"Parameter {name} is {word}, which is {len(numbers):,} values; "
                           f"expected 1 to {LARGEST:,}, the smaller number first.")
        found += map(str, numbers)
    return found


def combine(grid: dict[str, object], listed: Iterable[dict],
            limit: int = sys.maxsize) -> list[dict]:
    """Return the assignments of a sweep: each listed one with each combination of the grid.

    A value that is no list is the same for all. Raises RunError for more than `limit`, too.
    """
    values, listed = _lists(grid), list(listed) or [{}]
    count = len(listed) * math.prod(map(len, values.values()))
    if count > limit:
        raise RunError(f"This sweep has {count:,} points, and each runs all notebooks. More than "
                       f"{limit} are refused: give fewer values, or say --yes.")
    for name in values:
        if any(RANGE.fullmatch(str(value)) for value in values[name]):
            raise RunError(f"Parameter {name} has a range of values: draw some with --random N.")
    assignments = []
    for point in listed:
        if not isinstance(point, dict):
            raise RunError(f"A point is {point!r}; expected a mapping, such as {{stride: 16}}.")
        for name in point.keys() & values.keys():
            raise RunError(f"Parameter {name} is in the grid and in the point {point}: give one.")
        assignments += [point | dict(zip(values, chosen))
                        for chosen in itertools.product(*values.values())]
    return assignments


def _lists(grid: dict[str, object]) -> dict[str, list]:
    values = {}
    for name, value in grid.items():
        if WHOLE.fullmatch(str(value)):
            value = read_values(name, value)
        values[name] = value if isinstance(value, list) else [value]
        if not values[name]:
            raise RunError(f"Parameter {name} has no values to sweep over.")
    return values


def draw(grid: dict[str, object], listed: Iterable[dict], count: int, seed: int = 0) -> list[dict]:
    """Return `count` different assignments, drawn at random; fewer if there are no more.

    Each has one of the listed and one value of each list; of a range such as "1e-4..1e-2" any
    number, log-uniform if both ends are positive and at least tenfold apart. More add to fewer.
    """
    values, listed, found = _lists(grid), list(listed) or [{}], []
    streams = {name: random.Random(f"{seed} {name}") for name in ("", *grid)}
    for _ in range(100 * count):  # short lists hold fewer
        drawn = {}
        for name, several in values.items():
            value, part = streams[name].choice(several), streams[name].random()
            if ends := RANGE.fullmatch(str(value)):
                low, high = sorted(map(float, ends.groups()))
                far = 0 < 10 * low <= high
                value = low * (high / low) ** part if far else low + (high - low) * part
                value = float(f"{value:.3g}")  # folders are named after it
            drawn[name] = [value]
        point, = combine(drawn, [streams[""].choice(listed)])
        if point not in found:
            found.append(point)
        if len(found) == count:
            break
    return found


def plan(paths: Iterable[Path], assignments: Iterable[dict], folder: Path = Path()) -> list[Point]:
    """Return the points, once each, in folders inside `folder` that are named after what is given.

    A notebook that takes a split to score gets val, unless another is given: choosing by the
    scores of test uses it up. Raises RunError for unknown parameters and values that do not fit.
    """
    declared = {path: declared_parameters(path) for path in paths}
    scored = {"split": "val"} if any("split" in names for names in declared.values()) else {}
    points = {}
    for given in assignments:
        if "run_dir" in given:
            raise RunError("run_dir cannot be swept over: each point has its own. For the sweep's "
                           "folder: --run-dir.")
        given = scored | given
        values = resolve(declared, given)
        given = {name: values[name] for name in sorted(given)}
        name = folder_name(given)
        points.setdefault(name, Point(folder / name, given, values))
    return list(points.values())


def folder_name(given: dict) -> str:
    """Return a folder name such as "epochs=5,seed=0", which differs where parameters differ."""
    exact = ",".join(f"{name}={value}" for name, value in given.items())
    brief = ",".join(f"{name}={Path(value).name if isinstance(value, str) else value}"
                     for name, value in given.items())
    plain = re.sub(r"[^\w.,=+-]+", "-", brief)[:LONGEST]
    if plain == exact:
        return plain
    return f"{plain},{hashlib.sha256(json.dumps(given).encode()).hexdigest()[:8]}"


def differing(points: Iterable[Point]) -> list[str]:
    """Return the names of the parameters that are not the same in all points."""
    values = {}
    for point in points:
        for name, value in point.parameters.items():
            values.setdefault(name, set()).add(repr(value))
    return [name for name in values if len(values[name]) > 1]
