"""A device's own data, in the simplest format there is: NumPy files.

    FOLDER/train/x.npy   features, one example per row      FOLDER/test/x.npy   the device's own test examples (optional)
    FOLDER/train/y.npy   labels, one per row                FOLDER/test/y.npy

A gateway that speaks for several clients has FOLDER/CLIENT/train and so on. Every `.npy` file in `train` is a column; all have the
same number of rows. Real features become float32, labels int64. Nothing in them is ever unpickled.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fedml_core.errors import DataError
from fedml_core.trainer import Examples

NONE = torch.empty(0, dtype=torch.int64)


def read_columns(folder: Path) -> dict[str, Tensor]:
    """The columns in `folder`, by file name.

    Raises:
        DataError: there are none, they differ in length, or a file is not an array of numbers.
    """
    columns = {}
    for path in sorted(folder.glob("*.npy")):
        try:
            array = np.array(np.lib.format.open_memmap(path, mode="r"))
        except Exception as error:  # NumPy reads the header as Python's syntax, whose errors are of many kinds
            raise DataError(f"{path} is not an array of numbers: {error}") from None
        kind = {"f": np.float32, "i": np.int64, "u": np.int64, "b": np.int64}.get(array.dtype.kind)
        if kind is None or array.ndim == 0:
            raise DataError(f"{path} holds {array.dtype} of shape {array.shape}: numbers with one row per example are needed")
        with np.errstate(over="ignore", invalid="ignore"):  # what is too large for float32 is infinite there
            columns[path.stem] = torch.from_numpy(array.astype(kind))
    if not columns:
        raise DataError(f"no data in {folder}: put x.npy and y.npy there, one row per example")
    if len({len(column) for column in columns.values()}) > 1:
        raise DataError(f"the files in {folder} differ in length: {', '.join(f'{n}: {len(c)}' for n, c in columns.items())}")
    return columns


class DeviceData:
    """The data of the clients that a device hosts.

    A folder with `train` in it is one client, the device itself, under its own name. Otherwise every subfolder with `train` in it
    is a client under the subfolder's name: a gateway that speaks for several sensors.

    Raises:
        DataError: there is no data, or it is malformed.
    """

    def __init__(self, name: str, folder: Path) -> None:
        if (folder / "train").is_dir():
            folders = {name: folder}
        else:
            folders = {path.parent.name: path.parent for path in sorted(folder.glob("*/train"))}
        if not folders:
            raise DataError(f"no data in {folder}: put x.npy and y.npy into {folder / 'train'}, one row per example")
        self.client_ids: Sequence[str] = tuple(folders)
        self._train = {client: Examples(read_columns(path / "train")) for client, path in folders.items()}
        self._test = {
            client: Examples(read_columns(path / "test")) if (path / "test").is_dir() else self._train[client].subset(NONE)
            for client, path in folders.items()
        }
        self.global_test = next(iter(self._test.values()))

    def train(self, client: str) -> Examples:
        return self._train[client]

    def test(self, client: str) -> Examples:
        return self._test[client]


def write_columns(folder: Path, columns: dict[str, Tensor]) -> None:
    """Write columns as `read_columns` reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, column in columns.items():
        np.save(folder / f"{name}.npy", column.cpu().numpy(), allow_pickle=False)
