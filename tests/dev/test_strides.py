"""The tool that measures what skip connections bring."""

import json
import statistics

import numpy as np
import pytest

from dev import strides
from utils import datasets, inference, metrics, models, oracles, recipes

RECIPE = recipes.Recipe(image_size=32, batch_size=4, epochs=1, learning_rate=1e-3)


@pytest.fixture
def data(tmp_path, monkeypatch, shared_voc):
    monkeypatch.setitem(recipes.RECIPES, "voc", RECIPE)
    data = datasets.load_dataset("voc", shared_voc)
    monkeypatch.setattr(strides, "FOLDER", tmp_path / "runs")
    monkeypatch.setattr(strides.runs, "ROOT", tmp_path)
    monkeypatch.setattr(strides.datasets, "load_dataset", lambda name, data_dir: data)
    (tmp_path / "results").mkdir()
    return data


def test_each_variant_is_trained_once_a_seed_scored_and_summarised(data, tmp_path, capsys):
    call = ["--dataset", "voc", "--seeds", "2", "--variants", "8s at once"]
    assert strides.main(call) == 0
    folders = [strides.train_variant("8s at once", data, seed) for seed in range(2)]
    found = [models.load(folder / "model.keras") for folder in folders]
    assert [model.name for model in found] == ["fcn8s_vgg_small"] * 2
    written = json.loads((tmp_path / "results" / "strides_voc.json").read_text())

    scores = [metrics.scores(inference.evaluate(model, data, "val"))["mean_iou"] for model in found]
    row = written["variants"]["8s at once"]
    assert [training["mean_iou"] for training in written["trainings"]["8s at once"]] == scores
    assert row["mean_iou"] == {"mean": pytest.approx(np.mean(scores)), "std": pytest.approx(statistics.stdev(scores))}
    assert row["parameters"] == found[0].count_params() and row["trainings"] == 2

    band = sum(metrics.confusion_matrix(np.where(metrics.boundary_band(m, 2), m, 255), inference.predict(found[1], x), 3)
               for x, m in map(data.read, data.split("val")))
    assert written["trainings"]["8s at once"][1]["boundary_band_mean_iou"]["2"] == metrics.scores(band)["mean_iou"]

    oracle = sum(metrics.confusion_matrix(m, oracles.bilinear_oracle(m, 8, 3), 3)
                 for _, m in map(data.read, data.split("val")))
    assert written["oracles"]["bilinear"]["8"] == metrics.scores(oracle)["mean_iou"]

    trained = [folder / "model.keras" for folder in folders]
    written["trainings"]["32s"] = written["trainings"]["8s at once"][:1]
    (tmp_path / "results" / "strides_voc.json").write_text(json.dumps(written))
    before = [file.stat().st_mtime_ns for file in trained]
    assert strides.main(call) == 0 and [file.stat().st_mtime_ns for file in trained] == before
    variants = json.loads((tmp_path / "results" / "strides_voc.json").read_text())["variants"]
    assert list(variants) == ["32s", "8s at once"]  # what was in the file stays
    assert variants["8s at once"] == row and variants["32s"]["mean_iou"] == {"mean": scores[0], "std": None}


def test_a_variant_goes_on_from_the_one_it_names(data, monkeypatch):
    calls = []
    monkeypatch.setattr("utils.training.train", lambda data, recipe, folder, **given: calls.append((folder, recipe, given)))
    strides.train_variant("8s by way of 16s", data, 3)
    (first, _, a), (second, _, b), (_, recipe, c) = calls
    assert [a["stride"], b["stride"], c["stride"]] == [32, 16, 8] and {a["seed"], b["seed"], c["seed"]} == {3}
    assert a["weights"] is None and b["weights"] == str(first / "model.keras") and c["weights"] == str(second / "model.keras")
    assert recipe.epochs == 1


def test_a_mistyped_variant_is_refused(capsys):
    with pytest.raises(SystemExit):
        strides.main(["--variants", "4s"])
    assert "invalid choice: '4s'" in capsys.readouterr().err
