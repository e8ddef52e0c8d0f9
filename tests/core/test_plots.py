"""Pictures and figures: what is painted where, and how large they get."""

import base64
import io

import IPython.display
import matplotlib.pyplot
import numpy as np
import pytest
from matplotlib.colors import to_rgb
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

FIGURES = {
    "picture_grid": lambda: plots.picture_grid(
        [IMAGE, TRUTH, IMAGE], ["a", "b", "c"], columns=2, class_names=NAMES, colors=COLORS
    ),
    "comparison": lambda: plots.comparison(
        [(IMAGE, TRUTH, PREDICTION)] * 2, NAMES, COLORS, scores=["x", "y"]
    ),
    "curves": lambda: plots.curves({"train": [3, 2, 1], "val": [3, 2.5, 2.4]}, "epoch", "loss"),
    "grouped_bars": lambda: plots.grouped_bars({"32": [0.1, 0.2], "8": [0.3, 0.4]},
                                               ["a", "b"], "IoU"),
}


def drawn(draw, *args):
    """Return a figure in which `draw` has drawn on an axis, without the help of `plots`."""
    figure = Figure()
    draw(figure.subplots(), *args)
    return figure


def table_with_names(axis, table, names):
    axis.imshow(table)
    axis.set_xticks(range(len(names)), names)


@pytest.mark.parametrize("name", FIGURES)
def test_functions_return_a_figure_that_pyplot_does_not_show_again(name):
    figure = FIGURES[name]()
    assert isinstance(figure, Figure) and not matplotlib.pyplot.get_fignums()
    data, kind = plots.encode(figure)
    width, height = Image.open(io.BytesIO(data)).size
    assert kind == "png" and len(data) < 100_000 and 100 < width < 1200 and 50 < height < 1200


@pytest.mark.parametrize("name", ["curves", "grouped_bars"])
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


