"""Small image sets that other packages ship as a table: one image a line, its pixels and then its label."""

from __future__ import annotations

import gzip
import importlib.metadata
import io
import math
import sysconfig
import zlib
from pathlib import Path

import numpy as np
import torch

from fedml_core.errors import DataError
from fedml_core.partition import stratified_split
from fedml_core.trainer import Examples

# The split is part of what these data sets are: the same in every run, whatever its seed.
SPLIT_SEED = 0
INSTALL = 'pip install "fedml[data]"'


def package_place(package: str, path: str) -> Path:
    """Where `path` of a package lies, or would lie if it were installed; the package is not imported."""
    try:
        return Path(str(importlib.metadata.distribution(package).locate_file(path)))
    except importlib.metadata.PackageNotFoundError:
        return Path(sysconfig.get_path("purelib")) / path


def packaged_file(package: str, path: str, install: str = INSTALL) -> Path:
    """Where `path` of an installed package lies; the package is not imported. `install` is how to get it."""
    try:
        importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        raise DataError(f"package {package} is not installed; run: {install}") from None
    if not (found := package_place(package, path)).exists():
        upgrade = install.replace("install", "install --upgrade", 1)
        raise DataError(f"{found}: not in the installed package {package}; run: {upgrade}")
    return found


def again(install: str) -> str:
    """The command of `packaged_file` for a package of which a file is damaged."""
    return install.replace("install", "install --force-reinstall", 1)


def read_table(path: Path, largest: int, test: int | float, install: str = INSTALL) -> tuple[Examples, Examples]:
    """Training and test examples of a table of square images, stratified by class.

    Args:
        path: comma-separated whole numbers, gzipped; `largest`: the pixel value that becomes 1.0.
        test: how many examples (int), or which fraction of them (float), are the test set.
        install: how to get the file again.

    Returns:
        Columns `x`: float32 `[n, 1, side, side]` in [0, 1]; `y`: int64 `[n]`.
    """
    remedy = f"run: {again(install)}"
    try:
        text = gzip.decompress(path.read_bytes())
        table = np.loadtxt(io.BytesIO(text), delimiter=",", dtype=np.uint8, ndmin=2) if text else np.empty((0, 0), np.uint8)
    except (OSError, EOFError, ValueError, OverflowError, zlib.error) as error:
        raise DataError(f"{path} is damaged: {error}; {remedy}") from None
    side = math.isqrt(max(0, table.shape[1] - 1))
    if not side or side * side != table.shape[1] - 1 or table[:, :-1].max() > largest:
        raise DataError(f"{path} is damaged: not a table of square images with pixels from 0 to {largest}; {remedy}")
    if isinstance(test, int) and len(table) <= test:
        raise DataError(f"{path} is damaged: has {len(table)} images, and {test} are held out for the test; {remedy}")
    if table[:, -1].max() > 9:
        raise DataError(f"{path} is damaged: has the label {table[:, -1].max()}, and digits are 0 to 9; {remedy}")
    x = torch.from_numpy(table[:, :-1].reshape(-1, 1, side, side).astype(np.float32) / largest)
    everything = Examples({"x": x, "y": torch.from_numpy(table[:, -1].astype(np.int64))})
    stays, goes = stratified_split(table[:, -1], test, SPLIT_SEED)
    return Examples(everything.take(torch.from_numpy(stays))), Examples(everything.take(torch.from_numpy(goes)))
