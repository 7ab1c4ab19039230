"""A split in one file, of which only a client's own part is read: hundreds of thousands of clients are open at once.

    "FEDPACK1" | the examples, client after client, each a record of all its columns | where each client's end: int64 [clients]
    | their names: bytes [clients, width], in order | a description (JSON) | its length (uint32) | "FEDPACK1"

Names and places are mapped, and a client is found by bisection. Its examples are one stretch of the file and are read from there,
not mapped: the system maps megabytes around what is touched, and for thousands of clients that is soon the whole file. Reading at a
place leaves nothing behind in the open file, so that forked processes and threads can share it. Numbers are in the machine's byte
order, as such files are made where they are used.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload
from uuid import uuid4

import numpy as np

from fedml_api.data.split import ClientSplit, Columns
from fedml_core.errors import DataError

log = logging.getLogger("fedml")
MAGIC = b"FEDPACK1"
TAIL = 4 + len(MAGIC)
PROGRESS = 10_000


def packed(make: Callable[[], ClientSplit], about: Any, root: Path) -> PackedSplit:
    """What `make` returns, in a file below `root/cache`, for which it is called once; other processes wait meanwhile.

    Args:
        about: plain data on which the result of `make` depends.
    """
    key = hashlib.sha256(json.dumps([np.__version__, about], sort_keys=True).encode()).hexdigest()[:32]
    path = root / "cache" / f"{key}.clients"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with (path.parent / f".{key}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                pack(make(), path)
    return PackedSplit(path)


def pack(split: ClientSplit, path: Path) -> None:
    """Write a split as `PackedSplit` reads it, whole or not at all, holding one client at a time.

    Raises:
        DataError: clients differ in their columns, or have names that cannot be kept.
    """
    names = [client.encode() for client in split.ids]
    if faulty := [name for name in names if not name or b"\0" in name]:
        raise DataError(f"{split}: client {faulty[0]!r} has a name that cannot be kept: it is empty or has a null byte")
    draft = path.with_name(f".{path.name}.{uuid4().hex}")
    total, ends, record = hashlib.sha256(), np.zeros(len(names), np.int64), None
    try:
        with draft.open("wb") as file:

            def put(data: bytes | memoryview) -> None:
                total.update(data)
                file.write(data)

            put(MAGIC)
            for k, client in enumerate(split.ids):
                columns = split.read(client)
                kind = np.dtype([(name, column.dtype, column.shape[1:]) for name, column in columns.items()])
                record = kind if record is None else record
                if kind != record:
                    raise DataError(f"{split}: client '{client}' has columns {kind}, and others {record}")
                rows = np.empty(len(next(iter(columns.values()))), record)
                for name, column in columns.items():
                    rows[name] = column
                put(rows.tobytes())
                ends[k] = len(rows) + (ends[k - 1] if k else 0)
                if (k + 1) % PROGRESS == 0:
                    log.info("%s: %s of %s clients packed", split, f"{k + 1:,}", f"{len(names):,}")
            put(ends.tobytes())
            width = max(map(len, names), default=1)
            put(np.array(names, f"S{width}").tobytes())
            about = json.dumps(
                {
                    "columns": [] if record is None else [_plain(name, record[name]) for name in record.names or ()],
                    "rows": int(ends[-1]) if len(ends) else 0,
                    "clients": len(names),
                    "width": width,
                    "of": split.fingerprint,
                    "sha256": total.hexdigest(),
                }
            ).encode()
            file.write(about + len(about).to_bytes(4, "little") + MAGIC)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


class PackedSplit(ClientSplit):
    """A split as `pack` wrote it.

    Raises:
        DataError: the file is not of this kind, or damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            about = _read_about(path)
            record = np.dtype([(name, np.dtype(kind), tuple(shape)) for name, kind, shape in about["columns"]])
            rows, clients, width = (int(about[name]) for name in ("rows", "clients", "width"))
            self.fingerprint, self._sha256 = str(about["of"]), str(about["sha256"])
            begin = len(MAGIC)
            places = np.cumsum([begin, rows * record.itemsize, 8 * clients, width * clients])
            if record.hasobject or min(rows, clients, width) < 0 or places[-1] != about["end"]:
                raise ValueError("its description does not fit its size")
            self._record, self._begin = record, begin
            self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            weakref.finalize(self, os.close, self._file)
            self._ends = _map(path, np.dtype(np.int64), places[1], clients)
            self._names = _map(path, np.dtype(f"S{width}"), places[2], clients)
            if not clients or int(self._ends[-1]) != rows:
                raise ValueError("its clients do not have all of its rows")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: damaged ({error}); remove it, and it is made anew from the original files") from None
        self.ids = Names(self._names)

    def __str__(self) -> str:
        return str(self.path)

    def __contains__(self, client: object) -> bool:
        return client in self.ids

    def size(self, client: str) -> int:
        begin, end = self._place(client)
        return end - begin

    def sizes(self) -> dict[str, int]:
        return dict(zip(self.ids, np.diff(self._ends, prepend=0).tolist(), strict=True))

    def read(self, client: str, only: Sequence[str] | None = None) -> Columns:
        begin, end = self._place(client)
        records = np.empty(end - begin, self._record)
        view, place = memoryview(records.view(np.uint8)), self._begin + begin * self._record.itemsize
        while len(view):
            if not (count := os.preadv(self._file, [view], place)):
                raise DataError(f"{self.path}: damaged (it ends too early); remove it, and it is made anew from the original files")
            view, place = view[count:], place + count
        return {name: np.array(records[name]) for name in only or records.dtype.names or ()}

    def check(self) -> None:
        """Compare the content with its checksum.

        Raises:
            DataError: it has changed since it was written.
        """
        total = hashlib.sha256()
        with self.path.open("rb") as file:
            left = len(MAGIC) + self._record.itemsize * int(self._ends[-1]) + self._ends.nbytes + self._names.nbytes
            while left and (piece := file.read(min(left, 1 << 20))):
                total.update(piece)
                left -= len(piece)
        if total.hexdigest() != self._sha256:
            raise DataError(f"{self.path}: its checksum has changed; remove it, and it is made anew from the original files")

    def _place(self, client: str) -> tuple[int, int]:
        if (k := Names.find(self._names, client)) is None:
            raise self.unknown(client)
        return int(self._ends[k - 1]) if k else 0, int(self._ends[k])


