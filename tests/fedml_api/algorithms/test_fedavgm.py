"""FedAvgM: momentum at the server, and what it is good for."""

import numpy as np
import pytest
import torch

from fedml_api import Experiment, FedAvg, LocalSGD, simulate
from fedml_api.algorithms import FedAvgM
from fedml_core.federation import SGD, WeightedMean, sample_clients
from fedml_core.trainer import Exponential
from tests.conftest import blobs
from tests.quadratics import minimise, quadratics

A, B, EXAMPLES = [[1.0, 0.2], [0.5, 0.4], [2.0, 0.1]], [[3.0, -1.0], [-2.0, 0.5], [1.0, 2.0]], [2, 5, 3]
LOCAL = LocalSGD(lr=0.1, steps=3, batch_size=0)


def train(algorithm, rounds, per_round=3):
    return minimise(algorithm, quadratics(A, B, EXAMPLES), [4.0, -4.0], rounds, per_round, seed=2)


@pytest.mark.parametrize("by", ["examples", "clients"])
def test_follows_the_paper_in_numpy(by):
    """Two of three clients a round, momentum 0.7, a rate of the server that falls."""
    a, b, n = np.array(A), np.array(B), np.array(EXAMPLES) if by == "examples" else np.ones(3)
    w, v = np.array([4.0, -4.0]), np.zeros(2)
    for round in range(6):
        chosen = [int(id[1:]) for id in sample_clients(["q0", "q1", "q2"], 2, 2, round)]
        changes = [(b[k] - w) * (1 - (1 - 0.1 * a[k]) ** 3) for k in chosen]
        v = 0.7 * v + np.average(changes, axis=0, weights=n[chosen])
        w = w + 0.8 * 0.9**round * v
    found = train(FedAvgM(0.7, Exponential(0.8, 0.9), LOCAL, WeightedMean(by=by)), 6, per_round=2)
    np.testing.assert_allclose(found, w, atol=1e-6)


def test_without_momentum_it_is_fedavg():
    def run(algorithm):
        torch.manual_seed(7)
        network = torch.nn.Linear(5, 3)
        return simulate(Experiment(network, blobs(), algorithm=algorithm, rounds=3, clients_per_round=3, seed=3)).sha256

    assert run(FedAvgM(momentum=0.0)) == run(FedAvg())
    assert run(FedAvgM()) == run(FedAvg(server=SGD(momentum=0.9))) != run(FedAvg())


def test_goes_faster_where_the_losses_are_flat():
    """Both come to where the pulls of the clients, n (1 - (1 - r a)^3), are balanced; after 40 rounds FedAvg is still under way."""
    pulls = np.array(EXAMPLES)[:, None] * (1 - (1 - 0.1 * np.array(A)) ** 3)
    balance = (pulls * B).sum(0) / pulls.sum(0)
    left = [np.linalg.norm(train(algorithm, 40) - balance) for algorithm in (FedAvg(LOCAL), FedAvgM(0.7, 1.0, LOCAL))]
    assert left[1] < 0.1 * left[0]
