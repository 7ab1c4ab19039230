"""IDX, the file format of MNIST and its successors.

    2 zero bytes | element type (1 byte) | number of dimensions (1 byte) | each size (uint32) | the elements, row by row

all big-endian; files are often gzipped. Specified at the foot of yann.lecun.com/exdb/mnist.
"""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from fedml_core.errors import DataError
from fedml_core.trainer import Examples

_types = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(path: Path, remedy: str = "get it again") -> np.ndarray:
    """The array in an IDX file, plain or gzipped (told by its first bytes, not by its name), in the machine's byte order.

    Args:
        remedy: what to do when it is damaged.

    Raises:
        DataError: the file is not IDX, or its length is not what its header says.
    """
    try:
        data = path.read_bytes()
        if data.startswith(b"\x1f\x8b"):
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {error}; {remedy}") from None
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] not in _types or not 1 <= data[3] <= 32:
        raise DataError(
            f"{path}: not an IDX file: it starts with {data[:4].hex(' ') or 'nothing'}, "
            f"not with 00 00, an element type (08 to 0e) and 1 to 32 dimensions; {remedy}"
        )
    start = 4 + 4 * data[3]
    if len(data) < start:
        raise DataError(f"{path}: truncated: {len(data)} bytes, and the header alone has {start}; {remedy}")
    shape = tuple(int(size) for size in np.frombuffer(data, ">u4", count=data[3], offset=4))
    dtype = np.dtype(_types[data[2]])
    expected = start + math.prod(shape) * dtype.itemsize
    if len(data) != expected:
        fault = "truncated" if len(data) < expected else "oversized"
        raise DataError(f"{path}: {fault}: {len(data)} bytes, and the header promises {expected} for shape {list(shape)}; {remedy}")
    return np.frombuffer(data, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="))


def find_idx(name: str, folders: Iterable[Path]) -> Path | None:
    """The file of this name, gzipped or not, in the first of the folders that has it; some unpack it with a dot for a dash."""
    dotted = name.replace("-idx", ".idx")
    paths = (folder / found for folder in folders for found in (f"{name}.gz", name, f"{dotted}.gz", dotted))
    return next((path for path in paths if path.is_file()), None)


def read_images(
    image_file: Path, label_file: Path, classes: int, remedy: str = "get it again", first: int = 0, transposed: bool = False
) -> Examples:
    """Images of 28x28 pixels, as `x` float32 `[n, 1, 28, 28]` in [0, 1], and their classes, as `y` int64 `[n]` from 0.

    Args:
        remedy: what to do when a file is damaged.
        first: the smallest label; `transposed`: whether the files have columns for rows.

    Raises:
        DataError: the files are not that.
    """
    images, labels = (read_idx(path, remedy) for path in (image_file, label_file))
    if images.dtype != np.uint8 or images.shape[1:] != (28, 28) or not len(images):
        raise DataError(f"{image_file}: holds {images.dtype} {list(images.shape)}, not uint8 images of [n, 28, 28]; {remedy}")
    fits = labels.dtype == np.uint8 and labels.shape == images.shape[:1]
    if not fits or labels.min() < first or labels.max() >= first + classes:
        last = first + classes - 1
        wanted = f"one label from {first} to {last} for each of the {len(images)} images in {image_file.name}"
        raise DataError(f"{label_file}: not {wanted}; {remedy}")
    if transposed:
        images = np.ascontiguousarray(images.transpose(0, 2, 1))
    x = torch.from_numpy(images).unsqueeze(1).to(torch.float32).div_(255)
    return Examples({"x": x, "y": torch.from_numpy(labels.astype(np.int64) - first)})
