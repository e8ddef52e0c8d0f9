"""Train once, as one side of `dev.bench`, and print a line of JSON after each scored epoch.

A line holds the seconds since the process was started, the epoch, and mean IoU on val, over whole photos at the masks'
own size. Ends at the last target, at the time limit, or with the schedule.
"""

import argparse
import dataclasses
import json
import sys
import time

import cv2
import keras
import numpy as np
import tensorflow as tf

from dev.bench import peers as bench_peers
from tools import fetch
from utils import datasets, metrics, models, pipeline, training


class Report(keras.callbacks.Callback):
    """Print a line after every `every`-th epoch, and end the training when there is no more to see."""

    def __init__(self, begun, score, every, target, limit):
        super().__init__()
        self.begun, self.score, self.every, self.target, self.limit = begun, score, every, target, limit

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.every == 0 or epoch + 1 == self.params["epochs"]:
            score = float(self.score(logs))
            print(json.dumps({"seconds": round(time.time() - self.begun, 1), "epoch": epoch + 1,
                              "mean_iou": round(score, 4)}), flush=True)
            self.model.stop_training = score >= self.target
        self.model.stop_training |= time.time() - self.begun > self.limit


def train(data, stride, seed, report, **changes):
    """Train as `utils.training.train` does, with the data set's recipe, or some of it changed."""
    recipe = dataclasses.replace(data.recipe, **changes)
    pairs = {split: pipeline.DecodedPairs(data.split(split), data.read) for split in ("train", "val")}
    steps = -(-len(pairs["train"]) // recipe.batch_size)
    model = models.fcn(data.num_classes, stride, recipe.backbone, precision=training.resolve_precision())
    weights = training.class_weights(recipe.class_weights, pairs["train"], data.num_classes)
    training.compile_model(model, data.num_classes, recipe.learning_rate, steps * recipe.epochs, weights,
                           recipe.optimizer)
    fit(model, pairs, recipe, recipe.epochs, seed, report)


def train_with_adam(data, stride, seed, report):
    """Train as `train` does, but with Adam and twice as many epochs, after which it still scores less."""
    train(data, stride, seed, report, optimizer="adam", epochs=2 * data.recipe.epochs)


def train_naively(data, stride, seed, report):
    """Train as `bench_peers` describes: on the same crops, for as long as it takes."""
    pairs = {split: bench_peers.UncachedPairs(data.split(split), data.read) for split in ("train", "val")}
    model = bench_peers.naive_network(data.num_classes, stride)
    model.compile(model.optimizer, model.loss, metrics=[training.Scores(data.num_classes)])
    fit(model, pairs, data.recipe, 100 * data.recipe.epochs, seed, report)


def fit(model, pairs, recipe, epochs, seed, report):
    batches = pipeline.batches(pairs["train"], image_size=recipe.image_size, batch_size=recipe.batch_size, augment=True,
                               shuffle=True, seed=seed, scale=recipe.scale, epochs=epochs)
    model.fit(batches, steps_per_epoch=-(-len(pairs["train"]) // recipe.batch_size), epochs=epochs, shuffle=False,
              validation_data=pipeline.whole_images(pairs["val"], recipe.batch_size),
              validation_freq=report.every, verbose=0, callbacks=[report])


def train_as_older(data, stride, seed, report):
    """Train the older tutorial's network, for as long as it takes; its stride is always 32."""
    train_samples, val_samples = data.split("train"), data.split("val")
    model = bench_peers.older_network(data.num_classes)

    def load():
        rng = np.random.default_rng(seed)
        while True:
            for i in rng.permutation(len(train_samples)):
                yield bench_peers.older_pair(train_samples[i], data)

    def score(logs):
        confusion = 0
        for sample in val_samples:
            image, mask = data.read(sample)
            ids = model(bench_peers.squashed(image)[None], training=False)[0].numpy().argmax(axis=2).astype(np.uint8)
            ids = cv2.resize(ids, mask.shape[::-1], interpolation=cv2.INTER_NEAREST)
            confusion += metrics.confusion_matrix(mask, ids, data.num_classes)
        return metrics.scores(confusion)["mean_iou"]

    side = bench_peers.SIDE
    signature = (tf.TensorSpec((side, side, 3)), tf.TensorSpec((side, side, data.num_classes)))
    batches = tf.data.Dataset.from_generator(load, output_signature=signature).batch(bench_peers.BATCH).prefetch(1)
    report.score, report.every = score, 1
    model.fit(batches, steps_per_epoch=-(-len(train_samples) // bench_peers.BATCH), epochs=10_000, verbose=0,
              callbacks=[report])


SIDES = {"ours": train, "adam": train_with_adam, "naive": train_naively, "older": train_as_older}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m dev.bench.score", description=__doc__)
    parser.add_argument("side", choices=list(SIDES))
    parser.add_argument("--dataset", default="meadow", help="default: meadow")
    parser.add_argument("--data-dir", default="", help="where the data set lies")
    parser.add_argument("--stride", type=int, default=32, help="default: 32")
    parser.add_argument("--target", type=float, default=1.0, help="the mean IoU to stop at")
    parser.add_argument("--limit", type=float, default=600, help="the seconds to stop after (default 600)")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument("--begun", type=float, default=time.time(), help="when the process began, in Unix seconds")
    options = parser.parse_args(argv)
    keras.utils.set_random_seed(options.seed)
    data_dir = fetch.ensure(options.dataset, options.data_dir)
    data = datasets.load_dataset(options.dataset, data_dir)
    every = min(data.recipe.validate_every, 5)
    report = Report(options.begun, lambda logs: logs["val_mean_iou"], every, options.target, options.limit)
    SIDES[options.side](data, options.stride, options.seed, report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
