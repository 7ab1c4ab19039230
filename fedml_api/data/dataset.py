"""FederatedDataset: who holds what."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from fedml_api.data.decoded import Decoded, content
from fedml_core.errors import DataError
from fedml_core.federation import ClientData
from fedml_core.settings import Registry
from fedml_core.trainer import Batch, Examples
from fedml_core.trainer.trainers import VOID

NO_ROWS = torch.empty(0, dtype=torch.int64)

Parts = Mapping[str, np.ndarray]


class Dataset(ClientData, Protocol):
    """What a run needs to know of its data; `FederatedDataset` and `VerticalDataset` are such.

    Attributes:
        classes: number of classes of column `y`, or None; `name`: what messages call it.
    """

    classes: int | None
    name: str

    @property
    def fingerprint(self) -> str:
        """SHA-256, equal exactly when two parties hold the same federated data."""
        ...

    def to(self, device: torch.device) -> Dataset:
        """The same data with its columns on `device`."""
        ...


class FederatedData(Dataset):
    """Examples of one kind, spread over clients, in memory or not: `FederatedDataset` and `LazyDataset` are such."""

    @property
    @abstractmethod
    def sizes(self) -> Mapping[str, int]:
        """Number of training examples by client."""

    @property
    def labelled(self) -> bool:
        """Whether every example is of one class, so that there is something to count."""
        labels = self.global_test.columns.get("y")
        return self.classes is not None and labels is not None and labels.dim() == 1

    @abstractmethod
    def label_counts(self) -> np.ndarray:
        """`[clients, classes]`: how many training examples of each class each client holds."""


class FederatedDataset(FederatedData):
    """Examples spread over clients, in columns that all of them share.

    Args:
        train: all training examples; `test`: the global test set, of the same columns.
        train_parts: rows of `train` by client id, in the order clients are listed and folded; `test_parts`: rows of `test`
            that resemble the client's own data (absent: clients have no local test set).
        classes: number of classes of column `y`, or None if the task has none.
        name: what the fingerprint and the pictures call it.

    A client's examples are a view of the shared columns: asking for them costs nothing and copies nothing.
    """

    def __init__(
        self,
        train: Examples,
        test: Examples,
        train_parts: Mapping[str, np.ndarray],
        test_parts: Mapping[str, np.ndarray] | None = None,
        classes: int | None = None,
        name: str = "data",
    ) -> None:
        if not train_parts:
            raise DataError(f"data set '{name}' has no clients")
        self._train_parts, self._test_parts = _Rows.of(train_parts), _Rows.of(test_parts or {})
        if problems := list(_problems(train, test, self._train_parts, self._test_parts, classes)):
            raise DataError("\n".join(f"data set '{name}': {problem}" for problem in problems))
        self.global_train, self.global_test = train, test
        self.classes, self.name = classes, name
        self.client_ids: Sequence[str] = tuple(train_parts)

    @classmethod
    def from_clients(
        cls,
        train: Mapping[str, Batch],
        test: Batch | Mapping[str, Batch],
        classes: int | None = None,
        name: str = "data",
    ) -> FederatedDataset:
        """The federated data set of clients that bring their own tensors.

        Args:
            train: each client's columns, e.g. `{"anna": {"x": ..., "y": ...}}`.
            test: the same columns of the global test set; or those of clients' own test sets, which together are the global one.
        """
        if not train:
            raise DataError(f"data set '{name}' has no clients")
        local = {client: batch for client, batch in test.items() if isinstance(batch, Mapping)}
        columns = {column: tensor for column, tensor in test.items() if isinstance(tensor, Tensor)}
        examples = Examples(_joined(train, next(iter(train.values())) if local else columns, name))
        held_out = Examples(_joined(local, examples.columns, name) if local else columns)
        return cls(examples, held_out, _parts(train), _parts(local), classes, name)

    def train(self, client: str) -> Examples:
        """The client's own training examples."""
        return self.global_train.subset(self._train_parts[client])

    def test(self, client: str) -> Examples:
        """The client's own test examples; none of them is among anybody's training examples."""
        return self.global_test.subset(self._test_parts.get(client, NO_ROWS))

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Number of training examples by client."""
        return {client: end - begin for client, (begin, end) in self._train_parts.places.items()}

    def label_counts(self) -> np.ndarray:
        """`[clients, classes]`: how many training examples of each class each client holds."""
        if not self.labelled or self.classes is None:
            raise DataError(f"data set '{self.name}' has no classes to count")
        labels = content(self.global_train)["y"]
        rows = [torch.bincount(labels[part], minlength=self.classes) for part in self._train_parts.values()]
        return torch.stack(rows).numpy()

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over every column and every client's rows: equal exactly when two parties hold the same federated data."""
        total = hashlib.sha256()
        for examples in (self.global_train, self.global_test):
            for name, column in sorted(content(examples).items()):
                update(total, name, column)
        for parts in (self._train_parts, self._test_parts):
            for client, rows in parts.items():
                update(total, client, rows)
        return total.hexdigest()

    def to(self, device: torch.device) -> FederatedDataset:
        """The same data with its columns on `device`."""
        moved = FederatedDataset.__new__(FederatedDataset)
        moved.__dict__.update(self.__dict__)
        moved.global_train, moved.global_test = self.global_train.to(device), self.global_test.to(device)
        moved._train_parts, moved._test_parts = self._train_parts.to(device), self._test_parts.to(device)
        return moved


