"""What must hold for any label map, outline, file or parameter: Hypothesis looks for exceptions."""

import io
import json
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image, ImageDraw

from tools.convert import convert, outlines
from tools.execute import RunError
from tools.run import declared_parameters, find_notebooks, resolve
from utils import images, labels, metrics, oracles, pipeline, runs
from utils.labels import VOID

QUICK = settings(max_examples=60, deadline=None, derandomize=True,
                 suppress_health_check=list(HealthCheck))
SIDES = st.tuples(st.integers(1, 40), st.integers(1, 40))


def label_maps(num_classes=5):
    return SIDES.flatmap(lambda sides: arrays.arrays(
        np.uint8, sides, elements=st.sampled_from([*range(num_classes), VOID])))


@QUICK
@given(label_maps(), st.integers(5, 255))
def test_colours_and_ids_are_two_names_for_one_thing(ids, num_classes):
    colors = labels.voc_colormap(num_classes)
    assert np.array_equal(labels.colors_to_ids(labels.ids_to_colors(ids, colors), colors), ids)


@QUICK
@given(label_maps(), st.data())
def test_iou_is_intersection_over_union(truth, data):
    prediction = data.draw(arrays.arrays(np.uint8, truth.shape, elements=st.integers(0, 4)))
    found = metrics.scores(metrics.confusion_matrix(truth, prediction, 5))
    seen = truth != VOID
    for number in range(5):
        one, other = (truth == number) & seen, (prediction == number) & seen
        union = (one | other).sum()
        expected = (one & other).sum() / union if union else np.nan
        assert found["iou"][number] == pytest.approx(expected, nan_ok=True)
    if seen.any():
        assert found["pixel_accuracy"] == pytest.approx((truth == prediction)[seen].mean())


@QUICK
@given(label_maps(), st.integers(1, 6))
def test_a_band_is_what_lies_near_a_change(mask, width):
    band = metrics.boundary_band(mask, width)
    height, across = mask.shape
    for y, x in np.ndindex(mask.shape):
        rows, columns = (slice(max(0, at - width + 1), at + width) for at in (y, x))
        window = mask[rows, columns]
        assert not (band[y, x] and mask[y, x] == VOID)
        if band[y, x]:  # a change within the window that is one pixel larger
            wider = mask[max(0, y - width):y + width + 1, max(0, x - width):x + width + 1]
            assert len(np.unique(wider)) > 1
        elif mask[y, x] != VOID:
            assert len(np.unique(window)) == 1


@QUICK
@given(label_maps(), st.sampled_from([2, 4, 8, 16, 32]))
def test_an_oracle_keeps_a_map_of_one_class_and_its_size(mask, stride):
    for oracle in (oracles.majority_oracle, oracles.bilinear_oracle):
        drawn = oracle(mask, stride, 5)
        assert drawn.shape == mask.shape and drawn.max() < 5
        known = np.unique(mask[mask != VOID])
        if len(known) == 1:
            assert (drawn[mask != VOID] == known[0]).all()


@QUICK
@given(SIDES, st.integers(8, 64), st.integers(0, 2 ** 32 - 1))
def test_a_crop_moves_photo_and_mask_alike(sides, size, seed):
    """The mask is drawn into the photo; away from edges both say the same after the crop."""
    rng = np.random.default_rng(seed)
    mask = np.kron(rng.integers(0, 2, (3, 3)), np.ones((16, 16))).astype(np.uint8)
    photo = np.repeat(mask[..., None] * 255, 3, axis=2)
    image, ids = pipeline.crop(photo, mask, size, np.random.default_rng((seed, 1)))
    assert image.shape == (size, size, 3) and ids.shape == (size, size)
    assert set(np.unique(ids)) <= {0, 1, VOID}
    inside = ids != VOID
    bright = image[..., 1] > 128
    sure = (image[..., 1] > 200) | (image[..., 1] < 55)
    both = inside & sure
    if both.sum() > 20:
        assert (bright == (ids == 1))[both].mean() > 0.97


@QUICK
@given(st.lists(st.tuples(st.floats(-20, 60), st.floats(-20, 60)), min_size=3, max_size=9),
       st.integers(0, 254))
