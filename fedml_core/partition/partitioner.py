"""Partitioners: how the examples of a data set that names no owners are spread over clients."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated

import numpy as np
from msgspec import Meta

from fedml_core.errors import ConfigError
from fedml_core.partition.deal import group
from fedml_core.settings import Registry

# Past these bounds a Dirichlet draw is a single one, or the mean, to within rounding; they keep its arithmetic finite.
Concentration = Annotated[float, Meta(ge=1e-9, le=1e9)]
# What is known of every example, by name, one row per example.
Columns = Mapping[str, np.ndarray]


class Partitioner(ABC):
    """Settings that say who holds which example: a pure function of the examples, the number of clients and the seed."""

    def __call__(self, examples: Columns | np.ndarray, clients: int, seed: int) -> list[np.ndarray]:
        """Each client's rows as int64, ascending unless the partition is about their order; no row is two clients'.

        Every row is a client's, unless the settings say in so many words that some are dropped.

        Args:
            examples: columns by name, with the labels as `y`; or the labels alone (`[n]`).

        Raises:
            ConfigError: the examples do not suffice for so many clients, or lack a column.
        """
        columns = {"y": examples} if isinstance(examples, np.ndarray) else examples
        return self.parts(columns, len(self.names(columns, clients)), seed)

    def names(self, columns: Columns, clients: int | None) -> Sequence[str]:
        """What so many clients are called; if not given, as many as the partitioner has of its own, or 100.

        Raises:
            ConfigError: it has another number of its own, or there are to be none.
        """
        if clients is not None and clients < 1:
            raise ConfigError(f"clients = {clients}: must be at least 1")
        own = self.clients(columns)
        if own is None:
            return numbered(100 if clients is None else clients)
        if clients not in (None, len(own)):
            raise ConfigError(f"clients = {clients}: the partition has {len(own)} clients of its own; leave clients out")
        return own

    def clients(self, columns: Columns) -> Sequence[str] | None:
        """The clients' names, where the settings or the data say who they are; None where there can be any number of them."""
        return None

    @abstractmethod
    def parts(self, columns: Columns, clients: int, seed: int) -> list[np.ndarray]:
        """What `__call__` returns, of columns by name and at least one client."""


partitioners: Registry[Partitioner] = Registry("partitioner", Partitioner)


def named(partitioner: Partitioner, examples: Columns, clients: int | None, seed: int) -> dict[str, np.ndarray]:
    """Each client's rows by its name: as many clients as asked for, as the partitioner has of its own, or 100, named "0", "1", ...

    Raises:
        ConfigError: it has another number than is asked for, or cannot deal these examples.
    """
    names = partitioner.names(examples, clients)
    return dict(zip(names, partitioner.parts(examples, len(names), seed), strict=True))


def numbered(clients: int) -> list[str]:
    """The names of clients that have none: "0", "1", ..."""
    return [str(client) for client in range(clients)]


def natural(owners: np.ndarray) -> dict[str, np.ndarray]:
    """Clients as the data set names them: each owner's rows, by its id as text, in the order of the sorted ids."""
    ids, codes = np.unique(owners, return_inverse=True)
    return dict(zip(map(str, ids), group(codes, len(ids)), strict=True))


def count(columns: Columns) -> int:
    """How many examples there are."""
    return len(next(iter(columns.values())))


def column(columns: Columns, name: str) -> np.ndarray:
    """The column of this name, which has one value per example.

    Raises:
        ConfigError: there is none, or it has several.
    """
    if name not in columns:
        raise ConfigError(f"column '{name}': the examples have none of this name to be partitioned by; they have {_known(columns)}")
    if columns[name].ndim != 1:
        shape = ", ".join(map(str, ("n", *columns[name].shape[1:])))
        raise ConfigError(f"column '{name}' is [{shape}], and partitioning by it takes one value per example; use another column")
    return columns[name]


def _known(columns: Columns) -> str:
    return ", ".join(f"{name} {list(values.shape[1:])}" if values.ndim > 1 else name for name, values in sorted(columns.items()))


def enough(examples: int, clients: int, each: int = 1, field: str = "") -> None:
    """Refuse fewer than `each` examples for every client, the number that `field` asks for."""
    needed = clients * each
    if needed > examples:
        remedies = [f"lower clients to at most {examples // each}"] if examples >= each else []
        remedies += [f"lower {field} to at most {examples // clients}"] if field and examples >= clients else []
        asked = f"clients = {clients}" + (f" and {field} = {each}" if field else "")
        raise ConfigError(
            f"{asked}: need at least {needed} examples, and there are {examples}; {', or '.join([*remedies, 'use more data'])}"
        )
