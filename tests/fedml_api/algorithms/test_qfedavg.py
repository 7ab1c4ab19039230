"""q-FedAvg: the step of the paper, the plain mean at q = 0, and a fairer spread as q grows."""

import numpy as np
import pytest
import torch

from fedml_api import Experiment, FedAvg, LocalSGD, simulate
from fedml_api.algorithms import QFedAvg
from fedml_core import tree
from fedml_core.errors import ConfigError
from fedml_core.federation import SGD, Evaluate, WeightedMean
from fedml_core.trainer import Exponential
from tests.clients import judged
from tests.conftest import blobs
from tests.quadratics import Quadratic, Vector, quadratics

TRAIN = Evaluate(on="train")
A, B, N = [[1.0], [2.0], [0.5]], [[3.0], [-1.0], [0.5]], [4, 1, 7]


def quadratic(algorithm, rounds, a=A, b=B, examples=N, start=1.0):
    return Experiment(Vector([start]), quadratics(a, b, examples), Quadratic(), algorithm, rounds=rounds, clients_per_round=len(a))


def by_the_paper(q, rates, steps, rounds, server_lr=1.0, start=1.0):
    w = start
    for rate in rates[:rounds]:
        top = bottom = 0.0
        for (a,), (b,) in zip(A, B, strict=True):
            w_k = b + (1 - rate * a) ** steps * (w - b)
            loss, d = 0.5 * a * (w - b) ** 2, (w - w_k) / rate
            top += loss**q * d
            bottom += q * loss ** (q - 1) * d**2 + loss**q / rate
        w -= server_lr * top / bottom
    return w


@pytest.mark.parametrize("q", [0.0, 0.5, 1.0, 3.0])
def test_follows_algorithm_2(q):
    local = LocalSGD(lr=Exponential(0.2, 0.5), steps=3, batch_size=0)
    found = simulate(quadratic(QFedAvg(q, local, SGD(0.8)), 4)).model.params["w"]
    assert found.item() == pytest.approx(by_the_paper(q, [0.2, 0.1, 0.05, 0.025], 3, 4, 0.8), rel=1e-5)


def network():
    torch.manual_seed(7)
    return torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 3))


def test_is_the_plain_mean_at_q_0():
    local = LocalSGD(lr=0.1, batch_size=6, momentum=0.5)

    def run(algorithm):
        return simulate(Experiment(network(), blobs(), algorithm=algorithm, rounds=3, clients_per_round=4)).model

    ours, plain = run(QFedAvg(0.0, local)), run(FedAvg(local, aggregator=WeightedMean(by="clients")))
    assert tree.norm(tree.sub(ours, plain)) < 1e-6
    assert tree.norm(tree.sub(ours, run(FedAvg(local)))) > 1e-3  # clients differ in size


def test_running_statistics_are_averaged_whatever_q_is():
    def run(algorithm):
        return simulate(Experiment(network(), blobs(1), algorithm=algorithm, rounds=1, clients_per_round=1)).model

    ours, alone = run(QFedAvg(2.0)), run(FedAvg())
    torch.testing.assert_close(ours.buffers, alone.buffers, atol=1e-6, rtol=1e-6)
    assert tree.norm(tree.sub(ours, alone)) > 1e-3


def test_losses_are_nearer_to_each_other_as_q_grows():
    """Three clients want 0, one wants 1: sum F^q F' = 0 is at w with (w / (1 - w))^(2q+1) = 1/3."""
    a, b, n = [[1.0]] * 4, [[0.0]] * 3 + [[1.0]], [1] * 4
    variances = []
    for q in (0.0, 1.0, 5.0):
        state, clients = judged(quadratic(QFedAvg(q, LocalSGD(lr=0.1, batch_size=0)), 400, a, b, n, 0.3), by=TRAIN)
        odds = (1 / 3) ** (1 / (2 * q + 1))
        assert state.model.params["w"].item() == pytest.approx(odds / (1 + odds), rel=1e-3)
        variances.append(np.var([metrics["loss"] for metrics in clients.values()]))
    assert variances[0] > 2 * variances[1] > 4 * variances[2]


def test_clients_at_their_minimum_and_clients_with_nothing():
    still = simulate(quadratic(QFedAvg(0.5), 1, start=3.0, a=A[:1], b=B[:1], examples=[2])).model.params["w"]
    assert still.item() == 3.0
    found, nothing = (
        simulate(quadratic(QFedAvg(1.0), 3, a=A[:k], b=B[:k], examples=[4, 0][:k])).model.params["w"].item() for k in (1, 2)
    )
    assert found == pytest.approx(nothing, rel=1e-6)
    state, _ = judged(quadratic(QFedAvg(1.0), 2, a=A[:1], b=B[:1], examples=[0]))
    assert state.model.params["w"].item() == 1.0


def test_impossible_settings_are_refused():
    with pytest.raises(ConfigError, match=r"QFedAvg.q = -1.0: expected float >= 0"):
        QFedAvg(-1.0)
