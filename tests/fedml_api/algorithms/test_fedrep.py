"""FedRep: the head first, then the body below the new head."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fedml_api import Experiment, FedAvg, LocalSGD, Standalone, simulate
from fedml_api.algorithms import FedPer, FedRep
from fedml_core import tree
from fedml_core.errors import ConfigError
from tests.clients import judged
from tests.conftest import blobs


def network():
    torch.manual_seed(7)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))


def experiment(algorithm, data=None, rounds=2, **more):
    data = data or blobs()
    return Experiment(network(), data, algorithm=algorithm, rounds=rounds, clients_per_round=len(data.client_ids), **more)


def test_follows_the_paper_with_torchs_optimizers():
    """A fresh optimizer over the head alone, then one over the body alone, with everything that keeps a state."""
    data, options = blobs(), {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}
    body, heads = network()[0], {id: copy.deepcopy(network()[2]) for id in data.client_ids}
    for _ in range(2):
        mean = [torch.zeros_like(param) for param in body.parameters()]
        for id, head in heads.items():
            mine, batch = copy.deepcopy(body), data.train(id).all()
            for part, epochs in ((head, 3), (mine, 2)):
                optimizer = torch.optim.SGD(part.parameters(), **options)
                for _ in range(epochs):
                    mine.zero_grad()
                    head.zero_grad()
                    F.cross_entropy(head(torch.tanh(mine(batch["x"]))), batch["y"]).backward()
                    optimizer.step()
            for total, param in zip(mean, mine.parameters(), strict=True):
                total += len(batch["y"]) / len(data.global_train) * param.detach()
        for param, total in zip(body.parameters(), mean, strict=True):
            param.data.copy_(total)
    state, clients = judged(experiment(FedRep(3, LocalSGD(epochs=2, batch_size=0, **options))))
    for name in ("weight", "bias"):
        torch.testing.assert_close(state.model.params[f"0.{name}"], getattr(body, name).detach(), atol=1e-6, rtol=0)
    batch = data.test("c0").all()
    loss = F.cross_entropy(heads["c0"](torch.tanh(body(batch["x"]))), batch["y"])
    assert clients["c0"]["loss"] == pytest.approx(loss.item(), abs=1e-5)


@pytest.mark.parametrize("stacked", [False, True])
def test_the_turn_of_each_client_comes_after_its_own_number_of_steps(stacked):
    """Clients of 12, 15, 18 and 21 examples turn from head to body after 2 * 3, 2 * 4, ... steps: also where they are stacked."""
    local = LocalSGD(lr=0.1, batch_size=5, momentum=0.9, weight_decay=0.1, clip=0.5)
    executor = Standalone(executor="stacked" if stacked else "sequential", block=4, processes=1)
    found = simulate(experiment(FedRep(2, local), engine=executor))
    assert found.history[1]["executor"].startswith("stacked" if stacked else "sequential")
    assert found.history[1]["examples"] == 3 * (12 + 15 + 18 + 21)
    alone = simulate(experiment(FedRep(2, local), engine=Standalone(executor="sequential", processes=1)))
    assert tree.norm(tree.sub(found.model, alone.model)) < 1e-5


def test_a_model_that_is_all_head_is_local_training():
    data, everything = blobs(1), ("*",)
    _, ours = judged(experiment(FedRep(2, LocalSGD(lr=0.1, batch_size=5), everything), data))
    twin = FedPer(LocalSGD(lr=0.1, batch_size=5, epochs=2), everything)
    _, theirs = judged(experiment(twin, data, rounds=1))
    _, once = judged(experiment(FedRep(2, LocalSGD(lr=0.1, batch_size=5), everything), data, rounds=1))
    assert once["c0"]["loss"] == pytest.approx(theirs["c0"]["loss"], abs=1e-6)
    assert ours["c0"]["loss"] < once["c0"]["loss"]  # the head was kept


def test_is_not_fedper_and_takes_ten_head_epochs_and_one_for_the_body():
    local = LocalSGD(lr=0.1)
    ours = simulate(experiment(FedRep(local=local), rounds=1)).model
    assert tree.norm(tree.sub(ours, simulate(experiment(FedRep(10, LocalSGD(lr=0.1, epochs=1)), rounds=1)).model)) == 0
    moved = tree.norm(tree.sub(ours, simulate(experiment(FedPer(LocalSGD(lr=0.1, epochs=11)), rounds=1)).model))
    assert moved > 0.01
    assert tree.norm(tree.sub(ours, simulate(experiment(FedAvg(local), rounds=1)).model)) > 0.01


def test_impossible_settings_are_refused():
    with pytest.raises(ConfigError, match=r"local.steps = 5: head and body are trained for epochs"):
        FedRep(local=LocalSGD(steps=5))
    with pytest.raises(ConfigError, match="head_epochs = 0"):
        FedRep(0)
