"""FedBN: normalisation stays at home."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fedml_api import Experiment, FedAvg, LocalSGD, Standalone, simulate
from fedml_api.algorithms import FedBN
from fedml_api.data import FederatedDataset
from fedml_core import tree
from fedml_core.errors import ConfigError
from fedml_core.trainer import Examples, ModelState
from tests.clients import judged, mean
from tests.conftest import blobs


def network(norm=nn.BatchNorm1d):
    torch.manual_seed(7)
    return nn.Sequential(nn.Linear(5, 8), norm(8), nn.Tanh(), nn.Linear(8, 3))


def groups(width):
    return nn.GroupNorm(2, width)


def shifted():
    """Four clients with the same labels' meaning and features of different offset and scale; everybody is tested on their own."""
    data = blobs(4, 40, uneven=False)
    batch = data.global_train.all()
    client = torch.arange(len(batch["y"])) // 40
    offset, scale = torch.tensor([-4.0, 0.0, 4.0, 8.0])[client, None], torch.tensor([1.0, 3.0, 0.5, 2.0])[client, None]
    examples = Examples({"x": batch["x"] * scale + offset, "y": batch["y"]})
    half = {id: range(40 * k, 40 * k + 20) for k, id in enumerate(data.client_ids)}
    rest = {id: range(40 * k + 20, 40 * k + 40) for k, id in enumerate(data.client_ids)}
    return FederatedDataset(
        examples, examples, {id: list(rows) for id, rows in half.items()}, {id: list(rows) for id, rows in rest.items()}, classes=3
    )


def experiment(algorithm, data=None, rounds=3, norm=nn.BatchNorm1d, **more):
    data = data or blobs()
    return Experiment(network(norm), data, algorithm=algorithm, rounds=rounds, clients_per_round=len(data.client_ids), **more)


def test_follows_the_paper_with_a_plain_loop():
    data, rounds = blobs(3), 3
    shared, own = copy.deepcopy(network()), {id: copy.deepcopy(network()) for id in data.client_ids}
    layers = (0, 3)
    for _ in range(rounds):
        for id, mine in own.items():
            for layer in layers:
                mine[layer].load_state_dict(shared[layer].state_dict())
            mine.train()
            batch, optimizer = data.train(id).all(), torch.optim.SGD(mine.parameters(), lr=0.2)
            for _ in range(2):
                optimizer.zero_grad()
                F.cross_entropy(mine(batch["x"]), batch["y"]).backward()
                optimizer.step()
        for layer in layers:
            for name, param in shared[layer].named_parameters():
                parts = [dict(own[id][layer].named_parameters())[name] * len(data.train(id)) for id in own]
                param.data = (sum(parts) / len(data.global_train)).detach()
    algorithm = FedBN(LocalSGD(lr=0.2, epochs=2, batch_size=0))
    one = experiment(algorithm, data)
    with one.engine.open(one.setup()) as session:
        state = algorithm.init(tree.clone(ModelState.of(network())))
        for round in range(rounds):
            state, _ = algorithm.round(state, session.cohort(round, data.client_ids))
        kept = dict(session.save())
    for layer in layers:
        torch.testing.assert_close(state.model.params[f"{layer}.weight"], shared[layer].weight.detach(), atol=1e-6, rtol=0)
    for id, mine in own.items():
        torch.testing.assert_close(kept[id].buffers["1.running_var"], mine[1].running_var, atol=1e-6, rtol=0)
        torch.testing.assert_close(kept[id].params["1.bias"], mine[1].bias.detach(), atol=1e-6, rtol=0)
    assert torch.equal(state.model.buffers["1.running_mean"], torch.zeros(8))
    assert torch.equal(state.model.params["1.weight"], torch.ones(8))


def test_one_client_is_fedavg():
    local = LocalSGD(lr=0.1, batch_size=5, momentum=0.9)
    ours, theirs = (judged(experiment(algorithm(local), blobs(1)))[1]["c0"]["loss"] for algorithm in (FedBN, FedAvg))
    assert ours == pytest.approx(theirs, abs=1e-6)


def test_clients_whose_features_differ_do_better_than_with_fedavg():
    local = LocalSGD(lr=0.1, epochs=2, batch_size=10)
    ours, theirs = (mean(judged(experiment(algorithm(local), shifted(), 10))[1], "loss") for algorithm in (FedBN, FedAvg))
    assert ours < 0.7 * theirs


def test_group_normalisation_stays_at_home_too_and_can_be_stacked():
    local = LocalSGD(lr=0.1, batch_size=5, momentum=0.5)
    results = {}
    for executor in ("sequential", "stacked"):
        engine = Standalone(executor=executor, block=3, processes=1)
        results[executor] = simulate(experiment(FedBN(local), norm=groups, engine=engine))
        assert results[executor].history[1]["executor"].startswith(executor)
    one, other = results["sequential"].model, results["stacked"].model
    assert tree.norm(tree.sub(one, other)) < 1e-5
    assert torch.equal(other.params["1.weight"], torch.ones(8))


def test_a_model_without_normalisation_is_refused():
    with pytest.raises(ConfigError, match="private = 'norm': the model has no such part"):
        FedBN().init(ModelState.of(nn.Linear(2, 2)))
