"""What data sets of labelled texts share: words as numbers, or as a bag of words weighted by how rare they are."""

from __future__ import annotations

import csv
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from msgspec import Meta

from fedml_api.data.lines import check_end
from fedml_api.data.mapped import identity, mapped
from fedml_api.data.partitioned import PartitionedSource
from fedml_api.data.vocabulary import Words, frequent, words_and_marks
from fedml_core.errors import ConfigError, DataError
from fedml_core.settings import settings, to_plain
from fedml_core.trainer import Examples

# Numbers in bags of words, of 4 bytes each.
LARGEST = 1 << 29
Labelled = Sequence[tuple[str, int]]


@settings
class TextSource(PartitionedSource):
    """Texts of one class each; registering a class that can `read_texts` adds one.

    The vocabulary is of the training texts, those for `validation` included: their most frequent words in lower case, punctuation
    marks being words, ties in the order of the alphabet.

    Args:
        form: `tokens`: `x` int64 `[n, steps]`, 0 pads, 1 to `words` - 2 are the vocabulary, and the number after that is any other
            word. `tfidf`: `x` float32 `[n, words]`, c_w (1 + ln((1 + N) / (1 + N_w))) for each word w of the vocabulary, divided by
            the length of that vector; c_w is how often w is in the text, N_w the number of the N training texts that have it.
        words: numbers or features in all; `steps`: words of a text that count, of `tokens`.
    """

    form: Literal["tokens", "tfidf"] = "tokens"
    words: Annotated[int, Meta(ge=3, le=60_000)] = 10_000
    steps: Annotated[int, Meta(ge=1)] = 64

    def problems(self) -> list[str]:
        if self.skew is not None and self.form == "tokens":
            return ["skew: tokens are numbers of words, which cannot be skewed; leave it out, or ask for form = 'tfidf'"]
        return []

    @abstractmethod
    def read_texts(self, root: Path) -> tuple[Labelled, Labelled]:
        """Training and test texts with their classes, from 0."""

    def read(self, root: Path) -> tuple[Examples, Examples]:
        plain = {name: value for name, value in to_plain(self).items() if name not in PartitionedSource.__dataclass_fields__}
        return mapped(lambda: self._examples(root), self, [plain, *map(identity, self.present(root))], root)

    def _examples(self, root: Path) -> tuple[Examples, Examples]:
        halves = self.read_texts(root)
        texts = [[words_and_marks(text) for text, _ in half] for half in halves]
        counts = Counter(word for text in texts[0] for word in text)
        if self.form == "tokens":
            vocabulary = Words(frequent(counts, self.words - 2))
            columns = [vocabulary.padded(half, self.steps).astype(np.int64) for half in texts]
        else:
            rows = sum(map(len, texts))
            if rows * self.words > LARGEST:
                most = f"ask for at most {LARGEST // rows:,} words, or for data.form=tokens"
                raise ConfigError(f"data.words = {self.words}: so many numbers for each of {rows:,} texts are too many; {most}")
            columns = tfidf(texts, frequent(counts, self.words), self.words)
        train, test = (
            Examples({"x": torch.from_numpy(x), "y": torch.tensor([label for _, label in half])})
            for x, half in zip(columns, halves, strict=True)
        )
        return train, test


def tfidf(halves: Sequence[Sequence[Sequence[bytes]]], vocabulary: Sequence[bytes], width: int) -> list[np.ndarray]:
    """Words of training and test texts -> `[n, width]`, as `TextSource` says it; a text without a known word is 0."""
    place = {word: k for k, word in enumerate(vocabulary)}
    made = [np.zeros((len(texts), width), np.float32) for texts in halves]
    for x, texts in zip(made, halves, strict=True):
        for row, text in zip(x, texts, strict=True):
            np.add.at(row, [place[word] for word in text if word in place], 1)
    train = made[0]
    weights = (1 + np.log((1 + len(train)) / (1 + np.count_nonzero(train, axis=0)))).astype(np.float32)
    for x in made:
        x *= weights
        x /= np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    return made


def read_rows(path: Path, separator: str, columns: int, remedy: str, quoted: bool = True) -> Iterator[tuple[int, list[str]]]:
    """The number of each line and its fields, lines without any left out.

    Raises:
        DataError: the file is not there, not in UTF-8, or a line has another number of fields.
    """
    last = 0
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = csv.reader(file, delimiter=separator, quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE, strict=quoted)
            for row in rows:
                if len(row) not in (0, columns):
                    raise DataError(f"{path}: line {rows.line_num} has {len(row)} fields, not {columns}; {remedy}")
                if row:
                    last = rows.line_num
                    yield last, row
    except FileNotFoundError:
        raise DataError(f"{path}: not there; {remedy}") from None
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); {remedy}") from None
    if last:
        check_end(path, remedy)


def class_of(text: str, classes: Mapping[str, int], path: Path, line: int, remedy: str) -> int:
    """The number of a class.

    Raises:
        DataError: it is none.
    """
    if text not in classes:
        raise DataError(f"{path}: line {line} has the class {text!r:.40}; classes are {', '.join(classes)}; {remedy}")
    return classes[text]


def not_empty(half: Labelled, path: Path, remedy: str) -> Labelled:
    """Raises DataError where there are no texts."""
    if not half:
        raise DataError(f"{path}: has no texts; {remedy}")
    return half
