"""HDF5, and the files of TensorFlow Federated's simulation data sets: `/examples/CLIENT/FEATURE`, one row per example.

The only module that imports h5py.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedml_api.data.features import FeatureSplit
from fedml_api.data.split import Columns
from fedml_core.errors import DataError

# What the library raises where a file is damaged.
DAMAGE = (OSError, RuntimeError, ValueError, TypeError, KeyError, AttributeError, OverflowError, MemoryError, SystemError)


def open_h5(path: Path, remedy: str) -> tuple[Any, Any]:
    """The library, and the file opened with it.

    Raises:
        DataError: the one is not installed, or the other is not of its format.
    """
    try:
        import h5py
    except ImportError:
        raise DataError(f'{path}: reading HDF5 needs h5py, which is not installed; run: pip install "fedml[h5]"') from None
    try:
        return h5py, h5py.File(path, "r")
    except DAMAGE as error:
        raise DataError(f"{path}: cannot be read as HDF5 ({error}); {remedy}") from None


class H5Split(FeatureSplit):
    """Such a file. A forked process opens it anew: the library's state is not made to be shared."""

    def __init__(self, path: Path, *arguments: Any) -> None:
        self._file: Any = None
        self._h5py: Any = None
        self._pid = -1
        try:
            super().__init__(path, *arguments)
        except DAMAGE as error:
            raise self._error("/examples", f"cannot be read: {error}") from None
        if not self.ids:
            raise self._error("/examples", "is empty")
        self._checked(self.ids[0], self._open(self.ids[0], tuple(self._features)))

    def place(self, client: str) -> str:
        return f"/examples/{client}"

    def _count(self, client: str) -> int:
        assert self._rows is not None
        shape = self._open(client, [self._rows])[self._rows].shape
        if not shape:
            raise self._error(f"{self.place(client)}/{self._rows}", "is a single value, not one for each example")
        return int(shape[0])

    def _fetch(self, client: str, names: Sequence[str]) -> Columns:
        found, end = self._open(client, names), self._largest
        try:
            return {name: one[()] if end is None or not one.shape else one[:end] for name, one in found.items()}
        except DAMAGE as error:
            raise self._error(self.place(client), f"cannot be read: {error}") from None

    def _open(self, client: str, names: Sequence[str]) -> dict[str, Any]:
        """The data sets of these features, neither read nor checked."""
        clients, found = self._clients(), {}
        for name in names:
            # Below h5py's groups, whose look-ups (one for the client, one for the feature) are a third of what reading takes.
            try:
                found[name] = self._h5py.Dataset(self._h5py.h5d.open(clients.id, f"{client}/{name}".encode()))
            except DAMAGE:
                fault = f"is missing, or no array (found: {_known(clients, client) or 'nothing'})"
                raise self._error(f"{self.place(client)}/{name}", fault) from None
        return found

    def _clients(self) -> Any:
        """The group of all clients, in a file that this process has opened."""
        if self._pid == os.getpid():
            return self._file
        if self._file is not None:
            self._file.file.close()  # this process's copy of what its parent opened
        h5py, file = open_h5(self.path, self._remedy)
        try:
            examples = file["examples"]
        except DAMAGE:
            raise self._error("/examples", f"is missing (found: {_known(file) or 'nothing'})") from None
        if not isinstance(examples, h5py.Group):
            raise self._error("/examples", "is no group of clients")
        self._file, self._pid, self._h5py = examples, os.getpid(), h5py
        return examples


def _known(group: Any, *path: str) -> str:
    """The names of what is there, for a message; the group may be damaged itself."""
    try:
        for name in path:
            group = group[name]
        return ", ".join(group) if hasattr(group, "keys") else "no group"
    except DAMAGE as error:
        return f"cannot be read: {error}"


def holds(group: Any, name: str) -> bool:
    """Whether something has this name there; also if the group is too damaged to tell."""
    try:
        return name in group
    except DAMAGE:
        return True
