"""FedProx: not FedAvg, in the way the paper says."""

import pytest
import torch

from fedml_api import Experiment, FedAvg, LocalSGD, simulate
from fedml_api.algorithms import FedProx
from fedml_core import tree
from tests.conftest import blobs
from tests.quadratics import Quadratic, Vector, quadratics

LOCAL = LocalSGD(lr=0.1, epochs=3, batch_size=5, momentum=0.5)


def run(algorithm, rounds=3):
    torch.manual_seed(7)
    network = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    return simulate(Experiment(model=network, data=blobs(), algorithm=algorithm, rounds=rounds, clients_per_round=4, seed=3))


def test_is_fedavg_without_the_proximal_term():
    assert run(FedProx(mu=0.0, local=LOCAL)).sha256 == run(FedAvg(LOCAL)).sha256


def test_one_client_of_a_quadratic_follows_the_closed_form():
    """With a = 1 every step is w <- w - r ((w - b) + mu (w - w_t)): a contraction to (b + mu w_t) / (1 + mu)."""
    data, rate, mu, steps = quadratics([[1.0]], [[4.0]], [3]), 0.1, 0.7, 5
    local = LocalSGD(lr=rate, steps=steps, batch_size=0)
    found = simulate(Experiment(Vector([1.0]), data, Quadratic(), FedProx(mu, local), rounds=1, clients_per_round=1)).model.params[
        "w"
    ]
    limit = (4.0 + mu * 1.0) / (1 + mu)
    assert found.item() == pytest.approx(limit + (1 - rate * (1 + mu)) ** steps * (1.0 - limit), rel=1e-6)


def test_clients_drift_less_as_mu_grows():
    drift = []
    for mu in (0.0, 0.1, 1.0, 5.0):
        start, end = (run(FedProx(mu, LOCAL), rounds).model for rounds in (1, 2))
        drift.append(tree.norm(tree.sub(end, start)))
    assert drift == sorted(drift, reverse=True)
    assert drift[-1] < 0.7 * drift[0]
