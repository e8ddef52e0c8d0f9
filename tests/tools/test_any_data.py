"""The notebooks on folders that nobody made for them: what `tools.check` lets pass has to run."""

import json
import re

import nbformat
import numpy as np
import odd_folders
import pytest
from PIL import Image

from tools.check import check_dataset
from tools.run import declared_parameters, find_notebooks, run
from utils import models, plots, runs, training
from utils.datasets import load_dataset

TINY = {"image_size": 64, "batch_size": 2, "epochs": 1, "calibration": 2}
MEADOW = re.compile(r"\b(horses?|sheep|barns?|tractors?|fences?|riders?)\b(?!\.png)", re.IGNORECASE)
EVERYDAY = ["01", "03", "04", "05"]


def run_on(data, folder, notebooks, **more):
    """Run notebooks on a folder with tiny parameters; return what each printed, by number."""
    given = {"dataset": "voc", "data_dir": str(data), **TINY, **more}
    declared = set().union(*(declared_parameters(path) for path in find_notebooks(notebooks)))
    chosen = {name: value for name, value in given.items() if name in declared}
    run(notebooks, chosen, folder, timeout=300)
    return {path.stem[:2]: printed(path) for path in sorted(folder.glob("[0-9]*.ipynb"))}


def printed(path):
    """Return the text of all outputs of an executed notebook, descriptions of figures included."""
    texts = []
    for cell in nbformat.read(path, as_version=4).cells:
        for output in cell.get("outputs", []):
            if output.get("name") != "stderr":
                texts.append(output.get("text") or output.get("data", {}).get("text/plain", ""))
    return "\n".join(texts)


def without_last_line(texts):
    """Return the notebooks whose checks at the end did not say that they passed."""
    return [number for number, text in texts.items()
            if not re.search(r"^all .*checks passed$", text, re.MULTILINE)]


@pytest.mark.parametrize("make", [odd_folders.everyday, *odd_folders.OTHERS])
def test_the_check_lets_the_folders_pass(make, tmp_path):
    problems = check_dataset(load_dataset("voc", make(tmp_path / "data")))
    assert not [problem for problem in problems if problem.severity == "error"]


# No value is a default: what a notebook drops on the way to the training run shows in its weights.
CHOSEN = {"seed": 3, "optimizer": "adam", "learning_rate": 2e-3, "class_weights": "median",
          "upsampling": "deconv", "precision": "float32"}


@pytest.fixture(scope="module")
def everyday(tmp_path_factory):
    """Return (data set, run folder, what each notebook printed) of a run with chosen parameters."""
    place = tmp_path_factory.mktemp("everyday")
    data = odd_folders.everyday(place / "data")
    own = place / "own photo.png"
    Image.fromarray(odd_folders.scene(7, (50, 81), (0, 1, 2))[0]).save(own)
    texts = run_on(data, place / "run", EVERYDAY, **CHOSEN, photo=str(own))
    return load_dataset("voc", data), place / "run", texts


def test_notebooks_run_on_an_everyday_folder(everyday):
    _, folder, texts = everyday
    assert list(texts) == EVERYDAY and not without_last_line(texts)
    assert "40x23" in texts["01"] and "snow" in texts["01"], "warnings are shown, and stop nothing"
    assert json.loads((folder / "model.json").read_text())["fcn"]["stride"] < 32
    for number in ("03", "04", "05"):
        assert not MEADOW.search(texts[number]), f"{number} speaks of the meadow"


def test_notebook_03_trains_what_its_parameters_say(everyday, tmp_path):
    """To the last bit what `training.train` gives for the same values."""
    data, folder, _ = everyday
    recipe = data.recipe.override(
        image_size=TINY["image_size"], batch_size=TINY["batch_size"], epochs=TINY["epochs"],
        **{name: CHOSEN[name] for name in ("optimizer", "learning_rate", "class_weights")})
    again = training.train(data, recipe, tmp_path, upsampling=CHOSEN["upsampling"],
                           precision=CHOSEN["precision"], seed=CHOSEN["seed"])
    found = models.load(folder / "model.keras")
    assert [w.path for w in found.weights] == [w.path for w in again.model.weights]
    for expected, array in zip(again.model.get_weights(), found.get_weights()):
        assert np.array_equal(expected, array)


def labels_of(model, image):
    """Return the best class of each pixel, straight from Keras."""
    return np.asarray(model(image[None].astype("float32")))[0].argmax(axis=2)


def test_scores_of_notebook_04_are_those_of_the_model_of_notebook_03(everyday):
    """Counted pixel by pixel, by IoU's definition."""
    data, folder, _ = everyday
    model = models.load(folder / "model.keras")
    pairs = [data.read(sample) for sample in data.split(data.test_split)]
    truth = np.concatenate([mask.ravel() for _, mask in pairs])
    guess = np.concatenate([labels_of(model, image).ravel() for image, _ in pairs])
    truth, guess = truth[truth != 255], guess[truth != 255]
    iou = {}
    for number, name in enumerate(data.class_names):
        union = ((truth == number) | (guess == number)).sum()
        shared = ((truth == number) & (guess == number)).sum()
        iou[name] = shared / union if union else None
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["iou"] == pytest.approx(iou)
    defined = [value for value in iou.values() if value is not None]
    assert metrics["scores"]["mean_iou"] == pytest.approx(np.mean(defined))
    assert metrics["scores"]["pixel_accuracy"] == pytest.approx((truth == guess).mean())
    assert (metrics["split"], metrics["images"]) == (data.test_split, len(pairs))
    assert metrics["iou"]["snow"] is None and metrics["parameters"]["seed"] == CHOSEN["seed"]


