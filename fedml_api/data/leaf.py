"""The data sets of LEAF, and of FedProx in LEAF's format: JSON files with the users' examples.

data/train/*.json, data/test/*.json:  {"users": [...], "num_samples": [...], "user_data": {USER: {"x": [...], "y": [...]}}}
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

import msgspec
import numpy as np
import torch
from msgspec import Meta

from fedml_api.data.dataset import data_sources
from fedml_api.data.natural import NaturalSource
from fedml_api.data.split import ClientSplit, Columns, HeldSplit, file_digest
from fedml_api.data.vocabulary import Characters, Words, frequent, widened, words_and_marks
from fedml_core.errors import DataError
from fedml_core.settings import settings
from fedml_core.trainer import Batch

# LEAF's alphabet for Shakespeare.
LETTERS = b"\n !\"&'(),-.0123456789:;>?ABCDEFGHIJKLMNOPQRSTUVWXYZ[]abcdefghijklmnopqrstuvwxyz}"
Reader = Callable[[list[Any], list[Any]], Columns]


def read_leaf(folder: Path, remedy: str, counted: bool = True) -> Iterator[tuple[Path, str, list[Any], list[Any]]]:
    """File, user, `x` and `y` of every user in the JSON files of a folder, one file in memory at a time.

    Args:
        counted: whether a user's `num_samples` is the number of its `x` and `y`.

    Raises:
        DataError: naming file and key, where a file is not in LEAF's format or a user is in two.
    """
    paths = sorted(folder.glob("*.json"))
    if not paths:
        raise DataError(f"{folder}: has no .json files; {remedy}")
    seen: dict[str, Path] = {}
    for path in paths:
        try:
            content = msgspec.json.decode(path.read_bytes())
        except (OSError, msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise DataError(f"{path}: cannot be read as JSON ({error}); {remedy}") from None
        for user, x, y in _users(content, path, remedy, counted):
            if user in seen:
                raise DataError(f"{path}: user '{user}' is in {seen[user].name} already; {remedy}")
            seen[user] = path
            yield path, user, x, y


def _users(content: Any, path: Path, remedy: str, counted: bool) -> Iterator[tuple[str, list[Any], list[Any]]]:
    def fault(place: str, what: str) -> DataError:
        return DataError(f"{path}: {place} {what}; {remedy}")

    parts = {}
    for name, kind in {"users": list, "num_samples": list, "user_data": dict}.items():
        if not isinstance(content, dict) or not isinstance(content.get(name), kind):
            known = ", ".join(content) if isinstance(content, dict) else type(content).__name__
            raise fault(f"'{name}'", f"is missing or no {kind.__name__} (found: {known})")
        parts[name] = content[name]
    if len(parts["users"]) != len(parts["num_samples"]):
        raise fault("'num_samples'", f"has {len(parts['num_samples'])} numbers for {len(parts['users'])} users")
    for user, count in zip(parts["users"], parts["num_samples"], strict=True):
        own = parts["user_data"].get(user) if isinstance(user, str) else None
        if not isinstance(own, dict) or not all(isinstance(own.get(name), list) for name in "xy"):
            raise fault(f"'user_data' of user '{user}'", "is missing, or has no lists x and y")
        if not len(own["x"]) == len(own["y"]) == (count if counted else len(own["y"])):
            raise fault(f"user '{user}'", f"has {len(own['x'])} x and {len(own['y'])} y; num_samples says {count}")
        yield user, own["x"], own["y"]


@settings
class LeafSource(NaturalSource):
    """Folders `train` and `test` with JSON files. They are read whole, so `packed` is worth its while from the second time on."""

    names: ClassVar[tuple[str, ...]] = ("train", "test")
    counted: ClassVar[bool] = True

    @abstractmethod
    def reader(self, root: Path) -> Reader:
        """What makes columns of a user's `x` and `y`; it raises DataError, TypeError or ValueError where they cannot be that."""

    def remedy(self, root: Path) -> str:
        return f"put the folders {' and '.join(self.names)} with their .json files into {self.folder(root)} ({self.how_to_get})"

    def files(self, root: Path) -> Sequence[Path]:
        """The JSON files; the folders, where there are none."""
        folders = [self.folder(root) / name for name in self.names]
        return [path for folder in folders for path in sorted(folder.glob("*.json")) or [folder]]

    def splits(self, root: Path) -> tuple[ClientSplit, ClientSplit]:
        reader = self.reader(root)
        train, test = (self._split(self.folder(root) / name, reader, root) for name in self.names)
        return train, test

    def _split(self, folder: Path, reader: Reader, root: Path) -> ClientSplit:
        users, remedy = {}, self.remedy(root)
        for path, user, x, y in read_leaf(folder, remedy, self.counted):
            try:
                users[user] = reader(x, y)
            except (DataError, TypeError, ValueError, OverflowError) as error:
                raise DataError(f"{path}: user '{user}': {error}; {remedy}") from None
        if not users:
            raise DataError(f"{folder}: has no users; {remedy}")
        digests = " ".join(file_digest(path, root) for path in sorted(folder.glob("*.json")))
        split = HeldSplit(users, str(folder))
        split.fingerprint = hashlib.sha256(digests.encode()).hexdigest()
        return split


