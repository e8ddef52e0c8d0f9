"""A trained model in forms that run without Keras: ONNX, LiteRT and SavedModel.

All take what the Keras model takes, float32 (B, H, W, 3) RGB in 0..255, and give what it gives,
float32 logits (B, H, W, C): normalisation, padding and cropping are inside. Files and folders
appear whole or not at all.
"""

import argparse
import contextlib
import importlib.util
import io
import json
import logging
import shutil
import sys
import tempfile
import tomllib
import warnings
from pathlib import Path

import cv2
import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from tools.deploy.labeller import UsageError, open_model, silence
from tools.deploy.predict import a_path, some_of
from utils import datasets, images, inference, runs
from utils.layers import BilinearUpsampling, Im2ColConv2D, PadEdges, PadToMultiple

FORMS = {"onnx": "model.onnx", "litert": "model.tflite", "int8": "model_int8.tflite",
         "saved_model": "saved_model"}


def to_onnx(model, path, card, size=None):
    """Write a model as ONNX, with its classes in the file's metadata, and return the path.

    card: dict with "class_names", "colors" (C, 3) and "fcn", as beside every model. size: None for
    any, or (H, W) for readers that want it fixed, such as OpenCV before version 5. Input "images",
    output "logits"; for the metadata see `_metadata`. Raises ImportError where a package is
    missing, ValueError for a card of another model, OSError if the file cannot be written.
    """
    missing = [name for name in ("onnx", "tf2onnx") if not importlib.util.find_spec(name)]
    if missing:
        raise ImportError(f"exporting to ONNX needs {' and '.join(missing)}: python -m pip install "
                          f"{' '.join(missing)}")
    import onnx

    classes = model.output_shape[-1]
    if len(card["class_names"]) != classes or len(card["colors"]) != classes:
        raise ValueError(f"card names {len(card['class_names'])} classes and {len(card['colors'])} "
                         f"colours; the model has {classes} classes: give the model's own card.")

    def write(temporary):
        _export(portable(model, None if size is None else 1, size), temporary, "onnx")
        proto = onnx.load(temporary)
        _name_ends(proto.graph)
        onnx.helper.set_model_props(proto, _metadata(card))
        onnx.checker.check_model(proto)
        onnx.save(proto, temporary)

    return _in_place(path, write)


def to_litert(model, path):
    """Write a model as LiteRT (.tflite) for photos of any size, one at a time; return the path.

    Call the interpreter's `resize_tensor_input` before a photo of another size. Raises ValueError
    for a name that does not end in .tflite, OSError if the file cannot be written.
    """
    return _to_tflite(portable(model, 1), path, [tf.lite.OpsSet.TFLITE_BUILTINS])


def to_int8(model, path, photos):
    """Write a model as LiteRT that computes in 8-bit integers, and return the path.

    photos: uint8 (H, W, 3) RGB, from the training split, all of the size that the model will be
    given: on them, every layer's range is measured ("post-training quantisation"). It is fixed
    because upsampling would compute positions in 8 bits, too few for larger photos. Input and
    output stay float32. Raises ValueError for several sizes, and what `to_litert` raises.
    """
    sizes = sorted({np.shape(photo) for photo in photos})
    if len(sizes) != 1:
        raise ValueError(f"photos have {len(sizes)} sizes {sizes[:3]}; expected some photos of one "
                         "size (H, W, 3).")

    def calibration():
        for photo in photos:
            yield [np.asarray(photo, np.float32)[None]]

    # Where a layer cannot keep to integers, the conversion falls back to floating point.
    operations = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8, tf.lite.OpsSet.TFLITE_BUILTINS]
    return _to_tflite(portable(model, 1, sizes[0][:2]), path, operations,
                      optimizations=[tf.lite.Optimize.DEFAULT], representative_dataset=calibration)


def _to_tflite(model, path, operations, **options):
    path = Path(path)
    if path.suffix != ".tflite":  # Keras demands it, and would name a temporary file
        raise ValueError(f"{path}: expected a name that ends in .tflite.")
    return _in_place(path, lambda temporary: _export(
        model, temporary, "litert", target_spec={"supported_ops": operations}, **options))


