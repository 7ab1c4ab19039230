"""What the adapters of other libraries' data sets share: images of any kind become columns."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedml_api.data.decoded import Decoded, Rows, examples_of
from fedml_api.data.pictures import View, channels_first, with_channels
from fedml_core.errors import DataError, FedMLError
from fedml_core.trainer import Examples


@dataclass(frozen=True, eq=False)
class Images:
    """Images that another library reads: Pillow's, or arrays.

    Attributes:
        image: the one with this number; `count`: how many there are.
        view: what is made of Pillow's images; None leaves them the size they have, and brings them to [0, 1].
        name: what messages call the data set.
    """

    image: Callable[[int], Any]
    count: int
    view: View | None
    name: str

    def make(self, rows: Sequence[int]) -> Tensor:
        """float32 `[n, channels, height, width]`.

        Raises:
            DataError: one cannot be read, is no image, or is not like the first of all.
        """
        pixels = np.stack([self._alike(row) for row in rows]) if len(rows) else self._first[None][:0]
        return _scaled(pixels) if self.view is None else self.view.scaled(pixels)

    @cached_property
    def _first(self) -> np.ndarray:
        return self._read(0)

    def _alike(self, row: int) -> np.ndarray:
        one, first = self._read(row), self._first
        if (one.shape, one.dtype) == (first.shape, first.dtype):
            return one
        shapes = f"{list(one.shape)} of {one.dtype}, and image 0 {list(first.shape)} of {first.dtype}"
        raise DataError(f"{self.name}: image {row} has the shape {shapes}; say to which size they are brought: view.size=...")

    def _read(self, row: int) -> np.ndarray:
        try:
            return self._one(row)
        except FedMLError as error:
            raise DataError(f"{self.name}: image {row}: {error}") from None
        except Exception as error:  # of another library, about files that it has found
            raise DataError(f"{self.name}: image {row} cannot be read ({type(error).__name__}: {error})") from error

    def _one(self, row: int) -> np.ndarray:
        """uint8, or numbers of another type, `[channels, height, width]`."""
        image = self.image(row)
        if hasattr(image, "getbands"):
            if self.view is not None:
                return self.view.pixels(image)
            return channels_first(with_channels(image, self._channels(image)))
        if self.view is not None:
            raise DataError(f"is a {type(image).__name__} and no Pillow image, of which alone there are views; leave out view")
        if isinstance(image, Tensor) and image.dim() in (2, 3):  # as torchvision has them, channels first
            return image.numpy() if image.dim() == 3 else image.numpy()[None]
        array = np.asarray(image)
        if array.ndim not in (2, 3) or array.dtype.kind not in "uif" or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
            raise DataError(f"is no image of [height, width] or [height, width, channels]: {array.dtype} {list(array.shape)}")
        return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)

    def _channels(self, image: Any) -> int:
        return 1 if image.mode in ("1", "L", "LA", "I", "F") else 3

    def column(self, lazily: bool, about: str) -> Tensor:
        """All of them; `about` tells them from others, if they are only made `lazily`."""
        if not lazily:
            return self.make(range(self.count))
        return Decoded(Rows(self._first.shape, self.make, f"{about} {self.view} {self.count}"), torch.arange(self.count))


def _scaled(images: np.ndarray) -> Tensor:
    """float32: bytes are brought to [0, 1], other numbers stay what they are."""
    found = torch.from_numpy(images).to(torch.float32)
    return found.div_(255) if images.dtype == np.uint8 else found


def labelled(x: Tensor, labels: Any, name: str, classes: int | None = None) -> Examples:
    """Examples of `x` and their classes.

    Args:
        classes: how many, if that is known.

    Raises:
        DataError: labels are no whole numbers from 0 on.
    """
    y = np.asarray(labels)
    if y.ndim != 1 or y.dtype.kind not in "iub" or not len(y):
        raise DataError(f"{name}: labels are {y.dtype} {list(y.shape)}, and not one whole number for each example")
    if y.min() < 0 or (classes is not None and y.max() >= classes):
        allowed = "whole numbers from 0 on" if classes is None else f"0 to {classes - 1}"
        raise DataError(
            f"{name}: labels go from {y.min()} to {y.max()}; classes are {allowed} (-1 is often an example without a label)"
        )
    return examples_of({"x": x, "y": torch.from_numpy(y.astype(np.int64))})


def about(*parts: Any) -> str:
    """What tells examples from others without reading them: how they are described, and their labels."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()
