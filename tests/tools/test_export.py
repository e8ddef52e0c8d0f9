"""Exported models: Keras' numbers in every format, and what an ONNX file tells of itself."""

import contextlib
import dataclasses
import functools
import importlib.util
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import keras
import numpy as np
import pytest
import tensorflow as tf

from tools.deploy import export, segment_with_opencv
from utils import models
from utils.layers import Im2ColConv2D

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tools" / "deploy" / "segment_with_opencv.py"
# Sides that 32 divides and that it does not, smaller than a cell and larger, and back: readers keep
# state.
SIZES = ((64, 96), (45, 70), (31, 47), (1, 1), (100, 33), (64, 96))
TOLERANCE = 1e-5  # of the largest logit; measured: 2e-6
NAMES, COLORS = ("background", "cow", "tree", "château"), [[40, 40, 40], [250, 120, 10],
                                                           [10, 200, 90], [0, 70, 200]]


def card(stride=32):
    return {"class_names": NAMES, "colors": COLORS, "fcn": {"num_classes": 4, "stride": stride},
            "dataset": "farm"}


def photo(height, width, seed=0):
    """Patches of colour, uint8 (H, W, 3)."""
    patches = np.random.default_rng(seed).integers(0, 256, (-(-height // 15), -(-width // 15), 3),
                                                   dtype=np.uint8)
    return patches.repeat(15, axis=0).repeat(15, axis=1)[:height, :width]


def by_keras(model, image):
    return keras.ops.convert_to_numpy(model(image[None].astype(np.float32), training=False))[0]


def by_onnxruntime(path):
    session = pytest.importorskip("onnxruntime",
                                  reason="onnxruntime is not installed").InferenceSession(str(path))
    return lambda image: session.run(["logits"], {"images": image[None].astype(np.float32)})[0][0]


def by_opencv(path):
    if int(cv2.__version__.split(".")[0]) < 5:
        pytest.skip(
            f"OpenCV {cv2.__version__} reads no ONNX models for photos of any size, 5.0 does")
    return opencv(path)


def opencv(path):
    net = cv2.dnn.readNetFromONNX(str(path))

    def run(image):
        net.setInput(np.ascontiguousarray(image[None], np.float32))
        return net.forward()[0]

    return run


def by_litert(path):
    interpreter = export.open_litert(path)
    source, target = interpreter.get_input_details()[0], interpreter.get_output_details()[0]

    def run(image):
        interpreter.resize_tensor_input(source["index"], (1, *image.shape))
        interpreter.allocate_tensors()
        interpreter.set_tensor(source["index"], image[None].astype(np.float32))
        interpreter.invoke()
        return interpreter.get_tensor(target["index"])[0]

    return run


def by_saved_model(path):
    loaded = tf.saved_model.load(str(path))
    return lambda image: loaded.serve(image[None].astype(np.float32)).numpy()[0]


READERS = {"onnxruntime": (by_onnxruntime, "model.onnx"), "opencv": (by_opencv, "model.onnx"),
           "litert": (by_litert, "model.tflite"), "saved model": (by_saved_model, "saved")}


@pytest.fixture(scope="module")
def exports(random_fcn, tmp_path_factory):
    """A function from a stride to a model and a folder with all that it was exported to."""

    @functools.cache
    def export_all(stride):
        model, folder = random_fcn(4, stride=stride), tmp_path_factory.mktemp(f"stride{stride}")
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            export.to_litert(model, folder / "model.tflite")
            export.to_saved_model(model, folder / "saved")
            with contextlib.suppress(ImportError):
                export.to_onnx(model, folder / "model.onnx", card(stride))
        assert said.getvalue() == "", "converters keep quiet, or notebooks would store it"
        return model, folder

    return export_all


@pytest.fixture(scope="module")
def model(exports):
    return exports(32)[0]


@pytest.fixture(scope="module")
def onnx_file(exports):
    need_onnx()
    return exports(32)[1] / "model.onnx"


def need_onnx():
    for package in ("onnx", "tf2onnx"):
        pytest.importorskip(package, reason=f"{package} is not installed")


def assert_equal_to_keras(model, run, sizes=SIZES):
    for size in sizes:
        image = photo(*size)
        expected, found = by_keras(model, image), run(image)
        assert found.shape == expected.shape and found.dtype == np.float32
        assert np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max(), size


# The same numbers


@pytest.mark.parametrize("stride", [32, pytest.param(16, marks=pytest.mark.slow), 8])
@pytest.mark.parametrize("reader", READERS)
def test_every_format_gives_what_keras_gives_at_any_size(exports, reader, stride):
    model, folder = exports(stride)
    read, name = READERS[reader]
    if name == "model.onnx":
        need_onnx()
    assert_equal_to_keras(model, read(folder / name))


@pytest.mark.parametrize("upsampling", ["deconv", "ladder"])
def test_learned_upsampling_is_exported_too(random_fcn, tmp_path, upsampling):
    need_onnx()
    model = random_fcn(4, stride=16, upsampling=upsampling)
    path = export.to_onnx(model, tmp_path / "model.onnx", card(16))
    about = segment_with_opencv.fields(path.read_bytes())
    about = dict(dict(segment_with_opencv.fields(value)).values()
                 for number, value in about if number == 14)
    assert about[b"stride"] == b"16"
    assert_equal_to_keras(model, by_onnxruntime(path))
    assert_equal_to_keras(model, by_opencv(path))


@pytest.mark.parametrize("size", [None, (45, 70)])
def test_im2col_is_exported_as_a_convolution(random_fcn, tmp_path, monkeypatch, size):
    need_onnx()
    import onnx
    small = models.BACKBONES["vgg_small"]
    monkeypatch.setitem(models.BACKBONES, "vgg_small",
                        dataclasses.replace(small, normalized=0, im2col=True))
    model = random_fcn(4)
    assert isinstance(model.get_layer("fc6"), Im2ColConv2D)
    path = export.to_onnx(model, tmp_path / "model.onnx", card(), size=size)
    kinds = [node.op_type for node in onnx.load(path).graph.node]
    assert (kinds.count("Conv")
            == sum(isinstance(layer, keras.layers.Conv2D) for layer in model.layers))
    assert_equal_to_keras(model, by_onnxruntime(path), SIZES if size is None else [size])


def test_onnx_of_a_fixed_size_is_read_by_older_opencv_too(model, tmp_path):
    """Tried with 4.14, which takes no computed shapes and no matrix products of this kind."""
    need_onnx()
    import onnx
    size = 45, 70
    path = export.to_onnx(model, tmp_path / "model.onnx", card(), size=size)
    assert {node.op_type
            for node in onnx.load(path).graph.node}.isdisjoint({"Shape", "MatMul", "Range"})
    assert_equal_to_keras(model, opencv(path), [size])


def test_export_leaves_the_model_as_it_was(model):
    before, image = [layer.name for layer in model.layers], photo(40, 50)
    logits = by_keras(model, image)
    export.portable(model)
    assert ([layer.name for layer in model.layers] == before
            and (by_keras(model, image) == logits).all())


def test_int8_is_small_and_labels_almost_every_pixel_alike(exports, tmp_path):
    model, folder = exports(32)
    photos = [photo(64, 96, seed) for seed in range(8)]
    path = export.to_int8(model, tmp_path / "int8.tflite", photos)
    assert path.stat().st_size < 0.4 * (folder / "model.tflite").stat().st_size
    run = by_litert(path)
    alike = [run(image).argmax(axis=2) == by_keras(model, image).argmax(axis=2) for image in photos]
    assert 0.95 < np.mean(alike) < 1  # below 1, or nothing was rounded
    types = {detail["dtype"] for detail in export.open_litert(path).get_tensor_details()}
    assert np.int8 in types


@pytest.mark.parametrize("sizes, found", [([(64, 96), (64, 64)], 2), ([], 0)])
def test_int8_wants_photos_of_one_size(model, tmp_path, sizes, found):
    with pytest.raises(ValueError, match=f"photos have {found} sizes"):
        export.to_int8(model, tmp_path / "int8.tflite", [photo(*size) for size in sizes])


# What an ONNX file tells


def test_onnx_has_one_input_one_output_and_sizes_with_names(onnx_file):
    import onnx
    graph = onnx.load(onnx_file).graph
    shapes = {end.name: [size.dim_param or size.dim_value
                         for size in end.type.tensor_type.shape.dim]
              for end in (*graph.input, *graph.output)}
    assert (shapes == {"images": ["batch", "height", "width", 3],
                       "logits": ["batch", "height", "width", 4]})


def test_onnx_metadata_holds_all_that_a_reader_needs(onnx_file):
    import onnx
    about = {entry.key: entry.value for entry in onnx.load(onnx_file).metadata_props}
    assert json.loads(about["class_names"]) == list(NAMES) and json.loads(about["colors"]) == COLORS
    assert (about["stride"], about["dataset"]) == ("32", "farm")
    assert "RGB in 0..255" in about["input"] and "logits" in about["output"]
    assert keras.__version__ in about["version"] and "fcn32-notebooks" in about["version"]


def test_the_script_reads_the_same_metadata_without_onnx(onnx_file):
    import onnx
    entries = [value for number, value in segment_with_opencv.fields(onnx_file.read_bytes())
               if number == 14]
    found = [tuple(text.decode() for _, text in segment_with_opencv.fields(entry))
             for entry in entries]
    assert found == [(entry.key, entry.value) for entry in onnx.load(onnx_file).metadata_props]


def test_card_of_another_model_is_refused(model, tmp_path):
    need_onnx()
    with pytest.raises(ValueError, match="names 3 classes and 4 colours; the model has 4 classes"):
        export.to_onnx(model, tmp_path / "model.onnx", {**card(), "class_names": NAMES[:3]})
    assert not list(tmp_path.iterdir())


# What goes wrong


def test_missing_package_is_named_with_the_command_that_installs_it(model, tmp_path, monkeypatch):
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError,
                       match="needs onnx and tf2onnx: python -m pip install onnx tf2onnx"):
        export.to_onnx(model, tmp_path / "model.onnx", card())


def test_another_backend_is_refused(model, tmp_path, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ValueError, match="needs Keras' backend TensorFlow, found jax"):
        export.to_litert(model, tmp_path / "model.tflite")


def test_place_that_cannot_be_written_is_named(model, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError,
                       match=r"model.tflite: cannot be written \(.*\). Choose another place"):
        export.to_litert(model, tmp_path / "file" / "model.tflite")


def test_export_that_breaks_leaves_the_old_file_and_nothing_else(model, tmp_path, monkeypatch):
    def break_off(model, path, form, **options):
        path.write_bytes(b"half a mod")
        raise KeyboardInterrupt

    (tmp_path / "model.tflite").write_bytes(b"the old one")
    monkeypatch.setattr(export, "_export", break_off)
    with pytest.raises(KeyboardInterrupt):
        export.to_litert(model, tmp_path / "model.tflite")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"the old one"]


