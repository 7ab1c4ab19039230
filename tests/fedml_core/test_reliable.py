"""The reliable transport against a simulated broker that loses, repeats, reorders, disconnects and restarts."""

from __future__ import annotations

import random
from collections import deque

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fedml_core.communication import reliable
from fedml_core.communication.frames import CHUNK, Frame, Kind, parse
from fedml_core.communication.reliable import Endpoint
from fedml_core.errors import CommunicationError

MEMORY = 40 * CHUNK


class Process:
    """One endpoint, its connection, and what its owner got."""

    def __init__(self, broker: SimulatedBroker, name: str) -> None:
        self.broker, self.connected = broker, False
        self.inbox: list[tuple[str, bytes]] = []
        self.departures: list[tuple[str, str]] = []
        self.arriving: deque[tuple[str, bytes, bool]] = deque()
        self.endpoint = Endpoint(name, self, MEMORY, lambda: broker.now)
        self.written: list[reliable.Part] = []

    def publish(self, topic, payload, retain=False, part=None):
        if self.connected:
            self.broker.publish(topic, payload, retain)
            if part:
                self.written.append(part)

    def deliver(self, sender, body):
        self.inbox.append((sender, bytes(body)))
        self.endpoint.consumed(len(body))

    def gone(self, peer, how):
        self.departures.append((peer, how))

    def connect(self) -> None:
        if self.connected:
            self.disconnect()
        self.connected = True
        self.broker.attach(self)
        self.endpoint.connected()

    def disconnect(self, will: bool = True) -> None:
        """The connection breaks; the broker notices if `will`."""
        self.connected = False
        self.arriving.clear()
        self.written.clear()
        self.endpoint.disconnected()
        if will:
            self.broker.publish(f"here/{self.endpoint.name}", b"", True)

    def step(self, index: int = 0) -> None:
        """One packet arrives: the next one, or a later one before it."""
        if self.arriving:
            index %= len(self.arriving)
            packet = self.arriving[index]
            del self.arriving[index]
            self.endpoint.received(*packet)
            if self.endpoint.refusal:
                self.disconnect(will=False)
        written, self.written = self.written, []
        for part in written:
            self.endpoint.written(part)


class SimulatedBroker:
    def __init__(self) -> None:
        self.now = 1000.0
        self.processes: list[Process] = []
        self.retained: dict[str, bytes] = {}
        self.published: list[tuple[str, bytes]] = []

    def start(self, name: str) -> Process:
        process = Process(self, name)
        self.processes.append(process)
        process.connect()
        return process

    def attach(self, process: Process) -> None:
        process.arriving.extend((topic, payload, True) for topic, payload in self.retained.items())

    def publish(self, topic: str, payload: bytes, retain: bool) -> None:
        self.published.append((topic, payload))
        if retain:
            self.retained.pop(topic, None)
            if payload:
                self.retained[topic] = payload
        for process in self.processes:
            if process.connected and topic.startswith(("here/", f"to/{process.endpoint.name}/")):
                process.arriving.append((topic, payload, False))

    def wait(self, seconds: float) -> None:
        self.now += seconds
        for process in self.processes:
            process.endpoint.tick()

    def settle(self, seconds: float = 0.0) -> None:
        """Let everything arrive, then time pass in small steps, and everything arrive."""
        end = self.now + seconds
        while True:
            while any(process.arriving or process.written for process in self.processes):
                for process in self.processes:
                    process.step()
            if self.now >= end:
                return
            self.wait(min(0.5, end - self.now))


def pair(broker: SimulatedBroker) -> tuple[Process, Process]:
    a, b = broker.start("a"), broker.start("b")
    broker.settle()
    assert a.endpoint.here
    assert b.endpoint.here
    return a, b


def body(number: int, size: int) -> bytes:
    """Random bytes that begin with `number`, at least 8."""
    return number.to_bytes(8, "little") + random.Random(number).randbytes(max(0, size - 8))


def test_messages_of_all_sizes_arrive_in_order():
    broker = SimulatedBroker()
    a, b = pair(broker)
    sizes = [8, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 100, 30 * CHUNK + 17, 9, 5 * CHUNK]
    sent = [body(number, size) for number, size in enumerate(sizes)]
    for one in sent:
        a.endpoint.send("b", one)
        b.endpoint.send("a", one)
    broker.settle()
    assert b.inbox == [("a", one) for one in sent]
    assert a.inbox == [("b", one) for one in sent]
    assert a.endpoint.outgoing == 0 == len(a.endpoint.undelivered())


