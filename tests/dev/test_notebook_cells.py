"""Single cells of notebooks on made-up values: what they draw and pass on, beyond nbval.

Figures of predictions and scores differ between machines, so that nbval leaves their numbers out.
Here each such cell gets names with known values, and what it draws is looked up.
"""

import ast
import json
import re
import sys
from types import SimpleNamespace

import cv2
import keras
import matplotlib
import nbformat
import numpy as np
import pytest
import yaml
from PIL import Image

from tools.run import find_notebooks
from utils import datasets, metrics, pipeline, plots, recipes, runs
from utils.labels import ids_to_colors

COLORS = np.uint8([[40, 160, 40], [200, 40, 40], [40, 60, 220]])
RNG = np.random.default_rng(0)
PHOTO = RNG.integers(0, 255, (64, 96, 3), np.uint8)
TRUTH, LABELS, OTHER = RNG.integers(0, 3, (3, 64, 96), np.uint8)
TRUTH[:, 40:50] = 255
KNOWN = TRUTH != 255
LOGITS = RNG.normal(size=(64, 96, 3)).astype("float32")


class Data:
    """Stands in for a data set: its samples are names, read as `read` says."""

    name, class_names, num_classes, colors = "made", ("ground", "block", "disc"), 3, COLORS
    test_split, recipe = "test", recipes.Recipe(image_size=32, batch_size=2, epochs=3)

    def split(self, name):
        return [f"{name} {i}" for i in range(10)]

    def find(self, split, name, default):
        return int(name or 0)

    def read(self, sample):
        return PHOTO, TRUTH


class Calls:
    """Stands in for a module or a model: every function of it writes down what it was given."""

    def __init__(self, **functions):
        self.given, self.functions = [], functions

    def __getattr__(self, name):
        def call(*args, **kwargs):
            self.given.append((name, args, kwargs))
            return self.functions[name](*args, **kwargs) if name in self.functions else None
        return call

    def of(self, name):
        return [(args, kwargs) for called, args, kwargs in self.given if called == name]


def sources(number):
    path, = find_notebooks([number])
    return {cell["id"]: cell.source for cell in nbformat.read(path, as_version=4).cells
            if cell.cell_type == "code"}


@pytest.fixture
def run(monkeypatch):
    """Return a function that runs cells on names and returns all names; `shown` are figures."""
    monkeypatch.setattr(matplotlib.pyplot, "close", lambda *figures: None)

    def run_cells(number, *cells, only="", **names):
        shown = []
        monkeypatch.setattr(plots, "show", lambda figure, *args, **kwargs: shown.append(figure))
        monkeypatch.setattr(plots, "show_frames", lambda frames, *args,
                            **kwargs: shown.append(frames))
        known, code = {}, sources(number)
        for source in code.values():
            imports = [line for line in ast.parse(source).body
                       if isinstance(line, ast.Import | ast.ImportFrom)]
            exec(compile(ast.Module(imports, []), number, "exec"), known)
        known |= {"data": Data()} | names
        for cell in cells:
            statements = [line for line in ast.parse(code[cell]).body if only in ast.unparse(line)]
            if not statements:
                raise LookupError(f"notebook {number}, cell {cell} says nothing of {only}")
            exec(compile(ast.Module(statements, []), f"{number} {cell}", "exec"), known)
        return SimpleNamespace(**known | {"shown": shown})

    yield run_cells
    monkeypatch.undo()
    matplotlib.pyplot.close("all")


def pictures(figure):
    return [np.asarray(axis.get_images()[0].get_array()) for axis in figure.axes
            if axis.get_images()]


def lines(axis):
    return {line.get_label(): np.asarray(line.get_ydata()).tolist() for line in axis.get_lines()}


def bars(axis, size="width"):
    return [getattr(patch, f"get_{size}")() for patch in axis.patches]


def points(axis):
    return [np.asarray(drawn.get_offsets()).tolist() for drawn in axis.collections]


def names_on(axis, side="y"):
    return [label.get_text() for label in getattr(axis, f"get_{side}ticklabels")()]


def same(drawn, expected):
    assert len(drawn) >= len(expected)
    for one, other in zip(drawn, expected):
        np.testing.assert_array_equal(one, other)


def painted(ids):
    return ids_to_colors(ids, COLORS)


def laid_over(image, ids):
    return plots.overlay(image, np.where(ids == 0, 255, ids), COLORS)


def predicts(**labels):
    """Return a stand-in for utils.inference: networks are names, and each has its own labels."""
    return Calls(predict=lambda network, image, tile=None: labels[network],
                 logits=lambda network, image: LOGITS)


def softmax(logits):
    return np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)


# 01


def test_01_seed_decides_variants_and_crops(run):
    recipe = SimpleNamespace(image_size=32, batch_size=2, scale=(0.7, 1.4))
    names = run("01", "8dc63e7b", seed=3, recipe=recipe)
    expected = pipeline.crop(PHOTO, TRUTH, 32, np.random.default_rng((3, 2)), (0.7, 1.4))
    same(names.augment(PHOTO, TRUTH, 2), expected)
    batch = keras.ops.zeros((2, 32, 32, 3)), keras.ops.zeros((2, 32, 32), "uint8")
    cut = Calls(batches=lambda *args, **kwargs: [batch])
    run("01", "1b2e44d5", pairs="pairs", recipe=recipe, pipeline=cut, seed=3, legend={},
        laid_over=lambda image, ids: image)
    (given, options), = cut.of("batches")
    assert given == ("pairs",)
    assert options == {"image_size": 32, "batch_size": 2, "scale": (0.7, 1.4), "augment": True,
                       "shuffle": True, "seed": 3}


def test_01_opens_with_photo_truth_and_prediction(run):
    meadow = datasets.load_dataset("meadow")
    scene, truth = meadow.read(meadow.split("test")[meadow.find("test", "test_023")])
    guess = np.where(truth == 1, 0, truth).astype("uint8")
    guess[truth == 255] = 0
    figure, = run("01", "opening", dataset="meadow", data_dir="", seed=0,
                  image_size=0, batch_size=0,
                  models=Calls(KEPT_MODEL="", load=lambda file: "kept"),
                  inference=predicts(kept=guess)).shown
    same(pictures(figure), [scene, *(ids_to_colors(ids, meadow.colors) for ids in (truth, guess))])
    right = 1 - (truth == 1).sum() / (truth != 255).sum()
    assert figure.axes[2].get_title() == f"a trained network: {right:.0%} right"


def test_01_names_the_sizes_of_the_smallest_and_the_largest_photo(run, capsys):
    pairs = [(None, np.zeros(size)) for size in ((8, 6), (9, 20), (2, 3), (7, 5))]
    run("01", "19864a01", data=SimpleNamespace(splits={}), pairs=pairs)
    assert re.findall(r"(\w+) photo in train: (\d+x\d+)", capsys.readouterr().out) == [
        ("smallest", "3x2"), ("largest", "20x9")]


def test_01_enlarges_the_middle_with_row_0_above(run):
    figure, = run("01", "4fb98dc1", photo=PHOTO, mask=TRUTH).shown
    same(pictures(figure), [PHOTO, painted(TRUTH), TRUTH == 255])
    for axis in figure.axes:
        assert axis.get_xlim() == (16, 80) and axis.get_ylim() == (64, 0)


def test_01_third_panel_is_what_opencv_reads(run, tmp_path):
    file = tmp_path / "mask.png"
    picture = Image.fromarray(TRUTH, "P")
    picture.putpalette(np.vstack([COLORS,
                                  np.tile(plots.VOID_COLOR, (253, 1))]).astype("uint8").tobytes())
    picture.save(file)
    data = Data()
    data.split = lambda name: [("photo", file)]
    figure, = run("01", "4028d8c6", data=data, richest=0, mask=TRUTH).shown
    ids, colored, grey = pictures(figure)
    same([ids, colored], [TRUTH, painted(TRUTH)])
    assert np.abs(cv2.cvtColor(painted(TRUTH), cv2.COLOR_RGB2GRAY) - grey.astype(int)).max() <= 2


# 02


def enlarge(cells):
    return cells.repeat(32, axis=0).repeat(32, axis=1)


def test_02_strip_shows_what_its_titles_say(run, tmp_path):
    cells = RNG.normal(size=(2, 3, 3))
    heat = run("02", "a0421fcf").heat
    figure, = run("02", "57219a02", heat=heat,
                  meadow=SimpleNamespace(class_names=["ground", "horse", "disc"], colors=COLORS),
                  inference=predicts(), trained=SimpleNamespace(count_params=int), scene=PHOTO,
                  cell_scores=cells, truth=TRUTH, figures=tmp_path).shown
    same(pictures(figure), [
        PHOTO, heat(enlarge(cells[..., 1])), heat(LOGITS[..., 1]),
        painted(enlarge(cells.argmax(axis=2))), painted(LOGITS.argmax(axis=2)), painted(TRUTH)])
    saved = Image.open(tmp_path / "hero.png")
    assert saved.width > 5 * saved.height, "all six pictures are in the file"


def test_02_heat_runs_from_dark_to_light_even_when_flat(run):
    paint = run("02", "a0421fcf").heat
    heat = paint([[0.0, 0.5, 1.0, 9.0]], 0, 1)
    assert heat.shape == (1, 4, 3) and heat.dtype == np.uint8
    light = heat.astype(int).sum(axis=2)[0]
    assert light[0] < light[1] < light[2] == light[3]
    assert paint(np.ones((2, 2))).shape == (2, 2, 3)


def test_02_gradient_is_drawn_as_it_is(run):
    gradient = RNG.random((256, 256))
    figure, = run("02", "gradient-figure", scene=PHOTO, gradient=gradient, small_network=[],
                  receptive_fields=lambda network: {"fc6": 206}).shown
    same(pictures(figure)[:2], [PHOTO, gradient / gradient.max()])


