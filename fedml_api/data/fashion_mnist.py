"""Fashion-MNIST in its official files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from fedml_api.data.dataset import data_sources
from fedml_api.data.idx import read_idx
from fedml_api.data.mapped import identity, mapped
from fedml_api.data.partitioned import PartitionedSource
from fedml_core.errors import DataError
from fedml_core.settings import settings
from fedml_core.trainer import Examples

SYSTEM_FOLDER = Path("/usr/share/datasets/fashion-mnist")


@data_sources.register("fashion_mnist")
@settings
class FashionMnist(PartitionedSource):
    """70,000 clothes of 28x28 pixels: 60,000 train, 10,000 test, 10 classes; Zalando's four files, from Debian or its site (MIT).

    `x` in [0, 1], background 0. Xiao, Rasul and Vollgraf, arXiv 1708.07747, 2017.
    """

    def read(self, root: Path) -> tuple[Examples, Examples]:
        folders = (root / "fashion_mnist", SYSTEM_FOLDER)
        train, test = (
            (_find(f"{part}-images-idx3-ubyte", folders), _find(f"{part}-labels-idx1-ubyte", folders)) for part in ("train", "t10k")
        )
        about = [identity(path) for path in (*train, *test)]
        return mapped(lambda: (_examples(*train), _examples(*test)), self, about, root)


def _examples(image_file: Path, label_file: Path) -> Examples:
    images, labels = read_idx(image_file), read_idx(label_file)
    if images.dtype != np.uint8 or images.shape[1:] != (28, 28) or not len(images):
        raise DataError(f"{image_file}: holds {images.dtype} {list(images.shape)}, not uint8 images of [n, 28, 28]")
    if labels.dtype != np.uint8 or labels.shape != images.shape[:1] or labels.max() > 9:
        raise DataError(f"{label_file}: not one label from 0 to 9 for each of the {len(images)} images in {image_file.name}")
    x = torch.from_numpy(images).unsqueeze(1).to(torch.float32).div_(255)
    return Examples({"x": x, "y": torch.from_numpy(labels).to(torch.int64)})


def _find(name: str, folders: tuple[Path, ...]) -> Path:
    for folder in folders:
        for path in (folder / f"{name}.gz", folder / name):
            if path.is_file():
                return path
    raise DataError(
        f"Fashion-MNIST: no {name}.gz in {' or '.join(map(str, folders))}; run: apt-get install dataset-fashion-mnist, or put the "
        "four official files (train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz, "
        f"t10k-labels-idx1-ubyte.gz, from github.com/zalandoresearch/fashion-mnist) into {folders[0]}"
    )
