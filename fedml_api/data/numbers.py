"""Tables of numbers in text files."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedml_api.data.lines import check_end
from fedml_core.errors import DataError


def read_numbers(
    path: Path,
    columns: int,
    header: int = 1,
    most: int | None = None,
    remedy: str = "",
    separator: str = ",",
    use: Sequence[int] | None = None,
) -> np.ndarray:
    """The rows of a file of finite numbers, gzipped if its name ends in .gz: float64 `[n, columns]`; `most`, the first ones.

    Args:
        header: lines before the first row; `separator`: what stands between columns; `use`: the columns that are read, if not all.
        remedy: what to do about a file that is missing or damaged, in words.

    Raises:
        DataError: it is not there, not such a table, or has no rows.
    """
    what_to_do = remedy or "get it again"
    remedy = remedy and f"; {remedy}"
    try:
        table = _loaded(path, separator, skiprows=header, max_rows=most, usecols=use)
    except FileNotFoundError:
        raise DataError(f"{path}: not there{remedy}") from None
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(f"{path}: damaged ({error}){remedy}") from None
    if not len(table) or table.shape[1] != columns:
        raise DataError(f"{path}: {len(table)} rows of {table.shape[1]} columns; needed are rows of {columns}{remedy}")
    if not (finite := np.isfinite(table).all(1)).all():
        line = header + 1 + int(np.flatnonzero(~finite)[0])
        raise DataError(f"{path}, line {line}: what is there is no finite number{remedy}")
    if path.suffix != ".gz" and most is None:
        check_end(path, what_to_do)
    return table


def _loaded(path: Path, separator: str, **how: Any) -> np.ndarray:
    how |= {"dtype": np.float64, "comments": None, "quotechar": '"', "ndmin": 2}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an empty file, which has no rows
        if len(separator) == 1:
            return np.loadtxt(path, delimiter=separator, encoding="utf-8", **how)
        with path.open(encoding="utf-8") as file:
            return np.loadtxt((line.replace(separator, "\t") for line in file), delimiter="\t", **how)
