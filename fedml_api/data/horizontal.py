"""Tables about people, spread over clients that know the same columns of different people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
import torch
from msgspec import Meta

from fedml_api.data.adult import Adult
from fedml_api.data.credit import Credit, LendingClubSample
from fedml_api.data.dataset import DataSource, FederatedDataset, data_sources
from fedml_api.data.packaged import SPLIT_SEED
from fedml_api.data.partitioned import spread
from fedml_api.data.tables import Columns, TableSource, features
from fedml_core.errors import ConfigError
from fedml_core.partition import Dirichlet, Partitioner, natural, stratified_split
from fedml_core.settings import settings
from fedml_core.trainer import Examples


@settings
class HorizontalSource(DataSource):
    """The people of a table over clients; registering a class that says which `table` adds one.

    Columns: `x`, float32 `[n, features]`, as `tables.features` makes them of all training people together, which the clients would
    have to agree on; `y`, int64 `[n]`.

    Args:
        by: the column of texts whose values are the clients, by name, each with its own test people; it is no feature then.
        clients: how many there are otherwise, 100 if not given; `partition`: who of them has whom.
        test: the share of people who are the test set, the same of every class, in every run the same people.
    """

    table: ClassVar[TableSource]
    by: str | None = None
    clients: Annotated[int, Meta(ge=1)] | None = None
    partition: Partitioner = Dirichlet(alpha=0.3)
    test: Annotated[float, Meta(gt=0, lt=1)] = 0.3

    def problems(self) -> list[str]:
        if self.by is not None and self.clients is not None:
            return [f"by = '{self.by}' and clients = {self.clients}: the column says who the clients are; leave one of them out"]
        return []

    def files(self, root: Path) -> Sequence[Path]:
        return self.table.files(root)

    def load(self, seed: int, root: Path) -> FederatedDataset:
        columns, labels = self.table.read(root)
        name = data_sources.name_of(type(self)) + (f" by {self.by}" if self.by else "")
        halves = stratified_split(labels, self.test, SPLIT_SEED)
        names = [column for group in self.table.groups[2].values() for column in group if column != self.by]
        x = features(*({column: columns[column][rows] for column in names} for rows in halves))
        train, test = (
            Examples({"x": torch.from_numpy(part), "y": torch.from_numpy(labels[rows])})
            for part, rows in zip(x, halves, strict=True)
        )
        classes = int(labels.max()) + 1
        if self.by is None:
            return spread(train, test, self.clients, self.partition, seed, name, classes)
        owners = self._owners(columns)
        mine, held_out = (natural(owners[rows]) for rows in halves)
        own = {client: rows for client, rows in held_out.items() if client in mine}
        return FederatedDataset(train, test, mine, own, classes, name)

    def _owners(self, columns: Columns) -> np.ndarray:
        texts = [name for group in self.table.groups[2].values() for name in group if columns[name].dtype == object]
        if self.by not in texts:
            raise ConfigError(f"data.by = '{self.by}': must be one of {', '.join(texts)}")
        owners = columns[self.by].astype(str)
        return np.where(owners == "", "unknown", owners)


@data_sources.register("adult_horizontal")
@settings
class AdultHorizontal(HorizontalSource):
    """`adult` over clients: 22,793 people for training, 9,768 for testing; by workclass (9 clients), education (16), ..."""

    table: ClassVar[TableSource] = Adult()


@data_sources.register("credit_horizontal")
@settings
class CreditHorizontal(HorizontalSource):
    """`credit` over clients: 3,118 people for training, 1,336 for testing; by Home, Job, ..."""

    table: ClassVar[TableSource] = Credit()


@data_sources.register("lending_club_sample_horizontal")
@settings
class LendingClubHorizontal(HorizontalSource):
    """`lending_club_sample` over clients: 6,900 loans for training, 2,957 for testing; by addr_state (50 states), ..."""

    table: ClassVar[TableSource] = LendingClubSample()