def test_02_animation_ends_with_the_scores_bright_where_high(run):
    cells = RNG.normal(0, 4, (8, 8, 1)).astype("float32")
    whole = keras.layers.UpSampling2D(32, interpolation="bilinear")(cells[None])[0, :, :, 0]
    heat = run("02", "a0421fcf").heat
    frames, = run("02", "b760272a", "tent-frames", cell_scores=cells, horse=0, heat=heat,
                  pixel_scores=np.array(whole)[..., None]).shown
    expected = heat(np.array(whole), -8, 8).astype(int)
    assert np.abs(frames[0] - expected).max() <= 2 and len(frames) == 11


def test_02_cut_outs_are_above_their_labels(run):
    logits = {cut: RNG.normal(size=(*cut, 3)) for cut in [(186, 256), (31, 47), (256, 120)]}
    figure, = run("02", "c8876ad5", scene=np.zeros((256, 256, 3), "uint8"), trained=None,
                  meadow=Data(), inference=Calls(logits=lambda _, cut: logits[cut.shape[:2]])).shown
    drawn = pictures(figure)
    assert not np.any(drawn[0]) and not np.any(drawn[2])
    same(drawn[3:], [painted(scores.argmax(axis=2)) for scores in logits.values()])


# 03


GIVEN = {"image_size": 48, "batch_size": 5, "epochs": 2, "learning_rate": 0.1, "stride": 8,
         "backbone": "vgg16", "class_weights": "median", "optimizer": "adam"}


def test_03_parameters_reach_recipe_network_and_crops(run, tmp_path):
    read = Calls(DecodedPairs=lambda samples, read, split: samples)
    names = run("03", "eb12d1a8", dataset="", data_dir="", run_dir="", seed=3,
                precision="float32", weights="",
                datasets=Calls(load_dataset=lambda *args: Data()), pipeline=read,
                runs=Calls(run_folder=lambda folder: tmp_path), **GIVEN)
    assert {name: getattr(names.recipe, name) for name in GIVEN} == GIVEN
    assert (names.train_pairs, names.val_pairs) == (Data().split("train"), Data().split("val"))
    built, seeds = Calls(), Calls()
    run("03", "215517fc", seed=3, recipe=names.recipe, upsampling="deconv", weights="file",
        policy="float32",
        models=built, val_pairs=[(PHOTO, TRUTH)], keras=SimpleNamespace(utils=seeds))
    assert built.of("fcn")[0][1] == {"num_classes": 3, "stride": 8, "backbone": "vgg16",
                                     "upsampling": "deconv",
                                     "weights": "file", "precision": "float32"}
    assert seeds.of("set_random_seed") == [((3,), {})]
    batch = keras.ops.zeros((5, 48, 48, 3)), keras.ops.zeros((5, 48, 48), "uint8")
    cut = Calls(batches=lambda *args, **options: [batch])
    run("03", "7bc85666", recipe=names.recipe, train_pairs="pairs", seed=3, pipeline=cut)
    assert cut.of("batches") == [(("pairs",), {
        "image_size": 48, "batch_size": 5, "augment": True, "shuffle": True, "seed": 3,
        "scale": names.recipe.scale, "epochs": 2})]


def test_03_watches_the_scene_after_each_epoch(run, tmp_path):
    names = run("03", "86df5af2", recipe=SimpleNamespace(epochs=2), folder=tmp_path,
                tensorboard=False,
                inference=predicts(net=LABELS), scene=PHOTO)
    watch, = names.callbacks
    watch.set_model("net")
    for epoch in (0, 1):
        watch.on_epoch_end(epoch)
    assert sorted(watch.watched) == [1, 2]


def test_03_short_run_is_validated_on_val(run):
    model = Calls(fit=lambda *args, **kwargs: None)
    batches = Calls(whole_images=lambda pairs, size: ("whole", pairs, size))
    run("03", "fit", model=model, train_pairs=["train"] * 5, val_pairs="val", recipe=Data.recipe,
        train_batches="crops", short=2, pipeline=batches)
    (given, options), = model.of("fit")
    assert given == ("crops",) and options["validation_data"] == ("whole", "val", 2)
    assert (options["epochs"], options["steps_per_epoch"]) == (2, 3)


def test_03_short_run_counts_no_void(run):
    model = Calls()
    run("03", "compile-cell", model=model, loss="loss")
    metric, = model.of("compile")[0][1]["metrics"]
    metric.update_state(TRUTH[None], LOGITS[None])
    expected = metrics.scores(metrics.confusion_matrix(TRUTH,
                                                       LOGITS.argmax(axis=2).astype("uint8"), 3))
    assert np.isclose(float(metric.result()), expected["mean_iou"])


def test_03_options_reach_the_training_run_and_the_card(run, tmp_path):
    trained = Calls(train=lambda *args, **kwargs: None)
    given = {"weights": "file", "upsampling": "deconv", "precision": "mixed_float16", "seed": 3}
    run("03", "81bcc0d1", training=trained, recipe="recipe", folder=tmp_path,
        callbacks="callbacks", **given)
    (positions, options), = trained.of("train")
    assert positions[1:] == ("recipe", tmp_path) and options == {"callbacks": "callbacks", **given}
    (tmp_path / "model.json").write_text("{}")
    given |= {"dataset": "voc", "data_dir": "here", "image_size": 32, "batch_size": 2, "epochs": 3,
              "learning_rate": 0.1, "backbone": "vgg16", "stride": 8, "class_weights": "median",
              "optimizer": "adam"}
    assert run("03", "53cb38d5", folder=tmp_path, **given).given == given


def test_03_curves_of_the_short_run(run):
    history = SimpleNamespace(history={"loss": [3, 2], "val_loss": [4, 1]})
    figure, = run("03", "history-curves", history=history, entropy=1.5, short=2).shown
    assert (lines(figure.axes[0])
            == {"training": [3, 2], "validation": [4, 1], "entropy": [1.5, 1.5]})


ROWS = [{"epoch": 1, "loss": 5, "mean_iou": 0.1},
        {"epoch": 2, "loss": 4, "mean_iou": 0.2, "val_loss": 6, "val_mean_iou": 0.3}]


def test_03_curves_of_the_full_run_and_of_three_runs(run):
    figure, = run("03", "0d0cf67e", rows=ROWS).shown
    assert lines(figure.axes[0]) == {"training": [5, 4], "validation": [6]}
    assert lines(figure.axes[1]) == {"training": [0.1, 0.2], "validation": [0.3]}
    short, overfit = {"loss": [3, 2], "val_loss": [4, 1]}, {"loss": [9] * 5, "val_loss": [8]}
    figure, = run("03", "1f368bf4", rows=ROWS, overfit=overfit, short=2, passes=5,
                  history=SimpleNamespace(history=short)).shown
    for axis, (training, validation) in zip(figure.axes,
                                            [([3, 2], [4, 1]), ([9] * 5, [8]), ([5, 4], [6])]):
        assert lines(axis) == {"training": training, "validation": validation}


def test_03_loss_of_each_pixel_without_void(run):
    figure, = run("03", "loss-maps", model="net", inference=predicts(), scene=PHOTO,
                  scene_truth=TRUTH).shown
    photo, guess, truth, loss = pictures(figure)[:4]
    same([photo, truth, guess], [PHOTO, painted(TRUTH), painted(LOGITS.argmax(axis=2))])
    rows, columns = np.nonzero(KNOWN)
    expected = -np.log(softmax(LOGITS)[rows, columns, TRUTH[KNOWN]])
    assert np.allclose(loss[KNOWN], expected, atol=1e-5)
    assert np.ma.getmaskarray(np.ma.masked_invalid(loss))[~KNOWN].all()


def test_03_animation_shows_each_epoch_and_ends_with_the_kept_network(run):
    watch = SimpleNamespace(watched={1: OTHER, 2: TRUTH})
    names = run("03", "6f850b4b", scene=PHOTO, scene_truth=TRUTH, Watch=watch, model="short",
                trained=SimpleNamespace(model="kept"), inference=predicts(kept=LABELS, short=OTHER),
                legend={"class_names": Data.class_names, "colors": COLORS})
    frames, = names.shown
    titled = [("epoch 1", OTHER), ("epoch 2", TRUTH), *[("kept", LABELS)] * 3]
    same(frames, [names.frame(title, ids) for title, ids in titled])


def test_03_overfits_on_train_and_validates_on_val(run):
    fitted = Calls(fit=lambda *args, **kwargs: SimpleNamespace(history={}))
    stand_in = Calls(DecodedPairs=lambda samples, read: samples,
                     batches=lambda pairs, **sizes: pairs, whole_images=lambda pairs, size: pairs)
    run("03", "c4f6c616", recipe=Data.recipe, pipeline=stand_in, arguments={}, policy="",
        sizes={}, seed=0,
        models=Calls(fcn=lambda **options: fitted))
    (given, options), = fitted.of("fit")
    assert given[0] == [f"train {i}" for i in range(8)]
    assert options["validation_data"] == [f"val {i}" for i in range(8)]


def test_03_each_short_run_has_its_own_seed(run):
    network = Calls(get_weights=lambda: [np.zeros(2)])
    cut = Calls(batches=lambda *args, **options: Calls())
    names = run("03", "short-runs", pipeline=cut, arguments={}, train_pairs=[],
                models=Calls(fcn=lambda **options: network), seed=3)
    names.five_steps(7)
    assert cut.of("batches")[0][1]["seed"] == 7


def test_03_reference_is_compared_with_the_best_validation(run):
    assert run("03", "6ce8aec1", only="best =", rows=ROWS).best == 0.3


# 04


def test_04_and_05_score_the_split_that_was_asked_for(run, monkeypatch):
    for number, cell, name in (("04", "e70cfa29", ""), ("05", "edf8723c", "7")):
        for asked, scored in (("val", "val"), ("", "test")):
            names = run(number, cell, dataset="", data_dir="", run_dir="", split=asked, scene=name,
                        datasets=Calls(load_dataset=lambda *args: Data()),
                        runs=Calls(run_folder=lambda folder: folder))
            assert names.split == scored and names.samples == Data().split(scored)
            assert number == "04" or names.here == 7


