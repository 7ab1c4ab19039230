"""The codec: what goes in comes out, and nothing else gets through."""

import math
import threading
import tracemalloc

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedml_core import tree
from fedml_core.communication import codec
from fedml_core.communication.codec import MAGIC, PREFIX, VERSION, Limits, decode, encode
from fedml_core.communication.message import Message
from fedml_core.errors import CommunicationError

DTYPES = list(codec._DTYPES.values())
SMALL = Limits(total=1 << 16, header=1 << 12, values=500, depth=16, tensors=50, elements=1 << 12)


@tree.node
class CodecPair:
    left: object
    right: object


@tree.node
class Particular:
    """A node that refuses some values, with an exception of its own."""

    value: object

    def __post_init__(self):
        if self.value != "good":
            raise ArithmeticError("not good")


def whole(message) -> bytearray:
    return bytearray().join(encode(message))


def crossed(payload):
    return decode(whole(Message("type", "a", "b", payload))).payload


def raw(tensor) -> bytes:
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def same(a, b) -> bool:
    """Equal structure and equal bits."""
    (left, ours), (right, theirs) = tree.pack(a), tree.pack(b)
    return msgspec.msgpack.encode(left) == msgspec.msgpack.encode(right) and all(
        x.dtype == y.dtype and x.shape == y.shape and raw(x) == raw(y) for x, y in zip(ours.values(), theirs.values(), strict=True)
    )


@st.composite
def tensors(draw):
    dtype, shape = draw(st.sampled_from(DTYPES)), draw(st.lists(st.integers(0, 4), max_size=4))
    top = 2 if dtype is torch.bool else 256
    bits = np.random.default_rng(draw(st.integers(0, 1000))).integers(0, top, math.prod(shape) * dtype.itemsize, np.uint8)
    tensor = torch.from_numpy(bits).view(dtype).view(shape) if len(bits) else torch.empty(shape, dtype=dtype)
    return tensor.transpose(0, -1) if shape and draw(st.booleans()) else tensor


plain = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=8)
names = st.text(max_size=5) | st.sampled_from(["tensor", "dict", "value", "node", "a/b", "\\s"])
trees = st.recursive(
    tensors() | plain,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(
            st.text(max_size=5) | st.sampled_from(["tensor", "dict", "value", "node", "a/b", "\\s"]), inner, max_size=4
        )
        | st.builds(CodecPair, inner, inner)
    ),
    max_leaves=12,
)


@given(trees, st.sampled_from([bytes, bytearray, memoryview]))
@settings(max_examples=300, deadline=None)
def test_what_goes_in_comes_out(payload, kind):
    message = Message("update", "rank-1", "server", payload, "run 7", 3, reply_to="question")
    back = decode(kind(whole(message)))
    assert same(back.payload, payload)
    fields = ("type", "sender", "receiver", "run", "round", "id", "reply_to")
    assert [getattr(back, name) for name in fields] == [getattr(message, name) for name in fields]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_scalar_empty_and_strided(dtype):
    full = torch.arange(24, dtype=torch.uint8).remainder(2).to(dtype) if dtype.itemsize else None
    for tensor in (full[3], full[:0], full.view(4, 6).t(), full.view(2, 3, 4)[:, 1:, ::2], torch.empty(0, 7, 3, dtype=dtype)):
        assert same(crossed(tensor), tensor)


def test_views_that_are_lazily_conjugated_or_negated():
    z = torch.tensor([1 + 2j, 3 - 4j])
    assert crossed(z.conj()).tolist() == [1 - 2j, 3 + 4j]
    assert crossed(z.conj().imag).tolist() == [-2.0, 4.0]


def test_parameters_and_numpy_scalars_arrive_as_what_they_are():
    back = crossed({"w": torch.nn.Parameter(torch.ones(2)), "loss": np.float64(0.5)})
    assert type(back["w"]) is torch.Tensor
    assert not back["w"].requires_grad
    assert type(back["loss"]) is float


def test_encoding_copies_no_tensor_and_decoding_a_writable_buffer_neither():
    tensor = torch.zeros(1000)
    parts = encode(Message("type", "a", "b", tensor))
    tensor[0] = 1
    buffer = bytearray().join(parts)
    back = decode(buffer).payload
    assert back[0] == 1
    buffer[-64 * 63 :] = bytes(64 * 63)
    assert back.sum() == 0
    assert codec.size(parts) == len(buffer)


def test_decoding_a_read_only_or_misaligned_buffer_gives_memory_of_its_own():
    tensor = torch.arange(100.0)
    content = whole(Message("type", "a", "b", tensor))
    shifted = memoryview(bytearray(b"x") + content)[1:]
    for buffer in (bytes(content), shifted):
        back = decode(buffer).payload
        assert back.data_ptr() % 16 == 0
        assert torch.equal(back.add_(1), tensor + 1)
    assert torch.equal(decode(shifted).payload, tensor)


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (object(), "cannot hold a object"),
        ({1: 2}, "keys of a tree's dicts are strings"),
        (2**70, "cannot be sent"),
        ("\ud800", "cannot be sent"),
        (torch.eye(2).to_sparse(), "cannot be sent"),
        (torch.ones(2, device="meta"), "cannot be sent"),
        (torch.empty(2, dtype=torch.float8_e4m3fnuz), "no encoding for tensors of torch.float8_e4m3fnuz"),
    ],
)
def test_what_cannot_be_sent_is_said_to_the_sender(payload, why):
    with pytest.raises(CommunicationError, match=why):
        encode(Message("type", "a", "b", payload))


