"""A trained model in forms that run without Keras: ONNX, LiteRT and SavedModel.

All take what the Keras model takes, float32 (B, H, W, 3) RGB in 0..255, and give what it gives, float32 logits
(B, H, W, C): normalisation, padding and cropping are inside. Files and folders appear whole or not at all.
"""

import contextlib
import importlib.util
import io
import json
import logging
import os
import shutil
import tomllib
import warnings
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from utils import runs
from utils.layers import BilinearUpsampling, Im2ColConv2D, PadEdges, PadToMultiple


def to_onnx(model, path, card, size=None):
    """Write a model as ONNX, with its classes in the file's metadata, and return the path.

    model: from `utils.models`. card: dict with "class_names", "colors" (C, 3) and "fcn", as beside every model of
    this project. size: None for any height and width, or (H, W) for readers that want them fixed, such as OpenCV
    before version 5. Input "images", output "logits". `metadata_props` holds class_names and colors (JSON lists),
    stride, dataset, input, output and version.
    Raises ImportError where onnx or tf2onnx is missing, ValueError for a card of another model, OSError if the file
    cannot be written or `path` is a folder.
    """
    _require("ONNX", "onnx", "tf2onnx")
    path = _file(path, "model.onnx")
    import onnx
    if len(card["class_names"]) != model.output_shape[-1] or len(card["colors"]) != model.output_shape[-1]:
        raise ValueError(f"card names {len(card['class_names'])} classes and {len(card['colors'])} colours; the model "
                         f"has {model.output_shape[-1]} classes: give the model's own card.")

    def write(temporary):
        _export(portable(model, None if size is None else 1, size), temporary, "onnx")
        proto = onnx.load(temporary)
        _name_ends(proto.graph)
        onnx.helper.set_model_props(proto, _metadata(card))
        onnx.checker.check_model(proto)
        onnx.save(proto, temporary)

    return _in_place(path, write)