def test_04_first_figure(run):
    truth, guess = TRUTH == 1, (LABELS == 1) & KNOWN
    figure, = run("04", "145365ef", image=PHOTO, truth=TRUTH, prediction=LABELS, chosen=1).shown
    photo, shown_truth, shown_guess, both = pictures(figure)
    same([photo], [PHOTO])
    blue, orange, green = (0, 114, 178), (213, 94, 0), (0, 158, 115)
    for picture, regions in ((shown_truth, [(truth, blue)]), (shown_guess, [(guess, orange)]),
                             (both, [(truth & ~guess, blue), (guess & ~truth, orange),
                                     (truth & guess, green)])):
        for region, color in regions:
            same([(picture == color).all(axis=2)], [region])
    iou = metrics.scores(metrics.confusion_matrix(TRUTH, LABELS, 3))["iou"][1]
    assert figure.axes[3].get_title().endswith(f"= {iou:.2f}")


ORACLES = {(name, stride): 1 - stride / 40 - (name == "majority") / 100
           for name in ("majority", "bilinear") for stride in (32, 16, 8, 4)}
CONFUSION = np.array([[50, 3, 1], [8, 20, 2], [0, 4, 10]])
ORACLE = np.array([[53, 1, 0], [2, 28, 0], [1, 1, 12]])


def test_04_bars_and_confusion_matrix(run):
    result, lazy = metrics.scores(CONFUSION), {"mean_iou": 0.1}
    figure, = run("04", "9df2e93f", common=0, lazy=lazy, result=result, oracles=ORACLES,
                  stride_of_model=16,
                  model=SimpleNamespace(name="net")).shown
    assert bars(figure.axes[0]) == pytest.approx([0.1, result["mean_iou"], 0.6])
    assert names_on(figure.axes[0]) == ["all ground", "net", "oracle, stride 16"]
    figure, = run("04", "cfe3f59f", confusion=CONFUSION).shown
    axis, shares = figure.axes[0], CONFUSION / CONFUSION.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(pictures(figure)[0], shares)
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("predicted class", "true class")
    assert names_on(axis, "x") == names_on(axis) == list(Data.class_names)
    # (column, row): the share of the row in percent; none for 0.
    assert {text.get_position(): text.get_text() for text in axis.texts} == {
        (j, i): f"{100 * shares[i, j]:.0f}" for i, j in zip(*np.nonzero(shares))}
    assert axis.get_ylim()[0] > axis.get_ylim()[1], "row 0 on top"
    figure, = run("04", "cfe3f59f", confusion=np.diag([3, 0, 1])).shown
    same(pictures(figure), [np.diag([1, 0, 1])])


def test_04_bar_of_each_class_has_its_name_colour_number_and_oracle(run):
    iou = np.array([0.65, np.nan, 0.5])
    figure, = run("04", "86caebc8", result={"iou": iou}, oracle=ORACLE).shown
    axis, oracle = figure.axes[0], metrics.scores(ORACLE)["iou"]
    assert bars(axis) == [0.65, 0, 0.5] and names_on(axis) == list(Data.class_names)
    np.testing.assert_allclose([bar.get_facecolor()[:3] for bar in axis.patches], COLORS / 255)
    np.testing.assert_allclose(points(axis)[0], [*zip(oracle, range(3))])
    for place, (bar, text) in enumerate(zip(axis.patches, axis.texts)):
        assert bar.get_y() + bar.get_height() / 2 == text.get_position()[1] == place
    assert [text.get_text() for text in axis.texts] == ["0.65", "absent", "0.50"]
    assert axis.get_ylim()[0] > axis.get_ylim()[1], "class 0 on top"


def test_04_numbers_of_bars_keep_clear_of_the_ticks(run):
    oracle = metrics.scores(ORACLE)["iou"]
    figure, = run("04", "86caebc8", result={"iou": oracle - [0.05, 0.3, -0.05]},
                  oracle=ORACLE).shown
    assert [text.get_ha() for text in figure.axes[0].texts] == ["right", "left", "left"]
    assert all((text.get_position()[0] < bar) == (text.get_ha() == "right")
               for text, bar in zip(figure.axes[0].texts, bars(figure.axes[0])))


def test_04_prints_scores_and_differences(run, capsys):
    run("04", "b6e5e7a7", "band-gap",
        result={"mean_iou": 0.25, "pixel_accuracy": 0.5, "iou": [1]}, widths=(4,),
        curves={"network": [0.1], "oracle, stride 32": [0.4], "oracle, stride 8": [0.9]})
    said = capsys.readouterr().out
    assert re.findall(r"[\d.]+", said) == ["0.2500", "0.5000", "4", "0.100", "0.400", "0.300"]


def test_04_counts_images_in_groups(run, capsys):
    masks, guesses = [TRUTH] * 9 + [OTHER], [LABELS] * 9 + [OTHER]
    run("04", "c357c174", masks=masks, predictions=guesses)
    one, other = (metrics.confusion_matrix(*pair, 3) for pair in ((TRUTH, LABELS), (OTHER, OTHER)))
    tables = {1: [one] * 9 + [other], 8: [8 * one, one + other], 10: [9 * one + other]}
    expected = [
        f"batches of {size:3}: {np.mean([metrics.scores(t)['mean_iou'] for t in found]):.4f}"
                for size, found in tables.items()]
    assert capsys.readouterr().out.splitlines() == expected


def test_04_bands_are_those_of_network_and_oracles(run):
    oracle = Calls(oracle=lambda mask, stride, classes: f"oracle {stride}")
    names = run("04", "ecf5db73", masks=[TRUTH], predictions="network",
                bilinear_oracle=oracle.oracle,
                widths=(1, 2), band_score=lambda width, ids: (width, ids))
    assert names.curves["network"] == [(1, "network"), (2, "network")]
    assert names.curves["oracle, stride 32"][0] == (1, ["oracle 32"])
    assert names.curves["oracle, stride 8"][0] == (1, ["oracle 8"])


def test_04_writes_down_the_scores_and_saves_their_figures(run, tmp_path):
    figures, result = {"iou": Calls(), "confusion": Calls()}, metrics.scores(CONFUSION)
    names = run("04", "8ebe34ba", result=result, oracles=ORACLES, stride_of_model=16, split="val",
                samples=[0] * 8, model=SimpleNamespace(name="net"),
                functions=["majority", "bilinear"],
                strides=(32, 16, 8, 4), lazy={"mean_iou": 0.1}, widths=(1, 2), seconds=4,
                curves={"network": [0.2, 0.3], "oracle, stride 32": [0.8, 0.9]}, folder=tmp_path,
                card={"parameters": {"seed": 3}, "seconds": 60},
                iou_figure=figures["iou"], confusion_figure=figures["confusion"])
    report = names.report
    assert report["iou"] == dict(zip(Data.class_names, result["iou"]))
    assert (report["oracles"]
            == {"majority": ORACLES["majority", 16], "bilinear": ORACLES["bilinear", 16]})
    assert (report["oracles_by_stride"]["majority"]
            == {s: ORACLES["majority", s] for s in (32, 16, 8, 4)})
    assert report["fraction_of_bilinear_oracle"] == result["mean_iou"] / ORACLES["bilinear", 16]
    assert (report["boundary_band_mean_iou"] == {1: 0.2, 2: 0.3}
            and report["baseline_mean_iou"] == 0.1)
    assert (report["split"], report["images"], report["images_per_second"]) == ("val", 8, 2)
    assert report["scores"] == {name: value for name, value in result.items() if name != "iou"}
    for name, figure in figures.items():
        (saved, _), = figure.of("savefig")
        assert saved == (tmp_path / "figures" / f"{name}.png",)


# 05


def test_05_pictures_of_one_photo(run):
    figure, = run("05", "7e187190", pairs=[(PHOTO, TRUTH)], predictions=[LABELS], here=0).shown
    same(pictures(figure), [PHOTO, laid_over(PHOTO, TRUTH), laid_over(PHOTO, LABELS),
                            plots.error_map(TRUTH, LABELS)])
    figure, = run("05", "9cdd1ae9", image=PHOTO, truth=TRUTH, labels=LABELS,
                  confidence=LOGITS[..., 0]).shown
    same(pictures(figure), [PHOTO, LOGITS[..., 0], plots.error_map(TRUTH, LABELS)])
    figure, = run("05", "115ad84f", own=PHOTO, own_ids=LABELS, sure=0.5,
                  lay_over=laid_over).shown
    same(pictures(figure), [PHOTO, laid_over(PHOTO, LABELS)])


def test_05_curves_down_the_middle_and_the_truth_below(run):
    figure, = run("05", "c1b85b54", logits=LOGITS, truth=TRUTH, labels=LABELS).shown
    assert (lines(figure.axes[0])
            == {name: LOGITS[:, 48, c].tolist() for c, name in enumerate(Data.class_names)})
    same(pictures(figure), [painted(TRUTH[None, :, 48])])
    colors = [line.get_color() for line in figure.axes[0].get_lines()]
    np.testing.assert_allclose(colors, COLORS / 255)


def test_05_confidence_and_the_share_that_is_right(run):
    names = run("05", "c3d8d521", "01656883", "844e392a", logits=LOGITS, pairs=[(PHOTO, TRUTH)],
                predictions=[LABELS], model="net", inference=predicts())
    sure = softmax(LOGITS).max(axis=2)
    np.testing.assert_allclose(names.confidence, sure, rtol=1e-5)
    for step in range(10):
        inside = KNOWN & (sure >= step / 10) & (sure < (step + 1) / 10)
        wrong, right = inside & (LABELS != TRUTH), inside & (LABELS == TRUTH)
        assert names.counts[:, step].tolist() == [wrong.sum(), right.sum()]
    figure, = run("05", "fd430918", counts=np.array([range(10), [9] * 10])).shown
    assert bars(figure.axes[0], "height") == pytest.approx([9 / (9 + step) for step in range(10)])


