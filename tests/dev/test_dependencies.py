"""Who may import whom, read from the source and tried in a fresh Python."""
import ast
import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OWN = {"utils", "tools", "dev", "tests", "conftest", "odd_folders",
       "scenes", "canvas"}  # the last two: data/render_meadow, for its test
# Other backends for Keras, which their users install themselves, and what only exported models
# need: imported where it is used, with a sentence, or another way, where it is missing.
OPTIONAL = {"jax", "torch", "onnx", "ai_edge_litert", "h5py"}  # h5py comes with Keras
MODULES = {path.stem: path for path in sorted((ROOT / "utils").glob("*.py"))
           if path.stem != "__init__"}


def imports(path):
    """Dotted names of all that a file imports; `from utils import labels` is utils.labels."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import; write `from utils import ...`"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def siblings(module):
    """The modules of utils that ``module`` imports directly."""
    return {name.split(".")[1] for name in imports(MODULES[module]) if name.startswith("utils.")}


def reaches(module):
    """The modules of utils that ``module`` imports, directly or through others."""
    seen, ahead = set(), [module]
    while ahead:
        new = siblings(ahead.pop()) & MODULES.keys() - seen
        seen |= new
        ahead += new
    return seen


def third_party(path):
    return {name.split(".")[0] for name in imports(path)} - set(sys.stdlib_module_names) - OWN


def test_utils_package_imports_nothing():
    assert imports(ROOT / "utils" / "__init__.py") == set()


@pytest.mark.parametrize("leaf", ["labels", "metrics", "oracles"])
def test_leaves_need_numpy_alone(leaf):
    assert third_party(MODULES[leaf]) <= {"numpy"}
    assert reaches(leaf) <= {"labels", "metrics"}


@pytest.mark.parametrize("module", ["layers", "recipes", "runs"])
def test_small_modules_know_labels_at_most(module):
    assert reaches(module) <= {"labels"}


@pytest.mark.parametrize("module", ["datasets", "pipeline"])
def test_data_does_not_know_models(module):
    assert reaches(module).isdisjoint({"models", "training", "inference"})


@pytest.mark.parametrize("module", MODULES)
def test_utils_does_not_know_plots_or_tools(module):
    assert "plots" not in siblings(module)
    assert not [name for name in imports(MODULES[module]) if name.split(".")[0] in ("tools", "dev")]


@pytest.mark.parametrize("path", sorted((ROOT / "tools").rglob("*.py")),
                         ids=lambda path: str(path.relative_to(ROOT)))
def test_tools_do_not_know_what_maintainers_use(path):
    assert not [name for name in imports(path) if name.split(".")[0] == "dev"]


@pytest.mark.parametrize("path", sorted((ROOT / "tools").rglob("*.py")),
                         ids=lambda path: str(path.relative_to(ROOT)))
def test_among_tools_only_sweep_and_scale_use_the_runner(path):
    if path.parent.name in ("sweep", "scale"):
        return
    assert not [name for name in imports(path) if re.match(r"tools\.run(\.|$)", name)]


def test_fetching_starts_no_tensorflow():
    code = ("import sys, tools.fetch.__main__; "
            "print(*{'tensorflow', 'keras', 'cv2', 'matplotlib'} & set(sys.modules))")
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True,
                           text=True, check=True)
    assert found.stdout.strip() == ""


def test_only_its_test_knows_the_renderer_of_meadow():
    drawers = {path.stem for path in (ROOT / "data" / "render_meadow").glob("*.py")}
    for folder in ("utils", "tools", "dev"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            assert drawers.isdisjoint(imports(path)), f"{path.name} imports what has drawn meadow"


@pytest.mark.parametrize("module", MODULES)
def test_no_import_circles(module):
    assert module not in reaches(module)


@pytest.mark.parametrize("module", ["utils", "utils.labels", "utils.metrics", "tools.set_up"])
def test_light_modules_start_no_tensorflow(module):
    code = (f"import sys, {module}; "
            "print(*{'tensorflow', 'keras', 'cv2', 'matplotlib'} & set(sys.modules))")
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True,
                           text=True, check=True)
    assert found.stdout.strip() == ""


def test_no_import_of_utils_has_an_effect(tmp_path):
    """Nothing is joined, written or set: FCN_PROCESSES names processes that are not there."""
    code = f"""if True:
        import os, tensorflow, keras
        tensorflow.config.set_visible_devices = None  # to call it would fail
        before = dict(os.environ)
        import {", ".join(f"utils.{module}" for module in MODULES)}, tools.scale
        assert dict(os.environ) == before"""
    environment = {**os.environ, "FCN_PROCESSES": "2", "KERAS_BACKEND": "jax",
                   "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("module", ["training", "pipeline", "callbacks"])
def test_core_knows_no_cluster_and_no_logger(module):
    assert (siblings(module) <= {"callbacks", "images", "labels", "models", "pipeline", "progress",
                                 "recipes", "runs"})
    source = MODULES[module].read_text("utf-8").lower()
    assert not re.search(r"tensorboard|fcn_process|fcn_devices|multihost|distribution", source)


def test_set_up_needs_the_standard_library_alone():
    assert third_party(ROOT / "tools" / "set_up.py") == set()


def required(name):
    """Names of the distributions in a requirements file."""
    return set(re.findall(r"^[a-z][a-z0-9._-]*", (ROOT / name).read_text("utf-8"), re.MULTILINE))


@pytest.mark.parametrize("folder, allowed", [("utils", {"requirements/core.txt"}),
                                             ("tools",
                                              {"requirements/core.txt", "requirements/extra.txt"}),
                                             ("dev",
                                              {"requirements/core.txt", "requirements/extra.txt"}),
                                             ("tests",
                                              {"requirements/core.txt", "requirements/extra.txt"})])
def test_what_is_imported_is_required(folder, allowed):
    names = set().union(*map(required, allowed))
    providers = importlib.metadata.packages_distributions()
    for path in sorted((ROOT / folder).rglob("*.py")):
        for package in third_party(path) - OPTIONAL:
            found = {name.lower().replace("_", "-").removesuffix("-headless")
                     for name in providers.get(package, [package])}
            assert found & names, f"{path.name} imports {package}; {sorted(allowed)} do not name it"


@pytest.mark.parametrize("package", ["utils", "tools"])
def test_no_other_distribution_brings_our_modules(package):
    """A folder of that name without __init__.py, such as tf2onnx brings, hides no package."""
    ours = {f"{package}/{path.name}" for path in (ROOT / package).glob("*.py")}
    distributions = importlib.metadata.packages_distributions().get(package, [])
    for other in set(distributions) - {"fcn32-notebooks"}:
        same = ours & {str(file) for file in importlib.metadata.files(other)}
        assert not same, f"{other} also installs {same}, which can hide this repository's"


@pytest.mark.parametrize("module", ["utils.labels", "tools.set_up"])
def test_installed_modules_are_ours_from_any_folder(module, tmp_path):
    if "fcn32-notebooks" not in importlib.metadata.packages_distributions().get("utils", []):
        pytest.skip("the repository is not installed in this environment")
    code = f"import {module}; print({module}.__file__)"
    found = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True,
                           text=True, check=True)
    assert Path(found.stdout.strip()).parent == ROOT / module.split(".")[0]
