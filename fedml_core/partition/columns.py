"""Vertical partitions: who knows which columns of a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

import numpy as np
from msgspec import Meta

from fedml_core.errors import ConfigError
from fedml_core.partition.deal import apportion, evenly
from fedml_core.partition.partitioner import numbered
from fedml_core.rng import rng
from fedml_core.settings import settings


@settings
class ColumnSplit:
    """The columns of a table dealt to parties named "0", "1", ...

    Args:
        parties: how many; each gets as many columns as others, to within one, the first ones more.
        sizes: how many columns each party gets instead, in all as many as are dealt; or which fraction of them, in all 1.
        order: columns are dealt in an order drawn with the seed (`random`), or as they stand in the table (`given`).
        shared: columns that every party has besides; `drop`: columns that nobody has.
    """

    parties: Annotated[int, Meta(ge=2)] = 2
    sizes: tuple[Annotated[float, Meta(gt=0, le=1e6)], ...] | None = None
    order: Literal["random", "given"] = "random"
    shared: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()

    def problems(self) -> Iterator[str]:
        if both := sorted({*self.shared} & {*self.drop}):
            yield f"shared and drop both name {', '.join(both)}"
        if self.sizes is None:
            return
        if len(self.sizes) != self.parties:
            yield f"sizes = {self.sizes}: give one for each of {self.parties} parties"
        elif not self._whole and abs(sum(self.sizes) - 1) > 1e-9:
            yield f"sizes = {self.sizes}: give whole numbers of columns, or fractions that sum to 1 (not {sum(self.sizes):g})"

    @property
    def _whole(self) -> bool:
        return self.sizes is not None and all(size == int(size) for size in self.sizes)

    def __call__(self, columns: Sequence[str], seed: int) -> dict[str, list[str]]:
        """The columns of each party.

        Raises:
            ConfigError: one that is named is not there, or there are not enough.
        """
        if strange := [name for name in (*self.shared, *self.drop) if name not in columns]:
            raise ConfigError(f"column '{strange[0]}' is not in the table; give some of: {', '.join(columns)}")
        dealt = [name for name in columns if name not in self.shared and name not in self.drop]
        if self.order == "random":
            dealt = [dealt[k] for k in rng(seed, "partition", "columns").permutation(len(dealt))]
        ends = np.cumsum(self._sizes(len(dealt))).tolist()
        parts = [dealt[start:end] for start, end in zip([0, *ends], ends, strict=False)]
        return {party: [*part, *self.shared] for party, part in zip(numbered(self.parties), parts, strict=True)}

    def _sizes(self, dealt: int) -> np.ndarray:
        if self.sizes is None:
            sizes = evenly(dealt, self.parties)
        elif self._whole:
            sizes = np.array(self.sizes, np.int64)
            if sizes.sum() != dealt:
                raise ConfigError(f"sizes sum to {sizes.sum()} columns, and {dealt} are dealt; change sizes, shared or drop")
        else:
            sizes = apportion(dealt, np.array(self.sizes), offset=0.5)
        if not sizes.all():
            raise ConfigError(
                f"{dealt} columns are dealt to {self.parties} parties, and party {sizes.argmin()} gets none; lower parties"
            )
        return sizes
