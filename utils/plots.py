"""Figures: each function returns one, and `show` puts it into a notebook, with alt text.

Pictures are uint8 (H, W, 3) RGB. Class colours are the data set's own, uint8 (C, 3).
"""

import base64
import io
import itertools
import math
import re

import numpy as np
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator
from PIL import Image

from utils.labels import VOID, VOID_COLOR, ids_to_colors

# Okabe & Ito's colours, told apart by colour-blind readers.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#999999"
DPI = 80
LEGEND_COLUMNS = 6


def show(figure, alt, varies=False):
    """Display a figure in a notebook as one picture with alt text.

    The text beside it, which nbval compares and readers do not see, is `digest(figure, varies)`.
    """
    _display(*encode(figure), alt, digest(figure, varies))


def show_frames(frames, alt, seconds=0.8, varies=False):
    """Display uint8 (H, W, 3) pictures of one size as an animation without JavaScript (APNG)."""
    stream, first, *others = io.BytesIO(), *map(Image.fromarray, frames)
    first.save(stream, "PNG", save_all=True, append_images=others, duration=int(1000 * seconds),
               loop=0)
    drawn = "\n".join(_picture(frame, varies) for frame in frames)
    _display(stream.getvalue(), "png", alt, f"{len(frames)} frames of {drawn}")


def _display(data, kind, alt, text):
    from IPython.display import display
    kind, data = f"image/{kind}", base64.b64encode(data).decode("ascii")
    display({kind: data, "text/plain": f"{alt}\n{text}"}, metadata={kind: {"alt": alt}}, raw=True)


def digest(figure, varies=False):
    """Return what a figure draws as text: titles, names, colours, numbers to three digits.

    varies: True if the numbers differ between machines, or the titles and labels of those that do:
    of these, only names, colours and sizes are written, and # for decimals in their titles.
    """
    lines = []
    for axis in figure.axes:
        number = r"\d[\d.,%]*" if varies is True else r"\d+\.\d+"
        hidden = _differs(axis.get_title(), varies)
        title = re.sub(number, "#", axis.get_title()) if hidden else axis.get_title()
        lines.append(" | ".join(["axes", title, axis.get_xlabel(), axis.get_ylabel()]))
        for ticks in (axis.xaxis, axis.yaxis):
            if isinstance(ticks.get_major_locator(), FixedLocator):
                names = [label.get_text() for label in ticks.get_ticklabels()]
                lines.append(f"ticks {', '.join(names)}")
        for picture in axis.get_images():
            lines.append(f"picture {_picture(np.asarray(picture.get_array()), hidden)}")
        for line in axis.get_lines():
            numbers = _numbers(line.get_xydata().T, _differs(line.get_label(), varies))
            lines.append(f"line {line.get_label()} {to_hex(line.get_color())} {numbers}")
        for points in axis.collections:
            colors = " ".join(map(to_hex, points.get_facecolors()))
            lines.append(f"points {colors} {_numbers(points.get_offsets().T, hidden)}")
        for patch in axis.patches:
            box = [patch.get_extents().transformed(axis.transData.inverted()).bounds]
            lines.append(f"box {to_hex(patch.get_facecolor())} {_numbers(box, hidden)}")
        if not hidden:
            lines += ["text {} {:.3g} {:.3g}".format(text.get_text(), *text.get_position())
                      for text in axis.texts]
    legends = [axis.get_legend() for axis in figure.axes if axis.get_legend()]
    for legend in (*figure.legends, *legends):
        for handle, text in zip(legend.legend_handles, legend.get_texts()):
            line = hasattr(handle, "get_color")
            color = handle.get_color() if line else np.ravel(handle.get_facecolor())
            lines.append(f"legend {text.get_text()} {to_hex(color)}")
    return "\n".join(lines)


def _differs(name, varies):
    return varies if isinstance(varies, bool) else name in varies


def _numbers(rows, varies):
    rows = np.round(np.asarray(rows, float), 12) + 0.0  # neither rounding errors nor -0
    if varies:
        return f"{rows.shape[1]} values"
    chosen = np.unique(np.linspace(0, rows.shape[1] - 1, 24).astype(int))
    return " / ".join(" ".join(f"{value:.3g}" for value in row[chosen]) for row in rows)


def _picture(picture, varies):
    size = "×".join(map(str, picture.shape[:2]))
    if varies:
        return size
    pixels = picture.reshape(len(picture) * picture.shape[1], -1)
    values, counts = np.unique(pixels, axis=0, return_counts=True)
    if len(values) > 16:  # a photo, which decoders round differently
        return f"{size}, mean {np.round(values.T @ counts / counts.sum()).astype(int)}"
    place = np.linspace(0, 1, picture.size) @ pixels.ravel().astype(float)  # turned ones differ
    counted = ", ".join(f"{value} ×{count}" for value, count in zip(values.tolist(), counts))
    return f"{size}, {counted}, {place:.0f}"


def encode(figure):
    """Return (bytes, "png" or "jpeg") of a figure: PNG, unless it is large and JPEG is smaller."""
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=DPI, bbox_inches="tight")
    if png.tell() < 100_000:
        return png.getvalue(), "png"
    jpeg = io.BytesIO()
    Image.open(png).convert("RGB").save(jpeg, "JPEG", quality=85, subsampling=0)
    return min((png.getvalue(), "png"), (jpeg.getvalue(), "jpeg"), key=lambda item: len(item[0]))