def to_saved_model(model, folder):
    """Write a model as a TensorFlow SavedModel, for photos of any size, and return the folder.

    `tf.saved_model.load(folder).serve(images)` gives the logits. An older SavedModel is replaced.
    Raises FileExistsError for a folder that holds something else, OSError if it cannot be written.
    """
    folder = Path(folder)
    if not (folder / "saved_model.pb").is_file() and folder.exists():
        if not folder.is_dir() or any(folder.iterdir()):
            raise FileExistsError(f"{folder}: holds something else. Choose another folder.")
    return _in_place(folder, lambda temporary: _export(portable(model), temporary,
                                                       "tf_saved_model"))


def open_litert(path):
    """Return an interpreter for a .tflite file: of ai-edge-litert, or TensorFlow's without it."""
    if importlib.util.find_spec("ai_edge_litert"):
        from ai_edge_litert.interpreter import Interpreter
        return Interpreter(str(path))
    with warnings.catch_warnings(action="ignore"):  # of its removal in a later TensorFlow
        return tf.lite.Interpreter(str(path))


def portable(model, batch=None, size=None):
    """Return a copy of a model, with the same weights, in layers that every converter gets right.

    batch: B, None for any. size: (H, W), None for any. Raises ValueError for another backend than
    TensorFlow.
    """
    if keras.backend.backend() != "tensorflow":
        raise ValueError("exporting needs Keras' backend TensorFlow, found "
                         f"{keras.backend.backend()}: start Python with KERAS_BACKEND=tensorflow.")
    images = keras.Input(batch_shape=(batch, *(size or (None, None)), 3), name="images")
    copy = keras.models.clone_model(model, input_tensors=images,
                                    clone_function=lambda layer: _portable_layer(layer, size))
    copy.set_weights(model.get_weights())
    # A Functional model that was never called is not exported.
    copy(ops.zeros((1, *(size or (32, 32)), 3)))
    return copy


def _portable_layer(layer, size):
    if isinstance(layer, BilinearUpsampling) and size is not None:
        # One operation, of a fixed size, instead of matrix products, which OpenCV 4 does not read.
        return layers.UpSampling2D(layer.factor, interpolation="bilinear", dtype="float32",
                                   name=layer.name)
    twins = {PadToMultiple: _PadToMultiple, PadEdges: _PadEdges, Im2ColConv2D: layers.Conv2D}
    return twins.get(type(layer), type(layer)).from_config(layer.get_config())


class _PadToMultiple(PadToMultiple):
    """The same, with a number of channels that stays known: LiteRT's convolutions need it."""

    def call(self, x):
        padded = super().call(x)
        return ops.reshape(padded, (*ops.shape(padded)[:3], x.shape[3]))


class _PadEdges(PadEdges):
    """The same from slices: TensorFlow's mirrored padding becomes ONNX that crashes OpenCV 5.0."""

    def call(self, x):
        x = ops.concatenate([x[:, :1], x, x[:, -1:]], axis=1)
        return ops.concatenate([x[:, :, :1], x, x[:, :, -1:]], axis=2)


def _export(model, path, form, **options):
    # Converters print, warn and log; before Keras 3.14 even with verbose=False.
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"), contextlib.redirect_stdout(io.StringIO()):
            model.export(str(path), format=form, verbose=False, **options)
    finally:
        logging.disable(disabled)


