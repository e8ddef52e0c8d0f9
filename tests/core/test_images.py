"""Photos and masks of every kind, held against OpenCV, arrays made by hand, and the standards."""

import os
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from utils.datasets import load_dataset
from utils.images import ImageError, read_image, read_mask, write_mask
from utils.labels import VOID, VOID_COLOR, voc_colormap

RGB = np.random.default_rng(0).integers(0, 256, (6, 10, 3), dtype=np.uint8)
IDS = np.uint8([[0, 1, 2, 255], [3, 3, 20, 255]])

# What Pillow warns of must not reach the reader.
# Not those of objects that other tests left to be cleared away.
pytestmark = pytest.mark.filterwarnings("error", "ignore::pytest.PytestUnraisableExceptionWarning")


def saved(path, array, **options):
    Image.fromarray(array).save(path, **options)
    return path


def smooth(height=48, width=64):
    """A photo that JPEG changes little: colours that run into each other."""
    return cv2.resize(RGB, (width, height), interpolation=cv2.INTER_CUBIC)


# Photos


@pytest.mark.parametrize(
    "name, options",
    [("a.png", {}), ("a.bmp", {}), ("a.tif", {"compression": "tiff_lzw"}),
     ("a.webp", {"lossless": True})],
)
def test_lossless_formats_give_their_pixels(tmp_path, name, options):
    image = read_image(saved(tmp_path / name, RGB, **options))
    assert image.dtype == np.uint8 and image.flags.writeable and (image == RGB).all()


def test_jpeg_is_rgb_not_bgr(tmp_path):
    image = read_image(saved(tmp_path / "a.jpg",
                             np.full((16, 16, 3), (220, 40, 10), np.uint8), quality=95))
    assert image.shape == (16, 16, 3) and np.abs(image.astype(int) - (220, 40, 10)).max() < 6


def test_grey_one_bit_and_palette_photos_become_rgb(tmp_path):
    grey = RGB[..., 0]
    assert (read_image(saved(tmp_path / "grey.png", grey)) == grey[..., None]).all()
    assert (read_image(saved(tmp_path / "bit.png", grey > 99)) == 255
            * (grey > 99)[..., None]).all()
    picture = Image.fromarray(grey % 21)
    picture.putpalette(voc_colormap().tobytes())
    picture.save(tmp_path / "palette.png")
    assert (read_image(tmp_path / "palette.png") == voc_colormap()[grey % 21]).all()


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path):
    wide = np.uint16([[0, 128, 129, 257, 32896, 65535]])
    for name in ("a.png", "a.tif"):
        assert read_image(saved(tmp_path / name, wide))[..., 0].tolist() == [[0, 0, 1, 1, 128, 255]]


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
@pytest.mark.parametrize("channels", [3, 4])
def test_sixteen_bit_colours_become_eight_bit(tmp_path, name, channels):
    wide = np.random.default_rng(1).integers(0, 65536, (40, 30, channels), dtype=np.uint16)
    cv2.imwrite(str(tmp_path / name), wide)
    expected = wide[..., 2::-1] / 257  # OpenCV writes blue first
    assert np.abs(read_image(tmp_path / name) - expected).max() <= 1


def test_numbers_of_unknown_range_are_refused(tmp_path):
    saved(tmp_path / "float.tif", np.float32([[0, 0.5, 1]]))
    saved(tmp_path / "int.tif", np.int32([[0, 65536]]))
    sentence = r"float\.tif: holds numbers from 0 to 1; expected 8 or 16 bits per channel"
    with pytest.raises(ImageError, match=sentence):
        read_image(tmp_path / "float.tif")
    with pytest.raises(ImageError, match=r"int\.tif: holds numbers from 0 to 65536; .* Scale them"):
        read_image(tmp_path / "int.tif")
    cv2.imwrite(str(tmp_path / "colours.tif"), RGB.astype(np.float32))
    with pytest.raises(ImageError, match="colours.tif: is not an image .*8 or 16 bits"):
        read_image(tmp_path / "colours.tif")


