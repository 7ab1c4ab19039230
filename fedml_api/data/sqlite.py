"""Clients in SQLite files: those of TensorFlow Federated, a row per example, and those of FedJAX, a row per client.

A client is found by its key. What is in a row is measured before it is decoded, and becomes nothing but arrays.
"""

from __future__ import annotations

import math
import os
import sqlite3
import weakref
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

import msgspec
import numpy as np
from msgspec import Meta
from msgspec.msgpack import Ext

from fedml_api.data.example_proto import features_of
from fedml_api.data.features import Feature, FeatureSplit
from fedml_api.data.split import Columns
from fedml_core.errors import DataError

# Bytes of a client, decompressed.
LARGEST = 256 << 20
NUMBERS = {name: np.dtype(name) for name in ("bool", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)))}
NUMBERS |= {name: np.dtype(name) for name in ("float16", "float32", "float64")}
AXES = Annotated[list[Annotated[int, Meta(ge=0)]], Meta(max_length=8)]
of_numbers = msgspec.msgpack.Decoder(tuple[AXES, str, bytes])
of_texts = msgspec.msgpack.Decoder(tuple[AXES, list[bytes]])
of_client = msgspec.msgpack.Decoder(dict[str, msgspec.Raw])
of_feature = msgspec.msgpack.Decoder(Ext)


class SqliteSplit(FeatureSplit):
    """One split of such a file. A forked process opens it anew."""

    needed: ClassVar[dict[str, tuple[str, ...]]]

    def __init__(self, path: Path, *arguments: Any) -> None:
        self._pid = -1
        super().__init__(path, *arguments)
        if not self.ids:
            raise self._error(next(iter(self.needed)), "has no clients" + self._which())

    def _which(self) -> str:
        return ""

    def place(self, client: str) -> str:
        return f"client '{client}'"

    def _ask(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        try:
            return self._open().execute(query, values).fetchall()
        except (sqlite3.Error, OverflowError, MemoryError) as error:
            raise DataError(f"{self.path}: cannot be read as SQLite ({error}); {self._remedy}") from None

    def _open(self) -> sqlite3.Connection:
        if self._pid != os.getpid():
            uri = f"{self.path.resolve().as_uri()}?mode=ro&immutable=1"
            self._connection = sqlite3.connect(uri, uri=True, check_same_thread=False)
            self._pid = os.getpid()
            weakref.finalize(self, self._connection.close)
            self._connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LARGEST)
            self._connection.execute("PRAGMA trusted_schema = OFF")
            for table, columns in self.needed.items():
                found = [row[1] for row in self._connection.execute(f"PRAGMA table_info({table})")]
                if missing := [column for column in columns if column not in found]:
                    known = ", ".join(found) or "no such table"
                    raise self._error(f"table {table}", f"lacks {', '.join(missing)} (found: {known})")
        return self._connection


class FedJaxSplit(SqliteSplit):
    """`federated_data(client_id BLOB, data BLOB, num_examples INTEGER)`, as FedJAX 0.0 writes it.

    `data` is deflated MessagePack: features by name, each an extension, 1: (shape, dtype, bytes) or 4: (shape, list of bytes).
    """

    needed: ClassVar[dict[str, tuple[str, ...]]] = {"federated_data": ("client_id", "data", "num_examples")}

    def _clients(self) -> Iterable[str]:
        self._sizes = {}
        for name, count in self._ask("SELECT client_id, num_examples FROM federated_data"):
            try:
                self._sizes[name.decode() if isinstance(name, bytes) else str(name)] = _whole(count)
            except (UnicodeDecodeError, ValueError) as error:
                raise self._error("federated_data", f"has the client {name!r:.40} with {count!r:.20} examples: {error}") from None
        return self._sizes

    def _count(self, client: str) -> int:
        return self._sizes[client]

    def _fetch(self, client: str, names: Sequence[str]) -> Columns:
        rows = self._ask("SELECT data FROM federated_data WHERE client_id = ? OR client_id = ?", client.encode(), client)
        try:
            features = of_client.decode(inflated(rows[0][0]))
            missing = [name for name in names if name not in features]
            if missing:
                raise ValueError(f"lacks {', '.join(missing)} (found: {', '.join(features) or 'nothing'})")
            columns = {name: _array(of_feature.decode(features[name])) for name in names}
            for name, column in columns.items():
                if column.shape[:1] != (self._sizes[client],):
                    raise ValueError(f"has {name} of shape {list(column.shape)}; num_examples says {self._sizes[client]}")
        except (ValueError, TypeError, RecursionError, MemoryError, zlib.error) as error:
            raise self._error(self.place(client), f"cannot be decoded: {error}") from None
        return {name: column[: self._largest] for name, column in columns.items()}