def _in_place(path, write):
    """Let `write` make a file or folder elsewhere, then move it to `path`; return `path`."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".", dir=path.parent) as folder:
            made = Path(folder) / path.name
            write(made)
            if path.is_dir() and made.is_dir():
                shutil.rmtree(path)
            made.replace(path)
    except (OSError, tf.errors.OpError) as error:
        raise OSError(f"{path}: cannot be written ({getattr(error, 'strerror', None) or error}). "
                      "Choose another place.") from None
    return path


def _name_ends(graph):
    """Name the output, and the sizes of both ends that are not fixed, in plain words."""
    (output,) = graph.output
    for node in graph.node:
        node.output[:] = ["logits" if name == output.name else name for name in node.output]
    output.name = "logits"
    for end in (*graph.input, output):
        for dimension, name in zip(end.type.tensor_type.shape.dim, ("batch", "height", "width")):
            if not dimension.dim_value:
                dimension.dim_param = name


def _metadata(card):
    about = tomllib.loads((runs.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return {"class_names": json.dumps(list(card["class_names"]), ensure_ascii=False),
            "colors": json.dumps(np.asarray(card["colors"]).tolist()),
            "stride": str(card["fcn"].get("stride", 32)), "dataset": str(card.get("dataset", "")),
            "input": "float32 (batch, height, width, 3), RGB in 0..255, any size unless fixed",
            "output": "float32 logits (batch, height, width, class); the largest names the class",
            "version": f"{about['name']} {about['version']}, Keras {keras.__version__}"}


def main(argv=None):
    """Export a model; return 0 all written, 1 some forms failed, 2 wrong arguments or no model."""
    parser = argparse.ArgumentParser("python -m tools.export", description="Write a trained model "
                                     "in forms that run without Keras; older files are replaced.")
    parser.add_argument("run", metavar="RUN", nargs="?", type=a_path, help="the folder of a run or "
                        "a model file; without it, the small model in results/model")
    parser.add_argument("--to", metavar="FORMS", type=some_of(FORMS), default="onnx",
                        help=f"some of {','.join(FORMS)}; default: onnx")
    parser.add_argument("--out", metavar="DIR", type=a_path, default=Path("exports"),
                        help="where to write (default: exports, in the working directory)")
    parser.add_argument("--size", metavar=("H", "W"), nargs=2, type=int, help="the one size of "
                        "photos, in pixels, that onnx and int8 take; without it, onnx takes any, "
                        "int8 that of the training photos. The others take any")
    options = parser.parse_args(argv)
    failed = 0
    try:
        model, card = open_model(options.run)
        if options.size and min(options.size) < 1:
            raise UsageError(f"--size {options.size}: expected at least 1 pixel.")
    except UsageError as error:
        print(error, file=sys.stderr)
        return 2
    for form in options.to:
        try:
            write(form, model, card, options.out / FORMS[form], options.size)
        except (ImportError, OSError, ValueError) as error:
            print(f"{form}: {error}", file=sys.stderr)
            failed = 1
    return failed


def write(form, model, card, path, size=None):
    """Write one of `FORMS` and print its size in MB; ONNX is compared with Keras on a photo."""
    with silence():
        {"onnx": lambda: to_onnx(model, path, card, size),
         "litert": lambda: to_litert(model, path),
         "int8": lambda: to_int8(model, path, training_photos(card, size)),
         "saved_model": lambda: to_saved_model(model, path)}[form]()
    files = [path, *path.rglob("*")]
    print(f"{path}: {sum(file.stat().st_size for file in files if file.is_file()) / 1e6:.2f} MB")
    if form == "onnx":
        compare(model, card, path, size)


def compare(model, card, path, size):
    """Print how far the logits of an ONNX file are from Keras', on a photo."""
    if not importlib.util.find_spec("onnxruntime"):
        print("not compared with Keras, which needs: python -m pip install onnxruntime")
        return
    import onnxruntime

    photo = np.random.default_rng(0).integers(0, 256, (*(size or (256, 256)), 3), dtype=np.uint8)
    with contextlib.suppress(OSError, ValueError):  # of another data set, the photos may be gone
        photo = training_photos(card, size, 1)[0]
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = session.run(["logits"], {"images": photo[None].astype(np.float32)})[0][0]
    difference = np.abs(found - inference.logits(model, photo)).max()
    print(f"largest difference of a logit from Keras, on a photo: {difference:.1e}")


def training_photos(card, size=None, most=32):
    """Return up to `most` photos of a model's training split, of one size: (H, W), or the first's.

    Raises ValueError if they are not there.
    """
    try:
        data = datasets.load_dataset(card.get("dataset", ""),
                                     (card.get("given") or {}).get("data_dir", ""))
        samples = data.split("train")[::max(1, len(data.split("train")) // most)][:most]
        photos = [images.read_image(sample[0]) for sample in samples]
    except (OSError, ValueError) as error:
        raise ValueError(f"needs photos of its training split. {error}") from None
    height, width = size or photos[0].shape[:2]
    return [cv2.resize(photo, (width, height)) for photo in photos]
