"""Fashion-MNIST in its official files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedml_api.data.dataset import data_sources
from fedml_api.data.idx import find_idx, read_images
from fedml_api.data.mapped import identity, mapped
from fedml_api.data.partitioned import PartitionedSource
from fedml_core.errors import DataError
from fedml_core.settings import settings
from fedml_core.trainer import Examples

SYSTEM_FOLDER = Path("/usr/share/datasets/fashion-mnist")
FILES = (
    "the four official files (train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz, "
    "t10k-labels-idx1-ubyte.gz, from github.com/zalandoresearch/fashion-mnist)"
)


@data_sources.register("fashion_mnist")
@settings
class FashionMnist(PartitionedSource):
    """70,000 clothes of 28x28 pixels: 60,000 train, 10,000 test, 10 classes; Zalando's four files, from Debian or its site (MIT).

    `x` in [0, 1], background 0. Xiao, Rasul and Vollgraf, arXiv 1708.07747, 2017.
    """

    def files(self, root: Path) -> Sequence[Path]:
        folders = (root / "fashion_mnist", SYSTEM_FOLDER)
        names = [f"{half}-{what}-ubyte" for half in ("train", "t10k") for what in ("images-idx3", "labels-idx1")]
        return [find_idx(name, folders) or folders[0] / f"{name}.gz" for name in names]

    def read(self, root: Path) -> tuple[Examples, Examples]:
        folders = (root / "fashion_mnist", SYSTEM_FOLDER)
        train, test = (
            (_find(f"{part}-images-idx3-ubyte", folders), _find(f"{part}-labels-idx1-ubyte", folders)) for part in ("train", "t10k")
        )
        about = [identity(path) for path in (*train, *test)]
        return mapped(lambda: (_examples(*train), _examples(*test)), self, about, root)


def _examples(image_file: Path, label_file: Path) -> Examples:
    return read_images(image_file, label_file, 10, f"run: apt-get install --reinstall dataset-fashion-mnist, or get {FILES} again")


def _find(name: str, folders: tuple[Path, ...]) -> Path:
    if (found := find_idx(name, folders)) is not None:
        return found
    raise DataError(
        f"Fashion-MNIST: no {name}.gz in {' or '.join(map(str, folders))}; run: apt-get install dataset-fashion-mnist, "
        f"or put {FILES} into {folders[0]}"
    )
