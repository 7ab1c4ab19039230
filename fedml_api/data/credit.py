"""Credit data out of an R package."""

from __future__ import annotations

import bz2
import lzma
import warnings
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from fedml_api.data.dataset import data_sources
from fedml_api.data.tables import Columns, Groups, TableSource
from fedml_core.errors import ConfigError, DataError
from fedml_core.settings import settings

SYSTEM_FOLDER = Path("/usr/lib/R/site-library/modeldata/data")
REMEDY = "get r-cran-modeldata again, as data/README.md says"


@data_sources.register("credit")
@settings
class Credit(TableSource):
    """4,454 people who got a credit, 28 % turned out bad; 70 % train; `credit_data` of Debian's r-cran-modeldata (MIT).

    Two parties: the lender knows the person, the loan and how it went, the bureau income, expenses, assets, debt and records. With
    three, an employer has income, job and seniority. Needs the package rdata, not R.
    """

    groups: ClassVar[Mapping[int, Groups]] = {
        2: {
            "lender": ("Time", "Amount", "Price", "Age", "Marital", "Home", "Job", "Seniority"),
            "bureau": ("Income", "Expenses", "Assets", "Debt", "Records"),
        },
        3: {
            "lender": ("Time", "Amount", "Price", "Age", "Marital", "Home"),
            "employer": ("Job", "Seniority", "Income"),
            "bureau": ("Expenses", "Assets", "Debt", "Records"),
        },
    }

    def files(self, root: Path) -> Sequence[Path]:
        return frame_files(root)

    def read(self, root: Path) -> tuple[Columns, np.ndarray]:
        return labelled("credit_data", "Status", self.groups[2], root)


@data_sources.register("lending_club_sample")
@settings
class LendingClubSample(TableSource):
    """9,857 loans of early 2016, 5 % went bad; 70 % train; `lending_club` of Debian's r-cran-modeldata (MIT).

    Two parties: the lender knows the loan and how it went (not its grade and rate, which are made of all columns), the bureau
    accounts and inquiries. With three, a bank has the accounts.
    """

    groups: ClassVar[Mapping[int, Groups]] = {
        2: {
            "lender": ("funded_amnt", "term", "addr_state", "verification_status", "annual_inc", "emp_length"),
            "bureau": (
                *("delinq_2yrs", "inq_last_6mths", "revol_util", "acc_now_delinq", "open_il_6m", "open_il_12m", "open_il_24m"),
                *("total_bal_il", "all_util", "inq_fi", "inq_last_12m", "delinq_amnt", "num_il_tl", "total_il_high_credit_limit"),
            ),
        },
        3: {
            "lender": ("funded_amnt", "term", "addr_state", "verification_status", "annual_inc", "emp_length"),
            "bureau": ("delinq_2yrs", "inq_last_6mths", "acc_now_delinq", "inq_fi", "inq_last_12m", "delinq_amnt"),
            "bank": (
                *("revol_util", "open_il_6m", "open_il_12m", "open_il_24m"),
                *("total_bal_il", "all_util", "num_il_tl", "total_il_high_credit_limit"),
            ),
        },
    }

    def files(self, root: Path) -> Sequence[Path]:
        return frame_files(root)

    def read(self, root: Path) -> tuple[Columns, np.ndarray]:
        return labelled("lending_club", "Class", self.groups[2], root)


def labelled(name: str, label: str, groups: Groups, root: Path) -> tuple[Columns, np.ndarray]:
    """The columns of a data frame that the parties have, and the one that says whether a credit was good or `bad`, as 0 and 1."""
    columns = read_frame(name, root, [label, *(column for group in groups.values() for column in group)])
    status = columns.pop(label)
    return columns, (status == "bad").astype(np.int64)


def frame_files(root: Path) -> Sequence[Path]:
    """The files of the package, below `root` or where Debian puts them; below `root`, if they are in neither place."""
    folders = (root / "modeldata", SYSTEM_FOLDER)
    folder = next((folder for folder in folders if (folder / "Rdata.rdx").is_file()), folders[0])
    return [folder / "Rdata.rdx", folder / "Rdata.rdb"]


def read_frame(name: str, root: Path, needed: Sequence[str] = ()) -> Columns:
    """A data frame of an R package, from the files in which R keeps the objects of a package until they are asked for.

    `Rdata.rdx` says where in `Rdata.rdb` an object lies; it begins with its length, in four bytes, and how it is compressed.

    Raises:
        DataError: a file is not there or damaged, or a column that is `needed` is not in it.
    """
    rdata = _rdata()
    where, objects = frame_files(root)
    if not where.is_file():
        raise DataError(
            f"no Rdata.rdx in {where.parent} or {SYSTEM_FOLDER}; run: apt-get install r-cran-modeldata, or, without R, "
            f"apt-get download r-cran-modeldata && dpkg-deb -x r-cran-modeldata_*.deb DIR && cp -r DIR{SYSTEM_FOLDER} "
            f"{where.parent}"
        )
    with warnings.catch_warnings():
        # The reader warns of classes that only print otherwise, and of files without a magic number, as these are.
        warnings.simplefilter("ignore")
        path = where
        try:
            begin, length = map(int, rdata.read_rds(where)["variables"][name])
            path = objects
            block = objects.read_bytes()[begin : begin + length]
            frame = rdata.conversion.convert(rdata.parser.parse_data(_unpacked(block)))
            columns = {str(column): _values(frame[column]) for column in frame}
        except Exception as error:  # of whatever kind, in a file that R cannot have written
            raise DataError(f"{path}: {name} cannot be read: {error}; {REMEDY}") from error
    if missing := [column for column in needed if column not in columns]:
        raise DataError(f"{path}: {name} has no column {', '.join(missing)}; {REMEDY}")
    return columns


def _values(column: Any) -> np.ndarray:
    if column.dtype.kind in "iuf" or str(column.dtype).startswith("Int"):
        return np.asarray(column.astype("float64").to_numpy(na_value=np.nan), dtype=np.float64)
    return np.array(["" if value != value else str(value) for value in column.astype(object)], dtype=object)


def _unpacked(block: bytes) -> bytes:
    size, kind, rest = int.from_bytes(block[:4], "big"), block[4:5], block[5:]
    if kind == b"Z":
        data = lzma.decompress(rest, lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2}])
    else:
        data = bz2.decompress(rest) if kind == b"2" else zlib.decompress(block[4:])
    if len(data) != size:
        raise ValueError(f"{len(data)} bytes, not {size}")
    return data


def _rdata() -> Any:
    try:
        import rdata
    except ImportError:
        raise ConfigError('files of R packages need the package rdata; run: pip install "fedml[r]"') from None
    return rdata
