"""LazyDataset: a federated data set of which only those clients are read that take part."""

from __future__ import annotations

import copy
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from fedml_api.data.dataset import FederatedData
from fedml_api.data.decoded import all_rows, examples_of
from fedml_api.data.split import ClientSplit, Columns, joined
from fedml_core.errors import DataError
from fedml_core.rng import rng
from fedml_core.trainer import Batch, Examples

# Bytes of columns that are kept for clients that come again: a few dozen clients of the usual sets.
ROOM = 64 << 20
# Which examples are the global test set is part of what a data set is, not of a run.
TEST_SEED = 0


class LazyExamples(Examples):
    """Examples that are read when somebody looks at them. Until then, only how many there are can be asked."""

    def __init__(self, size: Callable[[], int], read: Callable[[], Batch]) -> None:
        self._size, self._read = size, read

    def __len__(self) -> int:
        return super().__len__() if "columns" in self.__dict__ else self._size()

    @cached_property
    def columns(self) -> Batch:  # type: ignore[override]
        return self._read()

    @cached_property
    def index(self) -> Tensor | None:  # type: ignore[override]
        return all_rows(self.columns)


class LazyDataset(FederatedData):
    """Clients whose examples are read on demand; opening it takes as long for one client as for many.

    Args:
        train, test: who holds what. Clients are those of `train`, and those who are not in `test` have no test examples.
        held_out: whose examples are the global test set; those of `test`, if not given.
        expand: columns as they are stored to columns as they are trained on, row by row: a pure function.
        label: the stored column with one class for each example, if there is one.
        tests: how many examples of it are used (all, if None): those of clients drawn at random.
        about: what else the data depend on, for the fingerprint.
        special: tokens that stand for no word, such as the beginning and the end of a sentence; -1 is the last.
    """

    def __init__(
        self,
        train: ClientSplit,
        test: ClientSplit,
        expand: Callable[[Columns], Batch],
        classes: int | None = None,
        label: str | None = None,
        tests: int | None = None,
        held_out: ClientSplit | None = None,
        name: str = "data",
        about: str = "",
        special: tuple[int, ...] = (),
    ) -> None:
        if not len(train.ids):
            raise DataError(f"data set '{name}': {train} has no clients")
        self._train, self._test, self._expand, self._label, self._tests = train, test, expand, label, tests
        self._held_out = held_out or test
        self._about, self._device = about, torch.device("cpu")
        self._recent: OrderedDict[tuple[str, str], Batch] = OrderedDict()
        self._held = 0  # bytes of these
        self.client_ids, self.classes, self.name, self.special = train.ids, classes, name, special

    def train(self, client: str) -> Examples:
        if client not in self._train:
            raise self._train.unknown(client)
        return self._examples("train", self._train, client)

    def test(self, client: str) -> Examples:
        return self._examples("test", self._test, client) if client in self._test else self._none

    @property
    def sizes(self) -> Mapping[str, int]:
        return self._train.sizes()

    @cached_property
    def fingerprint(self) -> str:  # type: ignore[override]
        """SHA-256 over what the splits are made from and how."""
        text = f"{self._train.fingerprint} {self._test.fingerprint} {self._held_out.fingerprint} {self._tests} {self._about}"
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def labelled(self) -> bool:
        return self._label is not None

    def label_counts(self) -> np.ndarray:
        if self._label is None or self.classes is None:
            raise DataError(f"data set '{self.name}' has no classes to count")
        labels = (self._train.read(client, [self._label])[self._label] for client in self.client_ids)
        return np.stack([np.bincount(one.astype(np.int64), minlength=self.classes) for one in labels])

    @cached_property
    def global_test(self) -> Examples:  # type: ignore[override]
        """The test examples of all clients, in their order, or of as many as make `tests` examples."""
        ids, wanted = self._held_out.ids, self._tests
        if wanted is None:
            return self._opened([self._held_out.read(client) for client in ids])
        found, parts = 0, {}
        for k in rng(TEST_SEED, "global test").permutation(len(ids)).tolist():
            if found >= wanted:
                break
            columns = self._held_out.read(ids[k])
            rows = min(wanted - found, _rows(columns))
            parts[k] = {name: column[:rows] for name, column in columns.items()}
            found += rows
        return self._opened([parts[k] for k in sorted(parts)])

    def to(self, device: torch.device) -> LazyDataset:
        moved = copy.copy(self)
        moved._device, moved._recent, moved._held = device, OrderedDict(), 0
        for name in ("global_test", "_none"):
            if name in self.__dict__:
                moved.__dict__[name] = self.__dict__[name].to(device)
        return moved

    @cached_property
    def _none(self) -> Examples:
        first = self._train.read(self.client_ids[0])
        return self._opened([{name: column[:0] for name, column in first.items()}])

    def _opened(self, parts: list[Columns]) -> Examples:
        if not parts:
            return self._none
        return examples_of(self._expand(joined(parts))).to(self._device)

    def _examples(self, which: str, split: ClientSplit, client: str) -> Examples:
        return LazyExamples(lambda: split.size(client), lambda: self._batch(which, split, client))

    def _batch(self, which: str, split: ClientSplit, client: str) -> Batch:
        key = (which, client)
        if key in self._recent:
            self._recent.move_to_end(key)
            return self._recent[key]
        batch = {name: column.to(self._device) for name, column in self._expand(split.read(client)).items()}
        self._recent[key] = batch
        self._held += _bytes(batch)
        while self._held > ROOM:
            self._held -= _bytes(self._recent.popitem(last=False)[1])
        return batch


def _rows(columns: Columns) -> int:
    return len(next(iter(columns.values())))


def _bytes(batch: Batch) -> int:
    return sum(column.nbytes for column in batch.values())
