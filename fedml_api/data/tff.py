"""The data sets of TensorFlow Federated's simulations, in their HDF5 files, or in SQLite files."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from msgspec import Meta

from fedml_api.data.dataset import data_sources
from fedml_api.data.features import Feature
from fedml_api.data.hdf5 import H5Split
from fedml_api.data.natural import NaturalSource
from fedml_api.data.split import ClientSplit, Columns
from fedml_api.data.sqlite import FedJaxSplit, TffSqliteSplit
from fedml_api.data.vocabulary import SPECIAL, Characters, Words, next_tokens, read_tag_counts, read_word_counts, texts
from fedml_core.errors import DataError
from fedml_core.settings import settings
from fedml_core.trainer import Batch

GET = "run: fedml data get {name}"


@settings
class TffSource(NaturalSource):
    """One file for training and one for testing.

    Args:
        format: `hdf5`: the two HDF5 files; `sqlite`: TensorFlow Federated's SQLite file, unpacked; `fedjax`: FedJAX's two SQLite
            files. The examples are the same; FedJAX has clients of its own names for `femnist`.
    """

    format: Literal["hdf5", "sqlite", "fedjax"] = "hdf5"
    stems: ClassVar[Mapping[str, str]] = {}
    features: ClassVar[Mapping[str, Feature]] = {}
    # The feature whose rows are the examples, and whether the two splits have the same clients.
    rows: ClassVar[str | None] = None
    same_clients: ClassVar[bool] = False

    @abstractmethod
    def compactor(self, root: Path) -> Callable[[Columns], Columns]:
        """What makes of a client's features what is kept of them; it may be asked for some of them alone."""

    @property
    def parts(self) -> tuple[str, str]:
        """The names of the splits."""
        return "train", "test"

    @property
    def names(self) -> tuple[str, ...]:  # type: ignore[override]
        stem = self.stems[self.format]
        if self.format == "sqlite":
            return (f"{stem}.sqlite",)
        suffix = "h5" if self.format == "hdf5" else "sqlite"
        return tuple(f"{stem}_{part}.{suffix}" for part in self.parts)

    def remedy(self, root: Path) -> str:
        if self.format == "hdf5":
            return super().remedy(root)
        site = "tff-datasets-public" if self.format == "sqlite" else "gresearch/fedjax"
        unpacked = f", unpacked from {self.names[0]}.lzma" * (self.format == "sqlite")
        return f"put {' and '.join(self.names)} into {self.folder(root)} (of storage.googleapis.com/{site}{unpacked})"

    def most(self) -> int | None:
        """Rows that are read of a client at most."""
        return None

    def splits(self, root: Path) -> tuple[ClientSplit, ClientSplit]:
        files = self.present(root)
        how = (self.features, self.compactor(root), self.remedy(root), root, self.rows, self.most())
        train, test = (
            TffSqliteSplit(files[0], part.replace("_", ""), *how)
            if self.format == "sqlite"
            else (FedJaxSplit if self.format == "fedjax" else H5Split)(files[k], *how)
            for k, part in enumerate(self.parts)
        )
        if self.same_clients and train.ids != test.ids:
            one = min(set(train.ids) ^ set(test.ids))
            has, lacks = (train, test) if one in train else (test, train)
            raise DataError(f"{lacks}: {lacks.place(one)} is missing, which {has.path.name} has; {self.remedy(root)}")
        return train, test


