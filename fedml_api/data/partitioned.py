"""What data sets share that come without clients: how many there are to be, and how the examples are spread over them."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from msgspec import Meta

from fedml_api.data.dataset import DataSource, FederatedDataset, data_sources
from fedml_core.errors import ConfigError
from fedml_core.partition import Dirichlet, Partitioner, matching_split, stratified_split
from fedml_core.settings import settings
from fedml_core.trainer import Examples


@settings
class PartitionedSource(DataSource):
    """A labelled data set, spread over clients named "0", "1", ...; registering a class that can `read` its files adds one.

    Args:
        clients: how many; `partition`: which of them holds which training example. The test examples are dealt to match.
        validation: fraction of the training examples, the same of every class, that takes the place of the test set, so that
            settings can be tuned without looking at it.
    """

    clients: Annotated[int, Meta(ge=1)] = 100
    partition: Partitioner = Dirichlet(alpha=0.3)
    validation: Annotated[float, Meta(ge=0, lt=1)] = 0.0

    @abstractmethod
    def read(self, root: Path) -> tuple[Examples, Examples]:
        """Training and test examples: columns `x` (float32 `[n, ...]`) and `y` (int64 `[n]`), always in the same order."""

    def load(self, seed: int, root: Path) -> FederatedDataset:
        train, test = self.read(root)
        name = data_sources.name_of(type(self))
        if self.validation:
            rest, held_out = stratified_split(train.columns["y"].numpy(), self.validation, seed)
            if not len(held_out):
                raise ConfigError(f"data.validation = {self.validation}: of {len(train)} examples that is none; hold out more")
            train, test = Examples(train.take(torch.from_numpy(rest))), Examples(train.take(torch.from_numpy(held_out)))
            name += " (validation)"
        parts = dealt(train, test, self.clients, self.partition, seed)
        return FederatedDataset(train, test, *parts, classes=int(train.columns["y"].max()) + 1, name=name)


def dealt(
    train: Examples, test: Examples, clients: int, partition: Partitioner, seed: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Rows of `train` and of `test` by client, "0", "1", ...: as `partition` says, and such as match."""
    train_labels, test_labels = train.columns["y"].numpy(), test.columns["y"].numpy()
    train_parts = partition(train_labels, clients, seed)
    test_parts = matching_split(test_labels, train_labels, train_parts, seed)
    ids = [str(client) for client in range(clients)]
    return dict(zip(ids, train_parts, strict=True)), dict(zip(ids, test_parts, strict=True))
