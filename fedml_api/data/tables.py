"""Tables about people, spread over parties that know different columns of them."""

from __future__ import annotations

import csv
import math
import sys
from abc import abstractmethod
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, TextIO

import numpy as np
import torch
from msgspec import Meta

from fedml_api.data.dataset import DataSource, data_sources
from fedml_api.data.lines import check_end
from fedml_api.data.packaged import SPLIT_SEED
from fedml_api.data.vertical import VerticalDataset
from fedml_core.errors import DataError
from fedml_core.partition import ColumnSplit, stratified_split
from fedml_core.rng import rng
from fedml_core.settings import settings
from fedml_core.trainer import Batch

# By name: numbers as float64, NaN where none is known; everything else as text (object), "" where none is known.
Columns = dict[str, np.ndarray]
Groups = Mapping[str, Sequence[str]]


@settings
class TableSource(DataSource):
    """A table of people with labels; registering a class that can `read` its files, and says in `groups` who knows what, adds one.

    Args:
        parties: 2 or 3.
        columns: who has which columns, in place of `groups` and `parties`; the first party has the labels.
        known: the share of all people that each party knows, drawn by itself; in its own order.
        test: the share of people who are the test set, the same of every class, in every run the same people.

    Attributes:
        groups: by the number of parties, which columns each of them has; the first one has the labels.
    """

    groups: ClassVar[Mapping[int, Groups]]
    parties: Annotated[int, Meta(ge=2, le=3)] = 2
    known: Annotated[float, Meta(gt=0, le=1)] = 0.9
    test: Annotated[float, Meta(gt=0, lt=1)] = 0.3
    columns: ColumnSplit | None = None

    @abstractmethod
    def read(self, root: Path) -> tuple[Columns, np.ndarray]:
        """The columns, and the labels (int64 `[n]`, from 0), one row per person, always in the same order."""

    def load(self, seed: int, root: Path) -> VerticalDataset:
        columns, labels = self.read(root)
        split = stratified_split(labels, self.test, SPLIT_SEED)
        groups = self.groups[self.parties] if self.columns is None else self.columns(tuple(columns), seed)
        return spread(data_sources.name_of(type(self)), columns, labels, groups, split, self.known, seed)


def spread(
    name: str, columns: Columns, labels: np.ndarray, groups: Groups, split: Sequence[np.ndarray], known: float, seed: int
) -> VerticalDataset:
    """A table over parties, of whom each knows `known` of the people in its own order; the first one has the labels.

    Args:
        split: rows of training and of test people.
    """
    ids = rng(SPLIT_SEED, "ids", name).permutation(10 * len(labels))[: len(labels)]
    parts: tuple[dict[str, Batch], dict[str, Batch]] = ({}, {})
    for party, names in groups.items():
        draws = [rng(seed, "known", party, part) for part in range(2)]
        rows = [draw.permutation(each)[: max(1, round(known * len(each)))] for draw, each in zip(draws, split, strict=True)]
        own = [{column: columns[column][some] for column in names} for some in rows]
        for part, x, some in zip(parts, features(*own), rows, strict=True):
            part[party] = {"id": torch.from_numpy(ids[some]), "x": torch.from_numpy(x)}
            if party == next(iter(groups)):
                part[party]["y"] = torch.from_numpy(labels[some])
    return VerticalDataset(*parts, classes=int(labels.max()) + 1, name=name)


def features(train: Columns, test: Columns) -> tuple[np.ndarray, np.ndarray]:
    """Training and test features, float32 `[n, width]`, of the columns of one party, by what its own training rows are like.

    A number becomes its distance from their mean in their standard deviations, and the mean (0) where it is not known; if that is
    so for some of them, another feature says for whom. A text becomes a 0 or 1 for each text that occurs in training.
    """
    made = [_features(values, test[name]) for name, values in train.items()]
    # A feature that is the same for all training rows says nothing.
    kept = [(one, other) for one, other in made for one, other in zip(one.T, other.T, strict=True) if one.std() > 0]
    if not kept:
        raise DataError(f"the columns {', '.join(train)} are the same for all training rows")
    return tuple(np.stack(part, 1).astype(np.float32) for part in zip(*kept, strict=True))  # type: ignore[return-value]


def _features(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if train.dtype == object:
        texts = np.unique(train.astype(str))
        one, other = ((values.astype(str)[:, None] == texts).astype(float) for values in (train, test))
        return one, other
    if np.isnan(train).all():
        return np.zeros((len(train), 1)), np.zeros((len(test), 1))
    mean, deviation = np.nanmean(train), np.nanstd(train) or 1.0
    scaled = [np.nan_to_num((values - mean) / deviation) for values in (train, test)]
    if not np.isnan(train).any():
        return scaled[0][:, None], scaled[1][:, None]
    one, other = (np.stack([x, np.isnan(values)], 1) for x, values in zip(scaled, (train, test), strict=True))
    return one, other


def read_csv(
    path: Path,
    texts: Sequence[str],
    numbers: Sequence[str],
    only: tuple[str, Callable[[str], bool]] | None = None,
    remedy: str = "get it again",
) -> Columns:
    """Columns of a CSV file with a header; rows of one field, which are notes, are left out, and the % at the end of a number.

    Args:
        only: a column, and whether a row with this text in it is wanted.
        remedy: what to do when the file is damaged.

    Raises:
        DataError: the file is truncated, a column is missing, a number is none, or no row is wanted.
    """
    check_end(path, remedy)
    found: dict[str, Any] = {name: [] for name in texts} | {name: array("d") for name in numbers}
    with path.open(newline="", encoding="utf-8") as file:
        rows = _rows(file, path, remedy)
        header = [name.strip() for name in next(rows, (0, []))[1]]
        if missing := [name for name in (*found, *([only[0]] if only else [])) if name not in header]:
            raise DataError(f"{path} has no column {', '.join(missing)}; {remedy}")
        column, wanted = (header.index(only[0]), only[1]) if only else (0, lambda text: True)
        text_at = [(header.index(name), found[name]) for name in texts]
        number_at = [(header.index(name), found[name]) for name in numbers]
        for line, row in rows:
            if len(row) != len(header) and len(row) > 1:
                raise DataError(f"{path}, line {line}: has {len(row)} fields, and the header has {len(header)}; {remedy}")
            if len(row) < len(header) or not wanted(row[column].strip()):
                continue
            for place, values in text_at:
                values.append(sys.intern(row[place].strip()))
            for place, values in number_at:
                text = row[place].strip().rstrip("%")
                try:
                    values.append(float(text) if text else math.nan)
                except ValueError:
                    raise DataError(f"{path}, line {line}: {header[place]} is '{text}', which is no number; {remedy}") from None
                if text and not math.isfinite(values[-1]):
                    raise DataError(f"{path}, line {line}: {header[place]} is '{text}', which is no finite number; {remedy}")
    if not any(len(values) for values in found.values()):
        raise DataError(f"{path} has no rows" + (f" with the right {only[0]}" if only else "") + f"; {remedy}")
    columns = {name: np.array(found[name], dtype=object) for name in texts}
    return columns | {name: np.frombuffer(found[name], dtype=np.float64) for name in numbers}


def _rows(file: TextIO, path: Path, remedy: str) -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV file, each with the number of its last line."""
    rows = csv.reader(file)
    try:
        for row in rows:
            yield rows.line_num, row
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}, line {rows.line_num + 1}: cannot be read ({error}); {remedy}") from None
