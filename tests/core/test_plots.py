"""Pictures and figures: what is painted where, and how large they get."""

import base64
import io

import IPython.display
import matplotlib.pyplot
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from utils import plots
from utils.labels import VOID, VOID_COLOR, ids_to_colors, voc_colormap

COLORS = voc_colormap(4)
NAMES = ("sky", "horse", "tree", "fence")
IMAGE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
TRUTH = np.zeros((20, 30), np.uint8)
TRUTH[5:15, 5:20] = 1
TRUTH[:, 25:] = VOID
PREDICTION = np.roll(TRUTH, 3, axis=1) % 4
TABLE = np.array([[90, 10, 0, 0], [5, 45, 0, 0], [0, 0, 0, 0], [1, 0, 0, 9]])

FIGURES = {
    "picture_grid": lambda: plots.picture_grid(
        [IMAGE, TRUTH, IMAGE], ["a", "b", "c"], columns=2, class_names=NAMES, colors=COLORS
    ),
    "named_points": lambda: plots.named_points([0.1, 0.2, np.nan, 0.4], [1, 2, 3, 4], NAMES, COLORS, "x", "y"),
    "comparison": lambda: plots.comparison(
        [(IMAGE, TRUTH, PREDICTION)] * 2, NAMES, COLORS, scores=["x", "y"]
    ),
    "class_bars": lambda: plots.class_bars(
        [0.2, np.nan, 1.0, 0.0], NAMES, COLORS, reference=[0.5, 0.5, np.nan, 1], reference_name="oracle"
    ),
    "confusion_plot": lambda: plots.confusion_plot(TABLE, NAMES),
    "curves": lambda: plots.curves({"train": [3, 2, 1], "val": [3, 2.5, 2.4]}, "epoch", "loss"),
    "grouped_bars": lambda: plots.grouped_bars({"32": [0.1, 0.2], "8": [0.3, 0.4]}, ["a", "b"], "IoU"),
}


@pytest.mark.parametrize("name", FIGURES)
def test_functions_return_a_figure_that_pyplot_does_not_show_again(name):
    figure = FIGURES[name]()
    assert isinstance(figure, Figure) and not matplotlib.pyplot.get_fignums()
    data, kind = plots.encode(figure)
    width, height = Image.open(io.BytesIO(data)).size
    assert kind == "png" and len(data) < 100_000 and 100 < width < 1200 and 50 < height < 1200


@pytest.mark.parametrize("name", ["class_bars", "confusion_plot", "curves", "grouped_bars"])
def test_axes_are_labelled(name):
    axis = FIGURES[name]().axes[0]
    assert axis.get_xlabel() or [label.get_text() for label in axis.get_xticklabels()][0]
    assert axis.get_ylabel() or [label.get_text() for label in axis.get_yticklabels()][0]


def test_classes_have_a_legend_in_their_own_colours():
    legend = FIGURES["comparison"]().legends[0]
    assert [text.get_text() for text in legend.get_texts()] == [*NAMES, "void"]
    assert [
        tuple(np.round(np.array(patch.get_facecolor()[:3]) * 255).astype(int))
        for patch in legend.get_patches()
    ] == [*map(tuple, COLORS.tolist()), VOID_COLOR]


def test_the_legend_names_void_only_where_it_is_shown():
    legend = plots.comparison([(IMAGE, TRUTH % 255, PREDICTION)], NAMES, COLORS).legends[0]
    assert [text.get_text() for text in legend.get_texts()] == list(NAMES)


def test_numbers_of_bars_keep_clear_of_the_ticks():
    texts = plots.class_bars([0.5, 0.5], NAMES[:2], COLORS[:2], reference=[0.55, 0.9], reference_name="oracle").axes[0].texts
    assert [(text.get_ha(), text.get_position()[0] < 0.5) for text in texts] == [("right", True), ("left", False)]


