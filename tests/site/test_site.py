"""The web site's parts that need neither Sphinx nor browser; slow/test_browser.py has the rest."""

import importlib.util
import json
import re
import shutil
import subprocess

import keras
import numpy as np
import pytest

from utils import datasets, images, metrics, models, oracles, runs

DOCS = runs.ROOT / "docs"
spec = importlib.util.spec_from_file_location("site_build", DOCS / "build.py")
build = importlib.util.module_from_spec(spec)
spec.loader.exec_module(build)


def test_links_to_files_without_a_page_lead_to_the_repository():
    kept = {"notebooks/01_data_loading.ipynb", "results/README.md"}
    text = ("[a](01_data_loading.ipynb) [b](../README.md) [c](../tools/run.py#L1) "
            "[d](https://example.org) [e](#part) "
            "[f](../tests) [![Open in Colab](https://example.org/badge.svg)](https://example.org/x)")
    led = build.lead_links(text, "notebooks/02_fcn32_architecture.ipynb", kept)
    repository = "https://github.com/fcn32-notebooks/fcn32-notebooks"
    assert led == ("[a](01_data_loading.ipynb) [b](../index.md) "
                   f"[c]({repository}/blob/main/tools/run.py#L1) "
                   "[d](https://example.org) [e](#part) "
                   f"[f]({repository}/tree/main/tests) "
                   "[Open in Colab](https://example.org/x)")


def test_every_notebook_and_every_module_has_a_page():
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    for path in (runs.ROOT / "notebooks").glob("*.ipynb"):
        assert f"notebooks/{path.stem}\n" in index
    modules = re.findall(r"automodule:: utils\.(\w+)", build.api_page())
    assert modules[:7] == build.IDEAS
    assert sorted(modules) == sorted(path.stem for path in (runs.ROOT / "utils").glob("[a-z]*.py"))


def test_the_pages_load_nothing_from_elsewhere():
    for path in [*DOCS.glob("demo/*.mjs"), *DOCS.glob("demo/*.css"), DOCS / "demo.md",
                 *DOCS.glob("_static/*")]:
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://", text), path.name
    assert (sum(len(path.read_text().splitlines()) for path in DOCS.glob("demo/*.*s*")
                if path.suffix != ".json") < 500)


def test_the_network_of_the_page_is_the_kept_one():
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(DOCS / "demo" / "fcn.onnx")
    model = models.load(models.KEPT_MODEL)
    cells = keras.Model(model.input, model.get_layer("score").output)
    for height, width in ((256, 256), (70, 45)):
        photo = np.random.default_rng(0).integers(0, 256, (1, height, width, 3)).astype("float32")
        found = dict(zip(("cells32", "cells16", "cells8"), session.run(None, {"images": photo})))
        np.testing.assert_allclose(found["cells32"],
                                   keras.ops.convert_to_numpy(cells(photo)), atol=1e-3)
        sides = found["cells32"].shape[1:3]
        assert found["cells8"].shape == (1, 4 * sides[0], 4 * sides[1], 8)
    card = json.loads((DOCS / "demo" / "fcn.json").read_text(encoding="utf-8"))
    meadow = datasets.load_dataset("meadow")
    assert card["class_names"] == list(meadow.class_names)
    assert card["colors"] == np.asarray(meadow.colors).tolist()
    assert card["receptive_field"] == models.receptive_field(model)
    assert card["mean_iou"]["32"] < card["mean_iou"]["16"] < card["mean_iou"]["8"]


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js")
def test_the_pages_arithmetic_is_that_of_the_network(tmp_path):
    """Enlarging, best class, oracle and mean IoU of network.mjs against Keras and numpy."""
    rng = np.random.default_rng(1)
    scores = rng.normal(size=(3, 4, 5)).astype("float32")
    sample = datasets.load_dataset("meadow").split("test")[0]
    truth = images.read_mask(sample[1])[:200, :180]
    script = """
        import * as net from "NETWORK";
        const [values, truth] = JSON.parse(process.argv[2]);
        const map = { rows: 3, columns: 4, classes: 5, values: Float32Array.from(values) };
        const large = net.enlarge(map, 8, 20, 29);
        const oracle = net.oracle(Uint8Array.from(truth), 32, 200, 180, 8);
        console.log(JSON.stringify({ large: Array.from(large.values),
            best: Array.from(net.best(large)),
            oracle: Array.from(oracle), iou: net.meanIou(Uint8Array.from(truth), oracle, 8),
            parts: net.probabilities(map, 2),
            spread: Array.from(net.spread(net.best(map), 4, 8, 20, 29)),
            seen: net.seen(4, 206) }));
    """.replace("NETWORK", (DOCS / "demo" / "network.mjs").as_uri())
    (tmp_path / "test.mjs").write_text(script, encoding="utf-8")
    given = json.dumps([scores.ravel().tolist(), truth.ravel().tolist()])
    done = subprocess.run(["node", tmp_path / "test.mjs", given], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    large = keras.ops.convert_to_numpy(
        keras.layers.UpSampling2D(8, interpolation="bilinear")(scores[None]))[0, :20, :29]
    np.testing.assert_allclose(np.reshape(found["large"], large.shape), large, atol=1e-5)
    assert found["best"] == large.argmax(axis=2).ravel().tolist()
    expected = oracles.bilinear_oracle(truth, 32, 8)
    # equal fractions may round apart
    assert np.mean(np.array(found["oracle"]) != expected.ravel()) < 1e-3
    iou = metrics.scores(metrics.confusion_matrix(truth, expected, 8))["mean_iou"]
    assert found["iou"] == pytest.approx(iou, abs=1e-3)
    powers = np.exp(scores.reshape(-1, 5)[2])
    np.testing.assert_allclose(found["parts"], powers / powers.sum(), rtol=1e-5)
    cells = scores.argmax(axis=2).repeat(8, axis=0).repeat(8, axis=1)[:20, :29]
    assert found["spread"] == cells.ravel().tolist()
    assert found["seen"] == [41, 247]
