"""Any data set of Hugging Face's `datasets`: from its hub, or from files of one's own in Parquet, CSV, JSON or folders of images.

The only module that imports datasets.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from msgspec import Meta
from torch import Tensor

from fedml_api.data.adapted import Images, about, labelled
from fedml_api.data.dataset import FederatedDataset, data_sources
from fedml_api.data.decoded import examples_of
from fedml_api.data.packaged import SPLIT_SEED
from fedml_api.data.partitioned import PartitionedSource, halves, spread
from fedml_api.data.pictures import View, opened
from fedml_core.errors import ConfigError, DataError, unknown
from fedml_core.partition import Dirichlet, Partitioner, natural
from fedml_core.settings import settings
from fedml_core.trainer import Examples

INSTALL = 'pip install "fedml[hf]"'
# Files that older versions of the package unpickle.
PICKLED = "pandas"
OWNER = "owner"


@data_sources.register("hugging_face")
@settings
class HuggingFace(PartitionedSource):
    """Any data set of Hugging Face: path=NAME on its hub, or files below the data folder (Parquet, CSV, JSON, folders of images).

    Images become `x` float32 `[n, channels, height, width]` in [0, 1], or as `view` says; numbers `x` float32 `[n, ...]`, several
    columns side by side; `y` int64 `[n]`. Scripts are refused, and trust_remote_code is never set.

    Args:
        path: a file or folder below the data folder; if there is none of that name, a kind of files (`parquet`, `csv`, `json`,
            `imagefolder`), with `data_files`, or a name on the hub.
        config: which of the configurations of a data set on the hub.
        data_files: files below the data folder, by part, e.g. data_files.train=a.parquet.
        features: the columns that become `x`; `label`: the column of classes, numbers or texts, which are numbered in their order.
        client: a column that says whose a row is; then these are the clients, of the test rows as well, and nothing is partitioned.
        train_split, test_split: what the parts are called; if there is no test part, `test` is the fraction of rows, the same of
            every class, in every run the same rows, that are held out.
        view: how images become squares of one size; None if they are of one size already.
        tokens: whether the features are whole numbers that stand for words, and stay whole.
        lazily: decode images when they are used, each time anew; their fingerprint is then the package's own.
    """

    path: str = ""
    config: str = ""
    data_files: dict[str, str] = dataclasses.field(default_factory=dict)
    features: tuple[str, ...] = ("image",)
    label: str = "label"
    client: str = ""
    train_split: str = "train"
    test_split: str = "test"
    test: Annotated[float, Meta(gt=0, lt=1)] = 0.2
    view: View | None = None
    tokens: bool = False
    lazily: bool = False

    def problems(self) -> list[str]:
        given = [name for name in ("clients", "partition", "skew") if getattr(self, name) != getattr(HuggingFace, name)]
        if self.client and given:
            return [f"client = {self.client!r}: the clients are those of this column; leave out {' and '.join(given)}, or client"]
        return []

    def read(self, root: Path) -> tuple[Examples, Examples]:
        train, test, _, _ = self._read(root)
        return train, test

    def load(self, seed: int, root: Path) -> FederatedDataset:
        train, test, classes, owners = self._read(root)
        name = data_sources.name_of(type(self))
        if self.validation:
            train, test = halves(train, self.validation, seed, "validation")
            name += " (validation)"
        if owners:
            return owned(train, test, owners, classes, name)
        return spread(train, test, self.clients, self.partition, seed, name, classes, skew=self.skew)

    def _read(self, root: Path) -> tuple[Examples, Examples, int, Sequence[str]]:
        reading = Reading(self.features, self.label, self.client, self.view, self.tokens, self.lazily)
        return reading.both(self._found(root), (self.train_split, self.test_split), self.test)

    def _found(self, root: Path) -> Any:
        """What `datasets` makes of the settings: its data set, or one for each part."""
        if not self.path:
            raise ConfigError(
                "data.path is missing: a file or folder below the data folder, parquet, csv or json, or a name on the hub"
            )
        if (script := self.path.endswith(".py")) or self.path == PICKLED:
            what = "a script" if script else "files that some versions of datasets unpickle"
            raise ConfigError(f"data.path = {self.path!r}: {what}, and no code of a data set is run; convert it to Parquet")
        package, here = _package(), root / self.path
        if here.is_dir() and list(here.glob("*.py")):
            raise ConfigError(
                f"data.path = {self.path!r}: {here} holds a script, which is not run; convert the data set to Parquet"
            )
        files = {part: str(root / name) for part, name in self.data_files.items()}
        if missing := [
            file for file in files.values() if not any(character in file for character in "*?[") and not Path(file).exists()
        ]:
            raise DataError(f"{missing[0]}: not there; data.data_files are files below {root}")
        try:
            if any((here / name).is_file() for name in ("dataset_info.json", "dataset_dict.json")):
                return package.load_from_disk(str(here))
            path, given = str(here) if here.is_dir() else self.path, {"data_files": files} if files else {}
            if here.is_file():
                kind = {"jsonl": "json", "tsv": "csv"}.get(here.suffix[1:], here.suffix[1:])
                path, given = kind, {"data_files": {"train": str(here)}, **({"sep": "\t"} if here.suffix == ".tsv" else {})}
            return package.load_dataset(path, self.config or None, cache_dir=str(root / "cache" / "hugging_face"), **given)
        except Exception as error:  # of another library, about files that it has found
            said = " ".join(str(error.__cause__ or error).split())
            raise DataError(f"Hugging Face data set '{self.path}': cannot be loaded ({type(error).__name__}: {said})") from error


@dataclasses.dataclass(frozen=True)
class Reading:
    """How tables of `datasets` become examples; the attributes are those of `HuggingFace`."""

    features: Sequence[str]
    label: str
    client: str
    view: View | None
    tokens: bool
    lazily: bool

    def both(self, data: Any, parts: tuple[str, str], held_out: float) -> tuple[Examples, Examples, int, Sequence[str]]:
        """Training and test examples, how many classes, and the names of the clients in column `owner`, if there is one."""
        tables = dict(data) if isinstance(data, Mapping) else {parts[0]: data}
        train, test = (tables.get(name) for name in parts)
        if train is None:
            raise ConfigError(f"data.train_split: {unknown('part', parts[0], tables)}")
        if test is None and parts[1] != "test":
            raise ConfigError(f"data.test_split: {unknown('part', parts[1], tables)}")
        names = [*self.features, self.label, *([self.client] if self.client else [])]
        for part, table in zip(parts, (train, test), strict=True):
            for name in names if table is not None else ():
                if name not in table.column_names:
                    raise ConfigError(f"Hugging Face part '{part}': {unknown('column', name, table.column_names)}")
        if not self.features:
            raise ConfigError("features = []: say which columns become x")
        found = [table for table in (train, test) if table is not None]
        labels, classes = self._labels(found)
        owners = [[str(one) for one in table[self.client]] if self.client else [] for table in found]
        clients = sorted(set(owners[0])) if self.client else []
        number = {name: k for k, name in enumerate(clients)}
        made = []
        for part, table, y, own in zip(parts, found, labels, owners, strict=False):
            examples = labelled(self._x(table, f"Hugging Face part '{part}'"), y, f"Hugging Face part '{part}'", classes)
            if self.client:
                column = torch.tensor([number.get(name, -1) for name in own])
                examples = examples_of({**examples.columns, OWNER: column})
            made.append(examples)
        both = made if len(made) == 2 else halves(made[0], held_out, SPLIT_SEED, "test")
        return both[0], both[1], classes, clients

    def _labels(self, tables: Sequence[Any]) -> tuple[list[np.ndarray], int]:
        """The classes of the rows of every table, as numbers, and how many there are."""
        kind = tables[0].features[self.label]
        columns = [list(table[self.label]) for table in tables]
        if any(one is None for column in columns for one in column):
            raise DataError(f"Hugging Face column '{self.label}': has rows without a value")
        if hasattr(kind, "num_classes"):
            return [np.array(column, np.int64) for column in columns], kind.num_classes
        if isinstance(columns[0][0] if columns[0] else None, str):
            known = {name: k for k, name in enumerate(sorted(set(columns[0])))}
            if odd := [one for column in columns for one in column if one not in known]:
                raise DataError(f"Hugging Face column '{self.label}': {odd[0]!r:.60} is a class of the test part alone")
            return [np.array([known[one] for one in column]) for column in columns], len(known)
        arrays = [np.array(column) for column in columns]
        if any(array.dtype.kind not in "iub" or array.ndim != 1 for array in arrays):
            raise DataError(f"Hugging Face column '{self.label}': holds {kind}, and not one whole number or text for each row")
        return arrays, max((int(array.max()) + 1 for array in arrays if len(array)), default=0)

    def _x(self, table: Any, name: str) -> Tensor:
        images = [one for one in self.features if type(table.features[one]).__name__ == "Image"]
        if images and len(self.features) > 1:
            raise ConfigError(f"{name}: features = {list(self.features)}: an image is a feature by itself")
        if images:
            return self._images(table, images[0], name)
        if self.view is not None:
            raise ConfigError(f"{name}: there is a view of images alone, and '{self.features[0]}' is none; leave out view")
        columns = [self._numbers(table, one, name) for one in self.features]
        if len(columns) == 1:
            return columns[0]
        if {column.dim() for column in columns} - {1, 2}:
            raise ConfigError(f"{name}: features = {list(self.features)}: only numbers and rows of numbers can stand side by side")
        return torch.cat([column.reshape(len(column), -1) for column in columns], dim=1)

    def _images(self, table: Any, column: str, name: str) -> Tensor:
        raw = table.cast_column(column, _package().Image(decode=False))

        def image(row: int) -> Any:
            found = raw[row][column]
            if not isinstance(found, dict) or (found.get("bytes") is None and found.get("path") is None):
                raise DataError("is not there")
            file = found["bytes"] if found.get("bytes") is not None else Path(found["path"])
            with opened(file) as one:
                one.load()
                return one.copy()

        return Images(image, len(table), self.view, name).column(self.lazily, about(name, table._fingerprint))

    def _numbers(self, table: Any, column: str, name: str) -> Tensor:
        """float32, or int64 for tokens; bytes that are an image in [0, 1] and channels first."""
        kind = _innermost(table.features[column])
        try:
            array = np.asarray(table.with_format("numpy", columns=[column])[:][column])
        except Exception as error:  # of another library, about what it has read
            raise DataError(f"{name}: column '{column}' cannot be read ({type(error).__name__}: {error})") from error
        if array.dtype.kind not in "iufb" or array.ndim < 1:
            raise DataError(
                f"{name}: column '{column}' holds {table.features[column]}, and not as many numbers in every row, none missing"
            )
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise DataError(f"{name}: column '{column}' has what is no finite number")
        if self.tokens:
            if array.dtype.kind not in "iu":
                raise DataError(f"{name}: column '{column}' holds {kind}, and tokens are whole numbers")
            return torch.from_numpy(array.astype(np.int64))
        found = torch.from_numpy(array.astype(np.float32))
        if kind != "uint8" or array.ndim not in (3, 4):
            return found[:, None] if array.ndim == 1 and len(self.features) > 1 else found
        found = found.div_(255)
        return found.unsqueeze(1) if array.ndim == 3 else found.permute(0, 3, 1, 2).contiguous()


def _innermost(kind: Any) -> str:
    """The type of the elements of a column of `datasets`, as text."""
    while not isinstance(kind, (str, type(None))):
        if isinstance(kind, list):
            kind = kind[0]
            continue
        kind = getattr(kind, "feature", None) or getattr(kind, "dtype", None)
    return str(kind)


def from_hugging_face(
    data: Any,
    features: str | Sequence[str] = "image",
    label: str = "label",
    *,
    client: str = "",
    clients: int | None = None,
    partition: Partitioner | None = None,
    train_split: str = "train",
    test_split: str = "test",
    held_out: float = 0.2,
    view: View | None = None,
    tokens: bool = False,
    lazily: bool = False,
    seed: int = 0,
    name: str = "hugging_face",
) -> FederatedDataset:
    """A `datasets.Dataset`, or a `DatasetDict` of its parts, spread over clients: those of column `client`, or by a partitioner.

    Arguments are those of `HuggingFace`; `held_out` is its `test`.

    Raises:
        ConfigError: there is no such part or column; `DataError`: it holds something else.
    """
    chosen = (features,) if isinstance(features, str) else tuple(features)
    reading = Reading(chosen, label, client, view, tokens, lazily)
    train, test, classes, owners = reading.both(data, (train_split, test_split), held_out)
    if owners:
        return owned(train, test, owners, classes, name)
    return spread(train, test, clients, partition or Dirichlet(), seed, name, classes)


def owned(train: Examples, test: Examples, owners: Sequence[str], classes: int, name: str) -> FederatedDataset:
    """Examples with the column `owner`, an index of `owners`, as clients; who has no training example is none."""
    parts = []
    for examples in (train, test):
        found = natural(examples.columns[OWNER].numpy())
        parts.append({owners[k]: found[str(k)] for k in range(len(owners)) if str(k) in found})
    train, test = (examples_of({one: column for one, column in part.columns.items() if one != OWNER}) for part in (train, test))
    local = {client: rows for client, rows in parts[1].items() if client in parts[0]}
    return FederatedDataset(train, test, parts[0], local, classes, name)


def _package() -> Any:
    try:
        import datasets
    except ImportError:
        raise ConfigError(f"Hugging Face's datasets is not installed; run: {INSTALL}") from None
    return datasets
