"""Draws what each partitioner makes of the same digits: `python -m benchmarks.partition_gallery [docs/images/partitions.png]`."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from fedml_api.data import Mnist5k
from fedml_core.partition import (
    ClassDirichlet,
    Classes,
    Continuous,
    Dirichlet,
    Exponential,
    Iid,
    Lognormal,
    Pachinko,
    Partitioner,
    Power,
    Quantity,
    Shards,
)

CLIENTS, CLASSES = 20, 10
SHOWN: dict[str, Partitioner] = {
    "iid": Iid(),
    "quantity, alpha 0.5": Quantity(),
    "lognormal, sigma 1": Lognormal(1.0),
    "power, exponent 1": Power(1.0),
    "exponential, rate 0.2": Exponential(0.2),
    "dirichlet, alpha 10": Dirichlet(10.0),
    "dirichlet, alpha 1": Dirichlet(1.0),
    "dirichlet, alpha 1, sizes quantity": Dirichlet(1.0, Quantity()),
    "class_dirichlet, alpha 0.5": ClassDirichlet(0.5),
    "class_dirichlet, alpha 0.1": ClassDirichlet(0.1),
    "shards, 2 per client": Shards(),
    "classes, 2 per client": Classes(),
    "classes, deterministic, sizes lognormal": Classes(2, "deterministic", Lognormal(1.0)),
    "pachinko, five pairs of digits": Pachinko(0.5, 1.0, (0, 0, 1, 1, 2, 2, 3, 3, 4, 4)),
    "continuous by ink, strictness 0.9": Continuous("ink", 0.9),
}


def main(path: Path) -> None:
    _, _, columns = Mnist5k().columns(0, Path("data"))
    columns = {**columns, "ink": columns["x"].mean(axis=(1, 2, 3))}
    figure = Figure(figsize=(13, 14), layout="constrained")
    for axes, (name, partitioner) in zip(figure.subplots(5, 3).flat, SHOWN.items(), strict=True):
        counts = np.array([np.bincount(columns["y"][rows], minlength=CLASSES) for rows in partitioner(columns, CLIENTS, 0)])
        clients, classes = np.nonzero(counts)
        # The largest that can be here, a whole class of 400, is as wide as three clients.
        axes.scatter(clients, classes, s=counts[clients, classes] * 1.1, color="#2b6cb0", alpha=0.75, linewidth=0)
        axes.set_title(name, fontsize=10)
        axes.set(xlim=(-1.2, CLIENTS + 0.2), ylim=(-1, CLASSES), xticks=[], yticks=[])
        axes.spines[:].set_color("#cccccc")
    figure.savefig(path, dpi=90)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/images/partitions.png"))
