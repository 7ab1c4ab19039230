"""Image files as tensors: found in folders, decoded with Pillow, brought to one size."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from msgspec import Meta
from torch import Tensor

from fedml_api.data.decoded import Decoded, Rows, examples_of
from fedml_api.data.mapped import mapped
from fedml_core.errors import DataError, FedMLError
from fedml_core.settings import settings, to_plain
from fedml_core.trainer import Examples

# What Pillow decodes by itself: no programs are started and no fonts or scripts read.
FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TGA", "TIFF", "WEBP")
SUFFIXES = (".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tga", ".tif", ".tiff", ".webp")
# Channels of more than 8 bits have no scale that everybody means.
DEEP = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")

# Path in a folder, size, time of writing.
File = tuple[str, int, int]


@settings
class View:
    """How a photo becomes a square of pixels, the same in training and testing; nothing is drawn at random.

    float32 `[channels, size, size]` in [0, 1], then (x - mean) / deviation, channel by channel, if they are given.

    Args:
        size: pixels of a side.
        fit: `crop` brings the shorter side to size / `crop` pixels and keeps the centre, as torchvision's Resize and CenterCrop do;
            `squeeze` brings both sides to `size`; `exact` refuses photos of any other size.
        channels: 3 for red, green and blue; 1 for grey.
    """

    size: Annotated[int, Meta(ge=1, le=4096)] = 224
    fit: Literal["crop", "squeeze", "exact"] = "crop"
    crop: Annotated[float, Meta(gt=0, le=1)] = 0.875
    channels: Literal[1, 3] = 3
    mean: tuple[float, ...] = ()
    deviation: tuple[Annotated[float, Meta(gt=0)], ...] = ()

    def problems(self) -> list[str]:
        wrong = [name for name in ("mean", "deviation") if len(getattr(self, name)) not in (0, self.channels)]
        if not wrong and len(self.mean) == len(self.deviation):
            return []
        return [
            f"mean = {list(self.mean)}, deviation = {list(self.deviation)}: must both have {self.channels} numbers, one for each "
            "channel, or both be left out"
        ]

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.channels, self.size, self.size)

    def pixels(self, image: Any) -> np.ndarray:
        """uint8 `[channels, size, size]` of a Pillow image.

        Raises:
            DataError: without the name of the file, it has another size, or more than 8 bits for a channel.
        """
        from PIL import Image

        image = with_channels(image, self.channels)
        width, height = image.size
        if self.fit == "exact" and (width, height) != (self.size, self.size):
            raise DataError(f"an image of {width}x{height} pixels, not {self.size}x{self.size}")
        if self.fit == "squeeze":
            image = image.resize((self.size, self.size), Image.Resampling.BILINEAR)
        if self.fit == "crop":
            shorter = round(self.size / self.crop)
            width, height = (max(shorter, int(shorter * side / min(image.size))) for side in image.size)
            image = image.resize((width, height), Image.Resampling.BILINEAR)
            left, top = (round((side - self.size) / 2) for side in (width, height))
            image = image.crop((left, top, left + self.size, top + self.size))
        return channels_first(image)

    def scaled(self, pixels: np.ndarray) -> Tensor:
        """float32 `[n, channels, size, size]` of uint8 of the same shape."""
        x = torch.from_numpy(pixels).to(torch.float32).div_(255)
        if not self.mean:
            return x
        return x.sub_(torch.tensor(self.mean).view(-1, 1, 1)).div_(torch.tensor(self.deviation).view(-1, 1, 1))


def with_channels(image: Any, channels: int) -> Any:
    """A Pillow image in colours (3) or grey (1), without its transparency.

    Raises:
        DataError: it has more than 8 bits for a channel.
    """
    if image.mode in DEEP:
        raise DataError(f"an image of mode {image.mode}, with more than 8 bits for a channel; convert it to 8 bits")
    if image.mode == "P":
        image = image.convert("RGBA")  # Pillow warns of palettes with transparency otherwise
    mode = "RGB" if channels == 3 else "L"
    return image if image.mode == mode else image.convert(mode)


def channels_first(image: Any) -> np.ndarray:
    """uint8 `[channels, height, width]` of a Pillow image."""
    pixels = np.array(image)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)) if pixels.ndim == 3 else pixels[None]


@contextmanager
def opened(file: Path | bytes) -> Iterator[Any]:
    """An image file as a Pillow image, which is read when it is used.

    Raises:
        DataError: without the name of the file, what is wrong with it; also where it is used.
    """
    from PIL import Image

    try:
        with Image.open(BytesIO(file) if isinstance(file, bytes) else file, formats=FORMATS) as image:
            yield image
    except FedMLError:
        raise
    except Exception as error:  # of Pillow, whose readers of formats raise what their parts do
        fault = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
        raise DataError(f"cannot be read as an image ({fault})") from None


def decode(file: Path | bytes, view: View) -> np.ndarray:
    """uint8 `[channels, size, size]` of an image file.

    Raises:
        DataError: without the name of the file, what is wrong with it.
    """
    with opened(file) as image:
        return view.pixels(image)


@dataclass(frozen=True, eq=False)
class Pictures:
    """Image files, decoded when they are asked for.

    Attributes:
        folder: where they lie; `names`: bytes `[n]`, their paths in it.
        remedy: what to do where one is damaged.
    """

    folder: Path
    names: np.ndarray
    view: View
    remedy: str

    def path(self, row: int) -> Path:
        return self.folder / os.fsdecode(self.names[row])

    def pixels(self, rows: Sequence[int]) -> np.ndarray:
        """uint8 `[n, channels, size, size]`.

        Raises:
            DataError: naming the file that is damaged.
        """
        pixels = np.empty((len(rows), *self.view.shape), np.uint8)
        for place, row in zip(pixels, rows, strict=True):
            try:
                place[:] = decode(self.path(row), self.view)
            except DataError as error:
                raise DataError(f"{self.path(row)}: {error}; {self.remedy}") from None
        return pixels

    def make(self, rows: Sequence[int]) -> Tensor:
        return self.view.scaled(self.pixels(rows))

    def column(self, fingerprint: str) -> Decoded:
        """All of them; `fingerprint` says which files they are."""
        about = f"{fingerprint} {to_plain(self.view)}"
        return Decoded(Rows(self.view.shape, self.make, about), torch.arange(len(self.names)))


@dataclass(frozen=True, eq=False)
class Listing:
    """The image files of a folder with a folder for each class.

    Attributes:
        classes: in the order of their labels; `names`: bytes `[n]`, the paths of the files in `folder`; `labels`: int64 `[n]`.
        fingerprint: SHA-256 of names, labels and sizes: parties with the same files have the same one, and no file is read for it.
        state: another, which changes whenever a file is written.
    """

    folder: Path
    classes: tuple[str, ...]
    names: np.ndarray
    labels: np.ndarray
    fingerprint: str
    state: str

    def examples(self, view: View, remedy: str) -> Examples:
        """`x`, decoded on demand, and `y`."""
        x = Pictures(self.folder, self.names, view, remedy).column(self.fingerprint)
        return examples_of({"x": x, "y": torch.from_numpy(self.labels)})

    def part(self, rows: np.ndarray) -> Listing:
        """Some of the files."""
        chosen = hashlib.sha256(rows.tobytes()).hexdigest()
        return replace(
            self,
            names=self.names[rows],
            labels=self.labels[rows],
            fingerprint=self.fingerprint + chosen,
            state=self.state + chosen,
        )


def subfolders(folder: Path) -> list[str]:
    """The names of the folders in a folder, in order; none where it is not there."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error.strerror}") from None


