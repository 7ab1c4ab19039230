"""Seconds per round on a CUDA device: one by one, stacked, and stacked with training steps recorded as CUDA graphs.

    python -m benchmarks.gpu                                 # both workloads
    python -m benchmarks.gpu EMNIST clients=50 rounds=100    # one of them, with other numbers
    python -m benchmarks.gpu device=cpu rounds=2             # does it run? what it measures then is no GPU

*EMNIST* is the CNN of Adaptive Federated Optimization with 62 classes, 10 of 340 writers per round, batches of 20; *SO* its LSTM
with 10,004 words, 50 of 340 users of Stack Overflow per round, batches of 16. Arrays are synthetic and lie on the device; writers
differ in size as those of EMNIST, users have 128 sentences each. All contestants are the standalone engine with different settings;
they take turns round by round, a round ends when the device has nothing more to do, and medians are compared. Tracing and recording
happen in the first rounds, whose time is told apart. What cannot be stacked is carried out one by one, and the log says why.

Settings: `device`, `rounds`, `clients` (per round), `population`, `batch`, `bf16=1`.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from typing import Any
from unittest import mock

import torch

from benchmarks.simulation import IMAGE, Ours, Workload, lognormal, partition
from fedml_api.model import ReddiCNN, WordLSTM
from fedml_api.standalone import Standalone
from fedml_core.federation.sampling import sample_clients
from fedml_core.trainer import NextToken, traced

FIRST = 5
ENGINES = {
    "auto": Standalone(),
    "one by one": Standalone(executor="sequential", processes=1),
    "stacked": Standalone(executor="stacked", processes=1),
    "stacked, graphs": Standalone(executor="stacked", processes=1),
}
POPULATION = 340
# Goals are those of benchmarks/simulation.py, for CPUs; here there are none.
NONE = float("inf")
WORKLOADS = {
    "EMNIST": (
        Workload("EMNIST", "CNN, 62 classes", ReddiCNN(), IMAGE, 62, lognormal(POPULATION, 198), 20, 1500, NONE),
        10,
    ),
    "SO": (
        Workload("SO", "LSTM, 10,004 words", WordLSTM(), (20,), 10004, (128,) * POPULATION, 16, 100, NONE, trainer=NextToken()),
        50,
    ),
}


def about(device: torch.device) -> str:
    """What this is measured on."""
    if device.type != "cuda":
        return f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    return (
        f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}, CUDA {torch.version.cuda}, "
        f"cuDNN {torch.backends.cudnn.version()}"
    )


def measure(work: Workload, clients: int, device: torch.device, precision: torch.dtype | None) -> dict[str, dict[str, Any]]:
    """By contestant: median seconds per round, seconds of the first rounds and of all, and how clients were carried out."""
    torch.manual_seed(0)
    model, data = work.model(), partition(work).to(device)
    found: dict[str, dict[str, Any]] = {}
    times: dict[str, list[float]] = {name: [] for name in ENGINES}
    with ExitStack() as stack:
        contestants = {
            name: Ours(work, model, data, stack, engine, precision, work.rounds, device) for name, engine in ENGINES.items()
        }
        for round in range(work.rounds):
            sample = sample_clients(data.client_ids, clients, 0, round)
            for name, ours in contestants.items():
                ours.clients = sample
                start = time.perf_counter()
                with ExitStack() as plainly:
                    if name == "stacked":
                        plainly.enter_context(mock.patch.object(traced, "recorder_of", return_value=None))
                    ours(round)
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                times[name].append(time.perf_counter() - start)
        for name, seconds in times.items():
            first = min(FIRST, work.rounds - 1)
            found[name] = {
                "round": statistics.median(seconds[first:]),
                "first": sum(seconds[:first]),
                "all": sum(seconds),
                "how": contestants[name].session.how,
            }
    return found


def main(arguments: list[str]) -> int:
    names = [word for word in arguments if "=" not in word] or list(WORKLOADS)
    given = dict(word.split("=", 1) for word in arguments if "=" in word)
    device = torch.device(given.pop("device", "cuda"))
    precision = torch.bfloat16 if given.pop("bf16", "0") == "1" else None
    numbers = {key: int(value) for key, value in given.items()}
    if unknown := (numbers.keys() - {"rounds", "clients", "population", "batch"}) | (set(names) - WORKLOADS.keys()):
        raise SystemExit(f"unknown: {', '.join(sorted(unknown))}; see the first lines of {__file__}")
    if device.type == "cuda" and not torch.cuda.is_available():
        print(f"torch {torch.__version__} sees no CUDA device here: nothing is measured")
        return 0
    on = about(device)
    print(on)
    print(f"{'workload':<36} {'contestant':<16} {'ms per round':>12} {'first s':>8} {'all s':>8}  how")
    results = {}
    for name in names:
        work, clients = WORKLOADS[name]
        clients = numbers.get("clients", clients)
        sizes = work.sizes[: numbers.get("population", POPULATION)]
        work = replace(work, sizes=sizes, rounds=numbers.get("rounds", work.rounds), batch=numbers.get("batch", work.batch))
        results[name] = measure(work, clients, device, precision)
        for contestant, row in results[name].items():
            what = f"{name} {work.title}, {clients} clients"
            print(f"{what:<36} {contestant:<16} {1e3 * row['round']:12.2f} {row['first']:8.2f} {row['all']:8.1f}  {row['how']}")
    print(json.dumps({"device": on, "results": results}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
