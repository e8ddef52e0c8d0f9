"""Keras' other backends: the core tests pass under JAX and torch, and models mean the same there.

torch is no dependency: FCN_TORCH_PYTHON names the Python of an environment that has it beside all
of requirements/; else it is installed into a temporary folder, which takes some gigabytes unless
UV_TORCH_BACKEND is cpu.
"""

import dataclasses
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from keras import ops

from utils import callbacks, models
from utils.datasets import load_dataset
from utils.labels import VOID
from utils.recipes import Recipe
from utils.training import Scores, cross_entropy, train

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
CASES = [(32, "bilinear"), (8, "bilinear"), (16, "deconv"), (8, "ladder")]
CLASS_WEIGHTS = (None, (1.0, 3.0, 0.5))


@pytest.fixture(scope="module", params=["jax", "torch"])
def run(request, tmp_path_factory):
    """A function that runs Python under another backend, and returns what it printed."""
    folder, python = tmp_path_factory.mktemp(request.param), sys.executable
    environment = {**os.environ, "KERAS_BACKEND": request.param, "JAX_PLATFORMS": "cpu",
                   "CUDA_VISIBLE_DEVICES": ""}
    if request.param == "jax" and importlib.util.find_spec("jax") is None:
        pytest.skip("JAX is not installed")
    if request.param == "torch" and os.environ.get("FCN_TORCH_PYTHON"):
        python = os.environ["FCN_TORCH_PYTHON"]
    elif request.param == "torch":
        install = ["uv", "pip", "install", "--quiet", "--python", sys.executable, "--target",
                   folder, "torch>=2.9,<3"]
        done = subprocess.run([sys.executable, "-m", *install], capture_output=True,
                              text=True, check=False)
        if done.returncode:
            pytest.skip(f"torch cannot be installed: {done.stderr[-300:]}")
        environment["PYTHONPATH"] = str(folder)

    def run(*arguments):
        done = subprocess.run([python, *arguments], cwd=ROOT, env=environment, capture_output=True,
                              text=True, check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    assert run("-c", "import keras; print(keras.backend.backend())").split()[-1] == request.param
    yield run
    shutil.rmtree(folder)


def test_core_tests_pass(run):
    # Of the thousand, few are about TensorFlow alone, and say so.
    printed = run("-m", "pytest", "-q", "-n", "2", "--dist", "loadscope", "-p",
                  "no:cacheprovider", "tests/core")
    counts = {name: int(count) for count, name in re.findall(r"(\d+) (passed|skipped)", printed)}
    print(printed.splitlines()[-1])
    assert counts["passed"] > 600 and counts.get("skipped", 0) <= 5, printed[-3000:]


ELSEWHERE = """
import sys, numpy as np
from pathlib import Path
from keras import ops
from utils import models, training
folder = Path(sys.argv[1])
given, found = np.load(folder / "given.npz"), {}
for key in sys.argv[2:]:
    model = models.load(folder / f"{key}.keras")
    logits = found[key + "logits"] = ops.convert_to_numpy(model(given["x"]))
    metric = training.Scores(3)
    metric.update_state(given["y"], logits)
    found[key + "confusion"] = ops.convert_to_numpy(metric.confusion)
    found[key + "scores"] = [float(value) for value in metric.result().values()]
    found[key + "loss"] = [float(training.cross_entropy(given["y"], logits, weights))
                           for weights in (None, (1.0, 3.0, 0.5))]
training.compile_model(model, 3, 1e-3, 4, optimizer="muon")
model.fit(given["x"], given["y"], verbose=0)
model.save(folder / "trained.keras")
np.savez(folder / "found.npz", trained=ops.convert_to_numpy(model(given["x"])), **found)
"""


def test_files_of_models_give_the_same_logits_losses_and_scores(run, tmp_path, random_fcn):
    networks = {f"{stride}-{upsampling}-": random_fcn(3, stride=stride, upsampling=upsampling)
                for stride, upsampling in CASES}
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 255, (2, 33, 64, 3)).astype(np.float32)
    y = np.where(rng.random((2, 33, 64)) < 0.2, VOID,
                 rng.integers(0, 3, (2, 33, 64))).astype(np.uint8)
    np.savez(tmp_path / "given.npz", x=x, y=y)
    for key, model in networks.items():
        model.save(tmp_path / f"{key}.keras")
    run("-c", ELSEWHERE, tmp_path, *networks)
    with np.load(tmp_path / "found.npz") as found:
        for key, model in networks.items():
            logits = ops.convert_to_numpy(model(x))
            assert np.abs(found[key + "logits"] - logits).max() < 1e-4 * np.abs(logits).max(), key
            metric = Scores(3)
            metric.update_state(y, found[key + "logits"])
            assert (found[key + "confusion"] == ops.convert_to_numpy(metric.confusion)).all()
            scores = [float(value) for value in metric.result().values()]
            assert found[key + "scores"] == pytest.approx(scores, rel=1e-6)
            losses = [float(cross_entropy(y, logits, weights)) for weights in CLASS_WEIGHTS]
            assert found[key + "loss"] == pytest.approx(losses, rel=1e-4)
        # And back: what was trained there.
        logits = ops.convert_to_numpy(models.load(tmp_path / "trained.keras")(x))
        assert np.abs(found["trained"] - logits).max() < 1e-4 * np.abs(logits).max()
        assert np.abs(found["8-ladder-logits"] - logits).max() > 1e-3




RESUMED = """
import json, sys
from utils import training
from utils.datasets import load_dataset
from utils.recipes import Recipe
dataset, recipe = load_dataset("voc", sys.argv[1]), Recipe(**eval(sys.argv[2]))
trained = training.train(dataset, recipe, sys.argv[3], precision="float32", seed=1)
print(json.dumps([epoch["loss"] for epoch in trained.history]))
"""


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_a_training_goes_on_under_another_backend(run, shared_voc, tmp_path,
                                                  monkeypatch, optimizer):
    dataset = load_dataset("voc", shared_voc)
    recipe = Recipe(image_size=32, batch_size=2, epochs=3, learning_rate=1e-3, optimizer=optimizer)
    unbroken = train(dataset, recipe, tmp_path / "unbroken", precision="float32", seed=1)
    on_epoch_end = callbacks.Checkpoint.on_epoch_end

    def break_off(self, epoch, logs=None):
        on_epoch_end(self, epoch, logs)
        if epoch == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(callbacks.Checkpoint, "on_epoch_end", break_off)
        train(dataset, recipe, tmp_path / "broken", precision="float32", seed=1)
    given = shared_voc, repr(dataclasses.asdict(recipe)), tmp_path / "broken"
    *_, resumed, last = run("-c", RESUMED, *given).splitlines()
    assert resumed.startswith("epoch 3/3")
    losses = [epoch["loss"] for epoch in unbroken.history]
    assert (json.loads(last)[:2] == losses[:2]
            and json.loads(last)[2] == pytest.approx(losses[2], rel=1e-3))
