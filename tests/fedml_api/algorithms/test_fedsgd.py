"""FedSGD: gradient descent on the pooled data, and nothing else."""

import copy

import pytest
import torch
import torch.nn.functional as F

from fedml_api import Experiment, FedAvg, LocalSGD, simulate
from fedml_api.algorithms import FedSGD
from fedml_core.federation import WeightedMean
from fedml_core.trainer import Exponential
from tests.conftest import blobs
from tests.quadratics import minimise, optimum, quadratics


def run(data, network, algorithm, rounds, per_round=4):
    return simulate(Experiment(network, data, algorithm=algorithm, rounds=rounds, clients_per_round=per_round, seed=3))


def test_with_all_clients_it_is_gradient_descent_with_the_rate_of_the_round(dataset, network):
    found = run(dataset, network, FedSGD(lr=Exponential(0.5, 0.8)), rounds=4).model
    central, pooled = copy.deepcopy(network), dataset.global_train.all()
    optimizer = torch.optim.SGD(central.parameters(), lr=0.5)
    for round in range(4):
        optimizer.param_groups[0]["lr"] = 0.5 * 0.8**round
        optimizer.zero_grad()
        F.cross_entropy(central(pooled["x"]), pooled["y"]).backward()
        optimizer.step()
    for name, value in central.state_dict().items():
        torch.testing.assert_close(found.params[name], value, atol=1e-6, rtol=0)


def test_is_fedavg_with_one_full_batch(network):
    theirs = FedAvg(LocalSGD(lr=0.1, batch_size=0), aggregator=WeightedMean(by="clients"))
    ours = FedSGD(aggregator=WeightedMean(by="clients"))
    assert run(blobs(), network, ours, 3, per_round=2).sha256 == run(blobs(), network, theirs, 3, per_round=2).sha256
    assert run(blobs(), network, FedSGD(), 3, per_round=2).sha256 != run(blobs(), network, theirs, 3, per_round=2).sha256


def test_reaches_the_optimum_from_which_fedavg_stays_away():
    """Clients of different curvature: several local steps pull towards the clients' own minima, one does not."""
    a, b, examples = [[1.0], [3.0]], [[0.0], [1.0]], [2, 4]
    data, best = quadratics(a, b, examples), optimum(a, b, examples).item()
    pull = [n * (1 - (1 - 0.3 * k[0]) ** 5) for n, k in zip(examples, a, strict=True)]
    assert minimise(FedSGD(lr=0.3), data, [5.0], 60).item() == pytest.approx(best, abs=1e-6)
    averaged = minimise(FedAvg(LocalSGD(lr=0.3, steps=5, batch_size=0)), data, [5.0], 60).item()
    assert averaged == pytest.approx(pull[1] / sum(pull), abs=1e-6)
    assert abs(averaged - best) > 0.1
