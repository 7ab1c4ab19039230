"""StateStore: the private states of clients, in memory as long as they fit there and then on disk."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, MutableMapping
from typing import IO, NamedTuple

import torch

from fedml_core import tree
from fedml_core.communication.codec import UNLIMITED, decode_tree, encode_tree, size
from fedml_core.tree import Tree

PAGE = 4096


class Place(NamedTuple):
    """Where a state lies in the file, and how many bytes it may take there."""

    offset: int
    length: int
    room: int


class StateStore(MutableMapping[str, Tree]):
    """States by client. What is read from disk is a copy: changing it changes nothing.

    The file has no name. It goes with the process, however that ends, so that a run which is killed leaves nothing behind; what has
    to survive is in the checkpoint.

    Args:
        memory: bytes of tensors to hold; each further state is written to the file.
        device: where the tensors are to lie.
    """

    def __init__(self, memory: int, device: torch.device) -> None:
        self.memory, self.device = memory, device
        self._here: dict[str, Tree] = {}
        self._there: dict[str, Place] = {}
        self._order: dict[str, None] = {}
        self._held = self._end = 0
        self._file: IO[bytes] | None = None

    def __getitem__(self, client: str) -> Tree:
        if client in self._here:
            return self._here[client]
        place = self._there[client]
        assert self._file is not None
        content = bytearray(place.length)
        self._file.seek(place.offset)
        self._file.readinto(content)  # type: ignore[attr-defined]
        return tree.to(decode_tree(content, UNLIMITED), self.device)

    def __setitem__(self, client: str, state: Tree) -> None:
        self._held -= _bytes(self._here.pop(client, None))
        if self._held + _bytes(state) <= self.memory:
            self._held += _bytes(state)
            self._here[client] = state
        else:
            self._write(client, state)
        self._order[client] = None

    def __delitem__(self, client: str) -> None:
        del self._order[client]
        self._held -= _bytes(self._here.pop(client, None))
        self._there.pop(client, None)

    def __contains__(self, client: object) -> bool:
        return client in self._order

    def __iter__(self) -> Iterator[str]:
        return iter(self._order)

    def __len__(self) -> int:
        return len(self._order)

    @property
    def on_disk(self) -> int:
        """How many states lie on disk."""
        return len(self._there.keys() - self._here.keys())

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _write(self, client: str, state: Tree) -> None:
        """Write a state where this client's last one was if it fits there, else to the end."""
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=_folder())  # noqa: SIM115 (open as long as the store)
        parts = encode_tree(state)
        length = size(parts)
        place = self._there.get(client)
        if place is None or place.room < length:
            place = Place(self._end, length, length + -length % PAGE)
            self._end += place.room
        self._file.seek(place.offset)
        self._file.writelines(parts)
        self._there[client] = place._replace(length=length)


def _bytes(state: Tree) -> int:
    return sum(part.nbytes for part in tree.tensors(state))


def _folder() -> str | None:
    """Where the file is made: what is below /tmp is on many systems memory."""
    return None if os.environ.get("TMPDIR") or not os.access("/var/tmp", os.W_OK) else "/var/tmp"
