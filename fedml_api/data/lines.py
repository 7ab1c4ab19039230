"""What text files with a line for each row have in common."""

from __future__ import annotations

from pathlib import Path

from fedml_core.errors import DataError


def check_end(path: Path, remedy: str) -> None:
    """Of a text file, which would not tell otherwise that its last line is only the beginning of one.

    Raises:
        DataError: it cannot be read, or does not end with the end of a line.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - 1))
            last = file.read()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error}); {remedy}") from None
    if last not in (b"\n", b"\r"):
        raise DataError(f"{path}: {'truncated: does not end with the end of a line' if last else 'is empty'}; {remedy}")
