"""Every decoder of bytes from outside, fed with mutations of what it is meant for.

Each may raise its documented error and nothing else, runs nothing, and leaves no memory behind. Half of the mutations are sealed:
they get lengths and checksums that fit, so that what is behind those is reached, too.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import hashlib
import io
import json
import logging
import random
import struct
import sys
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedml_api.distributed.parcel import objection
from fedml_api.run.checkpoint import Checkpoints, _digest
from fedml_core.communication import codec, frames, reliable
from fedml_core.communication.codec import PREFIX, Limits
from fedml_core.communication.frames import CHUNK, Frame, Kind
from fedml_core.communication.message import Message
from fedml_core.compression import Compress, Decompressing, Drive, Rotated, TopK, Uniform
from fedml_core.errors import CheckpointError, CommunicationError, DataError
from fedml_core.federation import Aggregator, LocalSGD, Mean, Reply, Task, WeightedMean, describe, restore
from fedml_core.trainer import Clip, Exponential, ModelState, Proximal
from fedml_iot.data_folder import read_columns
from fedml_iot.device import read_state, write_state
from tests.fedml_core.test_reliable import MEMORY, SimulatedBroker, body, pair

SMALL = Limits(total=1 << 16, header=1 << 12, values=1000, depth=16, tensors=50, elements=1 << 12)
MEMORY_DISK = Path("/dev/shm")
QUICK, LONG = 1_000, 100_000
# What the interpreter may keep after LONG mutations, and what the process may: caches and the allocators' fragments.
TRACED, RESIDENT = 0.5, 32.0  # MB


@dataclass
class Decoder:
    """A place where bytes from outside come in.

    Attributes:
        samples: what it is meant for.
        decode: the decoder; `refuses`: the error it is documented to raise.
        seal: gives mutated bytes lengths and checksums that fit.
        check: what must hold when all is over.
    """

    samples: list[bytes]
    decode: Callable[[bytes], object]
    refuses: type[Exception] | tuple[()] = ()
    seal: Callable[[bytes], bytes] = bytes
    check: Callable[[], None] = lambda: None


def message(payload: object) -> bytes:
    return b"".join(codec.encode(Message("update", "rank-1", "server", payload, "run", 1, "id", "to")))


def seal_message(content: bytes) -> bytes:
    content = content.ljust(PREFIX.size, b"\0")
    length = min(int.from_bytes(content[8:16], "little"), len(content) - PREFIX.size)
    return PREFIX.pack(codec.MAGIC, codec.VERSION, bytes(3), length) + content[PREFIX.size :] + bytes(-len(content) % 64)


def model(offset: float = 0.0) -> ModelState:
    return ModelState({"w": torch.ones(3, 2) + offset, "b": torch.zeros(2)}, {"mean": torch.zeros(2)})


def plain_samples() -> list[bytes]:
    payloads = [
        None,
        {"loss": 0.5, "round": 3, "names": ["a", "b"], "none": (None, True)},
        {"w": torch.ones(5, 7), "b": torch.ones(7).bfloat16(), "mask": torch.ones(9) > 0},
        [model(), {"": {"": torch.tensor(1 + 2j)}}],
    ]
    return [message(payload) for payload in payloads]


def the_codec(folder: Path) -> Decoder:
    def decode(content: bytes) -> None:
        codec.encode(codec.decode(content, SMALL))  # what comes out can be sent on

    return Decoder(plain_samples(), decode, CommunicationError, seal_message)


def seal_frame(content: bytes) -> bytes:
    head, data = content[:48].ljust(48, b"\0"), content[64:]
    return head + hashlib.sha256(head + data).digest()[:16] + data


def frame_samples() -> list[bytes]:
    return [
        Frame(kind, b"x" * 8, b"y" * 8, 3, 3 * CHUNK, 1, 2, b"data" * 9 if kind in (Kind.PUSH, Kind.PART) else b"").pack()
        for kind in Kind
    ]


def the_frames(folder: Path) -> Decoder:
    return Decoder(frame_samples(), frames.parse, seal=seal_frame)


def the_endpoint(folder: Path) -> Decoder:
    """The transport of `b`, which talks with `a` while somebody else speaks in everybody's name. First byte: the topic."""
    broker = SimulatedBroker()
    a, b = pair(broker)
    topics = [*(f"to/b/{name}" for name in ("a", "b", "c", "d/e", "")), *(f"here/{name}" for name in ("a", "b", "c")), "x"]
    dice = random.Random(2)

    def seal(content: bytes) -> bytes:
        content = content.ljust(1 + 24, b"\0")
        source = dice.choice([a.endpoint.instance, b.endpoint.instance, content[9:17]])
        return content[:1] + seal_frame(content[1:9] + source + b.endpoint.instance + content[25:])

    def decode(content: bytes) -> None:
        if content:
            b.arriving.append((topics[content[0] % len(topics)], content[1:], bool(content[0] & 128)))
        for process in (a, b):
            if not process.connected and not process.endpoint.refusal:
                process.connect()
        if dice.random() < 0.05:
            a.endpoint.send("b", body(1, dice.choice((10, CHUNK + 9)))) if a.endpoint.outgoing < CHUNK else None
            b.endpoint.send("a", body(1, dice.choice((10, CHUNK + 9)))) if b.endpoint.outgoing < CHUNK else None
        broker.wait(dice.choice((0.0, 0.01, 1.0)))
        for _ in range(3):
            a.step()
            b.step()
        for process in (a, b):
            # A forger who knows everybody's instance may talk us out of our name; then we come back under it.
            if process.endpoint.refusal:
                process.endpoint.refusal = None
                process.connect()
            process.inbox.clear()
            process.departures.clear()
        broker.published.clear()
        state = b.endpoint
        assert 0 <= state._held <= MEMORY
        assert state.outgoing >= 0
        assert len(state._peers) <= 4
        assert len(state._parts) + len(state._pipe) <= 100
        assert len(b.arriving) < 2000

    def check() -> None:
        broker.settle(reliable.SILENCE + reliable.STALL)
        for process in (a, b):
            process.inbox.clear()
        a.endpoint.send("b", body(7, 3 * CHUNK))
        broker.settle(100)
        assert ("a", body(7, 3 * CHUNK)) in b.inbox

    samples = [bytes([draw]) + content for draw, content in enumerate(frame_samples())]
    return Decoder(samples, decode, seal=seal, check=check)


