"""One file over an unreliable network: whole and checked, or a sentence and no remains."""

import hashlib
import socket
import sys
import time
import urllib.error
from types import SimpleNamespace

import numpy as np
import pytest

from tools.fetch import download
from tools.fetch.sources import Archive

BODY = np.random.default_rng(0).bytes(900_000)
OTHER = np.random.default_rng(1).bytes(900_000)
SHA256 = hashlib.sha256(BODY).hexdigest()


@pytest.fixture(autouse=True)
def waits(monkeypatch):
    """The seconds that downloads would have slept; they do not."""
    slept = []
    monkeypatch.setattr(download, "time",
                        SimpleNamespace(sleep=slept.append, monotonic=time.monotonic))
    return slept


@pytest.fixture
def site(web):
    web.files = {"/a/set.tar": BODY, "/b/set.tar": BODY}
    return web


def published(site, *paths, size=len(BODY), sha256=SHA256):
    return Archive("set.tar", tuple(map(site.address, paths or ["/a/set.tar"])), size, sha256)


def files(folder):
    return sorted(path.name for path in folder.rglob("*")) if folder.exists() else []


# A data set's archive


def test_a_file_arrives_whole_and_only_once(site, tmp_path):
    path = download.download(published(site), tmp_path / "new" / "folder")
    assert path.read_bytes() == BODY and files(tmp_path / "new" / "folder") == ["set.tar"]
    assert (download.download(published(site), tmp_path / "new" / "folder") == path
            and len(site.log) == 1)


@pytest.mark.parametrize("fault", [{"cut": 300_000}, {"reset": 300_000}], ids=str)
def test_a_broken_transfer_goes_on_where_it_stopped(site, tmp_path, fault, capsys):
    site.plan["/a/set.tar"] = [fault]
    assert download.download(published(site), tmp_path).read_bytes() == BODY
    (_, first), (_, second) = site.log
    assert first == 0 and 0 < second <= 300_000
    if "cut" in fault:
        assert second == 300_000
        assert "the connection broke off after 300,000 of 900,000 bytes" in capsys.readouterr().err


def test_a_later_call_goes_on_too(site, tmp_path):
    (tmp_path / "set.tar.part").write_bytes(BODY[:500_000])
    assert download.download(published(site), tmp_path).read_bytes() == BODY
    assert site.log == [("/a/set.tar", 500_000)] and files(tmp_path) == ["set.tar"]


def test_a_finished_part_is_checked_not_fetched_again(site, tmp_path):
    (tmp_path / "set.tar.part").write_bytes(BODY)
    assert download.download(published(site), tmp_path).read_bytes() == BODY and site.log == []


def test_a_server_that_cannot_go_on_is_read_from_the_start(site, tmp_path):
    site.plan["/a/set.tar"] = [{"cut": 300_000}, {"ranges": False}]
    assert download.download(published(site), tmp_path).read_bytes() == BODY and len(site.log) == 2


@pytest.mark.parametrize("left", [OTHER[:300_000], OTHER, BODY + b"more"],
                         ids=["begun", "whole", "too long"])
def test_what_is_left_of_another_file_does_not_spoil_the_new_one(site, tmp_path, left):
    (tmp_path / "set.tar.part").write_bytes(left)
    assert download.download(published(site), tmp_path).read_bytes() == BODY


def test_a_file_that_changes_between_two_attempts_is_fetched_afresh(site, tmp_path):
    site.plan["/a/set.tar"] = [{"body": OTHER, "cut": 300_000}]
    assert download.download(published(site), tmp_path).read_bytes() == BODY
    assert [start for _, start in site.log] == [0, 300_000, 0]


@pytest.mark.parametrize("fault",
                         [{"status": 404}, {"status": 500}, {"body": OTHER}, {"body": BODY[:-1]},
                                   {"reset": 0}],
                         ids=["404", "500", "other bytes", "other size", "reset"])
def test_the_next_address_is_tried(site, tmp_path, fault, capsys):
    site.plan["/a/set.tar"] = [fault]
    assert (download.download(published(site, "/a/set.tar", "/b/set.tar"),
                              tmp_path).read_bytes() == BODY)
    assert site.log == [("/a/set.tar", 0), ("/b/set.tar", 0)]
    assert f"127.0.0.1:{site.server_port}: " in capsys.readouterr().err


