"""What data sets share that come with clients of their own."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from fedml_api.data.dataset import DataSource, data_sources
from fedml_api.data.lazy import LazyDataset
from fedml_api.data.mapped import code_of, identity
from fedml_api.data.packed import packed
from fedml_api.data.split import ClientSplit, Columns, GroupedSplit
from fedml_core.errors import ConfigError
from fedml_core.rng import rng
from fedml_core.settings import settings, to_plain
from fedml_core.trainer import Batch


@settings
class NaturalSource(DataSource):
    """A data set whose examples belong to somebody: a writer, a speaker, a user.

    Args:
        clients: how many; as many as the data have, if not given. Another number needs `regroup`.
        regroup: `sample` takes so many of the natural clients, drawn with the seed; `merge` deals all of them to so many, named
            "0", "1", ...
        packed: whether the clients are put into files that are mapped, below `data_folder/cache`, when the data set is first used.
    """

    clients: Annotated[int, Meta(ge=1)] | None = None
    regroup: Literal["none", "sample", "merge"] = "none"
    packed: bool = False
    classes: ClassVar[int | None] = None
    label: ClassVar[str | None] = None
    tests: ClassVar[int | None] = None
    # Tokens that stand for no word, for the accuracy of language models.
    special: ClassVar[tuple[int, ...]] = ()

    @abstractmethod
    def splits(self, root: Path) -> tuple[ClientSplit, ClientSplit]:
        """Training and test split, as the official files have them."""

    @abstractmethod
    def expand(self, columns: Columns) -> Batch:
        """Columns as the splits hold them -> columns to train on, row by row."""

    def number_of_classes(self) -> int | None:
        return self.classes

    def number_of_tests(self) -> int | None:
        return self.tests

    def problems(self) -> list[str]:
        if self.regroup != "none" and self.clients is None:
            return [f"regroup = '{self.regroup}': say how many clients there are to be (clients=...)"]
        return []

    def load(self, seed: int, root: Path) -> LazyDataset:
        name = data_sources.name_of(type(self))
        train, test = self._packed(root) if self.packed else self.splits(root)
        held_out = test
        if self.clients not in (None, len(train.ids)) or self.regroup == "merge":
            groups = self._groups(train.ids, seed, name)
            train, test = GroupedSplit(train, groups), GroupedSplit(test, groups)
            name += f" ({self.clients} {self.regroup}d)"
        about = json.dumps({**to_plain(self), "packed": None}, sort_keys=True)
        classes, tests = self.number_of_classes(), self.number_of_tests()
        return LazyDataset(train, test, self.expand, classes, self.label, tests, held_out, name, about, self.special)

    def _packed(self, root: Path) -> tuple[ClientSplit, ClientSplit]:
        plain = {**to_plain(self), "clients": None, "regroup": None}
        about = [code_of(type(self)), plain, [identity(path) for path in self.present(root)]]
        made: list[ClientSplit] = []

        def make(k: int) -> ClientSplit:
            made[:] = made or self.splits(root)
            return made[k]

        train, test = (packed(lambda k=k: make(k), [which, *about], root) for k, which in enumerate(("train", "test")))
        return train, test

    def _groups(self, ids: Sequence[str], seed: int, name: str) -> dict[str, Sequence[str]]:
        """The natural clients in each client."""
        wanted, there = self.clients or len(ids), len(ids)
        if self.regroup == "none" or wanted > there:
            fewer = f"data.regroup=sample for {wanted} of them, or data.regroup=merge for all in {wanted} groups"
            raise ConfigError(
                f"data.clients = {wanted}: {name} has {there:,} clients of its own; leave data.clients out"
                + (f", or say {fewer}" if wanted <= there else ", or ask for fewer")
            )
        order = rng(seed, "regroup", self.regroup).permutation(there).tolist()
        if self.regroup == "sample":
            return {ids[k]: (ids[k],) for k in sorted(order[:wanted])}
        return {str(group): [ids[k] for k in sorted(order[group::wanted])] for group in range(wanted)}
