"""The files around the code agree with each other: names, links, versions, sizes."""
import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from tools import set_up

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
REPOSITORY = PROJECT["urls"]["Repository"]
SLUG = REPOSITORY.removeprefix("https://github.com/")
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PAGES = [page for pattern in ("*.md", "data/*.md", "results/*.md")
         for page in sorted(ROOT.glob(pattern))]

each_notebook = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.name)
each_text = pytest.mark.parametrize("path", PAGES + NOTEBOOKS,
                                    ids=lambda path: str(path.relative_to(ROOT)))


def read(name):
    return (ROOT / name).read_text("utf-8")


def cells(notebook, kind):
    """The sources of a notebook's cells of one kind, "markdown" or "code"."""
    return ["".join(cell["source"]) for cell in json.loads(notebook.read_text("utf-8"))["cells"]
            if cell["cell_type"] == kind]


def prose(path):
    """The markdown of a page or a notebook, without its code blocks."""
    text = ("\n\n".join(cells(path, "markdown")) if path.suffix == ".ipynb"
            else path.read_text("utf-8"))
    return re.sub(r"^```.*?^```|`[^`\n]*`", "", text, flags=re.MULTILINE | re.DOTALL)


def repository_files():
    """All files that are, or on the next commit would be, part of the repository."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def lines_of_text():
    """(place, line) for every line of every text file of the repository but the lock files."""
    for path in repository_files():
        if path.suffix == ".lock":
            continue
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            yield f"{path.relative_to(ROOT).as_posix()}:{number}", line


def requirement_names(name):
    lines = [line.split("#")[0].strip() for line in read(name).splitlines()]
    return {requirement.name: requirement for requirement in map(Requirement, filter(None, lines))}


def locked(name):
    """Package → set of versions (Python versions may differ in theirs) in a lock file."""
    versions = {}
    for package, version in re.findall(r"^([a-z0-9._-]+)==([^\s;]+)", read(name), re.MULTILINE):
        versions.setdefault(package, set()).add(version)
    return versions


# names and addresses

@each_notebook
def test_notebook_has_a_colab_badge_to_itself(notebook):
    badge = f"https://colab.research.google.com/github/{SLUG}/blob/main/notebooks/{notebook.name}"
    first = cells(notebook, "markdown")[0]
    assert badge in first, f"{notebook.name}: its first cell lacks the badge {badge}"


@each_text
def test_colab_links_point_at_notebooks_of_this_repository(path):
    address = r"colab\.research\.google\.com/github/([^/]+/[^/]+)/blob/main/([^\s)\"'\\]+)"
    for slug, target in re.findall(address, path.read_text("utf-8")):
        assert slug == SLUG, f"{path.name}: a badge names {slug}; pyproject.toml says {SLUG}"
        there = (ROOT / target).is_file()
        assert there, f"{path.name}: a badge points at {target}, which does not exist"


def test_readme_has_a_badge_for_every_notebook():
    readme = read("README.md")
    missing = [path.name for path in NOTEBOOKS
               if f"{SLUG}/blob/main/notebooks/{path.name}" not in readme]
    assert not missing, f"README.md has no Colab badge for {missing}"


@each_notebook
def test_clone_cell_names_this_repository(notebook):
    clones = [cell for cell in cells(notebook, "code") if re.search(r"git\W+clone", cell)]
    assert len(clones) == 1, f"{notebook.name}: {len(clones)} cells clone a repository, expected 1"
    addresses = set(re.findall(r"https://github\.com/[\w.-]+/[\w.-]+", clones[0]))
    assert {address.removesuffix(".git") for address in addresses} == {REPOSITORY}


@each_text
def test_addresses_of_this_repository_agree(path):
    name = SLUG.split("/")[1]
    found = set(re.findall(rf"(?<!/)github\.com/([\w.-]+/{re.escape(name)})\b",
                           path.read_text("utf-8")))
    assert found <= {SLUG}, f"{path.name} names {found}; pyproject.toml says {SLUG}"


# links

@each_text
def test_relative_links_resolve(path):
    text = prose(path)
    targets = (re.findall(r"\]\(\s*<?([^)\s>]+)", text)
               + re.findall(r"(?:src|href)=[\"']([^\"']+)", text))
    local = {target.split("#")[0] for target in targets
             if not re.match(r"[a-z][a-z0-9+.-]*:|#", target)}
    missing = sorted(target for target in local if not (path.parent / target).exists())
    assert not missing, f"{path.relative_to(ROOT)} links to {missing}, which do not exist"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_to_headings_resolve(page):
    text = prose(page)
    outside_code = re.sub(r"^```.*?^```", "", page.read_text("utf-8"),
                          flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+\s+(.+?)\s*$", outside_code, re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    missing = sorted(set(re.findall(r"\]\(#([^)]+)\)", text)) - anchors)
    assert not missing, f"{page.name} links to the headings {missing}, which do not exist"


# what may not be in the repository

def test_no_paths_of_one_machine():
    pattern = re.compile(r"(?<![\w.~/:$}-])/(work|root|home|tmp|Users)/\w|[A-Z]:\\+Users\\")
    found = [f"{place}: {line.strip()[:100]}" for place, line in lines_of_text()
             if pattern.search(line)]
    assert not found, "paths of one machine:\n" + "\n".join(found)


def test_no_hosts_of_package_registries():
    # Written in halves, so that this file does not find itself.
    hosts = ["pypi" + ".org", "python" + "hosted", "anaconda" + ".org", "npmjs" + ".org"]
    found = [place for place, line in lines_of_text() if any(host in line for host in hosts)]
    found += [name for name in ("requirements/core.lock", "requirements/extra.lock")
              if re.search(r"https?://|--(extra-)?index-url|--find-links", read(name))]
    assert not found, f"hosts of package registries, which readers may not use: {found}"


def test_repository_is_small():
    total = sum(path.stat().st_size for path in repository_files())
    assert total < 25e6, f"the repository's files take {total / 1e6:.1f} MB, more than 25"


# versions stand in one place

def test_pyproject_reads_the_requirements_files():
    dynamic = tomllib.loads(read("pyproject.toml"))["tool"]["setuptools"]["dynamic"]
    assert set(PROJECT["dynamic"]) == {"dependencies", "optional-dependencies"}
    assert dynamic["dependencies"]["file"] == ["requirements/core.txt"]
    assert dynamic["optional-dependencies"]["extra"]["file"] == ["requirements/extra.txt"]


def test_environment_yml_refers_to_the_requirements_files():
    *conda, pip = yaml.safe_load(read("environment.yml"))["dependencies"]
    assert conda == [f"python {PROJECT['requires-python']}", "pip"]
    assert pip == {"pip": ["-r requirements/core.txt", "-r requirements/extra.txt", "-e ."]}


def test_every_line_of_environment_yml_is_explained():
    lines = read("environment.yml").splitlines()
    assert [line for line in lines if "  # " not in line and not line.startswith("#")] == []


def test_no_version_of_a_requirement_elsewhere():
    names = {**requirement_names("requirements/core.txt"),
             **requirement_names("requirements/extra.txt")}
    pattern = re.compile(rf"\b({'|'.join(map(re.escape, names))})(\[\w+\])?\s*(==|>=|<=|~=)\s*\d")
    own = ("requirements/core.txt:", "requirements/extra.txt:", "requirements/colab.txt:")
    found = [f"{place}: {line.strip()}" for place, line in lines_of_text()
             if pattern.search(line) and not place.startswith(own)]
    assert not found, "versions belong into requirements/core.txt alone:\n" + "\n".join(found)


def test_python_range_is_the_same_everywhere():
    oldest, newest = set_up.OLDEST, set_up.NEWEST
    assert PROJECT["requires-python"] == f">={oldest[0]}.{oldest[1]},<{newest[0]}.{newest[1] + 1}"
    assert f"not {oldest} <= sys.version_info[:2] <= {newest}" in read("Makefile")
    linux = yaml.safe_load(read(".github/workflows/ci.yml"))["jobs"]["linux"]
    matrix = linux["strategy"]["matrix"]["python"]
    assert matrix == [f"3.{minor}" for minor in range(oldest[1], newest[1] + 1)]


@pytest.mark.parametrize("name", ["requirements/core", "requirements/extra"])
def test_lock_holds_every_requirement_with_hashes(name):
    versions = locked(f"{name}.lock")
    for requirement in requirement_names(f"{name}.txt").values():
        assert requirement.name in versions, f"{name}.lock lacks {requirement.name}: run make lock"
        outside = [v for v in versions[requirement.name] if not requirement.specifier.contains(v)]
        assert not outside, f"{name}.lock has {outside} of {requirement}"
    for entry in re.split(r"\n(?=\S)", read(f"{name}.lock")):
        hashed = "--hash=sha256:" in entry
        assert hashed or entry.startswith("#"), f"{name}.lock: no hash for {entry[:60]}"


def test_both_locks_agree():
    core, extra = locked("requirements/core.lock"), locked("requirements/extra.lock")
    both = core.keys() & extra.keys()
    assert {name: extra[name] for name in both} == {name: core[name] for name in both}


def test_colab_versions_are_inside_the_ranges():
    core = requirement_names("requirements/core.txt")
    for name, pin in requirement_names("requirements/colab.txt").items():
        (specifier,) = pin.specifier
        inside = name not in core or core[name].specifier.contains(specifier.version)
        assert inside, f"requirements/core.txt does not take in Colab's {pin}"


# licence, commands, workflows

def test_licence_is_mit():
    text = read("LICENSE")
    assert text.startswith("MIT License\n") and "the fcn32-notebooks authors" in text
    assert "Permission is hereby granted, free of charge" in text and PROJECT["license"] == "MIT"


def test_make_targets_and_their_documentation_agree():
    targets = (set(re.findall(r"^([a-z][a-z-]*):.*## ", read("Makefile"), re.MULTILINE))
               - {"help", "set-up"})
    code = "\n".join(re.findall(r"^```.*?^```|`[^`\n]+`",
                                read("README.md") + "\n" + read("CONTRIBUTING.md"),
                                re.MULTILINE | re.DOTALL))
    documented = set(re.findall(r"\bmake ([a-z][a-z-]*)", code))
    assert targets <= documented, f"README and CONTRIBUTING lack make {targets - documented}"
    assert documented <= targets | {"help", "set-up"}, f"the Makefile lacks {documented - targets}"


def test_ci_runs_the_readme_commands():
    assert "\nmake test\n" in read(".ci/run") and "make test" in read("README.md")
    steps = yaml.safe_load(read(".github/workflows/ci.yml"))["jobs"]["linux"]["steps"]
    assert {"make run", "make test"} <= {step.get("run") for step in steps}


def lines_of(path):
    return path.read_text("utf-8").splitlines()


@pytest.mark.parametrize("folder, most", [("utils", 2381), ("tools", 5612), ("dev", 900)])
def test_code_does_not_grow(folder, most):
    """The aim for utils is 1,900 and for tools 3,800 lines; lower a limit with every cut."""
    lines = sum(len(lines_of(path)) for path in (ROOT / folder).rglob("*.py"))
    assert lines <= most, f"{folder}/ has {lines} lines"


def test_utils_is_seen_at_a_glance():
    """At most 14 files of 230 lines, the seven ideas together 1,050; lines of 100 characters."""
    files = {path.stem: lines_of(path) for path in (ROOT / "utils").glob("*.py")}
    contents = files.pop("__init__")
    assert len(files) <= 14 and all(f"`{name}`" in "\n".join(contents) for name in files)
    ideas = ("labels", "pipeline", "layers", "models", "training", "metrics", "inference")
    assert sum(len(files[name]) for name in ideas) <= 1050
    for name, lines in files.items():
        assert len(lines) <= 230, f"utils/{name}.py has {len(lines)} lines"
        assert max(map(len, lines)) <= 100, f"utils/{name}.py has a line over 100 characters"


def test_readme_is_short():
    assert len((ROOT / "README.md").read_bytes()) <= 8192


def table_row(page, start):
    """The cells after the first one of the row whose first cell begins so."""
    lines = [line for line in read(page).splitlines() if line.startswith(f"| {start}")]
    return [cell.strip() for cell in lines[0].strip("|").split("|")[1:]]


def test_scores_on_the_pages_are_those_of_the_files():
    def scores(name):
        return json.loads(read(f"results/{name}.json"))

    def band(score):
        return f"{score['mean']:.3f} ± {score['std']:.3f}"

    reference, strides = scores("reference/meadow")["scores"], scores("strides_meadow")
    variants, draws = strides["variants"], strides["oracles"]["bilinear"]
    assert table_row("README.md", "meadow, 80 test scenes, FCN-32s") == [
        band(reference["mean_iou"]), f"{reference['pixel_accuracy']['mean']:.3f}",
        f"{draws['32']:.3f}"]
    at_once = variants["8s at once"]
    assert table_row("README.md", "meadow, FCN-8s") == [
        band(at_once["mean_iou"]), f"{at_once['pixel_accuracy']['mean']:.3f}", f"{draws['8']:.3f}"]
    for start, name in (("FCN-32s ", "32s, trained on"), ("FCN-16s ", "16s"), ("FCN-8s ", "8s"),
                        ("FCN-8s via", "8s via 16s"), ("FCN-8s with", "8s at once")):
        said = band(variants[name]["mean_iou"])
        assert re.search(rf"(?m)^\| {re.escape(start)}.*\| {said} \|", read("results/README.md"))
    for network in ("FCN-16s", "FCN-8s"):
        runs = [run for run in scores("camvid")
                if run["model"].startswith(network.lower().replace("-", ""))]
        pair = ", ".join(f"{run['scores']['mean_iou']:.3f}" for run in runs)
        assert table_row("results/README.md", f"CamVid, val, 101 photos, {network}")[2] == pair
    assert table_row("README.md", "CamVid, val, FCN-8s")[::2] == [
        pair, f"{runs[0]['oracles']['bilinear']:.3f}"]
