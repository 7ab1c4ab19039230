"""Text as numbers, as the field's benchmarks count them: 0 pads, the vocabulary from 1 on, then out-of-vocabulary, begin, end."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from fedml_api.data.split import Columns
from fedml_core.errors import DataError
from fedml_core.trainer import Batch

# Out-of-vocabulary, begin and end, counted from the end: no words that a network could be right about.
SPECIAL = (-3, -2, -1)
# The characters of Shakespeare and Dickens, in the order of TensorFlow Federated's tutorial on text generation.
CHARACTERS = b"dhlptx@DHLPTX $(,048cgkoswCGKOSW[_#'/37;?bfjnrvzBFJNRVZ\"&*.26:\naeimquyAEIMQUY]!%)-159\r"


class Characters:
    """Bytes as numbers: 1 to n for the n characters, n + 1 for all others, n + 2 and n + 3 around a text; 0 pads."""

    def __init__(self, characters: bytes = CHARACTERS) -> None:
        self.unknown, self.begin, self.end = (len(characters) + k for k in (1, 2, 3))
        self.count = len(characters) + 4
        self._table = np.full(256, self.unknown, np.uint8)
        self._table[np.frombuffer(characters, np.uint8)] = np.arange(1, len(characters) + 1)

    def numbers(self, text: bytes) -> np.ndarray:
        return self._table[np.frombuffer(text, np.uint8)]

    def sequences(self, texts: Iterable[bytes], steps: int) -> np.ndarray:
        """`[n, steps + 1]`: each text between begin and end, padded and cut into as many rows as it takes.

        The last number of a row is only a target, the first of the next one only an input.
        """
        rows = []
        for text in texts:
            row = np.zeros(-(-(len(text) + 2) // (steps + 1)) * (steps + 1), np.uint8)
            row[0], row[len(text) + 1] = self.begin, self.end
            row[1 : len(text) + 1] = self.numbers(text)
            rows.append(row.reshape(-1, steps + 1))
        return np.concatenate(rows) if rows else np.empty((0, steps + 1), np.uint8)


class Words:
    """Words as numbers: 1 to n for the n words, n + 1 for all others, n + 2 before and n + 3 after a sentence; 0 pads."""

    def __init__(self, words: Sequence[bytes]) -> None:
        self.unknown, self.begin, self.end = (len(words) + k for k in (1, 2, 3))
        self.count = len(words) + 4
        self._number = {word: k for k, word in enumerate(words, 1)}

    def number(self, word: bytes) -> int:
        return self._number.get(word, self.unknown)

    def numbers(self, sentence: bytes, most: int | None = None) -> list[int]:
        """The first `most` words of a sentence, between which there is white space."""
        number, unknown = self._number.get, self.unknown
        return [number(word, unknown) for word in (sentence.split() if most is None else sentence.split(None, most)[:most])]

    def padded(self, texts: Sequence[Sequence[bytes]], steps: int) -> np.ndarray:
        """`[n, steps]`: the first `steps` words of each text."""
        rows = np.zeros((len(texts), steps), np.uint16)
        for row, text in zip(rows, texts, strict=True):
            numbers = [self.number(word) for word in text[:steps]]
            row[: len(numbers)] = numbers
        return rows

    def sequences(self, sentences: Sequence[bytes], steps: int) -> np.ndarray:
        """`[n, steps + 1]`: each sentence after begin, cut to `steps` words, with end where there is room for it."""
        rows = np.zeros((len(sentences), steps + 1), np.uint16)
        rows[:, 0] = self.begin
        for row, sentence in zip(rows, sentences, strict=True):
            numbers = self.numbers(sentence, steps)
            row[1 : len(numbers) + 1] = numbers
            if len(numbers) < steps:
                row[len(numbers) + 1] = self.end
        return rows


def read_word_counts(path: Path, count: int, remedy: str) -> list[bytes]:
    """The first `count` words of a file with a word and its count in each line, the most frequent first."""
    try:
        with path.open("rb") as file:
            lines = [line for line, _ in zip(file, range(count), strict=False)]
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error}); {remedy}") from None
    words = []
    for number, line in enumerate(lines, 1):
        parts = line.split()
        if len(parts) != 2 or not parts[1].isdigit():
            raise DataError(f"{path}: line {number} is no word with its count: {line[:40]!r}; {remedy}")
        words.append(parts[0])
    return _distinct(words, count, path, remedy)


def read_tag_counts(path: Path, count: int, remedy: str) -> list[bytes]:
    """The first `count` tags of a JSON object with a count for each, the most frequent first."""
    try:
        counts = json.loads(path.read_bytes())
        tags = [tag.encode() for tag, times in counts.items() if isinstance(times, int)]
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(f"{path}: cannot be read as a JSON object of counts ({error}); {remedy}") from None
    return _distinct(tags[:count], count, path, remedy)


def _distinct(words: list[bytes], count: int, path: Path, remedy: str) -> list[bytes]:
    if len(set(words)) != count:
        raise DataError(f"{path}: has {len(set(words)):,} different entries, and {count:,} are needed; {remedy}")
    return words


def texts(column: np.ndarray) -> list[bytes]:
    """A column of text, however the file keeps it."""
    return [text if isinstance(text, bytes) else str(text).encode() for text in column.tolist()]


def next_tokens(columns: Columns) -> Batch:
    """Inputs `x` and targets `y` `[n, t]` of rows `tokens` `[n, t + 1]`: at every position, what comes next."""
    tokens = torch.from_numpy(columns["tokens"].astype(np.int64))
    return {"x": tokens[:, :-1], "y": tokens[:, 1:]}


def widened(columns: Columns) -> Batch:
    """Columns of small whole numbers, as the int64 that networks take."""
    return {name: torch.from_numpy(column.astype(np.int64)) for name, column in columns.items()}


def words_and_marks(text: str) -> list[bytes]:
    """The words and the punctuation marks of a text, in lower case."""
    return [word.encode() for word in re.findall(r"[\w']+|[.,!?;]", text.lower())]


def frequent(counts: Mapping[bytes, int], most: int) -> list[bytes]:
    """The most frequent words, the most frequent first, ties in the order of the alphabet."""
    return sorted(counts, key=lambda word: (-counts[word], word))[:most]
