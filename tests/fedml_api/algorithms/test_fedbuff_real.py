"""FedBuff in real time: clients work at their own pace on workers, and the order in which replies arrive decides."""

import time
from contextlib import contextmanager

import numpy as np
import pytest

from fedml_api import Experiment, FedAvg, LocalSGD, simulate
from fedml_api.algorithms import FedBuff
from fedml_api.distributed.engines import threads
from fedml_core.communication.com_manager import GONE, ComManager
from fedml_core.communication.loopback import loopback_network
from fedml_core.communication.message import SERVER, Message
from fedml_core.federation import Engine
from tests.quadratics import Quadratic, Vector, quadratics

LOCAL = LocalSGD(lr=0.3, batch_size=0)
MINIMA = [[float(k), 3.0 - k**2] for k in range(5)]
SIZES = [5, 2, 9, 1, 4]
START = [20.0, -20.0]
ALL = [f"q{k}" for k in range(5)]


class Door(ComManager):
    """A worker's door behind which some clients take their time: their replies leave late. Training takes turns, this does not."""

    def __init__(self, inner, engine):
        self.inner, self.name, self.engine = inner, inner.name, engine

    def send(self, message):
        self.inner.send(message)

    def post(self, message):
        if message.type == "done":
            (client,) = message.payload["replies"]
            time.sleep(self.engine.seconds.get(client, 0.0))
            self.engine.log.wait_for(self.engine.late.get(client, 0))
            if client == self.engine.dies:
                self.inner.send(Message(GONE, self.name, SERVER, None, message.run))
                return
        self.inner.post(message)

    def receive(self, timeout=None):
        return self.inner.receive(timeout)

    def close(self):
        self.inner.close()


class Log(ComManager):
    """The server's door, which notes who was asked and who replied, in this order."""

    def __init__(self, inner):
        self.inner, self.name, self.lines, self.over = inner, inner.name, [], False

    def replies(self):
        return sum(kind == "replied" for kind, _, _ in self.lines)

    def wait_for(self, replies):
        """Return when so many more have replied, or the run is over."""
        enough = self.replies() + replies
        while self.replies() < enough and not self.over:
            time.sleep(0.001)

    def send(self, message):
        self.over = self.over or message.type == "finish"
        if message.type == "work":
            self.lines += [("asked", client, message.round) for client in message.payload["clients"]]
        self.inner.send(message)

    def receive(self, timeout=None):
        message = self.inner.receive(timeout)
        if message is not None and message.type == "done":
            self.lines += [("replied", client, message.round) for client in message.payload["replies"]]
        return message

    def close(self):
        self.inner.close()


class Paced(Engine):
    """Loopback with clients that take so many seconds, or are `late` by so many replies; no worker survives the one who `dies`."""

    def __init__(self, workers=5, seconds=(), late=(), dies=None):
        self.workers, self.seconds, self.late, self.dies = workers, dict(seconds), dict(late), dies

    @contextmanager
    def open(self, setup):
        network = loopback_network([SERVER, *(f"worker-{i + 1}" for i in range(self.workers))])
        doors = {name: Door(door, self) for name, door in network.items()}
        self.log = doors[SERVER] = Log(network[SERVER])
        yield from threads(doors, setup)


def run(algorithm, engine, rounds, concurrency=5, **more):
    data = quadratics([[1.0, 1.0]] * 5, MINIMA, SIZES)
    settings = {name: more.pop(name) for name in ("evaluate_clients",) if name in more}
    experiment = Experiment(
        Vector(START), data, Quadratic(), algorithm, engine, rounds=rounds, clients_per_round=concurrency, seed=3, **settings
    )
    return simulate(experiment, **more)


def replayed(lines, buffer, rounds, start=START, first=0):
    """Nguyen et al., Algorithm 1, in NumPy, on the replies in the order in which they arrived: the model, and who was how stale."""
    replies = [(client, version) for kind, client, version in lines if kind == "replied"]
    versions, stale = {first: np.array(start)}, []
    for update in range(first, rounds):
        received = [replies.pop(0) for _ in range(buffer)]
        weights = [SIZES[int(client[1:])] for client, _ in received]
        late = [update - version for _, version in received]
        steps = [0.3 * (np.array(MINIMA[int(client[1:])]) - versions[version]) for client, version in received]
        change = sum(n / np.sqrt(1 + t) * step for n, t, step in zip(weights, late, steps, strict=True)) / sum(weights)
        versions[update + 1] = versions[update] + change
        stale.append([(client, t) for (client, _), t in zip(received, late, strict=True)])
    return versions[rounds], stale


@pytest.mark.parametrize("buffer", [1, 2])
def test_a_slow_client_counts_less_by_its_staleness(buffer):
    engine = Paced(late={"q2": 12})
    found = run(FedBuff(buffer, "measured", local=LOCAL), engine, 30 // buffer)
    w, stale = replayed(engine.log.lines, buffer, 30 // buffer)
    np.testing.assert_allclose(found.model.params["w"], w, rtol=1e-6)
    assert [row["train_staleness"] for row in found.history[1:]] == [np.mean([late for _, late in row]) for row in stale]
    of_slow = [late for row in stale for client, late in row if client == "q2"]
    assert of_slow
    assert min(of_slow) >= 12 // buffer


def test_everybody_goes_on_while_one_is_slow():
    """Of the slow client's time, the others use all: waiting for it in each of ten rounds takes ten times as long."""
    slow = Paced(seconds={"q2": 0.2})
    started = time.monotonic()
    run(FedAvg(LOCAL), slow, 10)
    waited = time.monotonic() - started
    started = time.monotonic()
    found = run(FedBuff(4, "measured", local=LOCAL), slow, 10)
    assert 2.5 * (time.monotonic() - started) < waited
    assert found.history[-1]["test_loss"] < 0.5 * found.history[0]["test_loss"]


@pytest.mark.parametrize("workers", [5, 2])
def test_is_fedavg_when_everybody_is_waited_for(workers):
    found = run(FedBuff(5, "measured", local=LOCAL), Paced(workers), 4)
    np.testing.assert_allclose(found.model.params["w"], run(FedAvg(LOCAL), Paced(), 4).model.params["w"], rtol=1e-5)
    assert {row["train_staleness"] for row in found.history[1:]} == {0.0}
