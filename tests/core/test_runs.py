"""Run folders: the check against the reference, the lock, and what the files hold."""

import json
import math

import pytest

from utils import runs
from utils.recipes import Recipe

REFERENCE = json.loads((runs.ROOT / "results" / "reference" / "meadow.json").read_text())["scores"]


@pytest.mark.parametrize("score", REFERENCE)
def test_the_reference_check_passes_near_and_fails_far(score):
    mean, tolerance = REFERENCE[score]["mean"], REFERENCE[score]["tolerance"]
    assert 0 < tolerance < 0.1 < mean < 1
    for value in (mean, mean + 0.99 * tolerance, mean - 0.99 * tolerance):
        assert score in runs.check_reference(score, value, dict(runs.DEFAULTS))
    for value in (mean + 1.01 * tolerance, mean - 1.01 * tolerance, 0.0, 1.0, math.nan):
        with pytest.raises(AssertionError, match=f"^{score} is .*{mean:.4f}.*{tolerance:.4f}"
                                                "(?s:.*)versions.*meadow.json.*commit [0-9a-f]{7}"):
            runs.check_reference(score, value, dict(runs.DEFAULTS))


@pytest.mark.parametrize("name", runs.DEFAULTS)
def test_runs_with_any_other_parameter_are_not_compared(name):
    given = {**runs.DEFAULTS, name: "another"}
    assert "skipped" in runs.check_reference("mean_iou", 0.0, given)


def test_tolerances_are_three_standard_deviations_of_the_measured_seeds():
    rows = json.loads((runs.ROOT / "results" / "reference" / "meadow.json").read_text())
    for score, reference in rows["scores"].items():
        assert reference["tolerance"] == pytest.approx(3 * reference["std"])
        assert min(row[score] for row in rows["trainings"]) <= reference["mean"]
        assert max(row[score] for row in rows["trainings"]) >= reference["mean"]


def test_a_lock_excludes_others_and_ends(tmp_path):
    with runs.lock(tmp_path):
        with pytest.raises(RuntimeError, match=f"{tmp_path.name} is in use"):
            with runs.lock(tmp_path):
                pytest.fail("held twice")
    with runs.lock(tmp_path):  # free again
        pass


def test_a_recipe_is_written_with_its_reasons(tmp_path):
    recipe = Recipe(epochs=7, reasons={"epochs": "seven are enough"})
    runs.save_recipe(recipe.override(batch_size=2), tmp_path)
    rows = json.loads((tmp_path / "recipe.json").read_text())
    assert rows["epochs"] == {"value": 7, "reason": "seven are enough"}
    assert rows["batch_size"] == {"value": 2, "reason": "given"}
    assert rows["keep"] == {"value": recipe.keep, "reason": ""}
    assert rows.keys() == recipe.values().keys()


@pytest.mark.parametrize("text", ["", "[1, 2]", "3", '"text"', "null", "{", "[" * 100_000])
def test_what_is_no_json_object_is_read_as_empty(tmp_path, text):
    file = tmp_path / "a.json"
    file.write_text(text)
    assert runs.read_json(file) == runs.read_json(tmp_path / "missing.json") == {}


@pytest.mark.parametrize("text", [
    "", "[]", '{"parameters": {}}', '{"parameters": 1, "notebooks": {}}'])
def test_a_damaged_record_is_named(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(OSError, match="run.json is damaged"):
        runs.run_folder(tmp_path)
