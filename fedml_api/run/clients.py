"""What clients think of the model that they use, and how that is spread over them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fedml_core.federation import Algorithm, Session
from fedml_core.files import write_atomic
from fedml_core.tree import Tree

# By client: the number of its test examples, and the mean of every metric over them.
Table = dict[str, dict[str, float]]
FOLDER = "clients"


def judge(algorithm: Algorithm, state: Tree, session: Session, round: int) -> Table:
    """Every client's verdict on its own test examples; clients without any, or without a reply, are left out.

    Args:
        round: the coming one. Asked for a round that is over, a device would start from the private state before it.
    """
    verdicts = session.everyone(round).map(algorithm.judge(), shared=algorithm.shown(state))
    return {
        id: {"examples": reply.weight, **{name: mean.value for name, mean in reply.metrics.items()}}
        for id, reply in verdicts
        if reply.metrics
    }


def spread(table: Table) -> dict[str, float]:
    """The distribution of every metric over clients.

    `client_accuracy` is the mean over all their examples; `client_accuracy_mean`, `_std`, `_p10`, `_min` are mean, standard
    deviation, 10 % quantile and minimum over clients, each of whom counts the same.
    """
    return dict(_spread(table))


def _spread(table: Table) -> Iterator[tuple[str, float]]:
    examples = [row["examples"] for row in table.values()]
    for name in dict.fromkeys(name for row in table.values() for name in row if name != "examples"):
        values = np.array([row[name] for row in table.values()])
        yield f"client_{name}", float(np.average(values, weights=examples))
        yield f"client_{name}_mean", float(values.mean())
        yield f"client_{name}_std", float(values.std())
        yield f"client_{name}_p10", float(np.quantile(values, 0.1))
        yield f"client_{name}_min", float(values.min())


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
        return {row.pop("client"): {name: float(value) for name, value in row.items()} for row in csv.DictReader(file)}