def test_05_ranks_photos_by_their_score(run):
    ids = [LABELS, TRUTH % 3, OTHER, OTHER[::-1]]
    ranked = Calls()
    names = run("05", "b1ec03c4", "64d4facb", "65a7c691", "9dd5ed37", pairs=[(PHOTO, TRUTH)] * 4,
                predictions=ids, show_ranked=ranked.show)
    scores = [metrics.scores(metrics.confusion_matrix(TRUTH, guess, 3))["mean_iou"]
              for guess in ids]
    assert names.each.tolist() == scores and names.order[-1] == 1
    highest, lowest = (given[0].tolist() for given, _ in ranked.of("show"))
    assert (highest == np.argsort(scores)[::-1][:2].tolist()
            and lowest == np.argsort(scores)[:3].tolist())
    drawn = []
    compare = SimpleNamespace(comparison=lambda rows, *args: drawn.append((rows, args[2])),
                              show=lambda *a, **k: 0)
    names = run("05", "6ad51516", pairs=[(PHOTO, TRUTH)] * 3, predictions=ids, each=scores,
                plots=compare)
    names.show_ranked([2], "alt")
    (rows, notes), = drawn
    same(rows[0], [PHOTO, TRUTH, OTHER])
    assert notes == [f"mean IoU {scores[2]:.2f}"]


def test_05_keeps_photo_truth_and_prediction_under_their_names(run, tmp_path):
    run("05", "ffe21d76", folder=tmp_path, image=PHOTO, truth=TRUTH, labels=LABELS, rows=[],
        notes=[], plots=SimpleNamespace(DPI=9, comparison=lambda *_: Calls()))
    for name, expected in (("photo", PHOTO), ("sem_seg", painted(TRUTH)),
                           ("sem_seg_inf", painted(LABELS))):
        same(np.array(Image.open(tmp_path / "figures" / f"{name}.png")), expected)


def test_05_guesses_and_scores_of_photos(run):
    masks = [RNG.integers(0, 2, (64, 64), np.uint8).repeat(k, axis=0)[:64] for k in (1, 4, 16)]
    photos = [np.full((64, 64, 3), 9, np.uint8), *RNG.integers(0, 255, (2, 64, 64, 3), np.uint8)]
    names = run("05", "0a64f050", pairs=list(zip(photos, masks)), image_score=lambda mask,
                ids: ids.mean())
    assert names.near_border.tolist() == [metrics.boundary_band(mask, 4).mean() for mask in masks]
    assert names.contrast.tolist() == [photo.std() for photo in photos]
    values = {"contrast": np.array([1.0, 2, 4]), "near_border": np.array([0.5, 0.1, 0.3]),
              "oracle": np.array([0.7, 0.9, 0.8])}
    each = np.array([0.2, 0.3, 0.5])
    figure, = run("05", "11dc9cbb", scored=np.arange(3), each=each, **values).shown
    labels = ["contrast of the photo", "share within 4 pixels of a border",
              "mean IoU of the oracle"]
    for axis, label, guess in zip(figure.axes, labels, values.values()):
        assert axis.get_xlabel() == label
        assert points(axis) == [np.transpose([guess, each]).tolist()]
        assert axis.get_title() == f"r = {np.corrcoef(guess, each)[0, 1]:.2f}, n = 3"


def test_05_rows_say_how_much_is_wrong(run):
    names = run("05", "fa5a3efd", pairs=[(PHOTO, TRUTH), (PHOTO, OTHER)],
                predictions=[LABELS, OTHER], here=0)
    assert (names.notes == [f"errors, {(LABELS != TRUTH)[KNOWN].mean():.1%} of pixels",
                            "errors, 0.0% of pixels"])
    same(names.rows[0], [PHOTO, TRUTH, LABELS])


def test_05_scores_and_pictures_of_each_size(run):
    labelled = {"cut-out": TRUTH[:49, :49] % 3, "half size": LABELS[::2, ::2],
                "double size": OTHER.repeat(2, axis=0).repeat(2, axis=1)}
    sizes = {name: RNG.integers(0, 255, (*ids.shape, 3), np.uint8)
             for name, ids in labelled.items()}
    names = run("05", "b1ec03c4", "833543f4", "e7f9f437", labelled=labelled, sizes=sizes,
                truth=TRUTH, cut=(slice(49), slice(49)), height=64, width=96, image=PHOTO,
                labels=LABELS,
                lay_over=laid_over, each=[0.5], here=0)
    half = LABELS[::2, ::2].repeat(2, axis=0).repeat(2, axis=1)
    assert names.at_size == {
        "cut-out": 1.0,
        "half size": metrics.scores(metrics.confusion_matrix(TRUTH, half, 3))["mean_iou"],
        "double size": metrics.scores(metrics.confusion_matrix(TRUTH, OTHER, 3))["mean_iou"]}
    figure, = names.shown
    same(pictures(figure), [laid_over(PHOTO, LABELS),
                            *(laid_over(sizes[name], ids) for name, ids in labelled.items())])
    assert ([axis.get_title() for axis in figure.axes[:2]]
            == ["own size: mean IoU 0.50", "cut-out: mean IoU 1.00"])


def test_05_sizes(run):
    image = np.uint8(np.indices((64, 96)).sum(axis=0) % 2 * 200)[..., None].repeat(3, axis=2)
    names = run("05", "aef8da96", image=image, truth=TRUTH)
    same([names.sizes["cut-out"]], [image[:49, :49]])
    assert (names.sizes["half size"] == 100).all(), "each pixel is the mean of four"
    assert names.sizes["double size"].shape == (128, 192, 3)


# 06


def test_06_parameters_reach_the_training_runs(run):
    names = run("06", "e70cfa29", dataset="", data_dir="", seed=3, image_size=48,
                batch_size=5, epochs=2,
                learning_rate=0.1, datasets=Calls(load_dataset=lambda *args: Data()))
    recipe = names.recipe
    assert ((recipe.image_size, recipe.batch_size, recipe.epochs, recipe.learning_rate)
            == (48, 5, 2, 0.1))
    trained = Calls()
    run("06", "f8c894dc", training=trained, recipe=recipe, folder=_Folder("runs"),
        start="start.keras", precision="float32", seed=3)
    for stride, (given, options) in zip((32, 16, 8), trained.of("train"), strict=True):
        assert given[1:] == (recipe, f"runs/fcn{stride}s")
        assert (options
                == {"stride": stride, "weights": "start.keras", "precision": "float32", "seed": 3})


class _Folder(str):
    def __truediv__(self, name):
        return f"{self}/{name}"


def test_06_pictures(run):
    cells = RNG.integers(0, 3, (2, 3))
    legend = {"class_names": Data.class_names, "colors": COLORS}
    figure, = run("06", "dabd86bf", photo=PHOTO, truth=TRUTH, cells=cells, coarse=LABELS,
                  legend=legend).shown
    same(pictures(figure), [PHOTO, painted(TRUTH), painted(cells), painted(LABELS)])
    features = [RNG.random((side, side, 5)) for side in (8, 4, 2)]
    figure, = run("06", "0d507a67", photo=PHOTO, features=features).shown
    for axis, feature, block in zip(figure.axes[1:], features, (3, 4, 5)):
        assert axis.get_title().startswith(f"pool {block}: {len(feature)}×{len(feature)} cells")
        strength = np.sqrt((feature ** 2).mean(axis=2))
        np.testing.assert_allclose(axis.get_images()[0].get_array(), strength / strength.max())
    windows = [(9, (slice(0, 32), slice(0, 40))), (8, (slice(8, 40), slice(16, 56)))]
    predictions = {32: [LABELS, OTHER], 16: [OTHER, LABELS], 8: [TRUTH % 3, LABELS]}
    figure, = run("06", "a132e94e", chosen=[1, 0], masks=[TRUTH, OTHER],
                  images=[PHOTO, 255 - PHOTO],
                  predictions=predictions, windows=windows, legend=legend).shown
    rows = [(255 - PHOTO, painted(OTHER), painted(OTHER), painted(LABELS), painted(LABELS),
             windows[1][1]),
            (PHOTO, painted(TRUTH), painted(LABELS), painted(OTHER), painted(TRUTH % 3),
             windows[0][1])]
    same(pictures(figure), [picture[window] for *row, window in rows for picture in row])


def test_06_scores_and_prints_those_of_each_network(run, capsys):
    trained = {stride: SimpleNamespace(model=f"net{stride}", seconds=stride)
               for stride in (32, 16, 8)}
    labels = {"net32": LABELS, "net16": OTHER, "net8": TRUTH % 3}
    names = run("06", "14fba508", "c83e5adf", trained=trained, images=[PHOTO], masks=[TRUTH],
                num_classes=3,
                inference=predicts(**labels))
    for stride, scores in names.result.items():
        expected = metrics.scores(metrics.confusion_matrix(TRUTH, labels[f"net{stride}"], 3))
        assert scores["mean_iou"] == expected["mean_iou"]
    for done in trained.values():
        done.model = SimpleNamespace(count_params=lambda: 7)
    result = {stride: {"mean_iou": score} for stride, score in ((32, 0.2), (16, 0.3), (8, 0.4))}
    capsys.readouterr()
    run("06", "404c3571", trained=trained, result=result, oracles={32: 0.4, 16: 0.5, 8: 0.5})
    assert [re.findall(r"[\d.]+", line) for line in capsys.readouterr().out.splitlines()] == [
        ["32", "0.200", "0.50", "7", "32"], ["16", "0.300", "0.60", "7", "16"],
        ["8", "0.400", "0.80", "7", "8"]]
    run("06", "3b4a9676", curves={"FCN-8s": [0.5], "FCN-32s": [0.2], "FCN-16s": [0.1]}, widths=(1,))
    assert "+0.300" in capsys.readouterr().out
    run("06", "9971c637", before=1, step0=2, changed=0.25,
        score_split=lambda k: {"mean_iou": k / 10})
    assert re.findall(r"0\.\d+|[\d.]+%", capsys.readouterr().out) == ["25.0%", "0.100", "0.200"]


def test_06_compares_the_network_with_a_skip_of_zeros(run):
    names = run("06", "step0-06", images=[PHOTO], fcn32="fcn32", fcn16="fcn16",
                inference=predicts(fcn32=LABELS, fcn16=OTHER))
    same([names.before[0], names.step0[0]], [LABELS, OTHER])
    assert names.changed == np.mean(LABELS != OTHER)


