"""The sections of `dev.bench`: each yields rows, see `bench.row`."""

import json
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from dev.bench import row, take_turns
from dev.bench.beside import kits
from utils import datasets, images, metrics, runs

TIMES = 10  # so often the quickest work is repeated in a turn
NETWORKS = (("VGG16, fc6 1x1, 4 a step", "vgg16", {"fc_kernel": 1}, 4, ">= 80"),
            ("VGG16, the paper's fc6 7x7, 4 a step", "vgg16", {}, 4, ""),
            ("VGG16, the paper's fc6 7x7, 10 a step", "vgg16", {}, 10, ""),
            ("small network, 4 a step", "vgg_small", {}, 4, ""))


def step(options):
    """milliseconds an image in a training step, at 256x256."""
    import keras

    from utils import training

    rng = np.random.default_rng(0)
    photos = rng.uniform(0, 255, (4, 256, 256, 3)).astype(np.float32)
    masks = rng.integers(0, 8, (4, 256, 256)).astype(np.uint8)

    def ours(backbone, precision, **changes):
        model = network(backbone, 8, precision=precision, **changes)
        optimizer = "muon" if backbone == "vgg_small" else "adam"
        training.compile_model(model, 8, 1e-3, 1000, optimizer=optimizer)
        return partial(model.train_on_batch, photos, masks)

    precision = training.resolve_precision("auto")
    other = "float32" if precision != "float32" else "mixed_bfloat16"
    fast = "ratio >= 3" if precision != "float32" else ""
    for name, backbone, changes, target in (("small network", "vgg_small", {}, ""),
                                            ("VGG16, fc6 1x1", "vgg16", {"fc_kernel": 1}, fast),
                                            ("VGG16, the paper's fc6 7x7", "vgg16", {}, "")):
        sides = ours(backbone, precision, **changes), ours(backbone, other, **changes)
        yield row(f"training step, {name}, precision auto ({precision}); baseline: {other}",
                  "ms/image", *_per_image(4, options.repeats, *sides), target)
        keras.backend.clear_session()
    for at in dict.fromkeys(("float32", precision)):
        sides = ours("vgg16", at), ours("vgg16", at, im2col=False)
        yield row(f"training step, VGG16, the paper's fc6 7x7, {at}; "
                  "baseline: fc6 and fc7 as Keras' own convolutions",
                  "ms/image", *_per_image(4, options.repeats, *sides))
        keras.backend.clear_session()


def _per_image(count, repeats, *sides):
    """Take turns, and return the milliseconds an image of sides whose calls do `count` images."""
    return [[1000 * value / count for value in side] for side in take_turns(repeats, *sides)]


def pipeline(options):
    """photos a second from files to batches, 256x256, on the machine's cores."""
    from utils.pipeline import DecodedPairs, batches

    data = datasets.load_dataset("meadow")
    with tempfile.TemporaryDirectory() as folder:
        samples = 2 * _larger_scenes(data, Path(folder))

        def epochs(pairs, count):
            for _ in batches(pairs, image_size=256, batch_size=10, augment=True, shuffle=True,
                             epochs=count):
                pass

        pairs = DecodedPairs(samples)
        first, later = take_turns(options.repeats, lambda: epochs(DecodedPairs(samples), 1),
                                  lambda: epochs(pairs, 2))
        yield row("pipeline, first epoch: decode, augment", "images/s",
                  [len(samples) / seconds for seconds in first], better="higher")
        yield row("pipeline, later epochs: flip, scale, turn, crop, colour", "images/s",
                  [2 * len(samples) / seconds for seconds in later], better="higher")


def _larger_scenes(data, folder):
    """Write meadow's training scenes at 500x375, the usual size in VOC; return the samples."""
    samples = []
    for photo, mask in data.split("train"):
        image, ids = data.read((photo, mask))
        paths = folder / f"{photo.stem}.jpg", folder / f"{photo.stem}.png"
        image = cv2.resize(image, (500, 375), interpolation=cv2.INTER_CUBIC)
        ids = cv2.resize(ids, (500, 375), interpolation=cv2.INTER_NEAREST)
        cv2.imwrite(str(paths[0]), image[..., ::-1])
        images.write_mask(paths[1], ids, data.colors)
        samples.append(paths)
    return samples


def scores(options):
    """milliseconds an image to score 256x256 pixels of 21 classes; baseline: scikit-learn."""
    import sklearn.metrics

    rng = np.random.default_rng(0)
    cells = rng.integers(0, 21, (10, 8, 8)).astype(np.uint8)
    truth = cells.repeat(32, axis=1).repeat(32, axis=2)
    prediction = np.roll(truth, 5, axis=2)

    def ours():
        for _ in range(TIMES):
            metrics.scores(sum(metrics.confusion_matrix(t, p, 21)
                               for t, p in zip(truth, prediction)))

    def theirs():
        sum(sklearn.metrics.confusion_matrix(t.ravel(), p.ravel(), labels=np.arange(21))
            for t, p in zip(truth, prediction))

    mine, other = _per_image(len(truth), 4 * options.repeats, ours, theirs)
    yield row("scores of 21 classes", "ms/image", [value / TIMES for value in mine], other)


