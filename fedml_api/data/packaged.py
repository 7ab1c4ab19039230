"""Small image sets that other packages ship as a table: one image a line, its pixels and then its label."""

from __future__ import annotations

import importlib.metadata
import math
import sysconfig
from pathlib import Path

import numpy as np
import torch

from fedml_core.errors import DataError
from fedml_core.partition import stratified_split
from fedml_core.trainer import Examples

# The split is part of what these data sets are: the same in every run, whatever its seed.
SPLIT_SEED = 0


def package_place(package: str, path: str) -> Path:
    """Where `path` of a package lies, or would lie if it were installed; the package is not imported."""
    try:
        return Path(str(importlib.metadata.distribution(package).locate_file(path)))
    except importlib.metadata.PackageNotFoundError:
        return Path(sysconfig.get_path("purelib")) / path


def packaged_file(package: str, path: str, install: str = 'pip install "fedml[data]"') -> Path:
    """Where `path` of an installed package lies; the package is not imported. `install` is how to get it."""
    try:
        importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        raise DataError(f"package {package} is not installed; run: {install}") from None
    if not (found := package_place(package, path)).exists():
        upgrade = install.replace("install", "install --upgrade", 1)
        raise DataError(f"{found}: not in the installed package {package}; run: {upgrade}")
    return found


def read_table(path: Path, largest: int, test: int | float) -> tuple[Examples, Examples]:
    """Training and test examples of a table of square images, stratified by class.

    Args:
        path: comma-separated whole numbers, gzipped; `largest`: the pixel value that becomes 1.0.
        test: how many examples (int), or which fraction of them (float), are the test set.

    Returns:
        Columns `x`: float32 `[n, 1, side, side]` in [0, 1]; `y`: int64 `[n]`.
    """
    try:
        table = np.loadtxt(path, delimiter=",", dtype=np.uint8, ndmin=2)
    except (OSError, EOFError, ValueError) as error:
        raise DataError(f"{path} is damaged: {error}") from None
    side = math.isqrt(table.shape[1] - 1)
    if side * side != table.shape[1] - 1 or table[:, :-1].max() > largest:
        raise DataError(f"{path} is damaged: not a table of square images with pixels from 0 to {largest}")
    x = torch.from_numpy(table[:, :-1].reshape(-1, 1, side, side).astype(np.float32) / largest)
    everything = Examples({"x": x, "y": torch.from_numpy(table[:, -1].astype(np.int64))})
    stays, goes = stratified_split(table[:, -1], test, SPLIT_SEED)
    return Examples(everything.take(torch.from_numpy(stays))), Examples(everything.take(torch.from_numpy(goes)))
