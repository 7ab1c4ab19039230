"""Examples: the rows of a data set that one party holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

Batch = dict[str, Tensor]


class Examples:
    """Rows of shared tensors, picked by index and never copied: all clients of a data set look into the same memory.

    Args:
        columns: tensors by name (by custom `x`: features and `y`: labels), all with the same first dimension.
        index: int64 tensor `[n]` of the rows that belong to this party, in its order; all rows when absent.
    """

    def __init__(self, columns: Mapping[str, Tensor], index: Tensor | None = None) -> None:
        if len({column.shape[0] for column in columns.values()}) != 1:
            shapes = {name: tuple(column.shape) for name, column in columns.items()}
            raise ValueError(f"columns must have the same number of rows, got the shapes {shapes}")
        self.columns = dict(columns)
        self.index = index

    def __len__(self) -> int:
        return (next(iter(self.columns.values())) if self.index is None else self.index).shape[0]

    @staticmethod
    def natural(columns: Mapping[str, Tensor]) -> frozenset[str]:
        """The columns that hold whole numbers and no negative one."""
        whole = {name: column for name, column in columns.items() if not column.is_floating_point() and not column.is_complex()}
        return frozenset(name for name, column in whole.items() if column.numel() and int(column.min()) >= 0)

    @staticmethod
    def together(columns: Mapping[str, Tensor], rows: int) -> int:
        """How many batches of `rows` rows to gather at once: those that make a megabyte."""
        width = sum(column[:1].nbytes for column in columns.values())
        return max(1, 2**20 // max(1, width * rows))

    def take(self, positions: Tensor) -> Batch:
        """The examples at `positions` (int64 `[b]`, counted within this party) as a batch of `b` rows."""
        rows = positions if self.index is None else self.index.index_select(0, positions)
        return {name: column.index_select(0, rows) for name, column in self.columns.items()}

    def all(self) -> Batch:
        """Every example, in order."""
        if self.index is None:
            return dict(self.columns)
        return {name: column.index_select(0, self.index) for name, column in self.columns.items()}

    def batches(self, size: int | Sequence[int]) -> Iterator[Batch]:
        """Consecutive batches in order: of `size` rows, the last one as long as what is left; or as long as each `size` listed."""
        rest = len(self) % size if isinstance(size, int) else 0
        lengths = [size] * (len(self) // size) + [rest] * (rest > 0) if isinstance(size, int) else list(size)
        if self.index is None:
            yield from _cut(self.columns, lengths)
            return
        # Rows are gathered a megabyte at a time and cut into views: gathering each batch by itself would cost a small model a
        # tenth of its training step, gathering everything would copy the client's data.
        together = self.together(self.columns, max(lengths, default=1))
        pieces = [lengths[i : i + together] for i in range(0, len(lengths), together)]
        for piece, rows in zip(pieces, torch.split(self.index, [sum(piece) for piece in pieces]), strict=True):
            yield from _cut({name: column.index_select(0, rows) for name, column in self.columns.items()}, piece)

    def subset(self, positions: Tensor) -> Examples:
        """The party that holds only the examples at `positions`, in that order."""
        # The columns were looked at when this party was made: checking them again for every client of a round would take too long.
        part = Examples.__new__(Examples)
        part.columns, part.index = self.columns, positions if self.index is None else self.index.index_select(0, positions)
        return part

    def to(self, device: torch.device) -> Examples:
        """The same examples with their columns on `device`."""
        index = None if self.index is None else self.index.to(device)
        return Examples({name: column.to(device) for name, column in self.columns.items()}, index)


def _cut(columns: Mapping[str, Tensor], lengths: list[int]) -> Iterator[Batch]:
    parts = [torch.split(column, lengths) for column in columns.values()]
    return (dict(zip(columns, part, strict=True)) for part in zip(*parts, strict=True))


def places(values: Tensor, among: Tensor) -> Tensor:
    """Where each of these int64 values stands in `among`, in which none occurs twice.

    Raises:
        ValueError: one of them does not.
    """
    ordered, order = among.sort()
    found = torch.searchsorted(ordered, values).clamp(max=max(len(among) - 1, 0))
    if len(values) and not (len(among) and torch.equal(ordered[found], values)):
        raise ValueError("not all of these values are there")
    return order[found]
