"""FedNLP's text classification, in two HDF5 files: one has texts and labels, the other says who holds which.

TASK_data.h5:       /attributes (JSON with label_vocab), /X/INDEX and /Y/INDEX (a text and the name of its label)
TASK_partition.h5:  /METHOD/n_clients, /METHOD/partition_data/CLIENT/train and test (indices)
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from msgspec import Meta

from fedml_api.data.dataset import data_sources
from fedml_api.data.hdf5 import DAMAGE, holds, open_h5
from fedml_api.data.natural import NaturalSource
from fedml_api.data.split import ClientSplit, Columns, HeldSplit
from fedml_api.data.vocabulary import Words, frequent, widened, words_and_marks
from fedml_core.errors import DataError
from fedml_core.settings import settings
from fedml_core.trainer import Batch

Indices = dict[str, np.ndarray]


@data_sources.register("fednlp")
@settings
class FedNlp(NaturalSource):
    """FedNLP's text classification: 20 Newsgroups, AG News, SST-2 or SemEval-2010 task 8, train and test by its clients (HDF5).

    `x` int64 `[n, steps]`, the first words of a text: 0 pads, 1 to `words` - 2 are the most frequent words of the training texts,
    ties in the order of the alphabet, and the number after that is any other. Labels have the numbers of the file. Each client has
    its own test examples. Lin et al., Findings of NAACL 2022.

    Args:
        task: which data set; `method`: which of the partitions in its file, such as `niid_label_clients=100_alpha=1.0`.
        words: numbers in all, with that for padding and that for other words; `steps`: words of a text that count.
    """

    task: Literal["20news", "agnews", "sst_2", "semeval_2010_task8"] = "20news"
    method: str = "uniform"
    words: Annotated[int, Meta(ge=3, le=60_000)] = 10_000
    steps: Annotated[int, Meta(ge=1)] = 256
    how_to_get: ClassVar[str] = "data_files and partition_files of github.com/FedML-AI/FedNLP"
    label: ClassVar[str | None] = "y"
    sizes: ClassVar[Mapping[str, int]] = {"20news": 20, "agnews": 4, "sst_2": 2, "semeval_2010_task8": 19}

    @property
    def names(self) -> tuple[str, ...]:  # type: ignore[override]
        return f"{self.task}_data.h5", f"{self.task}_partition.h5"

    def number_of_classes(self) -> int:
        return self.sizes[self.task]

    def splits(self, root: Path) -> tuple[ClientSplit, ClientSplit]:
        texts, partition = self.present(root)
        remedy = self.remedy(root)
        train, test = read_partition(partition, self.method, remedy)
        wanted = {index for half in (train, test) for own in half.values() for index in own.tolist()}
        examples = self._examples(texts, sorted(wanted), remedy)
        counts = Counter(word for own in train.values() for index in own.tolist() for word in examples[index][0])
        vocabulary = Words(frequent(counts, self.words - 2))

        def columns(own: np.ndarray) -> Columns:
            mine = [examples[index] for index in own.tolist()]
            tokens = vocabulary.padded([words for words, _ in mine], self.steps)
            return {"x": tokens, "y": np.array([label for _, label in mine], np.uint8)}

        halves = [HeldSplit({client: columns(own) for client, own in half.items()}, str(partition)) for half in (train, test)]
        return halves[0], halves[1]

    def expand(self, columns: Columns) -> Batch:
        return widened(columns)

    def _examples(self, path: Path, wanted: Sequence[int], remedy: str) -> dict[int, tuple[list[bytes], int]]:
        """The words and the label of the examples of these indices."""
        _, file = open_h5(path, remedy)
        with file:
            try:
                labels = json.loads(_text(file["attributes"][()]))["label_vocab"]
                if sorted(labels.values()) != list(range(self.number_of_classes())):
                    raise ValueError(f"label_vocab has {labels}, not the numbers 0 to {self.number_of_classes() - 1}")
            except DAMAGE as error:
                raise DataError(f"{path}: /attributes is no JSON with the {self.task}'s label_vocab ({error}); {remedy}") from None
            found = {}
            for index in wanted:
                try:
                    text, label = (_text(file[f"{column}/{index}"][()]) for column in "XY")
                    found[index] = words_and_marks(text), int(labels[label])
                except DAMAGE as error:
                    raise DataError(f"{path}: /X/{index} and /Y/{index} are no text and label ({error}); {remedy}") from None
            return found


def read_partition(path: Path, method: str, remedy: str) -> tuple[Indices, Indices]:
    """The indices of each client's training and test examples.

    Raises:
        DataError: there is no such method, or an index is one of several clients, or both for training and for testing.
    """
    _, file = open_h5(path, remedy)
    with file:
        try:
            clients = file[method]["partition_data"]
            halves = [{client: _indices(own[part]) for client, own in clients.items()} for part in ("train", "test")]
            counted = int(file[method]["n_clients"][()])
        except DAMAGE as error:
            if not holds(file, method):
                raise DataError(f"{path}: no method '{method}'; data.method is one of {', '.join(file) or 'none'}") from None
            raise DataError(f"{path}: /{method} is no partition ({error}); {remedy}") from None
    if not halves[0] or counted != len(halves[0]):
        raise DataError(f"{path}: /{method}/partition_data has {len(halves[0])} clients; n_clients says {counted}; {remedy}")
    rows = np.concatenate([own for half in halves for own in half.values()])
    values, counts = np.unique(rows, return_counts=True)
    if len(values) < len(rows):
        raise DataError(f"{path}: /{method} has index {values[counts > 1][0]} twice; {remedy}")
    return halves[0], halves[1]


def _indices(column: Any) -> np.ndarray:
    """Raises ValueError where they are no whole numbers."""
    found = np.asarray(column[()])
    if found.ndim != 1 or (found.dtype.kind not in "iu" and len(found)):
        raise ValueError(f"indices of {found.dtype} {list(found.shape)}")
    return found.astype(np.int64)


def _text(value: Any) -> str:
    if not isinstance(value, bytes):
        raise ValueError(f"no text but {value!r:.40}")
    return value.decode()
