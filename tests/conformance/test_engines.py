"""Every registered algorithm on every registered engine: the same final model as the sequential standalone engine.

The matrix runs over MQTT with workers as threads at a real broker; the edge engine with its devices as processes is tested in
`tests/fedml_iot`, on the same claim.
"""

import json
import subprocess
import sys
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest

from fedml_api import Standalone, simulate
from fedml_api.distributed import Loopback
from fedml_api.distributed.engines import threads
from fedml_core import tree
from fedml_core.communication.broker import embedded_broker
from fedml_core.communication.message import SERVER
from fedml_core.communication.mqtt import Broker, MqttComManager
from fedml_core.federation import Engine, algorithms, engines
from tests.brokers import Mosquitto, free_port
from tests.conformance.experiments import ALGORITHMS, SHOWS_IN, TALKING, experiment
from tests.mpi import mpi_or_skip

SEQUENTIAL = Standalone(executor="sequential", processes=1)
IN_PROCESS = {"standalone": SEQUENTIAL, "loopback": Loopback(workers=3)}
EXECUTORS = {
    "traced": Standalone(executor="traced", processes=1),
    "stacked": Standalone(executor="stacked", block=3, processes=1),
    "processes": Standalone(executor="sequential", processes=2),
    "stacked in processes": Standalone(executor="stacked", block=3, processes=2),
}
ELSEWHERE = {"mpi", "edge"}
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def reference():
    return {name: simulate(experiment(name, SEQUENTIAL)) for name in ALGORITHMS}


def test_everything_registered_is_tested():
    assert sorted(ALGORITHMS) == list(algorithms)
    assert sorted({*IN_PROCESS, *ELSEWHERE}) == list(engines)


@pytest.mark.parametrize("engine", sorted(IN_PROCESS))
@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
def test_same_bits_as_the_reference(reference, algorithm, engine):
    assert simulate(experiment(algorithm, IN_PROCESS[engine])).sha256 == reference[algorithm].sha256


@pytest.mark.parametrize("ranks", [1, 3, *(pytest.param(ranks, marks=pytest.mark.soak) for ranks in (2, 5))])
def test_same_bits_under_mpirun(reference, ranks):
    command, environment = mpi_or_skip(ranks, [sys.executable, "-m", "tests.conformance.experiments"])
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {name: result.sha256 for name, result in reference.items()}


class Mqtt(Engine):
    """Workers that are threads, connected by a broker."""

    def __init__(self, broker):
        self.broker = broker

    @contextmanager
    def open(self, setup):
        names = [SERVER, "worker-1", "worker-2"]
        yield from threads({name: MqttComManager(name, self.broker, "matrix") for name in names}, setup)


def test_same_bits_over_mqtt(reference, tmp_path):
    with Mosquitto(tmp_path) as mosquitto:
        broker = Broker.parse(mosquitto.url)
        found = {name: simulate(experiment(name, Mqtt(broker))).sha256 for name in ALGORITHMS}
    assert found == {name: result.sha256 for name, result in reference.items()}


def test_same_bits_over_the_embedded_broker(reference):
    with embedded_broker(port=free_port()) as broker:
        assert simulate(experiment("fedavg", Mqtt(broker))).sha256 == reference["fedavg"].sha256


@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
def test_folding_on_workers_differs_by_rounding_only(reference, algorithm):
    folded = simulate(experiment(algorithm, Loopback(workers=3, fold_on_workers=True)))
    difference = tree.sub(folded.model, reference[algorithm].model)
    assert max(part.abs().max().item() for part in tree.tensors(difference)) < 1e-6
    again = simulate(experiment(algorithm, Loopback(workers=3, fold_on_workers=True)))
    assert again.sha256 == folded.sha256


@cache
def without_dropout(algorithm):
    """What the executors have to come close to."""
    return simulate(experiment(algorithm, SEQUENTIAL, dropout=0.0, rounds=5))


@pytest.mark.parametrize("executor", sorted(EXECUTORS))
@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS.keys() - TALKING))
def test_executors_differ_by_rounding_only(algorithm, executor):
    """Without dropout, whose masks a stack draws together."""
    one, other = without_dropout(algorithm), simulate(experiment(algorithm, EXECUTORS[executor], dropout=0.0, rounds=5))
    difference = tree.sub(one.model, other.model)
    assert max(part.abs().max().item() for part in tree.tensors(difference)) < 1e-5
    assert one.history[-1]["examples"] == other.history[-1]["examples"]


@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
def test_every_algorithm_learns(reference, algorithm):
    losses = [row[name] for row in reference[algorithm].history if (name := SHOWS_IN.get(algorithm, "test_loss")) in row]
    assert losses[-1] < 0.9 * losses[0]