def to_litert(model, path):
    """Write a model as LiteRT (.tflite) for photos of any height and width, one at a time, and return the path.

    path: ends in .tflite. Call the interpreter's `resize_tensor_input` before a photo of another size. Raises
    ValueError for another name, OSError if the file cannot be written or `path` is a folder.
    """
    path = _tflite(path)
    return _in_place(path, lambda temporary: _export(portable(model, 1), temporary, "litert", target_spec={
        "supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS]}))


def to_int8(model, path, photos):
    """Write a model as LiteRT that computes in 8-bit integers, for photos of one size, and return the path.

    photos: uint8 (H, W, 3) RGB, from the training split, all of the size that the model will be given. The range of
    every layer's numbers is measured on them ("post-training quantisation with calibration"). Input and output stay
    float32. The size is fixed because the upsampling would otherwise compute its positions in 8 bits, too, which
    are too few for larger photos.
    Raises ValueError for photos of several sizes or a name that does not end in .tflite, OSError if the file cannot be
    written or `path` is a folder.
    """
    path = _tflite(path)
    sizes = sorted({np.shape(photo) for photo in photos})
    if len(sizes) != 1:
        raise ValueError(f"photos have {len(sizes)} sizes {sizes[:3]}; expected some photos of one size (H, W, 3).")

    def calibration():
        for photo in photos:
            yield [np.asarray(photo, np.float32)[None]]

    # A conversion that cannot keep to integers falls back to float for a layer, rather than fail.
    return _in_place(path, lambda temporary: _export(
        portable(model, 1, sizes[0][:2]), temporary, "litert", optimizations=[tf.lite.Optimize.DEFAULT],
        representative_dataset=calibration, target_spec={"supported_ops": [
            tf.lite.OpsSet.TFLITE_BUILTINS_INT8, tf.lite.OpsSet.TFLITE_BUILTINS]}))


def to_saved_model(model, folder):
    """Write a model as a TensorFlow SavedModel, for photos of any height and width, and return the folder.

    `tf.saved_model.load(folder).serve(images)` gives the logits. A SavedModel that is there is replaced.
    Raises FileExistsError for a folder that holds something else, OSError if it cannot be written.
    """
    folder = Path(folder)
    if folder.exists() and not (folder / "saved_model.pb").is_file() and not (folder.is_dir() and _is_empty(folder)):
        raise FileExistsError(f"{folder}: holds something that is no SavedModel. Choose another folder.")
    return _in_place(folder, lambda temporary: _export(portable(model, None), temporary, "tf_saved_model"))


def open_litert(path):
    """Return an interpreter for a .tflite file: that of ai-edge-litert or, where it is not installed, TensorFlow's."""
    if importlib.util.find_spec("ai_edge_litert"):
        from ai_edge_litert.interpreter import Interpreter
        return Interpreter(str(path))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its removal in some later version of TensorFlow
        return tf.lite.Interpreter(str(path))


def portable(model, batch=None, size=None):
    """Return a copy of a model, with the same weights, in layers that every converter gets right.

    batch: B, None for any. size: (H, W), None for any. Raises ValueError for another backend than TensorFlow.
    """
    if keras.backend.backend() != "tensorflow":
        raise ValueError(f"exporting needs Keras' backend TensorFlow, found {keras.backend.backend()}: the same model "
                         "file opens in a Python that is started with KERAS_BACKEND=tensorflow.")
    images = keras.Input(batch_shape=(batch, *(size or (None, None)), 3), name="images")
    copy = keras.models.clone_model(model, input_tensors=images,
                                    clone_function=lambda layer: _portable_layer(layer, size))
    copy.set_weights(model.get_weights())
    copy(ops.zeros((1, *(size or (32, 32)), 3)))  # a Functional model that was never called is not exported
    return copy


def _portable_layer(layer, size):
    if isinstance(layer, BilinearUpsampling) and size is not None:
        # One operation instead of matrix products, which OpenCV before version 5 does not read. It needs a fixed size.
        return layers.UpSampling2D(layer.factor, interpolation="bilinear", dtype="float32", name=layer.name)
    twin = {PadToMultiple: _PadToMultiple, PadEdges: _PadEdges, Im2ColConv2D: layers.Conv2D}.get(type(layer), type(layer))
    return twin.from_config(layer.get_config())


class _PadToMultiple(PadToMultiple):
    """The same, in a form that leaves the number of channels known: LiteRT's convolutions ask for it."""

    def call(self, x):
        padded = super().call(x)
        return ops.reshape(padded, (*ops.shape(padded)[:3], x.shape[3]))


class _PadEdges(PadEdges):
    """The same from slices: TensorFlow's mirrored padding becomes ONNX that crashes OpenCV 5.0."""

    def call(self, x):
        x = ops.concatenate([x[:, :1], x, x[:, -1:]], axis=1)
        return ops.concatenate([x[:, :, :1], x, x[:, :, -1:]], axis=2)


def _export(model, path, form, **options):
    # Converters tell of themselves in three ways; before Keras 3.14 not even verbose=False keeps them from printing.
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            model.export(str(path), format=form, verbose=False, **options)
    finally:
        logging.disable(disabled)


def _file(path, example):
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path}: is a folder. Give a file in it, such as {path / example}.")
    return path


def _tflite(path):
    path = _file(path, "model.tflite")
    if path.suffix != ".tflite":  # Keras' demand, which would name a temporary file
        raise ValueError(f"{path}: expected a name that ends in .tflite.")
    return path


def _in_place(path, write):
    """Let `write` make a file or folder beside `path`, then put it there in one step."""
    path = Path(path)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    old = path.with_name(f".{os.getpid()}.old.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        if path.is_dir():
            os.replace(path, old)  # a folder that is not empty cannot be replaced
        os.replace(temporary, path)
    except OSError as error:
        raise type(error)(f"{path}: cannot be written ({error.strerror or error}). Choose another place.") from None
    finally:
        if old.exists() and not path.exists():  # broken off between the two
            os.replace(old, path)
        for scrap in (temporary, old):
            with contextlib.suppress(OSError):  # what went wrong before is what counts
                shutil.rmtree(scrap) if scrap.is_dir() else scrap.unlink()
    return path


def _is_empty(folder):
    return next(folder.iterdir(), None) is None


def _name_ends(graph):
    """Give the output, and the sizes of both ends that are not fixed, names that people understand."""
    (output,) = graph.output
    for node in graph.node:
        node.output[:] = ["logits" if name == output.name else name for name in node.output]
    output.name = "logits"
    for end in (*graph.input, output):
        for dimension, name in zip(end.type.tensor_type.shape.dim, ("batch", "height", "width")):
            if not dimension.dim_value:
                dimension.dim_param = name


def _metadata(card):
    project = tomllib.loads((runs.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return {"class_names": json.dumps(list(card["class_names"]), ensure_ascii=False),
            "colors": json.dumps(np.asarray(card["colors"]).tolist()),
            "stride": str(card["fcn"].get("stride", 32)), "dataset": str(card.get("dataset", "")),
            "input": "float32 (batch, height, width, 3), RGB in 0..255, any height and width unless fixed",
            "output": "float32 logits (batch, height, width, class); the largest one names the class",
            "version": f"{project['name']} {project['version']}, Keras {keras.__version__}"}


def _require(form, *packages):
    missing = [package for package in packages if not importlib.util.find_spec(package)]
    if missing:
        raise ImportError(f"exporting to {form} needs {' and '.join(missing)}: python -m pip install "
                          f"{' '.join(missing)}")
