"""On real digits whose labels differ from client to client, models of the clients' own do better for them than one for all."""

import functools
from pathlib import Path

import pytest
import torch
from torch import nn

from fedml_api import Experiment, FedAvg, LocalSGD, Standalone
from fedml_api.algorithms import APFL, Ditto, FedBN, FedPer, FedRep
from fedml_api.data import Mnist5k
from fedml_core.partition import Dirichlet
from tests.clients import judged, mean

LOCAL = LocalSGD(lr=0.1, epochs=2, batch_size=20)
NETWORKS = {
    "logistic": lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 10)),
    "hidden": lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 32), nn.ReLU(), nn.Linear(32, 10)),
    "normalised": lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 32), nn.GroupNorm(4, 32), nn.ReLU(), nn.Linear(32, 10)),
}
PERSONAL = {
    "ditto": (Ditto(0.1, LOCAL), "logistic"),
    "apfl": (APFL(0.5, 0.1, LOCAL), "logistic"),
    "fedper": (FedPer(LOCAL), "hidden"),
    "fedrep": (FedRep(3, LOCAL), "hidden"),
    "fedbn": (FedBN(LOCAL), "normalised"),
}


@functools.cache
def digits():
    return Mnist5k(clients=8, partition=Dirichlet(alpha=0.1)).load(seed=0, root=Path("data"))


@functools.cache
def accuracy(algorithm, network):
    """Mean over clients after a few rounds with all of them, each judged on test digits like its own."""
    torch.manual_seed(7)
    engine = Standalone(executor="stacked", block=8, processes=1)
    experiment = Experiment(NETWORKS[network](), digits(), algorithm=algorithm, engine=engine, rounds=4, clients_per_round=8)
    return mean(judged(experiment)[1])


@pytest.mark.parametrize("name", PERSONAL)
def test_personal_models_are_better_for_their_clients(name):
    algorithm, network = PERSONAL[name]
    ours, theirs = accuracy(algorithm, network), accuracy(FedAvg(LOCAL), network)
    print(f"{name}: {ours:.3f}, FedAvg {theirs:.3f}")
    assert ours > theirs + 0.01
