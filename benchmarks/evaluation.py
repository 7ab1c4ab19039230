"""Evaluating a network on the global test set beside the forward passes of training over the same rows, on the CPU.

    python -m benchmarks.evaluation              # all three networks
    python -m benchmarks.evaluation ReddiCNN     # one

*ours* is what a run does after a round: `ModelTrainer.test`, loss and accuracy of every row. *training* is the forward pass of a
training loop: the loss, in batches of the size that training has, recorded for a backward pass that never comes. *bare* is the
network alone in the same batches, without gradients and without a loss, *at once* the same for all rows together. Threads are as
the user has them. All take turns; medians of at least 7 are compared. Exit status 1 if ours takes 5 % longer than *training*.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable

import torch

from benchmarks.simulation import IMAGE, Workload
from fedml_api.model import ReddiCNN, TwoNN, WordLSTM
from fedml_core.trainer import Examples, NextToken

TIMES, WITHIN = 7, 1.05
WORKLOADS = {
    "ReddiCNN": Workload("ReddiCNN", "1,000 images", ReddiCNN(), IMAGE, 62, (1_000,), 20, TIMES, 1.0),
    "TwoNN": Workload("TwoNN", "10,000 images", TwoNN(), IMAGE, 10, (10_000,), 10, 5 * TIMES, 1.0),
    "WordLSTM": Workload(*("WordLSTM", "160 sentences", WordLSTM(), (20,), 10_004, (160,), 16, TIMES, 1.0), trainer=NextToken()),
}


def measure(work: Workload) -> dict[str, float]:
    """Median seconds of each way through the test set."""
    torch.manual_seed(0)
    model, (x, y) = work.model().eval(), work.arrays()
    examples = Examples({"x": x, "y": y})

    def ours() -> None:
        work.trainer.test(model, examples)

    def training() -> None:
        model.train()
        for rows in zip(x.split(work.batch), y.split(work.batch), strict=True):
            work.trainer.loss(model, dict(zip("xy", rows, strict=True)))
        model.eval()

    @torch.no_grad()
    def bare() -> None:
        for rows in x.split(work.batch):
            model(rows)

    @torch.no_grad()
    def at_once() -> None:
        model(x)

    ways: dict[str, Callable[[], None]] = {"ours": ours, "training": training, "bare": bare, "at once": at_once}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(work.rounds + 2):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(seconds[2:]) for name, seconds in times.items()}


def main(names: list[str]) -> int:
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"{'network':<28} {'ours ms':>9} {'/ training':>10} {'/ bare':>10} {'/ at once':>10}")
    results, missed = {}, 0
    for name in names or list(WORKLOADS):
        work = WORKLOADS[name]
        found = results[name] = measure(work)
        ratios = " ".join(f"{found['ours'] / found[way]:10.2f}" for way in ("training", "bare", "at once"))
        print(f"{name + ', ' + work.title:<28} {1000 * found['ours']:9.1f} {ratios}", flush=True)
        missed += found["ours"] > WITHIN * found["training"]
    print(json.dumps(results))
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
