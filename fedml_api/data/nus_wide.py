"""NUS-WIDE in its official files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
from msgspec import Meta

from fedml_api.data.dataset import DataSource, data_sources
from fedml_api.data.tables import spread
from fedml_api.data.vertical import VerticalDataset
from fedml_core.errors import DataError
from fedml_core.settings import settings

FEATURES = ("CH", "CM55", "CORR", "EDH", "WT")


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
        positive, negative, *features, tags = map(_table, self._files(folder, part))
        positive, negative = positive[:, 0], negative[:, 0]
        lengths = {len(table) for table in (positive, negative, *features, tags)}
        if len(lengths) > 1:
            raise DataError(f"{folder}: the {part} files are of {', '.join(map(str, sorted(lengths)))} photos")
        rows = positive + negative == 1
        return np.concatenate(features, axis=1)[rows], tags[rows], positive[rows].astype(np.int64)


def _table(path: Path) -> np.ndarray:
    if not path.is_file():
        raise DataError(f"{path} is not there: NUS-WIDE is at lms.comp.nus.edu.sg; data/README.md says which files")
    try:
        return np.loadtxt(path, ndmin=2)
    except ValueError as error:
        raise DataError(f"{path} is no table of numbers: {error}") from None
