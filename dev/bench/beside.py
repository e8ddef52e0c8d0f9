"""This project beside segmentation_models_pytorch: a training step, and the time to a score.

FCN_TORCH_PYTHON names the Python of an environment that has torch, torchvision and
segmentation-models-pytorch; it runs dev/bench/kits.py.
"""

import contextlib
import itertools
import json
import math
import os
import subprocess
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np

from dev.bench import row
from utils import datasets

KITS = ("Unet, mobilenet_v2", "FPN, mobilenet_v2", "FPN, resnet18", "Segformer, mit_b0",
        "DeepLabV3Plus, mobilenet_v2")
TIMED = 5  # steps in a turn
DATA = (("meadow", 0.7, 20), ("camvid", 0.5, 20))  # name, mean IoU on val, most epochs


def kits(options):
    """a training step, and seconds to a score on val, beside segmentation_models_pytorch.

    All start from random weights. A step of four crops of 192 pixels is timed by turns, in float32
    and bfloat16, and the better one counts. Seconds to a score are those of a step times the steps
    until val has the score; validation is not counted. FCN_CAMVID: where CamVid is; else left out.
    """
    with _worker(os.environ["FCN_TORCH_PYTHON"]) as ask:
        ours, theirs = _time_steps(ask, options.repeats)
        for name in KITS:
            yield row(f"training step, FCN-8s; baseline: {name}", "ms/image", ours[8], theirs[name])
        yield row("training step, FCN-32s", "ms/image", ours[32])
        for name, target, epochs in DATA:
            folder = os.environ.get("FCN_CAMVID", "") if name == "camvid" else ""
            if name == "camvid" and not folder:
                continue
            data = datasets.load_dataset(name, folder)
            seconds = _to_score(data, target) * 4 * np.array(ours[8]) / 1000
            with tempfile.TemporaryDirectory() as place:
                arrays = _as_arrays(data, Path(place) / "pairs.npz")
                for kit in KITS[:3]:
                    curve = ask("train", name=kit, precision="bfloat16", data=str(arrays), side=192,
                                batch=8, epochs=epochs, target=target)
                    steps, score = curve[-1]
                    reached = (f"to {target}" if score >= target
                               else f"{epochs} epochs end at {score:.3f}")
                    yield row(f"{name}, val mean IoU {target}: FCN-8s; baseline: {kit}, {reached}",
                              "s", seconds.tolist(),
                              (steps * 8 * np.array(theirs[kit]) / 1000).tolist())


@contextlib.contextmanager
def _worker(python):
    """Hand out a function that sends an order to dev/bench/kits.py and returns its answer."""
    script = Path(__file__).with_name("kits.py")
    with subprocess.Popen([python, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          text=True) as process:
        def ask(do, **arguments):
            print(json.dumps({"do": do, **arguments}), file=process.stdin, flush=True)
            return json.loads(process.stdout.readline())

        yield ask
        process.stdin.close()


def _time_steps(ask, repeats, side=192, batch=4, classes=8):
    """Return two dicts of lists, milliseconds an image: of FCN-32s and FCN-8s, and of the kits."""
    from dev.bench.sections import network
    from utils import training

    rng = np.random.default_rng(0)
    photos = rng.uniform(0, 255, (batch, side, side, 3)).astype(np.float32)
    masks = rng.integers(0, classes, (batch, side, side)).astype(np.uint8)

    def seconds_of(step):
        start = time.perf_counter()
        for _ in range(TIMED):
            step()
        return (time.perf_counter() - start) / TIMED

    sides, found, best = {}, {}, {}
    for stride, precision in itertools.product((32, 8), ("float32", "mixed_bfloat16")):
        model = network("vgg_small", classes, stride, precision)
        training.compile_model(model, classes, 1e-3, 1000, optimizer="muon")
        model.train_on_batch(photos, masks)  # the first call compiles
        step = partial(model.train_on_batch, photos, masks)
        sides[stride, precision] = partial(seconds_of, step)
    for name, precision in itertools.product(KITS, ("float32", "bfloat16")):
        sides[name, precision] = partial(ask, "time_steps", name=name, precision=precision,
                                         side=side, batch=batch, classes=classes, times=TIMED)
    for _ in range(repeats):
        for key, measure in sides.items():
            found.setdefault(key, []).append(1000 * np.mean(measure()) / batch)
    for (name, _), values in found.items():
        best[name] = min(best.get(name, values), values, key=np.median)
    return {stride: best.pop(stride) for stride in (32, 8)}, best


def _to_score(data, target):
    """Train an FCN-8s by the data set's recipe; return the steps until val has the score."""
    from utils import training

    recipe = data.recipe.override(stride=8)
    with tempfile.TemporaryDirectory() as folder:
        trained = training.train(data, recipe, folder)
    for line in trained.history:
        if line.get("val_mean_iou", 0) >= target:
            return line["epoch"] * math.ceil(len(data.split("train")) / recipe.batch_size)
    raise RuntimeError(f"FCN-8s does not reach {target} on {data.name}'s val.")


def _as_arrays(data, file):
    """Write the pairs of train and val, of one size, as arrays that kits.py reads."""
    arrays = {"classes": data.num_classes}
    for split, prefix in (("train", ""), ("val", "val_")):
        photos, masks = zip(*map(data.read, data.split(split)))
        arrays |= {f"{prefix}photos": np.stack(photos), f"{prefix}masks": np.stack(masks)}
    np.savez(file, **arrays)
    return file
