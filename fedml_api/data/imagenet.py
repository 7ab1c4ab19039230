"""ImageNet in the folders of the Large Scale Visual Recognition Challenge 2012."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from fedml_api.data.dataset import data_sources
from fedml_api.data.partitioned import PartitionedSource
from fedml_api.data.pictures import File, Listing, View, files_in, listed, listing
from fedml_core.errors import DataError
from fedml_core.partition import Partitioner, Shards
from fedml_core.settings import settings
from fedml_core.trainer import Examples

DEVKIT = "ILSVRC2012_devkit_t12/data"
TRUTH = "ILSVRC2012_validation_ground_truth.txt"
HOW_TO_GET = "image-net.org, after registration: ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar, ILSVRC2012_devkit_t12.tar.gz"
WNID = re.compile(r"n\d{8}")
VALIDATION = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG")


@data_sources.register("imagenet")
@settings
class ImageNet(PartitionedSource):
    """ImageNet (ILSVRC2012): 1,281,167 photos for train, 50,000 for test (its validation set), 1,000 classes; decoded when used.

    Or any part of its classes. A folder for each synset below `imagenet/train` and `imagenet/val`; or the images of `val` as they
    are unpacked, with the devkit beside them. Classes are in the order of their synsets' names. `x` `[n, 3, size, size]` as `view`
    says, with the mean and the standard deviation that published networks use. Russakovsky et al., IJCV 2015.

    Clients hold about ten classes each, as in FedML's benchmark.
    """

    partition: Partitioner = Shards(shards_per_client=10)
    view: View = View(mean=(0.485, 0.456, 0.406), deviation=(0.229, 0.224, 0.225))

    def files(self, root: Path) -> Sequence[Path]:
        return [root / "imagenet" / part for part in ("train", "val")]

    def read(self, root: Path) -> tuple[Examples, Examples]:
        train_folder, test_folder = self.files(root)
        remedy = f"unpack the official archives into {train_folder.parent} ({HOW_TO_GET})"
        if missing := [folder for folder in (train_folder, test_folder) if not folder.is_dir()]:
            raise DataError(f"{missing[0]}: not there; {remedy}")
        train = listing(train_folder, remedy)
        if odd := [name for name in train.classes if not WNID.fullmatch(name)]:
            raise DataError(f"{train_folder / odd[0]}: is not named after a synset, like n01440764; {remedy}")
        flat = files_in(test_folder, [".jpeg"])
        test = _unsorted(test_folder, flat, train.classes, remedy) if flat else listing(test_folder, remedy, train.classes)
        return train.examples(self.view, remedy), test.examples(self.view, remedy)


def _unsorted(folder: Path, files: Sequence[File], classes: tuple[str, ...], remedy: str) -> Listing:
    """Validation images in one folder; their classes are in the devkit, those of other synsets are left out."""
    devkit = folder.parent / DEVKIT
    truth, synsets = _truth(devkit / TRUTH, remedy), _synsets(devkit / "meta.mat", remedy)
    found: dict[str, list[File]] = {name: [] for name in classes}
    for file in files:
        if (match := VALIDATION.fullmatch(file[0])) is None or not 1 <= int(match[1]) <= len(truth):
            raise DataError(f"{folder / file[0]}: none of the {len(truth):,} images that {TRUTH} is about; {remedy}")
        if (number := truth[int(match[1]) - 1]) not in synsets:
            raise DataError(f"{devkit / TRUTH}: line {int(match[1])} says {number}, which meta.mat does not know; {remedy}")
        if synsets[number] in found:
            found[synsets[number]].append(file)
    if lacking := [name for name, own in found.items() if not own]:
        raise DataError(f"{folder}: has no image of {lacking[0]}; {remedy}")
    return listed(folder, classes, found.values())


def _truth(path: Path, remedy: str) -> list[int]:
    """The class of each validation image: one number a line, from 1."""
    try:
        lines = path.read_text(encoding="ascii").split()
    except FileNotFoundError:
        moved = "or move every image of val into a folder named after its synset"
        raise DataError(f"{path}: not there, and the images in val have no folders for their classes; {remedy}, {moved}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); {remedy}") from None
    if odd := [number for number, line in enumerate(lines, 1) if not line.isdigit()]:
        raise DataError(f"{path}: line {odd[0]} is no number: {lines[odd[0] - 1]!r:.40}; {remedy}")
    return [int(line) for line in lines]


def _synsets(path: Path, remedy: str) -> dict[int, str]:
    """Name by number of the synsets of the challenge, of the devkit's `meta.mat`."""
    try:
        from scipy.io import loadmat
        from scipy.io.matlab import MatReadError
    except ImportError:
        raise DataError(f'{path}: reading it needs scipy, which is not installed; run: pip install "fedml[data]"') from None
    if not path.is_file():
        raise DataError(f"{path}: not there; {remedy}")
    try:
        table = loadmat(path, squeeze_me=True, variable_names=["synsets"])["synsets"]
        found = {int(number): str(name) for number, name in zip(table["ILSVRC2012_ID"], table["WNID"], strict=True)}
    except (MatReadError, OSError, KeyError, ValueError, TypeError, IndexError, NotImplementedError, EOFError) as error:
        raise DataError(f"{path}: holds no synsets with ILSVRC2012_ID and WNID ({error}); {remedy}") from None
    if odd := [name for name in found.values() if not WNID.fullmatch(name)]:
        raise DataError(f"{path}: {odd[0]!r} is no name of a synset; {remedy}")
    return found
