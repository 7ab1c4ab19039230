"""Partitions in files: made once, used again by whoever has the same data.

A file is JSON: `format`; `about`, what it was made from, for people to read; `examples`, how many there are; `labels`, the SHA-256
of the column `y`; `clients`, the rows of each client by its name, in its order; and `sha256`, over names and rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np

from fedml_api.data.dataset import data_sources
from fedml_api.data.partitioned import PartitionedSource
from fedml_core.errors import DataError
from fedml_core.files import write_atomic
from fedml_core.partition import Columns, Partitioner, named, partitioners
from fedml_core.settings import settings, to_plain

FORMAT = "fedml partition 1"
Row = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]


class _File(msgspec.Struct, forbid_unknown_fields=True):
    format: Literal["fedml partition 1"]
    about: Any
    examples: Row
    labels: str
    clients: dict[str, list[Row]]
    sha256: str


@partitioners.register("saved")
@settings
class Saved(Partitioner):
    """A partition out of a file that `save_partition` or `fedml data partition` wrote; clients have the names that stand there.

    Args:
        file: its path.
    """

    file: str

    def clients(self, columns: Columns) -> Sequence[str]:
        return list(self._read().clients)

    def parts(self, columns: Columns, clients: int, seed: int) -> list[np.ndarray]:
        found, examples = self._read(), len(columns["y"])
        advice = "use it with the data set, seed and validation that it was made for, or write another"
        if found.examples != examples:
            raise DataError(f"{self.file}: a partition of {found.examples} examples, and there are {examples}; {advice}")
        if found.labels != _digest(columns["y"]):
            raise DataError(f"{self.file}: a partition of examples with other labels, or in another order; {advice}")
        return [np.array(rows, np.int64) for rows in found.clients.values()]

    def _read(self) -> _File:
        again = f"write it with: fedml data partition NAME key=value ... --output {self.file}"
        try:
            found = msgspec.json.decode(Path(self.file).read_bytes(), type=_File)
        except FileNotFoundError:
            raise DataError(f"{self.file}: not there; {again}") from None
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            raise DataError(f"{self.file}: is no {FORMAT}, or damaged ({error}); {again}") from None
        rows = np.array([row for client in found.clients.values() for row in client], np.int64)
        if found.sha256 != _rows_digest(found.clients):
            raise DataError(f"{self.file}: damaged: rows and sha256 do not match; {again}")
        if not found.clients or (len(rows) and int(rows.max()) >= found.examples) or len(np.unique(rows)) < len(rows):
            raise DataError(f"{self.file}: wrong: it has no clients, a row beyond {found.examples}, or a row twice; {again}")
        return found


def save_partition(path: Path, parts: Mapping[str, np.ndarray], labels: np.ndarray, about: object = None) -> None:
    """Write who holds which row, for `partition: {name: saved, file: ...}`.

    Args:
        parts: rows by client; `labels`: the column `y` of the examples that are partitioned.
        about: plain data for whoever reads the file.

    Raises:
        DataError: the file cannot be written.
    """
    clients = {client: np.asarray(rows).tolist() for client, rows in parts.items()}
    content = _File(FORMAT, about, len(labels), _digest(labels), clients, _rows_digest(clients))
    try:
        write_atomic(path, msgspec.json.encode(content))
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror}") from None


def save_partition_of(source: PartitionedSource, seed: int, root: Path, path: Path) -> None:
    """Write the partition that a data set has with these settings.

    Raises:
        DataError: the file cannot be written, or those of the data set cannot be read.
    """
    columns = source.columns(seed, root)[2]
    parts = named(source.partition, columns, source.clients, seed)
    about = {"data": data_sources.name_of(type(source)), "seed": seed, "settings": to_plain(source)}
    save_partition(path, parts, columns["y"], about)


def _digest(labels: np.ndarray) -> str:
    return hashlib.sha256(f"{labels.dtype.str} {labels.shape} ".encode() + np.ascontiguousarray(labels).tobytes()).hexdigest()


def _rows_digest(clients: Mapping[str, Sequence[int]]) -> str:
    return hashlib.sha256(msgspec.json.encode(list(clients.items()))).hexdigest()
