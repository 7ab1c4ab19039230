"""CINIC-10 in its folders of images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fedml_api.data.dataset import data_sources
from fedml_api.data.partitioned import PartitionedSource
from fedml_api.data.pictures import View, at_once, listing
from fedml_core.errors import DataError
from fedml_core.settings import settings
from fedml_core.trainer import Examples

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
ARCHIVE = "CINIC-10.tar.gz (datashare.ed.ac.uk/handle/10283/3192)"
VIEW = View(32, "exact", mean=(0.47889522, 0.47227842, 0.43047404), deviation=(0.24205776, 0.23828046, 0.25874835))


@data_sources.register("cinic10")
@settings
class Cinic10(PartitionedSource):
    """CINIC-10: photos of 32x32 pixels, 90,000 train, 90,000 test, and 90,000 valid, 10 classes; folders of PNG files.

    `x` `[n, 3, 32, 32]`, every channel with mean 0 and standard deviation 1, the test images as the training images.
    Darlow et al., 2018.

    Args:
        with_valid: whether the images in `valid` are training examples as well.
    """

    with_valid: bool = False

    def files(self, root: Path) -> Sequence[Path]:
        return [root / "cinic10" / part for part in ("train", *["valid"] * self.with_valid, "test")]

    def read(self, root: Path) -> tuple[Examples, Examples]:
        remedy = f"unpack {ARCHIVE} again: train, valid and test belong into {root / 'cinic10'}"
        *train, test = listings = [listing(folder, remedy, CLASSES, [".png"]) for folder in self.files(root)]
        # Every class has as many images as any other, in every folder: 9,000 in the archive.
        numbers = {(one.folder / CLASSES[k]): int(n) for one in listings for k, n in enumerate(np.bincount(one.labels))}
        for folder, number in numbers.items():
            if number < max(numbers.values()):
                raise DataError(f"{folder}: has {number:,} images, and other classes have {max(numbers.values()):,}; {remedy}")
        return at_once(train, [test], VIEW, remedy, root)
