"""A small set of official files for every data set that is read from files, for the tests that all data sets have to pass.

Whoever adds a data set adds a line to `SOURCES`: what makes it, and what writes its files below a folder. Data sets that are drawn
from a seed stand in `DRAWN`.
"""

import gzip
import importlib.metadata
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fedml_api.data import DataSource, data_sources, fashion_mnist
from fedml_core.partition import Iid
from tests.fedml_api import test_tables
from tests.fedml_api.data import official, test_images, test_leaf

FEW = {"clients": 2, "partition": Iid()}
IDX = [(f"{half}-images-idx3-ubyte", f"{half}-labels-idx1-ubyte") for half in ("train", "t10k")]


@dataclass(frozen=True)
class Source:
    """A data set of the tests.

    Args:
        write: writes the files below a folder.
        settings: those of the data set, where the default ones do not suit small files.
        needs: a package without which it cannot be read.
        packaged: its only file, where that lies in an installed package.
    """

    write: Callable[[Path], Any]
    settings: Mapping[str, Any] = field(default_factory=dict)
    needs: str | None = None
    packaged: str | None = None


def images(folder, stems=IDX, classes=10, zipped=True):
    return lambda root: official.idx_files(root / folder, stems, classes, zipped=zipped)


def cifar100(root):
    return test_images.cifar(root, "cifar-100-binary", ["train.bin"], ["test.bin"], [20, 100])


def digits(root):
    return official.femnist(root, folder="femnist_digits", stem="fed_emnist_digitsonly", classes=10)


def leaf(name, *arguments):
    return lambda root: official.leaf(root / name, test_leaf.images(*arguments))


def shakespeare(root):
    letters = "abcdefghij"
    train = {user: {"x": [user * 10 + letter * 70 for letter in letters], "y": list(letters)} for user in "PA"}
    test = {user: {"x": [user * 20 + letter * 60 for letter in letters[:3]], "y": ["\n", "e", "é"]} for user in "PA"}
    official.leaf(root / "leaf_shakespeare", (train, test))


def tweets(root):
    train = {user: {"x": [test_leaf.tweet(f"so good {user}"), test_leaf.tweet(f"bad {user}")], "y": [1, 0]} for user in ("a", "b")}
    test = {user: {"x": [test_leaf.tweet(f"not so bad {user}")], "y": [1]} for user in ("a", "b")}
    official.leaf(root / "sent140", (train, test))


def table(name, rows, largest):
    """Images of 2x2 pixels and their labels, one a line."""

    def write(root):
        draw = np.random.default_rng(0)
        lines = (",".join(map(str, [*draw.integers(0, largest + 1, 4), k % 10])) for k in range(rows))
        (root / name).write_bytes(gzip.compress("".join(f"{line}\n" for line in lines).encode(), mtime=0))

    return write


def census(root):
    """As the package has it: rows numbered in a column without a name, a space before every text."""
    draw = np.random.default_rng(0)
    people = {
        "age": 17 + np.arange(60),
        **{name: draw.choice([" x", " y", " z"], 60) for name in ("workclass", "education")},
        "education-num": draw.integers(1, 17, 60),
        **{name: draw.choice([" x", " y"], 60) for name in ("marital-status", "occupation", "relationship", "ethnicity", "gender")},
        **{name: draw.integers(0, 99, 60) for name in ("capital-gain", "capital-loss", "hours-per-week")},
        "loan": np.where(np.arange(60) % 4, " <=50K", " >50K"),
    }
    rows = zip(range(60), *people.values(), strict=True)
    lines = [",".join(["", *people]), *(",".join(map(str, row)) for row in rows)]
    (root / "census.csv").write_text("".join(f"{line}\n" for line in lines))


