"""NUS-WIDE in its official files."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
from msgspec import Meta

from fedml_api.data.dataset import DataSource, data_sources
from fedml_api.data.lines import check_end
from fedml_api.data.tables import spread
from fedml_api.data.vertical import VerticalDataset
from fedml_core.errors import DataError
from fedml_core.settings import settings

FEATURES = ("CH", "CM55", "CORR", "EDH", "WT")
REMEDY = "NUS-WIDE is at lms.comp.nus.edu.sg; data/README.md says which files"


@data_sources.register("nus_wide")
@settings
class NusWide(DataSource):
    """Photos of one of two things, train and test as published: one party has 634 features and the labels, the other 1,000 tags.

    In `data_folder/nus_wide/`: `Groundtruth/TrainTestLabels/Labels_person_Train.txt`, `Low_Level_Features/Train_Normalized_CH.dat`
    (and CM55, CORR, EDH, WT), `NUS_WID_Tags/Train_Tags1k.dat`, and the same with `Test`. Of the photos those are taken that have
    exactly one of the two labels. With three parties two have half of the tags each. Chua et al., CIVR 2009.

    Args:
        positive, negative: the labels that make classes 1 and 0.
        parties: 2 or 3; `known`: the share of all photos that each party has, drawn by itself.
    """

    positive: str = "person"
    negative: str = "animal"
    parties: Annotated[int, Meta(ge=2, le=3)] = 2
    known: Annotated[float, Meta(gt=0, le=1)] = 1.0

    def files(self, root: Path) -> Sequence[Path]:
        return [path for part in ("Train", "Test") for path in self._files(root / "nus_wide", part)]

    def load(self, seed: int, root: Path) -> VerticalDataset:
        train, test = (self._part(root / "nus_wide", part) for part in ("Train", "Test"))
        images, tags = (np.concatenate([one, other]) for one, other in zip(train[:2], test[:2], strict=True))
        labels = np.concatenate([train[2], test[2]])
        columns = {f"image {i}": column for i, column in enumerate(images.T)} | {
            f"tag {i}": column for i, column in enumerate(tags.T)
        }
        names = [name for name in columns if name.startswith("tag")]
        halves = [names] if self.parties == 2 else [names[: len(names) // 2], names[len(names) // 2 :]]
        groups = {"images": [name for name in columns if name.startswith("image")]}
        groups |= {("tags" if self.parties == 2 else f"tags_{i}"): half for i, half in enumerate(halves)}
        split = np.split(np.arange(len(labels)), [len(train[2])])
        return spread("nus_wide", columns, labels, groups, split, self.known, seed)

    def _files(self, folder: Path, part: str) -> list[Path]:
        """Labels, features and tags."""
        return [
            *(
                folder / "Groundtruth" / "TrainTestLabels" / f"Labels_{label}_{part}.txt"
                for label in (self.positive, self.negative)
            ),
            *(folder / "Low_Level_Features" / f"{part}_Normalized_{kind}.dat" for kind in FEATURES),
            folder / "NUS_WID_Tags" / f"{part}_Tags1k.dat",
        ]

    def _part(self, folder: Path, part: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Features, tags and labels of the photos that count."""
        tables = {path: _table(path) for path in self._files(folder, part)}
        longest = max(len(table) for table in tables.values())
        for path, table in tables.items():
            if len(table) < longest:
                raise DataError(f"{path}: is of {len(table)} photos, and other {part} files of {longest}; {REMEDY}")
        first, second, *features, tags = tables.values()
        for path, table in list(tables.items())[:2]:
            if table.shape[1] != 1 or not np.isin(table, (0, 1)).all():
                raise DataError(f"{path}: is not a label, 0 or 1, in each line; {REMEDY}")
        positive, negative = first[:, 0], second[:, 0]
        rows = positive + negative == 1
        if not rows.any():
            raise DataError(f"{folder}: no {part} photo has one of the labels {self.positive} and {self.negative} alone")
        return np.concatenate(features, axis=1)[rows], tags[rows], positive[rows].astype(np.int64)


def _table(path: Path) -> np.ndarray:
    if not path.is_file():
        raise DataError(f"{path} is not there: {REMEDY}")
    check_end(path, REMEDY)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a table without content
            table = np.loadtxt(path, ndmin=2, comments=None)
    except (ValueError, OverflowError, UserWarning) as error:
        raise DataError(f"{path} is no table of numbers: {error}; {REMEDY}") from None
    if not np.isfinite(table).all():
        raise DataError(f"{path} has what is no finite number; {REMEDY}")
    return table
