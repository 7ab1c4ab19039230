"""Reliable messages between named processes over a publish/subscribe broker that may lose, repeat, and restart.

A pure state machine: no thread, no network, and the clock is a parameter. `Endpoint` is told what the broker brought and when the
connection came and went; it publishes, and delivers. Topics are relative to those of the run:

    topic            frame  from -> to            meaning
    here/NAME        HERE   NAME -> all           I am here, as instance `source` (retained)
                     LEFT   NAME -> all           I leave for good
                     empty  broker -> all         its last will: the connection of NAME broke (retained; also after LEFT)
    to/NAME/NAME     CLAIM  newcomer -> NAME      is anybody here under this name?
                     TAKEN  holder -> newcomer    yes, for `number` milliseconds
    to/NAME/SENDER   PUSH   sender -> receiver    message `number`, whole
                     OFFER  sender -> receiver    message `number` has `size` bytes: ask for its chunks
                     PART   sender -> receiver    chunk `index` of it
                     WANT   receiver -> sender    all before `number` has arrived; of `number` send `count` chunks from `index`
                     PING   any -> any            answer with a WANT, and announce yourself
                     RESET  any -> any            I took you for dead and forgot what we said: begin anew

Messages are numbered from 0 between two *instances*, that is lives of a process. The receiver accepts numbers strictly in order,
which makes delivery at most once with one integer of memory per peer; the sender repeats what is not acknowledged. Long messages
are pulled by the receiver: it decides how many chunks are under way, from how many peers, and how much memory they take, so
that neither it nor the queues of the broker overflow, and after an interruption it asks only for what is missing.

A process whose connection broke is presumed dead only if it is not back within `GRACE`. Whoever was presumed dead and is alive
gets RESET and goes on as a new instance; both sides see the other as gone, and may greet again. A second process
with the same name is refused as long as the first one answers.
"""

from __future__ import annotations

import logging
import math
import os
import re
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal, Protocol

import numpy as np

from fedml_core.communication.frames import CHUNK, NOBODY, Frame, Kind, chunk_length, chunks, parse
from fedml_core.errors import CommunicationError

log = logging.getLogger(__name__)

# Short messages under way to one peer: so many, and together no more than one chunk.
WINDOW = 16
# Chunks asked for and not yet arrived: of one message, and messages that are pulled at a time. Together they stay far below the
# 1000 packets that mosquitto queues for a client before it drops.
PULL_WINDOW = 8
PULLS = 8
# Chunks handed to the MQTT client and not yet written to its socket.
PIPE = 4
# Seconds until what is not acknowledged is repeated; doubles up to the second value. TCP loses nothing and every
# reconnection repeats at once, so this only catches what the broker dropped.
RESEND, RESEND_MOST = 2.0, 30.0
# Seconds that a broken connection has to come back before its owner is presumed dead.
GRACE = 3.0
# The same after our own connection was renewed: maybe the broker was down, and others are still backing off.
CONFIRM = 15.0
# A peer that answers nothing for so long, though asked, is presumed dead.
SILENCE = 60.0
# A pull without progress for so long makes room for others.
STALL = 60.0
# How long a newcomer waits for the answer of one that holds its name.
CONTEST = 3.0
# Between repetitions of a claim, an announcement, or an obituary.
PAUSE = 1.0
# Bytes that a message counts for at least while it is held: the objects around it take as much.
LEAST = 1 << 10
# Names known at a time.
MOST_PEERS = 10_000
# What may wait for a peer that is not here.
MOST_WAITING, MOST_WAITING_BYTES = 64, 16 << 20

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")

Departure = Literal["left", "lost"]


class Network(Protocol):
    """What an endpoint can do to the world."""

    def publish(self, topic: str, payload: bytes, retain: bool = False, part: Part | None = None) -> None:
        """Publish; `part`, if given, goes to `Endpoint.written` once the payload is on its way."""

    def deliver(self, sender: str, body: memoryview) -> None:
        """A message has arrived."""

    def gone(self, peer: str, how: Departure) -> None:
        """A peer that we have dealt with left or died."""


Part = tuple[str, int, int]