@pytest.mark.slow
def test_the_same_command_gives_the_same_scores(everyday, tmp_path):
    """All of metrics.json but the times, to the last digit."""
    data, folder, _ = everyday
    run_on(data.root, tmp_path, ["03", "04"], **CHOSEN)
    first, second = (json.loads((place / "metrics.json").read_text(encoding="utf-8"))
                     for place in (folder, tmp_path))
    for metrics in (first, second):
        assert metrics.pop("training_seconds") > 0 and metrics.pop("images_per_second") > 0
    assert first == second


def test_pictures_of_notebook_05_show_the_labels_of_the_model(everyday):
    data, folder, _ = everyday
    model = models.load(folder / "model.keras")
    photo, truth, inferred = (np.asarray(Image.open(folder / "figures" / f"{name}.png"))
                              for name in ("photo", "sem_seg", "sem_seg_inf"))
    table = np.full((256, 3), plots.VOID_COLOR, np.uint8)
    table[:data.num_classes] = data.colors
    image, mask = next(pair for pair in map(data.read, data.split(data.test_split))
                       if np.array_equal(pair[0], photo))
    assert np.array_equal(truth, table[mask])
    assert np.array_equal(inferred, table[labels_of(model, image)])
    own = np.asarray(Image.open(folder.parent / "own photo.png"))
    written = Image.open(folder / "masks" / "own photo.png")
    assert written.mode == "P"
    assert np.array_equal(np.asarray(written), labels_of(model, own))


@pytest.mark.slow
def test_the_other_notebooks_run_on_an_everyday_folder(tmp_path):
    data = odd_folders.everyday(tmp_path / "data")
    texts = run_on(data, tmp_path / "run", ["02", "03", "06", "07", "09"])
    assert not without_last_line(texts)
    assert "weaker" in texts["06"], "06 says that it leaves out the skips of the run's network"
    assert "each clearly better than the one before" not in texts["07"]
    assert "8 bits cost less" not in texts["09"]
    assert not MEADOW.search(texts["09"])


@pytest.mark.parametrize("stride, upsampling", [
    (32, "bilinear"), (16, "bilinear"), (8, "bilinear"), (4, "bilinear"), (2, "bilinear"),
    (32, "deconv"), (8, "deconv"), (8, "ladder")])
def test_notebook_06_starts_from_any_network_of_the_run(stride, upsampling, tmp_path, capsys):
    """Its FCN-32s has the run's weights, and it says what was left out."""
    data = load_dataset("voc", odd_folders.two_classes(tmp_path / "data"))
    folder = runs.run_folder(tmp_path / "run")
    arguments = {"num_classes": 2, "stride": stride, "backbone": "vgg_small",
                 "upsampling": upsampling}
    trained = models.fcn(**arguments)
    trained.get_layer("score").bias.assign([1.0, -1.0])
    runs.save(trained, folder, data, fcn=arguments, given=None)
    names = first_cells("06", "fcn32", dataset="voc", data_dir=str(data.root), run_dir=str(folder))
    fcn32, said = names["fcn32"], capsys.readouterr().out
    assert fcn32.name == "fcn32s_vgg_small"
    for name in ("block1_conv1", "block5_conv2", "fc7"):
        kernels = [network.get_layer(name).kernel.numpy() for network in (trained, fcn32)]
        assert np.array_equal(*kernels), name
    starts_at_zero = upsampling == "ladder"
    assert bool(fcn32.get_layer("score").bias[0] == 0) == starts_at_zero == ("zero" in said)
    assert ("weaker" in said) == ((stride, upsampling) != (32, "bilinear"))


def first_cells(number, last, **given):
    """Run a notebook's cells after its set-up, until one defines `last`; return all names."""
    code = [cell for cell in nbformat.read(find_notebooks([number])[0], as_version=4).cells
            if cell.cell_type == "code" and not cell.source.startswith("# @title Set-up")]
    names = {}
    for cell in code:
        exec(cell.source, names)
        if "parameters" in cell.metadata.get("tags", ()):
            names |= given
        if last in names:
            return names
    raise AssertionError(f"notebook {number} defines no {last}")


@pytest.mark.slow
@pytest.mark.parametrize("make", odd_folders.OTHERS)
def test_notebooks_run_on_odd_folders(make, tmp_path):
    notebooks = ["01", "02", "03", "04", "05", "06", "07", "09"]
    texts = run_on(make(tmp_path / "data"), tmp_path / "run", notebooks)
    assert list(texts) == notebooks and not without_last_line(texts)
