"""Agnostic federated learning: weight moves to the domains that are worst off."""

import numpy as np
import pytest
import torch

from fedml_api import Experiment, FedAvg, LocalSGD, simulate
from fedml_api.algorithms import Agnostic
from fedml_api.data import FederatedDataset
from fedml_core import tree
from fedml_core.errors import ConfigError
from fedml_core.federation import SGD, WeightedMean
from fedml_core.trainer import Examples
from tests.clients import judged
from tests.conftest import blobs
from tests.quadratics import Quadratic, Vector, quadratics

A, B, N = [[1.0], [2.0], [0.5], [1.0]], [[3.0], [-1.0], [0.5], [2.0]], [4, 1, 7, 2]
LOCAL = LocalSGD(lr=0.1, steps=3, batch_size=0)


def quadratic(algorithm, rounds, a=A, b=B, examples=N, domains=None, per_round=None, start=1.0):
    data = quadratics(a, b, examples)
    if domains is not None:
        columns = data.global_train.columns | {"domain": torch.tensor(domains)}
        parts = {id: data.train(id).index.numpy() for id in data.client_ids}
        data = FederatedDataset(Examples(columns), Examples(columns), parts)
    return Experiment(Vector([start]), data, Quadratic(), algorithm, rounds=rounds, clients_per_round=per_round or len(a), seed=1)


def by_the_paper(domain, ascent, rounds, server_lr):
    """`domain` of each client, whose examples are all alike."""
    w, p = 1.0, {d: 1 / len(set(domain)) for d in domain}
    for _ in range(rounds):
        losses = [0.5 * a * (w - b) ** 2 for (a,), (b,) in zip(A, B, strict=True)]
        size = {d: sum(n for n, other in zip(N, domain, strict=True) if other == d) for d in p}
        of = {d: sum(n * loss for n, loss, o in zip(N, losses, domain, strict=True) if o == d) / size[d] for d in p}
        change = 0.0
        for (a,), (b,), n, d in zip(A, B, N, domain, strict=True):
            change += p[d] * n / size[d] * (b + (1 - 0.1 * a) ** 3 * (w - b) - w)
        w += server_lr * change
        raised = {d: p[d] * np.exp(ascent * of[d]) for d in p}
        p = {d: value / sum(raised.values()) for d, value in raised.items()}
    return w, p, of


@pytest.mark.parametrize("columns", [False, True])
def test_follows_the_paper(columns):
    """By client, and by a column that puts the first and the last client into one domain."""
    domain = [7, 1, 3, 7] if columns else ["q0", "q1", "q2", "q3"]
    rows = np.repeat(domain, N).tolist() if columns else None
    algorithm = Agnostic(0.4, LOCAL, SGD(0.8))
    state, _ = judged(quadratic(algorithm, 4, domains=rows))
    w, p, of = by_the_paper(domain, 0.4, 4, 0.8)
    assert state.model.params["w"].item() == pytest.approx(w, rel=1e-5, abs=1e-6)
    assert {d: weight / len(p) for d, weight in state.weights.items()} == pytest.approx(
        {str(d): share for d, share in p.items()}, rel=1e-5
    )
    found = simulate(quadratic(algorithm, 4, domains=rows))
    assert found.history[-1]["train_worst_loss"] == pytest.approx(max(of.values()), rel=1e-5)


def test_a_client_of_two_domains_counts_by_its_examples_of_each():
    """q0 has 3 examples of domain 0 and 1 of domain 1, q1 has 1 and 5: shares of 3/4 + 1/6 and 1/4 + 5/6."""
    one = quadratic(Agnostic(0.0, LOCAL), 1, A[:2], B[:2], [4, 6], domains=[0, 0, 0, 1, 0, 1, 1, 1, 1, 1])
    state, _ = judged(one)
    ends = [b + (1 - 0.1 * a) ** 3 * (1.0 - b) for (a,), (b,) in zip(A[:2], B[:2], strict=True)]
    assert state.model.params["w"].item() == pytest.approx(np.average(ends, weights=[3 / 4 + 1 / 6, 1 / 4 + 5 / 6]), rel=1e-6)


def test_is_fedavg_with_one_domain_and_of_equal_clients_without_ascent():
    local = LocalSGD(lr=0.1, batch_size=5, momentum=0.5)
    data = blobs()
    columns = data.global_train.columns | {"domain": torch.zeros(len(data.global_train.columns["y"]), dtype=torch.int64)}
    index = [Examples(columns, part.index) for part in (data.global_train, data.global_test)]
    parts = {id: data.train(id).index.numpy() for id in data.client_ids}
    one = FederatedDataset(*index, parts, classes=3)

    def run(algorithm, data):
        torch.manual_seed(7)
        network = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
        return simulate(Experiment(network, data, algorithm=algorithm, rounds=3, clients_per_round=3)).model

    assert tree.norm(tree.sub(run(Agnostic(0.5, local), one), run(FedAvg(local), data))) < 1e-6
    equal = FedAvg(local, aggregator=WeightedMean(by="clients"))
    assert tree.norm(tree.sub(run(Agnostic(0.0, local), data), run(equal, data))) < 1e-6
    assert tree.norm(tree.sub(run(Agnostic(0.5, local), data), run(equal, data))) > 1e-3


def test_the_worst_domain_is_better_off_than_with_fedavg():
    """Three clients want 0, one wants 1: FedAvg ends at 1/4, where the worst loss is 9/32; the fair point is 1/2, with 1/8."""
    a, b, n, local = [[1.0]] * 4, [[0.0]] * 3 + [[1.0]], [1] * 4, LocalSGD(lr=0.1, batch_size=0)
    found = {}
    for algorithm in (FedAvg(local), Agnostic(0.3, local)):
        state, _ = judged(quadratic(algorithm, 300, a, b, n))
        found[type(algorithm)] = state.model.params["w"].item()
    assert found[FedAvg] == pytest.approx(0.25, abs=1e-3)
    assert found[Agnostic] == pytest.approx(0.5, abs=0.02)


def test_domains_that_are_not_there_keep_their_weight():
    state, _ = judged(quadratic(Agnostic(1.0, LOCAL), 6, per_round=1))
    assert set(state.weights.values()) == {1.0}
    assert len(state.weights) > 1
    state, _ = judged(quadratic(Agnostic(1.0, LOCAL), 6, per_round=2))
    assert sum(state.weights.values()) == pytest.approx(len(state.weights))
    assert max(state.weights.values()) > 1.2


def test_no_domain_is_given_up_for_good():
    state, _ = judged(quadratic(Agnostic(200.0, LOCAL), 3))
    assert min(state.weights.values()) == 1e-6
    assert max(state.weights.values()) == pytest.approx(4, rel=1e-5)


def test_clients_with_nothing():
    some, all_there = (
        judged(quadratic(Agnostic(0.5, LOCAL), 3, A[:k], B[:k], [4, 2, 0][:k]))[0].model.params["w"].item() for k in (3, 2)
    )
    assert some == pytest.approx(all_there, rel=1e-6)
    nothing, _ = judged(quadratic(Agnostic(0.5, LOCAL), 2, A[:1], B[:1], [0]))
    assert (nothing.model.params["w"].item(), nothing.weights) == (1.0, {})


def test_impossible_settings_are_refused():
    with pytest.raises(ConfigError, match=r"ascent = -1.0: expected float >= 0"):
        Agnostic(-1.0)
