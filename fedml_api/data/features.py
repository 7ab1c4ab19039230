"""What the formats share that keep for each client the same features, one row per example."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fedml_api.data.split import ClientSplit, Columns, file_digest
from fedml_core.errors import DataError

KINDS = {"float": "f", "whole": "iu", "text": "OSU"}


@dataclass(frozen=True)
class Feature:
    """What a feature must be: `kind` of its elements ("float", "whole" or "text"), and the shape of one example's."""

    kind: str
    shape: tuple[int, ...] = ()

    def fault(self, found: Any) -> str | None:
        """What is wrong with a data set of this feature, in words."""
        shape = found.shape or ()
        flat = shape[1:] == (1,) and self.shape == ()
        # Elements of variable length are texts, or else lists.
        texts = (found.dtype.metadata or {}).get("vlen", str) in (str, bytes)
        if found.dtype.kind not in KINDS[self.kind] or not texts or not shape or (shape[1:] != self.shape and not flat):
            expected = f"{self.kind} [{', '.join(map(str, ('n', *self.shape)))}]"
            return f"holds {found.dtype if texts else 'lists'} {list(shape)}, not {expected}"
        return None


class FeatureSplit(ClientSplit):
    """A file of clients, read client by client.

    Args:
        features: those that are read, by name; `compact`: what is kept of them, a pure function of arrays.
        remedy: what to do when the file is damaged; `root`: where the checksum of a large file may be kept.
        rows: the feature whose rows are the examples; None if one row may become several.
        largest: rows of a client that are read at most.
    """

    def __init__(
        self,
        path: Path,
        features: Mapping[str, Feature],
        compact: Callable[[Columns], Columns],
        remedy: str,
        root: Path,
        rows: str | None = None,
        largest: int | None = None,
    ) -> None:
        self.path, self._features, self._compact, self._remedy, self._root = path, features, compact, remedy, root
        self._rows, self._largest = rows, largest
        if not path.is_file():
            raise DataError(f"{path}: not there; {remedy}")
        self.ids = tuple(sorted(self._clients()))

    @abstractmethod
    def _clients(self) -> Iterable[str]:
        """Their names.

        Raises:
            DataError: the file is of another format.
        """

    @abstractmethod
    def place(self, client: str) -> str:
        """What messages call the place of a client in the file."""

    @abstractmethod
    def _count(self, client: str) -> int:
        """How many rows a client of `ids` has."""

    @abstractmethod
    def _fetch(self, client: str, names: Sequence[str]) -> Columns:
        """These features of a client, neither checked nor longer than `largest`."""

    def __str__(self) -> str:
        return str(self.path)

    def __contains__(self, client: object) -> bool:
        return isinstance(client, str) and client in self._names

    @cached_property
    def _names(self) -> frozenset[str]:
        return frozenset(self.ids)

    @cached_property
    def fingerprint(self) -> str:  # type: ignore[override]
        return file_digest(self.path, self._root)

    def size(self, client: str) -> int:
        if client not in self:
            raise self.unknown(client)
        if self._rows is None:
            return len(next(iter(self.read(client).values())))
        rows = self._count(client)
        return rows if self._largest is None else min(rows, self._largest)

    def read(self, client: str, only: Sequence[str] | None = None) -> Columns:
        if client not in self:
            raise self.unknown(client)
        # A column that is asked for alone has the name of its feature.
        columns = self._fetch(client, tuple(self._features) if only is None else only)
        self._checked(client, columns)
        columns = {name: column if self._features[name].shape else column.reshape(-1) for name, column in columns.items()}
        try:
            return self._compact(columns)
        except DataError as error:
            raise self._error(self.place(client), str(error)) from None

    def _checked(self, client: str, found: Mapping[str, Any]) -> None:
        """Arrays, or data sets, which take longer to say what they hold."""
        for name, one in found.items():
            try:
                fault = self._features[name].fault(one)
            except (OSError, RuntimeError, ValueError, TypeError, AttributeError) as error:
                fault = f"cannot be read: {error}"
            if fault:
                raise self._error(f"{self.place(client)}/{name}", fault)
        if len({one.shape[0] for one in found.values()}) > 1:
            lengths = ", ".join(f"{name}: {one.shape[0]}" for name, one in found.items())
            raise self._error(self.place(client), f"has features of different lengths ({lengths})")

    def _error(self, place: str, fault: str) -> DataError:
        return DataError(f"{self.path}: {place} {fault}; {self._remedy}")
