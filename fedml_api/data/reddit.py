"""LEAF's Reddit, in JSON files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from msgspec import Meta

from fedml_api.data.dataset import data_sources
from fedml_api.data.leaf import LeafSource, Reader, read_leaf
from fedml_api.data.split import Columns
from fedml_api.data.vocabulary import SPECIAL, Words, frequent, widened
from fedml_core.errors import DataError
from fedml_core.settings import settings
from fedml_core.trainer import Batch

PAD, BEGIN, END = "<PAD>", "<BOS>", "<EOS>"


@data_sources.register("reddit")
@settings
class Reddit(LeafSource):
    """LEAF's Reddit: comments of December 2017 by user, next word; train, val and test as its scripts split them by time (JSON).

    A user's `x` is a list of comments, each a list of sequences of 10 tokens; its `y` has for each comment an object whose
    `target_tokens` are the same, a token later: the format that LEAF's preprocess.py writes. An example is a
    sequence with a target. `x` and `y` are int64 `[n, steps]`: 0 pads, 1-10,000 are the most frequent words of the training
    comments, ties in the order of the alphabet, 10,001 is any other word, 10,002 begin, 10,003 end. LEAF's own vocabulary is a
    pickle, which is never read. `num_samples` is not compared, as LEAF writes into each part the number of a user's comments in all
    three. Caldas et al., LEAF, 2018.

    Args:
        words: size of the vocabulary; `steps`: tokens of a sequence; `validation`: whether `val` takes the place of `test`.
    """

    words: Annotated[int, Meta(ge=1, le=60_000)] = 10_000
    steps: Annotated[int, Meta(ge=1)] = 10
    validation: bool = False
    how_to_get: ClassVar[str] = "made by data/reddit of github.com/TalwalkarLab/leaf"
    special: ClassVar[tuple[int, ...]] = SPECIAL
    counted: ClassVar[bool] = False

    @property
    def names(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("train", "val" if self.validation else "test")

    def number_of_classes(self) -> int:
        return self.words + 4

    def reader(self, root: Path) -> Reader:
        remedy, counts = self.remedy(root), Counter[str]()
        for path, user, x, y in read_leaf(self.folder(root) / "train", remedy, self.counted):
            try:
                counts.update(word for _, sequence in _sequences(x, y, self.steps) for word in sequence)
            except DataError as error:
                raise DataError(f"{path}: user '{user}': {error}; {remedy}") from None
        for token in (PAD, BEGIN, END):
            del counts[token]
        if len(counts) < self.words:
            there = f"the training comments have {len(counts):,} different words"
            raise DataError(f"{self.folder(root) / 'train'}: {there}, and data.words = {self.words:,}: ask for fewer, or {remedy}")
        vocabulary = Words(frequent({word.encode(): count for word, count in counts.items()}, self.words))
        number = {PAD: 0, BEGIN: vocabulary.begin, END: vocabulary.end}

        def columns(x: list[Any], y: list[Any]) -> Columns:
            pairs = list(_sequences(x, y, self.steps))
            tokens = np.zeros((2, len(pairs), self.steps), np.uint16)
            for k, pair in enumerate(pairs):
                for half, words in zip(tokens, pair, strict=True):
                    half[k] = [number[word] if word in number else vocabulary.number(word.encode()) for word in words]
            some = tokens[1].any(axis=1)
            return {"x": tokens[0, some], "y": tokens[1, some]}

        return columns

    def expand(self, columns: Columns) -> Batch:
        return widened(columns)


def _sequences(x: list[Any], y: list[Any], steps: int) -> Iterator[tuple[list[str], list[str]]]:
    """Inputs and targets of all comments.

    Raises:
        DataError: they are not in LEAF's format.
    """
    for comment, about in zip(x, y, strict=True):
        targets = about.get("target_tokens") if isinstance(about, dict) else None
        if not isinstance(comment, list) or not isinstance(targets, list) or len(comment) != len(targets):
            raise DataError(f"a comment is no list of sequences with as many target_tokens: {comment!r:.40}, {about!r:.40}")
        for pair in zip(comment, targets, strict=True):
            for half in pair:
                if not isinstance(half, list) or len(half) != steps or not all(isinstance(word, str) for word in half):
                    raise DataError(f"a sequence is no list of {steps} words: {half!r:.60}")
            yield pair