def test_no_series_is_left_out():
    series = {str(i): [1, 2] for i in range(7)}
    assert len(plots.curves(series, "epoch", "loss").axes[0].lines) == 7
    assert len(plots.grouped_bars(series, ["a", "b"], "IoU").axes[0].patches) == 14


def test_comparison_shows_photo_truth_prediction_and_errors():
    axes = FIGURES["comparison"]().axes
    shown = [axis.get_images()[0].get_array() for axis in axes[:4]]
    expected = [
        IMAGE,
        ids_to_colors(TRUTH, COLORS),
        ids_to_colors(PREDICTION, COLORS),
        plots.error_map(TRUTH, PREDICTION),
    ]
    assert all((a == b).all() for a, b in zip(shown, expected))
    assert [axis.get_title() for axis in axes] == [
        "photo",
        "truth",
        "prediction",
        "x",
        "photo",
        "truth",
        "prediction",
        "y",
    ]


def test_absent_classes_are_written_not_drawn_as_zero():
    texts = [text.get_text() for text in FIGURES["class_bars"]().axes[0].texts]
    assert texts == ["0.20", "absent", "1.00", "0.00"]


def test_confusion_plot_shows_shares_of_each_row():
    axis = FIGURES["confusion_plot"]().axes[0]
    shares = np.asarray(axis.get_images()[0].get_array())
    assert shares[0].tolist() == [0.9, 0.1, 0, 0] and shares[2].tolist() == [0, 0, 0, 0]
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("predicted class", "true class")


def test_overlay_paints_classes_and_leaves_void_alone():
    laid = plots.overlay(IMAGE, TRUTH, COLORS, opacity=0.5)
    assert laid.dtype == np.uint8 and laid.shape == IMAGE.shape
    assert (laid[:, 25:] == IMAGE[:, 25:]).all()
    inner = laid[8:12, 8:18].astype(float)
    assert np.abs(inner - (IMAGE[8:12, 8:18] * 0.5 + np.array([128, 0, 0]) * 0.5)).max() <= 0.5
    assert (plots.overlay(IMAGE, np.full((20, 30), VOID, np.uint8), COLORS) == IMAGE).all()
    assert (plots.overlay(IMAGE, np.zeros((20, 30), np.uint8), COLORS, opacity=0) == IMAGE).all()


def test_error_map_marks_wrong_pixels_but_never_void():
    picture = plots.error_map(TRUTH, PREDICTION)
    assert picture.dtype == np.uint8
    orange = (picture == (213, 94, 0)).all(axis=2)
    assert (orange == ((TRUTH != PREDICTION) & (TRUTH != VOID))).all() and orange.any()
    assert (picture[TRUTH == VOID] == 255).all()
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) == 3


def test_heat_runs_from_dark_to_light_even_when_flat():
    heat = plots.heat([[0.0, 0.5, 1.0, 9.0]], low=0, high=1)
    assert heat.shape == (1, 4, 3) and heat.dtype == np.uint8
    light = heat.astype(int).sum(axis=2)[0]
    assert light[0] < light[1] < light[2] == light[3]
    assert plots.heat(np.ones((2, 2))).shape == (2, 2, 3)


def test_large_photographs_become_jpeg():
    rng = np.random.default_rng(0)
    photo = (np.linspace(30, 200, 600)[:, None, None] + rng.normal(0, 9, (600, 600, 3))).astype(np.uint8)
    data, kind = plots.encode(plots.picture_grid([photo] * 4, side=3))
    png = io.BytesIO()
    Image.open(io.BytesIO(data)).save(png, "PNG")
    assert kind == "jpeg" and data[:2] == b"\xff\xd8" and len(data) < png.tell()


def test_noise_is_encoded_too():
    noise = np.random.default_rng(0).integers(0, 256, (600, 600, 3), dtype=np.uint8)
    data, _ = plots.encode(plots.picture_grid([noise] * 4, side=3))
    assert Image.open(io.BytesIO(data)).size[0] > 500


