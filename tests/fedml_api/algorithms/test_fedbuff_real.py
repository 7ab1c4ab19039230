"""FedBuff in real time: clients work at their own pace on workers, and the order in which replies arrive decides."""

import json
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from fedml_api import Experiment, FedAvg, FederatedDataset, LocalSGD, Standalone, simulate
from fedml_api.algorithms import Compressed, FedBuff
from fedml_api.distributed import Loopback, Mpi
from fedml_api.distributed.engines import threads
from fedml_api.run.checkpoint import Checkpoints
from fedml_core.communication.com_manager import GONE, ComManager
from fedml_core.communication.loopback import loopback_network
from fedml_core.communication.message import SERVER, Message
from fedml_core.communication.mqtt import Broker
from fedml_core.compression import Rotated
from fedml_core.errors import CommunicationError, ConfigError
from fedml_core.federation import Engine
from tests.brokers import Mosquitto
from tests.conformance.test_engines import Mqtt
from tests.fedml_api.test_distributed import CountVisits, Fail
from tests.mpi import mpi_or_skip
from tests.quadratics import Quadratic, Vector, quadratics

LOCAL = LocalSGD(lr=0.3, batch_size=0)
MINIMA = [[float(k), 3.0 - k**2] for k in range(5)]
SIZES = [5, 2, 9, 1, 4]
START = [20.0, -20.0]
ROOT = Path(__file__).parents[3]


def trained(message):
    """The client whose training a message reports, or None if it reports none."""
    replies = message.payload["replies"] if message.type == "done" else {}
    return next((client for client, reply in replies.items() if reply.value), None)


class Door(ComManager):
    """A worker's door behind which some clients take their time: their replies leave late. Training takes turns, this does not."""

    def __init__(self, inner, engine):
        self.inner, self.name, self.engine, self.dead = inner, inner.name, engine, False

    def send(self, message):
        self.inner.send(message)

    def post(self, message):
        if (client := trained(message)) is not None:
            time.sleep(self.engine.seconds.get(client, 0.0))
            self.engine.log.wait_for(self.engine.late.get(client, 0))
            if client == self.engine.dies and self.engine.deaths:
                self.engine.deaths -= 1
                self.dead = True
                self.inner.send(Message(GONE, self.name, SERVER, None, message.run))
                return
        self.inner.post(message)

    def receive(self, timeout=None):
        # The thread ends like one that is told to.
        return Message("finish", SERVER, self.name, None) if self.dead else self.inner.receive(timeout)

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
        if message is not None and (client := trained(message)) is not None:
            self.lines.append(("replied", client, message.round))
        return message

    def close(self):
        self.inner.close()


class Paced(Engine):
    """Loopback with clients that take so many seconds, or are `late` by so many replies; `deaths` workers do not survive `dies`."""

    def __init__(self, workers=5, seconds=(), late=(), dies=None, deaths=1):
        self.workers, self.seconds, self.late, self.dies, self.deaths = workers, dict(seconds), dict(late), dies, deaths

    @contextmanager
    def open(self, setup):
        network = loopback_network([SERVER, *(f"worker-{i + 1}" for i in range(self.workers))])
        doors = {name: Door(door, self) for name, door in network.items()}
        self.log = doors[SERVER] = Log(network[SERVER])
        yield from threads(doors, setup)


def experiment(algorithm, engine, rounds, concurrency=5, data=None, **more):
    data = data or quadratics([[1.0, 1.0]] * 5, MINIMA, SIZES)
    return Experiment(
        Vector(START), data, Quadratic(), algorithm, engine, rounds=rounds, clients_per_round=concurrency, seed=3, **more
    )


def judged():
    """The quadratics, each of which judges by its own minimum."""
    data = quadratics([[1.0, 1.0]] * 5, MINIMA, SIZES)
    parts = {f"q{k}": np.arange(end - size, end) for k, (size, end) in enumerate(zip(SIZES, np.cumsum(SIZES), strict=True))}
    return FederatedDataset(data.global_train, data.global_test, parts, parts)


def run(algorithm, engine, rounds, checkpoints=None, **more):
    return simulate(experiment(algorithm, engine, rounds, **more), checkpoints=checkpoints)


def replayed(lines, buffer, rounds, versions=None):
    """Nguyen et al., Algorithm 1, in NumPy, on the replies in the order in which they arrived: the model, and who was how stale."""
    replies = [(client, version) for kind, client, version in lines if kind == "replied"]
    versions, stale = dict(versions or {0: np.array(START)}), []
    for update in range(max(versions), rounds):
        received = [replies.pop(0) for _ in range(buffer)]
        weights = [SIZES[int(client[1:])] for client, _ in received]
        late = [update - version for _, version in received]
        steps = [0.3 * (np.array(MINIMA[int(client[1:])]) - versions[version]) for client, version in received]
        change = sum(n / np.sqrt(1 + t) * step for n, t, step in zip(weights, late, steps, strict=True)) / sum(weights)
        versions[update + 1] = versions[update] + change
        stale.append([(client, t) for (client, _), t in zip(received, late, strict=True)])
    return versions, stale


