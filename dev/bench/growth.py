"""Measure how seconds and memory grow with image size, batch and number of images: results/growth.json and growth.png.

Each measurement trains the small network on meadow's scenes, enlarged to 500x375 and streamed from disk, in a process
of its own; it keeps the smallest seconds of its repeats, which other work on the machine disturbs least. A slope is
that of log(cost) over log(size), from the second value on: 1 where twice as much costs twice as much.
"""

import argparse
import json
import resource
import subprocess
import sys
import time

from utils import runs

RESULTS = runs.ROOT / "results"
FIXED = {"image_size": 192, "batch_size": 4, "images": 100}
# What is varied: its values, what else differs from FIXED, the expected slopes of seconds and of memory, and what the
# seconds are for.
AXES = {
    "image_size": ("side of the crops in pixels", (128, 192, 256, 384, 512), {}, (2, 2), "per step"),
    "batch_size": ("crops per step", (2, 4, 8, 16, 32), {}, (1, 1), "per step"),
    "images": ("photos, each once", (100, 200, 400, 800, 1600), {"image_size": 64, "batch_size": 10}, (1, 0),
               "per epoch"),
}
STEPS = 12


def measure(axis: str, image_size: int, batch_size: int, images: int) -> dict[str, float]:
    """Return the seconds of a step, or of an epoch where `axis` is images, and the peak memory in MB above the start's."""
    import cv2
    import numpy as np

    from utils import datasets, models, pipeline, training

    data = datasets.load_dataset("meadow")
    samples = (data.split("train") * 10)[:images]

    def read(sample):
        image, mask = data.read(sample)
        return cv2.resize(image, (500, 375)), cv2.resize(mask, (500, 375), interpolation=cv2.INTER_NEAREST)

    model = models.fcn(data.num_classes, backbone="vgg_small")
    training.compile_model(model, data.num_classes, 1e-3, 1000)
    before = peak_memory()
    pairs = pipeline.DecodedPairs(samples, read, memory_limit=0)
    batches = pipeline.batches(pairs, image_size=image_size, batch_size=batch_size, augment=True, shuffle=True,
                               epochs=10)
    start, steps = time.perf_counter(), []
    for photos, masks in batches.take(STEPS if axis != "images" else images // batch_size):
        model.train_on_batch(photos, masks)
        steps.append(time.perf_counter() - start)
        start = time.perf_counter()
    # The first step also builds the graph.
    seconds = np.median(steps[2:]) * (len(steps) if axis == "images" else 1)
    return {"seconds": float(seconds), "memory": peak_memory() - before}


def peak_memory() -> float:
    """Return the most memory in MB that this process has held."""
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def slope(sizes: tuple[int, ...], costs: list[float]) -> float:
    """Return the slope of log(cost) over log(size), by least squares."""
    import numpy as np

    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])


def figure(axes: dict[str, dict]):
    """Return the figure: seconds above, memory below, a column for each axis, with the expected slope dashed."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(10, 5.4), layout="constrained")
    panels = drawn.subplots(2, len(axes), squeeze=False)
    for column, found in enumerate(axes.values()):
        for panel, cost, unit in zip(panels[:, column], ("seconds", "memory"), (f" {found['per']}", " in MB")):
            values, costs, expected = found["values"], found[cost], found["expected"][cost]
            panel.loglog(values, costs, "o-", label=f"measured: slope {found['slope'][cost]:.2f}")
            panel.loglog(values, [costs[-1] * (value / values[-1]) ** expected for value in values], "--", color="0.5",
                         label=f"expected: slope {expected}")
            panel.set(xlabel=found["label"], ylabel=f"{cost}{unit}", ylim=(min(costs) / 2, max(costs) * 4))
            panel.set_xticks(values, values)
            panel.minorticks_off()
            panel.legend(fontsize="small", loc="upper left")
    return drawn


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m dev.bench.growth", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=2, help="of each measurement (default 2)")
    parser.add_argument("--one", nargs=4, metavar=("AXIS", "SIZE", "BATCH", "IMAGES"), help="one measurement, as JSON")
    options = parser.parse_args(argv)
    if options.one:
        print(json.dumps(measure(options.one[0], *map(int, options.one[1:]))))
        return 0
    axes = {}
    for axis, (label, values, others, expected, per) in AXES.items():
        rows = []
        for value in values:
            given = {**FIXED, **others, axis: value}
            command = [sys.executable, "-m", "dev.bench.growth", "--one", axis, *map(str, given.values())]
            said = [subprocess.run(command, cwd=runs.ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
                    for _ in range(options.repeats)]
            found = [json.loads(text) for text in said]
            rows.append({cost: min(one[cost] for one in found) for cost in ("seconds", "memory")})
            print(f"{axis} {value}: {rows[-1]['seconds']:.3f} s, {rows[-1]['memory']:.0f} MB", flush=True)
        costs = {cost: [row[cost] for row in rows] for cost in ("seconds", "memory")}
        axes[axis] = {"label": label, "per": per, "values": values, **costs, "fixed": {**FIXED, **others},
                      "expected": dict(zip(costs, expected)),
                      "slope": {cost: slope(values[1:], costs[cost][1:]) for cost in costs}}
    runs.write_json(RESULTS / "growth.json", {"axes": axes, "machine": runs.machine(), "versions": runs.versions()})
    figure(axes).savefig(RESULTS / "growth.png", dpi=100)
    print("wrote results/growth.json and results/growth.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
