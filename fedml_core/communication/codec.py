"""Codec: a message as bytes, and back. Never pickle: nothing that arrives can name code.

    offset    size  content
    0            4  magic "FEDC"
    4            1  version of this protocol
    5            3  zero
    8            8  length of the header in bytes, little-endian
    16         ...  header, MessagePack: the fields of the message, the structure of its payload, (dtype, shape) of each tensor
    aligned 64 ...  tensor 0, raw little-endian elements in row-major order
    aligned 64 ...  tensor 1, ... up to the end of tensor n - 1, padded to 64

Tensors stand in the order in which the structure names them. Where each begins follows from the shapes before it, so there are no
offsets that could overlap or lie, and the whole message has exactly one permitted length.

Whatever arrives is taken for hostile: sizes are compared with `Limits` before anything is allocated for them, and the only error
that `decode` raises is `CommunicationError`.
"""

from __future__ import annotations

import math
import struct
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

import msgspec
import numpy as np
import torch
from torch import Tensor

from fedml_core import tree
from fedml_core.communication.message import Message
from fedml_core.errors import CommunicationError, Unsendable
from fedml_core.tree import Tree

if sys.byteorder != "little":
    raise ImportError("fedml_core.communication needs a little-endian machine: tensors travel as they lie in memory")

Buffer: TypeAlias = "bytes | bytearray | memoryview"

MAGIC = b"FEDC"
VERSION = 1
ALIGNMENT = 64
PREFIX = struct.Struct("<4sB3sQ")

_PADDING = memoryview(bytes(ALIGNMENT))
_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.bool, torch.uint8, torch.uint16, torch.uint32, torch.uint64),
        *(torch.int8, torch.int16, torch.int32, torch.int64),
        *(torch.float8_e4m3fn, torch.float8_e5m2, torch.float16, torch.bfloat16, torch.float32, torch.float64),
        *(torch.complex64, torch.complex128),
    )
}
_DTYPE_NAMES = {dtype: name for name, dtype in _DTYPES.items()}

_Name = Annotated[str, msgspec.Meta(max_length=256)]
_Shape = Annotated[tuple[Annotated[int, msgspec.Meta(ge=0)], ...], msgspec.Meta(max_length=32)]


@dataclass(frozen=True)
class Limits:
    """What a received message may be at most. All are checked before memory is taken.

    The defaults let 50,000 tensors through, be they one model or 50 for each of 1,000 clients: a matrix whose name has 20 letters
    takes 80 bytes of header and 9 values. Whatever a header says, decoding it takes less than 64 MB.

    Attributes:
        total: bytes of the whole message.
        header: bytes of the header. As Python's text they are four times as many.
        values: values in the header, containers and what is in them alike. An empty list is one byte there and 80 in memory.
        depth: levels of nesting in the payload; `tree.unpack` recurses once per level.
        tensors: number of tensors.
        elements: elements of one tensor.
    """

    total: int = 1 << 30
    header: int = 1 << 22
    values: int = 480_000
    depth: int = 64
    tensors: int = 50_000
    elements: int = 1 << 30

    def check(self, what: str, value: int) -> None:
        """Refuse a `value` beyond the limit named `what`.

        Raises:
            Unsendable: with the value, the limit, and its name.
        """
        if value > getattr(self, what):
            raise Unsendable(f"message refused: {what} {value} is more than Limits.{what} = {getattr(self, what)}")


# For what this program wrote itself, where nobody else could change it.
UNLIMITED = Limits(total=1 << 40, header=1 << 40, values=1 << 40, depth=1000, tensors=1 << 40, elements=1 << 40)


