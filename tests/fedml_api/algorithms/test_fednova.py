"""FedNova: no client has more say because it takes more steps."""

import numpy as np
import pytest
import torch

from fedml_api import Experiment, FedAvg, LocalSGD, Standalone, simulate
from fedml_api.algorithms import FedNova
from fedml_core import tree
from fedml_core.federation import SGD, WeightedMean, sample_clients
from fedml_core.trainer import Exponential, Proximal
from tests.conftest import blobs
from tests.quadratics import minimise, optimum, quadratics

# A client's examples are all equal, so that batches of 1 make as many equal steps as it has examples.
A, B, EXAMPLES = [[1.0, 0.2], [0.5, 0.4], [2.0, 0.1]], [[3.0, -1.0], [-2.0, 0.5], [1.0, 2.0]], [2, 9, 4]
START = [4.0, -4.0]
DATA = quadratics(A, B, EXAMPLES)


def weights_of_gradients(steps, lr, rho, mu):
    """a_k as the paper gives it for momentum, and for the proximal term: [1 - rho^(T - j)] / (1 - rho), (1 - lr mu)^(T - 1 - j)."""
    j = np.arange(steps)
    return (1 - lr * mu) ** (steps - 1 - j) if mu else (1 - rho ** (steps - j)) / (1 - rho)


def paper(rounds, rho, mu, slowness, by):
    """x <- x - tau_eff sum_k p_k lr d_k with d_k = G_k a_k / |a_k|, gradients one after the other; momentum at the server."""
    a, b, n = np.array(A), np.array(B), np.array(EXAMPLES)
    x, v = np.array(START), np.zeros(2)
    for round in range(rounds):
        lr = 0.1 * 0.9**round
        chosen = [int(id[1:]) for id in sample_clients(["q0", "q1", "q2"], 2, 5, round)]
        p = n[chosen] / n[chosen].sum() if by == "examples" else np.full(2, 0.5)
        directions, norms = [], []
        for k in chosen:
            gradients = np.zeros((n[k], 2))
            for j in range(n[k]):
                so_far = weights_of_gradients(j, lr, rho, mu)
                gradients[j] = a[k] * (x - lr * so_far @ gradients[:j] - b[k])
            whole = weights_of_gradients(n[k], lr, rho, mu)
            directions.append(whole @ gradients / np.abs(whole).sum())
            norms.append(np.abs(whole).sum())
        v = slowness * v - (p @ norms) * lr * (p @ directions)
        x = x + 0.7 * v
    return x


@pytest.mark.parametrize(("rho", "mu"), [(0.0, 0.0), (0.6, 0.0), (0.0, 1.5)])
@pytest.mark.parametrize("by", ["examples", "clients"])
def test_follows_the_paper_in_numpy(rho, mu, by):
    transforms = (Proximal(mu),) if mu else ()
    local = LocalSGD(lr=Exponential(0.1, 0.9), batch_size=1, momentum=rho, transforms=transforms)
    algorithm = FedNova(local, SGD(lr=0.7, momentum=0.5), WeightedMean(by=by))
    np.testing.assert_allclose(minimise(algorithm, DATA, START, 5, per_round=2, seed=5), paper(5, rho, mu, 0.5, by), atol=2e-6)


def train(algorithm, data, rounds=3, *extra):
    torch.manual_seed(7)
    network = torch.nn.Sequential(torch.nn.Linear(5, 8), *extra, torch.nn.Tanh(), torch.nn.Linear(8, 3))
    return simulate(Experiment(network, data, algorithm=algorithm, rounds=rounds, clients_per_round=4, seed=3)).model


def test_with_equally_many_steps_it_is_fedavg():
    local, server = LocalSGD(lr=0.2, steps=5, batch_size=4, momentum=0.8, clip=1.0, weight_decay=0.1), SGD(lr=0.8, momentum=0.3)
    difference = tree.sub(train(FedNova(local, server), blobs()), train(FedAvg(local, server), blobs()))
    assert max(part.abs().max().item() for part in tree.tensors(difference)) < 1e-6
    # and not, where the clients' passes have 3 to 6 batches
    other = LocalSGD(lr=0.2, batch_size=4)
    difference = tree.sub(train(FedNova(other), blobs()), train(FedAvg(other), blobs()))
    assert max(part.abs().max().item() for part in tree.tensors(difference)) > 1e-3


def test_comes_to_the_optimum_as_rates_shrink_and_fedavg_does_not():
    """A round moves client k by s_k (b_k - w) with s_k = 1 - (1 - r a_k)^T_k, so that w stays where
    sum_k p_k s_k / T_k (b_k - w) = 0; for FedAvg without the T_k. As r falls, s_k / T_k goes to r a_k, which leaves the optimum;
    s_k goes to r a_k T_k, which does not."""
    a, b, n = np.array([1.0, 1.0, 2.0]), np.array([3.0, -2.0, 1.0]), np.array([2, 9, 4])
    data, best = quadratics(a[:, None].tolist(), b[:, None].tolist(), n.tolist()), (n * a * b).sum() / (n * a).sum()
    assert best == pytest.approx(optimum(a[:, None], b[:, None], n).item())
    away = {FedNova: [], FedAvg: []}
    for lr in (0.08, 0.04):
        pull = 1 - (1 - lr * a) ** n
        for kind, weight in ((FedNova, n * pull / n), (FedAvg, n * pull)):
            still = (weight * b).sum() / weight.sum()
            local = LocalSGD(lr=lr, batch_size=1)
            assert minimise(kind(local), data, [1.0], int(5 / lr)).item() == pytest.approx(still, abs=1e-5)
            away[kind].append(abs(still - best))
    assert away[FedNova][1] < 0.6 * away[FedNova][0]
    assert away[FedNova][1] < 0.07
    assert away[FedAvg][1] > 0.5
    biased = n * a * n
    assert away[FedAvg][1] == pytest.approx(abs((biased * b).sum() / biased.sum() - best), rel=0.2)


def test_running_statistics_are_averaged_and_not_normalised():
    ours, theirs = (train(kind(LocalSGD(lr=0.2, batch_size=6)), blobs(), 1, torch.nn.BatchNorm1d(8)) for kind in (FedNova, FedAvg))
    assert tree.norm(tree.sub(ours.params, theirs.params)) > 1e-3
    for name, value in theirs.buffers.items():
        torch.testing.assert_close(ours.buffers[name], value, atol=1e-6, rtol=0)


@pytest.mark.parametrize("executor", ["sequential", "stacked"])
def test_a_client_without_examples_counts_for_nothing(executor, caplog):
    empty = quadratics([*A, [1.0, 1.0]], [*B, [9.0, 9.0]], [*EXAMPLES, 0])
    algorithm = FedNova(LocalSGD(lr=0.1, batch_size=1, momentum=0.5))
    engine = Standalone(executor=executor, processes=1)
    found = minimise(algorithm, empty, START, 3, engine=engine)
    np.testing.assert_allclose(found, minimise(algorithm, DATA, START, 3), atol=1e-6)
    assert "one by one" not in caplog.text