def test_06_draws_the_parts_of_one_score(run):
    # deep layer, pool 4, pool 3, sum
    maps = [RNG.normal(size=(side, side)) for side in (2, 4, 8, 8)]
    figure, = run("06", "bf54afe1", photo=PHOTO, maps=maps, one=1).shown
    deep, pool4, pool3, total = maps
    same(pictures(figure)[:5], [PHOTO, deep, total, pool4, pool3])
    titles = [axis.get_title() for axis in figure.axes[:5]]
    assert titles == ["photo", "deep layer", "sum of all", "what pool 4 adds", "pool 3 adds"]


def test_06_charts(run):
    iou = np.array([0.5, 0.25, 0.75])
    result = {stride: {"mean_iou": score, "pixel_accuracy": 0.99, "iou": iou + score}
              for stride, score in ((32, 0.25), (16, 0.5), (8, 0.75))}
    figure, = run("06", "59c83fa1", result=result, oracles={32: 0.8, 16: 0.85, 8: 0.9}).shown
    assert bars(figure.axes[0], "height") == [0.25, 0.5, 0.75, 0.8, 0.85, 0.9]
    assert names_on(figure.axes[0], "x") == ["FCN-32s", "FCN-16s", "FCN-8s"]
    figure, = run("06", "683f34ae", predictions={32: 1, 16: 2, 8: 3}, oracle_labels={32: 4, 8: 5},
                  band_scores=lambda labels: [labels] * 6, widths=(1, 2, 4, 8, 12, 20)).shown
    assert {name: values[0] for name, values in lines(figure.axes[0]).items()} == {
        "FCN-32s": 1, "FCN-16s": 2, "FCN-8s": 3, "bilinear oracle, stride 32": 4,
        "bilinear oracle, stride 8": 5}
    thinness = np.array([0.1, 0.2, 0.9])
    figure, = run("06", "0b69d4fb", result=result, thinness=thinness).shown
    assert points(figure.axes[0]) == [[[x, 0.5] for x in thinness]]
    colors = figure.axes[0].collections[0].get_facecolors()[:, :3]
    np.testing.assert_allclose(colors, COLORS / 255)


def test_06_names_stand_beside_their_points_and_clear_of_others(run):
    result = {8: {"iou": np.array([0.3, 0.31, np.nan])}, 32: {"iou": np.zeros(3)}}
    figure, = run("06", "0b69d4fb", result=result, thinness=np.array([0.1, 0.11, np.nan])).shown
    named = {text.get_text(): (*text.xy, text.get_ha()) for text in figure.axes[0].texts}
    assert named["ground"] == (0.1, 0.3, "left") and named["block"] == (0.11, 0.31, "left")
    result[8]["iou"] = np.array([0.3, 0.3, 0.9])
    figure, = run("06", "0b69d4fb", result=result, thinness=np.array([0.1, 0.11, 0.9])).shown
    assert [text.get_ha() for text in figure.axes[0].texts] == ["right", "left", "left"]
    figure.canvas.draw()


# 07


def test_07_pictures(run):
    own = np.uint8([0, 2, 1, *[255] * 253])
    colors = np.vstack([COLORS, [(9, 9, 9)]])
    asked = Calls(predict=lambda network, image: LABELS if image.any() else OTHER)
    opened = {"photo": PHOTO, "mask": Image.fromarray(painted(TRUTH))}
    figure, = run("07", "e5d881bf", source=_Text(), own_class=own, colors=colors, inference=asked,
                  opened=opened.get, photo=lambda number: "photo", mask=lambda number: "mask",
                  models=Calls(load=lambda file: "learned")).shown
    same(pictures(figure)[:3], [PHOTO, painted(TRUTH), painted(own[LABELS])])
    for given, _ in asked.of("predict"):
        same([given[1]], [PHOTO])
    networks = {"scratch": LABELS, "frozen": OTHER, "tuned": TRUTH % 3}
    figure, = run("07", "0c1f1d6c", scored_pairs=[(PHOTO, TRUTH)], inference=predicts(**networks),
                  **{name: name for name in networks}).shown
    same(pictures(figure), [PHOTO, *map(painted, (TRUTH, *networks.values()))])
    figure, = run("07", "outlines-drawn", images=Calls(read_mask=lambda file: LABELS), first="",
                  drawn=PHOTO).shown
    same(pictures(figure), [painted(LABELS), PHOTO])


class _Text(str):
    def __truediv__(self, name):
        return self

    def read_text(self):
        return ""


def test_07_bars_of_each_class(run):
    results = {name: {"mean_iou": 0.1 * k, "iou": 0.1 * k + np.array([0.01, 0.02, 0.03])}
               for k, name in enumerate(("from scratch", "frozen, 5 photos", "frozen",
                                         "fine-tuned"), 1)}
    figure, = run("07", "b786df12", results=results).shown
    expected = [value for row in results.values() for value in (row["mean_iou"], *row["iou"])]
    assert bars(figure.axes[0], "height") == pytest.approx(expected)
    assert names_on(figure.axes[0], "x") == ["mean", *Data.class_names]


def test_07_fit_uses_all_of_the_recipe(run):
    recipe = recipes.Recipe(image_size=32, batch_size=2, epochs=4, optimizer="adam",
                            scale=(0.9, 1.1),
                            class_weights="median")
    trained = Calls(class_weights=lambda rule, pairs, classes: ("weights", rule, pairs, classes))
    cut = Calls(batches=lambda *args, **options: "crops", DecodedPairs=lambda samples,
                read: samples)
    pairs = [(PHOTO, TRUTH)] * 6
    names = run("07", "3a78c641", recipe=recipe, train_pairs=pairs, training=trained,
                pipeline=cut, seed=3)
    model = Calls()
    names.fit(model, pairs[:4], 0.1, share=0.5)
    weights = "weights", "median", pairs, 3
    assert trained.of("compile_model") == [((model, 3, 0.1, 6, weights, "adam"), {})]
    assert cut.of("batches") == [((pairs[:4],), {
        "image_size": 32, "batch_size": 2, "augment": True, "shuffle": True, "seed": 3,
        "scale": (0.9, 1.1), "epochs": 3})]
    (given, options), = model.of("fit")
    assert given == ("crops",) and (options["steps_per_epoch"], options["epochs"]) == (2, 3)


def test_07_parameters_reach_recipe_and_networks(run):
    given = {name: value for name, value in GIVEN.items() if name != "optimizer"}
    built, seeds = Calls(), Calls()
    names = run("07", "4c587f81", "9968e7ef", weights="file", data_dir="", seed=3,
                precision="float32",
                models=built, keras=SimpleNamespace(utils=seeds), **given)
    assert {name: getattr(names.recipe, name) for name in given} == given and names.rate == 0.1
    names.build("start")
    assert built.of("fcn") == [((), {"num_classes": 3, "stride": 8, "backbone": "vgg16",
                                     "weights": "start",
                                     "precision": "float32"})]
    assert seeds.of("set_random_seed") == [((3,), {})]


def test_07_saves_the_fine_tuned_network_with_its_settings(run, tmp_path):
    network, saved = Calls(), Calls(save=lambda *args,
                                    **options: tmp_path / "own-1" / "model.keras")
    run("07", "b41127e4", models=Calls(fcn=lambda **options: network), arguments={"stride": 8},
        tuned=Calls(get_weights=lambda: "tuned"), recipe=Data.recipe, weights="",
        policy="float32", seed=3,
        runs=saved, place=tmp_path / "own-1")
    assert network.of("set_weights") == [(("tuned",), {})]
    parameters = saved.of("save")[0][1]["parameters"]
    assert (parameters
            == {**Data.recipe.values(), "weights": "meadow", "precision": "float32", "seed": 3})


def test_07_what_each_network_learns_from(run):
    done = Calls()
    build, learn, fit = done.build, done.learn, done.fit
    done.functions["build"] = lambda start: f"from {start}"
    run("07", "1c0e1778", "381b75b2", build=build, learn=learn, fit=fit, start="meadow",
        frozen="frozen",
        train_pairs="all", few_pairs="five", rate=0.3)
    assert [given for given, _ in done.of("fit")] == [
        ("from None", "all", 0.3), ("frozen", "all", pytest.approx(0.9)),
        ("from meadow", "five", pytest.approx(0.9)), ("from meadow", "all", pytest.approx(0.9)),
        ("from meadow", "all", pytest.approx(0.1))]
    assert [options.get("share") for _, options in done.of("fit")] == [None] * 3 + [0.5] * 2
    assert [options["everything"] for _, options in done.of("learn")] == [False, False, True]


def test_07_scores_the_split_it_names_and_ranks_by_loss(run):
    asked = Calls(evaluate=lambda model, data, split: CONFUSION)
    run("07", "08c9fe34", inference=asked, split="val", few_pairs=[1] * 5, scratch=1, few=2,
        frozen=3, tuned=4)
    assert [given[2] for given, _ in asked.of("evaluate")] == ["val"] * 4
    assert [given[0] for given, _ in asked.of("evaluate")] == [1, 2, 3, 4]
    losses = {(f"{i}", "mask"): value for i, value in enumerate([3, 9, 1, 8, 2, 7, 6, 5, 4])}
    names = run("07", "hardest-photos", only="hardest =", losses=losses)
    assert [name for name, _ in names.hardest] == ["1", "3", "5", "6", "7", "8", "0"]