def test_show_displays_one_picture_with_alt_text(monkeypatch):
    displayed = []
    monkeypatch.setattr(IPython.display, "display", lambda bundle, **options: displayed.append((bundle, options)))
    assert plots.show(FIGURES["curves"](), alt="the loss falls") is None
    [(bundle, options)] = displayed
    assert base64.b64decode(bundle["image/png"])[:4] == b"\x89PNG"
    assert bundle["text/plain"].splitlines()[0] == "the loss falls" and "3 2 1" in bundle["text/plain"]
    assert options == {"metadata": {"image/png": {"alt": "the loss falls"}}, "raw": True}


def test_frames_become_an_animated_png(monkeypatch):
    shown = []
    monkeypatch.setattr(IPython.display, "display", lambda bundle, **options: shown.append(bundle))
    plots.show_frames([IMAGE, IMAGE[::-1]], alt="two pictures by turns")
    picture = Image.open(io.BytesIO(base64.b64decode(shown[0]["image/png"])))
    assert picture.n_frames == 2 and picture.size == (30, 20)
    assert "2 frames" in shown[0]["text/plain"]


# What is drawn wrongly, and must change the digest.
FAULTS = {
    "bars swapped": lambda: plots.grouped_bars({"32": [0.2, 0.1], "8": [0.3, 0.4]}, ["a", "b"], "IoU"),
    "names swapped": lambda: plots.grouped_bars({"32": [0.1, 0.2], "8": [0.3, 0.4]}, ["b", "a"], "IoU"),
    "series swapped": lambda: plots.grouped_bars({"8": [0.1, 0.2], "32": [0.3, 0.4]}, ["a", "b"], "IoU"),
    "values mixed up": lambda: plots.grouped_bars({"32": [0.1, 0.4], "8": [0.3, 0.2]}, ["a", "b"], "IoU"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_digest_sees_what_is_drawn_wrongly(fault):
    assert plots.digest(FAULTS[fault]()) != plots.digest(FIGURES["grouped_bars"]())


def test_digest_sees_transposed_numbers_and_turned_or_recoloured_pictures():
    assert plots.digest(plots.confusion_plot(TABLE.T, NAMES)) != plots.digest(plots.confusion_plot(TABLE, NAMES))
    assert plots.digest(plots.confusion_plot(TABLE, NAMES[::-1])) != plots.digest(plots.confusion_plot(TABLE, NAMES))
    painted = ids_to_colors(TRUTH, COLORS)
    digests = {plots.digest(plots.picture_grid([picture], ["ids"]))
               for picture in (painted, painted[:, ::-1], ids_to_colors(TRUTH, COLORS[::-1]), TRUTH)}
    assert len(digests) == 4
    legends = {plots.digest(plots.picture_grid([TRUTH], class_names=NAMES, colors=colors))
               for colors in (COLORS, COLORS[::-1])}
    assert len(legends) == 2


def test_digest_leaves_out_what_varies():
    first = plots.curves({"train": [3, 2], "val": [1, 2]}, "epoch", "loss")
    second = plots.curves({"train": [3, 2], "val": [4, 5]}, "epoch", "loss")
    assert plots.digest(first) != plots.digest(second)
    assert plots.digest(first, {"val"}) == plots.digest(second, {"val"}) and "3 2" in plots.digest(first, {"val"})
    first, second = (plots.picture_grid([TRUTH + by], [f"IoU 0.{by}"]) for by in (0, 1))
    assert plots.digest(first, True) == plots.digest(second, True) != plots.digest(first)
    first, second = (plots.picture_grid([TRUTH, TRUTH + by], ["truth", f"8s: 0.{by}"]) for by in (0, 1))
    assert plots.digest(first, {"8s: 0.0"}) == plots.digest(second, {"8s: 0.1"})
    assert "8s: #" in plots.digest(first, {"8s: 0.0"}), "names stay, decimals of what varies do not"
