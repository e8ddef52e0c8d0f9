"""The benchmark's arithmetic, and that both of its sides do the same work."""

import argparse
import dataclasses
import json

import numpy as np
import pytest

from dev import bench
from dev.bench import beside
from dev.bench import sections as bench_sections
from utils import datasets, training


def test_rows_hold_medians_ratios_and_verdicts():
    faster = bench.row("a", "s", [1.0, 4.0, 2.0], [9.0, 6.0, 3.0], "ratio >= 3")
    assert ((faster["ours"], faster["baseline"], faster["ratio"], faster["met"])
            == (2.0, 6.0, 3.0, True))
    assert faster["ours_range"] == [1.0, 4.0] and faster["baseline_range"] == [3.0, 9.0]
    more = bench.row("b", "images/s", [400.0], [100.0], ">= 500", "higher")
    assert more["ratio"] == 4.0 and more["met"] is False
    alone = bench.row("c", "s", [0.2], target="<= 0.3")
    assert alone["ratio"] is None and alone["baseline"] is None and alone["met"] is True
    assert bench.row("d", "s", [1.0])["met"] is None
    assert all("met" in bench.line(found) or "missed" in bench.line(found)
               for found in (faster, more, alone))


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
    file.write_text(json.dumps([{"section": "scores", **bench.row("old", "s", [1.0])}, kept]),
                    encoding="utf-8")
    assert bench.main(["scores", "--repeats", "1", "--out", str(file)]) == 0
    rows = json.loads(file.read_text(encoding="utf-8"))
    assert rows[-1] == kept and "old" not in [row["name"] for row in rows]
    for row in rows[:-1]:
        assert {"name", "unit", "ours", "baseline", "ratio", "target", "machine"} <= row.keys()
        assert row["machine"]["cores"] >= 1 and row["ours"] > 0


def test_each_section_has_a_process_of_its_own_and_one_that_fails_stops_no_other(
        monkeypatch, capsys):
    calls = []

    def run(command):
        calls.append(command)
        return argparse.Namespace(returncode="label" in command)

    monkeypatch.setattr(bench.subprocess, "run", run)
    assert bench.main(["scores", "label", "whole", "--repeats", "2", "--out", "there.json"]) == 1
    assert [command[3] for command in calls] == ["scores", "label", "whole"]
    assert all(command[-2:] == ["--out", "there.json"] and command[4:6] == ["--repeats", "2"]
               for command in calls)
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
    total, _ = bench_sections.flops(bench_sections.network("vgg16", 3, fc_kernel=1,
                                                           fc_width=8), 224)
    # multiply-adds of Simonyan & Zisserman's D, without its head
    assert total == pytest.approx(2 * 15.35e9, rel=0.01)


def test_both_sides_of_labelling_give_the_same_labels(monkeypatch):
    labels = []

    def take_turns(repeats, *sides):
        labels.extend(side() for side in sides)
        return [2.0], [8.0]

    monkeypatch.setattr(bench_sections, "take_turns", take_turns)
    found, = bench_sections.label(argparse.Namespace(repeats=1))
    assert found["ratio"] == 4 and len(labels[0]) == len(labels[1]) > 1
    assert np.mean(labels[0][0] == labels[1][0]) > 0.999 and len(np.unique(labels[0][0])) > 1


def test_the_better_precision_counts_beside_the_kits(monkeypatch):
    """Seconds that a clock and a kit tell: FCN-8s gets quicker, kits are slower in bfloat16."""
    ticks = iter(range(1000))
    monkeypatch.setattr(beside.time, "perf_counter", lambda: next(ticks))
    monkeypatch.setattr(bench_sections, "network", lambda *_: FakeModel())
    monkeypatch.setattr(training, "compile_model", lambda *_, **__: None)

    def ask(do, name, precision, times, **_):
        assert do == "time_steps"
        return [beside.KITS.index(name) + (2 if precision == "bfloat16" else 1)] * times

    ours, theirs = beside._time_steps(ask, repeats=3)
    assert ours.keys() == {32, 8} and [len(values) for values in ours.values()] == [3, 3]
    assert ours[8] == [1000 / beside.TIMED / 4] * 3
    assert theirs == {name: [1000 * (i + 1) / 4] * 3 for i, name in enumerate(beside.KITS)}


class FakeModel:
    def train_on_batch(self, photos, masks):
        assert photos.shape == (*masks.shape, 3) == (4, 192, 192, 3)


def test_kits_get_the_pairs_of_train_and_val(tmp_path):
    data = datasets.load_dataset("meadow")
    data = dataclasses.replace(data,
                               splits={name: data.splits[name][:3] for name in ("train", "val")})
    arrays = np.load(beside._as_arrays(data, tmp_path / "pairs.npz"))
    photo, mask = data.read(data.split("val")[2])
    assert (np.array_equal(arrays["val_photos"][2], photo)
            and np.array_equal(arrays["val_masks"][2], mask))
    assert arrays["photos"].shape == (3, 256, 256, 3) and arrays["classes"] == 8
