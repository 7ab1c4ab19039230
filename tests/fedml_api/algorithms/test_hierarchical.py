"""Hierarchical federated averaging: clients under edge servers under a cloud."""

import copy
import zlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fedml_api import Experiment, FedAvg, LocalSGD, simulate
from fedml_api.algorithms import Ditto, FedProx, Hierarchical
from fedml_core import tree
from fedml_core.errors import ConfigError
from fedml_core.federation import SGD
from tests.clients import judged
from tests.conftest import blobs
from tests.quadratics import Quadratic, Vector, quadratics

A, B, N = [[1.0], [2.0], [0.5], [1.0], [1.0]], [[4.0], [-3.0], [6.0], [5.0], [-4.0]], [4, 2, 7, 2, 3]
LOCAL = LocalSGD(lr=0.1, batch_size=5, momentum=0.5)


def test_follows_the_paper():
    """Groups by the checksum of the clients' names, two edge rounds each, weighted by examples at both levels."""
    for groups, inhabited in ((2, 2), (3, 3), (4, 3)):
        belongs = [zlib.crc32(f"q{k}".encode()) % groups for k in range(len(A))]
        assert len(set(belongs)) == inhabited
        w = 1.0
        for _ in range(3):
            edges = dict.fromkeys(belongs, w)
            for _ in range(2):
                for g, start in edges.items():
                    mine = [k for k in range(len(A)) if belongs[k] == g]
                    ends = [B[k][0] + (1 - 0.1 * A[k][0]) ** 3 * (start - B[k][0]) for k in mine]
                    edges[g] = np.average(ends, weights=[N[k] for k in mine])
            weights = [sum(n for n, own in zip(N, belongs, strict=True) if own == g) for g in edges]
            w += 0.8 * (np.average(list(edges.values()), weights=weights) - w)
        algorithm = Hierarchical(groups, 2, FedAvg(LocalSGD(lr=0.1, steps=3, batch_size=0)), SGD(0.8))
        one = Experiment(Vector([1.0]), quadratics(A, B, N), Quadratic(), algorithm, rounds=3, clients_per_round=5)
        found = simulate(one)
        assert found.model.params["w"].item() == pytest.approx(w, rel=1e-6)
        assert found.history[-1]["examples"] == 2 * 3 * sum(N)


def network():
    torch.manual_seed(7)
    return torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))


def run(algorithm, rounds=3, per_round=4):
    return simulate(Experiment(network(), blobs(), algorithm=algorithm, rounds=rounds, clients_per_round=per_round, seed=3)).model


@pytest.mark.parametrize("inner", [FedAvg(LOCAL), FedProx(0.5, LOCAL)], ids=["fedavg", "fedprox"])
def test_one_group_and_one_edge_round_is_the_inner_algorithm(inner):
    assert tree.norm(tree.sub(run(Hierarchical(1, 1, inner), per_round=3), run(inner, per_round=3))) < 1e-6


def test_edge_rounds_are_numbered_through():
    """Every edge round draws its own batches: under one edge server, two rounds of three are six of FedAvg."""
    assert tree.norm(tree.sub(run(Hierarchical(1, 3, FedAvg(LOCAL)), rounds=2), run(FedAvg(LOCAL), rounds=6))) < 1e-6


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_one_full_batch_step_each_is_centralised_gradient_descent(groups):
    found = run(Hierarchical(groups, 1, FedAvg(LocalSGD(lr=0.3, batch_size=0))), rounds=4)
    central = copy.deepcopy(network())
    optimizer, pooled = torch.optim.SGD(central.parameters(), lr=0.3), blobs().global_train.all()
    for _ in range(4):
        optimizer.zero_grad()
        F.cross_entropy(central(pooled["x"]), pooled["y"]).backward()
        optimizer.step()
    for name, param in central.named_parameters():
        torch.testing.assert_close(found.params[name], param.detach(), atol=1e-6, rtol=0)


def test_edge_rounds_save_rounds_of_the_cloud():
    def loss(algorithm):
        return simulate(Experiment(network(), blobs(), algorithm=algorithm, rounds=2, clients_per_round=4)).last["test_loss"]

    assert loss(Hierarchical(2, 5, FedAvg(LOCAL))) < 0.8 * loss(FedAvg(LOCAL))


def test_groups_are_the_same_in_every_round_and_of_about_equal_size():
    algorithm = Hierarchical(4)
    counts = np.bincount([algorithm.group(str(client)) for client in range(1000)], minlength=4)
    # 250 each with standard deviation sqrt(1000 * 1/4 * 3/4) = 14.
    assert abs(counts - 250).max() < 60


def test_what_clients_keep_is_kept_from_edge_round_to_edge_round():
    """At home, four edge rounds of a purely local model are four rounds of it."""
    ours, theirs = (
        judged(Experiment(network(), blobs(), algorithm=algorithm, rounds=rounds, clients_per_round=4))[1]["c0"]["loss"]
        for algorithm, rounds in ((Hierarchical(2, 2, Ditto(0.0, LOCAL)), 2), (Ditto(0.0, LOCAL), 4))
    )
    assert ours == pytest.approx(theirs, abs=1e-6)


def test_impossible_settings_are_refused():
    with pytest.raises(ConfigError, match=r"groups = 0: expected int >= 1"):
        Hierarchical(0)
    with pytest.raises(ConfigError, match="edge_rounds = 0"):
        Hierarchical(edge_rounds=0)
