"""Many clients: seconds per round, memory, and how soon the first round is over.

    python -m benchmarks.scale

A population of 100,000 clients with 20 examples of 60 features each, logistic regression, 1,000 clients per round, carried out as
`auto` chooses. Then the peak memory of stacked rounds with 1,000 and with 5,000 clients of a network with 142,010 parameters in one
process, above that of the data and of a round with two clients, against the memory of one block's parameters. Every measurement is
a process of its own, started afresh.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from fedml_api.data import FederatedDataset

FEATURES, CLASSES, EXAMPLES = 60, 10, 20
POPULATION = 100_000


def arrays() -> tuple[Tensor, Tensor]:
    """Features `[rows, features]` and labels `[rows]` of everybody."""
    import torch

    rows = POPULATION * EXAMPLES
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(0, CLASSES, (rows,), generator=generator)
    x = torch.randn(rows, FEATURES, generator=generator)
    x[torch.arange(rows), y] += 2
    return x, y


def population() -> FederatedDataset:
    """These, dealt out in order to clients with `EXAMPLES` each."""
    import numpy as np

    from fedml_api.data import FederatedDataset
    from fedml_core.trainer import Examples

    x, y = arrays()
    every = np.arange(len(y)).reshape(POPULATION, EXAMPLES)
    parts = {str(k): every[k] for k in range(POPULATION)}
    return FederatedDataset(Examples({"x": x, "y": y}), Examples({"x": x[:2000], "y": y[:2000]}), parts, classes=CLASSES)


def one(clients: int, rounds: int, processes: int | None) -> None:
    """What each process runs; prints its measurements."""
    began = time.perf_counter()
    from dataclasses import replace

    from torch import nn

    from fedml_api import Experiment, FedAvg, LocalSGD, Standalone, simulate

    imported = time.perf_counter()
    data = population()
    wide = nn.Sequential(nn.Linear(FEATURES, 2000), nn.ReLU(), nn.Linear(2000, CLASSES))
    network = wide if processes else nn.Linear(FEATURES, CLASSES)
    model = sum(part.nbytes for part in network.parameters())
    experiment = Experiment(
        model=network,
        data=data,
        algorithm=FedAvg(LocalSGD(lr=0.05, batch_size=10)),
        engine=Standalone(executor="stacked", processes=1) if processes else Standalone(),
        rounds=rounds,
        clients_per_round=clients,
        threads=1,
        evaluate_every=rounds,
    )
    if processes:  # what every run needs is not what is measured
        simulate(replace(experiment, clients_per_round=2, rounds=1))
    loaded, before = time.perf_counter(), _memory()
    history = simulate(experiment).history
    seconds = [row["seconds"] for row in history[1:]]
    found = {
        "import": imported - began,
        "data": loaded - imported,
        "first": seconds[0],
        "round": sorted(seconds)[len(seconds) // 2],
        "how": history[1]["executor"],
        "before": before,
        "peak": _memory(),
        "model": model / 2**20,
        "accuracy": history[-1]["test_accuracy"],
    }
    print(json.dumps(found))


def _memory() -> float:
    """Peak resident memory of this process in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def start(*arguments: object) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.scale", "one", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> int:
    whole = start(1000, 50, 0)
    print(f"{POPULATION:,} clients, 1,000 per round, 50 rounds: {whole['how']}")
    print(f"  import {whole['import']:.2f} s, data {whole['data']:.2f} s, first round {whole['first']:.2f} s (goal 3)")
    print(f"  {1000 * whole['round']:.0f} ms per round, peak memory {whole['peak']:.0f} MB, accuracy {whole['accuracy']:.3f}")
    few, many = start(1000, 4, 1), start(5000, 4, 1)
    block = int(few["how"].split("blocks of ")[1].split(",")[0]) * few["model"]
    above = [run["peak"] - run["before"] for run in (few, many)]
    print(
        f"memory above the data: {above[0]:.0f} MB at 1,000 clients per round, {above[1]:.0f} MB at 5,000; "
        f"one block {block:.1f} MB (goal 3 times)"
    )
    return int(whole["first"] > 3 or max(above) > 3 * block)


if __name__ == "__main__":
    if sys.argv[1:2] == ["one"]:
        one(int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]) or None)
    else:
        sys.exit(main())
