"""Measure what a second process brings to one training (tools/scale, JAX on CPU): results/scaling.json.

Each process has one core and the same number of photos a step. The scaling efficiency is the photos a second of two
processes over twice those of one. On real hosts, start `--worker` on each with the variables of `tools.scale`.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import time
from statistics import median

from utils import runs

FILE = runs.ROOT / "results" / "scaling.json"


def work(photos: int, side: int, steps: int) -> dict[str, float]:
    """Train the small network on noise in this process and those it is joined with; return the medians of a step."""
    import keras
    import numpy as np
    import tensorflow as tf

    from tools import scale
    from utils import models, training

    scale.join()
    rng, times = np.random.default_rng(0), []
    photos *= scale.count_devices() // scale.processes_together()[1]
    images = rng.uniform(0, 255, (photos, side, side, 3)).astype(np.float32)
    masks = rng.integers(0, 8, images.shape[:3]).astype(np.uint8)

    def note(batch, logs):
        float(logs["loss"])  # waits for the step
        times.append((time.perf_counter(), time.process_time()))

    with scale.scope():
        model = models.fcn(8, backbone="vgg_small")
        training.compile_model(model, 8, 1e-3, steps)
        model.fit(tf.data.Dataset.from_tensors((images, masks)).repeat(steps + 3), verbose=0, shuffle=False,
                  callbacks=[keras.callbacks.LambdaCallback(on_train_batch_end=note)])
    seconds, processor = np.median(np.diff(times[2:], axis=0), axis=0)  # the first steps also compile
    return {"seconds": float(seconds), "processor_seconds": float(processor)}


def measure(processes: int, options: argparse.Namespace) -> dict[str, float]:
    """Return `work` of process 0 of so many, each held to a core of its own where the system can do that."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    command = [sys.executable, "-m", "dev.bench.scaling", "--worker", "--photos", str(options.photos), "--side",
               str(options.side), "--steps", str(options.steps)]
    started = []
    for process in range(processes):
        variables = {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"}
        if processes > 1:
            variables |= {"FCN_PROCESSES": str(processes), "FCN_PROCESS": str(process), "FCN_COORDINATOR": address}
        started.append(subprocess.Popen([*command, "--core", str(process)], cwd=runs.ROOT, text=True,
                                        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                        env={**os.environ, **variables}))
    said = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        raise RuntimeError(f"{' '.join(command[1:])} ended with {[process.returncode for process in started]}")
    return json.loads(said[0].splitlines()[-1])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m dev.bench.scaling", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=8, help="per process and step (default 8)")
    parser.add_argument("--side", type=int, default=128, help="of the photos, in pixels (default 128)")
    parser.add_argument("--steps", type=int, default=20, help="of each measurement (default 20)")
    parser.add_argument("--repeats", type=int, default=3, help="by turns (default 3)")
    parser.add_argument("--worker", action="store_true", help="be one of the processes, and print what it measured")
    parser.add_argument("--core", type=int, help="with --worker: the core to keep to")
    options = parser.parse_args(argv)
    if options.worker:
        if options.core is not None and hasattr(os, "sched_setaffinity"):
            cores = sorted(os.sched_getaffinity(0))
            os.sched_setaffinity(0, {cores[options.core % len(cores)]})
        print(json.dumps(work(options.photos, options.side, options.steps)), flush=True)
        return 0
    rows = {1: [], 2: []}
    for _ in range(options.repeats):
        for processes, found in rows.items():
            found.append(measure(processes, options))
            print(f"{processes} process{'es' * (processes > 1)}: {found[-1]['seconds']:.3f} s a step, "
                  f"{found[-1]['processor_seconds']:.3f} s of processor time in each", flush=True)
    steps = {processes: {name: median(row[name] for row in found) for name in found[0]}
             for processes, found in rows.items()}
    efficiency = steps[1]["seconds"] / steps[2]["seconds"]
    print(f"scaling efficiency: {efficiency:.2f}")
    runs.write_json(FILE, {"photos": options.photos, "side": options.side, "step": steps, "efficiency": efficiency,
                           "measurements": rows, "machine": runs.machine(), "versions": runs.versions()})
    return 0


if __name__ == "__main__":
    sys.exit(main())