@data_sources.register("femnist")
@settings
class Femnist(TffSource):
    """Federated EMNIST: characters by 3,400 writers, 671,585 train, 77,483 test, 62 classes, 28x28 pixels (TFF's HDF5).

    `x` in [0, 1] with ink 1: the files have background 1. Classes are 0-9, A-Z, a-z. Each writer has its own test examples.
    Caldas et al., LEAF, 2018; Cohen et al., EMNIST, 2017.
    """

    stems: ClassVar[Mapping[str, str]] = {"hdf5": "fed_emnist", "sqlite": "emnist_all", "fedjax": "federated_emnist"}
    how_to_get: ClassVar[str] = GET.format(name="femnist")
    features: ClassVar[Mapping[str, Feature]] = {"pixels": Feature("float", (28, 28)), "label": Feature("whole")}
    rows: ClassVar[str | None] = "label"
    same_clients: ClassVar[bool] = True
    classes: ClassVar[int | None] = 62
    label: ClassVar[str | None] = "label"

    def compactor(self, root: Path) -> Callable[[Columns], Columns]:
        return self._compact

    def _compact(self, columns: Columns) -> Columns:
        found = {"label": labels(columns["label"], self.classes or 0)}
        if "pixels" in columns:
            pixels = columns["pixels"].astype(np.float32, copy=False)
            if pixels.size and not (pixels.min() >= 0 and pixels.max() <= 1):
                raise DataError(f"has pixels from {pixels.min()} to {pixels.max()}, not from 0 to 1")
            found = {"pixels": np.subtract(1, pixels, out=pixels), **found}
        return found

    def expand(self, columns: Columns) -> Batch:
        return {"x": torch.from_numpy(columns["pixels"]).unsqueeze(1), "y": torch.from_numpy(columns["label"].astype(np.int64))}


@data_sources.register("femnist_digits")
@settings
class FemnistDigits(Femnist):
    """The digits of Federated EMNIST alone: 3,383 writers, 341,873 train, 40,832 test, 10 classes, 28x28 pixels (TFF's HDF5).

    Otherwise as `femnist`; TFF calls it EMNIST with `only_digits`.
    """

    names: ClassVar[tuple[str, ...]] = ("fed_emnist_digitsonly_train.h5", "fed_emnist_digitsonly_test.h5")
    how_to_get: ClassVar[str] = GET.format(name="femnist_digits")
    classes: ClassVar[int | None] = 10


@data_sources.register("fed_cifar100")
@settings
class FedCifar100(TffSource):
    """Federated CIFAR-100: photos of 500 clients for train, of 100 others for test, 100 each; 100 classes (TFF's HDF5).

    Dealt by Pachinko allocation, so that a client's classes are related. `x` is the central `crop` x `crop` pixels of 32x32, each
    image with mean 0 and standard deviation 1, as the benchmark evaluates; the random crops and flips of its training are an
    augmentation, which a data set does not do. Clients have no test examples, as the test clients are others.
    Reddi et al., ICLR 2021.

    Args:
        coarse: the 20 superclasses instead of the 100 classes.
    """

    crop: Annotated[int, Meta(ge=1, le=32)] = 24
    coarse: bool = False
    stems: ClassVar[Mapping[str, str]] = {"hdf5": "fed_cifar100", "sqlite": "cifar100", "fedjax": "federated_cifar100"}
    how_to_get: ClassVar[str] = GET.format(name="fed_cifar100")
    rows: ClassVar[str | None] = "image"

    @property
    def label(self) -> str:  # type: ignore[override]
        return "coarse_label" if self.coarse else "label"

    @property
    def features(self) -> Mapping[str, Feature]:  # type: ignore[override]
        return {"image": Feature("whole", (32, 32, 3)), self.label: Feature("whole")}

    def number_of_classes(self) -> int:
        return 20 if self.coarse else 100

    def compactor(self, root: Path) -> Callable[[Columns], Columns]:
        return self._compact

    def _compact(self, columns: Columns) -> Columns:
        found = {self.label: labels(columns[self.label], self.number_of_classes())}
        if "image" in columns:
            images = columns["image"]
            if images.dtype != np.uint8:
                raise DataError(f"has images of {images.dtype}, not of uint8")
            found = {"image": images, **found}
        return found

    def expand(self, columns: Columns) -> Batch:
        first = (32 - self.crop) // 2
        x = columns["image"][:, first : first + self.crop, first : first + self.crop]
        x = np.ascontiguousarray(x.transpose(0, 3, 1, 2), np.float32)
        mean, deviation = x.mean((1, 2, 3), keepdims=True), x.std((1, 2, 3), keepdims=True)
        # As tf.image.per_image_standardization has it, an image of one colour is divided by 1 / sqrt(pixels).
        x = (x - mean) / np.maximum(deviation, (3 * self.crop**2) ** -0.5)
        return {"x": torch.from_numpy(x), "y": torch.from_numpy(columns[self.label].astype(np.int64))}