@settings
class LeafImages(LeafSource):
    """Numbers in `x`, a class in `y`."""

    features: ClassVar[int] = 784
    shape: ClassVar[tuple[int, ...]] = (1, 28, 28)
    label: ClassVar[str | None] = "y"

    def reader(self, root: Path) -> Reader:
        return self._columns

    def _columns(self, x: list[Any], y: list[Any]) -> Columns:
        with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused as that
            features = np.array(x, np.float32).reshape(len(x), -1) if x else np.empty((0, self.features), np.float32)
        if features.shape[1] != self.features:
            raise DataError(f"x has {features.shape[1]} numbers, not {self.features}")
        if not np.isfinite(features).all():
            raise DataError("x has what is no finite number")
        labels = np.array(y).reshape(-1)
        if len(labels) != len(features):
            raise DataError(f"y has {len(labels)} classes for {len(features)} examples")
        numbers = labels.dtype.kind in "iuf"
        if len(labels) and not (numbers and np.isin(labels, np.arange(self.classes or 0)).all()):
            raise DataError(f"y has {list(dict.fromkeys(map(str, y)))[:5]}; classes are 0 to {(self.classes or 0) - 1}")
        return {"x": features.reshape(-1, *self.shape), "y": labels.astype(np.uint8)}

    def expand(self, columns: Columns) -> Batch:
        return {"x": torch.from_numpy(columns["x"]), "y": torch.from_numpy(columns["y"].astype(np.int64))}


@data_sources.register("leaf_femnist")
@settings
class LeafFemnist(LeafImages):
    """LEAF's FEMNIST: characters by writers, train and test as LEAF's scripts split them, 62 classes, 28x28 pixels (JSON).

    `x` in [0, 1] with ink 1: the files have background 1. Caldas et al., LEAF, 2018.
    """

    how_to_get: ClassVar[str] = "made by data/femnist/preprocess.sh of github.com/TalwalkarLab/leaf"
    classes: ClassVar[int | None] = 62

    def _columns(self, x: list[Any], y: list[Any]) -> Columns:
        found = super()._columns(x, y)
        if found["x"].size and not 0 <= found["x"].min() <= found["x"].max() <= 1:
            raise DataError(f"x goes from {found['x'].min()} to {found['x'].max()}, not from 0 to 1")
        return {**found, "x": np.subtract(1, found["x"])}


@data_sources.register("leaf_mnist")
@settings
class LeafMnist(LeafImages):
    """FedProx's MNIST: 1,000 clients of two digits each, their sizes by a power law, 61,664 train, each with its own test (JSON).

    `x` as the files have it, `[n, 1, 28, 28]`, standardised pixel by pixel. Li et al., FedProx, MLSys 2020.
    """

    how_to_get: ClassVar[str] = "MNIST of github.com/litian96/FedProx"
    classes: ClassVar[int | None] = 10


