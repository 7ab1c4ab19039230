"""Files that are either there whole or not there."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path


def write_atomic(path: Path, content: bytes | str | Iterable[bytes | bytearray | memoryview]) -> None:
    """Write a file so that a crash at any moment leaves the old content or the new, never a part of it.

    Args:
        content: all of it, or its parts one after the other, none of which is kept.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    parts = [content.encode()] if isinstance(content, str) else [content] if isinstance(content, bytes) else content
    with temporary.open("wb") as file:
        for part in parts:
            file.write(part)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
