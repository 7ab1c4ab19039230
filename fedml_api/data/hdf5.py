"""The HDF5 files of TensorFlow Federated's simulation data sets: `/examples/CLIENT/FEATURE`, one row per example.

The only module that imports h5py.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fedml_api.data.split import ClientSplit, Columns, file_digest
from fedml_core.errors import DataError

KINDS = {"float": "f", "whole": "iu", "text": "OSU"}
# What the library raises where a file is damaged.
DAMAGE = (OSError, RuntimeError, ValueError, TypeError, KeyError, AttributeError, OverflowError, MemoryError, SystemError)


@dataclass(frozen=True)
class Feature:
    """What a feature must be: `kind` of its elements ("float", "whole" or "text"), and the shape of one example's."""

    kind: str
    shape: tuple[int, ...] = ()

    def fault(self, found: Any) -> str | None:
        """What is wrong with a data set of this feature, in words."""
        shape = found.shape or ()
        flat = shape[1:] == (1,) and self.shape == ()
        # Elements of variable length are texts, or else lists.
        texts = (found.dtype.metadata or {}).get("vlen", str) in (str, bytes)
        if found.dtype.kind not in KINDS[self.kind] or not texts or not shape or (shape[1:] != self.shape and not flat):
            expected = f"{self.kind} [{', '.join(map(str, ('n', *self.shape)))}]"
            return f"holds {found.dtype if texts else 'lists'} {list(shape)}, not {expected}"
        return None


class H5Split(ClientSplit):
    """A file of clients, read client by client.

    A forked process opens the file anew: the library's state is not made to be shared.

    Args:
        features: those that are read, by name; `compact`: what is kept of them, a pure function of arrays.
        remedy: what to do when the file is damaged; `root`: where the checksum of a large file may be kept.
        rows: the feature whose rows are the examples; None if one row may become several.
        largest: rows of a client that are read at most.
    """

    def __init__(
        self,
        path: Path,
        features: Mapping[str, Feature],
        compact: Callable[[Columns], Columns],
        remedy: str,
        root: Path,
        rows: str | None = None,
        largest: int | None = None,
    ) -> None:
        self.path, self._features, self._compact, self._remedy, self._root = path, features, compact, remedy, root
        self._rows, self._largest = rows, largest
        self._file: Any = None
        self._h5py: Any = None
        self._pid = -1
        try:
            self.ids = tuple(sorted(self._clients()))
        except DAMAGE as error:
            raise self._error("/examples", f"cannot be read: {error}") from None
        if not self.ids:
            raise self._error("/examples", "is empty")
        self._checked(self.ids[0], self._open(self.ids[0], features))

    def __str__(self) -> str:
        return str(self.path)

    def __contains__(self, client: object) -> bool:
        return isinstance(client, str) and client in self._names

    @cached_property
    def _names(self) -> frozenset[str]:
        return frozenset(self.ids)

    @cached_property
    def fingerprint(self) -> str:  # type: ignore[override]
        return file_digest(self.path, self._root)

    def size(self, client: str) -> int:
        if self._rows is None:
            return len(next(iter(self.read(client).values())))
        shape = self._open(client, [self._rows])[self._rows].shape
        if not shape:
            raise self._error(f"/examples/{client}/{self._rows}", "is a single value, not one for each example")
        return int(shape[0]) if self._largest is None else min(int(shape[0]), self._largest)

    def read(self, client: str, only: Sequence[str] | None = None) -> Columns:
        # A column that is asked for alone has the name of its feature.
        found, end = self._open(client, self._features if only is None else only), self._largest
        try:
            columns = {name: one[()] if end is None or not one.shape else one[:end] for name, one in found.items()}
        except DAMAGE as error:
            raise self._error(f"/examples/{client}", f"cannot be read: {error}") from None
        self._checked(client, columns)
        columns = {name: column if self._features[name].shape else column.reshape(-1) for name, column in columns.items()}
        try:
            return self._compact(columns)
        except DataError as error:
            raise self._error(f"/examples/{client}", str(error)) from None

    def _open(self, client: str, names: Mapping[str, Feature] | Sequence[str]) -> dict[str, Any]:
        """The data sets of these features, neither read nor checked."""
        clients, found = self._clients(), {}
        for name in names:
            # Below h5py's groups, whose look-ups (one for the client, one for the feature) are a third of what reading takes.
            try:
                found[name] = self._h5py.Dataset(self._h5py.h5d.open(clients.id, f"{client}/{name}".encode()))
            except DAMAGE:
                if client not in self:
                    raise self.unknown(client) from None
                known = _known(clients, client)
                raise self._error(f"/examples/{client}/{name}", f"is missing, or no array (found: {known or 'nothing'})") from None
        return found

    def _checked(self, client: str, found: Mapping[str, Any]) -> None:
        """Arrays, or data sets, which take longer to say what they hold."""
        for name, one in found.items():
            try:
                fault = self._features[name].fault(one)
            except DAMAGE as error:
                fault = f"cannot be read: {error}"
            if fault:
                raise self._error(f"/examples/{client}/{name}", fault)
        if len({one.shape[0] for one in found.values()}) > 1:
            lengths = ", ".join(f"{name}: {one.shape[0]}" for name, one in found.items())
            raise self._error(f"/examples/{client}", f"has features of different lengths ({lengths})")

    def _clients(self) -> Any:
        """The group of all clients, in a file that this process has opened."""
        if self._pid == os.getpid():
            return self._file
        try:
            import h5py
        except ImportError:
            raise DataError(f'{self.path}: reading HDF5 needs h5py, which is not installed; run: pip install "fedml[h5]"') from None
        if self._file is not None:
            self._file.file.close()  # this process's copy of what its parent opened
        if not self.path.is_file():
            raise DataError(f"{self.path}: not there; {self._remedy}")
        try:
            file = h5py.File(self.path, "r")
        except DAMAGE as error:
            raise DataError(f"{self.path}: cannot be read as HDF5 ({error}); {self._remedy}") from None
        try:
            examples = file["examples"]
        except DAMAGE:
            raise self._error("/examples", f"is missing (found: {_known(file) or 'nothing'})") from None
        if not isinstance(examples, h5py.Group):
            raise self._error("/examples", "is no group of clients")
        self._file, self._pid, self._h5py = examples, os.getpid(), h5py
        return examples

    def _error(self, place: str, fault: str) -> DataError:
        return DataError(f"{self.path}: {place} {fault}; {self._remedy}")


def _known(group: Any, *path: str) -> str:
    """The names of what is there, for a message; the group may be damaged itself."""
    try:
        for name in path:
            group = group[name]
        return ", ".join(group) if hasattr(group, "keys") else "no group"
    except DAMAGE as error:
        return f"cannot be read: {error}"
