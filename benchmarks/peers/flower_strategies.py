"""Flower's strategies fed what `benchmarks/agreement.py` wrote: the models and losses of the clients of every round.

What differs by intent is taken out: Flower begins the second moment at 0, the paper (and this library) at tau^2; Flower's FedAdam
corrects the bias in its rate, the paper does not.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from flwr.serverapp import strategy as strategies

folder = Path(sys.argv[1])
problem = json.loads((folder / "strategies.json").read_text())


def record(path: Path) -> ArrayRecord:
    with np.load(path, allow_pickle=False) as arrays:
        return ArrayRecord({name: Array(array) for name, array in arrays.items()})


for name, settings in problem["strategies"].items():
    strategy = getattr(strategies, settings.pop("class"))(**settings)
    for round in range(problem["rounds"]):
        current = record(folder / f"{name}-{round}.npz")
        as_arrays = {key: array.numpy() for key, array in current.items()}
        # q-FedAvg keeps the record, the adaptive strategies keep arrays by name.
        strategy.current_arrays = current if name == "qfedavg" else as_arrays
        if round == 0 and hasattr(strategy, "v_t"):
            strategy.v_t = {key: np.full_like(array, strategy.tau**2) for key, array in as_arrays.items()}
        if name == "fedadam":
            t = round + 2.0
            strategy.eta = settings["eta"] / (np.sqrt(1 - settings["beta_2"] ** t) / (1 - settings["beta_1"] ** t))
        replies = []
        for client, (loss, examples) in enumerate(problem["clients"][name][round]):
            metrics = MetricRecord({"num-examples": examples, "train_loss": loss})
            content = RecordDict({"arrays": record(folder / f"{name}-{round}-{client}.npz"), "metrics": metrics})
            # A Message wants a running task around it; of a reply the strategies read no more than this.
            replies.append(SimpleNamespace(content=content, has_error=lambda: False, has_content=lambda: True))
        arrays, _ = strategy.aggregate_train(round + 1, replies)
        np.savez(folder / f"{name}-{round}-flower.npz", **{key: array.numpy() for key, array in arrays.items()})
