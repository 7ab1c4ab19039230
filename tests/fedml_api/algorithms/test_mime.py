"""Mime and MimeLite: the paper's Algorithm 1, and the centralised training that they mimic."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fedml_api import Experiment, FedAvg, LocalSGD, Standalone, simulate
from fedml_api.algorithms import FedSGD, Mime, MimeLite
from fedml_core import tree
from fedml_core.errors import ConfigError, TrainerError
from fedml_core.federation import SGD, Adam, WeightedMean, sample_clients
from fedml_core.rng import rng
from fedml_core.trainer import Classifier, Exponential
from tests.conftest import blobs
from tests.quadratics import minimise, optimum, quadratics

START, SIZES = [2.0, -1.0], np.array([6, 4, 5, 0])


def unlike():
    """Clients whose examples have different curvatures and minima, so that batches differ; the last client has none."""
    draw = np.random.default_rng(3)
    a, b = draw.uniform(0.3, 1.5, (15, 2)), draw.normal(size=(15, 2)) + np.repeat([[2.0, 0], [-1, 1], [0, -2]], SIZES[:3], axis=0)
    data, ends = quadratics(a.tolist(), b.tolist(), [1] * 15), np.cumsum([0, *SIZES])
    rows = {f"q{k}": np.arange(ends[k], ends[k + 1]) for k in range(4)}
    return type(data)(data.global_train, data.global_test, rows, name="unlike examples"), a, b, rows


def sgdm(g, m, beta=0.6):
    """(U, V) of momentum in the table of Karimireddy et al.: both are the same mean."""
    return (1 - beta) * g + beta * m, (1 - beta) * g + beta * m


def adam(g, s):
    """As Algorithm 2 of Reddi et al. has it; s is (m, v)."""
    m, v = 0.8 * s[0] + 0.2 * g, 0.7 * s[1] + 0.3 * g**2
    return m / (np.sqrt(v) + 0.05), (m, v)


def paper(lite, rule, s, rounds, by, asked=2):
    """Algorithm 1 with batches of 2, rates of clients and server that change, clients weighed by examples or evenly."""
    _, a, b, rows = unlike()
    x = np.array(START)
    for round in range(rounds):
        chosen = [int(id[1:]) for id in sample_clients(list(rows), asked, 5, round)]
        chosen = [k for k in chosen if SIZES[k]]
        p = SIZES[chosen] / SIZES[chosen].sum() if by == "examples" else np.full(len(chosen), 1 / len(chosen))

        def gradient(w, of):
            return (a[of] * (w - b[of])).mean(axis=0)

        c = sum(share * gradient(x, rows[f"q{k}"]) for share, k in zip(p, chosen, strict=True))
        ends = []
        for k in chosen:
            y, order = x.copy(), rows[f"q{k}"][rng(5, "batches", round, f"q{k}").permutation(SIZES[k])]
            for batch in np.split(order, range(2, len(order), 2)):
                g = gradient(y, batch) if lite else gradient(y, batch) - gradient(x, batch) + c
                y = y - 0.5 * 0.9**round * rule(g, s)[0]
            ends.append(y)
        s = rule(c, s)[1]
        x = x + 0.8 * 1.1**round * (p @ np.array(ends) - x)
    return x


RULES = {
    "momentum": (SGD(lr=Exponential(0.4, 0.9), momentum=0.6), 0.5, sgdm, np.zeros(2)),
    "adam": (Adam(lr=1.0, beta1=0.8, beta2=0.7, tau=0.05), Exponential(0.5, 0.9), adam, (np.zeros(2), np.full(2, 0.05**2))),
}


@pytest.mark.parametrize("kind", [Mime, MimeLite])
@pytest.mark.parametrize(
    ("rule", "by", "executor"),
    [("momentum", "examples", "sequential"), ("momentum", "clients", "sequential"), ("adam", "clients", "stacked")],
)
def test_follows_the_paper_in_numpy(kind, rule, by, executor, caplog):
    base, lr, function, first = RULES[rule]
    algorithm = kind(base, LocalSGD(lr=lr, batch_size=2), SGD(lr=Exponential(0.8, 1.1)), WeightedMean(by=by))
    engine = Standalone(executor=executor, processes=1)
    found = minimise(algorithm, unlike()[0], START, 4, per_round=2, seed=5, engine=engine)
    np.testing.assert_allclose(found, paper(kind is MimeLite, function, first, 4, by), atol=1e-5)
    assert "one by one" not in caplog.text


def run(algorithm, rounds, *extra, **settings):
    torch.manual_seed(7)
    network = torch.nn.Sequential(torch.nn.Linear(5, 8), *extra, torch.nn.Tanh(), torch.nn.Linear(8, 3))
    defaults = {"clients_per_round": 4, "seed": 3} | settings
    return network, simulate(Experiment(network, blobs(), algorithm=algorithm, rounds=rounds, **defaults))


@pytest.mark.parametrize("kind", [Mime, MimeLite])
def test_one_full_batch_is_a_step_of_centralised_momentum(kind):
    network, found = run(kind(SGD(momentum=0.8), LocalSGD(lr=0.2, batch_size=0)), 4)
    central, pooled = copy.deepcopy(network), blobs().global_train.all()
    optimizer = torch.optim.SGD(central.parameters(), lr=0.2, momentum=0.8)
    for _ in range(4):
        optimizer.zero_grad()
        F.cross_entropy(central(pooled["x"]), pooled["y"]).backward()
        optimizer.step()
    for name, value in central.state_dict().items():
        torch.testing.assert_close(found.model.params[name], value, atol=2e-6, rtol=0)


def test_without_momentum_mimelite_is_fedavg_and_mime_of_one_step_fedsgd():
    local = LocalSGD(lr=0.2, epochs=2, batch_size=5, clip=1.0, weight_decay=0.1)
    assert run(MimeLite(SGD(), local), 3)[1].sha256 == run(FedAvg(local), 3)[1].sha256
    assert run(MimeLite(local=local), 3)[1].sha256 == run(MimeLite(SGD(0.1, 0.9), local), 3)[1].sha256
    assert run(Mime(local=local), 3)[1].sha256 == run(Mime(SGD(0.1, 0.9), local), 3)[1].sha256
    one, descent = (run(algorithm, 3)[1] for algorithm in (Mime(SGD(), LocalSGD(lr=0.2, steps=1, batch_size=3)), FedSGD(0.2)))
    assert tree.norm(tree.sub(one.model, descent.model)) < 1e-5
    assert tree.norm(tree.sub(run(MimeLite(SGD(), LocalSGD(lr=0.2, steps=1, batch_size=3)), 3)[1].model, descent.model)) > 1e-2


def test_mime_reaches_the_optimum_of_unlike_clients_where_fedavg_and_mimelite_stall():
    """FedAvg with 5 steps stays where the pulls n s_k = n (1 - (1 - r a_k)^5) balance; the optimum balances n a_k."""
    a, b, n = [[1.0, 0.6], [0.5, 0.8], [2.0, 0.7]], [[3.0, -1.0], [-2.0, 0.5], [1.0, 2.0]], [2, 8, 4]
    data, best, local = quadratics(a, b, n), optimum(a, b, n).numpy(), LocalSGD(lr=0.2, steps=5, batch_size=0)
    base = SGD(lr=0.4, momentum=0.6)
    np.testing.assert_allclose(minimise(Mime(base, local), data, START, 60), best, atol=1e-5)
    pull = np.array(n)[:, None] * (1 - (1 - 0.2 * np.array(a)) ** 5)
    still = (pull * b).sum(0) / pull.sum(0)
    np.testing.assert_allclose(minimise(MimeLite(SGD(), local), data, START, 60), still, atol=1e-5)
    assert np.linalg.norm(still - best) > 0.05
    assert np.linalg.norm(minimise(MimeLite(base, local), data, START, 60) - best) > 0.02


def test_running_statistics_are_averaged():
    """The pass for the gradient leaves none; Mime's clients see every batch twice."""
    statistics = {
        kind: run(kind(local=LocalSGD(lr=1e-9, batch_size=6)), 1, torch.nn.BatchNorm1d(8))[1].model.buffers
        for kind in (FedAvg, MimeLite, Mime)
    }
    start = {"1.running_mean": 0.0, "1.running_var": 1.0}
    for name, first in start.items():
        once, lite, twice = (statistics[kind][name] for kind in (FedAvg, MimeLite, Mime))
        torch.testing.assert_close(lite, once, atol=1e-6, rtol=0)
        assert ((twice - first).abs() > 1.2 * (once - first).abs()).sum() >= 6


class OwnLoop(Classifier):
    def train(self, model, batches):
        raise AssertionError


@pytest.mark.parametrize("kind", [Mime, MimeLite])
def test_what_cannot_be_is_refused(kind):
    with pytest.raises(TrainerError, match="out of reach"):
        run(kind(), 1, trainer=OwnLoop())
    with pytest.raises(ConfigError, match="momentum is that of base"):
        kind(local=LocalSGD(momentum=0.5))
