"""From the start of a process to the end of the first round, beside the same round written by hand.

    python -m benchmarks.startup

The population of benchmarks/scale.py: 100,000 clients, 1,000 of them in the round, logistic regression, batches of 10. *ours*
imports the library, makes the arrays and the data set, evaluates the initial model, and carries the round out as `auto` chooses for
a run of 50 rounds.
*bare* imports torch alone, makes the same arrays, evaluates, and trains as many clients as one writes it by hand. Each is a process
of its own with one thread, and not the first, so that Python has the bytecode of all modules. They take turns, and medians are
shown. Exit status 1 if ours takes more than 3 s.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from contextlib import suppress

from benchmarks.scale import CLASSES, EXAMPLES, FEATURES, POPULATION, arrays

CLIENTS, TIMES, GOAL = 1000, 7, 3.0
PARTS = ("import", "data", "round")


def ours(began: float) -> list[float]:
    """When, after `began`, everything is imported, the data are there, and the first round is over."""
    from benchmarks.scale import population
    from fedml_api import Experiment, FedAvg, LocalSGD, Observer, Standalone, simulate

    class Over(Exception):
        pass

    class Watch(Observer):
        def on_round(self, row: dict[str, object]) -> None:
            passed.append(time.monotonic() - began)
            raise Over

    import torch

    passed = [time.monotonic() - began]
    data = population()
    passed.append(time.monotonic() - began)
    network = torch.nn.Linear(FEATURES, CLASSES)
    local = LocalSGD(lr=0.05, batch_size=10)
    rest = {"rounds": 50, "clients_per_round": CLIENTS, "threads": 1, "evaluate_every": 50}
    with suppress(Over):
        simulate(Experiment(network, data, algorithm=FedAvg(local), engine=Standalone(), **rest), [Watch()])  # type: ignore[arg-type]
    return passed


def bare(began: float) -> list[float]:
    """The same with torch alone."""
    import torch
    import torch.nn.functional as F

    passed = [time.monotonic() - began]
    torch.set_num_threads(1)
    x, y = arrays()
    passed.append(time.monotonic() - began)
    network = torch.nn.Linear(FEATURES, CLASSES)
    params = list(network.parameters())
    start = [param.detach().clone() for param in params]
    change = [torch.zeros_like(param) for param in params]
    with torch.no_grad():
        F.cross_entropy(network(x[:2000]), y[:2000])
    for client in torch.randperm(POPULATION)[:CLIENTS].tolist():
        torch._foreach_copy_([param.detach() for param in params], start)
        optimizer = torch.optim.SGD(params, lr=0.05)
        for rows in (torch.randperm(EXAMPLES) + client * EXAMPLES).split(10):
            optimizer.zero_grad()
            F.cross_entropy(network(x[rows]), y[rows]).backward()
            optimizer.step()
        torch._foreach_add_(change, torch._foreach_sub([param.detach() for param in params], start), alpha=1 / CLIENTS)
    torch._foreach_copy_([param.detach() for param in params], torch._foreach_add(start, change))
    passed.append(time.monotonic() - began)
    return passed


def seconds(way: str) -> list[float]:
    """The parts of a fresh process, and the whole."""
    # The clock is that of the system, so that it runs in the new process from before it was there.
    command = [sys.executable, "-m", "benchmarks.startup", way, str(time.monotonic())]
    bytecode = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(command, env=bytecode, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    passed: list[float] = json.loads(done.stdout)
    return [after - before for before, after in zip([0.0, *passed], passed, strict=False)] + passed[-1:]


def main() -> int:
    times: dict[str, list[list[float]]] = {"ours": [], "bare": []}
    for way in times:
        seconds(way)  # leaves the bytecode
    for _ in range(TIMES):
        for way, found in times.items():
            found.append(seconds(way))
    medians = {way: [statistics.median(part) for part in zip(*found, strict=True)] for way, found in times.items()}
    print(f"{'':<8}" + "".join(f"{part + ' s':>10}" for part in (*PARTS, "whole")) + f"   goal {GOAL}")
    for way, found in medians.items():
        print(f"{way:<8}" + "".join(f"{part:10.2f}" for part in found))
    print(json.dumps(medians))
    return int(medians["ours"][-1] > GOAL)


if __name__ == "__main__":
    if sys.argv[1:2] in (["ours"], ["bare"]):
        print(json.dumps((ours if sys.argv[1] == "ours" else bare)(float(sys.argv[2]))))
    else:
        sys.exit(main())
