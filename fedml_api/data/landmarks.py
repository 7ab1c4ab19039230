"""The federated landmarks: photos of Google Landmarks v2 by photographer.

train: user_id,image_id,class          test: image_id,class          images: train/a/b/c/abc0123456789def.jpg
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from fedml_api.data.dataset import data_sources
from fedml_api.data.lines import check_end
from fedml_api.data.photos import PhotoSource
from fedml_api.data.split import ClientSplit, Columns, HeldSplit, file_digest
from fedml_core.errors import DataError
from fedml_core.settings import settings

IMAGE = re.compile(r"[0-9a-f]{16}")
# Nobody's: the test photos are those of one set for all.
EVERYBODY = "test"


@settings
class Landmarks(PhotoSource):
    """Two tables, and the photos of the training set of Google Landmarks v2."""

    how_to_get: ClassVar[str] = "tables and photos of github.com/cvdfoundation/google-landmark"

    def folder(self, root: Path) -> Path:
        return root / "landmarks"

    def remedy(self, root: Path) -> str:
        tables = " and ".join(self.names)
        return f"put {tables} into {self.folder(root)}, and the photos below {self.folder(root)}/train ({self.how_to_get})"

    def splits(self, root: Path) -> tuple[ClientSplit, ClientSplit]:
        train, test = self.present(root)
        return self._split(train, root, by_user=True), self._split(test, root, by_user=False)

    def _split(self, path: Path, root: Path, by_user: bool) -> ClientSplit:
        folder, found = self.folder(root).resolve() / "train", dict[str, list[tuple[bytes, int]]]()
        remedy = self.remedy(root)
        for user, image, label in self._rows(path, by_user, remedy):
            name = folder.joinpath(*image[:3], f"{image}.jpg")
            found.setdefault(user, []).append((bytes(name), label))
        if not found:
            raise DataError(f"{path}: has no rows; {remedy}")
        try:
            self.check_there([Path(os.fsdecode(name)) for rows in found.values() for name, _ in rows])
        except DataError as error:
            raise DataError(f"{error}; {remedy}") from None
        split = HeldSplit({user: _columns(rows) for user, rows in found.items()}, str(path))
        split.fingerprint = file_digest(path, root)
        return split

    def _rows(self, path: Path, by_user: bool, remedy: str) -> Iterator[tuple[str, str, int]]:
        """User, image and class of every line."""
        needed, classes = (["user_id"] if by_user else []) + ["image_id", "class"], self.number_of_classes() or 0
        try:
            with path.open(newline="", encoding="utf-8") as file:
                rows = csv.DictReader(file, restval="")
                if missing := [name for name in needed if name not in (rows.fieldnames or ())]:
                    known = ", ".join(rows.fieldnames or ()) or "nothing"
                    raise DataError(f"{path}: has no column {', '.join(missing)} (found: {known}); {remedy}")
                for row in rows:
                    image, label = row["image_id"], row["class"]
                    user, place = row["user_id"] if by_user else EVERYBODY, f"{path}, line {rows.line_num}"
                    if not IMAGE.fullmatch(image):
                        raise DataError(f"{place}: image_id {image!r:.40} is no 16 hexadecimal digits; {remedy}")
                    if not (label.isdecimal() and int(label) < classes):
                        raise DataError(f"{place}: class {label!r:.40} is none of 0 to {classes - 1}; {remedy}")
                    if not user:
                        raise DataError(f"{place}: has no user_id; {remedy}")
                    yield user, image, int(label)
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"{path}: cannot be read as CSV ({error}); {remedy}") from None
        check_end(path, remedy)


def _columns(rows: Sequence[tuple[bytes, int]]) -> Columns:
    return {"photo": np.array([name for name, _ in rows]), "label": np.array([label for _, label in rows], np.int32)}


@data_sources.register("gld23k")
@settings
class Gld23k(Landmarks):
    """Landmarks by 233 photographers, 23,080 train, 1,959 test, 203 classes (CSV and JPEG).

    `x` `[n, 3, size, size]` as `view` says. The test photos are nobody's: clients have none of their own.
    Hsu, Qi and Brown, ECCV 2020.
    """

    names: ClassVar[tuple[str, ...]] = ("mini_gld_train_split.csv", "mini_gld_test.csv")
    classes: ClassVar[int | None] = 203


@data_sources.register("gld160k")
@settings
class Gld160k(Landmarks):
    """Landmarks by 1,262 photographers, 164,172 train, 19,526 test, 2,028 classes (CSV and JPEG).

    `x` and test photos as in `gld23k`. Hsu, Qi and Brown, ECCV 2020.
    """

    names: ClassVar[tuple[str, ...]] = ("federated_train.csv", "test.csv")
    classes: ClassVar[int | None] = 2028
