"""The experiments of the conformance matrix. A new algorithm joins by an entry in ALGORITHMS (a test fails until it is there).

    mpirun -n 3 python -m tests.conformance.experiments

runs all of them on the MPI engine and prints their SHA-256 as JSON.
"""

import json
from collections.abc import Callable
from dataclasses import replace

import torch

from fedml_api import Experiment, LocalSGD, simulate
from fedml_api.distributed import Mpi
from fedml_api.model import VerticalNN
from fedml_core.compression import Rotated
from fedml_core.federation import Engine, algorithms
from fedml_core.topology import topologies
from tests.conftest import blobs, in_parts
from tests.people import network, people

LOCAL = LocalSGD(lr=0.1, batch_size=5, momentum=0.5, clip=2.0)
# Of networks with batch normalisation, which can do nothing with one row.
WHOLE_BATCHES = replace(LOCAL, lr=0.2, epochs=4, drop_last=True)
ALGORITHMS = {
    "compressed": lambda: algorithms["compressed"](algorithms["fedavg"](LOCAL), Rotated(levels=16)),
    "fedavg": lambda: algorithms["fedavg"](LOCAL),
    "dfedavg": lambda: algorithms["dfedavg"](LOCAL, topology=topologies["small_world"](degree=2)),
    "dpsgd": lambda: algorithms["dpsgd"](replace(LOCAL, lr=0.3, steps=2)),
    "fedadagrad": lambda: algorithms["fedadagrad"](LOCAL),
    "fedadam": lambda: algorithms["fedadam"](LOCAL),
    "fedavgm": lambda: algorithms["fedavgm"](momentum=0.5, local=LOCAL),
    "feddyn": lambda: algorithms["feddyn"](alpha=1.0, local=LOCAL),
    "fedgan": lambda: algorithms["fedgan"](interval=4, local=LOCAL),
    "fedgkt": lambda: algorithms["fedgkt"](WHOLE_BATCHES, WHOLE_BATCHES),
    "fednas": lambda: algorithms["fednas"](replace(LOCAL, epochs=2), LocalSGD(lr=0.5)),
    "fednova": lambda: algorithms["fednova"](LOCAL),
    "fedbuff": lambda: algorithms["fedbuff"](buffer=2, local=LOCAL),
    "qfedavg": lambda: algorithms["qfedavg"](q=0.5, local=LOCAL),
    "fedper": lambda: algorithms["fedper"](LOCAL),
    "fedbn": lambda: algorithms["fedbn"](LOCAL, private=("0.bias",)),
    "fedrep": lambda: algorithms["fedrep"](head_epochs=2, local=LOCAL),
    "ditto": lambda: algorithms["ditto"](lam=0.5, local=LOCAL),
    "apfl": lambda: algorithms["apfl"](alpha=0.5, alpha_lr=0.5, local=LOCAL),
    "agnostic": lambda: algorithms["agnostic"](ascent=0.5, local=LOCAL),
    "hypcluster": lambda: algorithms["hypcluster"](inner=algorithms["fedavg"](LOCAL)),
    "hierarchical": lambda: algorithms["hierarchical"](inner=algorithms["fedavg"](LOCAL)),
    "fedprox": lambda: algorithms["fedprox"](mu=0.5, local=LOCAL),
    "fedsgd": lambda: algorithms["fedsgd"](lr=0.5),
    "fedyogi": lambda: algorithms["fedyogi"](LOCAL),
    "mime": lambda: algorithms["mime"](local=replace(LOCAL, momentum=0.0, lr=0.3)),
    "mimelite": lambda: algorithms["mimelite"](local=replace(LOCAL, momentum=0.0, lr=0.3)),
    "online_pushsum": lambda: algorithms["online_pushsum"](LocalSGD(lr=0.3, batch_size=3), topologies["directed"](degree=2)),
    "pushsum": lambda: algorithms["pushsum"](replace(LOCAL, lr=0.3, steps=2), topologies["exponential"]()),
    "scaffold": lambda: algorithms["scaffold"](LOCAL),
    "split": lambda: algorithms["split"](cut=1, local=LOCAL),
    "splitfed": lambda: algorithms["splitfed"](cut=1, version="v2", local=LOCAL),
    "turboaggregate": lambda: algorithms["turboaggregate"](group_size=3, dropout=0.25, local=LOCAL),
    "vertical": lambda: algorithms["vertical"](replace(LOCAL, lr=0.3), intersection="plain"),
}
# What an algorithm needs of its own instead of the experiment below: `model`, `data`, `trainer`, `clients_per_round`, ...
OWN: dict[str, Callable[[], dict[str, object]]] = {
    "fedgkt": lambda: {"model": in_parts(of_client={"c3": "wide"}), "data": blobs(8, tested=8), "evaluate_clients": 1},
    "fednas": lambda: {"model": Mixture()},
    "turboaggregate": lambda: {"clients_per_round": 8},
    "vertical": lambda: {"model": network(people(), VerticalNN()), "data": people(), "clients_per_round": 3},
}
# Where learning shows, if not in the loss of the server's model on the global test set: another entry of the history.
SHOWS_IN: dict[str, str] = {"fedgkt": "client_loss"}
# Clients that talk while they work are carried out in one way only, whatever the executor.
TALKING: frozenset[str] = frozenset({"split", "splitfed", "turboaggregate", "vertical"})


class Mixture(torch.nn.Module):
    """A hidden layer of which the activation is to be found."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.out, self.alphas = torch.nn.Linear(5, 8), torch.nn.Linear(8, 3), torch.nn.Parameter(torch.zeros(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden, shares = self.hidden(x), self.alphas.softmax(0)
        return self.out(shares[0] * hidden.tanh() + shares[1] * hidden.relu() + shares[2] * hidden)


def experiment(algorithm: str, engine: Engine, dropout: float = 0.3, **settings: object) -> Experiment:
    """Three rounds over clients of different sizes; dropout, so that a client's random stream matters."""
    torch.manual_seed(7)
    layers = [torch.nn.Linear(5, 8), torch.nn.Tanh(), torch.nn.Dropout(dropout), torch.nn.Linear(8, 3)]
    defaults = {"rounds": 3, "clients_per_round": 5, "seed": 5, "threads": 1}
    defaults |= {"model": torch.nn.Sequential(*layers), "data": blobs(8)} | OWN.get(algorithm, dict)()
    return Experiment(algorithm=ALGORITHMS[algorithm](), engine=engine, **(defaults | settings))


def main() -> None:
    found = {}
    for name in sorted(ALGORITHMS):
        one = experiment(name, Mpi())
        if not one.work():
            found[name] = simulate(one).sha256
    if found:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
