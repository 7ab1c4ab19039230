"""FedPer: layers that never leave the client, and which ones those are."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fedml_api import Experiment, FedAvg, LocalSGD, simulate
from fedml_api.algorithms import FedPer
from fedml_core import tree
from fedml_core.errors import ConfigError
from fedml_core.federation import private_names
from fedml_core.trainer import ModelState
from tests.clients import judged
from tests.conftest import blobs


def network():
    torch.manual_seed(7)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))


def experiment(algorithm, data=None, rounds=3, **more):
    data = data or blobs()
    return Experiment(network(), data, algorithm=algorithm, rounds=rounds, clients_per_round=len(data.client_ids), **more)


def test_follows_the_paper_with_a_plain_loop():
    """Every client trains all of (base of the server, head of its own); the bases are averaged by examples."""
    data, lr, rounds = blobs(), 0.3, 3
    base, heads = copy.deepcopy(network()), {id: copy.deepcopy(network()[2]) for id in data.client_ids}
    for _ in range(rounds):
        mean = [torch.zeros_like(param) for param in base[0].parameters()]
        for id in data.client_ids:
            mine, batch = copy.deepcopy(base[0]), data.train(id).all()
            params = [*mine.parameters(), *heads[id].parameters()]
            for _ in range(2):
                grads = torch.autograd.grad(F.cross_entropy(heads[id](torch.tanh(mine(batch["x"]))), batch["y"]), params)
                for param, grad in zip(params, grads, strict=True):
                    param.data -= lr * grad
            for total, param in zip(mean, mine.parameters(), strict=True):
                total += len(batch["y"]) / len(data.global_train) * param.detach()
        for param, total in zip(base[0].parameters(), mean, strict=True):
            param.data.copy_(total)
    algorithm = FedPer(LocalSGD(lr=lr, epochs=2, batch_size=0))
    found = simulate(experiment(algorithm)).model
    for name in ("weight", "bias"):
        torch.testing.assert_close(found.params[f"0.{name}"], getattr(base[0], name).detach(), atol=1e-6, rtol=0)
        assert torch.equal(found.params[f"2.{name}"], getattr(network()[2], name))  # nobody's head has been here
    _, clients = judged(experiment(algorithm))
    batch = data.test("c0").all()
    loss = F.cross_entropy(heads["c0"](torch.tanh(base[0](batch["x"]))), batch["y"])
    assert clients["c0"]["loss"] == pytest.approx(loss.item(), abs=1e-5)


def test_one_client_that_keeps_its_head_is_fedavg():
    data, local = blobs(1), LocalSGD(lr=0.1, batch_size=5, momentum=0.9)
    _, ours = judged(experiment(FedPer(local), data))
    _, theirs = judged(experiment(FedAvg(local), data))
    assert ours["c0"]["loss"] == pytest.approx(theirs["c0"]["loss"], abs=1e-6)
    found, whole = (simulate(experiment(algorithm, data)).model for algorithm in (FedPer(local), FedAvg(local)))
    torch.testing.assert_close(found.params["0.weight"], whole.params["0.weight"], atol=1e-6, rtol=0)


def test_a_client_that_was_never_asked_has_the_servers_part():
    algorithm = FedPer(LocalSGD(lr=0.5))
    untrained = experiment(algorithm, rounds=0)
    _, clients = judged(untrained)
    expected = untrained.trainer.test(network(), untrained.data.test("c0"))
    assert clients["c0"]["loss"] == pytest.approx(expected["loss"], abs=1e-6)


class Deep(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.GroupNorm(2, 4))
        self.plain = nn.BatchNorm1d(4, affine=False)
        self.scale = nn.Parameter(torch.ones(4))
        self.head = nn.Linear(4, 2)


def test_which_part_is_meant():
    model = ModelState.of(Deep())
    assert private_names(model, "last") == {"head.weight", "head.bias"}
    batch = {"stem.1.weight", "stem.1.bias", "stem.1.running_mean", "stem.1.running_var"}
    assert private_names(model, "norm") == batch | {
        "stem.2.weight",
        "stem.2.bias",
        "plain.running_mean",
        "plain.running_var",
    }
    assert private_names(model, ("stem.1.*", "scale")) == batch | {"scale"}


def test_a_part_that_is_not_there_is_refused_before_anything_runs():
    with pytest.raises(ConfigError, match=r"private = \('heads.\*',\): the model has no such part; its parameters are 0.weight"):
        FedPer(private=("heads.*",)).init(ModelState.of(network()))
    with pytest.raises(ConfigError, match="no such part"):
        private_names(ModelState.of(network()), "norm")
    with pytest.raises(ConfigError, match="Allowed: last, norm"):
        FedPer(private="first")


def test_private_state_holds_the_private_part_and_nothing_else():
    one = experiment(FedPer(LocalSGD(lr=0.5)))
    with one.engine.open(one.setup()) as session:
        start = tree.clone(ModelState.of(network()))
        one.algorithm.round(one.algorithm.init(start), session.cohort(0, ["c1", "c2"]))
        kept = dict(session.save())
    assert set(kept) == {"c1", "c2"}
    assert all(set(state.params) == {"2.weight", "2.bias"} for state in kept.values())
    assert not torch.equal(kept["c1"].params["2.bias"], kept["c2"].params["2.bias"])