def check_name(what: str, name: str) -> None:
    """Raises:
    CommunicationError: `name` cannot be part of a topic.
    """
    if not _NAME.fullmatch(name):
        raise CommunicationError(f"{what} '{name}': must be 1 to 128 letters, digits, or any of _ . -")


@dataclass(eq=False)
class _Pull:
    """A long message on its way in. `asked` are the chunks under way, `next` is the first one never asked for."""

    size: int
    buffer: memoryview
    missing: int
    next: int = 0
    asked: set[int] = field(default_factory=set)
    repeat_at: float = math.inf
    patience: float = RESEND
    moved: float = 0.0


@dataclass(eq=False)
class _Peer:
    """What is known about the process of that name.

    Attributes:
        instance: which of its lives it is in; None if it is not here.
        until: when it is presumed dead; infinite if there is no doubt.
        announced: whether its presence was announced, and not only inferred from a frame.
        contact: whether a message went either way.
        heard: when its last frame came.
        buried: instances that were presumed dead.
        queue: messages not yet acknowledged, from number `next - len(queue)`; the first `sent` are under way.
        expected: number of the next message from it.
        offer: size of the long message that waits to be pulled, or 0.
    """

    name: str
    instance: bytes | None = None
    until: float = math.inf
    announced: bool = False
    contact: bool = False
    heard: float = 0.0
    buried: deque[bytes] = field(default_factory=lambda: deque(maxlen=4))
    mourned: float = -math.inf

    queue: deque[bytes] = field(default_factory=deque)
    next: int = 0
    sent: int = 0
    repeat_at: float = math.inf
    patience: float = RESEND

    expected: int = 0
    offer: int = 0
    pull: _Pull | None = None

    @property
    def first(self) -> int:
        """Number of the first message that is not acknowledged."""
        return self.next - len(self.queue)


