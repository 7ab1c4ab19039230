"""HypCluster: each client takes the model that suits it."""

import numpy as np
import pytest
import torch

from fedml_api import Experiment, FedAvg, LocalSGD, simulate
from fedml_api.algorithms import HypCluster
from fedml_api.algorithms.hypcluster import Choose
from fedml_api.data import FederatedDataset
from fedml_core import tree
from fedml_core.errors import ConfigError
from fedml_core.trainer import Examples, ModelState
from tests.clients import judged, mean
from tests.conftest import blobs
from tests.quadratics import Quadratic, Vector, quadratics

A, B, N = [[1.0], [2.0], [0.5], [1.0], [1.0]], [[4.0], [-3.0], [6.0], [5.0], [-4.0]], [4, 2, 7, 2, 3]
LOCAL = LocalSGD(lr=0.1, steps=3, batch_size=0)


def quadratic(algorithm, rounds):
    return Experiment(Vector([0.3]), quadratics(A, B, N), Quadratic(), algorithm, rounds=rounds, clients_per_round=len(A))


def by_the_paper(clusters, rounds):
    models, sizes = [0.3] * clusters, [0] * clusters
    for _ in range(rounds):
        losses = np.array([[0.5 * a * (w - b) ** 2 for w in models] for (a,), (b,) in zip(A, B, strict=True)])
        choice = losses.argmin(axis=1)
        for c in range(clusters):
            shared = [k for k in range(len(A)) if (choice == choice[k]).sum() > 1]
            if shared and sizes[c] == 0 and c not in choice:
                worst = max(shared, key=lambda k: losses[k].min())
                models[c], choice[worst] = models[choice[worst]], c
        for c in set(choice.tolist()):
            members = [k for k in range(len(A)) if choice[k] == c]
            ends = [B[k][0] + (1 - 0.1 * A[k][0]) ** 3 * (models[c] - B[k][0]) for k in members]
            sizes[c] = sum(N[k] for k in members)
            models[c] = np.average(ends, weights=[N[k] for k in members])
    return models, sizes


@pytest.mark.parametrize(("clusters", "rounds"), [(2, 1), (2, 6), (3, 4), (7, 2)])
def test_follows_the_paper(clusters, rounds):
    algorithm = HypCluster(clusters, FedAvg(LOCAL))
    models, sizes = by_the_paper(clusters, rounds)
    state, _ = judged(quadratic(algorithm, rounds))
    assert [one.model.params["w"].item() for one in state.states] == pytest.approx(models, rel=1e-5)
    assert state.sizes == sizes
    assert algorithm.model(state).params["w"].item() == pytest.approx(models[int(np.argmax(sizes))], rel=1e-5)


def test_a_cluster_whose_clients_are_not_there_waits_for_them():
    algorithm = HypCluster(2, FedAvg(LOCAL))
    one = quadratic(algorithm, 0)
    with one.engine.open(one.setup()) as session:
        state = algorithm.init(ModelState.of(Vector([0.3])))
        for round in range(4):
            state, _ = algorithm.round(state, session.cohort(round, session.population()))
        low = int(state.states[1].model.params["w"].item() < 0)
        later, _ = algorithm.round(state, session.cohort(4, ["q0", "q2", "q3"]))  # those that want to be high
    assert torch.equal(later.states[low].model.params["w"], state.states[low].model.params["w"])
    assert not torch.equal(later.states[1 - low].model.params["w"], state.states[1 - low].model.params["w"])
    assert later.sizes == state.sizes


def test_one_cluster_is_the_inner_algorithm():
    local = LocalSGD(lr=0.1, batch_size=5, momentum=0.5)

    def run(algorithm):
        torch.manual_seed(7)
        network = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
        return simulate(Experiment(network, blobs(), algorithm=algorithm, rounds=3, clients_per_round=3)).sha256

    assert run(HypCluster(1, FedAvg(local))) == run(FedAvg(local))


def planted():
    """Eight clients; those with odd numbers call the classes by other names. Everybody is tested on examples of its own."""
    data = blobs(8, 40, uneven=False)
    batch, rows = data.global_train.all(), {id: data.train(id).index.numpy() for id in data.client_ids}
    odd = (torch.arange(len(batch["y"])) // 40) % 2
    examples = Examples({"x": batch["x"], "y": (batch["y"] + odd) % 3})
    halves = ({id: own[half] for id, own in rows.items()} for half in (slice(0, 20), slice(20, 40)))
    return FederatedDataset(examples, examples, *halves, classes=3)


def test_finds_planted_clusters_which_one_model_cannot_serve():
    def experiment(algorithm):
        torch.manual_seed(7)
        return Experiment(torch.nn.Linear(5, 3), planted(), algorithm=algorithm, rounds=12, clients_per_round=8)

    local = LocalSGD(lr=0.3, epochs=2, batch_size=10)
    algorithm = HypCluster(2, FedAvg(local))
    _, ours = judged(experiment(algorithm))
    _, theirs = judged(experiment(FedAvg(local)))
    assert mean(ours) > mean(theirs) + 0.2
    one = experiment(algorithm)
    with one.engine.open(one.setup()) as session:
        state = algorithm.init(tree.clone(ModelState.of(one.model)))
        for round in range(12):
            state, _ = algorithm.round(state, session.cohort(round, session.population()))
        asked = session.cohort(12, session.population()).map(Choose(), shared=algorithm.shown(state)).gather()
    chosen = [int(asked[id].value["cluster"]) for id in one.data.client_ids]
    assert len(set(chosen)) == 2
    assert len({(c, k % 2) for k, c in enumerate(chosen)}) == 2  # all even clients together, and all odd ones


def test_clients_choose_by_their_training_examples_and_are_judged_on_their_test_examples():
    columns = {"a": torch.ones(3, 1), "b": torch.tensor([[2.0], [2.0], [-2.0]])}
    examples = Examples(columns)
    data = FederatedDataset(examples, examples, {"q": np.array([0, 1])}, {"q": np.array([2])})
    experiment = Experiment(Vector([0.0]), data, Quadratic())
    first, second = (ModelState({"w": torch.tensor([w])}, {}) for w in (-2.0, 1.0))
    with experiment.engine.open(experiment.setup()) as session:
        replies = {
            on: session.cohort(0, ["q"]).map(Choose(on), shared={"model": first, "others": [second]}).gather()["q"]
            for on in ("train", "test")
        }
    assert {on: int(reply.value["cluster"]) for on, reply in replies.items()} == {"train": 1, "test": 1}
    assert {on: reply.metrics["loss"].value for on, reply in replies.items()} == pytest.approx({"train": 0.5, "test": 4.5})
    assert {on: reply.weight for on, reply in replies.items()} == {"train": 2.0, "test": 1.0}
    assert HypCluster().judge() == Choose("test")


def test_clients_with_nothing_are_no_beginning_of_a_cluster():
    data = quadratics(A[:3], B[:3], [0, 2, 3])
    algorithm = HypCluster(2, FedAvg(LOCAL))
    state, _ = judged(Experiment(Vector([0.3]), data, Quadratic(), algorithm, rounds=1, clients_per_round=3))
    assert state.sizes == [3, 2]


def test_impossible_settings_are_refused():
    with pytest.raises(ConfigError, match="clusters = 0"):
        HypCluster(0)