def parts_to_b(published: list[tuple[str, bytes]]) -> list[int]:
    frames = [parse(payload) for topic, payload in published if topic == "to/b/a"]
    return [frame.index for frame in frames if frame and frame.kind is Kind.PART]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["step", "drop", "repeat", "swap"]), st.integers(0, 1), st.integers(0, 5)),
        st.tuples(st.sampled_from(["break", "connect", "send"]), st.integers(0, 1), st.integers(0, 3)),
        st.tuples(st.sampled_from(["wait", "restart"]), st.just(0), st.integers(1, 4)),
    ),
    max_size=60,
)
SIZES = [8, 3000, CHUNK + 5, 10 * CHUNK]


def disturb(broker: SimulatedBroker, processes: tuple[Process, Process], steps, pause: float) -> dict[str, list[bytes]]:
    """Carry the steps out; returns what was sent to whom."""
    sent: dict[str, list[bytes]] = {"a": [], "b": []}
    number = 0
    for action, which, value in steps:
        process = processes[which]
        packets = process.arriving
        match action:
            case "step" | "swap":
                process.step(value if action == "swap" else 0)
            case "drop" if packets:
                del packets[value % len(packets)]
            case "repeat" if packets:
                packets.append(packets[value % len(packets)])
            case "break" if process.connected:
                process.disconnect(will=value % 2 == 0)
            case "connect":
                process.connect()
            case "send":
                receiver = "b" if which == 0 else "a"
                number += 1
                one = body(number, SIZES[value])
                process.endpoint.send(receiver, one)
                sent[receiver].append(one)
            case "wait":
                broker.wait(pause * value)
            case "restart":
                broker.retained.clear()
                for each in processes:
                    each.disconnect(will=False)
    return sent


@settings(max_examples=300, deadline=None)
@given(STEPS)
def test_nothing_is_lost_repeated_or_reordered_as_long_as_nobody_is_presumed_dead(steps):
    """Loss, repetition, reordering and any number of reconnections and broker restarts within the grace."""
    broker = SimulatedBroker()
    a, b = pair(broker)
    # Pauses so short that all of them together stay below the grace.
    sent = disturb(broker, (a, b), steps, pause=reliable.GRACE / 300)
    for process in (a, b):
        process.connect()
    broker.settle(100)
    assert [one for _, one in a.inbox] == sent["a"]
    assert [one for _, one in b.inbox] == sent["b"]
    assert not a.departures
    assert not b.departures


@settings(max_examples=300, deadline=None)
@given(STEPS)
@example([("send", 0, 0), ("break", 0, 0), ("wait", 0, 4), ("send", 1, 0), ("connect", 0, 0)])
def test_whatever_happens_nothing_arrives_twice_or_out_of_order_and_in_the_end_all_is_well(steps):
    broker = SimulatedBroker()
    a, b = pair(broker)
    sent = disturb(broker, (a, b), steps, pause=1.0)
    for process in (a, b):
        process.connect()
    broker.settle(100)
    for process in (a, b):
        arrived = [one for _, one in process.inbox]
        expected = sent[process.endpoint.name]
        supply = iter(expected)
        assert all(any(one == other for other in supply) for one in arrived), "a message came twice, or before an earlier one"
        if not a.departures and not b.departures:
            assert arrived == expected
    a.inbox.clear()
    b.inbox.clear()
    for sender, receiver in ((a, "b"), (b, "a")):
        sender.endpoint.send(receiver, body(9, 3 * CHUNK))
        sender.endpoint.send(receiver, body(9, 10))
    broker.settle(100)
    for process in (a, b):
        assert [len(one) for _, one in process.inbox] == [3 * CHUNK, 10]


def test_after_an_interruption_only_missing_chunks_are_sent_again():
    broker = SimulatedBroker()
    a, b = pair(broker)
    a.endpoint.send("b", body(1, 30 * CHUNK))
    while len(parts_to_b(broker.published)) < 20:
        for process in (a, b):
            process.step()
    b.disconnect()
    broker.settle(1)
    before = len(broker.published)
    missing = b.endpoint._peers["a"].pull.missing
    assert 10 < missing < 25
    b.connect()
    broker.settle()
    assert [len(one) for _, one in b.inbox] == [30 * CHUNK]
    again = parts_to_b(broker.published[before:])
    assert len(again) == len(set(again)) == missing


