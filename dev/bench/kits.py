"""Networks of segmentation_models_pytorch, trained as its users would, for `dev.bench kits`.

Runs in an environment of its own: torch, torchvision, segmentation-models-pytorch. It answers each
line of JSON on its input by one on its output. All networks start from random weights.
"""

import json
import sys
import time

import numpy as np
import segmentation_models_pytorch as smp
import torch

NETWORKS = {"Unet, mobilenet_v2": (smp.Unet, "mobilenet_v2"),
            "FPN, mobilenet_v2": (smp.FPN, "mobilenet_v2"),
            "FPN, resnet18": (smp.FPN, "resnet18"),
            "Segformer, mit_b0": (smp.Segformer, "mit_b0"),
            "DeepLabV3Plus, mobilenet_v2": (smp.DeepLabV3Plus, "mobilenet_v2")}
VOID = 255
MEAN, SPREAD = (torch.tensor(values).view(1, 3, 1, 1) for values in
                ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)))


def build(name, classes):
    """Return (network, optimiser): channels last, Adam 1e-3."""
    torch.manual_seed(0)
    kind, encoder = NETWORKS[name]
    network = kind(encoder, encoder_weights=None, classes=classes)
    network = network.to(memory_format=torch.channels_last).train()
    return network, torch.optim.Adam(network.parameters(), 1e-3)


def step(network, optimizer, photos, masks, precision):
    """Make one training step on uint8 photos (B, H, W, 3) and masks (B, H, W); return the loss."""
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        logits = network(prepared(photos))
    loss = torch.nn.functional.cross_entropy(logits.float(), torch.from_numpy(masks).long(),
                                             ignore_index=VOID)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def prepared(photos):
    pixels = torch.from_numpy(np.ascontiguousarray(photos)).permute(0, 3, 1, 2).float()
    return ((pixels - MEAN) / SPREAD).contiguous(memory_format=torch.channels_last)


def crops(photos, masks, chosen, side, rng):
    """Return random crops of the chosen pairs, half of them mirrored."""
    made = []
    for i in chosen:
        height, width = masks[i].shape
        y, x = rng.integers(0, height - side + 1), rng.integers(0, width - side + 1)
        turn = slice(None, None, rng.choice((1, -1)))
        made.append([part[i][y:y + side, x:x + side][:, turn] for part in (photos, masks)])
    return [np.stack(part) for part in zip(*made)]


def mean_iou(network, photos, masks, classes):
    """Return the mean IoU over whole photos, padded to sides that 32 divides."""
    network.eval()
    confusion = np.zeros((classes, classes), np.int64)
    with torch.inference_mode():
        for photo, mask in zip(photos, masks):
            height, width = mask.shape
            padded = np.pad(photo, ((0, -height % 32), (0, -width % 32), (0, 0)), mode="edge")
            labels = network(prepared(padded[None])).argmax(1)[0, :height, :width].numpy()
            known = mask != VOID
            pairs = mask[known].astype(int) * classes + labels[known]
            confusion += np.bincount(pairs, minlength=classes ** 2).reshape(classes, classes)
    network.train()
    right, sums = np.diag(confusion), confusion.sum(0) + confusion.sum(1)
    return float((right / (sums - right))[sums > 0].mean())


def time_steps(name, precision, side, batch, classes, times):
    """Return the seconds of each of `times` steps, after two that are not counted."""
    rng = np.random.default_rng(0)
    photos = rng.integers(0, 256, (batch, side, side, 3)).astype(np.uint8)
    masks = rng.integers(0, classes, (batch, side, side)).astype(np.uint8)
    network, optimizer = build(name, classes)
    seconds = []
    for _ in range(times + 2):
        start = time.perf_counter()
        step(network, optimizer, photos, masks, precision)
        seconds.append(time.perf_counter() - start)
    return seconds[2:]


def train(name, precision, data, side, batch, epochs, target):
    """Train until val has a mean IoU of `target`; return [steps, mean IoU] after each epoch."""
    arrays = np.load(data)
    photos, masks, val_photos, val_masks = (arrays[key] for key in
                                            ("photos", "masks", "val_photos", "val_masks"))
    classes, rng, curve, steps = int(arrays["classes"]), np.random.default_rng(0), [], 0
    network, optimizer = build(name, classes)
    for _ in range(epochs):
        order = rng.permutation(len(photos))
        for start in range(0, len(order) - batch + 1, batch):
            pair = crops(photos, masks, order[start:start + batch], side, rng)
            step(network, optimizer, *pair, precision)
            steps += 1
        curve.append([steps, mean_iou(network, val_photos, val_masks, classes)])
        print(name, curve[-1], file=sys.stderr, flush=True)
        if curve[-1][1] >= target:
            break
    return curve


if __name__ == "__main__":
    for line in sys.stdin:
        order = json.loads(line)
        answer = {"time_steps": time_steps, "train": train}[order.pop("do")](**order)
        print(json.dumps(answer), flush=True)
