"""Partitions by something else that is known of each example: its owner, its community, a quantity that was measured."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from msgspec import Meta

from fedml_core.errors import ConfigError
from fedml_core.partition.deal import evenly, group
from fedml_core.partition.partitioner import Columns, Partitioner, column, enough, natural, numbered, partitioners
from fedml_core.rng import rng
from fedml_core.settings import settings


@partitioners.register("natural")
@settings
class Natural(Partitioner):
    """Clients are the values of a column, such as a writer or a device, in sorted order; or groups of so many of them.

    Args:
        by: the column.
        group_size: how many values make a client. Groups are named "0", "1", ...
        rest: values that make no whole group are a `smaller` one, are spread over the others (`bigger`), are left out (`drop`), or
            `refuse` the partition.
    """

    by: str
    group_size: Annotated[int, Meta(ge=1)] = 1
    rest: Literal["smaller", "bigger", "drop", "refuse"] = "smaller"

    def clients(self, columns: Columns) -> Sequence[str]:
        values = np.unique(column(columns, self.by))
        return [str(value) for value in values] if self.group_size == 1 else numbered(len(self._groups(len(values))))

    def parts(self, columns: Columns, clients: int, seed: int) -> list[np.ndarray]:
        enough(len(column(columns, self.by)), clients)
        owners = list(natural(column(columns, self.by)).values())
        sizes = self._groups(len(owners))
        ends = np.cumsum(sizes)
        return [np.sort(np.concatenate(owners[end - size : end])) for size, end in zip(sizes, ends, strict=True)]

    def _groups(self, values: int) -> np.ndarray:
        """How many values each client has."""
        whole, left = divmod(values, self.group_size)
        if left and self.rest == "refuse":
            raise ConfigError(
                f"group_size = {self.group_size}: {values} values of '{self.by}' leave {left} over; give a divisor, or another rest"
            )
        if self.rest == "bigger" and whole:
            return evenly(values, whole)
        if self.rest in ("bigger", "drop") and not whole:
            raise ConfigError(f"group_size = {self.group_size}: '{self.by}' has {values} values only; lower it")
        return np.array([self.group_size] * whole + [left] * (left > 0 and self.rest == "smaller"), np.int64)


@partitioners.register("blocks")
@settings
class Blocks(Partitioner):
    """Examples with the same value of a column, such as a community of a graph or a session, stay together; sizes are nearly equal.

    Blocks are dealt from the largest to the smallest (of equal ones, at random), each to the then smallest client: the largest
    client has at most 4/3 of what it must have. Graham, SIAM J. Appl. Math. 17, 1969.

    Args:
        by: the column; for the nodes of a graph, `communities` makes one.
    """

    by: str

    def parts(self, columns: Columns, clients: int, seed: int) -> list[np.ndarray]:
        blocks = list(natural(column(columns, self.by)).values())
        if len(blocks) < clients:
            raise ConfigError(f"clients = {clients}: '{self.by}' has {len(blocks)} values; lower clients to at most {len(blocks)}")
        order = rng(seed, "partition", "blocks").permutation(len(blocks))
        held: list[list[np.ndarray]] = [[] for _ in range(clients)]
        smallest = [(0, client) for client in range(clients)]
        for block in sorted(order, key=lambda block: -len(blocks[block])):
            size, client = heapq.heappop(smallest)
            held[client].append(blocks[block])
            heapq.heappush(smallest, (size + len(blocks[block]), client))
        return [np.sort(np.concatenate(some)) for some in held]


@partitioners.register("continuous")
@settings
class Continuous(Partitioner):
    """Skew of a measured quantity: sort by strictness z + (1 - strictness) N(0, 1), with z the standardised column, and cut evenly.

    strictness 0: IID; 1: the first client has the smallest values.

    Args:
        by: the column of numbers.
    """

    by: str
    strictness: Annotated[float, Meta(ge=0, le=1)] = 1.0

    def parts(self, columns: Columns, clients: int, seed: int) -> list[np.ndarray]:
        values = column(columns, self.by)
        enough(len(values), clients)
        if values.dtype.kind not in "biuf":
            raise ConfigError(
                f"by = '{self.by}': its values are {values.dtype}, not numbers; use another column, or natural or blocks"
            )
        values = values.astype(np.float64)
        if not np.isfinite(values).all():
            raise ConfigError(
                f"by = '{self.by}': row {np.flatnonzero(~np.isfinite(values))[0]} is no finite number; use another column"
            )
        # Divided first, so that squares of the largest numbers do not overflow.
        z = values / (np.abs(values).max() or 1.0)
        z = z - z.mean()
        deviation = z.std()
        if deviation < 1e-12 and self.strictness:
            raise ConfigError(f"by = '{self.by}': all values are the same; use another column, or strictness: 0")
        noise = rng(seed, "partition", "continuous").standard_normal(len(z))
        order = np.argsort(self.strictness * z / (deviation or 1.0) + (1 - self.strictness) * noise, kind="stable")
        owners = np.empty(len(z), np.int64)
        owners[order] = np.arange(clients).repeat(evenly(len(z), clients))
        return group(owners, clients)
