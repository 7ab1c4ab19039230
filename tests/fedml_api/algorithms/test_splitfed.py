"""SplitFed: FedAvg wherever the network is cut (v1), and one copy of the server's layers for all (v2)."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from fedml_api import FedAvg, LocalSGD, simulate
from fedml_api.algorithms import SplitFed
from fedml_core import tree
from fedml_core.errors import ConfigError
from fedml_core.federation import SERVER, sample_clients
from fedml_core.rng import rng
from fedml_core.trainer import ModelState
from tests.conftest import blobs
from tests.fedml_api.algorithms.test_split import LOCAL, LOCALS, Enduring, batches, close, experiment, fails, network, opened


@pytest.mark.parametrize(("cut", "head"), [(1, 0), (2, 0), (3, 0), (4, 0), (1, 1), (2, 2)])
def test_v1_is_fedavg_wherever_it_is_cut_bit_for_bit(cut, head):
    ours, theirs = (simulate(experiment(one)) for one in (SplitFed(cut, head, local=LOCAL), FedAvg(LOCAL)))
    assert ours.sha256 == theirs.sha256
    for mine, other in zip(ours.history, theirs.history, strict=True):
        assert mine.get("examples") == other.get("examples")
        assert mine.get("train_loss") == pytest.approx(other.get("train_loss"), abs=1e-7)


@pytest.mark.parametrize("local", sorted(LOCALS.keys() - {"plain"}))
def test_v1_is_fedavg_whatever_the_steps_are(local):
    ours, theirs = (simulate(experiment(one)).sha256 for one in (SplitFed(local=LOCALS[local]), FedAvg(LOCALS[local])))
    assert ours == theirs


@pytest.mark.parametrize("head", [0, 1])
def test_v1_averages_statistics_of_batches(head):
    local = replace(LOCAL, batch_size=6)
    ours, theirs = (simulate(experiment(one, kind="batch norm")) for one in (SplitFed(2, head, local=local), FedAvg(local)))
    assert ours.sha256 == theirs.sha256


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_one_client_is_fedavg_of_one(version):
    one = experiment(SplitFed(version=version, local=LOCAL), clients_per_round=1)
    assert simulate(one).sha256 == simulate(replace(one, algorithm=FedAvg(LOCAL))).sha256


def by_hand(cut, head, local, rounds, seed=3):
    """SplitFed v2 in plain PyTorch: everybody's batch, then the server's steps on them in a random order."""

    def optimizer(*layers):
        return torch.optim.SGD([param for one in layers for param in one.parameters()], lr=local.lr, momentum=local.momentum)

    data, whole = blobs(), network()
    lower, upper, above = whole[:cut], whole[cut : len(whole) - head], whole[len(whole) - head :]
    for round in range(rounds):
        clients = sample_clients(data.client_ids, 3, seed, round)
        own = {client: copy.deepcopy((lower, above)) for client in clients}
        supply = {client: list(batches(data, local, client, round, seed)) for client in clients}
        optimizers = {client: optimizer(*own[client]) for client in clients} | {SERVER: optimizer(upper)}
        for k in range(max(map(len, supply.values()))):
            there = [client for client in clients if k < len(supply[client])]
            sent = {client: own[client][0](supply[client][k]["x"]) for client in there}
            for client in rng(seed, f"order {k}", round, SERVER).permutation(there):
                for one in (optimizers[client], optimizers[SERVER]):
                    one.zero_grad()
                F.cross_entropy(own[client][1](upper(sent[client])), supply[client][k]["y"]).backward()
                for one in (optimizers[client], optimizers[SERVER]):
                    one.step()
        sizes = {client: len(data.train(client)) for client in clients}
        for layers, part in ((lower, 0), (above, 1)):
            for target, *parts in zip(layers.parameters(), *(own[client][part].parameters() for client in clients), strict=True):
                target.data = sum(size * one.data for size, one in zip(sizes.values(), parts, strict=True)) / sum(sizes.values())
    return lower, upper, above


@pytest.mark.parametrize("head", [0, 1])
def test_v2_follows_the_paper_with_a_plain_loop(head):
    local = replace(LOCAL, momentum=0.5)
    found = simulate(experiment(SplitFed(1, head, "v2", local))).model
    close(found, by_hand(1, head, local, 3))


def test_v2_takes_a_step_of_the_servers_layers_for_every_batch_where_v1_takes_their_mean():
    """At a small rate, with one batch each: the sum of the clients' steps above the cut, their mean below."""
    local = LocalSGD(lr=1e-3, batch_size=0)
    start = ModelState.of(network())
    clients = len(blobs(uneven=False).client_ids)
    changes = {}
    for version in ("v1", "v2"):
        one = experiment(SplitFed(2, version=version, local=local), blobs(uneven=False), rounds=1, clients_per_round=clients)
        changes[version] = tree.sub(simulate(one).model, start).params
    for name in start.params:
        ratio = tree.norm(changes["v2"][name]) / tree.norm(changes["v1"][name])
        assert ratio == pytest.approx(1 if name.startswith("0.") else clients, rel=0.02)


def test_v2_learns_in_fewer_rounds():
    ours, theirs = (simulate(experiment(one)) for one in (SplitFed(version="v2", local=LOCAL), FedAvg(LOCAL)))
    assert ours.last["test_loss"] < 0.9 * theirs.last["test_loss"]


@pytest.mark.parametrize("head", [0, 1])
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_goes_on_without_lost_clients(monkeypatch, version, head):
    algorithm, start = SplitFed(1, head, version, LOCAL), ModelState.of(network())
    with opened() as session:
        expected, _ = algorithm.round(start, session.cohort(0, ["c0", "c2", "c3"]))
    fails(monkeypatch, "c1", after=3)
    with opened(Enduring(workers=4)) as session:
        cohort = session.cohort(0, ["c0", "c1", "c2", "c3"])
        found, _ = algorithm.round(start, cohort)
        assert cohort.missing == ["c1"]
    difference = tree.norm(tree.sub(found, expected))
    assert (difference == 0) == (version == "v1")  # its copy is left out; what it did to the only one stays
    assert difference < tree.norm(tree.sub(expected, start))


def test_refuses_a_network_that_cannot_be_cut_there():
    with pytest.raises(ConfigError, match=r"cut = 9: .* may be 1 to 4"):
        simulate(experiment(SplitFed(9)))
    with pytest.raises(ConfigError, match="version"):
        SplitFed(version="v3")