def nested(levels: int):
    inner: object = 0
    for _ in range(levels):
        inner = [inner]
    return inner


def test_depth_is_counted_in_levels_of_the_tree():
    assert same(decode(whole(Message("type", "a", "b", nested(15))), Limits(depth=16)).payload, nested(15))
    with pytest.raises(CommunicationError, match=r"depth 17 is more than Limits\.depth = 16"):
        decode(whole(Message("type", "a", "b", nested(17))), Limits(depth=16))
    with pytest.raises(CommunicationError, match="cannot be sent"):
        encode(Message("type", "a", "b", nested(10**4)))


def forged(header: object, body: bytes = b"", version: int = VERSION, magic: bytes = MAGIC, length: int | None = None) -> bytes:
    """A message with any header; bytes are taken for MessagePack already."""
    content = header if isinstance(header, bytes) else msgspec.msgpack.encode(header)
    start = PREFIX.pack(magic, version, bytes(3), len(content) if length is None else length) + content
    return start + bytes(-len(start) % 64) + body


def header(structure: object = None, tensors: object = (), **changes: object) -> list[object]:
    fields = {"type": "t", "sender": "a", "receiver": "b", "run": "", "round": 0, "id": "1", "reply_to": ""} | changes
    return [*fields.values(), {"value": None} if structure is None else structure, list(tensors)]


def with_raw_structure(structure: bytes) -> bytes:
    """A header whose structure is given as MessagePack, for what cannot be built as Python objects."""
    return b"\x99" + b"".join(msgspec.msgpack.encode(item) for item in header()[:7]) + structure + b"\x90"