def test_07_asks_a_network_trained_with_the_faulty_masks(run):
    unchecked = Data()
    unchecked.splits = {"train": ["train 0"], "val": ["val 0", "val 1"]}
    unchecked.split = lambda name: f"faulty {name}"
    done = Calls(build=lambda start: "judge", fit=lambda model, pairs, peak, share: None)
    names = run("07", "ask-losses", data_dir="", unchecked=unchecked, start="meadow",
                build=done.build,
                learn=done.learn, fit=done.fit, rate=0.3, inference=predicts(), frozen="frozen",
                pipeline=Calls(DecodedPairs=lambda samples, read: samples))
    (given, options), = done.of("fit")
    assert given[:2] == ("judge", "faulty train") and options == {"share": 0.25}
    assert done.of("learn") == [(("judge",), {"everything": False})]
    rows, columns = np.nonzero(KNOWN)
    expected = -np.log(softmax(LOGITS)[rows, columns, TRUTH[KNOWN]]).mean()
    assert (names.losses
            == {name: pytest.approx(expected, rel=1e-4) for name in ("train 0", "val 0", "val 1")})


def test_07_draws_the_outlines_of_the_shapes(run, tmp_path):
    (tmp_path / "to_correct").mkdir()
    (tmp_path / "images").mkdir()
    shape = {"points": [[10, 20], [60, 20], [60, 50]]}
    (tmp_path / "to_correct" / "one.json").write_text(json.dumps({"shapes": [shape]}))
    Image.fromarray(PHOTO).save(tmp_path / "images" / "one.png")
    drawn = np.array(run("07", "c91690e0", place=tmp_path, predicted=tmp_path,
                         first=tmp_path / "one.png").drawn)
    yellow = (drawn == (255, 255, 0)).all(axis=2)
    assert yellow[20, 10:60].all() and yellow[20:50, 60].all() and yellow[35, 35], "three sides"
    assert yellow.sum() < 500 and np.array_equal(drawn[~yellow], PHOTO[~yellow])


# 08


def test_08_parameters_reach_the_grid(run):
    given = {"dataset": "voc", "data_dir": "here", "image_size": 48, "batch_size": 5, "epochs": 2}
    assert run("08", "9d6e33b1", **given).grid == {**given, "stride": [32, 8], "seed": [0, 1]}
    usual = run("08", "9d6e33b1", **given | {"image_size": 0, "batch_size": 0, "epochs": 0}).fixed
    assert usual == {**given, "image_size": 96, "batch_size": 8, "epochs": 6}


def test_08_small_notebook_trains_what_its_parameters_say(run):
    code = run("08", "b380a9bc").train_and_score.partition("\n\n")[2]
    trained = Calls(train=lambda *args, **options: SimpleNamespace(history=ROWS))
    written = Calls()
    exec(code, {"datasets": Calls(load_dataset=lambda *args: Data()), "runs": written,
                "training": trained,
                "dataset": "", "data_dir": "", "run_dir": "here", "image_size": 48, "batch_size": 5,
                "epochs": 2, "stride": 8, "seed": 3})
    (given, options), = trained.of("train")
    assert options == {"stride": 8, "seed": 3} and given[2] == "here"
    assert (given[1].image_size, given[1].batch_size, given[1].epochs) == (48, 5, 2)
    assert written.of("write_json")[0][0][1] == {"split": "val", "scores": {"mean_iou": 0.3}}


def test_08_rows_curves_and_pictures(run, tmp_path):
    board = [{"parameters": {"stride": stride, "seed": seed}, "split": "val",
              "point": f"{stride}-{seed}",
              "scores": {"mean_iou": (10 if stride == 8 else 1) * (seed + 1)}}
             for stride in (32, 8) for seed in (0, 1)]
    figure, = run("08", "scores-at", "the-idea-drawn", "3f408e9f", board=board,
                  seeds_of={"net": [1]}).shown[1:]
    drawn = [[x for x, _ in dots] for dots in points(figure.axes[0])]
    assert (drawn == [[1, 2], [1.5], [10, 20], [15]]
            and names_on(figure.axes[0]) == ["stride 32", "stride 8"])
    figure, = run("08", "curves-of-points", board=board,
                  history=lambda row: [(1, row["scores"]["mean_iou"]), (2, 0)]).shown
    assert {name: values[0] for name, values in lines(figure.axes[0]).items()} == {
        "stride 32, seed 0": 1, "stride 32, seed 1": 2, "stride 8, seed 0": 10,
        "stride 8, seed 1": 20}
    loaded = run("08", "pictures-of-points", board=board, folder=tmp_path, models=Calls(load=str))
    assert loaded.network(8).endswith("strides/8-0/model.keras")
    figure, = run("08", "pictures-drawn", gains=[0.1, 0.4, 0.2], coarse=[None, LABELS],
                  fine=[None, OTHER],
                  scenes=[None, (PHOTO, TRUTH)]).shown
    same(pictures(figure), [PHOTO, *map(painted, (TRUTH, LABELS, OTHER))])


def stored(name):
    return json.loads((runs.ROOT / "results" / name).read_text("utf-8"))


def test_08_draws_the_numbers_that_are_stored(run, capsys):
    names = run("08", "the-idea-figure", "the-idea-drawn", "6c689f49", "sigma", "bar-of-chance",
                "val-against-test", "val-against-test-numbers", "29e26c21", "luck-figure")
    idea, chance, both, luck = (figure.axes[0] for figure in names.shown)
    variants = stored("strides_meadow.json")["trainings"]
    for place, name in enumerate(("32s, trained on", "16s", "8s")):
        scores = [training["mean_iou"] for training in variants[name]]
        assert points(idea)[2 * place] == [[score, place] for score in scores]
    val, test = zip(*[(training["val_mean_iou"], training["mean_iou"])
                      for training in stored("reference/meadow.json")["trainings"]])
    sigma, seeds = np.std(test, ddof=1), np.arange(1, 11)
    np.testing.assert_allclose(chance.get_lines()[0].get_ydata(), 2 * sigma * (2 / seeds) ** 0.5)
    assert points(both)[0] == [list(pair) for pair in zip(val, test)]
    better = sum(score > test[np.argmax(val)] for score in test)
    said = capsys.readouterr().out
    assert f"seed {np.argmax(val)}; on test {better} of" in said
    assert f" 3 seeds each: below {2 * sigma * (2 / 3) ** 0.5:.3f}" in said
    tries = names.tries
    assert names.luck == pytest.approx(np.mean([max(row) for row in tries]) - tries.mean())
    edges = np.linspace(0.67, 0.75, 41)
    heights = [bar.get_height() for bar in luck.patches]
    assert heights == [*np.histogram(tries[:, 0], edges)[0],
                       *np.histogram([max(row) for row in tries], edges)[0]]


def test_08_draws_a_step_alone_and_together(run, capsys):
    figure, = run("08", "49449bf3", "scaling-figure").shown
    steps = [stored("scaling.json")["step"][number] for number in "12"]
    computing = [step["processor_seconds"] for step in steps]
    waiting = [step["seconds"] - step["processor_seconds"] for step in steps]
    assert bars(figure.axes[0]) == pytest.approx(computing + waiting)
    said = capsys.readouterr().out.splitlines()
    assert [line.split(" s ")[0] for line in said[:2]] == [
        f"{name}: {step['seconds']:.2f}" for name, step in zip(("alone", "together"), steps)]


def test_08_curves_are_of_the_validation(run, tmp_path):
    (tmp_path / "strides" / "a").mkdir(parents=True)
    rows = [{"epoch": 1, "mean_iou": 0.5}, {"epoch": 2, "mean_iou": 0.6, "val_mean_iou": 0.4}]
    (tmp_path / "strides" / "a" / "history.json").write_text(json.dumps(rows))
    assert run("08", "read-histories", folder=tmp_path).history({"point": "a"}) == [(2, 0.4)]


def test_08_prints_the_lead_of_stride_8(run, capsys):
    run("08", "df56a698", board=[], sweep_board=Calls(table=lambda board: ""),
        scores_at={8: [0.4, 0.5], 32: [0.1, 0.3]}.get)
    assert capsys.readouterr().out.strip() == "lead of stride 8: 0.250"


def test_08_gain_is_of_the_finer_network(run):
    right = np.where(KNOWN, TRUTH, 0).astype("uint8")
    data = Data()
    names = run("08", "pictures-predicted", data=data, network=lambda stride: f"net{stride}",
                inference=predicts(net32=LABELS, net8=right))
    assert min(names.gains) > 0.4


# 09


def test_09_mistakes_and_their_pictures(run):
    seen = []

    def predict(model, photo):
        seen.append(np.array(photo))
        return (LABELS, OTHER, TRUTH % 3)[len(seen) - 1]

    figure, = run("09", "f5e777f9", image=PHOTO, model=None,
                  inference=SimpleNamespace(predict=predict),
                  over=laid_over, legend={}).shown
    normalised = (PHOTO - np.array([123.68, 116.779, 103.939])) / 58
    same(seen[:2], [PHOTO, PHOTO[..., ::-1]])
    np.testing.assert_allclose(seen[2], normalised, atol=1e-4)
    same(pictures(figure), [laid_over(PHOTO, ids) for ids in (LABELS, OTHER, TRUTH % 3)])
    differ = [np.mean(ids != LABELS) for ids in (LABELS, OTHER, TRUTH % 3)]
    assert [axis.get_title() for axis in figure.axes] == [
        f"{name}: {share:.0%} differ"
        for name, share in zip(("as it should be", "blue first", "normalised twice"), differ)]


def test_09_ranges_are_measured_on_training_photos(run, tmp_path):
    read = []
    data = Data()
    data.read = lambda sample: read.append(sample) or (PHOTO, TRUTH)
    written = Calls()
    run("09", "37n5d4e7", data=data, calibration=3, image=PHOTO[:32, :48],
        samples=data.split("test"),
        split="test", model="model", folder=tmp_path, export=written, litert_runner=str)
    assert read == ["train 0", "train 3", "train 6"]
    assert [photo.shape for photo in written.of("to_int8")[0][0][2]] == [(32, 48, 3)] * 3