def listing(folder: Path, remedy: str, classes: Sequence[str] | None = None, suffixes: Sequence[str] = SUFFIXES) -> Listing:
    """The image files below every class's folder, in the order of their names.

    Args:
        classes: the folders; all there are, in the order of their names, if not given.

    Raises:
        DataError: there is none, or one has no images.
    """
    names = list(subfolders(folder) if classes is None else classes)
    if not names:
        raise DataError(f"{folder}: has no folders, one for each class; {remedy}")

    def files() -> Iterator[list[File]]:
        for name in names:
            found = _files(folder / name, suffixes)
            if not found:
                raise DataError(f"{folder / name}: has no {_either(suffixes)} files; {remedy}")
            yield [(f"{name}/{path}", size, written) for path, size, written in found]

    return listed(folder, tuple(names), files())


def listed(folder: Path, classes: tuple[str, ...], files: Iterable[list[File]]) -> Listing:
    """A listing of the files of each class; they are gone through one class at a time, since there may be a million."""
    total, state, names, counts = hashlib.sha256(repr(classes).encode()), hashlib.sha256(), [], []
    for found in files:
        total.update(repr([(name, size) for name, size, _ in found]).encode())
        state.update(repr([written for _, _, written in found]).encode())
        names.append(np.array([os.fsencode(name) for name, _, _ in found]))
        counts.append(len(found))
    fingerprint = total.hexdigest()
    labels = np.repeat(np.arange(len(classes)), counts)
    return Listing(folder, classes, np.concatenate(names), labels, fingerprint, fingerprint + state.hexdigest())


def _files(folder: Path, suffixes: Sequence[str]) -> list[File]:
    """Path in the folder, size and time of writing of every image file in it and below; none where it is not there."""
    if not folder.is_dir():
        return []
    try:
        return sorted(_below(str(folder), "", tuple(suffixes)))
    except OSError as error:
        raise DataError(f"{error.filename or folder}: cannot be read: {error.strerror}") from None


def _below(folder: str, before: str, suffixes: tuple[str, ...]) -> Iterator[File]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _below(entry.path, f"{before}{entry.name}/", suffixes)
            elif entry.name.lower().endswith(suffixes):
                about = entry.stat()
                yield before + entry.name, about.st_size, about.st_mtime_ns


def files_in(folder: Path, suffixes: Sequence[str] = SUFFIXES) -> list[File]:
    """The image files in a folder itself, as `listed` takes them."""
    return [about for about in _files(folder, suffixes) if "/" not in about[0]]


def _either(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def at_once(train: Sequence[Listing], test: Sequence[Listing], view: View, remedy: str, root: Path) -> tuple[Examples, Examples]:
    """Training and test examples, decoded now and kept as `mapped` keeps them; class by class."""

    def examples(listings: Sequence[Listing]) -> Examples:
        pixels = [Pictures(one.folder, one.names, view, remedy).pixels(range(len(one.names))) for one in listings]
        labels = np.concatenate([one.labels for one in listings])
        order = np.argsort(labels, kind="stable")
        return Examples({"x": view.scaled(np.concatenate(pixels)[order]), "y": torch.from_numpy(labels[order])})

    about = [str(root.resolve()), to_plain(view), [[str(one.folder), one.state] for one in (*train, *test)]]
    return mapped(lambda: (examples(train), examples(test)), view, about, root)
