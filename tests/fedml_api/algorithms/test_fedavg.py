"""FedAvg against its naive twin, and in the case in which it must be centralised gradient descent."""

import copy

import pytest
import torch
import torch.nn.functional as F

from fedml_api import Experiment, FedAvg, LocalSGD, Standalone, simulate
from fedml_core import tree
from fedml_core.federation import SGD, Adam, Setup, WeightedMean, sample_clients
from fedml_core.rng import rng
from fedml_core.trainer import Classifier, ModelState
from tests.conftest import blobs
from tests.oracles.fedavg import fedavg


def run(dataset, network, **settings):
    defaults = {"rounds": 5, "clients_per_round": 3, "seed": 11}
    return simulate(Experiment(model=network, data=dataset, **(defaults | settings)))


def distance(model: ModelState, state: dict[str, torch.Tensor]) -> float:
    return max((value - state[name]).abs().max().item() for name, value in (model.params | model.buffers).items())


def oracle(dataset, network, rounds, per_round, seed, epochs, batch_size, **sgd):
    def data(client):
        batch = dataset.train(client).all()
        return batch["x"], batch["y"]

    def orders(round, client):
        draw = rng(seed, "batches", round, client)
        n = len(dataset.train(client))
        return [torch.from_numpy(draw.permutation(n)) if batch_size else torch.arange(n) for _ in range(epochs)]

    def sampled(round):
        return sample_clients(dataset.client_ids, per_round, seed, round)

    return fedavg(network, rounds, sampled, data, orders, batch_size, **sgd)


@pytest.mark.parametrize("per_round", [1, 3, 4])
@pytest.mark.parametrize("batch_size", [0, 5])
def test_equals_the_naive_twin_after_five_rounds(dataset, network, per_round, batch_size):
    local = LocalSGD(lr=0.2, epochs=2, batch_size=batch_size, momentum=0.5)
    result = run(dataset, network, algorithm=FedAvg(local), clients_per_round=per_round)
    twin = oracle(dataset, network, 5, per_round, 11, 2, batch_size, lr=0.2, momentum=0.5)
    assert distance(result.model, twin) < 1e-6
    assert distance(ModelState.of(network), twin) > 0.01  # it moved, or the comparison shows nothing


def test_all_clients_one_full_batch_step_is_centralised_gradient_descent(dataset, network):
    result = run(dataset, network, algorithm=FedAvg(LocalSGD(lr=0.3, batch_size=0)), clients_per_round=4)
    central = copy.deepcopy(network)
    optimizer = torch.optim.SGD(central.parameters(), lr=0.3)
    pooled = dataset.global_train.all()
    for _ in range(5):
        optimizer.zero_grad()
        F.cross_entropy(central(pooled["x"]), pooled["y"]).backward()
        optimizer.step()
    assert distance(result.model, central.state_dict()) < 1e-6


def test_weights_are_examples_not_clients(network):
    data = blobs(clients=2, size=4, seed=3)
    states = []
    for by in ("examples", "clients"):
        algorithm = FedAvg(LocalSGD(lr=0.3, batch_size=0), aggregator=WeightedMean(by=by))
        states.append(run(data, network, algorithm=algorithm, clients_per_round=2).model)
    assert distance(states[0], states[1].params) > 1e-4
    even = blobs(clients=2, size=4, seed=3, uneven=False)
    states = []
    for by in ("examples", "clients"):
        algorithm = FedAvg(LocalSGD(lr=0.3, batch_size=0), aggregator=WeightedMean(by=by))
        states.append(run(even, network, algorithm=algorithm, clients_per_round=2).model)
    assert distance(states[0], states[1].params) < 1e-6


def test_the_server_optimizer_is_applied_to_the_mean_change(dataset, network):
    """FedOpt with server SGD at lr 1 is FedAvg; at lr 1/2 the first round goes half the way; Adam goes another way."""
    first = {name: run(dataset, network, algorithm=FedAvg(server=server), rounds=1).model for name, server in
             {"avg": SGD(), "half": SGD(lr=0.5), "adam": Adam()}.items()}  # fmt: skip
    start = ModelState.of(network)
    half = tree.add(start, tree.sub(first["avg"], start), alpha=0.5)
    assert distance(first["half"], half.params) < 1e-6
    assert distance(first["adam"], first["avg"].params) > 1e-3


def test_same_experiment_same_bits_other_seed_other_bits(dataset, network):
    assert run(dataset, network).sha256 == run(dataset, network).sha256
    assert run(dataset, network).sha256 != run(dataset, network, seed=12).sha256


def test_dropout_is_keyed_by_client_and_round(dataset):
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(5, 16), torch.nn.Dropout(0.5), torch.nn.Linear(16, 3))
    first = run(dataset, network)
    torch.rand(1000)
    assert run(dataset, network).sha256 == first.sha256


def test_the_callers_model_is_left_alone(dataset, network):
    before = tree.digest(tree.clone(ModelState.of(network)))
    run(dataset, network)
    assert tree.digest(ModelState.of(network)) == before


def test_values_of_a_map_are_lazy_and_asked_for_once(dataset, network):
    asked = []

    class Counting(Classifier):
        def loss(self, model, batch):
            asked.append(len(batch["y"]))
            return super().loss(model, batch)

    with Standalone().open(Setup(Counting(), network, dataset, 0, torch.device("cpu"))) as session:
        values = session.cohort(0, ["c0", "c1"]).map(LocalSGD(batch_size=0), ModelState.of(network))
        assert asked == []
        assert list(values.gather()) == ["c0", "c1"]
        assert asked == [12, 15]
        with pytest.raises(RuntimeError, match="once"):
            values.gather()
