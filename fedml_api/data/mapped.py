"""Large columns, kept on disk and mapped: processes of one machine share their pages, and read only the rows that they use."""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import torch

from fedml_core.errors import DataError
from fedml_core.trainer import Examples

log = logging.getLogger("fedml")
# Bytes of training and test columns together, from which on they are mapped. An interpreter with torch takes 200 MB.
LARGE = 32 << 20
Split = tuple[Examples, Examples]


def mapped(make: Callable[[], Split], source: object, about: Any, root: Path) -> Split:
    """Training and test examples as `make` returns them; large ones in files below `root/cache`, for which it is called once.

    The pages are copied when written into, so that no process can change what the others see.

    Args:
        source: made by a class in whose module, or that of a class it builds upon, `make` is written: a module that has changed
            may make something else.
        about: plain data on which, besides these modules, the result of `make` depends.
    """
    key = json.dumps([np.__version__, code_of(type(source)), about], sort_keys=True)
    folder = root / "cache" / hashlib.sha256(key.encode()).hexdigest()[:32]
    if (found := _open(folder)) is not None:
        return found
    made = make()
    if sum(column.nbytes for examples in made for column in examples.columns.values()) < LARGE:
        return made
    try:
        _write(folder, made)
    except OSError as error:
        log.warning("%s: %s; without it, every process holds the data set in memory of its own", folder, error.strerror)
    return _open(folder) or made


def code_of(kind: type) -> list[str]:
    """What tells the modules of a class, and of those it builds upon, from what they were before."""
    modules = {Path(inspect.getfile(one)) for one in kind.__mro__ if one is not object}
    return [hashlib.sha256(module.read_bytes()).hexdigest() for module in sorted(modules)]


def identity(path: Path) -> list[Any]:
    """What tells a file from what it was before."""
    try:
        about = path.stat()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
    return [str(path.resolve()), about.st_size, about.st_mtime_ns]


def _open(folder: Path) -> Split | None:
    try:
        train, test = (
            Examples({path.stem: _map(path) for path in sorted((folder / part).iterdir())}) for part in ("train", "test")
        )
    except FileNotFoundError:
        return None
    except (OSError, EOFError, ValueError) as error:
        log.warning("%s is damaged (%s) and made anew", folder, error)
        shutil.rmtree(folder, ignore_errors=True)
        return None
    return train, test


def _map(path: Path) -> torch.Tensor:
    return torch.from_numpy(np.lib.format.open_memmap(path, mode="c"))


def _write(folder: Path, made: Split) -> None:
    """Make `folder`, whole or not at all; when several processes do at once, one of them wins."""
    draft = folder.with_name(f".{uuid4().hex}")
    try:
        for part, examples in zip(("train", "test"), made, strict=True):
            (draft / part).mkdir(parents=True)
            for name, column in examples.columns.items():
                with (draft / part / f"{name}.npy").open("wb") as file:
                    np.save(file, column.numpy())
                    file.flush()
                    os.fsync(file.fileno())
        draft.rename(folder)
    except OSError:
        if not folder.exists():
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