def test_09_figures(run):
    logits = {"float": LOGITS, "int8": LOGITS + RNG.normal(size=LOGITS.shape)}
    figure, = run("09", "staircase-figure", ids=np.full((64, 96), 2), image=PHOTO,
                  by_litert=lambda image: logits["float"],
                  by_int8=lambda image: logits["int8"]).shown
    before, after = (values[..., 2].ravel()[::7] for values in logits.values())
    np.testing.assert_allclose(points(figure.axes[0])[0],
                               np.transpose([before, after - before]), rtol=1e-5)
    figure, = run("09", "eight-bits-figure", "eight-bits-drawn", as_shipped=False,
                  image=PHOTO, ids=LABELS,
                  over=laid_over, by_int8=lambda image: LOGITS, legend={}).shown
    labels = LOGITS.argmax(axis=2).astype("uint8")
    same(pictures(figure),
         [laid_over(PHOTO, LABELS), laid_over(PHOTO, labels), plots.error_map(LABELS, labels)])
    speed = {"Keras": 3.0, "LiteRT": 1.0, "LiteRT, 8 bits": 0.5}
    figure, = run("09", "2f22dadd", speed=speed, size={"LiteRT": 3, "LiteRT, 8 bits": 0.5}).shown
    assert bars(figure.axes[0]) == list(speed.values()) and names_on(figure.axes[0]) == list(speed)


def test_09_counts_operations_and_times_one_run(run):
    kinds = [name for i, name in enumerate("abcdefghij", 1) for _ in range(i)]
    graph = SimpleNamespace(node=[SimpleNamespace(op_type=kind) for kind in kinds])
    figure, = run("09", "operations", stored=SimpleNamespace(graph=graph)).shown
    assert bars(figure.axes[0]) == [10, 9, 8, 7, 6, 5, 4, 3]
    assert names_on(figure.axes[0]) == list("jihgfedc")
    clock, called = iter([0, 0.5, 1, 1.25, 2, 9]), []
    names = run("09", "a214a24c", time=SimpleNamespace(perf_counter=lambda: next(clock)))
    assert names.milliseconds(called.append, "photo", times=3) == 500 and len(called) == 4


@pytest.mark.parametrize("five", [True, False])
def test_09_frames_are_red_first_with_labels_over_them(run, tmp_path, five):
    file = tmp_path / f"walk.mp4{'.overlay.mp4' if five else ''}"
    video = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*"mp4v"), 12, (96, 64))
    for _ in range(3):
        video.write(np.full((64, 96, 3), (20, 60, 220), np.uint8))  # blue first: a red frame
    video.release()
    frames = run("09", "b9a5e6c6", visit=tmp_path, FIVE=five, over=laid_over,
                 by_opencv=lambda photo: LOGITS).frames
    expected = np.full((64, 96, 3), (220, 60, 20), np.uint8)
    if not five:  # the script has not labelled the film
        expected = laid_over(expected, LOGITS.argmax(axis=2))
    assert np.shape(frames) == (3, 64, 96, 3)
    assert np.abs(np.subtract(frames, expected, dtype=float)).mean(axis=(1, 2, 3)).max() < 8


def test_09_formats_are_compared_with_keras(run):
    expected = [LOGITS, 2 * LOGITS]
    found = {"one": [LOGITS, 2 * LOGITS], "other": [LOGITS, LOGITS]}
    names = run("09", "difference", "4ed59d88", found=found, expected=expected)
    assert names.differences == {"one": [0, 0], "other": [0, pytest.approx(0.5)]}
    figure, = run("09", "d20db72e", differences={"one": [1e-6, 2e-6], "other": [3e-6, 4e-6]},
                  sizes=["a", "b"]).shown
    assert bars(figure.axes[0], "height") == pytest.approx([1, 2, 3, 4])


def test_09_runners_sizes_and_scores(run, tmp_path, capsys):
    files = {name: tmp_path / name for name in ("onnx", "litert", "saved", "int8")}
    for size, file in enumerate(files.values(), 1):
        file.write_bytes(bytes(size * 1_000_000))
    readers = dict.fromkeys(("ONNX Runtime", "OpenCV", "LiteRT", "SavedModel"))
    names = run("09", "megabytes", "c91f6d33", model=None, image=PHOTO, origin="",
                by_calling=None, by_int8=None,
                readers=readers, milliseconds=lambda runner, photo: 1.0, onnx_file=files["onnx"],
                litert_file=files["litert"], saved_folder=files["saved"], int8_file=files["int8"])
    assert (names.size
            == {"ONNX Runtime": 1, "OpenCV": 1, "LiteRT": 2, "SavedModel": 3, "LiteRT, 8 bits": 4})
    scores = {"float": {"iou": [0.5, 0.6, 0.7], "mean_iou": 0.6},
              "int8": {"iou": [0.4, 0.5, 0.6], "mean_iou": 0.5}}
    names = run("09", "60833d21", score=scores.get, by_litert="float", by_int8="int8")
    assert names.drop == pytest.approx(0.1) and names.rows[0] == ("ground", 0.5, 0.4)
    assert capsys.readouterr().out.count("+0.100") == 4  # a loss is a drop above zero
    runner = Calls(litert_runner=lambda file: f"runs {file}")
    names = run("09", "five-shapes", photos=[], litert_runner=runner.litert_runner,
                litert_file="tflite",
                by_onnx_runtime="onnx", by_opencv="opencv", by_saved_model="saved")
    assert list(names.readers.values()) == ["onnx", "opencv", "runs tflite", "saved"]
    assert list(names.readers) == ["ONNX Runtime", "OpenCV", "LiteRT", "SavedModel"]


def test_09_shows_four_frames_in_their_order(run):
    frames = [np.full((8, 8, 3), number, np.uint8) for number in range(16)]
    figure, = run("09", "aabbaa2c", frames=frames).shown
    assert [picture[0, 0, 0] for picture in pictures(figure)] == [0, 5, 10, 15]
    assert [axis.get_title() for axis in figure.axes] == ["first frame", "6th", "11th", "16th"]


def test_09_scores_every_photo_with_the_format(run):
    formats = Calls(run=lambda photo: LOGITS)
    names = run("09", "score-function", pairs=[(PHOTO, TRUTH), (PHOTO, OTHER)])
    labels = LOGITS.argmax(axis=2).astype("uint8")
    total = sum(metrics.confusion_matrix(mask, labels, 3) for mask in (TRUTH, OTHER))
    assert names.score(formats.run)["mean_iou"] == metrics.scores(total)["mean_iou"]
    names = run("09", "62e19b8b", samples=Data().split("test"), scored=4, image=PHOTO, truth=TRUTH)
    assert len(names.pairs) == 4


# Appendix


def test_a1_scores_of_the_horse_and_times_of_each_way(run):
    resized, transposed = RNG.normal(size=(2, 1, 64, 64, 3))
    difference = RNG.random((64, 64))
    figure, = run("A1", "a1-border-figure",
                  meadow=SimpleNamespace(class_names=["ground", "horse", "disc"]),
                  resized=resized, transposed=transposed, difference=difference).shown
    same(pictures(figure), [resized[0, ..., 1], transposed[0, ..., 1], difference])
    called = Calls()
    ways = Calls(Conv2DTranspose=lambda *args, **options: called.transposed,
                 UpSampling2D=lambda *args, **options: called.resized)
    run("A1", "a1-times", scores=np.zeros(1), layers=ways,
        BilinearUpsampling=lambda factor: called.products)
    assert [len(called.of(name)) for name in ("transposed", "resized", "products")] == [11] * 3
    assert ways.of("UpSampling2D") == [((32,), {"interpolation": "bilinear"})]


def test_a2_rounds_of_newton_schulz(run):
    gradient = RNG.normal(size=(432, 64)).astype("float32")
    muon = SimpleNamespace(zeropower_via_newtonschulz5=lambda kernel, n: n * np.array(kernel))
    names = run("A2", "a2-newton", gradient=gradient, training=Calls(Muon=lambda: muon))
    values = np.linalg.svd(gradient, compute_uv=False)
    for found, factor in zip(names.after, (1 / np.linalg.norm(gradient), 1, 2, 3)):
        np.testing.assert_allclose(found, factor * values, rtol=1e-3)
    muon = SimpleNamespace(muon_a=3.0, muon_b=-4.0, muon_c=2.0)
    figure, = run("A2", "a2-newton-figure", after=[np.arange(64) + 100 * n for n in range(4)],
                  muon=muon).shown
    left, right = figure.axes
    assert ({name: values[0] for name, values in lines(left).items()}
            == {"0": 0, "1": 100, "2": 200, "3": 300})
    start, once, *_ = lines(right).values()
    np.testing.assert_allclose(once, [3 * s - 4 * s ** 3 + 2 * s ** 5 for s in start], atol=1e-9)


def test_a2_losses_have_the_name_of_their_run(run):
    figure, = run("A2", "a2-adam-muon", quick_run=lambda optimizer: [optimizer == "muon"] * 2).shown
    assert lines(figure.axes[0]) == {"Adam": [0, 0], "Muon": [1, 1]}
    given = Calls(quick_run=lambda *options: [0.1, 0.2])
    run("A2", "a2-norm-run", quick_run=given.quick_run, losses={"Adam": [1], "Muon": [2, 3]})
    assert given.of("quick_run") == [(("muon", "no_norm"), {})]


def test_a2_quick_run_uses_what_it_is_given(run):
    network = Calls(fit=lambda *args, **options: SimpleNamespace(history={"loss": [3]}))
    built, trained, cut = Calls(fcn=lambda *args, **options: network), Calls(), Calls()
    names = run("A2", "a2-quick", seed=3, classes=3, models=built, training=trained, pipeline=cut,
                train_pairs="pairs", keras=SimpleNamespace(utils=Calls()))
    assert names.quick_run("adam", "no_norm", epochs=2) == [3]
    assert built.of("fcn") == [((3,), {"backbone": "no_norm"})]
    assert trained.of("compile_model") == [((network, 3, 3e-3, 100), {"optimizer": "adam"})]
    assert cut.of("batches") == [(("pairs",), {"image_size": 96, "batch_size": 4, "augment": True,
                                               "shuffle": True, "seed": 3, "epochs": 2})]


