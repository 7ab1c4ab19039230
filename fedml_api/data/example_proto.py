"""tf.train.Example, the protocol buffer in which TensorFlow keeps one example, read without TensorFlow.

Example  = 1: Features        Features  = repeated 1: entry       entry     = 1: name, 2: Feature
Feature  = 1: BytesList, 2: FloatList or 3: Int64List;            ...List   = repeated 1: value, numbers packed or not
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

# Wire types: a varint, 8 bytes, a length and so many bytes, 4 bytes.
VARINT, EIGHT, BYTES, FOUR = 0, 1, 2, 5


def features_of(data: bytes, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The features of these names, as flat arrays: bytes (objects), float32 or int64.

    Raises:
        ValueError: it is no such message, or lacks one of them.
    """
    if not isinstance(data, bytes):
        raise ValueError(f"a row is no tf.train.Example but {data!r:.40}")
    found: dict[str, np.ndarray] = {}
    known = []
    for part in _parts(data, 1):
        for entry in _parts(part, 1):
            name = b"".join(_parts(entry, 1)).decode()
            known.append(name)
            if name in names:
                found[name] = _values(list(_parts(entry, 2))[-1:])
    if missing := [name for name in names if name not in found]:
        raise ValueError(f"an example lacks {', '.join(missing)} (found: {', '.join(known) or 'nothing'})")
    return found


def _values(feature: Sequence[bytes]) -> np.ndarray:
    for number, _, content in _fields(b"".join(feature)):
        fields = [(kind, value) for which, kind, value in _fields(content) if which == 1]
        if number == 1:
            made = np.empty(len(fields), object)
            made[:] = [value for _, value in fields]
            return made
        if number == 2:
            data = b"".join(value for _, value in fields)
            if len(data) % 4:
                raise ValueError("a list of floats is cut")
            return np.frombuffer(data, "<f4")
        if number == 3:
            return np.concatenate([np.empty(0, np.int64), *(_varints(value) for _, value in fields)])
    raise ValueError("a feature has no list")


def _parts(data: bytes, number: int) -> Iterator[bytes]:
    return (value for which, kind, value in _fields(data) if which == number and kind == BYTES)


def _fields(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Number, wire type and content of every field."""
    place = 0
    while place < len(data):
        tag, place = _varint(data, place)
        begin, kind = place, tag & 7
        if kind == VARINT:
            _, end = _varint(data, place)
        elif kind == BYTES:
            length, begin = _varint(data, place)
            end = begin + length
        elif kind in (EIGHT, FOUR):
            end = begin + (8 if kind == EIGHT else 4)
        else:
            raise ValueError(f"a field has the wire type {kind}")
        if end > len(data):
            raise ValueError("a message is cut")
        yield tag >> 3, kind, data[begin:end]
        place = end


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """A number, its lowest 7 bits first, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(data):
            raise ValueError("a message is cut")
        byte = data[place]
        value, place = value | (byte & 127) << shift, place + 1
        if byte < 128:
            return value, place
    raise ValueError("a number has more than 10 bytes")


def _varints(data: bytes) -> np.ndarray:
    """Numbers one after the other, int64."""
    content = np.frombuffer(data, np.uint8)
    if not len(content):
        return np.empty(0, np.int64)
    ends = np.flatnonzero(content < 128) + 1
    if not len(ends) or ends[-1] != len(content):
        raise ValueError("a list of whole numbers is cut")
    begins = np.concatenate([[0], ends[:-1]])
    if (lengths := ends - begins).max() > 10:
        raise ValueError("a number has more than 10 bytes")
    shifts = 7 * (np.arange(len(content)) - np.repeat(begins, lengths))
    return np.add.reduceat((content & 127).astype(np.uint64) << shifts.astype(np.uint64), begins).view(np.int64)
