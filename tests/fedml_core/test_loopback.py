"""The loopback network: a real exchange between threads, with nothing shared."""

import threading

import pytest
import torch

from fedml_core.communication.loopback import loopback_network
from fedml_core.communication.message import Message
from fedml_core.errors import CommunicationError


def test_all_pairs_in_order():
    names = ["server", "a", "b"]
    network = loopback_network(names)
    received = {name: [] for name in names}

    def take_part(name):
        for i in range(50):
            for other in names:
                network[name].send(Message("count", name, other, {"i": i}))
        received[name] = [network[name].receive(10) for _ in range(50 * len(names))]

    threads = [threading.Thread(daemon=True, target=take_part, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in names:
        for other in names:
            assert [message.payload["i"] for message in received[name] if message.sender == other] == list(range(50))


def test_the_two_sides_share_no_memory():
    network = loopback_network(["a", "b"])
    tensor = torch.zeros(3)
    network["a"].send(Message("t", "a", "b", tensor))
    tensor += 1
    received = network["b"].receive(1).payload
    assert received.tolist() == [0, 0, 0]
    received += 5
    assert tensor.tolist() == [1, 1, 1]


def test_what_cannot_be_encoded_does_not_pass_here_either():
    network = loopback_network(["a", "b"])
    with pytest.raises(CommunicationError, match="cannot hold a _MainThread"):
        network["a"].send(Message("t", "a", "b", threading.current_thread()))


def test_an_unknown_receiver_is_named_with_the_known_ones():
    with pytest.raises(CommunicationError, match="'rank1': did you mean 'rank-1'"):
        loopback_network(["server", "rank-1"])["server"].send(Message("t", "server", "rank1"))


def test_waiting_ends_with_the_timeout_and_with_the_door():
    network = loopback_network(["a", "b"])
    assert network["a"].receive(0) is None
    assert network["a"].receive(0.01) is None
    ended = threading.Event()
    threading.Thread(daemon=True, target=lambda: (network["a"].receive(), ended.set())).start()
    network["a"].close()
    assert ended.wait(5)
    network["a"].close()
    assert network["a"].receive() is None
    with pytest.raises(CommunicationError, match="closed"):
        network["a"].send(Message("t", "a", "b"))
