"""Networks of papers that cite each other, in the plain files of LINQS."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from fedml_api.data.dataset import data_sources
from fedml_api.data.graphs import Graph, undirected
from fedml_api.data.lines import check_end
from fedml_api.data.nodes import LabelledNodes, NodeSource
from fedml_core.errors import DataError
from fedml_core.settings import settings

log = logging.getLogger("fedml")
Papers = tuple[list[str], np.ndarray, list[str]]


@settings
class CitationSource(NodeSource):
    """Papers with the words in them, and who cites whom, without direction. The features of a paper sum to 1, as for GCN's authors.

    Classes are in the order of their names. The split of Planetoid is in pickles, which are not read: here other nodes are
    known and tested, as many of them.
    """

    names: ClassVar[tuple[str, str]]
    archive: ClassVar[str]

    @abstractmethod
    def papers(self, path: Path) -> Papers:
        """Names, features (float32 `[n, F]`) and classes of the papers; ValueError where the file is not in its format."""

    @abstractmethod
    def citations(self, path: Path) -> Iterator[tuple[str, str]]:
        """Names of papers of which one cites the other; ValueError as above."""

    def files(self, root: Path) -> Sequence[Path]:
        return [root / data_sources.name_of(type(self)) / name for name in self.names]

    def read(self, root: Path) -> LabelledNodes:
        paths, folder = self.files(root), root / data_sources.name_of(type(self))
        remedy = f"put {' and '.join(self.names)} of {self.archive} (linqs.org) into {folder}"
        for path in paths:
            if not path.is_file():
                pickles = sorted(folder.glob("ind.*"))
                why = f" ({pickles[0].name} is of Planetoid's files, which are pickles and are not read)" if pickles else ""
                raise DataError(f"{path}: not there{why}; {remedy}")
        reading = paths[0]
        try:
            ids, features, labels = self.papers(paths[0])
            if not ids:
                raise ValueError("has no papers")
            place = {name: k for k, name in enumerate(ids)}
            if len(place) < len(ids):
                raise ValueError(f"has the paper {next(name for k, name in enumerate(ids) if place[name] != k)} twice")
            check_end(paths[0], remedy)
            reading = paths[1]
            cited = list(self.citations(paths[1]))
            pairs = [(place[one], place[other]) for one, other in cited if one in place and other in place]
            if cited:
                check_end(paths[1], remedy)
            if not pairs:
                raise ValueError(f"has no citation between papers of {paths[0].name}")
        except (OSError, UnicodeDecodeError, ValueError) as error:
            raise DataError(f"{reading}: {error}; {remedy}") from None
        if left := len(cited) - len(pairs):
            log.info("%s: %s of %s citations are of papers that are not in %s", paths[1], left, len(cited), paths[0].name)
        total = np.maximum(features.sum(axis=1, keepdims=True), np.finfo(np.float32).tiny)
        classes = np.unique(labels, return_inverse=True)[1].astype(np.int64)
        return LabelledNodes(Graph(features / total, undirected(np.array(pairs))), classes)


@settings
class WordsSource(CitationSource):
    """`NAME.content`: a paper a line: its name, 0 or 1 for each word, its class; `NAME.cites`: the cited and the citing paper."""

    def papers(self, path: Path) -> Papers:
        ids, words, classes = [], [], []
        for number, fields in _lines(path):
            name, *marks, kind = fields if len(fields) > 2 else ("", "", "")
            row = "".join(marks)
            if not row or len(row) != len(marks) or row.strip("01") or (words and len(row) != len(words[0])):
                expected = f"{len(words[0])} words" if words else "words"
                raise ValueError(f"line {number} is not a name, {expected} that are 0 or 1, and a class, with tabs between them")
            ids.append(name)
            words.append(row)
            classes.append(kind)
        features = np.frombuffer("".join(words).encode(), np.uint8).reshape(len(ids), -1 if ids else 0) - ord("0")
        return ids, features.astype(np.float32), classes

    def citations(self, path: Path) -> Iterator[tuple[str, str]]:
        for number, fields in _lines(path):
            if len(fields) != 2:
                raise ValueError(f"line {number} is not the names of two papers with a tab between them")
            yield fields[0], fields[1]


@data_sources.register("cora")
@settings
class Cora(WordsSource):
    """2,708 papers of 7 classes about machine learning, 1,433 words and 5,429 citations, 140 known, 1,000 tested; from LINQS.

    Sen et al., AI Magazine 2008.
    """

    names: ClassVar[tuple[str, str]] = ("cora.content", "cora.cites")
    archive: ClassVar[str] = "cora.tgz"


@data_sources.register("citeseer")
@settings
class CiteSeer(WordsSource):
    """3,312 papers of 6 classes, 3,703 words and 4,732 citations, 120 known, 1,000 tested; from LINQS.

    Some citations are of papers that are not there: these are left out, and counted. Sen et al., AI Magazine 2008.
    """

    names: ClassVar[tuple[str, str]] = ("citeseer.content", "citeseer.cites")
    archive: ClassVar[str] = "citeseer.tgz"


@data_sources.register("pubmed")
@settings
class PubMed(CitationSource):
    """19,717 papers of 3 classes about diabetes, TF-IDF of 500 words, 44,338 citations, 60 known, 1,000 tested; from LINQS.

    Namata et al., MLG 2012. Whole (`clients=1`) it takes 1.6 GB.
    """

    names: ClassVar[tuple[str, str]] = ("Pubmed-Diabetes.NODE.paper.tab", "Pubmed-Diabetes.DIRECTED.cites.tab")
    archive: ClassVar[str] = "Pubmed-Diabetes.tgz"

    def papers(self, path: Path) -> Papers:
        lines = _lines(path)
        head = [fields for _, fields in (next(lines, (0, [])), next(lines, (0, [])))]
        numeric = [field.split(":")[1] for field in head[1] if field.startswith("numeric:")]
        words = {word: k for k, word in enumerate(numeric)}
        if not words or "NODE" not in head[0]:
            raise ValueError("does not begin with NODE, and a line of columns such as numeric:w-insulin:0.0")
        ids, rows, classes = [], [], []
        for number, (name, *fields) in lines:
            row, found = np.zeros(len(words), np.float32), dict(field.partition("=")[::2] for field in fields)
            kind = found.pop("label", "")
            found.pop("summary", None)
            try:
                for word, value in found.items():
                    row[words[word]] = float(value)
            except (KeyError, ValueError):
                raise ValueError(f"line {number} has '{word}={value}', which is no number of a word of the second line") from None
            if not kind or not np.isfinite(row).all() or (row < 0).any():
                raise ValueError(f"line {number} has no label, or a word with no finite number from 0")
            ids.append(name)
            rows.append(row)
            classes.append(kind)
        return ids, np.array(rows), classes

    def citations(self, path: Path) -> Iterator[tuple[str, str]]:
        for number, fields in _lines(path):
            if number <= 2 and "paper" not in "".join(fields[1:]):
                continue
            papers = [field.removeprefix("paper:") for field in fields if field.startswith("paper:")]
            if len(papers) != 2:
                raise ValueError(f"line {number} is not a citation such as '1 paper:19127292 | paper:17363749'")
            yield papers[0], papers[1]


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Number and fields of each line that is not empty."""
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, line.rstrip("\r\n").split("\t")