def frame(name, source, label, texts):
    """A data frame as R keeps it for a package: where it lies in `Rdata.rdx`, it itself in `Rdata.rdb`."""

    def write(root):
        import pandas
        import rdata

        draw, folder = np.random.default_rng(0), root / "modeldata"
        folder.mkdir()
        names = [column for group in data_sources[source].groups[2].values() for column in group]
        text, number = lambda: draw.choice(["p", "q", "r"], 60).tolist(), lambda: draw.normal(size=60).round(3)
        columns = {column: text() if column in texts else number() for column in names}
        columns[label] = ["bad" if k % 4 == 0 else "good" for k in range(60)]
        plain = folder / "plain"
        rdata.write_rds(plain, pandas.DataFrame(columns))
        content = gzip.decompress(plain.read_bytes())
        plain.unlink()
        block = len(content).to_bytes(4, "big") + zlib.compress(content)
        before = b"another object"
        (folder / "Rdata.rdb").write_bytes(before + block)
        place = np.array([len(before), len(block)], np.int32)
        rdata.write_rds(folder / "Rdata.rdx", {"variables": {name: place}, "references": {}, "compressed": True})

    return write


def loans(root):
    (root / "lending_club").mkdir()
    test_tables.loans(root / "lending_club" / "loan.csv")


CREDIT = ("Marital", "Home", "Job", "Records")
LOANS = ("term", "addr_state", "verification_status", "emp_length")
EMNIST = [(f"emnist-digits-{half}-images-idx3-ubyte", f"emnist-digits-{half}-labels-idx1-ubyte") for half in ("train", "test")]

SOURCES = {
    "adult": Source(census, packaged="census.csv"),
    "cifar10": Source(test_images.cifar10, FEW),
    "cifar100": Source(cifar100, FEW),
    "cinic10": Source(test_images.cinic, FEW),
    "credit": Source(frame("credit_data", "credit", "Status", CREDIT), needs="rdata"),
    "digits": Source(table("digits.csv.gz", 60, 16), FEW, packaged="digits.csv.gz"),
    "emnist": Source(images("emnist", EMNIST), {**FEW, "part": "digits"}),
    "fashion_mnist": Source(images("fashion_mnist"), FEW),
    "fed_cifar100": Source(official.fed_cifar100, needs="h5py"),
    "fed_shakespeare": Source(official.fed_shakespeare, needs="h5py"),
    "femnist": Source(official.femnist, needs="h5py"),
    "femnist_digits": Source(digits, needs="h5py"),
    "leaf_femnist": Source(leaf("leaf_femnist", 784, 62)),
    "leaf_mnist": Source(leaf("leaf_mnist", 784, 10, -2.0)),
    "leaf_shakespeare": Source(shakespeare),
    "leaf_synthetic": Source(leaf("leaf_synthetic", 60, 10, -2.0)),
    "lending_club": Source(loans),
    "lending_club_sample": Source(frame("lending_club", "lending_club_sample", "Class", LOANS), needs="rdata"),
    "mnist": Source(images("mnist", zipped=False), FEW),
    "mnist5k": Source(table("mnist_5k.csv.gz", 1100, 255), FEW, packaged="mnist_5k.csv.gz"),
    "nus_wide": Source(test_tables.photos),
    "sent140": Source(tweets, {"words": 8, "steps": 5}),
    "stackoverflow_lr": Source(official.stackoverflow, {"words": 30, "tags": 6}, needs="h5py"),
    "stackoverflow_nwp": Source(official.stackoverflow, {"words": 30, "packed": False}, needs="h5py"),
}
DRAWN = frozenset({"synthetic"})


def made(name, root, monkeypatch, **others) -> DataSource:
    """The settings of a data set whose files are below `root` and nowhere else, once they are written."""
    source = SOURCES[name]
    monkeypatch.setattr(fashion_mnist, "SYSTEM_FOLDER", root / "absent")
    monkeypatch.setattr("fedml_api.data.credit.SYSTEM_FOLDER", root / "absent")
    if source.packaged:

        class Installed:
            def locate_file(self, path):
                assert Path(path).name == source.packaged
                return root / source.packaged

        monkeypatch.setattr(importlib.metadata, "distribution", lambda package: Installed())
    return data_sources[name](**{**source.settings, **others})


def written(name, root) -> list[Path]:
    """The files of a data set, written anew."""
    SOURCES[name].write(root)
    return sorted(path for path in root.rglob("*") if path.is_file())


def everything(source, root) -> dict[str, Any]:
    """A data set as its parties see it: every client's training and test examples, and the global ones."""
    data = source.load(0, root)
    parts = {f"train of {client}": data.train(client).all() for client in data.client_ids}
    parts |= {f"test of {client}": data.test(client).all() for client in data.client_ids}
    return {**parts, "global test": data.global_test.all()}