TASKS = [
    LocalSGD(lr=0.1, epochs=2, momentum=0.9, clip=1.0, transforms=(Proximal(0.1), Clip(2.0))),
    LocalSGD(lr=Exponential(0.1, 0.9), steps=3, drop_last=True),
]


def the_tasks(folder: Path) -> Decoder:
    """What is asked for by name; as JSON, which survives mutations more often than the codec's bytes do."""
    described = [describe(value) for value in (*TASKS, WeightedMean())]

    def decode(content: bytes) -> None:
        try:
            data = json.loads(content)
        except (ValueError, RecursionError):
            raise CommunicationError from None
        base = Aggregator if b"mean" in content else Task
        assert isinstance(restore(base, data), base)

    return Decoder([json.dumps(data).encode() for data in described], decode, CommunicationError)


def reply(value: object, metrics: object = None) -> Reply:
    return Reply(value, 3.0, {"loss": Mean(1.5, 3.0)} if metrics is None else metrics)  # type: ignore[arg-type]


def the_replies(folder: Path) -> Decoder:
    """What a server does with an answer: objects, or folds it."""
    average = WeightedMean()

    def decode(content: bytes) -> None:
        payload = codec.decode(content, SMALL).payload
        if objection(payload, ["c"], LocalSGD(), model(), None) is None:
            average.finish(average.add(average.add(average.zero(), reply(model())), payload["replies"]["c"]))
        objection(payload, ["c"], LocalSGD(), model(), average)

    answers = [
        {"replies": {"c": reply(model())}},
        {"replies": {"c": reply(None)}},
        {"replies": {"c": reply({"x": torch.zeros(3, dtype=torch.uint8).view(torch.float8_e4m3fn)})}},
        {"folded": average.add(average.zero(), reply(model())), "states": {"c": 1}},
        {"replies": {"c": reply(model(), {"loss": 1.0})}},
    ]
    return Decoder([message(answer) for answer in answers], decode, CommunicationError, seal_message)