@data_sources.register("leaf_synthetic")
@settings
class LeafSynthetic(LeafImages):
    """Synthetic(alpha, beta) as FedProx's generator writes it: 60 features, 10 classes, train and test of 30 clients (JSON).

    `synthetic` draws such data without files. Li et al., FedProx, MLSys 2020.
    """

    how_to_get: ClassVar[str] = "written by data/synthetic_1_1/generate_synthetic.py of github.com/litian96/FedProx"
    features: ClassVar[int] = 60
    shape: ClassVar[tuple[int, ...]] = (60,)
    classes: ClassVar[int | None] = 10


@data_sources.register("leaf_shakespeare")
@settings
class LeafShakespeare(LeafSource):
    """LEAF's Shakespeare: 80 characters and the next, 413,629 train, 103,477 test by 143 roles as FedML has them (JSON).

    `x` int64 `[n, 80]` and `y` int64 `[n]`: 1-80 are LEAF's letters, 81 is any other character. Letters begin at 1, unlike in LEAF,
    as 0 is padding elsewhere; here nothing is padded. Caldas et al., LEAF, 2018.
    """

    how_to_get: ClassVar[str] = "made by data/shakespeare/preprocess.sh of github.com/TalwalkarLab/leaf"
    classes: ClassVar[int | None] = len(LETTERS) + 2
    label: ClassVar[str | None] = "y"
    steps: ClassVar[int] = 80

    def reader(self, root: Path) -> Reader:
        letters = Characters(LETTERS)

        def columns(x: list[Any], y: list[Any]) -> Columns:
            tokens = np.empty((len(x), self.steps + 1), np.uint8)
            for row, text, following in zip(tokens, x, y, strict=True):
                if not isinstance(text, str) or not isinstance(following, str) or (len(text), len(following)) != (self.steps, 1):
                    found = f"{text!r:.60}, {following!r:.20}"
                    raise DataError(f"an example is no text of {self.steps} characters and the next one: {found}")
                row[:] = letters.numbers(bytes(min(ord(letter), 255) for letter in text + following))
            return {"x": tokens[:, :-1], "y": tokens[:, -1]}

        return columns

    def expand(self, columns: Columns) -> Batch:
        return widened(columns)


@data_sources.register("sent140")
@settings
class Sent140(LeafSource):
    """Sentiment140: tweets by user, 2 classes (negative, positive); train and test as LEAF's scripts split them (JSON).

    `x` int64 `[n, steps]`: the first words of a tweet in lower case, 0 pads, 1 to `words` - 2 are the most frequent words of the
    training tweets, ties in the order of the alphabet, and the number after that is any other.
    Go et al., 2009; Caldas et al., LEAF, 2018.

    Args:
        words: numbers in all, with that for padding and that for other words; `steps`: words of a tweet that count.
    """

    words: Annotated[int, Meta(ge=3, le=60_000)] = 10_000
    steps: Annotated[int, Meta(ge=1)] = 25
    how_to_get: ClassVar[str] = "made by data/sent140/preprocess.sh of github.com/TalwalkarLab/leaf"
    classes: ClassVar[int | None] = 2
    label: ClassVar[str | None] = "y"

    def reader(self, root: Path) -> Reader:
        remedy, counts = self.remedy(root), Counter[bytes]()
        for path, user, x, _ in read_leaf(self.folder(root) / "train", remedy):
            try:
                counts.update(word for tweet in x for word in _words(tweet))
            except DataError as error:
                raise DataError(f"{path}: user '{user}': {error}; {remedy}") from None
        vocabulary = Words(frequent(counts, self.words - 2))

        def columns(x: list[Any], y: list[Any]) -> Columns:
            tokens = vocabulary.padded([_words(tweet) for tweet in x], self.steps)
            if not set(y) <= {0, 1}:
                raise DataError(f"y has {sorted(set(map(str, y)))[:5]}; classes are 0 and 1")
            return {"x": tokens, "y": np.array(y, np.uint8)}

        return columns

    def expand(self, columns: Columns) -> Batch:
        return widened(columns)


def _words(tweet: Any) -> list[bytes]:
    """The words and marks of a tweet, whose text is the last of its fields."""
    text = tweet[-1] if isinstance(tweet, list) and tweet else tweet
    if not isinstance(text, str):
        raise DataError(f"a tweet is no list that ends with its text: {tweet!r:.60}")
    return words_and_marks(text)