one = {"tensor": "x"}
HOSTILE = {
    "nothing": (b"", "0 bytes are less than"),
    "half a prefix": (MAGIC, "less than the 16"),
    "wrong magic": (forged(header(), magic=b"\x80\x04\x95."), "begins with"),
    "a newer version": (forged(header(), version=VERSION + 1), f"version {VERSION + 1} .* this side version {VERSION}"),
    "reserved bytes": (PREFIX.pack(MAGIC, VERSION, b"\0\0\1", 1) + bytes(48), "reserved"),
    "header beyond the end": (forged(header(), length=500), "truncated"),
    "header of 2**64 - 1": (forged(header(), length=2**64 - 1), "Limits.header"),
    "no padding after the header": (forged(header())[:-1], "truncated"),
    "something behind the end": (forged(header()) + b"\0", "declares"),
    "empty header": (forged(b""), "truncated"),
    "header is not an array": (forged({"type": "t"}), "malformed"),
    "a field too few": (forged(header()[:-1]), "malformed"),
    "a field too many": (forged([*header(), 1]), "malformed"),
    "type is a number": (forged(header(type=5)), "malformed"),
    "type of 1000 characters": (forged(header(type="t" * 1000)), "malformed"),
    "round is not finite": (forged(header(round=math.nan)), "malformed"),
    "round is -2": (forged(header(round=-2)), "malformed"),
    "name is not UTF-8": (forged(b"\x99\xa1\xff" + msgspec.msgpack.encode(header())[3:]), "malformed"),
    "array of 2**32 - 1 items": (forged(with_raw_structure(b"\xdd\xff\xff\xff\xff")), "malformed"),
    "map of 2**32 - 1 items": (forged(with_raw_structure(b"\xdf\xff\xff\xff\xff")), "malformed"),
    "text of 2**32 - 1 bytes": (forged(with_raw_structure(b"\xdb\xff\xff\xff\xff")), "malformed"),
    "unhashable key": (forged(with_raw_structure(b"\x81\x80\x01")), "malformed"),
    "key that is a number": (forged(header({"dict": {1: {"value": 1}}})), "key in its structure is not text"),
    "extension type": (forged(with_raw_structure(b"\xd4\x05\x01")), "malformed"),
    "timestamp": (forged(with_raw_structure(b"\x81\xa5value\xd6\xff\x00\x00\x00\x00")), "malformed"),
    "bytes as value": (forged(header({"value": b"x"})), "malformed"),
    "10,000 levels": (forged(with_raw_structure(b"\x91" * 10_000 + b"\xc0")), "Limits.depth"),
    "10,000 levels of a tree": (forged(with_raw_structure(b"\x81\xa4list\x91" * 10_000 + b"\xc0")), "Limits.depth"),
    "500 levels": (forged(with_raw_structure(b"\x91" * 500 + b"\xc0")), "Limits.depth"),
    "1,000,000 keys": (forged(header({"dict": {str(i): {"value": i} for i in range(10**6)}})), "Limits.header"),
    "unknown node": (forged(header({"node": "os.system", "fields": {}})), "malformed"),
    "node of other fields": (forged(header({"node": "CodecPair", "fields": {"left": {"value": 1}}})), "fields of tree node"),
    "node that refuses its value": (forged(header({"node": "Particular", "fields": {"value": {"value": 1}}})), "not good"),
    "structure of no tree": (forged(header({"dict": {"tensor": "x"}}, [["uint8", [1]]], ), bytes(64)), "malformed"),
    "unknown dtype": (forged(header(one, [["object", [1]]]), bytes(64)), "unknown dtype 'object'"),
    "a tensor without name": (forged(header(None, [["uint8", [1]]]), bytes(64)), "1 tensors come with 0 names"),
    "a name without tensor": (forged(header(one)), "0 tensors come with 1 names"),
    "one name twice": (forged(header({"list": [one, one]}, [["uint8", [1]]] * 2), bytes(128)), "malformed"),
    "negative shape": (forged(header(one, [["uint8", [-1]]]), bytes(64)), "malformed"),
    "shape of floats": (forged(header(one, [["uint8", [1.5]]]), bytes(64)), "malformed"),
    "huge shape": (forged(header(one, [["uint8", [2**62, 2**62]]]), bytes(64)), "Limits.elements"),
    "huge and empty shape": (forged(header(one, [["uint8", [2**62, 2**62, 0]]])), "Limits.elements"),
    "1000 dimensions": (forged(header(one, [["uint8", [1] * 1000]]), bytes(64)), "malformed"),
    "larger dtype than sent": (forged(header(one, [["float64", [16]]]), bytes(64)), "declares"),
    "smaller dtype than sent": (forged(header(one, [["uint8", [1]]]), bytes(128)), "declares"),
    "too many values": (
        forged(header({"list": [{"value": i} for i in range(200)]})), "more than Limits.values = 500"
    ),
    "bool that is 2": (forged(header(one, [["bool", [1]]]), b"\x02" + bytes(63)), "other than 0 and 1"),
    "too many tensors": (
        forged(header({"list": [{"tensor": str(i)} for i in range(60)]}, [["uint8", [0]]] * 60)),
        "tensors 60 is more than Limits.tensors = 50",
    ),
    "too many bytes": (forged(header(one, [["uint8", [1 << 17]]]), bytes(1 << 17)), "Limits.total"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_message(name):
    content, why = HOSTILE[name]
    limits = SMALL if "many" in name else Limits()
    with pytest.raises(CommunicationError, match=why):
        decode(content, limits)


def test_deep_structures_are_refused_in_a_thread_with_a_small_stack():
    failures = []

    def attempt():
        for name in ("10,000 levels", "10,000 levels of a tree", "500 levels"):
            try:
                decode(HOSTILE[name][0])
            except CommunicationError as error:
                failures.append(error)

    old = threading.stack_size(256 << 10)
    try:
        thread = threading.Thread(daemon=True, target=attempt)
        thread.start()
    finally:
        threading.stack_size(old)
    thread.join()
    assert len(failures) == 3


def peak(content: bytes, length: int | None = None) -> float:
    """Megabytes that decoding takes at most: a payload of `length` entries, or something that is refused."""
    tracemalloc.start()
    if length is None:
        with pytest.raises(CommunicationError):
            decode(content)
    else:
        assert len(decode(content).payload) == length
    found = tracemalloc.get_traced_memory()[1] / (1 << 20)
    tracemalloc.stop()
    return found


# Each with the number of its values. Floats and texts of one letter are shared or small; the others are Python's dearest objects.
FILLINGS = [
    (b"\x80", 1),
    (b"\x81\xa1x\x80", 3),
    (b"\x81\xa6tensor\xa0", 3),
    (b"\xa5\xf0\x9f\x98\x80x", 1),
]


@pytest.mark.parametrize(("filling", "values"), FILLINGS)
def test_a_malicious_header_takes_64_megabytes_at_most(filling, values):
    """As many values as allowed, and for the rest of the header a text of which each byte takes four."""
    limits = Limits()
    count = (limits.values - 20) // values
    rest = limits.header - 64 - count * len(filling)
    text = "\U0001f600".encode() + bytes(rest - 4)
    content = b"\xdd" + (count + 1).to_bytes(4, "big") + filling * count + b"\xdb" + rest.to_bytes(4, "big") + text
    assert peak(forged(with_raw_structure(content))) < 64


@pytest.mark.parametrize(("clients", "tensors"), [(1, 50_000), (1000, 50)])
def test_the_largest_payloads_that_are_meant_to_pass_do(clients, tensors):
    names = [f"{i:05d}.layer.conv.weight"[:20] for i in range(tensors)]
    payload = {f"client-{client}": dict.fromkeys(names, torch.zeros(1, 1)) for client in range(clients)}
    assert peak(whole(Message("work", "server", "rank-1", payload)), clients) < 64


def test_declared_sizes_cost_nothing():
    """Nothing is allocated for what a message only claims to contain."""
    claims = [HOSTILE[name][0] for name in HOSTILE if "2**" in name or "huge" in name or "larger" in name]
    tracemalloc.start()
    for content in claims:
        with pytest.raises(CommunicationError):
            decode(content)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000
