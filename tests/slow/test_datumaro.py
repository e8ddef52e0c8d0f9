"""What datumaro and supervision write is read; they are installed into their own environment."""

import subprocess
import sys

import cv2
import numpy as np
import pytest

from tools.convert import convert
from utils.datasets import load_dataset

pytestmark = pytest.mark.slow
NAMES = ("background", "road", "cow", "sheep")
# Writes exports below argv[1], and truth.npz: photo -> its mask as pycocotools draws it in two
# orders, and as
# datumaro draws masks.
WRITER = """
import sys
from pathlib import Path
import datumaro as dm
import numpy as np
import supervision
from datumaro.components.annotation import Mask, MaskCategories, Polygon
from pycocotools import mask as rle

out, rng, names = Path(sys.argv[1]), np.random.default_rng(0), sys.argv[2].split(",")
size = height, width = 120, 160
truth, items, photos, detected = {}, [], {}, {}
for number in range(6):
    name = f"cam_{number}"
    photos[name] = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    y, x = np.mgrid[:height, :width]
    objects = []
    for order in range(4):
        label = 1 + (order + number) % 3
        cx, cy, radius = rng.uniform(30, 130), rng.uniform(30, 90), 12 + 9 * (3 - order)
        angles = np.sort(rng.uniform(0, 2 * np.pi, 9))
        points = np.stack([cx + radius * np.cos(angles), cy + radius * np.sin(angles)], axis=1)
        points = [points.round(2).ravel().tolist()]
        given = {"label": label, "z_order": 3 - order, "id": order + 1, "group": order + 1}
        if order % 2:
            right, down = abs(x - cx), abs(y - cy)
            bits = (right < radius) & (down < radius / 2) & ~((right < 3) & (down < 4))
            shape = Mask(bits, **given)
        else:
            bits = rle.decode(rle.merge(rle.frPyObjects(points, *size))) > 0
            shape = Polygon(*points, **given)
        objects.append((label, shape, bits))
    by_area, by_depth = np.zeros(size, np.uint8), np.zeros(size, np.uint8)
    area = lambda one: one[1].get_area() if isinstance(one[1], Polygon) else one[2].sum()
    for label, _, bits in sorted(objects, key=area, reverse=True):
        by_area[bits] = label
    for label, _, bits in objects[::-1]:
        by_depth[bits] = label
    truth[f"{name}/area"], truth[f"{name}/depth"] = by_area, by_depth
    labels, shapes, bits = zip(*objects)
    bits = np.stack(bits)
    detected[name] = supervision.Detections(xyxy=supervision.mask_to_xyxy(bits), mask=bits,
                                            class_id=np.array(labels))
    items.append(dm.DatasetItem(name, subset=["train", "val"][number % 2], annotations=[*shapes],
                                media=dm.Image.from_numpy(photos[name])))
colors = MaskCategories({i: ((i * 40) % 256, 50 * bool(i), 0) for i in range(len(names))})
data = dm.Dataset.from_iterable(items, categories=names, media_type=dm.Image)
data.export(str(out / "coco"), "coco_instances", save_media=True)
data.export(str(out / "cvat"), "cvat", save_media=True)
data.categories()[dm.AnnotationType.mask] = colors
masks = data.transform("polygons_to_masks").transform("merge_instance_segments")
for item in masks:
    merged = truth[f"{item.id}/masks"] = np.zeros(size, np.uint8)
    for one in sorted(item.annotations, key=lambda one: one.z_order):
        merged[one.image > 0] = one.label
np.savez(out / "truth.npz", **truth)
for name in ("voc_segmentation", "camvid", "cityscapes"):
    masks.export(str(out / name), name, save_media=True)
listed = supervision.DetectionDataset(
    classes=names, images={f"{name}.png": photo for name, photo in photos.items()},
    annotations={f"{name}.png": one for name, one in detected.items()})
yolo, coco = out / "yolo", out / "coco_of_supervision"
listed.as_yolo(f"{yolo}/train/images", f"{yolo}/train/labels", f"{yolo}/data.yaml")
listed.as_coco(str(coco), str(coco / "annotations.json"))
"""


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """The folder with all exports; skips where the packages cannot be installed."""
    folder = tmp_path_factory.mktemp("datumaro")
    python = folder / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "uv", "venv", "--quiet", "--python", sys.executable,
                    folder / "venv"], check=True)
    install = ["uv", "pip", "install", "--quiet", "--python", python, "datumaro>=1.10,<2",
               "supervision>=0.25,<1"]
    done = subprocess.run([sys.executable, "-m", *install], capture_output=True,
                          text=True, check=False)
    if done.returncode:
        pytest.skip(f"datumaro cannot be installed: {done.stderr[-300:]}")
    subprocess.run([python, "-c", WRITER, folder, ",".join(NAMES)], check=True)
    return folder


def differing(exports, name, order, tmp_path):
    """Convert an export; return the share of wrong pixels, and how many lie off the borders."""
    convert(exports / name, tmp_path / "target")
    dataset, count, far, pixels = load_dataset("voc", tmp_path / "target"), 0, 0, 0
    assert dataset.class_names == NAMES
    truth = np.load(exports / "truth.npz")
    samples = [sample for split in dataset.splits.values() for sample in split]
    assert len(samples) == 6
    for sample in samples:
        stem = sample[1].stem
        expected = truth[f"{stem[stem.index('cam_'):].split('_left')[0]}/{order}"]
        mask = dataset.read(sample)[1]
        near = cv2.morphologyEx(expected, cv2.MORPH_GRADIENT, np.ones((5, 5), np.uint8)) > 0
        wrong = mask != expected
        count, far, pixels = count + wrong.sum(), far + (wrong & ~near).sum(), pixels + wrong.size
    print(f"{name}: {count} of {pixels} pixels differ, {far} of them off the borders")
    return count / pixels, far


@pytest.mark.parametrize("name", ["voc_segmentation", "camvid", "cityscapes"])
def test_masks_of_datumaro_are_read_to_the_pixel(exports, tmp_path, name):
    assert differing(exports, name, "masks", tmp_path) == (0, 0)


@pytest.mark.parametrize("name, order", [("coco", "area"), ("cvat", "depth"), ("yolo", "area"),
                                         ("coco_of_supervision", "area")])
def test_outlines_differ_at_their_borders_only(exports, tmp_path, name, order):
    """labelme's drawing has the outline inside; pycocotools' has half of it."""
    share, far = differing(exports, name, order, tmp_path)
    assert share < 0.03 and far == 0
