"""CINIC-10 in its folders of images."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import torch

from fedml_api.data.cifar import normalised
from fedml_api.data.dataset import data_sources
from fedml_api.data.mapped import mapped
from fedml_api.data.partitioned import PartitionedSource
from fedml_core.errors import DataError
from fedml_core.settings import settings
from fedml_core.trainer import Examples

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
ARCHIVE = "CINIC-10.tar.gz (datashare.ed.ac.uk/handle/10283/3192)"
# What Pillow raises where a file is damaged.
DAMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, OverflowError, TypeError, struct.error, zlib.error)
AGAIN = f"unpack {ARCHIVE} again"
MEAN, DEVIATION = (0.47889522, 0.47227842, 0.43047404), (0.24205776, 0.23828046, 0.25874835)


@data_sources.register("cinic10")
@settings
class Cinic10(PartitionedSource):
    """CINIC-10: photos of 32x32 pixels, 90,000 train, 90,000 test, and 90,000 valid, 10 classes; folders of PNG files.

    `x` `[n, 3, 32, 32]`, every channel with mean 0 and standard deviation 1, the test images as the training images.
    Darlow et al., 2018.

    Args:
        with_valid: whether the images in `valid` are training examples as well.
    """

    with_valid: bool = False

    def files(self, root: Path) -> Sequence[Path]:
        return [root / "cinic10" / part for part in ("train", *["valid"] * self.with_valid, "test")]

    def read(self, root: Path) -> tuple[Examples, Examples]:
        *train, test = ([_images(folder / name) for name in CLASSES] for folder in self.files(root))
        about = [[[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in chain(*part)] for part in (*train, test)]

        def make() -> tuple[Examples, Examples]:
            _check_numbers([*chain(*train), *test])
            return _examples([list(chain(*paths)) for paths in zip(*train, strict=True)]), _examples(test)

        return mapped(make, self, [str(root.resolve()), about], root)


def _images(folder: Path) -> list[Path]:
    found = sorted(folder.glob("*.png"))
    if not found:
        raise DataError(f"{folder}: has no .png files; put train, valid and test of {ARCHIVE} into {folder.parents[1]}")
    return found


def _check_numbers(classes: list[list[Path]]) -> None:
    """Every class has as many images as any other, in every folder: 9,000 in the archive."""
    most = max(len(paths) for paths in classes)
    for paths in classes:
        if len(paths) < most:
            raise DataError(f"{paths[0].parent}: has {len(paths):,} images, and other classes have {most:,}; {AGAIN}")


def _examples(classes: list[list[Path]]) -> Examples:
    """The images of every class in its list."""
    from PIL import Image

    pixels = np.empty((sum(map(len, classes)), 32, 32, 3), np.uint8)
    for place, path in zip(pixels, chain(*classes), strict=True):
        try:
            with Image.open(path) as image:
                width, height = image.size
                if (width, height) == (32, 32):
                    place[:] = np.asarray(image.convert("RGB"))
        except DAMAGE as error:
            raise DataError(f"{path}: cannot be read as an image ({error}); {AGAIN}") from None
        except Image.DecompressionBombError as error:
            raise DataError(f"{path}: {error}; {AGAIN}") from None
        if (width, height) != (32, 32):
            raise DataError(f"{path}: an image of {width}x{height} pixels, not 32x32; {AGAIN}")
    x = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))).to(torch.float32).div_(255)
    y = torch.arange(len(classes)).repeat_interleave(torch.tensor([len(paths) for paths in classes]))
    return Examples({"x": normalised(x, MEAN, DEVIATION), "y": y})
