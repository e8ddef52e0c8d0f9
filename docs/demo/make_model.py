"""Make docs/demo/fcn.onnx: the kept FCN-32s, frozen, with the skips of FCN-16s and FCN-8s on it.

`python docs/demo/make_model.py` trains the skips (912 weights) for a few epochs on meadow, prints
the scores on the test scenes, and writes one network with three outputs: float32 scores (1, H/s,
W/s, 8) at strides s of 32, 16 and 8, for photos whose sides are multiples of 32. Enlarging them is
left to the page, which shows it.
"""

import json
import sys
import tempfile
from pathlib import Path

import keras
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from tools.deploy import export  # noqa: E402
from utils import datasets, inference, metrics, models, pipeline, training  # noqa: E402

EPOCHS, RATE = 8, 3e-3
FOLDER = Path(__file__).resolve().parent
# The layer whose output is the scores per cell, by stride.
CELLS = {32: "score", 16: "fuse16", 8: "fuse8"}


def main():
    """Train the skips and write network and card."""
    data = datasets.load_dataset("meadow")
    keras.utils.set_random_seed(0)
    network = models.load(models.KEPT_MODEL)
    scores = {32: score(network, data)}
    for stride in (16, 8):
        network = with_skip(network, stride, data.num_classes)
        train(network, data)
        scores[stride] = score(network, data)
    write(network, FOLDER / "fcn.onnx")
    card = {"class_names": data.class_names, "colors": np.asarray(data.colors).tolist(),
            "mean_iou": scores,
            "receptive_field": models.receptive_field(network)}
    (FOLDER / "fcn.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    print(f"mean IoU on the test scenes by stride: {scores}")


def with_skip(network, stride, num_classes):
    """Return the network of the next finer stride, same weights; only its new skip will learn."""
    finer = models.fcn(num_classes, stride, "vgg_small")
    for layer in network.layers:
        if layer.weights:
            finer.get_layer(layer.name).set_weights(layer.get_weights())
    for layer in finer.layers:
        layer.trainable = layer.name == f"score_pool{int(np.log2(stride))}"
    return finer


def train(network, data):
    """Train on meadow, with the recipe's crops."""
    samples = data.split("train")
    batches = pipeline.batches(samples, read=data.read, image_size=192, batch_size=4,
                               augment=True, shuffle=True,
                               epochs=EPOCHS)
    rate = training.schedule(RATE, EPOCHS * len(samples) // 4)
    network.compile(keras.optimizers.Adam(rate), loss=training.cross_entropy)
    network.fit(batches, shuffle=False, verbose=0)


def score(network, data):
    """Return the mean IoU on the test scenes, to three digits."""
    confusion = 0
    for photo, mask in map(data.read, data.split("test")):
        confusion += metrics.confusion_matrix(mask, inference.predict(network, photo),
                                              data.num_classes)
    return round(float(metrics.scores(confusion)["mean_iou"]), 3)


def write(network, path):
    """Write one network with three outputs, cells32, cells16 and cells8."""
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        network.save(Path(folder) / "network.keras")
        network = export.portable(models.load(Path(folder) / "network.keras"), batch=1)
    cells = keras.Model(network.input, [network.get_layer(name).output for name in CELLS.values()])
    cells(np.zeros((1, 64, 64, 3), "float32"))
    cells.export(str(path), format="onnx", verbose=False)
    proto = onnx.load(path)
    for output, stride in zip(proto.graph.output, CELLS):
        for node in proto.graph.node:
            node.output[:] = [f"cells{stride}" if name == output.name else name
                              for name in node.output]
            node.input[:] = [f"cells{stride}" if name == output.name else name
                             for name in node.input]
        output.name = f"cells{stride}"
    onnx.checker.check_model(proto)
    onnx.save(proto, path)


if __name__ == "__main__":
    main()
