"""MovieLens in its official files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from msgspec import Meta

from fedml_api.data.dataset import data_sources
from fedml_api.data.natural import NaturalSource
from fedml_api.data.numbers import read_numbers
from fedml_api.data.packaged import package_place
from fedml_api.data.split import ClientSplit, Columns, HeldSplit
from fedml_core.errors import DataError
from fedml_core.settings import settings
from fedml_core.trainer import Batch

# By version: the file of all ratings, what separates its columns, and how many lines stand above the first.
FILES: Mapping[str, tuple[str, str, int]] = {
    "100k": ("ml-100k/u.data", "\t", 0),
    "1m": ("ml-1m/ratings.dat", "::", 0),
    "20m": ("ml-20m/ratings.csv", ",", 1),
}
PACKAGED = ("recbole", "recbole/dataset_example/ml-100k/ml-100k.inter")
Fold = Literal["latest", "u1", "u2", "u3", "u4", "u5"]


@data_sources.register("movielens")
@settings
class MovieLens(NaturalSource):
    """MovieLens: ratings of films from 1 to 5, a client per user: 100,000 by 943 users, 80 % for training; or 1 M, or 20 M.

    Columns: `x`, int64 `[n, 1]`, the item, numbered from 0 in the order of the ids that occur; `y`, float32 `[n]`, the rating. The
    100k ratings are read from the recbole package where the official file is not. For research only, and not to be handed on: see
    grouplens.org/datasets/movielens. Harper and Konstan, ACM TiiS 5 (4), 2015.

    Args:
        version: of the official releases: 943, 6,040 or 138,493 users.
        fold: `latest` holds the share `test` of every user's ratings out, the last ones in time (ties in the order of items), at
            least one; `u1` ... `u5` are the official splits of 100k, by which many users have no test ratings.
        users: whether `x` is `[user, item]`, for models of all users at one place.
    """

    version: Literal["100k", "1m", "20m"] = "100k"
    fold: Fold = "latest"
    test: Annotated[float, Meta(gt=0, lt=1)] = 0.2
    users: bool = False
    how_to_get: ClassVar[str] = "unpack ml-{version}.zip of grouplens.org/datasets/movielens in {folder}"

    def problems(self) -> list[str]:
        faulty = self.fold != "latest" and self.version != "100k"
        return super().problems() + ([f"fold = '{self.fold}': only version 100k has it; leave fold out"] if faulty else [])

    def files(self, root: Path) -> Sequence[Path]:
        official, packaged = self.folder(root) / FILES[self.version][0], package_place(*PACKAGED)
        if self.fold != "latest":
            return [official.parent / f"{self.fold}.{part}" for part in ("base", "test")]
        return [packaged if self.version == "100k" and packaged.exists() and not official.exists() else official]

    def remedy(self, root: Path) -> str:
        get = self.how_to_get.format(version=self.version, folder=self.folder(root))
        return get if self.version != "100k" or self.fold != "latest" else f"run: pip install --no-deps recbole==1.2.1; or {get}"

    def splits(self, root: Path) -> tuple[ClientSplit, ClientSplit]:
        tables = [self._ratings(path, self.remedy(root)) for path in self.present(root)]
        everything = np.concatenate(tables)
        users, user = np.unique(everything[:, 0].astype(np.int64), return_inverse=True)
        items, item = np.unique(everything[:, 1], return_inverse=True)
        if len(np.unique(user * len(items) + item)) < len(everything):
            raise DataError(f"{self.present(root)[0]}: somebody rates an item twice; {self.remedy(root)}")
        held_out = np.arange(len(everything)) >= len(tables[0]) if len(tables) > 1 else self._latest(user, item, everything[:, 3])
        if not held_out.any() or held_out.all():
            raise DataError(f"{self.present(root)[0]}: nobody has two ratings, one of them for testing; {self.remedy(root)}")
        train, test = (
            HeldSplit(
                {
                    str(users[int(one[0, 0])]): _columns(one)
                    for one in _by_user(np.column_stack([user, item, everything[:, 2]])[rows])
                },
                str(self.folder(root)),
            )
            for rows in (~held_out, held_out)
        )
        return train, test

    def expand(self, columns: Columns) -> Batch:
        x = torch.from_numpy(columns["x"].astype(np.int64))
        return {"x": x if self.users else x[:, 1:], "y": torch.from_numpy(columns["y"])}

    def _ratings(self, path: Path, remedy: str) -> np.ndarray:
        """User, item, rating and time, one row per rating."""
        _, separator, header = FILES[self.version]
        table = read_numbers(path, 4, 1 if path.suffix == ".inter" else header, remedy=remedy, separator=separator)
        ids, ratings = table[:, :2], table[:, 2]
        if (ids % 1).any() or ids.min() < 1 or ids.max() >= 2**31 or ratings.min() < 0.5 or ratings.max() > 5:
            raise DataError(
                f"{path}: users and items go from {ids.min():g} to {ids.max():g}, ratings from {ratings.min():g} to "
                f"{ratings.max():g}; needed are whole numbers from 1, and ratings from 0.5 to 5; {remedy}"
            )
        return table

    def _latest(self, user: np.ndarray, item: np.ndarray, time: np.ndarray) -> np.ndarray:
        """Which ratings are held out; whoever has a single one keeps it."""
        order = np.lexsort((item, time, user))
        counts = np.bincount(user)
        left = np.repeat(np.cumsum(counts), counts) - np.arange(len(user))  # in this order, of the same user, this one included
        held = np.clip(np.round(self.test * counts), 1, counts - 1)
        found = np.zeros(len(user), bool)
        found[order] = left <= np.repeat(held, counts)
        return found


def _by_user(table: np.ndarray) -> list[np.ndarray]:
    ordered = table[np.argsort(table[:, 0], kind="stable")]
    return np.split(ordered, np.flatnonzero(np.diff(ordered[:, 0])) + 1)


def _columns(table: np.ndarray) -> Columns:
    return {"x": table[:, :2].astype(np.int32), "y": table[:, 2].astype(np.float32)}
