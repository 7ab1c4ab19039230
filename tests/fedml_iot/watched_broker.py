"""A door before a broker that sees what devices and the server say to each other, and kills devices at the moment it is told to."""

from __future__ import annotations

import asyncio
import os
import queue
import random
import signal
import threading
from asyncio import StreamReader, StreamWriter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from fedml_core.communication import codec
from fedml_core.communication.frames import Frame, Kind, chunks, parse

Moment = Literal["idle", "training", "uploading", "uploaded"]
MOMENTS: tuple[Moment, ...] = ("idle", "training", "uploading", "uploaded")
# Seconds without work after which a device is idle.
IDLE = 0.1


@dataclass
class Life:
    """What the server and one life of a device have said to each other, as far as it has passed through the door.

    Attributes:
        instance: which life of the device it is.
        joined: whether the device has the server's welcome.
        work: number of the last message that is too long to be anything but work; `pieces`: the chunks of it.
        working: whether the device has it all, and the server not yet the reply.
        reply: number of the reply to it; `parts`: the chunks of that which have passed, of `count`.
        since: when it last had something to do.
    """

    instance: bytes
    joined: bool = False
    work: int | None = None
    pieces: dict[int, bytes] = field(default_factory=dict)
    working: bool = False
    reply: int | None = None
    parts: set[int] = field(default_factory=set)
    count: int = 0
    since: float = 0.0

    @property
    def unemployed(self) -> bool:
        """Whether the device is there and nothing is asked of it."""
        return self.joined and not self.working and (self.work is None or bool(self.parts))

    @property
    def round(self) -> int:
        """The round of the last work, counted from 1."""
        return codec.decode(b"".join(self.pieces[index] for index in sorted(self.pieces))).round + 1


@dataclass(frozen=True)
class Death:
    """A device was killed: of its reply to the work of `round` (0: it had none yet), `parts` chunks of `count` had passed, and the
    server had `acknowledged` it."""

    device: str
    moment: Moment
    round: int
    parts: int
    count: int
    acknowledged: bool

    def happened(self) -> bool:
        """Whether what was seen is what the moment means."""
        match self.moment:
            case "training":
                return self.round > 0 and self.parts == 0
            case "uploading":
                return 0 < self.parts < self.count and not self.acknowledged
            case "uploaded":
                return 0 < self.parts == self.count and self.acknowledged
            case "idle":
                return self.round == 0 or self.acknowledged


