"""What data sets share that come without clients: how many there are to be, and how the examples are spread over them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from msgspec import Meta
from torch import Tensor

from fedml_api.data.dataset import DataSource, FederatedDataset, data_sources
from fedml_api.data.decoded import Decoded, chosen
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
        name = data_sources.name_of(type(self)) + (" (validation)" if self.validation else "")
        return spread(train, test, self.clients, self.partition, seed, name, known=columns, skew=self.skew)

    def columns(self, seed: int, root: Path) -> tuple[Examples, Examples, Columns]:
        """Training examples, test examples, and all that is known of the former."""
        train, test = self.read(root)
        known = self.known(root)
        if self.validation:
            stays, goes = _rows(train, self.validation, seed, "validation")
            train, test = chosen(train, stays), chosen(train, goes)
            known = {column: values[stays.numpy()] for column, values in known.items()}
        return train, test, {**_at_hand(train), **known}


def spread(
    train: Examples,
    test: Examples,
    clients: int | None,
    partition: Partitioner,
    seed: int,
    name: str,
    classes: int | None = None,
    known: Columns | None = None,
    skew: FeatureSkew | None = None,
) -> FederatedDataset:
    """Examples with one label each, over clients; the test examples are dealt to match.

    Args:
        clients, skew: as in `PartitionedSource`; `known`: columns to partition by, if not those of the examples.
        classes: how many; if not given, as many as the training labels tell.
    """
    train_labels, test_labels = train.columns["y"].numpy(), test.columns["y"].numpy()
    train_parts = named(partition, _at_hand(train) if known is None else known, clients, seed)
    local = matching_split(test_labels, train_labels, list(train_parts.values()), seed)
    test_parts = dict(zip(train_parts, local, strict=True))
    if skew is not None:
        train = _skewed(skew, train, train_parts, seed, "train")
        test = _skewed(skew, test, test_parts, seed, "test")
    return FederatedDataset(train, test, train_parts, test_parts, int(train_labels.max()) + 1 if classes is None else classes, name)


def halves(examples: Examples, fraction: float, seed: int, field: str) -> tuple[Examples, Examples]:
    """Examples that stay and those that are held out, the same `fraction` of every class; `field` is the setting that says so.

    Raises:
        ConfigError: that is none, or all of them.
    """
    stays, goes = _rows(examples, fraction, seed, field)
    return chosen(examples, stays), chosen(examples, goes)


def _rows(examples: Examples, fraction: float, seed: int, field: str) -> tuple[Tensor, Tensor]:
    stays, goes = stratified_split(examples.columns["y"].numpy(), fraction, seed)
    if not len(stays) or not len(goes):
        what = "none; hold out more" if not len(goes) else "all; hold out fewer"
        raise ConfigError(f"data.{field} = {fraction}: of {len(examples)} examples that is {what}")
    return torch.from_numpy(stays), torch.from_numpy(goes)


def _at_hand(examples: Examples) -> Columns:
    """The columns that lie in memory, as arrays."""
    return {name: column.numpy() for name, column in examples.columns.items() if not isinstance(column, Decoded)}


def _skewed(skew: FeatureSkew, examples: Examples, parts: Mapping[str, np.ndarray], seed: int, part: str) -> Examples:
    if isinstance(examples.columns["x"], Decoded):
        raise ConfigError("data.skew: these inputs are decoded when they are used, and cannot be skewed; leave it out")
    x = examples.columns["x"].clone()
    for client, rows in enumerate(parts.values()):
        x[rows] = skew(x[rows], client, len(parts), seed, part)
    return Examples({**examples.columns, "x": x})