@pytest.mark.parametrize("buffer", [1, 2])
def test_a_slow_client_counts_less_by_its_staleness(buffer):
    engine = Paced(late={"q2": 12})
    found = run(FedBuff(buffer, "measured", local=LOCAL), engine, 30 // buffer)
    versions, stale = replayed(engine.log.lines, buffer, 30 // buffer)
    np.testing.assert_allclose(found.model.params["w"], versions[30 // buffer], rtol=1e-6)
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


def test_a_worker_that_dies_does_not_end_the_run():
    engine = Paced(dies="q1", seconds=dict.fromkeys(["q0", "q2", "q3", "q4"], 0.01))
    found = run(FedBuff(2, "measured", local=LOCAL), engine, 12)
    assert engine.deaths == 0
    np.testing.assert_allclose(found.model.params["w"], replayed(engine.log.lines, 2, 12)[0][12], rtol=1e-6)
    missing = [row["missing"] for row in found.history if "missing" in row]
    assert missing == [["q1"]]
    begun = [line for line in engine.log.lines if line[:2] == ("asked", "q1")]
    assert len(begun) > 1
    assert len(set(begun)) == len(begun)


def test_without_workers_nothing_goes_on():
    with pytest.raises(CommunicationError, match=r"round \d+: \d clients replied, at least 1 must: no worker is left"):
        run(FedBuff(5, "measured", local=LOCAL), Paced(workers=2, dies="q1", deaths=2), 12)


def test_a_failure_ends_the_run_with_its_reason():
    with pytest.raises(CommunicationError, match=r"round 1: client q\d at worker-1: ZeroDivisionError: no way"):
        run(FedBuff(2, "measured", local=Fail()), Loopback(workers=1), 2)


def test_after_a_resume_those_who_were_at_work_begin_again_on_their_models(tmp_path):
    algorithm = FedBuff(2, "measured", local=LOCAL, seed=1)
    first, second = Paced(late={"q2": 6, "q0": 3}), Paced()
    run(algorithm, first, 7, checkpoints=Checkpoints(tmp_path))
    state = Checkpoints(tmp_path).newest()[1]["algorithm"]
    found = run(algorithm, second, 14, checkpoints=Checkpoints(tmp_path))
    asked = {client: version for kind, client, version in second.log.lines[:5] if kind == "asked"}
    assert {client: flight.version for client, flight in state.flights.items()}.items() <= asked.items()
    assert min(asked.values()) < 6
    versions, _ = replayed(first.log.lines, 2, 7)
    np.testing.assert_allclose(state.model.params["w"], versions[7], rtol=1e-6)
    np.testing.assert_allclose(found.model.params["w"], replayed(second.log.lines, 2, 14, versions)[0][14], rtol=1e-6)


def test_private_states_follow_their_clients(tmp_path):
    """A client's weight grows with its visits, which only its state has counted."""
    engine = Paced(late={"q2": 4})
    run(FedBuff(1, "measured", local=CountVisits(lr=0.3, batch_size=0)), engine, 15, checkpoints=Checkpoints(tmp_path))
    visits = [state["visits"] for _, state in Checkpoints(tmp_path).clients(15)]
    assert sum(visits) == 15
    assert max(visits) > 1


def test_clients_judge_the_model_while_others_are_at_work():
    engine = Paced(seconds={"q2": 0.05})
    found = run(FedBuff(2, "measured", local=LOCAL), engine, 9, data=judged(), evaluate_clients=2)
    np.testing.assert_allclose(found.model.params["w"], replayed(engine.log.lines, 2, 9)[0][9], rtol=1e-6)
    assert sum("client_loss" in row for row in found.history) == 5


def test_compressed_it_is_compressed_fedavg_when_everybody_is_waited_for():
    compressor = Rotated(levels=8)
    found = run(Compressed(FedBuff(5, "measured", local=LOCAL), compressor), Paced(), 4)
    expected = run(Compressed(FedAvg(LOCAL), compressor), Paced(), 4)
    np.testing.assert_allclose(found.model.params["w"], expected.model.params["w"], rtol=1e-5)
    assert found.history[-1]["train_bits_per_parameter"] == expected.history[-1]["train_bits_per_parameter"]


def test_engines_without_workers_refuse():
    with pytest.raises(ConfigError, match=r"no clients that work at their own pace: choose engine=loopback, mpi or edge"):
        run(FedBuff(2, "measured"), Standalone(), 2)


def test_under_mpirun_it_learns():
    command, environment = mpi_or_skip(3, [sys.executable, "-m", "tests.fedml_api.algorithms.test_fedbuff_real"])
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    history = json.loads(done.stdout)
    assert len(history) == 21
    assert history[-1]["test_loss"] < 0.5 * history[0]["test_loss"]
    assert max(row["train_staleness"] for row in history[1:]) >= 1


def test_one_rank_alone_says_what_it_lacks():
    command, environment = mpi_or_skip(1, [sys.executable, "-m", "tests.fedml_api.algorithms.test_fedbuff_real"])
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert "no worker is left" in done.stderr


def test_over_mqtt_it_learns(tmp_path):
    with Mosquitto(tmp_path) as mosquitto:
        found = run(FedBuff(1, "measured", local=LOCAL), Mqtt(Broker.parse(mosquitto.url)), 20)
    assert found.history[-1]["test_loss"] < 0.5 * found.history[0]["test_loss"]
    assert max(row["train_staleness"] for row in found.history[1:]) >= 1


def main():
    one = experiment(FedBuff(1, "measured", local=LOCAL), Mpi(), 20)
    if not one.work():
        print(json.dumps(simulate(one).history))


if __name__ == "__main__":
    main()
