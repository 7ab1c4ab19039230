"""APFL: a mixture of the client's own model with the common one."""

import numpy as np
import pytest
import torch

from fedml_api import Experiment, FedAvg, LocalSGD, Standalone, simulate
from fedml_api.algorithms import APFL
from fedml_api.data import FederatedDataset
from fedml_core import tree
from fedml_core.errors import ConfigError
from fedml_core.trainer import ModelState
from tests.clients import judged, mean
from tests.conftest import blobs
from tests.quadratics import Quadratic, Vector, quadratics

A, B, N = [[1.0, 0.5], [2.0, 1.0]], [[3.0, 0.0], [-1.0, 1.0]], [4, 1]
LOCAL = LocalSGD(lr=0.1, epochs=2, batch_size=5, momentum=0.5)


def quadratic(algorithm, rounds, a=A, b=B, examples=N):
    data = quadratics(a, b, examples)
    return Experiment(Vector([1.0, -1.0]), data, Quadratic(), algorithm, rounds=rounds, clients_per_round=len(a))


def run(experiment):
    """The server's model, and what clients keep."""
    with experiment.engine.open(experiment.setup()) as session:
        state = experiment.algorithm.init(tree.clone(ModelState.of(experiment.model)))
        for round in range(experiment.rounds):
            state, metrics = experiment.algorithm.round(state, session.cohort(round, session.population()))
        return state.model, dict(session.save()), metrics


def by_the_paper(alpha, alpha_lr, rate, steps, rounds):
    """Algorithm 1, all arrays `[2]`: the gradients of a step are taken at what the step before left."""
    w, own, alphas = np.array([1.0, -1.0]), [np.array([1.0, -1.0])] * 2, [alpha, alpha]
    for _ in range(rounds):
        ends = []
        for k, (a, b) in enumerate(zip(np.array(A), np.array(B), strict=True)):
            w_k, v, share = w, own[k], alphas[k]
            for step in range(steps):
                at_mixture = a * (share * v + (1 - share) * w_k - b)
                at_common = a * (w_k - b)
                new = np.clip(share - alpha_lr * at_mixture @ (v - w_k), 0, 1) if step == 0 else share
                v, w_k, share = v - rate * share * at_mixture, w_k - rate * at_common, new
            own[k], alphas[k] = v, share
            ends.append(w_k)
        w = np.average(ends, axis=0, weights=N)
    return w, own, alphas


@pytest.mark.parametrize("alpha_lr", [0.0, 0.05, 3.0])
def test_follows_algorithm_1(alpha_lr):
    algorithm = APFL(0.4, alpha_lr, LocalSGD(lr=0.1, steps=3, batch_size=0))
    model, kept, metrics = run(quadratic(algorithm, 4))
    w, own, alphas = by_the_paper(0.4, alpha_lr, 0.1, 3, 4)
    assert model.params["w"].tolist() == pytest.approx(w.tolist(), rel=1e-5)
    for k in range(2):
        assert kept[f"q{k}"]["own"]["w"].tolist() == pytest.approx(own[k].tolist(), rel=1e-5)
        assert kept[f"q{k}"]["alpha"].item() == pytest.approx(alphas[k], rel=1e-5)
    assert metrics["loss"].count == 2 * 3 * sum(N)
    assert (alpha_lr == 3.0) is any(share in (0.0, 1.0) for share in alphas)  # the largest rate is clipped


def test_clients_are_judged_by_their_mixture():
    algorithm = APFL(0.4, 0.05, LocalSGD(lr=0.1, steps=3, batch_size=0))
    w, own, alphas = by_the_paper(0.4, 0.05, 0.1, 3, 4)
    losses = []
    for k in range(2):
        mixture = alphas[k] * own[k] + (1 - alphas[k]) * w
        losses.append(0.5 * float(np.array(A[k]) @ (mixture - B[k]) ** 2))
    of = algorithm.judge().__class__(of=algorithm.judge().of, on="train")
    _, clients = judged(quadratic(algorithm, 4), by=of)
    assert [clients[f"q{k}"]["loss"] for k in range(2)] == pytest.approx(losses, rel=1e-5)


