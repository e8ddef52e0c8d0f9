"""A photo by its address: fetched once, whole, an image, and not endless."""

import io

import numpy as np
import pytest
from PIL import Image

from utils import images
from utils.images import find_photo, read_image


def jpeg(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=95)
    return file.getvalue()


BODY, OTHER = jpeg(0), jpeg(1)


@pytest.fixture
def site(web):
    web.files = {"/photo.jpg": BODY}
    return web


def files(folder):
    return sorted(path.name for path in folder.rglob("*")) if folder.exists() else []


def test_a_path_is_returned_as_it_is(tmp_path):
    path = tmp_path / "a.jpg"
    assert find_photo(path, tmp_path / "photos") == path and not (tmp_path / "photos").exists()


def test_a_photo_is_fetched_once(site, tmp_path):
    path = find_photo(site.address("/photo.jpg"), tmp_path / "photos")
    assert path.read_bytes() == BODY and path.name.endswith("photo.jpg") and files(tmp_path / "photos") == [path.name]
    assert find_photo(site.address("/photo.jpg"), tmp_path / "photos") == path and len(site.log) == 1


def test_photos_of_one_name_stay_apart(site, tmp_path):
    site.files |= {"/one/image.jpg": BODY, "/two/image.jpg": OTHER}
    assert [find_photo(site.address(f"/{n}/image.jpg"), tmp_path).read_bytes() for n in ("one", "two")] == [BODY, OTHER]


def test_addresses_may_hold_letters_of_any_language(site, tmp_path):
    site.files["/K%C3%BChe%20im%20Tal.jpg"] = BODY
    for address in ("/Kühe im Tal.jpg", "/K%C3%BChe%20im%20Tal.jpg"):
        path = find_photo(site.address(address), tmp_path)
        assert path.read_bytes() == BODY and path.name.endswith("-Kühe im Tal.jpg")


@pytest.mark.parametrize("fault, sentence", [
    ({"status": 404}, "404"), ({"status": 500}, "500"), ({"reset": 0}, "no photo"),
    ({"cut": 1000}, "damaged")])
def test_a_photo_that_does_not_arrive_leaves_nothing(site, tmp_path, fault, sentence):
    site.plan["/photo.jpg"] = [fault]
    with pytest.raises(ConnectionError, match=sentence) as error:
        find_photo(site.address("/photo.jpg"), tmp_path)
    assert str(error.value).startswith(site.address("/photo.jpg")) and "give its path" in str(error.value)
    assert files(tmp_path) == []


@pytest.mark.parametrize("length", [True, False], ids=["announced", "endless"])
def test_no_more_than_the_limit_is_read(site, tmp_path, monkeypatch, length):
    monkeypatch.setattr(images, "LARGEST", 300_000)
    site.plan["/photo.jpg"] = [{"length": length, "piece": 100_000, "pause": 0.01, "body": BODY + bytes(900_000)}]
    assert find_photo(site.address("/photo.jpg"), tmp_path).stat().st_size == 300_000


def test_an_answer_that_is_no_image_is_not_kept(site, tmp_path):
    """Such as the page of a login, sent with status 200."""
    file = tmp_path / "true.png"
    Image.new("RGB", (40, 30)).save(file)
    site.files["/photo.jpg"] = file.read_bytes()
    site.plan["/photo.jpg"] = [{"body": b"<html>Please log in</html>"}]
    with pytest.raises(ConnectionError, match="is not an image") as error:
        find_photo(site.address("/photo.jpg"), tmp_path / "photos")
    assert site.address("/photo.jpg") in str(error.value)
    assert files(tmp_path / "photos") == []
    path = find_photo(site.address("/photo.jpg"), tmp_path / "photos")
    assert read_image(path).shape == (30, 40, 3) and len(site.log) == 2


@pytest.mark.parametrize("user", ["ann:geheim@", "geheim@", "ann:geh@eim@"])
def test_a_password_is_not_printed(site, tmp_path, capsys, user):
    address = site.address("/photo.jpg").replace("//", f"//{user}")
    with pytest.raises(ValueError, match="password") as error:
        find_photo(address, tmp_path)
    said = str(error.value) + "".join(capsys.readouterr())
    assert "127.0.0.1" in said and "geh" not in said and "ann:" not in said
    assert error.value.__cause__ is None and files(tmp_path) == []


