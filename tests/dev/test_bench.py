"""The benchmark's arithmetic, and that both of its sides do the same work."""

import argparse
import json

import numpy as np
import pytest

from dev import bench


def test_rows_hold_medians_and_ratios():
    faster = bench.row("a", "s", [1.0, 4.0, 2.0], [9.0, 6.0, 3.0])
    assert (faster["ours"], faster["baseline"], faster["ratio"]) == (2.0, 6.0, 3.0)
    assert faster["ours_range"] == [1.0, 4.0] and faster["baseline_range"] == [3.0, 9.0]
    more = bench.row("b", "images/s", [400.0], [100.0], "higher")
    assert more["ratio"] == 4.0 and "400 (400 to 400) images/s" in bench.line(more)
    alone = bench.row("c", "s", [0.2])
    assert alone["ratio"] is None and alone["baseline"] is None
    assert all(text in bench.line(faster) for text in ("2 (1 to 4) s", "6", "3x"))


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
        assert {"name", "unit", "ours", "baseline", "ratio", "machine"} <= row.keys()
        assert row["machine"]["cores"] >= 1 and row["ours"] > 0


def test_each_section_has_a_process_of_its_own_and_one_that_fails_stops_no_other(monkeypatch):
    calls = []

    def run(command):
        calls.append(command)
        return argparse.Namespace(returncode=-9 if "label" in command else 0)

    monkeypatch.setattr(bench.subprocess, "run", run)
    assert bench.main(["scores", "label", "whole", "--repeats", "2", "--out", "there.json"]) == 1
    assert [command[3] for command in calls] == ["scores", "label", "whole"]
    assert all(command[4:] == ["--repeats", "2", "--out", "there.json"] for command in calls)


def test_both_sides_of_labelling_give_the_same_labels(monkeypatch):
    labels = []

    def take_turns(repeats, *sides):
        labels.extend(side() for side in sides)
        return [2.0], [8.0]

    monkeypatch.setattr(bench, "take_turns", take_turns)
    found, = bench.label(argparse.Namespace(repeats=1))
    assert found["ratio"] == 4 and len(labels[0]) == len(labels[1]) > 1
    assert np.mean(labels[0][0] == labels[1][0]) > 0.999 and len(np.unique(labels[0][0])) > 1
