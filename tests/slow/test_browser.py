"""The web site in a real browser: no page has errors, and the one that labels agrees with Keras."""

import functools
import http.server
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from utils import datasets, images, inference, models, runs

pytestmark = pytest.mark.slow
sync_api = pytest.importorskip("playwright.sync_api")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
SITE = runs.ROOT / "build" / "site"
# Labels a photo as the page does, without its canvas of 640 pixels.
LABEL = """async ([address, name]) => {
    const ort = await import(`${address}/_static/demo/ort.wasm.min.mjs`);
    const net = await import(`${address}/_static/demo/network.mjs`);
    ort.env.wasm.wasmPaths = `${address}/_static/demo/`;
    ort.env.wasm.numThreads = 1;
    window.session ??= await ort.InferenceSession.create(`${address}/_static/demo/fcn.onnx`);
    const image = await createImageBitmap(await (await fetch(`${address}/photo/${name}`)).blob());
    const context = new OffscreenCanvas(image.width, image.height).getContext("2d");
    context.drawImage(image, 0, 0);
    const photo = context.getImageData(0, 0, image.width, image.height);
    const begun = performance.now();
    const maps = await net.score(ort, window.session, photo);
    const ids = net.best(net.enlarge(maps[32], 32, photo.height, photo.width));
    return { ids: Array.from(ids), milliseconds: performance.now() - begun };
}"""


def pages() -> list[Path]:
    return sorted(path for path in SITE.rglob("*.html") if "_static" not in path.parts)


class Quiet(http.server.SimpleHTTPRequestHandler):
    extensions_map = {**http.server.SimpleHTTPRequestHandler.extensions_map,
                      ".mjs": "text/javascript"}

    def log_message(self, *words):
        pass


@pytest.fixture(scope="module")
def address():
    """Build the site if it is not there, and serve it."""
    if not (SITE / "demo.html").is_file():
        environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
        built = subprocess.run(["make", "site"], cwd=runs.ROOT, capture_output=True, text=True,
                               env=environment)
        assert built.returncode == 0, built.stderr
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0),
                                             functools.partial(Quiet, directory=str(SITE)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        try:
            opened = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        except sync_api.Error as error:
            pytest.skip(f"no browser: {str(error).splitlines()[0]}")
        yield opened
        opened.close()


@pytest.fixture
def page(browser):
    """A page that notes what goes wrong in it."""
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    page.faults = []
    page.on("console", lambda message: message.type == "error" and page.faults.append(message.text))
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    page.on("response", lambda answer: answer.status >= 400 and page.faults.append(answer.url))
    # Leaving a page breaks off what it still loads.
    page.on("requestfailed",
            lambda request: "ABORTED" in (request.failure or "") or page.faults.append(request.url))
    yield page
    page.close()


def wait_for_labels(page, times):
    page.wait_for_function(f"document.documentElement.dataset.fcn == '{times}'", timeout=60_000)


@pytest.mark.parametrize("width", [1280, 390])
def test_every_page_loads_whole_and_fits(page, address, width):
    page.set_viewport_size({"width": width, "height": 900})
    wide = []
    for path in pages():
        page.goto(f"{address}/{path.relative_to(SITE).as_posix()}", wait_until="load")
        broken = page.evaluate(
            "[...document.images].filter((i) => i.complete && !i.naturalWidth).map((i) => i.src)")
        page.faults += broken
        if page.evaluate("document.documentElement.scrollWidth") > width:
            wide.append(path.name)
    assert not page.faults and not wide


def test_links_between_pages_lead_somewhere(page, address):
    missing = []
    for path in pages():
        page.goto(f"{address}/{path.relative_to(SITE).as_posix()}", wait_until="domcontentloaded")
        for link in page.evaluate("[...document.links].map((link) => link.href)"):
            link = link.partition("#")[0]
            file = SITE / link.removeprefix(address).lstrip("/")
            if link.startswith(address) and not file.is_file():
                missing.append(f"{path.name}: {link}")
    assert not missing


def test_the_demo_labels_like_keras_within_a_second(page, address):
    data = datasets.load_dataset("meadow")
    model = models.load(models.KEPT_MODEL)
    photos = data.split("test")[0][0].parent
    page.route("**/photo/*",
               lambda route: route.fulfill(path=str(photos / Path(route.request.url).name)))
    page.goto(f"{address}/demo.html")
    wait_for_labels(page, 1)
    different = pixels = 0
    times = []
    for photo, _ in data.split("test"):
        answer = page.evaluate(LABEL, [address, photo.name])
        expected = inference.predict(model, images.read_image(photo))
        different += int((np.array(answer["ids"], np.uint8).reshape(expected.shape)
                          != expected).sum())
        pixels += expected.size
        times.append(answer["milliseconds"])
    print(f"{different} of {pixels} pixels differ; median {np.median(times):.0f} ms",
          file=sys.stderr)
    assert different <= pixels / 10_000 and np.median(times) < 1000 and not page.faults


def test_the_demo_is_used_by_pointer_keyboard_and_file(page, address, tmp_path):
    page.goto(f"{address}/demo.html")
    wait_for_labels(page, 1)
    page.click("#fcn-scenes button:nth-child(2)")
    wait_for_labels(page, 2)
    assert "mean IoU" in page.text_content("#fcn-stride-8 figcaption")
    page.focus("#fcn-canvas")
    before = page.text_content("#fcn-pixel")
    page.keyboard.press("ArrowRight")
    assert page.text_content("#fcn-pixel") != before
    page.hover("#fcn-canvas", position={"x": 20, "y": 30})
    assert "in cell 0, 0" in page.text_content("#fcn-pixel")
    page.check("input[name=fcn-stride][value='8']")
    for view in range(7):
        page.fill("#fcn-view", str(view))
        assert page.text_content("#fcn-view-name")
    photo = np.random.default_rng(0).integers(0, 256, (45, 70, 3), dtype=np.uint8)
    Image.fromarray(photo).save(tmp_path / "odd.png")
    page.set_input_files("#fcn-file", str(tmp_path / "odd.png"))
    wait_for_labels(page, 3)
    assert "70×45" in page.text_content("#fcn-status")
    assert page.get_attribute("#fcn-view", "max") == "4"
    (tmp_path / "no.png").write_bytes(b"no picture")
    page.set_input_files("#fcn-file", str(tmp_path / "no.png"))
    page.wait_for_function("document.getElementById('fcn-status').textContent.includes('no.png')")
    assert not page.faults

