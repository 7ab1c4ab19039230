"""Whether our algorithms and Flower's strategies make the same model of the same updates.

    make peers && python -m benchmarks.agreement      # or peers=DIR, where the environments are

Five rounds over six clients of uneven sizes. In every round our algorithm's next model is compared with that of Flower's strategy,
which is handed the global model before the round and the trained models and losses of the clients. The largest difference of any
parameter is printed, beside how far the round moved it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from benchmarks import peers
from benchmarks.simulation import IMAGE, Workload, lognormal, partition
from fedml_api import Standalone
from fedml_api.model import TwoNN
from fedml_core.federation import Adagrad, Adam, Algorithm, Evaluate, LocalSGD, Setup, Yogi, algorithms
from fedml_core.trainer import ModelState

ROUNDS, RATE, Q = 5, 0.05, 0.7
LOCAL = LocalSGD(lr=RATE, batch_size=10)
# Our algorithm and Flower's class with its settings.
PAIRS = {
    "fedavg": ({}, {"class": "FedAvg"}),
    "fedadam": ({"server": Adam(lr=0.03, tau=1e-3)}, {"class": "FedAdam", "eta": 0.03, "beta_1": 0.9, "beta_2": 0.99, "tau": 1e-3}),
    "fedyogi": ({"server": Yogi(lr=0.03, tau=1e-3)}, {"class": "FedYogi", "eta": 0.03, "beta_1": 0.9, "beta_2": 0.99, "tau": 1e-3}),
    "fedadagrad": ({"server": Adagrad(lr=0.03, tau=1e-3)}, {"class": "FedAdagrad", "eta": 0.03, "tau": 1e-3}),
    "qfedavg": ({"q": Q}, {"class": "QFedAvg", "client_learning_rate": RATE, "q": Q}),
}


def write(path: Path, model: ModelState) -> None:
    np.savez(path, **{name: param.numpy() for name, param in model.params.items()})


def run(name: str, algorithm: Algorithm, setup: Setup, folder: Path) -> list[list[tuple[float, int]]]:
    """Our rounds, written down; the losses and sizes of the clients of each."""
    losses = []
    with Standalone(executor="sequential", processes=1).open(setup) as session:
        state = algorithm.init(ModelState.of(setup.module))
        for round in range(ROUNDS):
            model, cohort = algorithm.model(state), session.cohort(round, session.population())
            write(folder / f"{name}-{round}.npz", model)
            before = cohort.map(Evaluate(on="train"), shared=model).gather()
            for number, reply in enumerate(cohort.map(LOCAL, shared=model).gather().values()):
                trained = {key: param + reply.value.params[key] for key, param in model.params.items()}
                write(folder / f"{name}-{round}-{number}.npz", ModelState(trained, {}))
            losses.append([(reply.metrics["loss"].value, int(reply.weight)) for reply in before.values()])
            state, _ = algorithm.round(state, session.cohort(round, session.population()))
        write(folder / f"{name}-{ROUNDS}.npz", algorithm.model(state))
    return losses


def main(arguments: list[str]) -> int:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    commands = peers.present(*(Path(word.removeprefix("peers=")) for word in arguments))
    if "flower" not in commands:
        print("Flower's environment is not there: make peers")
        return 1
    work = Workload("agreement", "", TwoNN(), IMAGE, 10, lognormal(6, 40), 10, ROUNDS, 1.0)
    setup = Setup(work.trainer, work.model(), partition(work), 0, torch.device("cpu"), rounds=ROUNDS)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        clients = {name: run(name, algorithms[name](local=LOCAL, **ours), setup, folder) for name, (ours, _) in PAIRS.items()}
        about = {"rounds": ROUNDS, "clients": clients, "strategies": {name: theirs for name, (_, theirs) in PAIRS.items()}}
        (folder / "strategies.json").write_text(json.dumps(about))
        subprocess.run([commands["flower"][0], str(peers.SCRIPTS / "flower_strategies.py"), str(folder)], check=True)
        farthest = 0.0
        for name in PAIRS:
            apart = moved = 0.0
            for round in range(ROUNDS):
                before, after, flower = (np.load(folder / f"{name}-{part}.npz") for part in (round, round + 1, f"{round}-flower"))
                apart = max(apart, *(float(np.abs(after[key] - flower[key]).max()) for key in after))
                moved = max(moved, *(float(np.abs(after[key] - before[key]).max()) for key in after))
            print(f"{name:<12} apart {apart:.1e}, moved {moved:.1e}")
            farthest = max(farthest, apart)
    return int(farthest > 1e-6)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
