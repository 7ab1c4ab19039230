"""What clients think of the model that they use, and how that is spread over them."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fedml_core.federation import Algorithm, Session, Setup, verdict
from fedml_core.files import write_atomic
from fedml_core.tree import Tree

log = logging.getLogger("fedml")

# By client: the number of its test examples, and every metric on them.
Table = dict[str, dict[str, float]]
FOLDER = "clients"


@dataclass(frozen=True)
class Verdicts:
    """What clients found, each on its own test examples.

    Attributes:
        table: by client; `together`: the metrics of all their examples together that are no means over examples.
    """

    table: Table
    together: dict[str, float] = field(default_factory=dict)

    def spread(self) -> dict[str, float]:
        """The distribution of every metric over clients.

        `client_accuracy` is the accuracy on all their examples; `client_accuracy_mean`, `_std`, `_p10`, `_min` are mean, standard
        deviation, 10 % quantile and minimum over clients, each of whom counts the same.
        """
        return dict(self._spread())

    def _spread(self) -> Iterator[tuple[str, float]]:
        for name in dict.fromkeys(name for row in self.table.values() for name in row if name != "examples"):
            rows = [row for row in self.table.values() if name in row]
            values = np.array([row[name] for row in rows])
            mean = float(np.average(values, weights=[row["examples"] for row in rows]))
            yield f"client_{name}", self.together.get(name, mean)
            yield f"client_{name}_mean", float(values.mean())
            yield f"client_{name}_std", float(values.std())
            yield f"client_{name}_p10", float(np.quantile(values, 0.1))
            yield f"client_{name}_min", float(values.min())


def judge(algorithm: Algorithm, state: Tree, session: Session, round: int, setup: Setup) -> Verdicts:
    """Every client's verdict; clients without test examples, or without a reply, are left out.

    Args:
        round: the coming one. Asked for a round that is over, a device would start from the private state before it.
    """
    usual = _shapes(verdict(setup.trainer, setup.module, setup.data.global_test.subset(torch.tensor([0]))).value)
    table: Table = {}
    together: dict[str, Tensor] = {}
    for id, reply in session.everyone(round).map(algorithm.judge(), shared=algorithm.shown(state)):
        if not reply.metrics:
            continue
        table[id] = {"examples": reply.weight, **{name: mean.value for name, mean in reply.metrics.items()}}
        if usual and _shapes(reply.value) != usual:
            log.warning("client %s sent other sums than were asked for: it is left out of what is made of them", id)
        elif usual:
            table[id] |= setup.trainer.concluded(reply.value["sums"])
            together = {name: together.get(name, 0) + part for name, part in reply.value["sums"].items()}
    return Verdicts(table, setup.trainer.concluded(together))


def _shapes(value: Tree) -> dict[str, tuple[int, ...]] | None:
    """The shapes of the sums in a verdict's value; None if they are none, or no tensors."""
    sums = value.get("sums") if isinstance(value, dict) else None
    if not isinstance(sums, dict) or not all(isinstance(part, Tensor) for part in sums.values()):
        return None
    return {name: tuple(part.shape) for name, part in sums.items()}


def write_table(folder: Path, round: int, table: Table) -> None:
    """Keep a table as `folder/clients/ROUND.csv`, whole or not at all."""
    path = folder / FOLDER / f"{round:06d}.csv"
    path.parent.mkdir(exist_ok=True)
    text = io.StringIO()
    names = dict.fromkeys(name for row in table.values() for name in row)
    writer = csv.DictWriter(text, ["client", *names], lineterminator="\n")
    writer.writeheader()
    writer.writerows({"client": client, **row} for client, row in table.items())
    write_atomic(path, text.getvalue())


def newest_table(folder: Path) -> Table:
    """The last table that was kept in a run folder; empty if there is none."""
    paths = sorted((folder / FOLDER).glob("[0-9]*.csv"))
    if not paths:
        return {}
    with paths[-1].open(newline="") as file:
        return {row.pop("client"): {name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)}
