import hashlib
import io
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from fedml_api.data import data_sources, download
from fedml_api.data.download import Download, downloads, fetch, get, unpack
from fedml_core.errors import DataError

CONTENT = np.random.default_rng(0).bytes(300_000)
SHA = "sha256:" + hashlib.sha256(CONTENT).hexdigest()


class Site(BaseHTTPRequestHandler):
    """Serves `content`; `cut`: closes the connection after so many bytes; `ranges`: whether it goes on in the middle."""

    content, cut, ranges, asked = CONTENT, None, True, []

    def do_GET(self):
        range_ = self.headers.get("Range")
        self.asked.append(range_)
        if self.path == "/gone.bin":
            return self.send_error(404)
        begin = int(range_[len("bytes=") : -1]) if range_ and self.ranges is True else 0
        if begin >= len(self.content):
            return self.send_error(416)
        body = self.content[begin:]
        self.send_response(206 if begin or (range_ and self.ranges) else 200)
        self.send_header("Content-Length", str(len(body)))
        if begin or (range_ and self.ranges):
            self.send_header("Content-Range", f"bytes {begin}-{len(self.content) - 1}/{len(self.content)}")
        self.end_headers()
        return self.wfile.write(body if self.cut is None else body[: self.cut])

    def log_message(self, *arguments):
        pass


@pytest.fixture
def site(monkeypatch):
    """A web server on this machine, of a class of its own."""

    class Own(Site):
        asked = []  # noqa: RUF012

    server = ThreadingHTTPServer(("127.0.0.1", 0), Own)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    Own.url = f"http://127.0.0.1:{server.server_port}/"
    yield Own
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_file_is_fetched_once(site, tmp_path):
    one = Download(site.url + "data.bin?version=1", SHA, "set")
    assert get(one, tmp_path) == get(one, tmp_path) == [tmp_path / "set" / "data.bin"]
    assert (tmp_path / "set" / "data.bin").read_bytes() == CONTENT
    assert site.asked == [None]


@pytest.mark.parametrize("ranges", [True, False, "elsewhere"])
def test_after_an_interruption_it_goes_on_where_it_was(site, tmp_path, ranges):
    site.cut, site.ranges = 100_000, ranges
    one = Download(site.url + "data.bin", SHA, "")
    with pytest.raises(DataError, match=r"again goes on"):
        fetch(one, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["data.bin.partial"]
    site.cut = None
    assert fetch(one, tmp_path).read_bytes() == CONTENT
    assert site.asked == [None, "bytes=100000-"]
    assert [path.name for path in tmp_path.iterdir()] == ["data.bin"]


def test_interrupted_after_the_last_byte(site, tmp_path):
    (tmp_path / "data.bin.partial").write_bytes(CONTENT)
    assert fetch(Download(site.url + "data.bin", SHA, ""), tmp_path).read_bytes() == CONTENT
    assert site.asked == [f"bytes={len(CONTENT)}-"]


def test_what_is_not_as_it_should_be_does_not_stay(site, tmp_path):
    one = Download(site.url + "data.bin", "md5:" + "0" * 32, "")
    (tmp_path / "data.bin").write_bytes(b"older")
    for begun in (b"", b"something else"):
        (tmp_path / "data.bin.partial").write_bytes(begun)
        with pytest.raises(DataError, match=r"data.bin: what arrived does not have the checksum md5:000"):
            fetch(one, tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["data.bin"]
    assert (tmp_path / "data.bin").read_bytes() == b"older"


def test_places_that_have_nothing(site, tmp_path):
    for url, said in ((site.url + "gone.bin", "404"), ("http://127.0.0.1:9/x", "goes on"), ("file:///etc/passwd", "only http")):
        with pytest.raises(DataError, match=said):
            fetch(Download(url, SHA, ""), tmp_path)


def archive(*members):
    """A tar file of plain files, and of whatever `TarInfo` is given instead."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:bz2") as tar:
        for member in members:
            info = member if isinstance(member, tarfile.TarInfo) else tarfile.TarInfo(member)
            content = info.name.encode() if info.isfile() else b""
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


def test_an_archive_is_unpacked_and_removed(site, tmp_path):
    site.content = archive("a.h5", "folder/b.bin")
    one = Download(site.url + "set.tar.bz2", "sha256:" + hashlib.sha256(site.content).hexdigest(), "set")
    assert get(one, tmp_path) == [tmp_path / "set" / "a.h5", tmp_path / "set" / "folder" / "b.bin"]
    assert (tmp_path / "set" / "folder" / "b.bin").read_bytes() == b"folder/b.bin"
    assert {path.name for path in (tmp_path / "set").iterdir()} == {"a.h5", "folder"}


def link(kind):
    info = tarfile.TarInfo("link")
    info.type, info.linkname = kind, "../../outside"
    return info


@pytest.mark.parametrize(
    "member",
    [
        "../evil",
        "a/../../evil",
        "/tmp/evil",
        link(tarfile.SYMTYPE),
        link(tarfile.LNKTYPE),
        link(tarfile.CHRTYPE),
        link(tarfile.FIFOTYPE),
    ],
    ids=["above", "above a folder", "absolute", "symbolic link", "hard link", "device", "pipe"],
)
def test_an_archive_that_would_write_elsewhere_is_not_unpacked(tmp_path, member):
    folder = tmp_path / "deep" / "set"
    folder.mkdir(parents=True)
    path = tmp_path / "set.tar.bz2"
    path.write_bytes(archive("good", member))
    with pytest.raises(DataError, match=rf"{path}: member '.*' is no file inside the folder"):
        unpack(path, folder)
    assert list(folder.iterdir()) == []
    assert {one.name for one in tmp_path.iterdir()} == {"deep", "set.tar.bz2"}


def test_an_archive_that_is_damaged_or_too_large(tmp_path, monkeypatch):
    path, folder = tmp_path / "set.tar.bz2", tmp_path / "set"
    folder.mkdir()
    whole = archive(*(f"file{k}" for k in range(2000)))
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=f"{path}: cannot be unpacked"):
        unpack(path, folder)
    path.write_bytes(whole)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 9})())
    with pytest.raises(DataError, match="has room for 9"):
        unpack(path, folder)
    assert list(folder.iterdir()) == []


def test_what_can_be_fetched_is_known_and_goes_where_it_is_looked_for(tmp_path):
    unpacked = {"cifar-10-binary.tar.gz": "cifar-10-batches-bin", "cifar-100-binary.tar.gz": "cifar-100-binary"}
    for name, files in downloads.items():
        paths = [path for path in data_sources[name]().files(tmp_path) if tmp_path in path.parents]
        for one in files:
            kind, _, digits = one.checksum.partition(":")
            assert len(digits) == {"sha256": 64, "md5": 32}[kind]
            assert set(digits) <= set("0123456789abcdef")
            assert {path.parent for path in paths} <= {tmp_path / (one.into or unpacked[one.name])}
