"""What data sets share that come without clients: how many there are to be, and how the examples are spread over them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from msgspec import Meta

from fedml_api.data.dataset import DataSource, FederatedDataset, data_sources
from fedml_core.errors import ConfigError
from fedml_core.partition import Columns, Dirichlet, FeatureSkew, Partitioner, matching_split, named, stratified_split
from fedml_core.settings import settings
from fedml_core.trainer import Examples


@settings
class PartitionedSource(DataSource):
    """A labelled data set, spread over clients named "0", "1", ...; registering a class that can `read` its files adds one.

    Args:
        clients: how many; if not given, as many as the partition has of its own (and by the names it has for them), or 100.
        partition: which of them holds which training example. The test examples are dealt to match.
        validation: fraction of the training examples, the same of every class, that takes the place of the test set, so that
            settings can be tuned without looking at it.
        skew: how the inputs of clients differ, training and test examples alike; those of the global test set are its clients'.
    """

    clients: Annotated[int, Meta(ge=1)] | None = None
    partition: Partitioner = Dirichlet(alpha=0.3)
    validation: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    skew: FeatureSkew | None = None

    @abstractmethod
    def read(self, root: Path) -> tuple[Examples, Examples]:
        """Training and test examples: columns `x` (float32 `[n, ...]`) and `y` (int64 `[n]`), always in the same order."""

    def known(self, root: Path) -> Mapping[str, np.ndarray]:
        """What else is known of each training example, one row for each: columns to partition by that nobody trains on."""
        return {}

    def load(self, seed: int, root: Path) -> FederatedDataset:
        train, test, columns = self.columns(seed, root)
        train_parts = named(self.partition, columns, self.clients, seed)
        train_labels, test_labels = train.columns["y"].numpy(), test.columns["y"].numpy()
        local = matching_split(test_labels, train_labels, list(train_parts.values()), seed)
        test_parts = dict(zip(train_parts, local, strict=True))
        if self.skew is not None:
            train = _skewed(self.skew, train, train_parts, seed, "train")
            test = _skewed(self.skew, test, test_parts, seed, "test")
        name = data_sources.name_of(type(self)) + (" (validation)" if self.validation else "")
        return FederatedDataset(train, test, train_parts, test_parts, classes=int(train_labels.max()) + 1, name=name)

    def columns(self, seed: int, root: Path) -> tuple[Examples, Examples, Columns]:
        """Training examples, test examples, and all that is known of the former."""
        train, test = self.read(root)
        known = self.known(root)
        if self.validation:
            rest, held_out = stratified_split(train.columns["y"].numpy(), self.validation, seed)
            if not len(held_out):
                raise ConfigError(f"data.validation = {self.validation}: of {len(train)} examples that is none; hold out more")
            train, test = Examples(train.take(torch.from_numpy(rest))), Examples(train.take(torch.from_numpy(held_out)))
            known = {column: values[rest] for column, values in known.items()}
        return train, test, {column: values.numpy() for column, values in train.columns.items()} | dict(known)


def _skewed(skew: FeatureSkew, examples: Examples, parts: Mapping[str, np.ndarray], seed: int, part: str) -> Examples:
    x = examples.columns["x"].clone()
    for client, rows in enumerate(parts.values()):
        x[rows] = skew(x[rows], client, len(parts), seed, part)
    return Examples({**examples.columns, "x": x})
