"""Any images, in one folder for each class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from fedml_api.data.dataset import data_sources
from fedml_api.data.packaged import SPLIT_SEED
from fedml_api.data.partitioned import PartitionedSource
from fedml_api.data.pictures import View, at_once, listing, subfolders
from fedml_core.errors import ConfigError, DataError
from fedml_core.partition import stratified_split
from fedml_core.settings import settings
from fedml_core.trainer import Examples

TESTS = ("test", "val", "valid", "validation")


@data_sources.register("image_folder")
@settings
class ImageFolder(PartitionedSource):
    """Any images: a folder for each class, below `train` and `test` (or `val`) if there are such; whatever Pillow decodes.

    Classes are numbered in the order of their folders' names. `x` `[n, channels, size, size]` as `view` says.

    Args:
        folder: where they lie, below the data folder.
        test: fraction of the images, the same of every class, in every run the same images, that are the test set where there is
            no folder with one.
        lazily: decode images when they are used, each time anew; else all of them at first use, kept below `data_folder/cache`.
    """

    folder: str = "images"
    test: Annotated[float, Meta(gt=0, lt=1)] = 0.2
    view: View = View()
    lazily: bool = True

    def files(self, root: Path) -> Sequence[Path]:
        return [root / self.folder]

    def read(self, root: Path) -> tuple[Examples, Examples]:
        folder = root / self.folder
        remedy = f"put a folder for each class into {folder}/train and {folder}/test, or into {folder} itself"
        below = subfolders(folder)
        if not below:
            raise DataError(f"{folder}: has no folders; {remedy}")
        train = listing(folder / "train" if "train" in below else folder, remedy)
        tests = [name for name in TESTS if name in below] if "train" in below else []
        if tests:
            test = listing(folder / tests[0], remedy)
            if test.classes != train.classes:
                one = min(set(test.classes) ^ set(train.classes))
                has, lacks = ("train", tests[0]) if one in train.classes else (tests[0], "train")
                raise DataError(f"{folder / lacks}: has no folder '{one}', and {folder / has} has; both need the same classes")
        else:
            stays, goes = stratified_split(train.labels, self.test, SPLIT_SEED)
            if not len(stays) or not len(goes):
                raise ConfigError(f"data.test = {self.test}: of {len(train.labels)} images that is none, or all of them")
            train, test = train.part(stays), train.part(goes)
        if not self.lazily:
            return at_once([train], [test], self.view, remedy, root)
        return train.examples(self.view, remedy), test.examples(self.view, remedy)