def test_transparency_is_dropped(tmp_path):
    alpha = np.dstack([RGB, np.arange(60, dtype=np.uint8).reshape(6, 10)])
    assert (read_image(saved(tmp_path / "rgba.png", alpha)) == RGB).all()
    assert (read_image(tmp_path / "rgba.png")
            == cv2.imread(str(tmp_path / "rgba.png"))[..., ::-1]).all()
    Image.fromarray(alpha).convert("LA").save(tmp_path / "la.png")
    assert (read_image(tmp_path / "la.png")
            == np.array(Image.fromarray(RGB).convert("L"))[..., None]).all()


@pytest.mark.parametrize("transparent", [2, bytes([0, 90, 255])])
def test_transparent_palette_entries_keep_their_colour(tmp_path, transparent):
    picture = Image.fromarray(RGB[..., 0] % 4)
    picture.putpalette(voc_colormap(4).tobytes())
    picture.save(tmp_path / "a.png", transparency=transparent)
    assert (read_image(tmp_path / "a.png") == voc_colormap(4)[RGB[..., 0] % 4]).all()
    assert (read_mask(tmp_path / "a.png") == RGB[..., 0] % 4).all()


def test_cmyk_jpeg_is_what_opencv_sees(tmp_path):
    photo = smooth()
    Image.fromarray(photo).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    image = read_image(tmp_path / "a.jpg").astype(int)
    assert np.abs(image - cv2.imread(str(tmp_path / "a.jpg"))[..., ::-1]).max() <= 2
    assert np.abs(image - photo).mean() < 4


def test_ycck_jpeg_as_photoshop_writes_it(tmp_path):
    # Luma and chroma of the inks, which are the inverse of the colour, and black, of which 255 is
    # none.
    inks = 255 - np.full((16, 16, 3), (200, 30, 60), np.uint8)
    luma, red, blue = cv2.split(cv2.cvtColor(inks, cv2.COLOR_RGB2YCrCb))
    channels = luma, blue, red, np.full((16, 16), 255, np.uint8)
    inverse = [Image.fromarray(255 - channel) for channel in channels]  # Pillow inverts them again
    Image.merge("CMYK", inverse).save(tmp_path / "a.jpg", quality=100)
    content = bytearray((tmp_path / "a.jpg").read_bytes())
    content[content.index(b"Adobe") + 11] = 2  # the byte of Adobe's marker that says YCCK
    (tmp_path / "a.jpg").write_bytes(content)
    image = read_image(tmp_path / "a.jpg").astype(int)
    assert np.abs(image - (200, 30, 60)).max() < 8
    assert np.abs(image - cv2.imread(str(tmp_path / "a.jpg"))[..., ::-1]).max() <= 2


def test_cmyk_tiff_follows_the_formula(tmp_path):
    inks = np.random.default_rng(2).integers(0, 256, (4, 20, 30), dtype=np.uint8)
    Image.merge("CMYK", [Image.fromarray(ink) for ink in inks]).save(tmp_path / "a.tif")
    expected = (255 * (1 - inks[:3] / 255) * (1 - inks[3] / 255)).transpose(1, 2, 0)
    assert np.abs(read_image(tmp_path / "a.tif") - expected).max() <= 1.5


def test_other_colour_spaces_are_converted(tmp_path):
    photo = smooth()
    # Compressed: Pillow 11 cannot read back what it writes of this kind without compression.
    Image.fromarray(photo).convert("YCbCr").save(tmp_path / "ycbcr.tif", compression="tiff_lzw")
    assert np.abs(read_image(tmp_path / "ycbcr.tif").astype(int) - photo).max() <= 4
    grey = np.repeat(np.arange(0, 256, 5, dtype=np.uint8)[None, :, None], 3, axis=2)
    lab = cv2.cvtColor(grey, cv2.COLOR_RGB2LAB)
    Image.merge("LAB",
                [Image.fromarray(channel) for channel in cv2.split(lab)]).save(tmp_path / "lab.tif")
    assert np.abs(read_image(tmp_path / "lab.tif").astype(int) - grey).max() <= 3