@pytest.mark.parametrize("write", [
    lambda model, path: export.to_onnx(model, path, card()), export.to_litert,
    lambda model, path: export.to_int8(model, path, [photo(32, 32)])])
def test_a_folder_is_not_replaced_by_a_file(model, tmp_path, write):
    folder = tmp_path / "exports.tflite"
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    with pytest.raises(OSError, match="exports.tflite: cannot be written"):
        write(model, folder)
    assert [path.name for path in folder.iterdir()] == ["thesis.txt"]


def test_litert_wants_its_ending(model, tmp_path):
    with pytest.raises(ValueError, match="model.lite: expected a name that ends in .tflite"):
        export.to_litert(model, tmp_path / "model.lite")


def test_saved_model_replaces_its_like_and_nothing_else(exports, tmp_path):
    model, there = exports(32)
    folder = shutil.copytree(there / "saved", tmp_path / "saved")
    (folder / "stale").write_text("of the old one")
    export.to_saved_model(model, folder)
    assert not (folder / "stale").exists() and (folder / "saved_model.pb").is_file()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mine.jpg").write_text("precious")
    with pytest.raises(FileExistsError, match="photos: holds something"):
        export.to_saved_model(model, tmp_path / "photos")
    assert {path.name for path in tmp_path.iterdir()} == {"saved", "photos"}