def test_outlines_are_drawn_as_pillow_draws_them(points, class_id):
    """labelme's shape_to_mask is Pillow's polygon, filled and with its outline."""
    found = Image.new("L", (40, 30), VOID)
    outlines.draw(found, {"shape_type": "polygon", "points": points}, class_id)
    expected = Image.new("L", (40, 30), VOID)
    ImageDraw.Draw(expected).polygon([tuple(map(float, point)) for point in points],
                                     fill=class_id, outline=class_id)
    assert np.array_equal(np.asarray(found), np.asarray(expected))


def picture(form, mode="RGB"):
    file = io.BytesIO()
    values = np.arange(768, dtype=np.uint16).astype(np.uint8).reshape(16, 16, 3)
    Image.fromarray(values).convert(mode).save(file, form)
    return file.getvalue()


FORMS = [picture("PNG"), picture("PNG", "P"), picture("JPEG"), picture("TIFF"), picture("BMP"),
         picture("WEBP")]


@QUICK
@given(st.sampled_from(FORMS), st.data())
@example(b"", None)
def test_damaged_pictures_are_named_or_read(tmp_path_factory, form, data):
    """Whatever bytes are cut or changed: an array, or an error that begins with the file."""
    broken = bytearray(form)
    if data is not None:
        for at in data.draw(st.lists(st.integers(0, len(form) - 1), max_size=6)):
            broken[at] = data.draw(st.integers(0, 255))
        broken = broken[:data.draw(st.integers(0, len(form)))]
    file = tmp_path_factory.mktemp("broken") / "photo.png"
    file.write_bytes(bytes(broken))
    for read in (images.read_image, images.read_mask):
        try:
            assert read(file).dtype == np.uint8
        except images.ImageError as error:
            assert str(error).startswith(str(file))


JSON = st.recursive(st.none() | st.booleans() | st.integers(-5, 300) | st.text(max_size=5)
                    | st.floats(allow_nan=True),
                    lambda inner: st.lists(inner, max_size=3)
                    | st.dictionaries(st.sampled_from(["shapes", "label", "points", "imagePath",
                                                       "imageWidth", "imageHeight", "shape_type",
                                                       "images", "annotations", "categories"]),
                                      inner, max_size=5), max_leaves=12)


@QUICK
@given(JSON, st.sampled_from(["a.json", "instances_val.json"]), st.booleans())
def test_strange_label_files_are_refused_in_a_sentence(tmp_path_factory, content, name, zipped):
    """ValueError or OSError with what is wrong, never another exception; nothing left behind."""
    place = tmp_path_factory.mktemp("strange")
    source = place / "source"
    source.mkdir()
    (source / "a.png").write_bytes(FORMS[0])
    text = json.dumps({"shapes": [], "annotations": [], **content}
                      if isinstance(content, dict) else content)
    (source / name).write_text(text)
    if zipped:
        with zipfile.ZipFile(place / "source.zip", "w") as archive:
            for file in source.iterdir():
                archive.write(file, file.name)
        source = place / "source.zip"
    try:
        convert(source, place / "target")
    except (ValueError, OSError) as error:
        assert str(error)
        assert not (place / "target").exists()


@QUICK
@given(st.binary(max_size=60))
def test_a_strange_record_is_refused(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("run")
    (folder / "run.json").write_bytes(content)
    with pytest.raises(OSError, match="run.json"):
        runs.read_record(folder)


DECLARED = {path: declared_parameters(path) for path in find_notebooks(["03", "04"])}


@QUICK
@given(st.dictionaries(st.sampled_from([*DECLARED[find_notebooks(["03"])[0]], "strid", "x"]),
                       st.none() | st.booleans() | st.integers() | st.text(max_size=6)
                       | st.floats(), min_size=1, max_size=3))
def test_any_parameters_are_taken_by_type_or_refused_by_name(given_values):
    try:
        values = resolve(DECLARED, given_values)
    except RunError as error:
        assert any(name in str(error) for name in given_values)
        return
    declared = {name: kind for names in DECLARED.values() for name, (kind, _) in names.items()}
    for name in given_values.keys() - {"run_dir"}:
        assert type(values[name]).__name__ == declared[name]