def test_the_first_of_several_pages_is_read(tmp_path):
    pages = [Image.fromarray(RGB), Image.fromarray(255 - RGB)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    pages[0].save(tmp_path / "a.webp", save_all=True, append_images=pages[1:], lossless=True)
    assert ((read_image(tmp_path / "a.tif") == RGB).all()
            and (read_image(tmp_path / "a.webp") == RGB).all())


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp", "bmp"])
def test_a_photo_may_be_one_pixel(tmp_path, suffix):
    image = read_image(saved(tmp_path / f"a.{suffix}", np.uint8([[[90, 90, 90]]])))
    assert image.shape == (1, 1, 3) and np.abs(image.astype(int) - 90).max() <= 2


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "I;16", "P"])
def test_tall_photos_are_whole(tmp_path, mode):
    grey = np.random.default_rng(3).integers(0, 256, (1031, 5), dtype=np.uint8)
    picture = (Image.fromarray(grey.astype(np.uint16) * 257) if mode == "I;16"
               else Image.fromarray(grey).convert(mode))
    picture.save(tmp_path / "a.tif")
    assert (read_image(tmp_path / "a.tif") == grey[..., None]).all()


def test_sixteen_bits_are_read_in_either_order_of_bytes(tmp_path):
    grey = np.random.default_rng(3).integers(0, 256, (6, 5), dtype=np.uint8)
    for mode, order in (("I;16", "<u2"), ("I;16B", ">u2")):
        stored = (grey.astype(np.uint16) * 257).astype(order)
        Image.frombytes(mode, (5, 6), stored.tobytes()).save(tmp_path / "a.tif")
        assert (read_image(tmp_path / "a.tif") == grey[..., None]).all(), mode


def test_aerial_photos_are_read_and_bombs_are_not(tmp_path):
    Image.new("L", (12000, 7500), 1).save(tmp_path / "large.png", compress_level=1)
    assert read_mask(tmp_path / "large.png").shape == (7500, 12000)
    content = bytearray((tmp_path / "large.png").read_bytes())
    header = b"IHDR" + (60000).to_bytes(4, "big") * 2 + content[24:29]
    content[12:33] = header + zlib.crc32(header).to_bytes(4, "big")
    (tmp_path / "bomb.png").write_bytes(content)
    with pytest.raises(ImageError, match=r"bomb\.png: .*cannot be read .*pixels"):
        read_mask(tmp_path / "bomb.png")


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


