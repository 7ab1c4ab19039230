"""Per-round cost of the sequential executor against a bare PyTorch loop on the same work.

    python -m benchmarks.overhead

The bare loop is what one writes by hand: a copy of the model per client, shuffled rows indexed per batch (no DataLoader, which
would only make it slower), `zero_grad / backward / step` of torch's SGD, and the weighted average of the state dicts. Both train
on the same arrays with one thread; rounds alternate, and medians are compared.
"""

from __future__ import annotations

import copy
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from fedml_api.algorithms import FedAvg
from fedml_api.data import FederatedDataset
from fedml_api.model import LogisticRegression, ReddiCNN
from fedml_api.standalone import Standalone
from fedml_core.federation import LocalSGD, Setup
from fedml_core.trainer import Classifier, Examples, ModelState, ModelTrainer


@dataclass(frozen=True)
class Workload:
    """FedAvg of `model` over `clients` clients of `examples` examples each, one epoch in batches of `batch`."""

    name: str
    model: nn.Module
    clients: int
    examples: int
    batch: int
    rounds: int
    goal: float


def naive_round(
    model: nn.Module, data: list[tuple[torch.Tensor, torch.Tensor]], batch: int, lr: float, trainer: ModelTrainer
) -> None:
    """One round of FedAvg by hand; the model is updated in place."""
    states = []
    for x, y in data:
        local = copy.deepcopy(model)
        local.train()
        optimizer = torch.optim.SGD(local.parameters(), lr=lr)
        order = torch.randperm(len(x))
        for start in range(0, len(x), batch):
            rows = order[start : start + batch]
            optimizer.zero_grad()
            loss = trainer.loss(local, {"x": x[rows], "y": y[rows]}).mean()
            loss.backward()
            optimizer.step()
        states.append(local.state_dict())
    total = sum(len(x) for x, _ in data)
    model.load_state_dict(
        {name: sum(state[name] * (len(x) / total) for state, (x, _) in zip(states, data, strict=True)) for name in states[0]}
    )


def measure(work: Workload) -> dict[str, object]:
    """Median seconds per round of both, and their ratio."""
    rows = work.clients * work.examples
    draw = np.random.default_rng(0)
    x = torch.from_numpy(draw.standard_normal((rows, 1, 28, 28), dtype=np.float32))
    y = torch.from_numpy(draw.integers(0, 10, rows))
    examples = Examples({"x": x, "y": y})
    parts = {str(k): np.arange(k * work.examples, (k + 1) * work.examples) for k in range(work.clients)}
    data = FederatedDataset(examples, examples, parts, classes=10)
    by_hand = [(x[rows], y[rows]) for rows in parts.values()]
    # By hand one leaves the weights as torch makes them; the layout of the library's CNN is part of what is compared.
    naive_model = copy.deepcopy(work.model).to(memory_format=torch.contiguous_format)
    algorithm = FedAvg(local=LocalSGD(lr=0.05, batch_size=work.batch))
    with Standalone(executor="sequential", processes=1).open(
        Setup(Classifier(), work.model, data, 0, torch.device("cpu"))
    ) as session:
        state = algorithm.init(ModelState.of(copy.deepcopy(work.model)))

        def ours(round: int) -> None:
            nonlocal state
            state, _ = algorithm.round(state, session.cohort(round, data.client_ids))

        def naive(round: int) -> None:
            naive_round(naive_model, by_hand, work.batch, 0.05, Classifier())

        times: dict[Callable[[int], None], list[float]] = {ours: [], naive: []}
        for round in range(work.rounds + 2):
            for contestant, seconds in times.items():
                start = time.perf_counter()
                contestant(round)
                seconds.append(time.perf_counter() - start)
    ms = {who.__name__: 1000 * statistics.median(seconds[2:]) for who, seconds in times.items()}
    return {"workload": work.name, **ms, "ratio": ms["ours"] / ms["naive"], "goal": work.goal}


def main() -> int:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    shape, classes = (1, 28, 28), 10
    works = [
        Workload(
            "logistic regression, 10 clients x 60, batch 10", LogisticRegression().build(shape, classes), 10, 60, 10, 101, 0.7
        ),
        Workload("CNN 1.2 M, 10 clients x 200, batch 20", ReddiCNN().build(shape, classes), 10, 200, 20, 7, 1.0),
    ]
    results = [measure(work) for work in works]
    print(f"{'workload':<50} {'naive ms':>9} {'ours ms':>9} {'ratio':>6} {'goal':>5}")
    for row in results:
        print(f"{row['workload']:<50} {row['naive']:9.2f} {row['ours']:9.2f} {row['ratio']:6.2f} {row['goal']:5.2f}")
    print(json.dumps(results))
    return int(any(row["ratio"] > row["goal"] for row in results))


if __name__ == "__main__":
    sys.exit(main())
