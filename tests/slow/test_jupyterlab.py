"""Each notebook in JupyterLab, in a real browser: *Run All*, no error, no red box, its figures."""

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from dev import mutants, notebooks
from utils import runs

pytestmark = pytest.mark.slow
sync_api = pytest.importorskip("playwright.sync_api")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
PORT, TOKEN = 8765, "test"
# What the cells of the open notebook show, from its model: cells that are out of sight are not on
# the page.
OUTPUTS = """() => {
    const panel = window.jupyterapp.shell.currentWidget;
    const cells = Array.from(panel.content.model.sharedModel.cells, (cell) => cell.toJSON());
    const code = cells.filter((cell) => cell.cell_type === "code" && cell.source.length);
    return {
        status: panel.sessionContext.session?.kernel?.status,
        left: code.filter((cell) => !cell.execution_count).length,
        outputs: code.flatMap((cell) => cell.outputs.map((output) => [
            output.output_type, output.name ?? "",
            String(output.ename ?? output.text ?? ""), Object.keys(output.data ?? {})])),
    };
}"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """JupyterLab in a copy of the repository, since it saves; runs go to a folder of their own."""
    home = tmp_path_factory.mktemp("jupyter")
    copy = mutants.copy_files(tmp_path_factory.mktemp("repository"))
    environment = os.environ | {"FCN_RUN_DIR": str(tmp_path_factory.mktemp("runs")),
                                "JUPYTER_CONFIG_DIR": str(home),
                                "JUPYTER_DATA_DIR": str(home), "IPYTHONDIR": str(home)}
    # Neither stands in a reader's environment; where the second does, kernels let C++ lines pass
    # by.
    for name in ("TF_CPP_MIN_LOG_LEVEL", "PYTEST_CURRENT_TEST"):
        environment.pop(name, None)
    command = [sys.executable, "-m", "jupyter", "lab", "--no-browser", f"--port={PORT}",
               "--allow-root",
               f"--IdentityProvider.token={TOKEN}", "--LabApp.expose_app_in_browser=True",
               f"--notebook-dir={copy}",
               "--ContentsManager.allow_hidden=False"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    for _ in range(120):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{PORT}/api?token={TOKEN}", timeout=2)
            break
        except OSError:
            time.sleep(0.5)
    yield f"http://127.0.0.1:{PORT}"
    process.terminate()
    process.wait(30)


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        try:
            opened = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        except sync_api.Error as error:
            pytest.skip(f"no browser: {str(error).splitlines()[0]}")
        yield opened
        opened.close()


@pytest.mark.parametrize("path", notebooks.tracked(), ids=lambda path: path.stem)
def test_run_all_gives_figures_and_neither_errors_nor_red_boxes(path, server, browser):
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    try:
        place = path.relative_to(runs.ROOT).as_posix()
        page.goto(f"{server}/lab/tree/{place}?token={TOKEN}&reset")
        status = "window.jupyterapp?.shell?.currentWidget?.sessionContext?.session?.kernel?.status"
        page.wait_for_function(f"{status} === 'idle'", timeout=120_000)
        page.evaluate("window.jupyterapp.commands.execute('notebook:clear-all-cell-outputs')")
        assert page.evaluate(OUTPUTS)["left"]
        page.evaluate("void window.jupyterapp.commands.execute('notebook:run-all-cells')")
        page.wait_for_timeout(1000)
        for _ in range(600):
            found = page.evaluate(OUTPUTS)
            failed = any(output[0] == "error" for output in found["outputs"])
            if found["status"] == "idle" and (failed or not found["left"]):
                break
            page.wait_for_timeout(1000)
        folder = os.environ.get("FCN_SCREENSHOTS")
        if folder:
            page.screenshot(path=str(Path(folder) / f"{path.stem}.png"))
    finally:
        page.close()
    errors = [output for output in found["outputs"] if output[0] == "error"]
    red = [output for output in found["outputs"] if output[1] == "stderr"]
    stored = json.loads(path.read_text(encoding="utf-8"))
    expected = [output for cell in stored["cells"] for output in cell.get("outputs", [])]

    def pictures(kinds):
        return sum(any(kind.startswith("image/") for kind in each) for each in kinds)

    assert not errors and not red
    drawn = pictures(output[3] for output in found["outputs"])
    assert drawn == pictures(output.get("data", {}) for output in expected) > 0
