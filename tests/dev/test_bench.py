"""The benchmark's arithmetic, and that its peers do the work they stand for."""

import argparse
import json

import numpy as np
import pytest

from dev import bench
from dev.bench import peers as bench_peers
from dev.bench import sections as bench_sections
from utils import datasets, metrics
from utils.labels import VOID


def test_rows_hold_medians_ratios_and_verdicts():
    faster = bench.row("a", "s", [1.0, 4.0, 2.0], [9.0, 6.0, 3.0], "ratio >= 3")
    assert (faster["ours"], faster["baseline"], faster["ratio"], faster["met"]) == (2.0, 6.0, 3.0, True)
    assert faster["ours_range"] == [1.0, 4.0] and faster["baseline_range"] == [3.0, 9.0]
    more = bench.row("b", "images/s", [400.0], [100.0], ">= 500", "higher")
    assert more["ratio"] == 4.0 and more["met"] is False
    alone = bench.row("c", "s", [0.2], target="<= 0.3")
    assert alone["ratio"] is None and alone["baseline"] is None and alone["met"] is True
    assert bench.row("d", "s", [1.0])["met"] is None
    assert all("met" in bench.line(found) or "missed" in bench.line(found) for found in (faster, more, alone))


def test_sides_take_turns_after_one_call_each_that_is_not_counted():
    calls = []
    seconds = bench.take_turns(2, lambda: calls.append("ours"), lambda: calls.append("theirs"))
    assert calls == ["ours", "theirs"] * 3
    assert [len(side) for side in seconds] == [2, 2] and min(map(min, seconds)) >= 0


def test_an_unknown_section_is_refused(capsys):
    with pytest.raises(SystemExit) as ended:
        bench.main(["scors"])
    assert ended.value.code == 2 and "no section scors" in capsys.readouterr().err


def test_a_section_replaces_its_own_rows_alone(tmp_path):
    file = tmp_path / "bench.json"
    kept = {"section": "whole", **bench.row("kept", "s", [1.0])}
    file.write_text(json.dumps([{"section": "scores", **bench.row("old", "s", [1.0])}, kept]), encoding="utf-8")
    assert bench.main(["scores", "--repeats", "1", "--out", str(file)]) == 0
    rows = json.loads(file.read_text(encoding="utf-8"))
    assert rows[-1] == kept and "old" not in [row["name"] for row in rows]
    for row in rows[:-1]:
        assert {"name", "unit", "ours", "baseline", "ratio", "target", "machine"} <= row.keys()
        assert row["machine"]["cores"] >= 1 and row["ours"] > 0


def test_each_section_has_a_process_of_its_own_and_one_that_fails_stops_no_other(monkeypatch, capsys):
    calls = []

    def run(command):
        calls.append(command)
        return argparse.Namespace(returncode="label" in command)

    monkeypatch.setattr(bench.subprocess, "run", run)
    assert bench.main(["scores", "label", "whole", "--repeats", "2", "--out", "there.json"]) == 1
    assert [command[3] for command in calls] == ["scores", "label", "whole"]
    assert all(command[-2:] == ["--out", "there.json"] and command[4:6] == ["--repeats", "2"] for command in calls)
    assert "failed, and their rows are as they were: label" in capsys.readouterr().err


def test_flops_by_hand():
    import keras

    images = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(4, 3, padding="same")(images)
    x = keras.layers.MaxPooling2D(2)(x)
    model = keras.Model(images, keras.layers.Conv2D(5, 1)(x))
    first = 2 * 3 * 3 * 3 * 4 * 64 * 64
    assert bench_sections.flops(model, 64) == (first + 2 * 4 * 5 * 32 * 32, first)


def test_vgg16_has_the_published_operations():
    total, _ = bench_sections.flops(bench_peers.network("vgg16", 3, fc_kernel=1, fc_width=8), 224)
    assert total == pytest.approx(2 * 15.35e9, rel=0.01)  # multiply-adds of Simonyan & Zisserman's D, without its head


def test_the_older_loader_gives_one_hot_masks_of_the_right_classes():
    data = datasets.load_dataset("meadow")
    sample = data.split("val")[0]
    photo, one_hot = bench_peers.older_pair(sample, data)
    image, mask = data.read(sample)
    assert photo.shape == (256, 256, 3) and one_hot.shape == (256, 256, data.num_classes)
    assert (one_hot.argmax(axis=2)[mask != VOID] == mask[mask != VOID]).all()
    assert (one_hot.sum(axis=2) == (mask != VOID)).all()
    restored = photo * bench_peers.SPREAD + bench_peers.MEAN
    np.testing.assert_allclose(restored, image / 255, atol=1e-5)  # meadow's scenes have that size


def test_both_sides_of_labelling_give_the_same_labels(monkeypatch):
    labels = []

    def take_turns(repeats, *sides):
        labels.extend(side() for side in sides)
        return [2.0], [8.0]

    monkeypatch.setattr(bench_sections, "take_turns", take_turns)
    found, = bench_sections.label(argparse.Namespace(repeats=1))
    assert found["ratio"] == 4 and len(labels[0]) == len(labels[1]) > 1
    assert np.mean(labels[0][0] == labels[1][0]) > 0.999 and len(np.unique(labels[0][0])) > 1


def test_the_older_score_is_the_frequency_weighted_iou():
    rng = np.random.default_rng(0)
    truth, prediction = rng.integers(0, 4, (2, 3, 20, 20))
    classes = np.arange(4)
    expected = metrics.scores(metrics.confusion_matrix(truth, prediction, 4))["frequency_weighted_iou"]
    found = bench_peers.older_scores(truth[..., None] == classes, prediction[..., None] == classes)
    assert found == pytest.approx(expected)


def test_the_naive_network_normalizes_every_convolution():
    import keras

    kinds = [type(layer) for layer in bench_peers.naive_network(3).layers if layer.weights and layer.name != "score"]
    assert kinds.count(keras.layers.Conv2D) == kinds.count(keras.layers.BatchNormalization) == len(kinds) / 2