# The command


@pytest.fixture
def trained(random_fcn, make_voc, tmp_path):
    """The folder of a run: model and card, of a data set whose photos are there."""
    make_voc(tmp_path / "voc", {"train": 3, "val": 1}, size=(45, 70))
    folder = tmp_path / "run"
    folder.mkdir()
    random_fcn(3).save(folder / "model.keras")
    about = {"class_names": NAMES[:3], "colors": COLORS[:3],
             "fcn": {"num_classes": 3, "stride": 32},
             "dataset": "voc", "given": {"data_dir": str(tmp_path / "voc")}}
    (folder / "model.json").write_text(json.dumps(about), encoding="utf-8")
    return folder


def test_models_of_train_are_exported_too(trained, tmp_path, capsys):
    """Their cards say `given: null`, since no notebook was given anything."""
    need_onnx()
    card = trained / "model.json"
    card.write_text(json.dumps(json.loads(card.read_text()) | {"given": None}))
    assert export.main([str(trained), "--to", "onnx", "--out", str(tmp_path / "out")]) == 0
    assert "largest difference" in capsys.readouterr().out


@pytest.mark.slow
def test_command_writes_every_form_and_says_how_large_they_are(trained, tmp_path, capsys):
    need_onnx()
    out = tmp_path / "out"
    assert (export.main([str(trained), "--to", "litert,onnx,int8,saved_model", "--out",
                         str(out)]) == 0)
    said = capsys.readouterr().out
    assert (sorted(path.name for path in out.iterdir())
            == ["model.onnx", "model.tflite", "model_int8.tflite", "saved_model"])
    assert (f"model.tflite: {(out / 'model.tflite').stat().st_size / 1e6:.2f} MB" in said
            and said.count(" MB") == 4)
    shape = export.open_litert(out / "model_int8.tflite").get_input_details()[0]["shape"]
    assert list(shape) == [1, 45, 70, 3], "int8 takes photos of the size of the training photos"
    if importlib.util.find_spec("onnxruntime"):
        assert (float(re.search(r"largest difference of a logit from Keras, on a photo: (\S+)",
                                said)[1]) < 1e-3)


