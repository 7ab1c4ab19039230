"""FedDyn: the paper's Algorithm 1, and where it stands still."""

import numpy as np
import pytest
import torch

from fedml_api import Experiment, FedAvg, LocalSGD, Standalone, simulate
from fedml_api.algorithms import FedDyn, FedProx
from fedml_core import tree
from fedml_core.errors import ConfigError, TrainerError
from fedml_core.federation import SGD, WeightedMean, sample_clients
from fedml_core.trainer import Classifier, Exponential
from tests.conftest import blobs
from tests.quadratics import minimise, optimum, quadratics

A, B, EXAMPLES = [[1.0, 0.6], [0.5, 0.8], [2.0, 0.7]], [[3.0, -1.0], [-2.0, 0.5], [1.0, 2.0]], [2, 8, 4]
START = [4.0, -4.0]
DATA = quadratics(A, B, EXAMPLES)
ONE_EACH = [1, 1, 1]


def paper(rounds, alpha, steps, asked=2, population=3, server=lambda round: 1.0):
    """Algorithm 1 of Acar et al.; `steps` of gradient descent stand for the argmin, or its closed form if there are none.

    The fourth client, if any, has no examples. `server` is a rate on the way that x goes.
    """
    a, b = np.array(A), np.array(B)
    theta, h, gradients, last = np.array(START), np.zeros(2), np.zeros((3, 2)), {}
    for round in range(rounds):
        chosen = [int(id[1:]) for id in sample_clients([f"q{k}" for k in range(population)], asked, 5, round)]
        ends = []
        for k in (k for k in chosen if k < 3):
            local = theta.copy()
            for _ in range(steps):
                slope = a[k] * (local - b[k]) - gradients[k] + alpha * (local - theta)
                local = local - 0.2 * 0.9**round * slope
            if not steps:
                local = (a[k] * b[k] + gradients[k] + alpha * theta) / (a[k] + alpha)
            gradients[k] = gradients[k] - alpha * (local - theta)
            ends.append(local)
            last[k] = round
        h = h - alpha / population * (np.array(ends) - theta).sum(axis=0)
        theta = theta + server(round) * (np.mean(ends, axis=0) - h / alpha - theta)
    assert asked == population or len(set(last.values())) > 1  # or it would not matter that clients keep their state
    return theta


@pytest.mark.parametrize("alpha", [0.3, 2.0])
def test_follows_the_paper_in_numpy(alpha):
    algorithm = FedDyn(alpha, LocalSGD(lr=Exponential(0.2, 0.9), steps=4, batch_size=0), SGD(lr=Exponential(0.5, 1.1)))
    found = minimise(algorithm, DATA, START, 7, per_round=2, seed=5)
    np.testing.assert_allclose(found, paper(7, alpha, 4, server=lambda round: 0.5 * 1.1**round), atol=1e-5)


def test_many_local_steps_solve_for_the_argmin():
    algorithm = FedDyn(1.0, LocalSGD(lr=0.4, steps=40, batch_size=0))
    np.testing.assert_allclose(minimise(algorithm, DATA, START, 6, per_round=2, seed=5), paper(6, 1.0, 0), atol=1e-5)


def run(algorithm, rounds, **settings):
    torch.manual_seed(7)
    network = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    return simulate(Experiment(network, blobs(), algorithm=algorithm, rounds=rounds, clients_per_round=3, seed=3, **settings))


def test_first_round_is_fedprox_lengthened_by_the_share_of_clients_asked():
    """l_k = h = 0, so that the clients are those of FedProx, and with 3 of 4 clients x moves by D + 3/4 D."""
    local = LocalSGD(lr=0.2, epochs=2, batch_size=5, momentum=0.5, clip=1.0)
    ours = FedDyn(0.7, local, SGD(lr=1 / 1.75))
    theirs = FedProx(0.7, local, aggregator=WeightedMean(by="clients"))
    away = [tree.norm(tree.sub(run(ours, rounds).model, run(theirs, rounds).model)) for rounds in (1, 2)]
    assert away[0] < 1e-6
    assert away[1] > 1e-2
    assert FedDyn() == FedDyn(0.1, LocalSGD(), SGD())


def test_stands_still_at_the_optimum_where_fedavg_does_not():
    """FedAvg with 5 steps stays where the pulls s_k = 1 - (1 - r a_k)^5 balance; the optimum balances a_k."""
    a, b = np.array(A), np.array(B)
    best, local = optimum(A, B, ONE_EACH).numpy(), LocalSGD(lr=0.2, steps=5, batch_size=0)
    np.testing.assert_allclose(minimise(FedDyn(0.5, local), DATA, START, 60), best, atol=1e-5)
    np.testing.assert_allclose(minimise(FedDyn(0.5, local), DATA, START, 150, per_round=2), best, atol=1e-4)
    pull = 1 - (1 - 0.2 * a) ** 5
    still = (pull * b).sum(0) / pull.sum(0)
    averaged = FedAvg(local, aggregator=WeightedMean(by="clients"))
    np.testing.assert_allclose(minimise(averaged, DATA, START, 60), still, atol=1e-5)
    assert np.linalg.norm(still - best) > 0.05


@pytest.mark.parametrize("executor", ["sequential", "stacked"])
def test_a_client_without_examples_changes_nothing(executor, caplog):
    empty = quadratics([*A, [1.0, 1.0]], [*B, [9.0, 9.0]], [*EXAMPLES, 0])
    algorithm = FedDyn(0.5, LocalSGD(lr=Exponential(0.2, 0.9), steps=3, batch_size=0))
    found = minimise(algorithm, empty, START, 4, engine=Standalone(executor=executor, processes=1), seed=5)
    np.testing.assert_allclose(found, paper(4, 0.5, 3, asked=4, population=4), atol=5e-6)
    assert "one by one" not in caplog.text


def test_running_statistics_move_by_their_mean_change():
    def statistics(algorithm):
        torch.manual_seed(7)
        network = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 3))
        result = simulate(Experiment(network, blobs(), algorithm=algorithm, rounds=1, clients_per_round=4, seed=3))
        return result.model.buffers

    local = LocalSGD(lr=0.2, batch_size=6)
    ours, theirs = statistics(FedDyn(0.7, local)), statistics(FedProx(0.7, local, aggregator=WeightedMean(by="clients")))
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, atol=1e-6, rtol=0)


class OwnLoop(Classifier):
    def train(self, model, batches):
        raise AssertionError


def test_what_cannot_be_is_refused():
    with pytest.raises(TrainerError, match="LinearPenalty"):
        run(FedDyn(), 1, trainer=OwnLoop())
    with pytest.raises(ConfigError, match="alpha"):
        FedDyn(alpha=0.0)