def test_few_chunks_are_under_way_however_many_send():
    broker = SimulatedBroker()
    server = broker.start("server")
    devices = [broker.start(f"device-{k}") for k in range(40)]
    broker.settle()
    sent = body(1, 12 * CHUNK)
    for device in devices:
        device.endpoint.send("server", sent)
    most = 0
    while len(server.inbox) < len(devices):
        for process in broker.processes:
            process.step()
        chunks = sum(len(payload) > CHUNK // 2 for _, payload, _ in server.arriving)
        most = max(most, chunks)
        assert server.endpoint._held <= MEMORY
    assert 0 < most <= reliable.PULLS * reliable.PULL_WINDOW
    assert {sender for sender, _ in server.inbox} == {f"device-{k}" for k in range(40)}


def test_a_receiver_that_does_not_consume_holds_the_senders_back():
    broker = SimulatedBroker()
    a, b = pair(broker)
    held = []
    b.deliver = lambda sender, data: held.append(bytes(data))
    for number in range(60):
        a.endpoint.send("b", body(number, CHUNK))
    broker.settle(30)
    assert len(held) == MEMORY // CHUNK
    assert not b.departures
    while len(held) < 60:
        b.endpoint.consumed(CHUNK)
        broker.settle(40)
    assert held == [body(number, CHUNK) for number in range(60)]


def test_short_messages_count_for_the_objects_around_them():
    broker = SimulatedBroker()
    a, b = pair(broker)
    b.endpoint._memory = 20 * reliable.LEAST
    held = []
    b.deliver = lambda sender, data: held.append(bytes(data))
    for number in range(60):
        a.endpoint.send("b", bytes([number]))
    broker.settle(30)
    assert len(held) == 20
    while len(held) < 60:
        b.endpoint.consumed(1)
        broker.settle(40)
    assert held == [bytes([number]) for number in range(60)]


def test_a_process_that_dies_is_gone_after_the_grace_and_one_that_leaves_at_once():
    broker = SimulatedBroker()
    a, b = pair(broker)
    c = broker.start("c")
    for process in (b, c):
        process.endpoint.send("a", body(1, 10))
    broker.settle()
    b.endpoint.leave()
    b.disconnect(will=False)
    broker.settle()
    assert a.departures == [("b", "left")]
    c.disconnect()
    broker.settle(reliable.GRACE - 1)
    assert a.departures == [("b", "left")]
    broker.settle(1.5)
    assert a.departures == [("b", "left"), ("c", "lost")]


def test_the_next_life_of_a_process_inherits_nothing():
    broker = SimulatedBroker()
    a, b = pair(broker)
    for number in range(3):
        b.endpoint.send("a", body(number, 10))
    broker.settle()
    b.endpoint.send("a", body(3, 20 * CHUNK))
    a.endpoint.send("b", body(4, 20 * CHUNK))
    for _ in range(10):
        a.step()
        b.step()
    b.disconnect()
    broker.processes.remove(b)
    reborn = broker.start("b")
    reborn.endpoint.send("a", body(5, 11))
    broker.settle(1)
    assert a.departures == [("b", "lost")]
    assert a.inbox[3:] == [("b", body(5, 11))]
    assert reborn.inbox == []
    assert a.endpoint._held == 0 == a.endpoint.outgoing


def test_a_peer_that_died_while_the_broker_was_down_is_noticed():
    broker = SimulatedBroker()
    a, b = pair(broker)
    b.endpoint.send("a", body(1, 10))
    broker.settle()
    a.disconnect(will=False)
    b.disconnect(will=False)
    broker.processes.remove(b)
    a.connect()  # a broker with persistence still says that b is here
    broker.settle(reliable.CONFIRM - 1)
    assert not a.departures
    broker.settle(2)
    assert a.departures == [("b", "lost")]


def test_who_was_presumed_dead_begins_anew_and_both_sides_know():
    broker = SimulatedBroker()
    a, b = pair(broker)
    b.endpoint.send("a", body(1, 10))
    broker.settle()
    b.disconnect()
    broker.settle(reliable.GRACE + 1)
    assert a.departures == [("b", "lost")]
    b.endpoint.send("a", body(2, 10))
    b.connect()
    broker.settle(5)
    assert b.departures == [("a", "lost")]
    b.endpoint.send("a", body(3, 10))
    a.endpoint.send("b", body(4, 10))
    broker.settle(5)
    assert a.inbox == [("b", body(1, 10)), ("b", body(3, 10))]
    assert b.inbox == [("a", body(4, 10))]
    assert a.departures == [("b", "lost")]


def test_messages_wait_for_a_receiver_that_is_not_here_yet_up_to_a_bound():
    broker = SimulatedBroker()
    a = broker.start("a")
    broker.settle()
    for number in range(reliable.MOST_WAITING):
        a.endpoint.send("b", body(number, 10))
    with pytest.raises(CommunicationError, match=r"nobody called 'b' is here.*is it running"):
        a.endpoint.send("b", b"x")
    b = broker.start("b")
    broker.settle()
    assert [one for _, one in b.inbox] == [body(number, 10) for number in range(reliable.MOST_WAITING)]


def test_a_second_process_of_that_name_is_refused_and_the_first_goes_on(caplog):
    broker = SimulatedBroker()
    a, b = pair(broker)
    second = broker.start("a")
    broker.settle(10)
    assert not second.endpoint.here
    assert "is taken" in second.endpoint.refusal
    assert "asked for the name 'a'" in caplog.text
    assert a.endpoint.here
    assert a.endpoint.refusal is None
    b.endpoint.send("a", body(1, 10))
    broker.settle()
    assert len(a.inbox) == 1
    assert not second.inbox


def test_of_two_that_start_at_the_same_time_one_gets_the_name():
    broker = SimulatedBroker()
    twins = [broker.start("a"), broker.start("a")]
    broker.settle(10)
    assert [twin.endpoint.here for twin in twins] == [True, False]
    assert [twin.endpoint.refusal is None for twin in twins] == [True, False]


def test_the_name_of_a_process_that_does_not_answer_can_be_taken_over(caplog):
    """Its machine lost power: the broker has not noticed yet, and still remembers its presence."""
    broker = SimulatedBroker()
    a, _ = pair(broker)
    a.disconnect(will=False)
    broker.processes.remove(a)
    new = broker.start("a")
    broker.settle(reliable.CONTEST - 1)
    assert not new.endpoint.here
    broker.settle(2)
    assert new.endpoint.here
    broker.publish("here/a", b"", True)  # now it has noticed, and withdraws the presence: of the new one
    broker.settle(2)
    assert "here/a" in broker.retained
    # The old one was only cut off, and comes back.
    broker.processes.append(a)
    a.connect()
    broker.settle(5)
    assert "is taken" in a.endpoint.refusal
    assert new.endpoint.refusal is None


def test_the_will_of_a_crashed_process_frees_its_name_at_once():
    broker = SimulatedBroker()
    a, _ = pair(broker)
    broker.processes.remove(a)
    a.connected = False
    new = broker.start("a")
    broker.settle(1)
    assert not new.endpoint.here
    broker.publish("here/a", b"", True)
    broker.settle()
    assert new.endpoint.here


frames = st.builds(
    Frame,
    st.sampled_from(Kind),
    st.sampled_from(["a", "b", "x"]).map(lambda name: name.encode() * 8),
    st.sampled_from(["a", "b"]).map(lambda name: name.encode() * 8),
    *[st.one_of(st.integers(0, 40), st.integers(0, 2**64 - 1))] * 2,
    *[st.one_of(st.integers(0, 40), st.integers(0, 2**32 - 1))] * 2,
    st.one_of(st.just(b""), st.binary(max_size=20), st.just(bytes(CHUNK))),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["to/b/a", "to/b/b", "to/b/x", "here/a", "here/b", "here/x"]), frames), max_size=20))
