"""Small data sets and models, and an unreliable web server, that several test files use."""

import http.server
import socket
import struct
import threading
import time

import numpy as np
import pytest
from PIL import Image

# Three classes told apart by colour, so that a few steps of training change something.
CLASSES = "0 ground 40 160 40\n1 block 200 40 40\n2 disc 40 60 220\n"
PHOTO_COLORS = np.uint8([[90, 140, 60], [190, 70, 60], [60, 80, 190]])
CLASS_COLORS = np.uint8([[40, 160, 40], [200, 40, 40], [40, 60, 220]])


def _scene(seed, height=48, width=64):
    """Return (photo uint8 (H, W, 3), mask uint8 (H, W)): a block and a disc, void between."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    mask = np.zeros((height, width), np.uint8)
    top, left = rng.integers(0, height // 2), rng.integers(0, width // 2)
    mask[top:top + height // 3, left:left + width // 3] = 1
    radius = min(height, width) // 5
    mask[(y - rng.integers(0, height)) ** 2 + (x - rng.integers(0, width)) ** 2 < radius**2] = 2
    image = (PHOTO_COLORS[mask] + rng.normal(0, 12, (height, width, 3))).clip(0,
                                                                              255).astype(np.uint8)
    mask[:, width // 2] = 255
    return image, mask


def _make_voc(root, splits=None, size=(48, 64), classes=CLASSES):
    """Write scenes in VOC layout below `root`; splits: name -> number of scenes. Returns `root`."""
    splits = {"train": 5, "val": 2} if splits is None else splits
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "classes.txt").write_text(classes, encoding="utf-8")
    for number, (split, count) in enumerate(splits.items()):
        stems = [f"{split}{i}" for i in range(count)]
        (root / "ImageSets" / "Segmentation" / f"{split}.txt").write_text(
            "\n".join(stems) + "\n", encoding="utf-8"
        )
        for i, stem in enumerate(stems):
            image, mask = _scene(100 * number + i, *size)
            Image.fromarray(image).save(root / "JPEGImages" / f"{stem}.png")
            picture = Image.fromarray(mask)
            # All 256 entries: Pillow stores fewer bits for a short palette, and 255 would be cut
            # off.
            picture.putpalette(CLASS_COLORS.tobytes() + bytes(3 * 253))
            picture.save(root / "SegmentationClass" / f"{stem}.png")
    return root


@pytest.fixture(scope="session")
def make_voc():
    """A function that writes a small data set in VOC layout."""
    return _make_voc


@pytest.fixture
def voc(tmp_path):
    """A folder in VOC layout: 5 scenes to train on, 2 to validate."""
    return _make_voc(tmp_path / "voc")


@pytest.fixture(scope="session")
def shared_voc(tmp_path_factory):
    """The same, shared by all tests that only read it."""
    return _make_voc(tmp_path_factory.mktemp("data") / "voc")


@pytest.fixture(scope="session")
def random_fcn():
    """A function that builds an FCN that tells places apart: its scores are random, not zero."""

    def build(num_classes=4, seed=0, **arguments):
        import keras

        from utils import models

        keras.utils.set_random_seed(seed)
        model = models.fcn(num_classes, **{"backbone": "vgg_small", **arguments})
        rng = np.random.default_rng(seed)
        for layer in model.layers:
            if layer.name.startswith("score"):
                layer.set_weights(
                    [rng.normal(size=weight.shape).astype(np.float32)
                     for weight in layer.get_weights()]
                )
            else:
                # of batch normalization, convolution
                offset = getattr(layer, "beta", getattr(layer, "bias", None))
                if offset is not None:
                    offset.assign(rng.normal(0, 0.2, offset.shape))
        patches = rng.uniform(0, 255, (1, 6, 10, 3)).repeat(16, axis=1).repeat(16, axis=2)
        logits = keras.ops.convert_to_numpy(model(patches[:,:model.input_shape[1],
                                                          :model.input_shape[2]]))
        score = model.get_layer("score")
        # else one class wins everywhere
        score.bias.assign(score.bias - logits.mean(axis=(0, 1, 2)))
        return model

    return build


@pytest.fixture(scope="session")
def one_step():
    """A function that returns (loss, gradients of input and layers' weights) in any backend.

    It takes them from one step of plain gradient descent at rate 1.
    """
    import keras

    class Shift(keras.layers.Layer):
        """Add weights that start at 0: their gradient is that of the input."""

        def build(self, shape):
            self.shift = self.add_weight(shape=shape, initializer="zeros", name="shift")

        def call(self, x):
            return x + self.shift

    def step(loss, x, y_true=None, layers=()):
        model = keras.Sequential([keras.Input(batch_shape=x.shape), Shift(), *layers])
        model.compile(keras.optimizers.SGD(1.0), loss=loss, run_eagerly=True)
        before = model.get_weights()
        value = model.train_on_batch(x, x if y_true is None else y_true)
        return float(value), [old - new
                              for old, new in zip(before, model.get_weights(), strict=True)]

    return step


class Web(http.server.ThreadingHTTPServer):
    """A web server on this machine. files: path -> bytes. log: (path, first byte asked for).

    plan: path -> how to treat one request after the other, and from then on well; a dict of status,
    body, ranges (False ignores them), cut (stop after so many bytes), reset (the same, rudely),
    hang (seconds before the bytes), hold (an Event to wait for), piece and pause (slow).
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Page)
        self.files, self.plan, self.log = {}, {}, []

    def address(self, path):
        return f"http://127.0.0.1:{self.server_port}{path}"

    def handle_error(self, request, client_address):
        """Say nothing about clients that go away."""


class _Page(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        web, path = self.server, self.path
        start = int(self.headers.get("Range", "bytes=0-")[len("bytes="):-1])
        web.log.append((path, start))
        how = web.plan.get(path, []).pop(0) if web.plan.get(path) else {}
        body = how.get("body", web.files.get(path))
        if body is None or "status" in how or start >= len(body):
            return self.send_error(how.get("status", 404 if body is None else 416))
        start *= how.get("ranges", True)
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        if how.get("length", True):
            self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        time.sleep(how.get("hang", 0))
        if "hold" in how:
            how["hold"].wait(60)
        rest = body[start:][: how.get("cut", how.get("reset"))]
        for at in range(0, len(rest), how.get("piece", len(rest))):
            self.wfile.write(rest[at:at + how.get("piece", len(rest))])
            time.sleep(how.get("pause", 0))
        if "reset" in how:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()


@pytest.fixture
def web(monkeypatch):
    """A web server that can be told to be unreliable."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Web()
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()