class _Header(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    type: _Name
    sender: _Name
    receiver: _Name
    run: _Name
    round: Annotated[int, msgspec.Meta(ge=-1)]
    id: _Name
    reply_to: _Name
    structure: Any
    tensors: list[tuple[str, _Shape]]


def _plain(value: object) -> object:
    """msgspec takes exact types only; a NumPy or enum scalar that is also a Python number or string goes as that."""
    for kind in (int, float, str):
        if isinstance(value, kind):
            return kind(value)
    raise TypeError(f"a message cannot hold a {type(value).__name__}")


def _msgpack_formats() -> list[tuple[int, int, int]]:
    """For each first byte of a MessagePack value: bytes to skip, width of the count that follows, and values per count.

    See github.com/msgpack/msgpack/blob/master/spec.md. A short container has its count in the first byte: it is given as that many
    values, with a count of one.
    """
    formats = [(0, 0, 0)] * 256
    formats[0x80:0x90] = [(0, 0, 2 * count) for count in range(16)]  # map
    formats[0x90:0xA0] = [(0, 0, count) for count in range(16)]  # array
    formats[0xA0:0xC0] = [(length, 0, 0) for length in range(32)]  # text
    formats[0xC4:0xC7] = [(0, width, 0) for width in (1, 2, 4)]  # bytes
    formats[0xC7:0xCA] = [(1, width, 0) for width in (1, 2, 4)]  # extension
    formats[0xCA:0xD4] = [(length, 0, 0) for length in (4, 8, 1, 2, 4, 8, 1, 2, 4, 8)]  # float, unsigned, signed
    formats[0xD4:0xD9] = [(length + 1, 0, 0) for length in (1, 2, 4, 8, 16)]  # extension
    formats[0xD9:0xDC] = [(0, width, 0) for width in (1, 2, 4)]  # text
    formats[0xDC:0xE0] = [(0, width, items) for items in (1, 2) for width in (2, 4)]  # array, map
    return formats


_MSGPACK = _msgpack_formats()
_CONTAINERS = bytes(first for first, (_, _, items) in enumerate(_MSGPACK) if items)
_encoder = msgspec.msgpack.Encoder(enc_hook=_plain)
_decoder = msgspec.msgpack.Decoder(_Header)


def encode(message: Message) -> list[Buffer]:
    """The bytes of `message`, in parts to be sent one after the other.

    The parts after the first are the memory of the tensors themselves (of copies, for tensors that are on another device or not
    contiguous): they must not be written into before they are sent.

    Raises:
        CommunicationError: the payload is not a tree, or holds a tensor that is not dense, a number or text that has no encoding.
    """
    try:
        structure, found = tree.pack(message.payload)
        shapes = [(_DTYPE_NAMES[tensor.dtype], tuple(tensor.shape)) for tensor in found.values()]
        fields = (message.type, message.sender, message.receiver, message.run, message.round, message.id, message.reply_to)
        header = _encoder.encode(_Header(*fields, structure, shapes))
        views = [_bytes(tensor) for tensor in found.values()]
    except KeyError as error:
        raise Unsendable(f"message '{message.type}' cannot be sent: no encoding for tensors of {error}") from error
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise Unsendable(f"message '{message.type}' cannot be sent: {error}") from error
    start = PREFIX.pack(MAGIC, VERSION, bytes(3), len(header)) + header
    parts: list[Buffer] = [start + bytes(_gap(len(start)))]
    for view in views:
        parts.append(view)
        if _gap(len(view)):
            parts.append(_PADDING[: _gap(len(view))])
    return parts


def size(parts: Iterable[Buffer]) -> int:
    """Bytes of an encoded message."""
    return sum(map(len, parts))


def encode_tree(content: Tree) -> list[Buffer]:
    """A tree as bytes, where no message is needed: for files, and for memory that processes share."""
    return encode(Message("tree", "", "", content))


def decode_tree(buffer: Buffer, limits: Limits = Limits()) -> Tree:
    """The tree that `encode_tree` encoded; its tensors lie as those of `decode`.

    Raises:
        CommunicationError: the bytes are no tree, or one beyond `limits`.
    """
    return decode(buffer, limits).payload


def decode(buffer: Buffer, limits: Limits = Limits()) -> Message:
    """The message in `buffer`.

    Its tensors are views into `buffer` if that is writable and aligned, else into one copy of their bytes.

    Raises:
        CommunicationError: the bytes are not a message, or one beyond `limits`.
    """
    view = memoryview(buffer).cast("B")
    limits.check("total", len(view))
    header, start = _read_header(view, limits)
    paths = _tensor_paths(header.structure)
    if len(paths) != len(header.tensors) or len(paths) != len(set(paths)):
        raise CommunicationError(f"malformed message: {len(header.tensors)} tensors come with {len(paths)} names")
    found = dict(zip(paths, _read_tensors(view, start, header.tensors, limits), strict=True))
    try:
        payload = tree.unpack(header.structure, found)
    except Exception as error:  # besides ValueError, whatever the constructor of a tree node raises
        raise CommunicationError(f"malformed message: {error}") from error
    return Message(header.type, header.sender, header.receiver, payload, header.run, header.round, header.id, header.reply_to)


def _bytes(tensor: Tensor) -> memoryview:
    """The memory of a contiguous tensor; of a copy, if it is on a device or lazily conjugated."""
    here = tensor.cpu().resolve_conj().resolve_neg()
    return here.view(-1).view(torch.uint8).numpy().data


def _gap(length: int) -> int:
    """Bytes from `length` to the next multiple of the alignment."""
    return -length % ALIGNMENT


def _read_header(view: memoryview, limits: Limits) -> tuple[_Header, int]:
    """The header, and where the first tensor begins."""
    if len(view) < PREFIX.size:
        raise CommunicationError(f"malformed message: {len(view)} bytes are less than the {PREFIX.size} of the prefix")
    magic, version, reserved, length = PREFIX.unpack_from(view)
    if magic != MAGIC:
        raise CommunicationError(f"malformed message: it begins with {magic!r}, not {MAGIC!r}")
    if version != VERSION:
        raise CommunicationError(
            f"the sender speaks version {version} of the protocol, this side version {VERSION}: install the same release on both"
        )
    if any(reserved):
        raise CommunicationError("malformed message: reserved bytes are not zero")
    limits.check("header", length)
    end = PREFIX.size + length
    if end + _gap(end) > len(view):
        raise CommunicationError(f"malformed message: truncated, {len(view)} bytes with a header of {length}")
    content = bytes(view[PREFIX.size : end])
    _check_structure(content, limits)
    try:
        return _decoder.decode(content), end + _gap(end)
    except (msgspec.MsgspecError, ValueError) as error:
        raise CommunicationError(f"malformed message: {error}") from error


def _check_structure(header: bytes, limits: Limits) -> None:
    """Refuse what is cheap to send and dear to decode: many values, and deep nesting, in which msgspec recurses as long as Python's
    recursion limit lets it and overflows a thread's stack.

    This only counts; what is malformed in other ways is left for msgspec to find.
    """
    if len(header) <= limits.values and len(header) - len(header.translate(None, _CONTAINERS)) <= 2 * limits.depth:
        return  # most messages are so small
    at, to_come = 0, [1]  # values still to come: at the top, and in each container that is open
    values = 1
    while to_come and at < len(header):
        if to_come[-1] == 0:
            to_come.pop()
            continue
        to_come[-1] -= 1
        skip, width, items = _MSGPACK[header[at]]
        count = int.from_bytes(header[at + 1 : at + 1 + width], "big") if width else 1
        at += 1 + width + skip
        if items:
            to_come.append(count * items)
            values += count * items
            limits.check("values", values)
            limits.check("depth", (len(to_come) - 2) // 2)  # the header is a level, and one of a tree is two: {"list": [...]}
        elif width:
            at += count


def _tensor_paths(structure: Any) -> list[str]:
    """The tensors that a structure names, in order."""
    paths: list[str] = []
    stack = [structure]
    while stack:
        item = stack.pop()
        if isinstance(item, list):
            stack += reversed(item)
        elif isinstance(item, dict):
            if not all(isinstance(key, str) for key in item):
                raise CommunicationError("malformed message: a key in its structure is not text")
            if isinstance(path := item.get("tensor"), str):
                paths.append(path)
            stack += reversed(item.values())
    return paths


def _read_tensors(view: memoryview, start: int, shapes: list[tuple[str, tuple[int, ...]]], limits: Limits) -> list[Tensor]:
    limits.check("tensors", len(shapes))
    places: list[tuple[torch.dtype, tuple[int, ...], int, int]] = []
    end = 0
    for name, shape in shapes:
        if name not in _DTYPES:
            raise CommunicationError(f"malformed message: unknown dtype {name[:40]!r}")
        # Zeros count as ones: a shape like (2**62, 2**62, 0) has no elements and still overflows the strides.
        limits.check("elements", math.prod(max(extent, 1) for extent in shape))
        dtype, count = _DTYPES[name], math.prod(shape)
        places.append((dtype, shape, count, end))
        end += count * dtype.itemsize
        end += _gap(end)
    if start + end != len(view):
        raise CommunicationError(f"malformed message: {len(view)} bytes, where its header declares {start + end}")
    body = _writable(view[start:])
    found = [
        torch.frombuffer(body, dtype=dtype, count=count, offset=offset).view(shape) if count else torch.empty(shape, dtype=dtype)
        for dtype, shape, count, offset in places
    ]
    for tensor in found:
        # Any other byte would be a bool that is neither true nor false: undefined behaviour in the kernels.
        if tensor.dtype is torch.bool and tensor.numel() and int(tensor.view(torch.uint8).max()) > 1:
            raise CommunicationError("malformed message: a tensor of bool holds a byte other than 0 and 1")
    return found


def _writable(body: memoryview) -> memoryview:
    """`body` itself if it may be written into and every dtype is aligned in it, else a copy."""
    if not body.readonly and np.frombuffer(body, np.uint8).ctypes.data % torch.complex128.itemsize == 0:
        return body
    copy = np.empty(len(body), np.uint8)
    copy[:] = body
    return copy.data