class WatchedBroker:
    """Listens on a port of its own and passes everything on to the broker at `port`.

    When all `devices` wait for work, one is killed at each of MOMENTS; when these have joined again, the next; `waves` times.
    Nothing that a device sends after its death was decided passes the door, so the moment is hit however slow the machine is.

    Args:
        process: the process id of a device.

    Attributes:
        deaths: those that have happened, as they happen.
    """

    def __init__(self, port: int, devices: Sequence[str], process: Callable[[str], int], waves: int, draw: random.Random) -> None:
        self.deaths: queue.SimpleQueue[Death] = queue.SimpleQueue()
        self._broker, self._devices, self._process, self._waves, self._draw = port, devices, process, waves, draw
        self._lives: dict[str, Life] = {}
        self._buried: set[bytes] = set()
        self._to_come: list[Moment] = []
        self._moments: dict[str, Moment] = {}
        # Seconds of computing, or parts of the reply, after which those who are to die while training or uploading do.
        self._limits: dict[str, float] = {}
        self._loop = asyncio.new_event_loop()
        self._errors: list[object] = []
        self._loop.set_exception_handler(lambda _loop, context: self._errors.append(context))
        self._server = self._loop.run_until_complete(asyncio.start_server(self._connection, "127.0.0.1", 0))
        self._ticking = self._loop.create_task(self._tick())
        self._thread = threading.Thread(daemon=True, target=self._loop.run_forever)

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def __enter__(self) -> WatchedBroker:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.run_until_complete(self._end())
        self._loop.close()

    async def _end(self) -> None:
        self._server.close()
        tasks = {self._ticking, *asyncio.all_tasks()} - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        self._errors += [error for error in ended if isinstance(error, Exception)]
        assert not self._errors

    async def _connection(self, device: StreamReader, to_device: StreamWriter) -> None:
        broker, to_broker = await asyncio.open_connection("127.0.0.1", self._broker)
        ways = [
            asyncio.create_task(self._pass(device, to_broker, self._from_device)),
            asyncio.create_task(self._pass(broker, to_device, self._from_server)),
        ]
        try:
            for way in (await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED))[0]:
                way.result()
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            for writer in (to_broker, to_device):
                writer.transport.abort()

    async def _pass(self, source: StreamReader, target: StreamWriter, see: Callable[[str, Frame], bool]) -> None:
        """Pass packets on until one side hangs up, or `see` says that one does not pass."""
        try:
            while True:
                packet, topic, frame = await read_packet(source)
                ends = [part for part in topic.split("/")[2:] if part != "server"]
                if frame and len(ends) == 2 and not see(ends[1], frame):
                    return
                target.write(packet)
                await target.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            return

    # What passes. Topics are `here/DEVICE`, `to/server/DEVICE`, and `to/DEVICE/server`.

    def _from_device(self, device: str, frame: Frame) -> bool:
        if frame.source in self._buried:
            return False
        if device not in self._lives or self._lives[device].instance != frame.source:
            self._lives[device] = Life(frame.source)
        life = self._lives[device]
        moment = self._moments.get(device)
        match frame.kind:
            case Kind.WANT:
                if frame.number > 0 and not life.joined:
                    life.joined = True
                    self._begin_wave()
                if life.work is not None and frame.number > life.work and life.reply is None and not life.working:
                    life.working = True
                    self._assign(device)
            case Kind.OFFER if life.working:
                if moment == "training":
                    self._kill(device)
                elif frame.number != life.reply:
                    life.reply, life.count = frame.number, chunks(frame.size)
                    self._limits[device] = self._draw.randrange(1, life.count)
            case Kind.PART if frame.number == life.reply:
                if moment == "uploading" and len(life.parts) == self._limits[device]:
                    self._kill(device)
                else:
                    life.parts.add(frame.index)
        return frame.source not in self._buried

    def _from_server(self, device: str, frame: Frame) -> bool:
        life = self._lives.get(device)
        if life is None or frame.target != life.instance:
            return frame.target not in self._buried
        match frame.kind:
            case Kind.OFFER if frame.number != life.work:
                life.work, life.pieces, life.reply, life.parts = frame.number, {}, None, set()
            case Kind.PART if frame.number == life.work:
                life.pieces[frame.index] = bytes(frame.data)
            case Kind.WANT if life.working and life.reply is not None and frame.number > life.reply:
                life.working, life.since = False, self._loop.time()
                if self._moments.get(device) == "uploaded":
                    self._kill(device)
                self._begin_wave()
        return frame.target not in self._buried

    # Who dies when.

    def _begin_wave(self) -> None:
        """Begin the next wave if no round is under way: so its deaths, but perhaps the idle one, fall into one round."""
        unemployed = [life for life in self._lives.values() if life.unemployed]
        if self._waves and len(unemployed) == len(self._devices) and not self._moments and not self._to_come:
            self._waves -= 1
            self._to_come = self._draw.sample(MOMENTS, len(MOMENTS))

    def _assign(self, device: str) -> None:
        """A device begins to train: this may be one that is to die."""
        if device in self._moments or not (moments := [moment for moment in self._to_come if moment != "idle"]):
            return
        moment = self._moments[device] = moments[0]
        self._to_come.remove(moment)
        if moment == "training":
            self._limits[device] = computed(self._process(device)) + self._draw.uniform(0.05, 0.3)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(0.005)
            for device, life in list(self._lives.items()):
                if self._moments.get(device) == "training" and computed(self._process(device)) >= self._limits[device]:
                    self._kill(device)
                rested = life.unemployed and self._loop.time() - life.since > IDLE
                if "idle" in self._to_come and rested and device not in self._moments:
                    self._to_come.remove("idle")
                    self._moments[device] = "idle"
                    self._kill(device)

    def _kill(self, device: str) -> None:
        os.kill(self._process(device), signal.SIGKILL)
        life, moment = self._lives.pop(device), self._moments[device]
        self._buried.add(life.instance)
        round = life.round if life.work is not None else 0
        self.deaths.put(Death(device, moment, round, len(life.parts), life.count, bool(life.parts) and not life.working))

    def risen(self, device: str) -> None:
        """The device is about to be started again."""
        self._loop.call_soon_threadsafe(self._moments.pop, device)


async def read_packet(source: StreamReader) -> tuple[bytes, str, Frame | None]:
    """One MQTT packet, and if it is PUBLISH at QoS 0 its topic and the frame in it."""
    head = await source.readexactly(2)
    while head[-1] & 0x80:
        head += await source.readexactly(1)
    length = sum((byte & 0x7F) << 7 * place for place, byte in enumerate(head[1:]))
    body = await source.readexactly(length)
    if head[0] & 0xF6 != 0x30:
        return head + body, "", None
    end = 2 + int.from_bytes(body[:2], "big")
    return head + body, body[2:end].decode(), parse(body[end:])


def computed(process: int) -> float:
    """Seconds of processor time that a process has taken."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
