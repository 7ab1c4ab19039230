"""What data sets of photos share whose clients are photographers, or those who are photographed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from fedml_api.data.natural import NaturalSource
from fedml_api.data.pictures import Pictures, View
from fedml_api.data.split import Columns
from fedml_core.errors import DataError
from fedml_core.settings import settings
from fedml_core.trainer import Batch


@settings
class PhotoSource(NaturalSource):
    """Splits with the columns `photo`, the path of a file (bytes), and `label`; photos are decoded whenever they are used.

    Args:
        view: how a photo becomes `x` `[n, channels, size, size]`.
    """

    view: View = View()
    label: ClassVar[str | None] = "label"

    def expand(self, columns: Columns) -> Batch:
        pictures = Pictures(Path(), columns["photo"], self.view, f"get it again ({self.how_to_get})")
        # The files that say who has which photo have a hash of their own, and photos never change.
        return {"x": pictures.column(""), "y": torch.from_numpy(columns["label"].astype(np.int64))}

    def check_there(self, photos: Sequence[Path]) -> None:
        """Look for the files before any of them is needed.

        Raises:
            DataError: without a remedy, how many are missing, and one of them.
        """
        if missing := [path for path in photos if not path.is_file()]:
            raise DataError(f"{missing[0]}: not there, like {len(missing) - 1:,} more of {len(photos):,}")
