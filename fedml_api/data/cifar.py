"""CIFAR-10 and CIFAR-100 in their binary versions, which nobody has to unpickle.

    CIFAR-10:  label (1 byte) | 3,072 pixels           CIFAR-100: coarse label | fine label | 3,072 pixels

Pixels are red, green, blue, row by row. Specified on www.cs.toronto.edu/~kriz/cifar.html.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch

from fedml_api.data.dataset import data_sources
from fedml_api.data.mapped import identity, mapped
from fedml_api.data.partitioned import PartitionedSource
from fedml_api.data.pictures import View, at_once, listing, subfolders
from fedml_core.errors import DataError
from fedml_core.settings import settings
from fedml_core.trainer import Examples


@settings
class CifarBinary(PartitionedSource):
    """Records of labels and pixels.

    Args:
        form: `binary`, the published records; or `folders`, the same photos as image files: `train` and `test`, in each of them a
            folder for every class, below the folder that has the name of the data set.
    """

    form: Literal["binary", "folders"] = "binary"
    folder: ClassVar[str] = ""
    train_files: ClassVar[tuple[str, ...]] = ()
    test_files: ClassVar[tuple[str, ...]] = ()
    # How many times as many images as for the test there are for training.
    times: ClassVar[int] = 5
    view: ClassVar[View]

    def labels(self) -> tuple[tuple[int, ...], int]:
        """How many classes each byte before the pixels tells apart, and which of them is the label."""
        return (10,), 0

    def files(self, root: Path) -> Sequence[Path]:
        if self.form == "folders":
            return [root / data_sources.name_of(type(self)) / part for part in ("train", "test")]
        return [root / self.folder / name for name in (*self.train_files, *self.test_files)]

    def read(self, root: Path) -> tuple[Examples, Examples]:
        if self.form == "folders":
            return self._in_folders(root)
        files, train = self.files(root), len(self.train_files)
        remedy = f"run: fedml data get {data_sources.name_of(type(self))}"
        if missing := [path for path in files if not path.is_file()]:
            raise DataError(f"{missing[0]}: not there; {remedy}")

        def make() -> tuple[Examples, Examples]:
            records = [_records(path, self.labels()[0], remedy) for path in files]
            # A file that was cut between two records is told by what the others hold.
            share = [len(one) * (train if k < train else self.times) for k, one in enumerate(records)]
            if min(share) < max(share):
                k = int(np.argmin(share))
                wanted = max(share) // (train if k < train else self.times)
                raise DataError(f"{files[k]}: truncated: has {len(records[k])} images, by the other files {wanted}; {remedy}")
            return self._examples(records[:train]), self._examples(records[train:])

        return mapped(make, self, [self.labels()[1], *map(identity, files)], root)

    def _in_folders(self, root: Path) -> tuple[Examples, Examples]:
        train, test = self.files(root)
        count = self.labels()[0][-1]
        remedy = f"put a folder for each of the {count} classes into {train} and {test}, or leave out data.form"
        names = subfolders(train)
        if len(names) != count:
            raise DataError(f"{train}: has {len(names)} folders; {remedy}")
        return at_once([listing(train, remedy, names)], [listing(test, remedy, names)], self.view, remedy, root)

    def _examples(self, parts: Sequence[np.ndarray]) -> Examples:
        sizes, which = self.labels()
        records = np.concatenate(parts)
        x = self.view.scaled(records[:, len(sizes) :].reshape(-1, 3, 32, 32))
        return Examples({"x": x, "y": torch.from_numpy(records[:, which].astype(np.int64))})


@data_sources.register("cifar10")
@settings
class Cifar10(CifarBinary):
    """CIFAR-10: photos of 32x32 pixels, 50,000 train, 10,000 test, 10 classes; the binary version.

    `x` `[n, 3, 32, 32]`, every channel with the mean 0 and the standard deviation 1 of the training images. Krizhevsky, 2009.
    """

    folder: ClassVar[str] = "cifar-10-batches-bin"
    train_files: ClassVar[tuple[str, ...]] = tuple(f"data_batch_{k}.bin" for k in range(1, 6))
    test_files: ClassVar[tuple[str, ...]] = ("test_batch.bin",)
    view: ClassVar[View] = View(32, "exact", mean=(0.4914, 0.4822, 0.4465), deviation=(0.2470, 0.2435, 0.2616))


@data_sources.register("cifar100")
@settings
class Cifar100(CifarBinary):
    """CIFAR-100: photos of 32x32 pixels, 50,000 train, 10,000 test, 100 classes; the binary version.

    `x` `[n, 3, 32, 32]`, every channel with the mean 0 and the standard deviation 1 of the training images. Krizhevsky, 2009.

    Args:
        coarse: the 20 superclasses instead.
    """

    coarse: bool = False
    folder: ClassVar[str] = "cifar-100-binary"
    train_files: ClassVar[tuple[str, ...]] = ("train.bin",)
    test_files: ClassVar[tuple[str, ...]] = ("test.bin",)
    view: ClassVar[View] = View(32, "exact", mean=(0.5071, 0.4865, 0.4409), deviation=(0.2673, 0.2564, 0.2762))

    def problems(self) -> list[str]:
        if self.coarse and self.form == "folders":
            return ["coarse = true: folders are of the 100 classes; leave out form, and the binary version has both"]
        return []

    def labels(self) -> tuple[tuple[int, ...], int]:
        return (20, 100), 0 if self.coarse else 1

    def known(self, root: Path) -> Mapping[str, np.ndarray]:
        """`coarse` and `fine`, the labels that each record has, whichever of them is learned; folders have one only."""
        if self.form == "folders":
            return {}
        records = [np.memmap(path, np.uint8, "r").reshape(-1, 2 + 3072) for path in self.files(root)[: len(self.train_files)]]
        return {
            name: np.concatenate([part[:, k] for part in records]).astype(np.int64) for k, name in enumerate(("coarse", "fine"))
        }


def _records(path: Path, classes: Sequence[int], remedy: str) -> np.ndarray:
    """`[n, labels + 3072]`, checked."""
    try:
        data = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error}); {remedy}") from None
    width = len(classes) + 3072
    if not len(data) or len(data) % width:
        raise DataError(f"{path}: truncated: {len(data)} bytes are not records of {width}; {remedy}")
    records = data.reshape(-1, width)
    for k, count in enumerate(classes):
        if (largest := int(records[:, k].max())) >= count:
            row = int(records[:, k].argmax())
            raise DataError(f"{path}: record {row} has label {largest} in byte {k}, not 0 to {count - 1}; {remedy}")
    return records
