"""The studies of maintainers: what they train, and what they write."""

import json
import statistics
from dataclasses import replace

import numpy as np
import pytest

from dev import study
from utils import datasets, inference, metrics, models, oracles, recipes

RECIPE = recipes.Recipe(image_size=32, batch_size=4, epochs=1, learning_rate=1e-3)


@pytest.fixture
def stubs(monkeypatch, tmp_path):
    """What was asked for; scores depend on variant and seed, files go to an empty folder."""
    asked = []

    def train(variants, name, data, seed, precision):
        asked.append((precision, seed, name))
        return list(variants).index(name), seed

    def score(trained, data):
        value = 0.5 + trained[0] + 0.1 * trained[1] ** 2
        return dict.fromkeys(("val_mean_iou", *study.SCORES), value)

    monkeypatch.setattr(study, "train", train)
    monkeypatch.setattr(study, "score", score)
    monkeypatch.setattr(study.runs, "ROOT", tmp_path)
    data = datasets.load_dataset("meadow")
    monkeypatch.setattr(study.datasets, "load_dataset", lambda *_: data)
    return asked, tmp_path / "results"


def test_reference_is_the_recipe_over_seeds_and_precisions(stubs):
    asked, results = stubs
    assert study.main(["reference", "--seeds", "3", "--precisions", "float32"]) == 0
    assert asked == [("float32", seed, "default") for seed in range(3)]
    found = json.loads((results / "reference" / "meadow.json").read_text())["scores"]["mean_iou"]
    mean, std = statistics.mean([0.5, 0.6, 0.9]), statistics.stdev([0.5, 0.6, 0.9])
    assert found == pytest.approx({"mean": mean, "std": std, "tolerance": 3 * std})


def test_the_file_can_be_chosen_and_the_usual_one_stays(stubs):
    _, results = stubs
    file = results / "other.json"
    given = ["--seeds", "2", "--precisions", "mixed_bfloat16", "--out", str(file)]
    assert study.main(["reference", *given]) == 0
    rows = json.loads(file.read_text())["trainings"]
    assert {row["precision"] for row in rows} == {"mixed_bfloat16"}
    assert not (results / "reference").exists()


def test_a_comparison_sums_each_variant_up_apart(stubs):
    asked, results = stubs
    assert study.main(["optimizers", "--seeds", "2", "--precisions", "float32"]) == 0
    names = "muon", "adam", "adam, twice as long"
    assert ([(name, seed) for _, seed, name in asked]
            == [(name, seed) for name in names for seed in range(2)])
    scores = json.loads((results / "optimizers.json").read_text())["scores"]
    assert scores["muon"]["mean_iou"]["mean"] == pytest.approx(0.55)
    assert scores["adam"]["mean_iou"]["mean"] == pytest.approx(1.55)


def test_variants_that_are_not_trained_again_stay_in_the_file(stubs, monkeypatch):
    asked, results = stubs
    row = {"mean_iou": 0.5, "iou": {}, "boundary_band_mean_iou": {}, "parameters": 7}
    monkeypatch.setattr(study, "SCORES", ("mean_iou",))
    monkeypatch.setattr(study, "score", lambda trained, data: row)
    monkeypatch.setattr(study, "oracles", lambda data: {})
    for name in ("8s", "32s"):
        assert study.main(["strides", "--seeds", "2", "--variants", name]) == 0
    assert [name for _, _, name in asked] == ["8s", "8s", "32s", "32s"]
    found = json.loads((results / "strides_meadow.json").read_text())
    assert list(found["variants"]) == list(found["trainings"]) == ["32s", "8s"]


def test_other_losses_are_those_of_the_books_without_void_pixels():
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 3, (2, 5, 7)).astype(np.uint8)
    ids[rng.random(ids.shape) < 0.3] = 255
    logits = rng.normal(0, 2, (*ids.shape, 3)).astype(np.float32)
    share = np.exp(logits[ids < 255], dtype=np.float64)
    share /= share.sum(axis=1, keepdims=True)
    truth = np.eye(3)[ids[ids < 255]]
    right = share[truth == 1]
    dice = 2 * (share * truth).sum(axis=0) / (share.sum(axis=0) + truth.sum(axis=0))
    expected = {"with dice": -np.log(right).mean() + 1 - dice.mean(),
                "focal": ((1 - right) ** 2 * -np.log(right)).mean()}
    found = {name: float(loss(ids, logits)) for name, loss in study.other_losses().items()}
    assert found == pytest.approx(expected, rel=1e-4)


