"""ClientSplit: the columns of many clients, each reached without the others."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from fedml_api.data.mapped import identity
from fedml_core.errors import DataError
from fedml_core.files import write_atomic

Columns = dict[str, np.ndarray]


class ClientSplit(ABC):
    """One split of a federated data set (training or test): what every client holds, as compact arrays `[n, ...]` by column.

    Attributes:
        ids: the clients, in the order of their names.
        fingerprint: a hash of what the split is made from.
    """

    ids: Sequence[str]
    fingerprint: str

    @abstractmethod
    def __contains__(self, client: object) -> bool: ...

    @abstractmethod
    def size(self, client: str) -> int:
        """How many examples a client has."""

    @abstractmethod
    def read(self, client: str, only: Sequence[str] | None = None) -> Columns:
        """A client's columns, or `only` those named, in memory of their own."""

    def sizes(self) -> dict[str, int]:
        """How many examples every client has."""
        return {client: self.size(client) for client in self.ids}

    def unknown(self, client: str) -> DataError:
        return DataError(f"{self}: no client '{client}' among {len(self.ids)}")


class HeldSplit(ClientSplit):
    """Columns that are in memory already.

    Args:
        source: what messages call it.
    """

    def __init__(self, clients: Mapping[str, Columns], source: str) -> None:
        self.ids, self._clients, self._source = tuple(sorted(clients)), clients, source

    def __str__(self) -> str:
        return self._source

    def __contains__(self, client: object) -> bool:
        return client in self._clients

    def size(self, client: str) -> int:
        return len(next(iter(self.read(client).values())))

    def read(self, client: str, only: Sequence[str] | None = None) -> Columns:
        if client not in self._clients:
            raise self.unknown(client)
        columns = self._clients[client]
        return {name: columns[name] for name in only or columns}

    @cached_property
    def fingerprint(self) -> str:  # type: ignore[override]
        """Over the content, since there may be no file behind it."""
        total = hashlib.sha256()
        for client in self.ids:
            for name, column in sorted(self._clients[client].items()):
                total.update(f"{client}\0{name}\0{column.dtype}\0{column.shape}\0".encode())
                total.update(np.ascontiguousarray(column).data)
        return total.hexdigest()


class GroupedSplit(ClientSplit):
    """Clients that hold together what several of `split` hold; or only some of those, each under its own name.

    Args:
        groups: the clients of `split` in each client; those of them that `split` does not have bring nothing.
    """

    def __init__(self, split: ClientSplit, groups: Mapping[str, Sequence[str]]) -> None:
        self._split = split
        here = {name: [one for one in members if one in split] for name, members in groups.items()}
        self._groups = {name: members for name, members in here.items() if members}
        self.ids = tuple(name for name in groups if name in self._groups)
        about = repr(list(self._groups.items()))
        self.fingerprint = hashlib.sha256(f"{split.fingerprint} {about}".encode()).hexdigest()

    def __str__(self) -> str:
        return str(self._split)

    def __contains__(self, client: object) -> bool:
        return client in self._groups

    def size(self, client: str) -> int:
        return sum(self._split.size(one) for one in self._members(client))

    def read(self, client: str, only: Sequence[str] | None = None) -> Columns:
        return joined([self._split.read(one, only) for one in self._members(client)])

    def _members(self, client: str) -> Sequence[str]:
        if client not in self._groups:
            raise self.unknown(client)
        return self._groups[client]


def joined(parts: Sequence[Columns]) -> Columns:
    """The rows of all, one after the other."""
    return parts[0] if len(parts) == 1 else {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def unseen(test: Mapping[str, Columns], train: Mapping[str, Columns]) -> dict[str, Columns]:
    """The clients of `test`, without the rows that are anybody's in `train` as well."""
    known = {row for columns in train.values() for row in row_bytes(columns)}
    fresh = {client: np.array([row not in known for row in row_bytes(columns)], bool) for client, columns in test.items()}
    return {client: {name: column[fresh[client]] for name, column in columns.items()} for client, columns in test.items()}


def row_bytes(columns: Columns) -> Iterator[bytes]:
    """The bytes of each row, over all columns in the order of their names."""
    for row in zip(*(column for _, column in sorted(columns.items())), strict=True):
        yield b"".join(part.tobytes() for part in row)


def batched(ids: Sequence[str], size: int = 4096) -> Iterator[Sequence[str]]:
    """Names, so many at a time."""
    return (ids[first : first + size] for first in range(0, len(ids), size))


def file_digest(path: Path, root: Path) -> str:
    """The SHA-256 of a file; that of a large one is kept in `root/cache` until the file changes, as a run asks for it each time."""
    key = hashlib.sha256(repr(identity(path)).encode()).hexdigest()[:32]
    kept = root / "cache" / f"{key}.sha256"
    try:
        if len(known := kept.read_text()) == 64:
            return known
    except OSError:
        pass
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if path.stat().st_size > 32 << 20:
        try:
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(kept, digest)
        except OSError:
            pass  # the next run computes it again
    return digest