def overlay(image, ids, colors, opacity=0.6):
    """Lay class colours over a photo: uint8 (H, W, 3). Borders are dark, void stays as it is."""
    mixed = (1.0 - opacity) * image + opacity * ids_to_colors(ids, colors)
    border = np.zeros(ids.shape, bool)
    border[:, 1:] |= ids[:, 1:] != ids[:, :-1]
    border[1:] |= ids[1:] != ids[:-1]
    mixed[border] *= 0.4
    return np.where((ids == VOID)[..., None], image, mixed.round()).astype(np.uint8)


def error_map(truth, prediction):
    """Paint where a prediction is wrong orange, right light grey, void white: uint8 (H, W, 3)."""
    picture = np.full((*truth.shape, 3), 214, np.uint8)
    picture[truth != prediction] = (213, 94, 0)
    picture[truth == VOID] = 255
    return picture


def picture_grid(pictures, titles=(), columns=4, side=2.6, class_names=(), colors=(), void=False):
    """Lay out uint8 (H, W, 3) or (H, W) pictures in rows, with titles and a legend of classes.

    side: width of one picture, in inches. void: whether the legend names void, too.
    """
    if void:
        class_names, colors = [*class_names, "void"], [*colors, VOID_COLOR]
    columns = min(columns, len(pictures))
    rows = math.ceil(len(pictures) / columns)
    height, width = np.shape(pictures[0])[:2]
    row = side * height / width + (0.28 if titles else 0.06)
    legend = 0.26 * math.ceil(len(class_names) / LEGEND_COLUMNS)
    figure = Figure(figsize=(columns * side, rows * row + legend), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.set_axis_off()
    for axis, picture in zip(axes, pictures):
        axis.imshow(picture, cmap="gray", interpolation="nearest")
    for axis, title in zip(axes, titles):
        axis.set_title(title, fontsize=10)
    if len(class_names):
        add_legend(figure, class_names, colors)
    return figure


def comparison(rows, class_names, colors, scores=()):
    """Show photo, truth, prediction and errors side by side, a row per scene.

    rows: list of (image (H, W, 3), truth (H, W), prediction (H, W)). scores: a text for each row.
    """
    pictures, titles = [], []
    for number, (image, truth, prediction) in enumerate(rows):
        pictures += [image, ids_to_colors(truth, colors), ids_to_colors(prediction, colors),
                     error_map(truth, prediction)]
        note = scores[number] if len(scores) else "errors (orange)"
        titles += ["photo", "truth", "prediction", note]
    void = any((truth == VOID).any() for _, truth, _ in rows)
    return picture_grid(pictures, titles, class_names=class_names, colors=colors, void=void)


def curves(series, xlabel, ylabel, x=None):
    """Draw named lines: series is {name: values}; x the positions, by default 1, 2, 3, ..."""
    beside = len(series) > 3  # a longer legend would cover the lines
    figure, axis = _chart((7.6 if beside else 5.6, 3.2), xlabel, ylabel)
    axis.grid(alpha=0.3)
    styles = [(BLUE, "-"), (ORANGE, "--"), (GREEN, "-."), ("black", ":"), (GREY, "-")]
    for (name, values), (color, style) in zip(series.items(), itertools.cycle(styles)):
        positions = np.arange(1, len(values) + 1) if x is None else x
        axis.plot(positions, values, style, color=color, label=name, linewidth=2)
    if x is not None and len(x) <= 8:
        axis.set_xticks(x)
    place = {"loc": "outside right center"} if beside else {}
    (figure if beside else axis).legend(frameon=False, **place)
    return figure


def grouped_bars(series, names, ylabel):
    """Draw bars side by side: series is {name: a value per entry of `names`}."""
    height = max(3.2, 2.5 + 0.065 * max(map(len, names)))  # long names are below, at a slant
    figure, axis = _chart((7.2, height), "", ylabel)
    width = 0.8 / len(series)
    colors = itertools.cycle((BLUE, ORANGE, GREEN, GREY))
    for number, ((label, values), color) in enumerate(zip(series.items(), colors)):
        place = np.arange(len(names)) + number * width
        axis.bar(place, values, width, color=color, label=label)
    axis.set_xticks(np.arange(len(names)) + 0.4 - width / 2, names, rotation=60, ha="right",
                    rotation_mode="anchor")
    figure.legend(loc="outside upper center", ncols=len(series), frameon=False)
    return figure


def add_legend(figure, class_names, colors):
    """Put a legend of class colours below a figure."""
    patches = [Patch(facecolor=np.asarray(color) / 255, edgecolor="black", linewidth=0.5,
                     label=name) for name, color in zip(class_names, colors)]
    figure.legend(handles=patches, loc="outside lower center", frameon=False, fontsize=9,
                  ncols=min(len(patches), LEGEND_COLUMNS))


def _chart(size, xlabel, ylabel):
    """Return (figure, axis) of a size in inches, with labels."""
    figure = Figure(figsize=size, layout="constrained")
    axis = figure.subplots()
    axis.set(xlabel=xlabel, ylabel=ylabel)
    axis.spines[["top", "right"]].set_visible(False)
    return figure, axis
