"""AG News in its official files."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from fedml_api.data.dataset import data_sources
from fedml_api.data.texts import Labelled, TextSource, class_of, not_empty, read_rows
from fedml_core.settings import settings

CLASSES = {"1": 0, "2": 1, "3": 2, "4": 3}


@data_sources.register("ag_news")
@settings
class AgNews(TextSource):
    """AG News: 120,000 train, 7,600 test articles; world, sports, business and technology; its official CSV files.

    A text is the title and the description of an article. Zhang, Zhao and LeCun, NeurIPS 2015.
    """

    names: ClassVar[tuple[str, ...]] = ("train.csv", "test.csv")
    how_to_get: ClassVar[str] = "AG's News Topic Classification Dataset, ag_news_csv, of Zhang et al., 2015"

    def read_texts(self, root: Path) -> tuple[Labelled, Labelled]:
        train, test = (_read(path, self.remedy(root)) for path in self.present(root))
        return train, test


def _read(path: Path, remedy: str) -> Labelled:
    rows = read_rows(path, ",", 3, remedy)
    half = [(f"{title} {about}", class_of(label, CLASSES, path, line, remedy)) for line, (label, title, about) in rows]
    return not_empty(half, path, remedy)
