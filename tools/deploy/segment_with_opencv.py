"""Label photos and videos with an exported network: needs this file, OpenCV 5 or newer, and numpy.

    python segment_with_opencv.py MODEL.onnx PATH       a photo, a video, or a folder: all below it
Writes a.jpg.overlay.png beside a.jpg, a.mp4.overlay.mp4 beside a.mp4. Exit code 1: some failed.
"""
import sys
from json import loads
from pathlib import Path

import cv2
import numpy as np

PHOTOS = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}
VIDEOS = {".mp4", ".avi", ".mov", ".mkv", ".webm"}


def fields(message, at=0):
    """Yield (number, bytes) of a protobuf message: OpenCV does not tell an ONNX file's metadata."""
    while at < len(message):
        numbers = []  # the key, and what follows it: a number, or how many bytes come
        while len(numbers) < 2:  # each in 7 bits a byte, lowest first, up to a byte below 128
            start, at = at, next(i for i in range(at, len(message)) if message[i] < 128) + 1
            numbers.append(sum((byte & 127) << 7 * i for i, byte in enumerate(message[start:at])))
        if numbers[0] & 7 == 2:
            yield numbers[0] >> 3, message[at:at + numbers[1]]
            at += numbers[1]


def overlay(net, names, colors, image):
    """Return a photo, uint8 (H, W, 3) BGR, with the classes in it laid over, and their names."""
    net.setInput(np.ascontiguousarray(image[None, ..., ::-1], np.float32))  # RGB, 0..255
    labels = net.forward()[0].argmax(axis=2)
    clear = (np.array(names) == "background")[labels][..., None]
    mixed = np.where(clear, image, cv2.addWeighted(image, 0.4, colors[labels], 0.6, 0))
    for y, number in zip(range(0, 18 * len(names), 18), np.unique(labels)):
        mixed[y:y + 18, :120] //= 3  # dark, for the legend
        cv2.rectangle(mixed, (4, y + 3), (16, y + 15), colors[number].tolist(), -1)
        cv2.putText(mixed, names[number], (22, y + 14), cv2.FONT_HERSHEY_SIMPLEX, 0.45, [255] * 3)
    return mixed


def label(path, draw):
    """Write what `draw` makes of a photo, or of every frame of a video."""
    if path.suffix.lower() in PHOTOS:
        image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)  # any name on Windows
        return cv2.imencode(".png", draw(image))[1].tofile(f"{path}.overlay.png")
    clip, out = cv2.VideoCapture(str(path)), cv2.VideoWriter()
    while (frame := clip.read()[1]) is not None:
        if not out.isOpened():
            rate, codec = clip.get(cv2.CAP_PROP_FPS) or 25, cv2.VideoWriter.fourcc(*"mp4v")
            out.open(f"{path}.overlay.mp4", codec, rate, frame.shape[1::-1])
        out.write(draw(frame))
    if not out.isOpened():
        raise OSError("no frames, or no right to write here")


def main(model, given):
    if int(cv2.__version__.split(".")[0]) < 5:
        return f"This is OpenCV {cv2.__version__}; photos of any size need version 5 or newer."
    try:
        about = dict(dict(fields(v)).values() for n, v in fields(model.read_bytes()) if n == 14)
        names, colors = loads(about[b"class_names"]), np.uint8(loads(about[b"colors"]))[:, ::-1]
        net = cv2.dnn.readNetFromONNX(str(model))
    except (OSError, KeyError, ValueError, RuntimeError, cv2.error):
        return f"{model}: expected an ONNX file with class names, as tools.deploy.export writes it."
    found = sorted(given.rglob("*")) if given.is_dir() else [given]
    paths = [p for p in found if p.suffix.lower() in PHOTOS | VIDEOS and ".overlay." not in p.name]
    failed = [] if paths else [given]
    for path in paths:
        print(path, flush=True)
        try:
            label(path, lambda image: overlay(net, names, colors, image))
        except (OSError, TypeError, cv2.error):  # TypeError: OpenCV cannot read it
            failed.append(path)
    return "\n".join(f"{path}: no photo or video that can be read, or no right to write."
                     for path in failed) or None


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])) if len(sys.argv) == 3 else __doc__)