def test_a_comparison_begins_with_the_recipe_itself():
    recipe = datasets.load_dataset("meadow").recipe
    assert recipe.optimizer == "muon" and recipe.class_weights == "none"
    for variants in study.COMPARISONS.values():
        assert next(iter(variants.values())) == study.Variant()


@pytest.mark.parametrize("argv, said", [
    (["reference", "--seeds", "1"], "at least 2"), (["strides", "--variants", "4s"], "4s"),
    (["speed"], "speed")])
def test_what_cannot_be_is_refused(argv, said, capsys):
    with pytest.raises(SystemExit):
        study.main(argv)
    assert said in capsys.readouterr().err


@pytest.fixture
def data(tmp_path, monkeypatch, shared_voc):
    monkeypatch.setitem(recipes.RECIPES, "voc", RECIPE)
    data = datasets.load_dataset("voc", shared_voc)
    monkeypatch.setattr(study, "FOLDER", tmp_path / "runs")
    monkeypatch.setattr(study.runs, "ROOT", tmp_path)
    monkeypatch.setattr(study.datasets, "load_dataset", lambda name, data_dir: data)
    (tmp_path / "results").mkdir()
    return data


@pytest.mark.slow
def test_each_variant_is_trained_once_a_seed_scored_and_summarised(data, tmp_path):
    call = ["strides", "--dataset", "voc", "--seeds", "2", "--variants", "8s at once"]
    file = tmp_path / "results" / "strides_voc.json"
    assert study.main(call) == 0
    paths = sorted((tmp_path / "runs").glob("*/model.keras"))
    found = [models.load(path) for path in paths]
    assert [model.name for model in found] == ["fcn8s_vgg_small"] * 2
    written = json.loads(file.read_text())

    scores = [metrics.scores(inference.evaluate(model, data, "val"))["mean_iou"] for model in found]
    row = written["variants"]["8s at once"]
    assert [run["mean_iou"] for run in written["trainings"]["8s at once"]] == scores
    assert row["mean_iou"] == {"mean": pytest.approx(np.mean(scores)),
                               "std": pytest.approx(statistics.stdev(scores))}
    assert row["parameters"] == found[0].count_params() and row["trainings"] == 2

    pairs = [data.read(sample) for sample in data.split("val")]
    band = sum(metrics.confusion_matrix(np.where(metrics.boundary_band(mask, 2), mask, 255),
                                        inference.predict(found[1], image), 3)
               for image, mask in pairs)
    bands = written["trainings"]["8s at once"][1]["boundary_band_mean_iou"]
    assert bands["2"] == metrics.scores(band)["mean_iou"]
    oracle = sum(metrics.confusion_matrix(mask, oracles.bilinear_oracle(mask, 8, 3), 3)
                 for _, mask in pairs)
    assert written["oracles"]["bilinear"]["8"] == metrics.scores(oracle)["mean_iou"]

    written["trainings"]["32s"] = written["trainings"]["8s at once"][:1]
    file.write_text(json.dumps(written))
    before = [path.stat().st_mtime_ns for path in paths]
    assert study.main(call) == 0 and [path.stat().st_mtime_ns for path in paths] == before
    variants = json.loads(file.read_text())["variants"]
    assert list(variants) == ["32s", "8s at once"]  # what was in the file stays
    assert variants["8s at once"] == row
    assert variants["32s"]["mean_iou"] == {"mean": scores[0], "std": None}


def test_a_variant_continues_the_one_it_names(data, monkeypatch):
    calls = []

    def train(data, recipe, folder, **given):
        calls.append((recipe, given))
        return type("Trained", (), {"path": folder / "model.keras"})

    monkeypatch.setattr("utils.training.train", train)
    monkeypatch.setitem(recipes.RECIPES, "voc", replace(RECIPE, epochs=12))
    study.train(study.STRIDES, "8s at once", data, 3, "float32")
    assert calls.pop()[0].epochs == 16
    study.train(study.STRIDES, "8s via 16s", data, 3, "float32")
    assert [(recipe.stride, recipe.epochs) for recipe, _ in calls] == [(32, 12), (16, 4), (8, 4)]
    assert {given["seed"] for _, given in calls} == {3}
    weights = [given["weights"] for _, given in calls]
    assert weights[0] is None and "none" in weights[1] and "16s" in weights[2]
