"""Getting data sets from where they are published."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tarfile
import time
import urllib.error
import urllib.parse
import urllib.request
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from uuid import uuid4

from fedml_core.errors import DataError

log = logging.getLogger("fedml")
PIECE = 1 << 20
SILENCE = 60.0


@dataclass(frozen=True)
class Download:
    """A file to get.

    Attributes:
        checksum: `sha256:` or `md5:` and the digits as its publisher has them; `into`: the folder below `data` that it goes into.
    """

    url: str
    checksum: str
    into: str

    @property
    def name(self) -> str:
        return PurePosixPath(urllib.parse.urlsplit(self.url).path).name


_tff = "https://storage.googleapis.com/tff-datasets-public/"
_toronto = "https://www.cs.toronto.edu/~kriz/"
_mnist = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_fashion = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"


def _idx(site: str, into: str, *checksums: str) -> tuple[Download, ...]:
    names = [f"{half}-{what}-ubyte.gz" for half in ("train", "t10k") for what in ("images-idx3", "labels-idx1")]
    return tuple(Download(site + name, f"md5:{digits}", into) for name, digits in zip(names, checksums, strict=True))


_stackoverflow = (
    Download(
        _tff + "stackoverflow.tar.bz2",
        "sha256:99eca2f8b8327a09e5fc123979df2d237acbc5e52322f6d86bf523ee47b961a2",
        "stackoverflow",
    ),
    Download(
        _tff + "stackoverflow.word_count.tar.bz2",
        "sha256:1dc00256d6e527c54b9756d968118378ae14e6692c0b3b6cad470cdd3f0c519c",
        "stackoverflow",
    ),
)
# By name of the data set. Their checksums are those that TensorFlow Federated, the University of Toronto and torchvision check for.
downloads: dict[str, tuple[Download, ...]] = {
    "femnist": (
        Download(_tff + "fed_emnist.tar.bz2", "sha256:fe1ed5a502cea3a952eb105920bff8cffb32836b5173cb18a57a32c3606f3ea0", "femnist"),
    ),
    "femnist_digits": (
        Download(
            _tff + "fed_emnist_digitsonly.tar.bz2",
            "sha256:55333deb8546765427c385710ca5e7301e16f4ed8b60c1dc5ae224b42bd5b14b",
            "femnist_digits",
        ),
    ),
    "fed_cifar100": (
        Download(
            _tff + "fed_cifar100.tar.bz2",
            "sha256:e8575e22c038ecef1ce6c7d492d7abee7da13b1e1ba9b70a7fc18531ba7590de",
            "fed_cifar100",
        ),
    ),
    "fed_shakespeare": (
        Download(
            _tff + "shakespeare.tar.bz2",
            "sha256:0285be9906cb5f268092eee4edeeacfc2af4574f2941f7cc2f08a321d7f5c707",
            "fed_shakespeare",
        ),
    ),
    "stackoverflow_nwp": _stackoverflow,
    "stackoverflow_lr": (
        *_stackoverflow,
        Download(
            _tff + "stackoverflow.tag_count.tar.bz2",
            "sha256:6fe281cec490d9384a290d560072438e7e2b377bbb823876ce7bd6f82696772d",
            "stackoverflow",
        ),
    ),
    "mnist": _idx(
        _mnist,
        "mnist",
        "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "d53e105ee54ea40749a09fcbcd1e9432",
        "9fb629c4189551a2d022fa330f9573f3",
        "ec29112dd5afa0611ce80d1b7f02629c",
    ),
    "fashion_mnist": _idx(
        _fashion,
        "fashion_mnist",
        "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "25c81989df183df01b3e8a0aad5dffbe",
        "bef4ecab320f06d8554ea6380940ec79",
        "bb300cfdad3c16e7a12a480ee83cd310",
    ),
    "cifar10": (Download(_toronto + "cifar-10-binary.tar.gz", "md5:c32a1d4ab5d03f1284b67883e8d87530", ""),),
    "cifar100": (Download(_toronto + "cifar-100-binary.tar.gz", "md5:03b5dce01913d631647c71ecec9e9cb8", ""),),
}


def get(download: Download, root: Path) -> list[Path]:
    """Fetch a file into its folder below `root`, check it and unpack it if it is an archive; what is there then.

    What was fetched before an interruption is not fetched again.

    Raises:
        DataError: it cannot be fetched, is not what it should be, or would be unpacked elsewhere.
    """
    folder = root / download.into
    folder.mkdir(parents=True, exist_ok=True)
    path = fetch(download, folder)
    if not tarfile.is_tarfile(path):
        return [path]
    found = unpack(path, folder)
    path.unlink()
    return found


def fetch(download: Download, folder: Path) -> Path:
    """The file in `folder`, as its checksum says."""
    path, partial = folder / download.name, folder / f"{download.name}.partial"
    if path.is_file() and _checksum(path, download.checksum):
        return path
    if urllib.parse.urlsplit(download.url).scheme not in ("http", "https"):
        raise DataError(f"{download.url}: only http and https are fetched")
    have = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(download.url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urllib.request.urlopen(request, timeout=SILENCE) as answer:
            goes_on = have and answer.status == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")
            if have and not goes_on:
                log.info("%s: %s does not go on where it was interrupted, and begins anew", download.name, download.url)
            expected = int(answer.headers.get("Content-Length", -1))
            with partial.open("ab" if goes_on else "wb") as file:
                received = _copy(answer, file, download.name, have if goes_on else 0, expected)
            if expected not in (-1, received):
                raise OSError(f"the connection ended after {received:,} of {expected:,} bytes")
    except urllib.error.HTTPError as error:
        if not (have and error.code == 416):  # everything is there already
            raise DataError(f"{download.url}: {error}; see data/README.md for other places") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{download.url}: {error}; the same command again goes on from here") from None
    if not _checksum(partial, download.checksum):
        partial.unlink()
        raise DataError(f"{download.url}: what arrived does not have the checksum {download.checksum}, and is removed; try again")
    partial.replace(path)
    return path


def unpack(archive: Path, folder: Path) -> list[Path]:
    """The files of a tar archive, in `folder`; all of them or none.

    Raises:
        DataError: it is damaged, too large for the disk, or a member is no plain file or folder inside `folder`.
    """
    draft = folder / f".{uuid4().hex}"
    draft.mkdir()
    try:
        with tarfile.open(archive) as tar:
            members = tar.getmembers()
            for member in members:
                path = PurePosixPath(member.name)
                if path.is_absolute() or ".." in path.parts or not (member.isfile() or member.isdir()):
                    raise DataError(f"{archive}: member '{member.name}' is no file inside the folder; the archive is not unpacked")
            if (total := sum(member.size for member in members)) > (free := shutil.disk_usage(folder).free):
                raise DataError(f"{archive}: needs {total:,} bytes, and {folder} has room for {free:,}; make room, and try again")
            for member in members:
                if (source := tar.extractfile(member)) is not None:
                    target = draft / member.name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with source, target.open("wb") as file:
                        shutil.copyfileobj(source, file, PIECE)
        found = []
        for path in sorted(path for path in draft.rglob("*") if path.is_file()):
            target = folder / path.relative_to(draft)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, target)
            found.append(target)
        return found
    except (tarfile.TarError, EOFError, OSError, ValueError, zlib.error) as error:
        raise DataError(f"{archive}: cannot be unpacked ({error}); remove it and get it again") from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _copy(answer: object, file: object, name: str, begin: int, expected: int) -> int:
    """Everything that arrives, with a word about it now and then; how many bytes it was."""
    received, said = 0, time.monotonic()
    while piece := answer.read(PIECE):  # type: ignore[attr-defined]
        file.write(piece)  # type: ignore[attr-defined]
        received += len(piece)
        if time.monotonic() > said + 5:
            said = time.monotonic()
            of = f" of {(begin + expected) >> 20:,}" if expected >= 0 else ""
            log.info("%s: %s%s MB", name, f"{(begin + received) >> 20:,}", of)
    return received


def _checksum(path: Path, wanted: str) -> bool:
    kind, _, digits = wanted.partition(":")
    with path.open("rb") as file:
        return hashlib.file_digest(file, kind).hexdigest() == digits