class TffSqliteSplit(SqliteSplit):
    """`examples(split_name, client_id, serialized_example_proto)` and `client_metadata(client_id, split_name, num_examples)`.

    Args:
        split: "train", "test", or "heldout".
    """

    needed: ClassVar[dict[str, tuple[str, ...]]] = {
        "client_metadata": ("client_id", "split_name", "num_examples"),
        "examples": ("client_id", "split_name", "serialized_example_proto"),
    }

    def __init__(self, path: Path, split: str, *arguments: Any) -> None:
        self._split = split
        super().__init__(path, *arguments)

    def __str__(self) -> str:
        return f"{self.path} ({self._split})"

    def _which(self) -> str:
        return f" of split '{self._split}'"

    def _clients(self) -> Iterable[str]:
        self._sizes = {}
        for name, count in self._ask("SELECT client_id, num_examples FROM client_metadata WHERE split_name = ?", self._split):
            try:
                self._sizes[str(name)] = _whole(count)
            except ValueError as error:
                raise self._error("client_metadata", f"has the client {name!r:.40} with {count!r:.20} examples: {error}") from None
        return self._sizes

    def _count(self, client: str) -> int:
        return self._sizes[client]

    def _fetch(self, client: str, names: Sequence[str]) -> Columns:
        most = self._sizes[client] if self._largest is None else min(self._sizes[client], self._largest)
        where = "FROM examples WHERE split_name = ? AND client_id = ?"
        ((count, size),) = self._ask(f"SELECT COUNT(*), SUM(LENGTH(serialized_example_proto)) {where}", self._split, client)
        if count != self._sizes[client] or (size or 0) > LARGEST:
            said = f"client_metadata says {self._sizes[client]:,}, and at most {LARGEST:,} bytes are read"
            raise self._error(self.place(client), f"has {count:,} examples of {size or 0:,} bytes; {said}")
        rows = self._ask(f"SELECT serialized_example_proto {where} ORDER BY rowid LIMIT ?", self._split, client, most)
        wanted = {name: self._features[name] for name in names}
        try:
            examples = [features_of(row[0], names) for row in rows]
            return {name: _stacked([example[name] for example in examples], feature) for name, feature in wanted.items()}
        except (ValueError, TypeError) as error:
            raise self._error(self.place(client), f"cannot be decoded: {error}") from None


def inflated(data: Any) -> bytes:
    """What is deflated in `data`, of bounded size.

    Raises:
        ValueError: it is larger, or cut.
    """
    if not isinstance(data, bytes):
        raise ValueError(f"data are no bytes but {data!r:.40}")
    inflate = zlib.decompressobj()
    found = inflate.decompress(data, LARGEST)
    if not inflate.eof:
        raise ValueError(f"data are cut, or have more than {LARGEST:,} bytes")
    return found


def _array(ext: Ext) -> np.ndarray:
    """The array that an extension stands for; there is nothing else that one could become."""
    if ext.code == 1:
        shape, name, content = of_numbers.decode(ext.data)
        if name not in NUMBERS:
            raise ValueError(f"an array of {name!r:.20}; known are {', '.join(NUMBERS)}")
        if math.prod(shape) * NUMBERS[name].itemsize != len(content):
            raise ValueError(f"an array of {name} {shape} with {len(content):,} bytes")
        return np.frombuffer(content, NUMBERS[name]).reshape(shape).copy()
    if ext.code == 4:
        shape, texts = of_texts.decode(ext.data)
        if math.prod(shape) != len(texts):
            raise ValueError(f"an array {shape} of {len(texts):,} texts")
        made = np.empty(len(texts), object)
        made[:] = texts
        return made.reshape(shape)
    raise ValueError(f"an extension of type {ext.code}; known are 1 and 4")


def _stacked(values: Sequence[np.ndarray], feature: Feature) -> np.ndarray:
    """One value per example, in the shape and the type of the feature."""
    size = math.prod(feature.shape)
    if wrong := [len(value) for value in values if len(value) != size]:
        raise ValueError(f"an example has {wrong[0]} values, not {size}")
    stacked = np.concatenate(values) if values else np.empty(0, np.int64)
    if feature.kind == "whole" and feature.shape:  # pixels, which are bytes in the other formats
        if stacked.size and not 0 <= stacked.min() <= stacked.max() <= 255:
            raise ValueError(f"an example has values from {stacked.min()} to {stacked.max()}, not from 0 to 255")
        stacked = stacked.astype(np.uint8)
    return stacked.reshape(len(values), *feature.shape)


def _whole(count: Any) -> int:
    """A number of examples.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(count, int) or count < 0:
        raise ValueError("num_examples is no whole number from 0 on")
    return count