def test_command_notices_an_export_that_computes_something_else(trained, tmp_path,
                                                                capsys, monkeypatch):
    pytest.importorskip("onnxruntime")
    real = export.portable

    def wrong(*arguments):
        copy = real(*arguments)
        copy.set_weights([1.5 * weight for weight in copy.get_weights()])
        return copy

    monkeypatch.setattr(export, "portable", wrong)
    assert export.main([str(trained), "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert float(re.search(r"on a photo: (\S+)", said)[1]) > 1e-3


def test_command_fixes_the_size(trained, tmp_path):
    need_onnx()
    import onnx
    assert export.main([str(trained), "--out", str(tmp_path), "--size", "64", "96"]) == 0
    shape = onnx.load(tmp_path / "model.onnx").graph.input[0].type.tensor_type.shape.dim
    assert [size.dim_value for size in shape][1:] == [64, 96, 3]


def test_command_does_the_rest_when_one_form_fails(trained, tmp_path, capsys):
    shutil.rmtree(tmp_path / "voc")
    assert export.main([str(trained), "--to", "int8,litert", "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr()
    assert (said.err.startswith("int8: needs photos of its training split.")
            and said.err.count("\n") == 1)
    assert ([path.name for path in (tmp_path / "out").iterdir()] == ["model.tflite"]
            and "model.tflite" in said.out)


def test_command_names_the_missing_package_and_how_to_install_it(trained, tmp_path,
                                                                 monkeypatch, capsys):
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None)
    assert export.main([str(trained), "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "python -m pip install onnx tf2onnx" in said


def test_command_without_onnxruntime_says_that_nothing_was_compared(trained, tmp_path,
                                                                    monkeypatch, capsys):
    need_onnx()
    real = importlib.util.find_spec
    monkeypatch.setattr(export.importlib.util, "find_spec",
                        lambda name, *more: None if name == "onnxruntime" else real(name, *more))
    assert export.main([str(trained), "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "not compared with Keras, which needs: python -m pip install onnxruntime" in said


@pytest.mark.parametrize("arguments, said", [
    (["nowhere.keras"], "nowhere.keras: there is no such model file"),
    (["--size", "0", "9"], "at least 1 pixel")])
def test_command_refuses_what_cannot_start(tmp_path, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(tmp_path)
    assert export.main(arguments) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and not list(tmp_path.iterdir())


@pytest.mark.parametrize("forms", ["torch", "onnx,", "onnx litert"])
def test_command_refuses_unknown_forms(capsys, forms):
    with pytest.raises(SystemExit) as end:
        export.main(["--to", forms])
    assert (end.value.code == 2
            and "expected some of onnx,litert,int8,saved_model" in capsys.readouterr().err)


# The stand-alone script

ALONE = """
import sys
class Only:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] not in {"cv2", "numpy", *sys.stdlib_module_names}:
            raise ImportError(f"{name} is not there")
sys.meta_path.insert(0, Only())
sys.argv.pop(0)
import runpy
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run_alone(*arguments):
    """Run the script in a Python that has OpenCV, numpy and its own library, and nothing else."""
    return subprocess.run([sys.executable, "-c", ALONE, str(SCRIPT), *map(str, arguments)],
                          capture_output=True,
                          text=True)


@pytest.fixture
def folder(tmp_path):
    """Two photos of different sizes, one below the other, and a video of three frames."""
    folder = tmp_path / "day one"
    (folder / "more").mkdir(parents=True)
    cv2.imwrite(str(folder / "a.png"), photo(150, 200)[..., ::-1])
    cv2.imwrite(str(folder / "more" / "B.PNG"), photo(90, 160, 1)[..., ::-1])
    clip = cv2.VideoWriter(str(folder / "clip.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 5, (128, 96))
    for seed in range(3):
        clip.write(np.ascontiguousarray(photo(96, 128, seed)[..., ::-1]))
    clip.release()
    return folder


def test_script_is_short_and_needs_opencv_and_numpy_alone():
    assert len(SCRIPT.read_text(encoding="utf-8").splitlines()) <= 80


def test_script_writes_an_overlay_beside_each_photo_and_video(model, onnx_file, folder):
    by_opencv(onnx_file)
    done = run_alone(onnx_file, folder)
    assert done.returncode == 0, done.stderr
    overlays = {path.name: path for path in folder.rglob("*.overlay.*")}
    assert sorted(overlays) == ["B.PNG.overlay.png", "a.png.overlay.png", "clip.avi.overlay.mp4"]
    image = photo(150, 200)
    labels = by_keras(model, image).argmax(axis=2)
    mixed = 0.4 * image + 0.6 * np.array(COLORS)[labels]
    expected = np.where((labels == NAMES.index("background"))[..., None], image, mixed)
    found = cv2.imread(str(overlays["a.png.overlay.png"]))[..., ::-1]
    assert np.abs(found - expected)[80:].max() <= 1  # below the legend
    clip = cv2.VideoCapture(str(overlays["clip.avi.overlay.mp4"]))
    frames = [frame for good, frame in (clip.read() for _ in range(5)) if good]
    assert len(frames) == 3 and frames[0].shape == (96, 128, 3) and clip.get(cv2.CAP_PROP_FPS) == 5


def test_script_names_the_classes_that_are_seen(monkeypatch):
    """Of four classes the network sees the second and the last."""
    class Net:
        def setInput(self, pixels):
            pass

        def forward(self):
            return np.eye(4, dtype=np.float32)[np.repeat([1, 3], 60)][None, None].repeat(80, axis=1)

    written = []
    monkeypatch.setattr(cv2, "putText",
                        lambda _, text, place, *__: written.append((text, place[1])))
    colors, grey = np.uint8(COLORS), np.full((80, 120, 3), 100, np.uint8)
    picture = segment_with_opencv.overlay(Net(), NAMES, colors, grey)
    assert [text for text, _ in written] == [NAMES[1], NAMES[3]]
    for (_, bottom), color in zip(written, colors[[1, 3]]):
        np.testing.assert_array_equal(picture[bottom - 5, 10], color)


def test_script_takes_its_own_overlays_for_no_photos(onnx_file, folder):
    by_opencv(onnx_file)
    for _ in range(2):
        assert run_alone(onnx_file, folder).returncode == 0
    assert len(list(folder.rglob("*.overlay.*"))) == 3


def test_script_names_what_it_cannot_read_and_does_the_rest(onnx_file, folder):
    by_opencv(onnx_file)
    for name in ("broken.jpg", "broken.mp4"):
        (folder / name).write_bytes(b"no picture")
    (folder / "empty.jpg").write_bytes(b"")
    done = run_alone(onnx_file, folder)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    named = [line for line in done.stderr.splitlines()
             if "no photo or video that can be read" in line]
    assert (len(named) == 3 and all(any(name in line for line in named)
                                    for name in ("broken.jpg", "broken.mp4", "empty")))
    assert len(list(folder.rglob("*.overlay.*"))) == 3


@pytest.mark.parametrize("path", ["nothing.jpg", "nowhere"])
def test_script_says_that_nothing_is_there(onnx_file, folder, path):
    by_opencv(onnx_file)
    done = run_alone(onnx_file, folder / path)
    assert (done.returncode == 1 and f"{path}: no photo or video" in done.stderr
            and "Traceback" not in done.stderr)


@pytest.mark.parametrize("content", [None, b"", b"no protobuf", bytes(range(256))])
def test_script_refuses_what_is_no_exported_model(tmp_path, folder, content):
    if int(cv2.__version__.split(".")[0]) < 5:
        pytest.skip("the script stops before, at the version of OpenCV")
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    assert segment_with_opencv.main(path, folder) == (
        f"{path}: expected an ONNX file with class names, as tools.deploy.export writes it.")


def test_script_refuses_older_opencv_in_one_sentence(onnx_file, folder, monkeypatch):
    monkeypatch.setattr(cv2, "__version__", "4.13.0")
    assert segment_with_opencv.main(onnx_file, folder) == (
        "This is OpenCV 4.13.0; photos of any size need version 5 or newer.")


def test_script_shows_how_it_is_called(tmp_path):
    done = run_alone()
    assert done.returncode == 1 and "MODEL.onnx PATH" in done.stderr