def label(options):
    """milliseconds to label a photo of 256x256 with the kept model; baseline: the model called."""
    from utils import inference, models

    model = models.load(models.KEPT_MODEL)
    photo = np.random.default_rng(0).integers(0, 256, (256, 256, 3)).astype(np.uint8)

    def ours():
        return [inference.predict(model, photo) for _ in range(TIMES)]

    def called():
        pixels = photo[None].astype(np.float32)
        return [model(pixels, training=False).numpy()[0].argmax(axis=2).astype(np.uint8)
                for _ in range(TIMES)]

    yield row("label a photo, small network; baseline: the model called", "ms/image",
              *_per_image(TIMES, options.repeats, ours, called))


def arithmetic(options):
    """share of a matrix product's FLOP/s, in one precision, that networks reach at 256x256."""
    import keras
    import tensorflow as tf

    from utils import training

    rng = np.random.default_rng(0)
    product = TIMES * 2 * 2048 ** 3
    for precision in dict.fromkeys(("float32", training.resolve_precision("auto"))):
        matrix = tf.cast(tf.random.normal((2048, 2048)), keras.DTypePolicy(precision).compute_dtype)
        multiply = partial(_multiply, matrix)
        seconds, = take_turns(4 * options.repeats, multiply)
        yield row(f"matrix product, 2048x2048, {precision}", "GFLOP/s",
                  [product / value / 1e9 for value in seconds], better="higher")
        for name, backbone, changes, batch, target in NETWORKS:
            photos = rng.uniform(0, 255, (batch, 256, 256, 3)).astype(np.float32)
            masks = rng.integers(0, 8, (batch, 256, 256)).astype(np.uint8)
            model = network(backbone, 8, precision=precision, **changes)
            forward, first = flops(model)
            training.compile_model(model, 8, 1e-3, 1000)
            train = partial(model.train_on_batch, photos, masks)
            predict = partial(model.predict_on_batch, photos)
            trained, predicted, peak = take_turns(options.repeats, train, predict, multiply)
            # Back costs a layer twice, for its weights and its input; a photo needs no gradient.
            for what, work, times in (("training step", 3 * forward - first, trained),
                                      ("inference", forward, predicted)):
                # Held against the product of its own turn: shared machines change their speed.
                shares = [100 * batch * work / value / (product / best)
                          for value, best in zip(times, peak)]
                yield row(f"{what}, {name}, {precision}", "% of peak", shares,
                          target=target, better="higher")
            del model
            keras.backend.clear_session()


def network(backbone, num_classes, stride=32, precision="float32", **changes):
    """Return the FCN on a backbone with some of its fields changed, see `models.Backbone`."""
    from utils import models

    models.BACKBONES["changed"] = replace(models.BACKBONES[backbone], **changes)
    try:
        return models.fcn(num_classes, stride, "changed", precision=precision)
    finally:
        del models.BACKBONES["changed"]


def _multiply(matrix):
    for _ in range(TIMES):  # one alone would mostly measure how long a cold cache takes
        product = matrix @ matrix
    return product.numpy()


def flops(model, side=256):
    """Return the floating-point operations of all convolutions for a photo, and of the first."""
    import keras

    # The sizes are known only where the input's is.
    sized = keras.models.clone_model(model, input_tensors=keras.Input((side, side, 3)))
    counts = [2 * np.prod(layer.kernel.shape[:3]) * np.prod(layer.output.shape[1:])
              for layer in sized.layers if isinstance(layer, keras.layers.Conv2D)]
    return float(sum(counts)), float(counts[0])


def whole(options):
    """the commands as a user meets them: seconds and memory, each in a process of its own."""
    def run(*command):
        start = time.perf_counter()
        subprocess.check_output([sys.executable, *command], cwd=runs.ROOT)
        return time.perf_counter() - start

    run("-c", "import utils.metrics")
    bare = [run("-c", "pass") for _ in range(options.repeats)]
    yield row("import utils.metrics, beyond starting Python", "s",
              [run("-c", "import utils.metrics") - min(bare) for _ in range(options.repeats)],
              target="<= 0.3")
    notebook = runs.ROOT / "notebooks" / "03_training.ipynb"
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    yield row("set-up cells of notebook 03", "s",
              [run("-c", "\n".join(code[:2])) for _ in range(options.repeats)], target="<= 8")
    with tempfile.TemporaryDirectory() as folder:
        yield row("make run: notebooks 01 to 05, installed", "min",
                  [run("-m", "tools.run", "--run-dir", folder) / 60], target="<= 4")
        for stem in ("02_fcn32_architecture", "03_training"):
            yield row(f"peak memory of notebook {stem[:2]}", "GB",
                      [_peak_memory(stem, Path(folder))], target="<= 3")


def _peak_memory(stem, folder):
    """Return the most memory, in GB, that the kernel of a notebook has held; a fresh run of it."""
    watch = ("import resource, sys; from tools import run; code = run.main(sys.argv[1:]); "
             "print('peak', resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); "
             "sys.exit(code)")
    command = [sys.executable, "-c", watch, stem, "--run-dir", str(folder / f"memory {stem}")]
    said = subprocess.run(command, cwd=runs.ROOT, check=True, capture_output=True, text=True).stdout
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * int(re.search(r"peak (\d+)", said)[1]) / 1e9


SECTIONS = {function.__name__: function
            for function in (step, label, pipeline, scores, arithmetic, whole, kits)}
