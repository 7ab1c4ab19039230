"""MNIST and EMNIST in their IDX files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

from fedml_api.data.dataset import data_sources
from fedml_api.data.idx import find_idx, read_images
from fedml_api.data.mapped import identity, mapped
from fedml_api.data.partitioned import PartitionedSource
from fedml_core.errors import DataError
from fedml_core.settings import settings
from fedml_core.trainer import Examples

Pair = tuple[Path, Path]


@settings
class IdxSource(PartitionedSource):
    """Four files: images and labels for training and for testing, gzipped or not."""

    def stems(self) -> tuple[tuple[str, str], tuple[str, str]]:
        """The names of the files without `.gz`."""
        return ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"), ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")

    def files(self, root: Path) -> Sequence[Path]:
        folder = root / data_sources.name_of(type(self))
        names = [name for pair in self.stems() for name in pair]
        return [found or folder / f"{name}.gz" for name in names for found in [find_idx(name, [folder])]]

    def read(self, root: Path) -> tuple[Examples, Examples]:
        files = self.files(root)
        if missing := [path for path in files if not path.is_file()]:
            raise DataError(f"{missing[0]}: not there; {self.how_to_get(missing[0].parent)}")
        about = [*map(identity, files)]
        return mapped(lambda: (self.examples(*files[:2]), self.examples(*files[2:])), self, about, root)

    def how_to_get(self, folder: Path) -> str:
        return f"run: fedml data get {folder.name}"

    def examples(self, images: Path, labels: Path) -> Examples:
        return read_images(images, labels, 10, self.how_to_get(images.parent))


@data_sources.register("mnist")
@settings
class Mnist(IdxSource):
    """MNIST: digits of 28x28 pixels, 60,000 train, 10,000 test, 10 classes; the four official IDX files.

    `x` `[n, 1, 28, 28]` in [0, 1] with ink 1. LeCun et al., 1998.
    """


@data_sources.register("emnist")
@settings
class Emnist(IdxSource):
    """EMNIST: characters of 28x28 pixels, up to 697,932 train, 116,323 test, 62 classes; the IDX files of one of its six parts.

    `x` `[n, 1, 28, 28]` in [0, 1] with ink 1, upright: the files have rows for columns. The letters' classes, which the files count
    from 1, begin at 0. No writers are known here; `femnist` has them. Cohen et al., 2017.
    """

    part: Literal["byclass", "bymerge", "balanced", "letters", "digits", "mnist"] = "balanced"
    classes: ClassVar[dict[str, int]] = {"byclass": 62, "bymerge": 47, "balanced": 47, "letters": 26, "digits": 10, "mnist": 10}

    def stems(self) -> tuple[tuple[str, str], tuple[str, str]]:
        train, test = (
            (f"emnist-{self.part}-{half}-images-idx3-ubyte", f"emnist-{self.part}-{half}-labels-idx1-ubyte")
            for half in ("train", "test")
        )
        return train, test

    def how_to_get(self, folder: Path) -> str:
        return (
            f"put the files of emnist-{self.part} of gzip.zip (www.nist.gov/itl/products-and-services/emnist-dataset) into {folder}"
        )

    def examples(self, images: Path, labels: Path) -> Examples:
        remedy, first = self.how_to_get(images.parent), int(self.part == "letters")
        return read_images(images, labels, self.classes[self.part], remedy, first, transposed=True)
