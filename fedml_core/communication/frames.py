"""Frames: what the reliable transport puts on the wire. One fixed header for all kinds, then data.

    offset  size  content
    0          4  magic "FED1": the name of this protocol and its version
    4          1  kind
    5          3  zero
    8          8  source: the instance of the process that sends
    16         8  target: the instance it is meant for, or zeros
    24         8  number of a message among those from source to target
    32         8  size of that message in bytes
    40         4  index of a chunk of it
    44         4  count of chunks
    48        16  digest: the first half of the SHA-256 of bytes 0..47 and the data
    64       ...  data, in frames of kind PUSH and PART

Integers are little-endian. A message longer than `CHUNK` is cut into chunks of exactly that size but for the last, so no frame
can declare chunks that overlap or leave gaps.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, field
from enum import IntEnum

CHUNK = 256 << 10
NOBODY = bytes(8)

_MAGIC = b"FED1"
_HEADER = struct.Struct("<4sB3s8s8sQQII")
_DIGEST = 16
_START = _HEADER.size + _DIGEST


class Kind(IntEnum):
    """What a frame says; `reliable` tells who says it when."""

    HERE = 1
    LEFT = 2
    CLAIM = 3
    TAKEN = 4
    PING = 5
    RESET = 6
    PUSH = 7
    OFFER = 8
    PART = 9
    WANT = 10


_KINDS = frozenset(Kind)
_WITH_DATA = frozenset({Kind.PUSH, Kind.PART})


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame; see the table above for its fields."""

    kind: Kind
    source: bytes
    target: bytes = NOBODY
    number: int = 0
    size: int = 0
    index: int = 0
    count: int = 0
    data: bytes | memoryview = field(default=b"", repr=False)

    def pack(self) -> bytes:
        """The bytes of this frame."""
        head = _HEADER.pack(_MAGIC, self.kind, bytes(3), self.source, self.target, self.number, self.size, self.index, self.count)
        return b"".join((head, _digest(head, self.data), self.data))


def parse(payload: bytes) -> Frame | None:
    """The frame in `payload`, whose data is a view into it; None if it is anything else than what `pack` makes."""
    if not _START <= len(payload) <= _START + CHUNK or payload[:4] != _MAGIC:
        return None
    view = memoryview(payload)
    if _digest(view[: _HEADER.size], view[_START:]) != payload[_HEADER.size : _START]:
        return None
    _, kind, zero, source, target, number, size, index, count = _HEADER.unpack_from(payload)
    if kind not in _KINDS or any(zero) or source == NOBODY or (len(payload) > _START) != (kind in _WITH_DATA):
        return None
    return Frame(Kind(kind), source, target, number, size, index, count, view[_START:])


def chunks(size: int) -> int:
    """Into how many chunks a message of `size` bytes is cut."""
    return -(-size // CHUNK)


def chunk_length(size: int, index: int) -> int:
    """Bytes of chunk `index` of a message of `size` bytes."""
    return min(CHUNK, size - index * CHUNK)


def _digest(head: bytes | memoryview, data: bytes | memoryview) -> bytes:
    total = hashlib.sha256(head)
    total.update(data)
    return total.digest()[:_DIGEST]
