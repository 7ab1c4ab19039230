"""What data sets share that come without clients: how many there are to be, and how the examples are spread over them."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Annotated

import torch
from msgspec import Meta

from fedml_api.data.dataset import DataSource, FederatedDataset, data_sources
from fedml_api.data.decoded import chosen
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
            train, test = halves(train, self.validation, seed, "validation")
            name += " (validation)"
        return spread(train, test, self.clients, self.partition, seed, name)


def spread(
    train: Examples, test: Examples, clients: int, partition: Partitioner, seed: int, name: str, classes: int | None = None
) -> FederatedDataset:
    """Examples with one label each, over clients named "0", "1", ...; the test examples are dealt to match.

    Args:
        classes: how many; if not given, as many as the training labels tell.
    """
    train_labels, test_labels = train.columns["y"].numpy(), test.columns["y"].numpy()
    train_parts = partition(train_labels, clients, seed)
    test_parts = matching_split(test_labels, train_labels, train_parts, seed)
    ids = [str(client) for client in range(clients)]
    return FederatedDataset(
        train,
        test,
        dict(zip(ids, train_parts, strict=True)),
        dict(zip(ids, test_parts, strict=True)),
        classes=int(train_labels.max()) + 1 if classes is None else classes,
        name=name,
    )


def halves(examples: Examples, fraction: float, seed: int, field: str) -> tuple[Examples, Examples]:
    """Examples that stay and those that are held out, the same `fraction` of every class; `field` is the setting that says so.

    Raises:
        ConfigError: that is none, or all of them.
    """
    stays, goes = stratified_split(examples.columns["y"].numpy(), fraction, seed)
    if not len(stays) or not len(goes):
        what = "none; hold out more" if not len(goes) else "all; hold out fewer"
        raise ConfigError(f"data.{field} = {fraction}: of {len(examples)} examples that is {what}")
    return chosen(examples, torch.from_numpy(stays)), chosen(examples, torch.from_numpy(goes))