class Endpoint:
    """One process among those of a run. Not thread-safe.

    Args:
        name: its name.
        network: how to act.
        memory: bytes that messages may take here: those being pulled and those delivered and not yet `consumed`. No longer one
            can be received.
        clock: seconds, never running backwards.

    Attributes:
        here: connected, and known to all under its name.
        refusal: why this endpoint takes part no more, or None.
        outgoing: bytes of messages not yet acknowledged.
        progress: when something was last acknowledged.
    """

    def __init__(self, name: str, network: Network, memory: int, clock: Callable[[], float] = time.monotonic) -> None:
        check_name("name", name)
        self.name = name
        self.instance = os.urandom(8)
        self.here = False
        self.refusal: str | None = None
        self.outgoing = 0
        self.progress = 0.0

        self._network, self._memory, self._clock = network, memory, clock
        self._peers: dict[str, _Peer] = {}
        self._alarm = math.inf
        self._held = 0
        self._waiting: dict[str, None] = {}
        self._pulling: set[str] = set()
        self._parts: dict[Part, None] = {}
        self._pipe: set[Part] = set()

        self._claiming = False
        self._since: float | None = None
        self._rival: bytes | None = None
        self._contest_until = math.inf
        self._announce_at = math.inf

    # What the owner wants.

    def send(self, receiver: str, body: bytes) -> None:
        """Take a message for delivery.

        Raises:
            CommunicationError: the receiver's name is not one, or it is not here and too much waits for it already.
        """
        check_name("receiver", receiver)
        peer = self._peer(receiver)
        if peer is None:
            raise CommunicationError(f"message to '{receiver}' refused: {MOST_PEERS} others are known already")
        waiting = len(peer.queue)
        if (
            peer.instance is None
            and waiting
            and (waiting >= MOST_WAITING or len(body) + sum(map(len, peer.queue)) > MOST_WAITING_BYTES)
        ):
            raise CommunicationError(
                f"nobody called '{receiver}' is here, and {waiting} messages wait for it already: is it running?"
            )
        peer.contact = True
        peer.queue.append(body)
        peer.next += 1
        self.outgoing += len(body)
        self._pump(peer)

    def consumed(self, size: int) -> None:
        """The owner took a message of `size` bytes out of its hands."""
        self._held -= max(size, LEAST)
        self._admit()

    def undelivered(self, absent: bool = False) -> list[str]:
        """Peers that are here, or with `absent` not known to be, and have not acknowledged all that was sent to them."""
        return [peer.name for peer in self._peers.values() if peer.queue and (peer.instance or absent)]

    def leave(self) -> None:
        """Tell all that this process ends in good order."""
        if self.here:
            self._network.publish(f"here/{self.name}", Frame(Kind.LEFT, self.instance).pack())
            self._network.publish(f"here/{self.name}", b"", retain=True)
        self.disconnected()

    # What happens.

    def connected(self) -> None:
        """The broker has our subscriptions."""
        self.here = False
        self._claiming, self._rival, self._contest_until = True, None, math.inf
        self._parts.clear()
        self._pipe.clear()
        self._claim()

    def disconnected(self) -> None:
        """The connection to the broker is lost, or given up."""
        self.here = self._claiming = False
        self._announce_at = self._contest_until = math.inf

    def written(self, part: Part) -> None:
        """A chunk has left for the broker."""
        self._pipe.discard(part)
        self._send_parts()

    def received(self, topic: str, payload: bytes, retained: bool) -> None:
        """The broker brought `payload`, from its memory if `retained`."""
        if self.refusal:
            return
        frame = parse(payload) if payload else None
        match topic.split("/"):
            case ["here", name] if _NAME.fullmatch(name) and (frame or not payload):
                if name == self.name:
                    self._own_presence(frame)
                else:
                    self._presence(name, frame, retained)
            case ["to", receiver, sender] if receiver == self.name and frame:
                if sender == self.name and frame.kind in (Kind.CLAIM, Kind.TAKEN):
                    self._contest(frame)
                elif frame.target == self.instance and _NAME.fullmatch(sender):
                    self._talk(sender, frame)

    def tick(self) -> float:
        """Do what is due; returns in how many seconds something will be."""
        now = self._clock()
        if now >= self._alarm:
            self._alarm = math.inf
            self._check_name(now)
            for peer in list(self._peers.values()):
                self._check_peer(peer, now)
        return self._alarm - now

    # Time.

    def _at(self, when: float) -> float:
        self._alarm = min(self._alarm, when)
        return when

    def _check_name(self, now: float) -> None:
        if now >= self._contest_until:
            log.warning("whoever was called '%s' does not answer; this process takes the name over", self.name)
            self._enter()
        elif now >= self._announce_at:
            if self.here:
                self._announce()
            else:
                self._claim()
        self._at(min(self._contest_until, self._announce_at))

    def _check_peer(self, peer: _Peer, now: float) -> None:
        silent = self.here and now >= peer.repeat_at and now - peer.heard > SILENCE
        if peer.instance and self.here and (now >= peer.until or silent):
            self._bury(peer, "lost")
        if now >= peer.repeat_at and self.here:
            peer.patience = min(2 * peer.patience, RESEND_MOST)
            self._repeat(peer)
        if peer.pull and now >= peer.pull.repeat_at and self.here:
            if self._waiting and now - peer.pull.moved > STALL:
                peer.offer = peer.pull.size
                self._drop_pull(peer)
                self._waiting[peer.name] = None
                self._admit()
            else:
                peer.pull.patience = min(2 * peer.pull.patience, RESEND_MOST)
                self._ask_again(peer)
        if self.here:
            self._at(min(peer.until, peer.repeat_at, peer.pull.repeat_at if peer.pull else math.inf))

    # Our own name.

    def _claim(self) -> None:
        self._publish(self.name, Frame(Kind.CLAIM, self.instance))
        self._announce_at = self._at(self._clock() + PAUSE)

    def _announce(self) -> None:
        """Say that we are here, until our own announcement comes back to us."""
        self._network.publish(f"here/{self.name}", Frame(Kind.HERE, self.instance).pack(), retain=True)
        self._announce_at = self._at(self._clock() + PAUSE)

    def _enter(self) -> None:
        now = self._clock()
        self.here, self._claiming, self._contest_until = True, False, math.inf
        self._alarm = now
        self._since = self._since or now
        self._announce()
        for peer in self._peers.values():
            peer.heard = now
            if peer.instance and peer.contact:
                peer.until = now + CONFIRM
                self._say(peer, Kind.PING)
            self._repeat(peer)
            self._ask_again(peer)
        self._admit()

    def _contest(self, frame: Frame) -> None:
        """A frame in which processes of our own name settle which of them has it."""
        own = frame.source == self.instance
        if frame.kind is Kind.CLAIM and own:
            if self._claiming and self._contest_until == math.inf:
                # All that the broker remembered, and all earlier claims, came before the echo of ours.
                if self._rival is None:
                    self._enter()
                else:
                    self._contest_until = self._at(self._clock() + CONTEST)
        elif frame.kind is Kind.CLAIM and self.here:
            log.warning("another process asked for the name '%s', which this one has; it is refused", self.name)
            self._publish(self.name, Frame(Kind.TAKEN, self.instance, frame.source, self._held_name()))
        elif frame.kind is Kind.CLAIM and self._claiming and self._contest_until == math.inf:
            self._rival = frame.source
        elif (
            frame.kind is Kind.TAKEN
            and frame.target == self.instance
            and not own
            and not (self.here and frame.number < self._held_name())
        ):
            self.refusal = (
                f"the name '{self.name}' is taken: another process at this broker has it and answers. Give each process its own "
                "name, or stop the other one"
            )
            self.disconnected()

    def _held_name(self) -> int:
        """For how many milliseconds the name has been ours."""
        return 0 if self._since is None else int(1000 * (self._clock() - self._since))

    def _own_presence(self, frame: Frame | None) -> None:
        """What the broker tells all about our name."""
        if frame is None:
            if self._contest_until < math.inf:
                self._enter()
            elif self.here:
                self._announce()
            else:
                self._rival = None
        elif frame.kind is Kind.HERE and frame.source == self.instance:
            if self.here:
                self._announce_at = math.inf
        elif frame.kind is Kind.HERE and self.here:
            # Another one that came in between, or a forgery. Whoever was here first stays.
            if self._announce_at == math.inf:
                self._claim()
        elif frame.kind is Kind.HERE:
            self._rival = frame.source

    # Others.

    def _peer(self, name: str) -> _Peer | None:
        """The record of `name`, made if there is room for one more."""
        if name not in self._peers:
            if len(self._peers) >= MOST_PEERS:
                stranger = next(
                    (peer for peer in self._peers.values() if not peer.contact or not (peer.instance or peer.queue)), None
                )
                if stranger is None:
                    return None
                self._bury(stranger, "lost")
                del self._peers[stranger.name]
            self._peers[name] = _Peer(name, heard=self._clock())
        return self._peers[name]

    def _presence(self, name: str, frame: Frame | None, retained: bool) -> None:
        peer = self._peer(name) if frame else self._peers.get(name)
        if peer is None:
            return
        if frame is None:
            if peer.instance:
                peer.until = self._at(min(peer.until, self._clock() + GRACE))
        elif frame.kind is Kind.LEFT and frame.source == peer.instance:
            self._bury(peer, "left")
        elif frame.kind is Kind.HERE and frame.source in peer.buried:
            self._mourn(peer, frame.source)
        elif frame.kind is Kind.HERE and frame.source != peer.instance:
            if peer.instance:
                self._bury(peer, "lost")
            peer.announced = True
            self._meet(peer, frame.source)
        elif frame.kind is Kind.HERE and not retained:
            # It was away, and what we said meanwhile is lost.
            peer.announced = True
            self._hear(peer)
            self._repeat(peer)
            self._ask_again(peer)

    def _meet(self, peer: _Peer, instance: bytes) -> None:
        peer.instance = instance
        self._hear(peer)
        self._repeat(peer)

    def _hear(self, peer: _Peer) -> None:
        peer.heard, peer.until = self._clock(), math.inf

    def _bury(self, peer: _Peer, how: Departure) -> None:
        """Forget all that was said between us and this instance."""
        if peer.instance:
            peer.buried.append(peer.instance)
        peer.instance, peer.until, peer.announced = None, math.inf, False
        self._part(peer, how)

    def _part(self, peer: _Peer, how: Departure) -> None:
        self._drop_pull(peer)
        self._waiting.pop(peer.name, None)
        self.outgoing -= sum(map(len, peer.queue))
        peer.queue.clear()
        peer.next = peer.sent = peer.expected = peer.offer = 0
        peer.repeat_at, peer.patience = math.inf, RESEND
        for part in [part for part in self._parts if part[0] == peer.name]:
            del self._parts[part]
        if peer.contact:
            peer.contact = False
            self._network.gone(peer.name, how)
        self._admit()

    def _mourn(self, peer: _Peer, instance: bytes) -> None:
        """Tell an instance that we have presumed dead, but not at each of its frames."""
        if self._clock() - peer.mourned >= PAUSE:
            peer.mourned = self._clock()
            self._publish(peer.name, Frame(Kind.RESET, self.instance, instance))

    def _be_reborn(self) -> None:
        """Go on as a new instance, since somebody has buried this one."""
        log.warning("'%s' was away for so long that it was presumed dead; it begins anew", self.name)
        self.instance = os.urandom(8)
        self._announce()
        self._waiting.clear()
        for peer in self._peers.values():
            if peer.instance:
                self._part(peer, "lost")

    def _publish(self, receiver: str, frame: Frame, part: Part | None = None) -> None:
        self._network.publish(f"to/{receiver}/{self.name}", frame.pack(), part=part)

    def _say(
        self, peer: _Peer, kind: Kind, number: int = 0, size: int = 0, index: int = 0, count: int = 0, data: bytes = b""
    ) -> None:
        self._publish(peer.name, Frame(kind, self.instance, peer.instance or NOBODY, number, size, index, count, data))

    def _talk(self, sender: str, frame: Frame) -> None:
        """A frame from a peer to this instance."""
        peer = self._peer(sender)
        if peer is None:
            return
        if frame.source in peer.buried:
            self._mourn(peer, frame.source)
            return
        if peer.instance is None:
            self._meet(peer, frame.source)
        elif frame.source != peer.instance:
            # Either forged, or the announcement of this instance was lost; then the one we know of will not answer.
            if peer.until == math.inf:
                peer.until = self._at(self._clock() + GRACE)
                self._say(peer, Kind.PING)
            return
        self._hear(peer)
        match frame.kind:
            case Kind.PUSH:
                self._take_push(peer, frame)
            case Kind.OFFER:
                self._take_offer(peer, frame)
            case Kind.PART:
                self._take_part(peer, frame)
            case Kind.WANT:
                self._take_want(peer, frame)
            case Kind.PING:
                self._say(peer, Kind.WANT, peer.expected)
                if self.here and self._announce_at == math.inf:
                    self._announce()
            case Kind.RESET if self.here:
                self._be_reborn()

    # Sending.

    def _pump(self, peer: _Peer) -> None:
        """Send what may be under way: short messages up to the window, or one long one alone."""
        if not self.here or peer.instance is None:
            return
        flying = sum(map(len, islice(peer.queue, peer.sent)))
        for body in islice(peer.queue, peer.sent, WINDOW):
            if peer.sent and flying + len(body) > CHUNK:
                break
            number = peer.first + peer.sent
            if len(body) <= CHUNK:
                self._say(peer, Kind.PUSH, number, len(body), data=body)
            else:
                self._say(peer, Kind.OFFER, number, len(body))
            peer.sent += 1
            flying += len(body)
            peer.repeat_at = self._at(self._clock() + peer.patience)

    def _repeat(self, peer: _Peer) -> None:
        peer.sent, peer.repeat_at = 0, math.inf
        self._pump(peer)

    def _take_want(self, peer: _Peer, frame: Frame) -> None:
        now = self._clock()
        if frame.number > peer.first + peer.sent:
            return
        while peer.queue and peer.first < frame.number:
            self.outgoing -= len(peer.queue.popleft())
            peer.sent -= 1
            peer.patience, self.progress = RESEND, now
        if peer.queue and frame.number == peer.first and 0 < frame.count <= PULL_WINDOW:
            self.progress = now
            last = min(frame.index + frame.count, chunks(len(peer.queue[0])))
            for index in range(frame.index, last):
                if (part := (peer.name, frame.number, index)) not in self._pipe:
                    self._parts[part] = None
            self._send_parts()
        peer.repeat_at = self._at(now + peer.patience) if peer.queue else math.inf
        self._pump(peer)

    def _send_parts(self) -> None:
        while self._parts and len(self._pipe) < PIPE:
            part = next(iter(self._parts))
            del self._parts[part]
            name, number, index = part
            peer = self._peers[name]
            if not peer.queue or peer.instance is None or number != peer.first:
                continue
            body = peer.queue[0]
            data = memoryview(body)[index * CHUNK : (index + 1) * CHUNK]
            self._pipe.add(part)
            self._publish(name, Frame(Kind.PART, self.instance, peer.instance, number, len(body), index, data=data), part)

    # Receiving.

    def _take_push(self, peer: _Peer, frame: Frame) -> None:
        room = max(len(frame.data), LEAST)
        if frame.number == peer.expected and not peer.pull and not peer.offer and self._held + room <= self._memory:
            self._held += room
            self._deliver(peer, memoryview(frame.data))
        self._say(peer, Kind.WANT, peer.expected)

    def _take_offer(self, peer: _Peer, frame: Frame) -> None:
        if not peer.announced:
            # Whoever does not even hear us could reserve memory with invented names.
            self._say(peer, Kind.PING)
        elif frame.number == peer.expected and not peer.pull and not peer.offer and frame.size > CHUNK:
            if frame.size > self._memory:
                log.warning("a message of %d bytes from '%s' is refused: at most %d fit here", frame.size, peer.name, self._memory)
                peer.expected += 1
            else:
                peer.offer = frame.size
                self._waiting[peer.name] = None
                self._admit()
        self._say(peer, Kind.WANT, peer.expected)

    def _admit(self) -> None:
        """Begin to pull the messages that have waited longest, as far as memory and the number of pulls allow."""
        while self._waiting and len(self._pulling) < PULLS:
            peer = self._peers[next(iter(self._waiting))]
            if self._held + peer.offer > self._memory:
                return
            del self._waiting[peer.name]
            self._pulling.add(peer.name)
            self._held += peer.offer
            # Not a bytearray, which would be filled with zeros: memory is taken as it is written to.
            buffer = np.empty(peer.offer, np.uint8).data
            peer.pull = _Pull(peer.offer, buffer, chunks(peer.offer), moved=self._clock())
            peer.offer = 0
            self._ask(peer, peer.pull)

    def _ask(self, peer: _Peer, pull: _Pull) -> None:
        """Ask for the next chunks if few are under way."""
        if len(pull.asked) > PULL_WINDOW // 2:
            return
        last = min(pull.next + PULL_WINDOW - len(pull.asked), chunks(pull.size))
        if last > pull.next:
            self._say(peer, Kind.WANT, peer.expected, pull.size, pull.next, last - pull.next)
            pull.asked.update(range(pull.next, last))
            pull.next = last
        pull.repeat_at = self._at(self._clock() + pull.patience)

    def _ask_again(self, peer: _Peer) -> None:
        """Ask for the chunks that should have come by now."""
        if not peer.pull:
            return
        for index in sorted(peer.pull.asked):
            self._say(peer, Kind.WANT, peer.expected, peer.pull.size, index, 1)
        peer.pull.repeat_at = self._at(self._clock() + peer.pull.patience)

    def _take_part(self, peer: _Peer, frame: Frame) -> None:
        pull = peer.pull
        if pull is None or frame.number != peer.expected or frame.size != pull.size or frame.index not in pull.asked:
            return
        if len(frame.data) != chunk_length(pull.size, frame.index):
            return
        start = frame.index * CHUNK
        pull.buffer[start : start + len(frame.data)] = frame.data
        pull.asked.remove(frame.index)
        pull.missing -= 1
        pull.moved, pull.patience = self._clock(), RESEND
        if pull.missing:
            self._ask(peer, pull)
            return
        peer.pull = None
        self._pulling.discard(peer.name)
        self._deliver(peer, pull.buffer)
        self._say(peer, Kind.WANT, peer.expected)
        self._admit()

    def _drop_pull(self, peer: _Peer) -> None:
        if peer.pull:
            self._held -= peer.pull.size
            self._pulling.discard(peer.name)
            peer.pull = None

    def _deliver(self, peer: _Peer, body: memoryview) -> None:
        peer.expected += 1
        peer.contact = True
        self._network.deliver(peer.name, body)
