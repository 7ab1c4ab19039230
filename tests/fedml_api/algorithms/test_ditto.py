"""Ditto: FedAvg for all, and a model at home that is pulled towards it."""

import pytest
import torch

from fedml_api import Experiment, FedAvg, LocalSGD, simulate
from fedml_api.algorithms import Ditto
from fedml_api.data import FederatedDataset
from fedml_core import tree
from fedml_core.federation import sample_clients
from fedml_core.trainer import ModelState
from tests.clients import judged
from tests.conftest import blobs
from tests.quadratics import Quadratic, Vector, quadratics

A, B, N = [[1.0], [2.0]], [[3.0], [-1.0]], [4, 1]


def quadratic(algorithm, rounds, k=2):
    return Experiment(Vector([1.0]), quadratics(A[:k], B[:k], N[:k]), Quadratic(), algorithm, rounds=rounds, clients_per_round=k)


def at_home(experiment):
    """The state of the server, and of each client."""
    algorithm = experiment.algorithm
    with experiment.engine.open(experiment.setup()) as session:
        state = algorithm.init(tree.clone(ModelState.of(experiment.model)))
        for round in range(experiment.rounds):
            state, metrics = algorithm.round(state, session.cohort(round, session.population()))
        return state.model, dict(session.save()), metrics


def by_the_paper(lam, rounds, personal=(0.05, 4), local=(0.1, 2)):
    w, own = 1.0, [1.0, 1.0]
    for _ in range(rounds):
        change = 0.0
        for k, ((a,), (b,), n) in enumerate(zip(A, B, N, strict=True)):
            for _ in range(personal[1]):
                own[k] -= personal[0] * (a * (own[k] - b) + lam * (own[k] - w))
            w_k = w
            for _ in range(local[1]):
                w_k -= local[0] * a * (w_k - b)
            change += n / sum(N) * (w_k - w)
        w += change
    return w, own


@pytest.mark.parametrize("lam", [0.0, 0.7, 5.0])
def test_follows_algorithm_1(lam):
    local, personal = LocalSGD(lr=0.1, steps=2, batch_size=0), LocalSGD(lr=0.05, steps=4, batch_size=0)
    model, kept, metrics = at_home(quadratic(Ditto(lam, local, personal), 3))
    w, own = by_the_paper(lam, 3)
    assert model.params["w"].item() == pytest.approx(w, rel=1e-6)
    assert [kept[f"q{k}"].params["w"].item() for k in range(2)] == pytest.approx(own, rel=1e-6)
    assert metrics["loss"].count == 2 * sum(N)
    assert metrics["personal_loss"].count == 4 * sum(N)


def test_both_models_are_trained_alike_if_nothing_else_is_said():
    one, two = (at_home(quadratic(Ditto(0.5, LocalSGD(lr=0.1), personal), 2))[1] for personal in (None, LocalSGD(lr=0.1)))
    assert tree.digest(one) == tree.digest(two)


def experiment(algorithm, data=None, per_round=3):
    torch.manual_seed(7)
    network = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    return Experiment(network, data or blobs(), algorithm=algorithm, rounds=3, clients_per_round=per_round, seed=3)


LOCAL = LocalSGD(lr=0.1, epochs=2, batch_size=5, momentum=0.5)


def test_the_servers_model_is_fedavgs():
    assert simulate(experiment(Ditto(0.3, LOCAL))).sha256 == simulate(experiment(FedAvg(LOCAL))).sha256


def test_without_the_pull_it_is_local_training():
    whole = blobs()
    alone = FederatedDataset(
        whole.global_train, whole.global_test, {"c0": torch.arange(12).numpy()}, {"c0": torch.arange(5).numpy()}, classes=3
    )
    _, together = judged(experiment(Ditto(0.0, LOCAL), whole, per_round=4))
    _, by_itself = judged(experiment(FedAvg(LOCAL), alone, per_round=1))
    assert together["c0"]["loss"] == pytest.approx(by_itself["c0"]["loss"], abs=1e-6)
    _, pulled = judged(experiment(Ditto(1.0, LOCAL), whole, per_round=4))
    assert abs(pulled["c0"]["loss"] - by_itself["c0"]["loss"]) > 1e-3


def test_with_an_endless_pull_it_is_the_servers_model():
    """At home the model goes to (a b + lam w) / (a + lam), for the w of before the round."""
    far = LocalSGD(lr=5e-5, steps=20, batch_size=0)
    before, _, _ = at_home(quadratic(Ditto(1e4, LocalSGD(lr=0.1), far), 2))
    _, kept, _ = at_home(quadratic(Ditto(1e4, LocalSGD(lr=0.1), far), 3))
    for k in range(2):
        assert kept[f"q{k}"].params["w"].item() == pytest.approx(before.params["w"].item(), abs=1e-3)


@pytest.mark.parametrize("per_round", [1, 4])
def test_clients_that_were_never_asked_use_the_servers_model(per_round):
    asked = {id for round in range(3) for id in sample_clients(blobs().client_ids, per_round, 3, round)}
    _, own = judged(experiment(Ditto(0.3, LOCAL), per_round=per_round))
    _, common = judged(experiment(Ditto(0.3, LOCAL), per_round=per_round), by=FedAvg().judge())
    assert (own["c0"] != common["c0"]) is ("c0" in asked)