@data_sources.register("fed_shakespeare")
@settings
class FedShakespeare(TffSource):
    """Federated Shakespeare: lines of 715 roles, 16,068 snippets for train, 2,356 for test; 90 characters (TFF's HDF5).

    The task is the next character at every position. Each snippet, between begin and end, is cut into rows of `steps` + 1
    characters; `x` and `y` are int64 `[n, steps]`, 0 pads, 1-86 are the vocabulary, 87 is any other character, 88 begin, 89 end.
    An example is a row, not a snippet. McMahan et al., AISTATS 2017; preprocessing as in Reddi et al., ICLR 2021.
    """

    steps: Annotated[int, Meta(ge=1)] = 80
    stems: ClassVar[Mapping[str, str]] = dict.fromkeys(("hdf5", "sqlite", "fedjax"), "shakespeare")
    how_to_get: ClassVar[str] = GET.format(name="fed_shakespeare")
    features: ClassVar[Mapping[str, Feature]] = {"snippets": Feature("text")}
    same_clients: ClassVar[bool] = True
    classes: ClassVar[int | None] = 90
    special: ClassVar[tuple[int, ...]] = SPECIAL

    def compactor(self, root: Path) -> Callable[[Columns], Columns]:
        characters = Characters()
        return lambda columns: {"tokens": characters.sequences(texts(columns["snippets"]), self.steps)}

    def expand(self, columns: Columns) -> Batch:
        return next_tokens(columns)


@settings
class StackOverflow(TffSource):
    """Questions and answers of 342,477 users for train, 204,088 for test (of whom many are others).

    Args:
        words: size of the vocabulary: the most frequent words of `stackoverflow.word_count`.
        largest: posts of a user that are used at most, the first ones; all, if None.
        global_test: how many test examples the global test set has: those of users drawn at random, the same for every seed.
        validation: whether the 38,758 users held out for that take the place of the test users, none of whom trains.
    """

    words: Annotated[int, Meta(ge=1, le=60_000)] = 10_000
    largest: Annotated[int, Meta(ge=1)] | None = None
    global_test: Annotated[int, Meta(ge=1)] = 10_000
    validation: bool = False
    rows: ClassVar[str | None] = "tokens"
    stems: ClassVar[Mapping[str, str]] = dict.fromkeys(("hdf5", "sqlite", "fedjax"), "stackoverflow")
    counts: ClassVar[tuple[str, ...]] = ("stackoverflow.word_count",)

    @property
    def parts(self) -> tuple[str, str]:
        return "train", "held_out" if self.validation else "test"

    @property
    def names(self) -> tuple[str, ...]:  # type: ignore[override]
        return (*super().names, *self.counts)

    def most(self) -> int | None:
        return self.largest

    def number_of_tests(self) -> int:
        return self.global_test

    def folder(self, root: Path) -> Path:
        return root / "stackoverflow"

    def vocabulary(self, root: Path) -> Words:
        path = self.present(root)[-len(self.counts)]
        return Words(read_word_counts(path, self.words, self.remedy(root)))


