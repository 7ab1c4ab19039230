"""Drift: what a client meets changes over time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from msgspec import Meta

from fedml_core.partition.labels import Dirichlet
from fedml_core.partition.partitioner import Columns, Partitioner, column, partitioners
from fedml_core.rng import rng
from fedml_core.settings import settings


@partitioners.register("drift")
@settings
class Drift(Partitioner):
    """The order in which clients meet their examples, for algorithms that read them as a stream: classes come and go.

    Who holds what another partitioner says. A client that holds C classes puts them into a random order, 0 .. C-1; an example of
    the c-th class appears at the time strength c / C + (1 - strength) u with u ~ U(0, 1), and its rows are in the order of their
    times.
    strength 0: no drift, the order is uniformly random; 1: one class after the other. In between, the c-th class appears from
    strength c / C until strength c / C + 1 - strength, evenly.

    Args:
        of: who holds what; `by`: the column that holds the classes.
    """

    of: Partitioner = Dirichlet()
    strength: Annotated[float, Meta(ge=0, le=1)] = 1.0
    by: str = "y"

    def clients(self, columns: Columns) -> Sequence[str] | None:
        return self.of.clients(columns)

    def parts(self, columns: Columns, clients: int, seed: int) -> list[np.ndarray]:
        labels = column(columns, self.by)
        return [
            self._ordered(rows, labels[rows], rng(seed, "partition", "drift", client))
            for client, rows in enumerate(self.of(columns, clients, seed))
        ]

    def _ordered(self, rows: np.ndarray, labels: np.ndarray, random: np.random.Generator) -> np.ndarray:
        classes, codes = np.unique(labels, return_inverse=True)
        starts = random.permutation(len(classes)) / max(1, len(classes))
        times = self.strength * starts[codes] + (1 - self.strength) * random.random(len(rows))
        mixed = random.permutation(len(rows))  # those of one time, which at strength 1 are all of a class
        return rows[mixed[np.argsort(times[mixed], kind="stable")]]