def test_large_photographs_become_jpeg():
    rng = np.random.default_rng(0)
    photo = (np.linspace(30, 200, 600)[:, None, None]
             + rng.normal(0, 9, (600, 600, 3))).astype(np.uint8)
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
    monkeypatch.setattr(IPython.display, "display", lambda bundle,
                        **options: displayed.append((bundle, options)))
    assert plots.show(FIGURES["curves"](), alt="the loss falls") is None
    [(bundle, options)] = displayed
    assert base64.b64decode(bundle["image/png"])[:4] == b"\x89PNG"
    assert (bundle["text/plain"].splitlines()[0] == "the loss falls"
            and "3 2 1" in bundle["text/plain"])
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
    "bars swapped": lambda: plots.grouped_bars({"32": [0.2, 0.1], "8": [0.3, 0.4]},
                                               ["a", "b"], "IoU"),
    "names swapped": lambda: plots.grouped_bars({"32": [0.1, 0.2], "8": [0.3, 0.4]},
                                                ["b", "a"], "IoU"),
    "series swapped": lambda: plots.grouped_bars({"8": [0.1, 0.2], "32": [0.3, 0.4]},
                                                 ["a", "b"], "IoU"),
    "values mixed up": lambda: plots.grouped_bars({"32": [0.1, 0.4], "8": [0.3, 0.2]},
                                                  ["a", "b"], "IoU"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_digest_sees_what_is_drawn_wrongly(fault):
    assert plots.digest(FAULTS[fault]()) != plots.digest(FIGURES["grouped_bars"]())


def test_digest_sees_transposed_numbers_and_turned_or_recoloured_pictures():
    table = np.array([[90, 10], [5, 45]])
    tables = {plots.digest(drawn(table_with_names, *given))
              for given in ((table, "ab"), (table.T, "ab"), (table, "ba"))}
    assert len(tables) == 3
    painted = ids_to_colors(TRUTH, COLORS)
    digests = {plots.digest(plots.picture_grid([picture], ["ids"]))
               for picture in (painted, painted[:, ::-1],
                               ids_to_colors(TRUTH, COLORS[::-1]), TRUTH)}
    assert len(digests) == 4
    legends = {plots.digest(plots.picture_grid([TRUTH], class_names=NAMES, colors=colors))
               for colors in (COLORS, COLORS[::-1])}
    assert len(legends) == 2


def test_digest_leaves_out_what_varies():
    first = plots.curves({"train": [3, 2], "val": [1, 2]}, "epoch", "loss")
    second = plots.curves({"train": [3, 2], "val": [4, 5]}, "epoch", "loss")
    assert plots.digest(first) != plots.digest(second)
    assert (plots.digest(first, {"val"}) == plots.digest(second, {"val"})
            and "3 2" in plots.digest(first, {"val"}))
    first, second = (plots.picture_grid([TRUTH + by], [f"IoU 0.{by}"]) for by in (0, 1))
    assert plots.digest(first, True) == plots.digest(second, True) != plots.digest(first)
    first, second = (plots.picture_grid([TRUTH, TRUTH + by], ["truth", f"8s: 0.{by}"])
                     for by in (0, 1))
    assert plots.digest(first, {"8s: 0.0"}) == plots.digest(second, {"8s: 0.1"})
    assert "8s: #" in plots.digest(first, {"8s: 0.0"}), "names stay, decimals of what varies do not"
    first, second = (plots.curves({"loss": [value, 1]}, "epoch", "loss") for value in (0, -2e-16))
    assert plots.digest(first) == plots.digest(second), "rounding errors differ, too"


# The artists: what stands where, and in which colour


def rgb(color):
    return tuple(np.round(np.asarray(to_rgb(color)) * 255).astype(int))


def tick_names(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def test_curves_begin_at_epoch_one_or_where_they_are_told():
    series = {"train": [3, 2, 1], "val": [3, 2.5, 2.4]}
    axis = plots.curves(series, "epoch", "loss").axes[0]
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("epoch", "loss")
    for (name, values), line in zip(series.items(), axis.lines, strict=True):
        assert line.get_label() == name
        assert line.get_xdata().tolist() == [1, 2, 3] and list(line.get_ydata()) == values
    placed = plots.curves({"IoU": [0.3, 0.2]}, "stride", "IoU", x=[8, 32]).axes[0]
    assert list(placed.lines[0].get_xdata()) == list(placed.get_xticks()) == [8, 32]


@pytest.mark.parametrize("count", [2, 3, 5])
def test_curves_differ_in_colour_and_style_as_the_legend_says(count):
    figure = plots.curves({f"run {i}": [i, 1] for i in range(count)}, "epoch", "loss")
    axis = figure.axes[0]
    looks = [(line.get_color(), line.get_linestyle()) for line in axis.lines]
    assert len({color for color, _ in looks}) == count and len({style for _, style in looks}) > 1
    legend = axis.get_legend() or figure.legends[0]
    assert [text.get_text() for text in legend.get_texts()] == [f"run {i}" for i in range(count)]
    handles = [(line.get_color(), line.get_linestyle()) for line in legend.legend_handles]
    assert handles == looks


@pytest.mark.parametrize("count", [1, 2, 3])
def test_grouped_bars_stand_around_their_names(count):
    series = {f"FCN-{i}": [0.1 + i / 10, 0.2 + i / 10] for i in range(count)}
    figure = plots.grouped_bars(series, ["a", "b"], "IoU")
    axis = figure.axes[0]
    assert tick_names(axis.xaxis) == ["a", "b"] and axis.get_ylabel() == "IoU"
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == list(series)
    for column, place in enumerate(axis.get_xticks()):
        group = [bars[column] for bars in axis.containers]
        assert [bar.get_height() for bar in group] == [values[column] for values in series.values()]
        edges = [bar.get_x() for bar in group] + [group[-1].get_x() + group[-1].get_width()]
        np.testing.assert_allclose(np.diff(edges), group[0].get_width())  # side by side, in order
        assert (edges[0] + edges[-1]) / 2 == pytest.approx(place)
        assert edges[-1] - edges[0] < np.diff(axis.get_xticks())[0]
    for bars, handle in zip(axis.containers, figure.legends[0].legend_handles):
        assert {rgb(bar.get_facecolor()[:3]) for bar in bars} == {rgb(handle.get_facecolor()[:3])}


def test_grids_keep_order_titles_and_pixels():
    axes = FIGURES["picture_grid"]().axes
    assert [axis.get_title() for axis in axes] == ["a", "b", "c", ""]
    shown = [axis.get_images() for axis in axes]
    for picture, (image,) in zip([IMAGE, TRUTH, IMAGE], shown[:3]):
        np.testing.assert_array_equal(image.get_array(), picture)
        assert image.get_interpolation() == "nearest"  # ids and class colours must not blend
    assert shown[3] == []


def test_overlay_darkens_the_first_pixel_beyond_each_border():
    ids = np.zeros((4, 6), np.uint8)
    ids[:, 3:] = 1
    ids[2:, :3] = 2
    grey = np.full((4, 6, 3), 100, np.uint8)
    laid = plots.overlay(grey, ids, np.zeros((3, 3), np.uint8), opacity=0)
    border = np.zeros((4, 6), bool)
    border[:, 3] = border[2, :3] = True
    assert (laid == np.where(border, 40, 100)[..., None]).all()


@pytest.mark.parametrize("seconds", [0.8, 0.25])
def test_animations_keep_their_pace_and_go_on(monkeypatch, seconds):
    shown = []
    monkeypatch.setattr(IPython.display, "display", lambda bundle, **more: shown.append(bundle))
    plots.show_frames([IMAGE, IMAGE[::-1], IMAGE], alt="three", seconds=seconds)
    picture = Image.open(io.BytesIO(base64.b64decode(shown[0]["image/png"])))
    assert picture.info["loop"] == 0  # for ever
    for number, expected in enumerate((IMAGE, IMAGE[::-1], IMAGE)):
        picture.seek(number)
        assert picture.info["duration"] == pytest.approx(1000 * seconds)
        np.testing.assert_array_equal(picture.convert("RGB"), expected)


@pytest.mark.parametrize("draw", [
    lambda axis, colors: axis.barh(range(4), [1, 2, 3, 4], color=colors),
    lambda axis, colors: axis.scatter([1, 2, 3, 4], [1, 2, 3, 4], c=colors)])
def test_digest_sees_colours_of_bars_and_of_points(draw):
    digests = {plots.digest(drawn(draw, colors / 255)) for colors in (COLORS, COLORS[::-1])}
    assert len(digests) == 2
