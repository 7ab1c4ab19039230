"""Every registered algorithm on every registered engine: the same final model as the sequential standalone engine.

A new algorithm or engine joins by being registered, and by an entry here that says how to make it small.
"""

import pytest

import fedml_api.algorithms
import fedml_api.standalone  # noqa: F401 (registers)
from fedml_api import Experiment, LocalSGD, Standalone, simulate
from fedml_core.federation import algorithms, engines

LOCAL = LocalSGD(lr=0.1, batch_size=5, momentum=0.5)
ALGORITHMS = {"fedavg": lambda: algorithms["fedavg"](LOCAL)}
ENGINES = {"standalone": lambda: engines["standalone"]()}


def result(dataset, network, algorithm, engine):
    settings = {"rounds": 3, "clients_per_round": 3, "seed": 5}
    return simulate(Experiment(model=network, data=dataset, algorithm=algorithm, engine=engine, **settings))


def test_everything_registered_is_tested():
    assert sorted(ALGORITHMS) == list(algorithms)
    assert sorted(ENGINES) == list(engines)


@pytest.mark.parametrize("engine", sorted(ENGINES))
@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
def test_same_bits_as_the_reference(dataset, network, algorithm, engine):
    reference = result(dataset, network, ALGORITHMS[algorithm](), Standalone())
    assert result(dataset, network, ALGORITHMS[algorithm](), ENGINES[engine]()).sha256 == reference.sha256


@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
def test_every_algorithm_learns(dataset, network, algorithm):
    history = result(dataset, network, ALGORITHMS[algorithm](), Standalone()).history
    assert history[-1]["test_loss"] < 0.9 * history[0]["test_loss"]
