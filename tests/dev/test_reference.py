"""The tool that measures reference scores and comparisons: what it trains, and what it writes."""

import json

import pytest

from dev import reference


@pytest.fixture
def trained(monkeypatch, tmp_path):
    """What was asked for, with a score that depends on it; files go to an empty folder."""
    asked = []

    def measure(precision, seed, name, changes):
        asked.append((precision, seed, name, changes))
        scores = dict.fromkeys(("val_mean_iou", "pixel_accuracy", "mean_accuracy", "mean_iou",
                                "frequency_weighted_iou"), 0.5 + 0.1 * seed + len(asked) // 3)
        return {"name": name, "precision": precision, "seed": seed, **scores}

    monkeypatch.setattr(reference, "measure", measure)
    monkeypatch.setattr(reference.runs, "ROOT", tmp_path)
    monkeypatch.setattr(reference, "REFERENCE", tmp_path / "results" / "reference" / "meadow.json")
    return asked, tmp_path / "results"


def test_reference_is_the_recipe_over_seeds_and_precisions(trained):
    asked, results = trained
    assert reference.main(["--seeds", "3", "--precisions", "float32"]) == 0
    assert asked == [("float32", seed, "default", {}) for seed in range(3)]
    found = json.loads((results / "reference" / "meadow.json").read_text())["scores"]["mean_iou"]
    values = [0.5, 0.6, 1.7]
    mean = sum(values) / 3
    std = (sum((value - mean) ** 2 for value in values) / 2) ** 0.5
    assert found == pytest.approx({"mean": mean, "std": std, "tolerance": 3 * std})


def test_the_file_can_be_chosen_and_the_usual_one_stays(trained):
    _, results = trained
    file = results / "reference" / "other.json"
    assert reference.main(["--seeds", "2", "--precisions", "mixed_bfloat16", "--out", str(file)]) == 0
    assert {row["precision"] for row in json.loads(file.read_text())["trainings"]} == {"mixed_bfloat16"}
    assert not (results / "reference" / "meadow.json").exists()


def test_a_comparison_trains_each_kind_with_each_seed_and_sums_them_up_apart(trained):
    asked, results = trained
    assert reference.main(["--compare", "optimizers", "--seeds", "2", "--precisions", "float32"]) == 0
    assert [(name, seed) for _, seed, name, _ in asked] == [
        (name, seed) for name in ("muon", "adam", "adam, twice as long", "adam, 1e-3", "adam, 1e-2")
        for seed in range(2)]
    assert asked[5][3] == {"optimizer": "adam", "epochs": 2}
    assert asked[-1][3] == {"optimizer": "adam", "learning_rate": 1e-2}
    scores = json.loads((results / "optimizers.json").read_text())["scores"]
    assert scores["muon"]["mean_iou"]["mean"] == pytest.approx(0.55)
    assert scores["adam"]["mean_iou"]["mean"] == pytest.approx(1.55)


def test_a_comparison_begins_with_the_recipe_itself():
    recipe = reference.datasets.load_dataset("meadow").recipe
    assert recipe.optimizer == "muon" and recipe.class_weights == "none"
    assert [next(iter(kinds.items())) for kinds in reference.COMPARISONS.values()] == [("none", {}), ("muon", {})]


def test_one_seed_has_no_spread(capsys):
    with pytest.raises(SystemExit):
        reference.main(["--seeds", "1"])
    assert "needs at least 2" in capsys.readouterr().err
