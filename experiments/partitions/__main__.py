"""What a partition costs FedAvg: the same digits, network and rounds, only that other clients hold them.

    python -m experiments.partitions [seeds=3] [rounds=60]

Prints a table: the test accuracy at the end, as mean and standard deviation over seeds, and how skewed the partition is. The seed
draws the partition, the clients of each round, the batches and the initial parameters.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

import numpy as np

from fedml_api.data import FederatedData
from fedml_api.run.config import prepare, read_config
from fedml_api.run.experiment import simulate

CONFIG = Path(__file__).parent / "config.yaml"
PARTITIONS = (
    "data.partition=iid",
    "data.partition={name: quantity, alpha: 0.5}",
    "data.partition={name: exponential, rate: 0.3}",
    "data.partition={name: dirichlet, alpha: 10}",
    "data.partition={name: dirichlet, alpha: 1}",
    "data.partition={name: dirichlet, alpha: 1, sizes: {name: quantity, alpha: 0.5}}",
    "data.partition={name: class_dirichlet, alpha: 1}",
    "data.partition={name: class_dirichlet, alpha: 0.1}",
    "data.partition=shards",
    "data.partition={name: classes, classes_per_client: 2}",
    "data.partition={name: classes, classes_per_client: 1}",
    "data.partition={name: pachinko, alpha: 0.5, beta: 1, coarse: [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]}",
    "data.partition=semantic",
    "data.skew={name: noise, sigma: 0.5}",
    "data.skew={name: rotation, angles: [0, 90, 180, 270]}",
)


def skew(data: FederatedData) -> tuple[float, float]:
    """Half the sum of |client's class shares - everybody's|, as mean over examples; and the deviation of sizes by their mean."""
    counts = data.label_counts()
    sizes = counts.sum(axis=1)
    shares = counts / np.maximum(sizes, 1)[:, None]
    away = np.abs(shares - counts.sum(axis=0) / sizes.sum()).sum(axis=1) / 2
    return float((away * sizes).sum() / sizes.sum()), float(sizes.std() / sizes.mean())


def main(seeds: int, more: list[str]) -> None:
    print("| partition | label skew | size skew | test accuracy |\n|---|---|---|---|")
    for partition in PARTITIONS:
        found = []
        for seed in range(seeds):
            experiment = prepare(*read_config(CONFIG, [partition, f"seed={seed}", *more]))
            assert isinstance(experiment.data, FederatedData)
            found.append((*skew(experiment.data), simulate(experiment).history[-1]["test_accuracy"]))
        labels, sizes, accuracy = zip(*found, strict=True)
        spread = f" ± {statistics.stdev(accuracy):.3f}" if seeds > 1 else ""
        columns = f"{statistics.mean(labels):.2f} | {statistics.mean(sizes):.2f} | {statistics.mean(accuracy):.3f}{spread}"
        print(f"| `{partition.removeprefix('data.')}` | {columns} |", flush=True)


if __name__ == "__main__":
    seeds = [argument for argument in sys.argv[1:] if argument.startswith("seeds=")]
    main(int(seeds[-1].removeprefix("seeds=")) if seeds else 3, [one for one in sys.argv[1:] if one not in seeds])