@data_sources.register("stackoverflow_nwp")
@settings
class StackOverflowNwp(StackOverflow):
    """Stack Overflow, next word: 135,818,730 train, 16,586,035 test sentences of 342,477 and 204,088 users (TFF's HDF5).

    `x` and `y` are int64 `[n, steps]`, each sentence cut to `steps` words: 0 pads, 1-10,000 are the vocabulary, 10,001 is any other
    word, 10,002 begin, 10,003 end. With `packed`, users are put into one file per split at first use, which takes its time; opening
    them takes none afterwards. Reddi et al., ICLR 2021, sec. 4; there, users have 1,000 sentences at most.
    """

    steps: Annotated[int, Meta(ge=1)] = 20
    packed: bool = True
    how_to_get: ClassVar[str] = GET.format(name="stackoverflow_nwp")
    features: ClassVar[Mapping[str, Feature]] = {"tokens": Feature("text")}
    special: ClassVar[tuple[int, ...]] = SPECIAL

    def number_of_classes(self) -> int:
        return self.words + 4

    def compactor(self, root: Path) -> Callable[[Columns], Columns]:
        vocabulary = self.vocabulary(root)
        return lambda columns: {"tokens": vocabulary.sequences(texts(columns["tokens"]), self.steps)}

    def expand(self, columns: Columns) -> Batch:
        return next_tokens(columns)


@data_sources.register("stackoverflow_lr")
@settings
class StackOverflowLr(StackOverflow):
    """Stack Overflow, tags of a post: as many train and test posts as there are sentences for the next word (TFF's HDF5).

    `x` float32 `[n, words]`: how often each word is used in text and title together, as a share of all their words, those beyond
    the vocabulary included. `y` float32 `[n, tags]`: 1 for each of the post's tags; an example may have several, or none of the
    most frequent ones. A row takes 42 kB, hence no `packed`, and bounds by default. Reddi et al., ICLR 2021, sec. 4.
    """

    tags: Annotated[int, Meta(ge=1, le=60_000)] = 500
    largest: Annotated[int, Meta(ge=1)] | None = 1_000
    global_test: Annotated[int, Meta(ge=1)] = 2_500
    counts: ClassVar[tuple[str, ...]] = (*StackOverflow.counts, "stackoverflow.tag_count")
    how_to_get: ClassVar[str] = GET.format(name="stackoverflow_lr")
    features: ClassVar[Mapping[str, Feature]] = {name: Feature("text") for name in ("tokens", "title", "tags")}

    def problems(self) -> list[str]:
        packed = ["packed = true: a row takes 42 kB, the file would have terabytes; leave it out"] if self.packed else []
        return [*super().problems(), *packed]

    def number_of_classes(self) -> int:
        return self.tags

    def compactor(self, root: Path) -> Callable[[Columns], Columns]:
        words = self.vocabulary(root)
        tags = {tag: k for k, tag in enumerate(read_tag_counts(self.present(root)[-1], self.tags, self.remedy(root)))}

        def compact(columns: Columns) -> Columns:
            posts = zip(*(texts(columns[name]) for name in ("tokens", "title", "tags")), strict=True)
            x = np.zeros((len(columns["tokens"]), self.words), np.float32)
            y = np.zeros((len(x), self.tags), np.float32)
            for k, (text, title, about) in enumerate(posts):
                numbers = np.array(words.numbers(text + b" " + title), np.int64)
                x[k] = np.bincount(numbers, minlength=words.count)[1 : self.words + 1] / max(1, len(numbers))
                y[k, [tags[tag] for tag in about.split(b"|") if tag in tags]] = 1
            return {"x": x, "y": y}

        return compact

    def expand(self, columns: Columns) -> Batch:
        return {"x": torch.from_numpy(columns["x"]), "y": torch.from_numpy(columns["y"])}


def labels(column: np.ndarray, classes: int) -> np.ndarray:
    """Labels in a byte each.

    Raises:
        DataError: one is out of range.
    """
    if len(column) and not 0 <= column.min() <= column.max() < classes:
        raise DataError(f"has labels from {column.min()} to {column.max()}, not from 0 to {classes - 1}")
    return column.astype(np.uint8)
