"""The Stanford Sentiment Treebank with two classes, in the files of GLUE."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from fedml_api.data.dataset import data_sources
from fedml_api.data.texts import Labelled, TextSource, class_of, not_empty, read_rows
from fedml_core.errors import DataError
from fedml_core.settings import settings

HEADER = ["sentence", "label"]
CLASSES = {"0": 0, "1": 1}


@data_sources.register("sst2")
@settings
class Sst2(TextSource):
    """SST-2: 67,349 phrases for train, 872 sentences for test, negative and positive; GLUE's train.tsv and dev.tsv.

    The test set is GLUE's development set, as the labels of its test set are not published.
    Socher et al., EMNLP 2013; Wang et al., GLUE, ICLR 2019.
    """

    names: ClassVar[tuple[str, ...]] = ("train.tsv", "dev.tsv")
    how_to_get: ClassVar[str] = "SST-2.zip of GLUE, gluebenchmark.com/tasks"

    def read_texts(self, root: Path) -> tuple[Labelled, Labelled]:
        train, test = (_read(path, self.remedy(root)) for path in self.present(root))
        return train, test


def _read(path: Path, remedy: str) -> Labelled:
    rows = read_rows(path, "\t", 2, remedy, quoted=False)
    line, header = next(rows, (1, []))
    if header != HEADER:
        raise DataError(f"{path}: line {line} is {header}, not the header {HEADER}; {remedy}")
    return not_empty([(text, class_of(label, CLASSES, path, line, remedy)) for line, (text, label) in rows], path, remedy)
