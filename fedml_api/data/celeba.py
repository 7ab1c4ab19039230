"""CelebA as LEAF has it: JSON files with the names of each celebrity's photos, and the photos."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from fedml_api.data.dataset import data_sources
from fedml_api.data.leaf import LeafSource, Reader
from fedml_api.data.photos import PhotoSource
from fedml_api.data.pictures import View
from fedml_api.data.split import Columns
from fedml_core.errors import DataError
from fedml_core.settings import settings

PHOTO = re.compile(r"\d{6}\.jpg")


@data_sources.register("leaf_celeba")
@settings
class LeafCelebA(PhotoSource, LeafSource):
    """LEAF's CelebA: photos by celebrity, smiling or not: 2 classes; train and test as LEAF's scripts split them (JSON, JPEG).

    `x` `[n, 3, 84, 84]` in [0, 1]: the whole photo in a square, as in LEAF; `view` says otherwise. The photos are those of
    `img_align_celeba`. Caldas et al., LEAF, 2018; Liu et al., ICCV 2015.
    """

    view: View = View(84, "squeeze")
    how_to_get: ClassVar[str] = (
        "made by data/celeba/preprocess.sh of github.com/TalwalkarLab/leaf, and the folder img_align_celeba beside them"
    )
    classes: ClassVar[int | None] = 2

    def reader(self, root: Path) -> Reader:
        folder = self.folder(root).resolve() / "img_align_celeba"

        def columns(x: list[Any], y: list[Any]) -> Columns:
            if odd := [name for name in x if not isinstance(name, str) or not PHOTO.fullmatch(name)]:
                raise DataError(f"x has {odd[0]!r:.40}, and not only names like 000001.jpg")
            if odd := [label for label in y if label not in (0, 1) or isinstance(label, float)]:
                raise DataError(f"y has {odd[0]!r:.40}; classes are 0 and 1")
            names = [folder / name for name in x]
            self.check_there(names)
            return {
                "photo": np.array([bytes(name) for name in names], f"S{len(bytes(folder)) + 11}"),
                "label": np.array(y, np.uint8),
            }

        return columns

    def files(self, root: Path) -> Sequence[Path]:
        return [*super().files(root), self.folder(root) / "img_align_celeba"]
