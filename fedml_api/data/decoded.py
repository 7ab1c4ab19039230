"""Columns whose rows are made when somebody looks at them: photos that together are larger than the memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from fedml_core.trainer import Batch, Examples

aten = torch.ops.aten


@dataclass(frozen=True, eq=False)
class Rows:
    """What a column is made from.

    Attributes:
        shape: of one row; `make`: row numbers to float32 `[n, *shape]`, a pure function.
        fingerprint: equal where all rows are.
    """

    shape: tuple[int, ...]
    make: Callable[[list[int]], Tensor]
    fingerprint: str


class Decoded(Tensor):
    """A tensor float32 `[n, *shape]` without memory, of which `index_select` makes the rows that it is asked for, and no others.

    Slices and copies on another device are such tensors as well. Any other computation with it makes all of its rows.
    """

    rows: Rows
    numbers: Tensor

    @staticmethod
    def __new__(cls, rows: Rows, numbers: Tensor, device: torch.device | str = "cpu") -> Decoded:
        made: Decoded = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, (len(numbers), *rows.shape), dtype=torch.float32, device=device
        )
        made.rows, made.numbers = rows, numbers
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Decoded({list(self.shape)})"

    @property
    def fingerprint(self) -> str:
        """SHA-256, equal where the rows are."""
        return hashlib.sha256(self.rows.fingerprint.encode() + self.numbers.numpy().tobytes()).hexdigest()

    def picked(self, places: Tensor) -> Decoded:
        """The rows at `places`, without making them."""
        return Decoded(self.rows, self.numbers.index_select(0, places.cpu()), self.device)

    def made(self) -> Tensor:
        """The rows themselves."""
        return self.rows.make(self.numbers.tolist()).to(self.device)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        own = args[0] if args and isinstance(args[0], Decoded) else None
        if own is not None and func in (aten.index_select.default, aten.index_select.out) and args[1] == 0:
            found = own.picked(args[2]).made()
            return found if func is aten.index_select.default else kwargs["out"].resize_(found.shape).copy_(found)
        if own is not None and func is aten.slice.Tensor and (args[1:2] or (0,))[0] == 0:
            return Decoded(own.rows, aten.slice(own.numbers, 0, *args[2:]), own.device)
        if own is not None and func in (aten.detach.default, aten.alias.default):
            return Decoded(own.rows, own.numbers, own.device)
        if own is not None and func is aten._to_copy.default and kwargs.get("dtype", own.dtype) == own.dtype:
            return Decoded(own.rows, own.numbers, kwargs.get("device") or own.device)
        if own is not None and func._schema.name.startswith("aten::new_"):
            return func(torch.empty(0, dtype=own.dtype, device=own.device), *args[1:], **kwargs)
        args, kwargs = pytree.tree_map_only(Decoded, Decoded.made, (args, kwargs))
        return func(*args, **kwargs)


def examples_of(columns: Batch) -> Examples:
    """Columns as examples of which only those are made that are looked at."""
    return Examples(columns, all_rows(columns))


def all_rows(columns: Batch) -> Tensor | None:
    """The index under which examples with such columns look at some of their rows; None where all rows are there."""
    made = [column for column in columns.values() if isinstance(column, Decoded)]
    return torch.arange(len(made[0]), device=made[0].device) if made else None


def content(examples: Examples) -> Batch:
    """The columns of all examples, in order, as `Examples.all` has them; what is made on demand is not made."""
    index = examples.index
    if index is None:
        return dict(examples.columns)
    return {name: picked(column, index) for name, column in examples.columns.items()}


def chosen(examples: Examples, rows: Tensor) -> Examples:
    """The examples at `rows`, in columns of their own; what is made on demand still is."""
    return examples_of({name: picked(column, rows) for name, column in content(examples).items()})


def picked(column: Tensor, rows: Tensor) -> Tensor:
    return column.picked(rows) if isinstance(column, Decoded) else column.index_select(0, rows)
