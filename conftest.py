"""What every test and every notebook under test gets: quiet logs and a run folder of its own."""
import os
import tempfile
import time

import pytest

# Read by TensorFlow when it starts, here and in the notebooks' kernels, which inherit the
# environment.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

BEGUN, MINUTES = time.monotonic(), float(os.environ.get("FCN_TEST_MINUTES", "inf"))

try:
    from nbval.plugin import IPyNbCell, IPyNbFile
except ImportError:  # without nbval the unit tests still run
    IPyNbCell = IPyNbFile = ()


def pytest_collectstart(collector):
    # Warnings and TensorFlow's log lines differ between machines; what a reader should see goes to
    # stdout.
    if IPyNbFile and isinstance(collector, IPyNbFile):
        collector.skip_compare += ("stderr",)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    if time.monotonic() - BEGUN > 60 * MINUTES:
        pytest.skip(f"not reached within the {MINUTES:g} minutes of FCN_TEST_MINUTES")
    # nbval starts a notebook's kernel in the set-up of its first cell, after this hook.
    if IPyNbCell and isinstance(item, IPyNbCell) and not hasattr(item.parent, "fcn_run_dir"):
        item.parent.fcn_run_dir = tempfile.TemporaryDirectory(
            prefix=f"fcn-{item.parent.path.stem}-")
        os.environ["FCN_RUN_DIR"] = item.parent.fcn_run_dir.name


@pytest.fixture(autouse=True)
def fresh_run_dir(tmp_path_factory, monkeypatch):
    """Point FCN_RUN_DIR at an empty folder, so that no test sees or touches a user's runs."""
    folder = tmp_path_factory.mktemp("run")
    monkeypatch.setenv("FCN_RUN_DIR", str(folder))
    return folder