def test_a2_pictures_and_histograms(run):
    meadow = Data()
    meadow.find = lambda split, name: 0
    added = {"no weights": np.zeros(3), "median": np.array([0.0, 1, 2])}
    figure, = run("A2", "a2-shift-figure", meadow=meadow, inference=predicts(),
                  trained=None, ways=added,
                  names=Data.class_names).shown
    labels = [(LOGITS + way).argmax(axis=2) for way in added.values()]
    same(pictures(figure), [PHOTO, *map(painted, (TRUTH, *labels))])
    exact = RNG.normal(size=(8, 8, 3))
    ways = {"backbone in bfloat16": exact + 0.01, "its logits, too": exact + 0.03}
    figure, = run("A2", "a2-mixed-figure", exact=exact, ways=ways).shown
    for axis, (way, place) in zip(figure.axes,
                                  (("backbone in bfloat16", 10), ("its logits, too", 30))):
        heights = bars(axis, "height")
        assert axis.get_title().startswith(way) and sum(heights[place - 1:place + 1]) == exact.size


def test_a2_compares_mixed_precision_with_the_exact_logits(run):
    trained, mixed = Calls(get_weights=lambda: "weights"), Calls()
    built = Calls(fcn=lambda *args, **options: mixed)
    names = run("A2", "a2-mixed-code", models=built, trained=trained, classes=3, photo=PHOTO,
                inference=Calls(logits=lambda network,
                                photo: LOGITS if network is trained else -LOGITS),
                rounded=lambda numbers, kind: (numbers.tolist(), kind))
    assert built.of("fcn")[0][1]["precision"] == "mixed_bfloat16"
    assert mixed.of("set_weights") == [(("weights",), {})]
    same([names.exact, names.ways["backbone in bfloat16"]], [LOGITS, -LOGITS])
    assert names.ways["its logits, too"] == ((-LOGITS).tolist(), "bfloat16")


def test_a2_spreads_by_backbone_and_factor(run):
    found = {(backbone, factor): [base * factor] * 7
             for backbone, base in (("no_norm", 1), ("vgg_small", 10)) for factor in (0.5, 1, 2)}
    figure, = run("A2", "a2-spreads-figure", found=found).shown
    for axis, base in zip(figure.axes, (1, 10)):
        assert lines(axis) == {f"weights × {factor}": [base * factor] * 7 for factor in (0.5, 1, 2)}


# Checks that can fail


WRONG = [
    ("01", "4d559e24", "scored", {"data": SimpleNamespace(
        test_split="test", split=lambda name: [("same.jpg", "mask")])}),
    ("01", "4d559e24", "void was counted",
     {"four": np.array([1, 1, 2, 0]), "guesses": np.array([1, 1, 0, 0])}),
    ("01", "4d559e24", "together > 0.98", {"together": 0.999, "apart": 0.95}),
    ("01", "4d559e24", "nearest has invented",
     {"by_nearest": np.array([3]), "mask": np.array([1, 5])}),
    ("03", "6ce8aec1", "inference.predict", {
        "reloaded": "one", "again": SimpleNamespace(model="other"), "scene": PHOTO,
        "inference": predicts(one=LABELS, other=OTHER)}),
    ("02", "cef35983", "weight_error",
     {"weight_error": 0.1, "logit_error": 0, "logits": LOGITS, "odd": LOGITS}),
    ("02", "cef35983", "weight_error",
     {"weight_error": 0, "logit_error": 0.1, "logits": LOGITS, "odd": LOGITS}),
    ("02", "cef35983", "by_windows", {"by_windows": LOGITS, "one_pass": 1.01 * LOGITS}),
    ("02", "cef35983", "tent_error", {"crop_difference": 0.2, "tent_error": 0.1}),
    ("03", "6ce8aec1", "does not overfit", {
        "given": "defaults", "runs": SimpleNamespace(DEFAULTS="defaults"),
        "rows": ROWS, "entropy": 2,
        "history": SimpleNamespace(history={"val_loss": [1]}), "best": 0.7, "baseline": 0.1,
        "overfit": {"val_loss": [1.0, 1.01]}}),
    ("03", "6ce8aec1", "by_hand", {"by_hand": 1.4, "loss": lambda *four: 1.5, "four": ()}),
    ("03", "6ce8aec1", "rates", {"rates": [0.1], "recipe": SimpleNamespace(learning_rate=0.05)}),
    ("04", "a3f831af", "void was counted", {"confusion": CONFUSION, "masks": [TRUTH]}),
    ("04", "a3f831af", "rows are not classes", {"confusion": CONFUSION, "oracle": CONFUSION.T}),
    ("04", "a3f831af", "metrics.json holds", {"written": 0.5, "result": {"mean_iou": 0.4}}),
    ("04", "a3f831af", "one class gets too much",
     {"confusion": CONFUSION, "lazy": {"mean_iou": 0.5}}),
    ("04", "a3f831af", "an oracle is not", {"oracles": {"bilinear": 1.2}}),
    ("05", "b48d8922", "by_hand", {"by_hand": LABELS, "labels": OTHER}),
    ("05", "b48d8922", "confidence.max", {"confidence": np.array([0.2, 0.9])}),
    ("05", "b48d8922", "reads back", {"again": LABELS, "own_ids": OTHER}),
    ("06", "78094115", "np.allclose(a, b", {"a": LOGITS, "b": LOGITS + 0.1}),
    ("06", "78094115", "new_weights", {"new_weights": 64 * 3, "num_classes": 3,
                                       "pool4": SimpleNamespace(shape=(64,))}),
    ("06", "78094115", "0.9375", {"at_once": np.array([0.9]), "in_steps": np.array([0.75])}),
    ("06", "78094115", "another size", {"predictions": {8: [LABELS]}, "masks": [TRUTH[:9]]}),
    ("06", "78094115", "brought", {"in_paper": 3, "brought": 10}),
    ("07", "337102f9", "faulty", {"refused": "  mine/masks/IMG_0003.jpg: a fault"}),
    ("07", "337102f9", "fixed.splits", {"fixed": SimpleNamespace(splits={"train": 21, "val": 20})}),
    ("07", "checks-data", "startswith('score') for", {"new": ["score", "fc7"]}),
    ("07", "checks-data", "was frozen", {
        "frozen": SimpleNamespace(layers=[SimpleNamespace(name="fc7",
                                                          get_weights=lambda: [np.ones(2)])]),
        "fresh": {"start": SimpleNamespace(
            layers=[SimpleNamespace(get_weights=lambda: [np.zeros(2)])])}}),
    ("07", "checks-data", "dtype_policy", {
        "reloaded": SimpleNamespace(dtype_policy=SimpleNamespace(name="mixed_bfloat16"))}),
    ("08", "6ed713c3", "again",
     {"again": [1], "board": [2], "said": SimpleNamespace(getvalue=lambda: 4 * "kept")}),
    ("08", "6ed713c3", "if by_default",
     {"by_default": True, "scores_at": {8: [0.1], 32: [0.2]}.get}),
    ("08", "checks-stored", "tolerance", {"spread": {"std": 0.1, "tolerance": 0.3}, "sigma": 0.2}),
    ("08", "checks-stored", "luck", {"spread": {"mean": 0.706}, "luck": 0.0144, "sigma": 0.007}),
    ("09", "f6b84269", "other class names",
     {"about": {"class_names": '["block", "ground", "disc"]'}}),
    ("09", "f6b84269", "script said",
     {"frames": [0] * 15, "done": SimpleNamespace(stdout="", stderr="")}),
    ("09", "f6b84269", "labels changed", {"as_shipped": True, "changed": 20, "compared": 10_000}),
    ("09", "f6b84269", "of the largest logit", {"as_shipped": True, "most": 1e-4}),
    ("09", "f6b84269", "0.98", {"as_shipped": True, "in_8_bits": LABELS, "ids": OTHER}),
    ("A1", "a1-checks", "apart.any",
     {"apart": np.ones((256, 256), bool), "near": np.zeros(256, bool)}),
    ("A1", "a1-checks", "repaired", {"repaired": np.ones(3), "resized": np.zeros(3)}),
    ("A2", "a2-checks", "flat <", {"flat": 11, "steep": 600}),
    ("A1", "a1-checks", "post", {"post": np.ones(160)}),
    ("A2", "a2-checks", "0.05", {"after": [np.array([0.01]), 0, 0, np.array([0.05])]}),
    ("A2", "a2-checks", "recall[1]", {"recall": [0.6, 0.65], "precision": [0.7, 0.5]}),
    ("A2", "a2-checks", "losses", {"losses": {"Adam": [0.1], "Muon": [0.2]}}),
]


@pytest.mark.parametrize("number, cell, words, names", WRONG,
                         ids=[f"{number}-{words}" for number, _, words, _ in WRONG])
def test_checks_see_what_is_wrong(number, cell, words, names, run):
    with pytest.raises(AssertionError):
        run(number, cell, only=words, **names)


def test_09_card_for_a_hub_says_what_hubs_read(run, tmp_path):
    saved = Calls()
    runs = SimpleNamespace(save=lambda *args, **card: saved.save(*args, **card))
    model = SimpleNamespace(name="fcn8s_vgg_small")
    run("09", "share-on-a-hub", folder=tmp_path, runs=runs, model=model,
        card={"fcn": {"stride": 8}, "given": {}})
    _, front, text = (tmp_path / "hub" / "README.md").read_text().split("---\n")
    assert yaml.safe_load(front) == {"library_name": "keras", "license": "other",
                                     "pipeline_tag": "image-segmentation", "tags": [model.name]}
    assert all(name in text for name in Data.class_names)
    given, card = saved.of("save")[0]
    assert given[:2] == (model, tmp_path / "hub") and card == {"fcn": {"stride": 8}, "given": {}}


def test_09_shares_nothing_but_the_folder_when_asked(run, tmp_path, monkeypatch):
    hub = Calls()
    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(HfApi=lambda: hub))
    for push in (False, True):
        run("09", "share-on-a-hub", only="HfApi", push=push, repository="me/fcn", share=tmp_path)
        assert [name for name, *_ in hub.given] == ["create_repo", "upload_folder"] * push
    assert hub.of("upload_folder") == [((), {"repo_id": "me/fcn", "folder_path": tmp_path})]
