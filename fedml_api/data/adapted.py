"""What the adapters of other libraries' data sets share: images of any kind become columns."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
            DataError: one cannot be read, is no image, or is of another shape than the first one.
        """
        found: list[Tensor] = []
        for row in rows:
            try:
                one = self._one(row)
            except FedMLError as error:
                raise DataError(f"{self.name}: image {row}: {error}") from None
            except Exception as error:  # of another library, about files that it has found
                raise DataError(f"{self.name}: image {row} cannot be read ({type(error).__name__}: {error})") from error
            if one.shape != (found or [one])[0].shape:
                raise self._unlike(row, one, rows[0], list(found[0].shape))
            found.append(one)
        return torch.stack(found)

    def _one(self, row: int) -> Tensor:
        image = self.image(row)
        if hasattr(image, "getbands"):
            if self.view is not None:
                return self.view.scaled(self.view.pixels(image)[None])[0]
            return _scaled(channels_first(with_channels(image, self._channels(image))))
        if self.view is not None:
            raise DataError(f"is a {type(image).__name__} and no Pillow image, of which alone there are views; leave out view")
        if isinstance(image, Tensor) and image.dim() in (2, 3):  # as torchvision has them, channels first
            return _scaled(image.numpy() if image.dim() == 3 else image.numpy()[None])
        array = np.asarray(image)
        if array.ndim not in (2, 3) or array.dtype.kind not in "uif" or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
            raise DataError(f"is no image of [height, width] or [height, width, channels]: {array.dtype} {list(array.shape)}")
        return _scaled(array[None] if array.ndim == 2 else np.ascontiguousarray(array.transpose(2, 0, 1)))

    def _channels(self, image: Any) -> int:
        return 1 if image.mode in ("1", "L", "LA", "I", "F") else 3

    def column(self, lazily: bool, about: str) -> Tensor:
        """All of them; `about` tells them from others, if they are only made `lazily`."""
        if not lazily:
            return self.make(range(self.count))
        first = self.make([0])
        rows = Rows(tuple(first.shape[1:]), self._checked(tuple(first.shape[1:])), f"{about} {self.view} {self.count}")
        return Decoded(rows, torch.arange(self.count))

    def _checked(self, shape: tuple[int, ...]) -> Callable[[list[int]], Tensor]:
        def make(rows: list[int]) -> Tensor:
            if not rows:
                return torch.empty(0, *shape)
            found = self.make(rows)
            if found.shape[1:] != shape:
                raise self._unlike(rows[0], found[0], 0, list(shape))
            return found

        return make

    def _unlike(self, row: int, one: Tensor, other: int, shape: list[int]) -> DataError:
        shapes = f"{list(one.shape)}, and image {other} {shape}"
        return DataError(f"{self.name}: image {row} has the shape {shapes}; say to which size they are brought: view.size=...")


def _scaled(image: np.ndarray) -> Tensor:
    """float32 `[channels, height, width]`: bytes are brought to [0, 1], other numbers stay what they are."""
    tensor = torch.from_numpy(np.array(image)).to(torch.float32)
    return tensor.div_(255) if image.dtype == np.uint8 else tensor


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