@dataclass(frozen=True, eq=False)
class _Rows(Mapping[str, Tensor]):
    """Rows by client, int64, all in one tensor: a hundred thousand clients are checked, moved and kept like one."""

    rows: Tensor
    places: dict[str, tuple[int, int]]

    @classmethod
    def of(cls, parts: Mapping[str, np.ndarray]) -> _Rows:
        arrays = [np.asarray(rows, dtype=np.int64) for rows in parts.values()]
        ends = np.cumsum([0, *map(len, arrays)]).tolist()
        rows = torch.from_numpy(np.concatenate([np.empty(0, dtype=np.int64), *arrays]))
        return cls(rows, dict(zip(parts, pairwise(ends), strict=True)))

    def __getitem__(self, client: str) -> Tensor:
        begin, end = self.places[client]
        return self.rows[begin:end]

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)

    def to(self, device: torch.device) -> _Rows:
        return replace(self, rows=self.rows.to(device))


def _joined(clients: Mapping[str, Batch], columns: Iterable[str], name: str) -> Batch:
    """The rows of all clients, one client after the other."""
    for client, batch in clients.items():
        rows = {column: len(tensor) for column, tensor in batch.items()}
        if set(batch) != set(columns) or len(set(rows.values())) != 1:
            raise DataError(
                f"data set '{name}': client '{client}' has {rows} rows; needed are {', '.join(columns)}, of equal length"
            )
    return {column: torch.cat([batch[column] for batch in clients.values()]) for column in columns}


def _parts(clients: Mapping[str, Batch]) -> dict[str, np.ndarray]:
    """Where the rows of each client lie among those of all."""
    ends = np.cumsum([0, *(len(next(iter(batch.values()))) for batch in clients.values())])
    return {client: np.arange(ends[k], ends[k + 1]) for k, client in enumerate(clients)}


def _problems(train: Examples, test: Examples, train_parts: _Rows, test_parts: _Rows, classes: int | None) -> Iterator[str]:
    for what, examples, parts in (("train", train, train_parts), ("test", test, test_parts)):
        if not isinstance(examples, Examples):
            yield f"{what} must be Examples, not a {type(examples).__name__}: Examples({{'x': ..., 'y': ...}})"
            return
        low, high = _range(parts.rows)
        for client, rows in parts.items() if low < 0 or high >= len(examples) else ():
            low, high = _range(rows)
            if low < 0 or high >= len(examples):
                yield f"client '{client}' has {what} rows from {low} to {high}; there are {len(examples)}"
        labels = examples.columns.get("y")
        if classes is not None and labels is not None and len(labels):
            if labels.dim() > 1:  # of pixels or nodes, of which some have no class
                labels = torch.where(labels == VOID, 0, labels)
            low, high = int(labels.min()), int(labels.max())
            if low < 0 or high >= classes:
                yield f"{what} labels go from {low} to {high}; with {classes} classes they are 0 to {classes - 1}"


def _range(rows: Tensor) -> tuple[int, int]:
    """The smallest and the largest; 0 and -1 if there are none."""
    return (int(rows.min()), int(rows.max())) if len(rows) else (0, -1)


def update(total: hashlib._Hash, name: str, tensor: Tensor) -> None:
    """Make a column part of a fingerprint."""
    total.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
    total.update(tensor.fingerprint.encode() if isinstance(tensor, Decoded) else tensor.contiguous().numpy().data)


class DataSource(ABC):
    """Settings that can be loaded into a data set: which data set, how many clients, how it is spread over them.

    Attributes:
        names: of its files in `folder`; none where the data are drawn or lie in an installed package. `how_to_get`: them, in words.
    """

    names: ClassVar[tuple[str, ...]] = ()
    how_to_get: ClassVar[str] = ""

    @abstractmethod
    def load(self, seed: int, root: Path) -> Dataset:
        """Read the files (below `root`, or from an installed package) and spread the examples over clients.

        Raises:
            DataError: the files are absent (the message says how to get them) or malformed.
        """

    def folder(self, root: Path) -> Path:
        return root / data_sources.name_of(type(self))

    def files(self, root: Path) -> Sequence[Path]:
        """The files that are read, below `root` or in an installed package."""
        return [self.folder(root) / name for name in self.names]

    def remedy(self, root: Path) -> str:
        """What to do where a file is missing or damaged, in words."""
        return f"put {' and '.join(self.names)} into {self.folder(root)} ({self.how_to_get})"

    def present(self, root: Path) -> Sequence[Path]:
        """The files.

        Raises:
            DataError: one is not there.
        """
        if missing := [path for path in self.files(root) if not path.exists()]:
            raise DataError(f"{missing[0]}: not there; {self.remedy(root)}")
        return self.files(root)


data_sources: Registry[DataSource] = Registry("data set", DataSource)
