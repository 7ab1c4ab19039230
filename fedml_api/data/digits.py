"""Low-resolution digits out of a package: the smallest real image set, for tests and first steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedml_api.data.dataset import data_sources
from fedml_api.data.packaged import package_place, packaged_file, read_table
from fedml_api.data.partitioned import PartitionedSource
from fedml_core.settings import settings
from fedml_core.trainer import Examples

PACKAGED = ("scikit-learn", "sklearn/datasets/data/digits.csv.gz")


@data_sources.register("digits")
@settings
class Digits(PartitionedSource):
    """1,797 digits of 8x8 pixels: 1,438 train, 359 test, 10 classes; in the scikit-learn package (BSD-3-Clause; UCI data).

    `x` in [0, 1] with ink 1. Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998.
    """

    def files(self, root: Path) -> Sequence[Path]:
        return [package_place(*PACKAGED)]

    def read(self, root: Path) -> tuple[Examples, Examples]:
        return read_table(packaged_file(*PACKAGED), largest=16, test=0.2)
