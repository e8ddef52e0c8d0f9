"""Train on several devices what notebook 03 trains on one, into the same run folder.

The environment variables FCN_DEVICES, or FCN_PROCESSES, FCN_PROCESS and FCN_COORDINATOR choose
the devices (see tools/scale/__init__.py). Afterwards the runner, given the same parameters, finds
the training finished.
"""

import argparse
import os
import sys
from pathlib import Path

from utils import runs

EXAMPLES = """examples:
  FCN_DEVICES=all python -m tools.scale meadow --batch-size 16 --name wide
  python -m tools.run -p batch_size 16 --name wide         finds the training finished"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.scale", description=__doc__, epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", metavar="DATASET", help="meadow, another name, or voc")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--name", help="run folder results/runs/NAME; else the data set's name")
    where.add_argument("--run-dir", metavar="DIR", help="run folder anywhere")
    for name, default in runs.DEFAULTS.items():  # the parameters of notebook 03
        if name != "dataset":
            parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default,
                                help="as the notebooks' parameter")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code: 0 done, 1 failed or refused, 130 interrupted."""
    options = _parser().parse_args(argv)
    from tools import scale
    from utils import datasets, models

    weights = options.weights
    if Path(weights).is_file():
        weights = os.path.abspath(weights)  # as the runner hands it to notebook 03
    run_dir = options.run_dir or (not options.name and os.environ.get("FCN_RUN_DIR"))
    run_dir = run_dir or runs.ROOT / "results" / "runs" / (options.name or options.dataset)
    try:
        scale.join()
        data = datasets.load_dataset(options.dataset, options.data_dir)
        recipe = data.recipe.override(
            image_size=options.image_size, batch_size=options.batch_size, epochs=options.epochs,
            learning_rate=options.learning_rate, stride=options.stride,
            backbone=options.backbone or models.backbone_for(weights),
            class_weights=options.class_weights, optimizer=options.optimizer)
        trained = scale.train(
            data, recipe, run_dir, weights=weights or None, upsampling=options.upsampling,
            precision=options.precision, seed=options.seed)
    except (OSError, RuntimeError, ValueError, FloatingPointError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted. The same command resumes at the last finished epoch.",
              file=sys.stderr)
        return 130
    if scale.processes_together()[0] == 0:
        print(f"{len(trained.history)} epochs in {trained.seconds:.0f} s on "
              f"{scale.count_devices()} devices: {trained.path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
