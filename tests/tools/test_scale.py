"""Training on several devices: shares of batches, environment variables, the command."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tools import scale
from tools.scale.__main__ import main
from utils import pipeline, runs, training
from utils.datasets import load_dataset

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("processes, devices", [(2, 2), (2, 4), (3, 3)])
def test_shares_together_are_the_batches_of_one_process(shared_voc, processes, devices):
    pairs = pipeline.DecodedPairs(load_dataset("voc", shared_voc).split("train"))
    given = dict(image_size=32, batch_size=3 if devices == 3 else 4, augment=True, shuffle=True,
                 seed=1, epochs=2,
                 multiple_of=devices)
    parts = [pipeline.batches(pairs, **given, share=lambda batch,
                              i=i: scale.part(batch, i, processes))
             for i in range(processes)]
    parts = [part.as_numpy_iterator() for part in parts]
    for (images, masks), *shares in zip(pipeline.batches(pairs, **given).as_numpy_iterator(),
                                        *parts, strict=True):
        assert len({len(share[0]) for share in shares}) == 1
        assert (np.concatenate([share[0] for share in shares]) == images).all()
        assert (np.concatenate([share[1] for share in shares]) == masks).all()


@pytest.mark.parametrize(
    "variables, message",
    [
        ({"FCN_PROCESSES": "two"}, "FCN_PROCESSES is 'two'"),
        ({"FCN_PROCESSES": "2"}, "FCN_PROCESS is ''"),
        ({"FCN_PROCESSES": "2", "FCN_PROCESS": "2"}, "FCN_PROCESS is 2; .* 0 to 1"),
        ({"FCN_PROCESSES": "2", "FCN_PROCESS": "1", "FCN_COORDINATOR": "host"},
         "'host'; expected host:port"),
        ({"FCN_PROCESSES": "2", "FCN_PROCESS": "1", "FCN_COORDINATOR": "host:http"},
         "'host:http'; expected host:port"),
        ({"FCN_PROCESSES": "0"}, "FCN_PROCESSES is '0'"),
        ({"FCN_PROCESSES": "2", "FCN_PROCESS": "1", "FCN_COORDINATOR": "h:1"}, "KERAS_BACKEND=jax"),
    ],
)
def test_faulty_variables_are_named(monkeypatch, variables, message):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        scale.join()


def test_a_mistyped_choice_of_devices_is_named(monkeypatch):
    monkeypatch.setenv("FCN_DEVICES", "al")
    with pytest.raises(ValueError, match="FCN_DEVICES is 'al'"):
        scale.count_devices()


@pytest.mark.parametrize("devices, count", [("", 1), ("one", 1), ("all", 3)])
def test_batches_are_shared_by_the_devices_that_are_chosen(monkeypatch, devices, count):
    monkeypatch.setenv("FCN_DEVICES", devices)
    monkeypatch.setattr(scale.tf.config, "list_logical_devices", lambda kind: [kind] * 3)
    assert scale.count_devices() == count


GIVEN = {"image_size": 96, "batch_size": 6, "epochs": 7, "learning_rate": 0.02, "stride": 16,
         "backbone": "vgg_small", "class_weights": "median", "optimizer": "adam"}


def test_every_option_reaches_the_training(shared_voc, tmp_path, monkeypatch, capsys):
    called = []
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vgg.h5").touch()
    monkeypatch.setattr(scale, "train", lambda *given, **options: called.append((given, options))
                        or SimpleNamespace(history=[], seconds=0, path=tmp_path))
    options = GIVEN | {"upsampling": "deconv", "precision": "float32", "seed": 5,
                       "weights": "vgg.h5"}
    command = ["voc", "--data-dir", str(shared_voc), "--run-dir", str(tmp_path)]
    command += [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    assert main(command) == 0
    ((data, recipe, folder), rest), = called
    assert data.root == shared_voc and folder == str(tmp_path)
    assert {name: getattr(recipe, name) for name in GIVEN} == GIVEN
    assert rest == {"weights": str(tmp_path / "vgg.h5"), "upsampling": "deconv",
                    "precision": "float32", "seed": 5}
    assert not options.items() & runs.DEFAULTS.items(), "a default would show nothing"
    assert options.keys() | {"dataset", "data_dir"} == runs.DEFAULTS.keys()

    def refuse(*_, **__):
        raise ValueError("state.npz is of another network")

    monkeypatch.setattr(scale, "train", refuse)
    assert main(command) == 1 and "of another network" in capsys.readouterr().err


def test_the_folder_is_that_of_the_runner(tmp_path, monkeypatch):
    called = []
    monkeypatch.setattr(scale, "train", lambda _, recipe, folder, **options: called.append(folder)
                        or SimpleNamespace(history=[], seconds=0, path=tmp_path))
    monkeypatch.setenv("FCN_RUN_DIR", str(tmp_path / "there"))
    assert main(["meadow"]) == main(["meadow", "--name", "a"]) == 0
    monkeypatch.delenv("FCN_RUN_DIR")
    assert main(["meadow"]) == 0
    assert [*map(str, called)] == [str(tmp_path / "there"), str(ROOT / "results" / "runs" / "a"),
                                   str(ROOT / "results" / "runs" / "meadow")]


@pytest.mark.slow
def test_command_trains_what_notebook_03_then_finds_finished(shared_voc, tmp_path):
    """Two devices under JAX; `training.train` finds it as the notebook does."""
    command = [sys.executable, "-m", "tools.scale", "voc", "--data-dir",
               str(shared_voc), "--run-dir",
               str(tmp_path / "run"), "--epochs", "1", "--image-size", "32", "--batch-size", "4",
               "--precision", "float32", "--backbone", "vgg_small", "--stride", "32"]
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu",
                   "FCN_DEVICES": "all",
                   "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
                   "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "on 2 devices" in done.stdout, done.stderr
    data = load_dataset("voc", shared_voc)
    recipe = data.recipe.override(epochs=1, image_size=32, batch_size=4,
                                  backbone="vgg_small", stride=32)
    trained = training.train(data, recipe, tmp_path / "run", precision="float32")
    assert len(trained.history) == 1 and trained.seconds > 0
    refused = subprocess.run([*command, "--seed", "1"], cwd=ROOT, capture_output=True, text=True)
    assert refused.returncode == 1 and "seed was 0 and is now 1" in refused.stderr