def the_compressed_replies(folder: Path) -> Decoder:
    """What a server does with an answer that is compressed."""
    compressors = [Uniform(levels=3), Rotated(), Drive(), TopK(fraction=0.5)]
    tasks = [Compress(LocalSGD(), compressor) for compressor in compressors]

    def decode(content: bytes) -> None:
        payload = codec.decode(content, SMALL).payload
        for task in tasks:
            if objection(payload, ["c"], task, model(), None) is None:
                decompressing = Decompressing(compressor=task.compressor)
                decompressing.finish(decompressing.add(decompressing.zero(), payload["replies"]["c"]))

    draw = np.random.default_rng(0)
    answers = [{"replies": {"c": reply(compressor.compress(model(), draw, 0))}} for compressor in compressors]
    return Decoder([message(answer) for answer in answers], decode, CommunicationError, seal_message)


def numpy_file(array: np.ndarray[Any, Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def the_data_folder(folder: Path) -> Decoder:
    def decode(content: bytes) -> None:
        (folder / "x.npy").write_bytes(content)
        columns = read_columns(folder)
        assert columns["x"].dtype in (torch.float32, torch.int64)

    arrays = [np.ones((4, 3)), np.arange(5), np.ones((2, 2), dtype=">f2"), np.ones(3, dtype=bool), np.zeros((0, 4), np.uint64)]
    return Decoder([numpy_file(array) for array in arrays], decode, DataError)


def the_state_file(folder: Path) -> Decoder:
    path = folder / "c.state"
    samples = []
    for state in (None, {"control": model()}):
        write_state(path, {"round": 3, "before": None, "after": state})
        samples.append(path.read_bytes())

    def decode(content: bytes) -> None:
        path.write_bytes(content)
        read_state(path)

    def seal(content: bytes) -> bytes:
        inner = seal_message(content[32:])
        return hashlib.sha256(inner).digest() + inner

    return Decoder(samples, decode, CommunicationError, seal)


def the_checkpoint(folder: Path) -> Decoder:
    """Both files, one behind the other, with the length of the first before them."""
    checkpoints = Checkpoints(folder)
    paths = [folder / "000001.json", folder / "000001.safetensors"]
    samples = []
    for state in ({"model": model(), "round": 1}, [torch.arange(3), ("x", None, 1.5)]):
        checkpoints.save(1, state)
        first, second = (path.read_bytes() for path in paths)
        samples.append(struct.pack("<I", len(first)) + first + second)

    def split(content: bytes) -> list[bytes]:
        end = 4 + min(int.from_bytes(content[:4], "little"), len(content))
        return [content[4:end], content[end:]]

    def decode(content: bytes) -> None:
        for path, part in zip(paths, split(content), strict=True):
            path.write_bytes(part)
        for round in checkpoints.rounds():
            checkpoints.load(round)

    def seal(content: bytes) -> bytes:
        first, second = split(content)
        try:
            body = json.loads(first)
            body["tensors_sha256"] = hashlib.sha256(second).hexdigest()
            body.pop("sha256", None)
            first = json.dumps(body | {"sha256": _digest(body)}).encode()
        except (ValueError, TypeError, AttributeError):
            pass
        return struct.pack("<I", len(first)) + first + second

    return Decoder(samples, decode, CheckpointError, seal)


DECODERS: dict[str, Callable[[Path], Decoder]] = {
    "codec": the_codec,
    "frames": the_frames,
    "endpoint": the_endpoint,
    "tasks": the_tasks,
    "replies": the_replies,
    "compressed replies": the_compressed_replies,
    "data folder": the_data_folder,
    "state file": the_state_file,
    "checkpoint": the_checkpoint,
}

# Small numbers, what begins containers in MessagePack, and what means something in JSON or in the header of a NumPy file.
TELLING = (0, 1, 0x7F, 0x80, 0x90, 0xC0, 0xDC, 0xDD, 0xDF, 0xFF, *b"[]{}()\"',:-9eTO|<>fV")


def mutated(dice: random.Random, samples: list[bytes]) -> bytes:
    """One of the samples with some of it changed; mostly near its beginning, where the structure is."""
    content = bytearray(dice.choice(samples))
    for _ in range(dice.choice((1, 1, 1, 2, 4, 16))):
        at = min(int(dice.expovariate(1 / 100)), len(content)) if dice.random() < 0.7 else dice.randrange(len(content) + 1)
        length = dice.choice((1, 1, 2, 8, 64))
        match dice.randrange(9):
            case 0 | 1:
                content[at : at + 1] = bytes([dice.choice(TELLING)])
            case 2 | 3 if at < len(content):
                content[at] ^= 1 << dice.randrange(8)
            case 4:
                del content[at : at + length]
            case 5:
                content[at:at] = content[at : at + length]
            case 6:
                other = dice.choice(samples)
                content[at : at + length] = other[at : at + length] if dice.random() < 0.5 else other[at:]
            case 7:
                width = dice.choice((2, 4, 8))
                number = dice.choice((0, 1, len(content), 1 << 31, (1 << 8 * width) - 1, 1 << (8 * width - 1))) % (1 << 8 * width)
                content[at : at + width] = number.to_bytes(width, dice.choice(("little", "big")))
            case 8:
                if dice.random() < 0.5:
                    del content[at:]
                else:
                    content[at : at + length] = dice.randbytes(length)
    return bytes(content)


FORBIDDEN = {
    *("exec", "code.__new__", "ctypes.dlopen", "pickle.find_class", "socket.connect"),
    *("os.system", "os.exec", "os.fork", "os.posix_spawn", "subprocess.Popen", "os.remove", "os.chmod"),
}


class Watch:
    """Notes what the interpreter does that no decoder may do. An audit hook cannot be removed, so it is switched on and off."""

    def __init__(self) -> None:
        self.on = False
        self.seen: list[str] = []
        sys.addaudithook(self.hear)

    def hear(self, event: str, arguments: tuple[object, ...]) -> None:
        if self.on and event in FORBIDDEN:
            # A module that is imported late is a file of this machine.
            if event == "exec" and Path(getattr(arguments[0], "co_filename", "")).is_file():
                return
            self.seen.append(f"{event} {arguments!r:.200}")

    @contextlib.contextmanager
    def nothing_runs(self) -> Iterator[None]:
        self.seen.clear()
        self.on = True
        try:
            yield
        finally:
            self.on = False
        assert not self.seen


@functools.cache
def watch() -> Watch:
    return Watch()


def attack(decoder: Decoder, count: int, dice: random.Random) -> int:
    """Feed mutations; returns how many were taken for valid. Any error but the documented one fails the test."""
    taken = 0
    for sample in decoder.samples:  # resolves the annotations of settings, which runs code: ours
        with contextlib.suppress(decoder.refuses or OSError):
            decoder.decode(sample)
    with watch().nothing_runs():
        for _ in range(count):
            content = mutated(dice, decoder.samples)
            if dice.random() < 0.5:
                content = decoder.seal(content)
            try:
                decoder.decode(content)
                taken += 1
            except decoder.refuses:
                pass
            except Exception as error:
                error.add_note(f"the bytes were {content[:2000]!r}")
                raise
    return taken


@pytest.fixture
def decoder(request: pytest.FixtureRequest) -> Iterator[Decoder]:
    logging.disable(logging.CRITICAL)  # what is refused is logged, and pytest keeps it all
    # On a disk, a file that is written anew every time takes milliseconds.
    with tempfile.TemporaryDirectory(dir=MEMORY_DISK if MEMORY_DISK.is_dir() else None) as folder:
        yield DECODERS[request.param](Path(folder))
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("decoder", DECODERS, indirect=True)
def test_a_decoder_takes_what_it_is_meant_for(decoder):
    for sample in decoder.samples:
        decoder.decode(decoder.seal(sample))


@pytest.mark.parametrize("decoder", DECODERS, indirect=True)
def test_mutations_cause_nothing_but_the_documented_error(decoder):
    assert attack(decoder, QUICK, random.Random(1)) > QUICK // 100, "some mutations should be harmless, or nothing is tested"
    decoder.check()


def resident() -> float:
    """Megabytes of memory that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / (1 << 20)


@pytest.mark.soak
@pytest.mark.parametrize("decoder", DECODERS, indirect=True)
def test_100_000_mutations_leave_no_memory_behind(decoder):
    dice = random.Random(2)
    tracemalloc.start()
    attack(decoder, LONG // 10, dice)  # fills the caches
    gc.collect()
    traced, before = tracemalloc.get_traced_memory()[0], resident()
    attack(decoder, LONG, dice)
    gc.collect()
    kept = (tracemalloc.get_traced_memory()[0] - traced) / (1 << 20)
    tracemalloc.stop()
    grown = resident() - before
    print(f"{kept:.3f} MB of Python objects kept, {grown:.1f} MB of resident memory on top of {before:.0f}")
    decoder.check()
    assert kept < TRACED
    assert grown < RESIDENT