def experiment(algorithm, data=None, **more):
    torch.manual_seed(7)
    network = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    data = data or blobs()
    return Experiment(network, data, algorithm=algorithm, rounds=3, clients_per_round=len(data.client_ids), seed=3, **more)


@pytest.mark.parametrize(("alpha", "alpha_lr"), [(0.0, 0.0), (0.7, 0.3)])
def test_the_common_model_is_fedavgs_whatever_the_shares(alpha, alpha_lr):
    ours, theirs = (simulate(experiment(algorithm)).model for algorithm in (APFL(alpha, alpha_lr, LOCAL), FedAvg(LOCAL)))
    assert tree.norm(tree.sub(ours, theirs)) < 1e-6


def test_clients_without_a_share_of_their_own_have_fedavgs_model():
    ours, theirs = (judged(experiment(algorithm))[1]["c0"] for algorithm in (APFL(0.0, 0.0, LOCAL), FedAvg(LOCAL)))
    assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-6)
    shared = judged(experiment(APFL(0.7, 0.0, LOCAL)))[1]["c0"]
    assert abs(shared["loss"] - theirs["loss"]) > 1e-3


def test_with_nothing_but_their_own_it_is_local_training():
    whole, rows = blobs(), np.arange(12)
    alone = FederatedDataset(whole.global_train, whole.global_test, {"c0": rows}, {"c0": rows[:5]}, classes=3)
    together = judged(experiment(APFL(1.0, 0.0, LOCAL)))[1]["c0"]["loss"]
    assert together == pytest.approx(judged(experiment(FedAvg(LOCAL), alone))[1]["c0"]["loss"], abs=1e-6)


def test_clients_that_want_different_things_learn_to_go_their_own_way():
    """One of two wants +2, the other -2: the common model ends between them, the shares of their own rise, the losses fall."""
    a, b, local = [[1.0, 1.0]] * 2, [[2.0, 2.0], [-2.0, -2.0]], LocalSGD(lr=0.2, steps=2, batch_size=0)
    algorithm = APFL(0.3, 0.05, local)
    _, kept, _ = run(quadratic(algorithm, 15, a, b, [1, 1]))
    assert all(state["alpha"].item() > 0.6 for state in kept.values())
    ours, theirs = (
        mean(judged(quadratic(one, 15, a, b, [1, 1]), by=type(one.judge())(of=one.judge().of, on="train"))[1], "loss")
        for one in (algorithm, FedAvg(local))
    )
    assert ours < 0.1 * theirs


def test_shares_are_those_of_each_client_where_they_are_stacked():
    results = {}
    for executor in ("sequential", "stacked"):
        one = experiment(APFL(0.5, 0.5, LOCAL), engine=Standalone(executor=executor, block=4, processes=1))
        results[executor] = run(one)[1]
    alphas = [state["alpha"].item() for state in results["sequential"].values()]
    assert len({round(alpha, 4) for alpha in alphas}) == 4
    for id, state in results["sequential"].items():
        assert tree.norm(tree.sub(results["stacked"][id], state)) < 1e-5


def test_a_client_without_examples_keeps_what_it_had():
    full = blobs(2)
    data = FederatedDataset(full.global_train, full.global_test, {"c0": np.arange(12), "c1": np.arange(0)}, classes=3)
    _, kept, _ = run(experiment(APFL(0.3, 0.5, LOCAL), data))
    assert kept["c1"]["alpha"].item() == pytest.approx(0.3)


def test_impossible_settings_are_refused():
    with pytest.raises(ConfigError, match=r"alpha = 1.5: expected float <= 1"):
        APFL(1.5)
    with pytest.raises(ConfigError, match=r"alpha_lr = -1.0"):
        APFL(alpha_lr=-1.0)
