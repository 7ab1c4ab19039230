"""What data sets of devices share, of which each knows what is ordinary for it: the task of N-BaIoT."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Annotated

import numpy as np
import torch
from msgspec import Meta

from fedml_api.data.natural import NaturalSource
from fedml_api.data.split import ClientSplit, Columns, HeldSplit
from fedml_core.errors import DataError
from fedml_core.settings import settings
from fedml_core.trainer import Batch

# Where the numbers of a column differ by less than this share of their size, they differ by rounding.
ROUNDING = 1e-9


@settings
class DeviceSource(NaturalSource):
    """Devices that learn from their ordinary readings, to find what is out of the ordinary among later ones.

    Columns: `x`, float32 `[n, features]`; `y`, 1 where something is out of the ordinary: never in training, where all is ordinary.
    Each feature is the distance from its mean in standard deviations, both over the device's own training examples alone.

    Args:
        train: the share of a device's ordinary examples, the earliest ones, that it trains on; the later ones are for testing.
    """

    train: Annotated[float, Meta(gt=0, lt=1)] = 0.4

    def expand(self, columns: Columns) -> Batch:
        return {"x": torch.from_numpy(columns["x"]), "y": torch.from_numpy(columns["y"].astype(np.int64))}

    def halves(self, device: str, train: np.ndarray, ordinary: np.ndarray, events: np.ndarray) -> tuple[Columns, Columns]:
        """Training and test columns of a device: ordinary examples to train on, later ones, and examples of something else."""
        if not len(train) or not len(ordinary):
            raise DataError(
                f"device '{device}': data.train = {self.train} leaves {len(train)} ordinary examples to train on and "
                f"{len(ordinary)} to test on; both must have some"
            )
        mean, deviation = train.mean(0), train.std(0)
        deviation = np.where(deviation > ROUNDING * np.abs(train).max(0), deviation, 1)
        kinds = np.repeat(np.array([0, 1], np.uint8), [len(ordinary), len(events)])
        with np.errstate(over="ignore", invalid="ignore"):
            x = [((part - mean) / deviation).astype(np.float32) for part in (train, np.concatenate([ordinary, events]))]
        if not all(np.isfinite(part).all() for part in x):
            raise DataError(f"device '{device}': a feature has numbers too large for single precision; the file is damaged")
        return {"x": x[0], "y": np.zeros(len(train), np.uint8)}, {"x": x[1], "y": kinds}


class DeviceSplit(ClientSplit):
    """A device's columns as `read` returns them, which is asked when they are looked at; the last ones are kept."""

    def __init__(self, ids: Sequence[str], read: Callable[[str], Columns], source: str, fingerprint: str) -> None:
        self.ids, self.fingerprint = tuple(sorted(ids)), fingerprint
        self._read, self._source = lru_cache(maxsize=1)(read), source

    def __str__(self) -> str:
        return self._source

    def __contains__(self, client: object) -> bool:
        return client in self.ids

    def size(self, client: str) -> int:
        return len(self.read(client)["y"])

    def read(self, client: str, only: Sequence[str] | None = None) -> Columns:
        if client not in self:
            raise self.unknown(client)
        columns = self._read(client)
        return {name: columns[name] for name in only or columns}


def held(halves: dict[str, tuple[Columns, Columns]], source: object) -> tuple[ClientSplit, ClientSplit]:
    """Training and test split of devices that are in memory."""
    train, test = (HeldSplit({device: parts[k] for device, parts in halves.items()}, str(source)) for k in range(2))
    return train, test