def test_forged_frames_break_nothing_and_take_no_memory(forged):
    """Frames with a right digest, that only a participant of the run can make: they may cost messages, never more."""
    broker = SimulatedBroker()
    a, b = pair(broker)
    for process in (a, b):
        process.disconnect(will=False)
        process.endpoint.instance = process.endpoint.name.encode() * 8
        process.connect()
    broker.settle(5)
    a.endpoint.send("b", body(1, 10 * CHUNK))
    for _ in range(4):
        a.step()
        b.step()
    for topic, frame in forged:
        if frame.data and frame.kind not in (Kind.PUSH, Kind.PART):
            continue
        b.arriving.append((topic, frame.pack(), False))
        b.step(len(b.arriving) - 1)
    broker.settle(5)
    assert 0 <= b.endpoint._held <= MEMORY
    assert a.endpoint.outgoing >= 0


@given(st.binary(max_size=200))
def test_random_bytes_are_no_frame(data):
    assert parse(data) is None


@given(st.integers(0, 63 + 40), st.integers(1, 255))
def test_no_changed_byte_goes_unnoticed(place, flip):
    packed = bytearray(Frame(Kind.PUSH, b"a" * 8, b"b" * 8, 1, 40, data=bytes(40)).pack())
    assert parse(bytes(packed)) is not None
    packed[place] ^= flip
    assert parse(bytes(packed)) is None


@pytest.mark.parametrize("name", ["", "a/b", "a+", "#", "a b", "x" * 129, "ä"])
def test_names_that_cannot_be_part_of_a_topic_are_refused(name):
    with pytest.raises(CommunicationError, match="letters, digits"):
        Endpoint(name, Process(SimulatedBroker(), "a"), MEMORY)


def test_the_number_of_known_peers_is_bounded(monkeypatch):
    monkeypatch.setattr(reliable, "MOST_PEERS", 50)
    broker = SimulatedBroker()
    a, b = pair(broker)
    b.endpoint.send("a", body(1, 10))
    broker.settle()
    for k in range(500):
        broker.publish(f"here/fake-{k}", Frame(Kind.HERE, k.to_bytes(8, "big") if k else b"z" * 8).pack(), False)
    broker.settle()
    assert len(a.endpoint._peers) <= 50
    b.endpoint.send("a", body(2, 3 * CHUNK))
    broker.settle()
    assert [len(one) for _, one in a.inbox] == [10, 3 * CHUNK]
