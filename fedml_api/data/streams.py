"""Tables whose rows come to the nodes of a network one after the other, for online learning."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
import torch
from msgspec import Meta

from fedml_api.data.dataset import DataSource, FederatedDataset, data_sources
from fedml_api.data.numbers import read_numbers
from fedml_core.errors import ConfigError, DataError
from fedml_core.settings import settings
from fedml_core.trainer import Examples

Table = tuple[np.ndarray, np.ndarray]


@settings
class StreamSource(DataSource):
    """Rows in the order of a file, dealt to nodes "0", "1", ... in turn; a node's examples are its stream, in the order they come.

    Columns: `x`, float32 `[n, features]`, each the distance from its mean in standard deviations, over all streams; `y`, int64, 0
    or 1. `online_pushsum`, and `dpsgd` with `local: {name: stream, ...}`, take as many of each node in every round as
    `local.batch_size` says. Nodes have no test examples: what counts is the loss before learning (`fedml_api/run/regret.py`).

    Args:
        clients: how many nodes; `length`: rows that come to each; where it is not given, as many as there are.
        skew: the share of every stream, from its beginning, by which the nodes differ: these rows are dealt by where they lie in
            the direction in which they vary most (their first principal component), a stretch of it to each node. He et al. (arXiv
            1910.04956, 2019) take clusters, which differ in size.
    """

    clients: Annotated[int, Meta(ge=1)] = 16
    length: Annotated[int, Meta(ge=1)] | None = None
    skew: Annotated[float, Meta(ge=0, le=1)] = 0.0

    @abstractmethod
    def read(self, root: Path, rows: int | None) -> tuple[Table, Table]:
        """Features `[n, features]` and labels `[n]` of the first `rows` (all, if None) for the streams, and those for testing."""

    def load(self, seed: int, root: Path) -> FederatedDataset:
        wanted = None if self.length is None else self.clients * self.length
        (x, y), held_out = self.read(root, wanted)
        length = len(x) // self.clients if self.length is None else self.length
        if not length or len(x) < self.clients * length:
            raise ConfigError(
                f"data.clients = {self.clients} and data.length = {self.length}: there are {len(x)} rows to come; lower one of them"
            )
        x, y = x[: self.clients * length], y[: self.clients * length]
        mean, deviation = x.mean(0), x.std(0)
        deviation = np.where(deviation > 0, deviation, 1)
        streams, test = (
            Examples({"x": torch.from_numpy(((one - mean) / deviation).astype(np.float32)), "y": torch.from_numpy(labels)})
            for one, labels in ((x, y), held_out)
        )
        parts = self._dealt(streams.columns["x"].numpy().astype(np.float64))
        return FederatedDataset(streams, test, parts, classes=2, name=data_sources.name_of(type(self)))

    def _dealt(self, x: np.ndarray) -> dict[str, np.ndarray]:
        """The rows of each stream, in the order they come."""
        early, late = np.split(np.arange(len(x)), [round(self.skew * len(x) / self.clients) * self.clients])
        order = early[np.argsort(x[early] @ _direction(x[early]), kind="stable")] if len(early) else early
        stretches = np.array_split(order, self.clients)
        return {str(k): np.concatenate([np.sort(part), late[k :: self.clients]]) for k, part in enumerate(stretches)}


def _direction(x: np.ndarray) -> np.ndarray:
    """The first principal component; of its two signs that by which its largest number is above zero."""
    first = np.linalg.eigh(np.cov(x.T))[1][:, -1]
    return first * np.sign(first[np.abs(first).argmax()])


def _labels(values: np.ndarray, path: Path) -> np.ndarray:
    if not np.isin(values, (0, 1)).all():
        raise DataError(f"{path}: labels go from {values.min():g} to {values.max():g}, and are not 0 and 1 alone")
    return values.astype(np.int64)


@data_sources.register("susy")
@settings
class Susy(StreamSource):
    """SUSY: simulated collisions of particles, with supersymmetric ones or not; 18 features, 5,000,000 rows for training (UCI).

    `SUSY.csv`, or `SUSY.csv.gz` as UCI has it, in `data_folder/susy/`; of it as many rows are read as are needed. Baldi, Sadowski
    and Whiteson, Nature Communications 5, 2014.

    Args:
        test: rows for testing, those that follow the streams. (Published results are on the last 500,000.)
    """

    length: Annotated[int, Meta(ge=1)] = 2000
    test: Annotated[int, Meta(ge=1)] = 10_000
    how_to_get: ClassVar[str] = "get SUSY.csv.gz of archive.ics.uci.edu/dataset/279 into {folder}"

    def files(self, root: Path) -> Sequence[Path]:
        plain, packed = (root / "susy" / name for name in ("SUSY.csv", "SUSY.csv.gz"))
        return [plain if plain.exists() else packed]

    def read(self, root: Path, rows: int | None) -> tuple[Table, Table]:
        (path,), rows = self.files(root), self.clients * self.length
        remedy = self.how_to_get.format(folder=path.parent)
        table = read_numbers(path, 19, header=0, most=rows + self.test, remedy=remedy)
        if len(table) < rows + self.test:
            raise ConfigError(
                f"data.clients = {self.clients}, data.length = {self.length} and data.test = {self.test} need {rows + self.test} "
                f"rows; {path} has {len(table)}: lower one of them, or {remedy}"
            )
        x, y = table[:, 1:], _labels(table[:, 0], path)
        return (x[:rows], y[:rows]), (x[rows:], y[rows:])


ROOM = ("date", "Temperature", "Humidity", "Light", "CO2", "HumidityRatio", "Occupancy")


@data_sources.register("room_occupancy")
@settings
class RoomOccupancy(StreamSource):
    """Room Occupancy: whether somebody is in an office, every minute; 5 features, 8,143 rows for training (UCI's text files).

    `datatraining.txt` comes in the streams, 8,143 rows; `datatest.txt` and `datatest2.txt`, 2,665 and 9,752 rows, are for testing.
    Features: temperature, humidity, light, CO2, and the ratio of humidity; in `data_folder/room_occupancy/`. Candanedo and
    Feldheim, Energy and Buildings 112, 2016.
    """

    how_to_get: ClassVar[str] = "unpack the archive of archive.ics.uci.edu/dataset/357 in {folder}"

    def files(self, root: Path) -> Sequence[Path]:
        return [root / "room_occupancy" / name for name in ("datatraining.txt", "datatest.txt", "datatest2.txt")]

    def read(self, root: Path, rows: int | None) -> tuple[Table, Table]:
        streams, *tests = (self._table(path) for path in self.files(root))
        x, y = (np.concatenate(parts) for parts in zip(*tests, strict=True))
        return streams, (x, y)

    def _table(self, path: Path) -> Table:
        remedy = self.how_to_get.format(folder=path.parent)
        # The rows begin with their number, which the header does not name.
        table = read_numbers(path, 6, remedy=remedy, use=range(2, 8))
        with path.open(encoding="utf-8") as file:
            header = tuple(name.strip('"') for name in file.readline().strip().split(","))
        if header != ROOM:
            raise DataError(f"{path}: its columns are {', '.join(header)}, not {', '.join(ROOM)}; {remedy}")
        return table[:, :5], _labels(table[:, 5], path)