@pytest.mark.parametrize("status, requests", [(429, 3), (408, 3), (404, 1), (403, 1)])
def test_a_server_that_asks_for_patience_is_asked_again_and_no_other(site, tmp_path, status,
                                                                     requests):
    site.plan["/a/set.tar"] = [{"status": status}] * 2
    if requests == 1:
        with pytest.raises(ConnectionError, match=str(status)):
            download.download(published(site), tmp_path)
    else:
        assert download.download(published(site), tmp_path).read_bytes() == BODY
    assert len(site.log) == requests


def test_waits_grow_until_it_gives_up(site, tmp_path, waits):
    site.plan["/a/set.tar"] = [{"status": 503}] * 9
    with pytest.raises(ConnectionError, match="set.tar .*503") as error:
        download.download(published(site), tmp_path)
    assert waits == sorted(waits) == list(download.WAITS) and len(site.log) == 1 + len(waits)
    assert site.address("/a/set.tar") in str(error.value) and "--from" in str(error.value)


def test_a_bad_line_is_patiently_drained(site, tmp_path):
    site.plan["/a/set.tar"] = [{"cut": 100_000}] * 8
    assert download.download(published(site), tmp_path).read_bytes() == BODY


def test_what_came_before_giving_up_is_kept(site, tmp_path):
    site.plan["/a/set.tar"] = [{"cut": 300_000}] + [{"status": 500}] * 9
    with pytest.raises(ConnectionError, match="again"):
        download.download(published(site), tmp_path)
    assert (tmp_path / "set.tar.part").read_bytes() == BODY[:300_000]


def test_a_wrong_checksum_is_named_and_nothing_of_the_file_kept(site, tmp_path, waits):
    site.files["/a/set.tar"] = OTHER
    with pytest.raises(ConnectionError) as error:
        download.download(published(site), tmp_path)
    assert SHA256 in str(error.value) and hashlib.sha256(OTHER).hexdigest() in str(error.value)
    assert files(tmp_path) == [] and waits == [] and len(site.log) == 1


def test_another_size_is_refused_before_it_arrives(site, tmp_path):
    site.files["/a/set.tar"] = b"<html>We have moved</html>"
    (tmp_path / "set.tar.part").write_bytes(BODY[:10])
    with pytest.raises(ConnectionError, match="a file of 26 bytes, expected 900,000"):
        download.download(published(site), tmp_path)
    assert (tmp_path / "set.tar.part").read_bytes() == BODY[:10]


def test_an_endless_answer_is_cut(site, tmp_path):
    site.files["/a/set.tar"] = BODY * 20
    site.plan["/a/set.tar"] = [{"length": False, "piece": 100_000}]
    with pytest.raises(ConnectionError, match="not the published file") as error:
        download.download(published(site), tmp_path)
    assert hashlib.sha256(BODY * 20).hexdigest() not in str(error.value) and files(tmp_path) == []


def test_a_silent_server_is_given_up(site, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", 0.2)
    site.plan["/a/set.tar"] = [{"hang": 2}]
    assert (download.download(published(site, "/a/set.tar", "/b/set.tar"),
                              tmp_path).read_bytes() == BODY)
    assert [path for path, _ in site.log] == ["/a/set.tar", "/b/set.tar"]


def test_without_a_network_it_says_so(tmp_path, monkeypatch):
    def urlopen(*_, **__):
        raise urllib.error.URLError(socket.gaierror(-3, "Temporary failure in name resolution"))

    monkeypatch.setattr(download.urllib.request, "urlopen", urlopen)
    with pytest.raises(ConnectionError, match="x.org: .*network.* http://x.org/set.tar"):
        download.download(Archive("set.tar", ("http://x.org/set.tar", "http://y.org/set.tar"), 9,
                                  SHA256), tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full is Linux's")
def test_a_full_disk_is_no_reason_to_try_again(site, tmp_path):
    (tmp_path / "set.tar.part").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        download.download(published(site), tmp_path)
    assert len(site.log) == 1


def test_without_a_checksum_pieces_are_not_put_together(site, tmp_path):
    (tmp_path / "set.tar.part").write_bytes(OTHER[:300_000])
    site.plan["/a/set.tar"] = [{"cut": 400_000}]
    assert download.download(published(site, size=0, sha256=""), tmp_path).read_bytes() == BODY
    assert [start for _, start in site.log] == [0, 0]