class Names(Sequence[str]):
    """Names in order, read from an array of bytes as they are asked for."""

    def __init__(self, array: np.ndarray) -> None:
        self._array = array

    @staticmethod
    def find(array: np.ndarray, name: object) -> int | None:
        """Where a name stands, or None."""
        if not isinstance(name, str):
            return None
        key = name.encode()
        if len(key) > array.dtype.itemsize:
            return None
        k = int(np.searchsorted(array, np.bytes_(key)))
        return k if k < len(array) and bytes(array[k]) == key else None

    def __len__(self) -> int:
        return len(self._array)

    def __contains__(self, name: object) -> bool:
        return self.find(self._array, name) is not None

    def __iter__(self) -> Iterator[str]:
        for first in range(0, len(self._array), 4096):
            yield from (name.decode() for name in self._array[first : first + 4096].tolist())

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[str, ...]: ...
    def __getitem__(self, place: int | slice) -> str | tuple[str, ...]:
        if isinstance(place, slice):
            return tuple(name.decode() for name in self._array[place].tolist())
        return bytes(self._array[place]).decode()


def _plain(name: str, kind: np.dtype) -> list[Any]:
    return [name, kind.base.str, list(kind.shape)]


def _read_about(path: Path) -> dict[str, Any]:
    """The description, and where what it describes ends."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if size < len(MAGIC) + TAIL or file.read(len(MAGIC)) != MAGIC:
            raise ValueError("not a file of packed clients")
        file.seek(size - TAIL)
        length = int.from_bytes(file.read(4), "little")
        if file.read() != MAGIC or length > size - TAIL - len(MAGIC):
            raise ValueError("truncated")
        file.seek(size - TAIL - length)
        about = json.loads(file.read(length))
    if not isinstance(about, dict):
        raise ValueError("no description")
    return {**about, "end": size - TAIL - length}


def _map(path: Path, kind: np.dtype, begin: int, count: int) -> np.ndarray:
    return np.memmap(path, kind, "r", int(begin), (count,)) if count and kind.itemsize else np.empty(count, kind)