# The same, the other way: how an upright picture is stored.
AS_STORED = {**UPRIGHT, 6: UPRIGHT[8], 8: UPRIGHT[6]}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_turned_photo_and_upright_mask_fit(voc, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo = voc / "JPEGImages" / "train0.png"
    upright = np.array(Image.open(photo))
    saved(photo, AS_STORED[orientation](upright).copy(), exif=exif)
    dataset = load_dataset("voc", voc)
    image, mask = dataset.read(dataset.split("train")[0])
    assert (image == upright).all() and image.shape[:2] == mask.shape


def test_a_mask_is_turned_by_its_own_exif(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    assert (read_mask(saved(tmp_path / "a.png", IDS, exif=exif)) == UPRIGHT[6](IDS)).all()


@pytest.mark.parametrize("photo_suffix, mask_suffix",
                         [("JPG", "png"), ("JPEG", "PNG"), ("TIF", "PNG")])
def test_suffixes_may_be_in_capitals(voc, photo_suffix, mask_suffix):
    photo, mask = voc / "JPEGImages" / "train0.png", voc / "SegmentationClass" / "train0.png"
    before = load_dataset("voc", voc).read((photo, mask))
    Image.open(photo).save(photo.with_suffix(f".{photo_suffix}"))
    photo.unlink()
    mask.rename(mask.with_suffix(f".{mask_suffix}"))
    dataset = load_dataset("voc", voc)
    sample = dataset.split("train")[0]
    assert [path.suffix.lower() for path in sample] == [f".{photo_suffix.lower()}", ".png"]
    image, ids = dataset.read(sample)
    assert (ids == before[1]).all() and np.abs(image.astype(int) - before[0]).mean() < 15


@pytest.mark.parametrize("reader", [read_image, read_mask])
@pytest.mark.parametrize(
    "name, content, sentence",
    [
        ("a.png", b"", "the file is empty. Copy or export it again"),
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


def test_files_that_may_not_be_read_are_named(tmp_path):
    path = saved(tmp_path / "a.png", RGB)
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(ImageError, match=r"a\.png: .*Permission denied"):
        read_image(path)


@pytest.mark.filterwarnings("ignore")  # of Pillow, about broken tags
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp", "bmp"])
def test_whatever_breaks_a_file_the_error_names_it(tmp_path, suffix):
    exif = Image.Exif()
    exif[0x0112] = 6
    whole = saved(tmp_path / f"a.{suffix}", smooth(),
                  **({} if suffix == "bmp" else {"exif": exif})).read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(60):
        broken = bytearray(whole)
        for place in rng.integers(0, rng.choice([100, len(whole)]), 4):
            broken[place] = rng.integers(256)
        (tmp_path / "b").write_bytes(broken)
        try:
            assert read_image(tmp_path / "b").dtype == np.uint8
        except ImageError as error:
            assert str(error).startswith(f"{tmp_path / 'b'}: ") and error.problem.remedy


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
    assert (read_mask(saved(tmp_path / "float.tif", IDS.astype(np.float32))) == IDS).all()
    assert read_mask(saved(tmp_path / "1.png", IDS > 2)).tolist() == [[0, 0, 0, 1], [1, 1, 1, 1]]
    pair = Image.merge("LA", [Image.fromarray(IDS), Image.fromarray(255 - IDS)])
    pair.save(tmp_path / "la.png")
    assert (read_mask(tmp_path / "la.png") == IDS).all()


@pytest.mark.parametrize("values, found",
                         [(np.uint16([[0, 1, 300]]), "300"), (np.int32([[0, -1, 255]]), "-1"),
                                           (np.float32([[0, 2.5, 3]]), "2.5")])
def test_values_that_are_no_ids_are_refused(tmp_path, values, found):
    path = saved(tmp_path / "a.tif", values)
    sentence = f"holds the value {found}; a mask holds class ids from 0 to 255"
    with pytest.raises(ImageError, match=sentence) as error:
        read_mask(path)
    assert str(error.value).startswith(str(path))


def test_colour_masks_need_and_use_the_colour_table(tmp_path):
    colors = voc_colormap(21)
    rgb = np.where((IDS == VOID)[..., None], np.uint8(VOID_COLOR), colors[IDS % 21])
    path = saved(tmp_path / "a.png", rgb)
    assert (read_mask(path, colors=colors) == IDS).all()
    saved(tmp_path / "alpha.png", np.dstack([rgb, np.full(IDS.shape, 255, np.uint8)]))
    assert (read_mask(tmp_path / "alpha.png", colors=colors) == IDS).all()
    with pytest.raises(ValueError,
                       match=r"a\.png: is a colour picture \(RGB\); expected class ids"):
        read_mask(path)
    rgb[0, :2] = (9, 9, 9)
    with pytest.raises(
        ValueError, match=r"b\.png: these colours stand for no class: \(9, 9, 9\) at 2 pixels"
    ):
        read_mask(saved(tmp_path / "b.png", rgb), colors=colors)
