"""Packages whose names are imported when they are first used (PEP 562), so that a program loads what it names and no more."""

from __future__ import annotations

import gc
import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any


def exports(package: str, modules: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package.

    Args:
        package: its `__name__`; modules: what is found where, names separated by spaces; `.module` is one of the package itself.
    """
    homes = {name: module for module, names in modules.items() for name in names.split()}

    def find(name: str) -> Any:
        if f".{name}" in modules:
            return importlib.import_module(f".{name}", package)
        if name not in homes:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        with _uncollected():
            found = getattr(importlib.import_module(homes[name], package), name)
        setattr(sys.modules[package], name, found)
        return found

    def names() -> list[str]:
        return list(sys.modules[package].__all__)

    return find, names


@contextmanager
def _uncollected() -> Iterator[None]:
    """What is made here is taken to stay, as modules do: Python would look through all of torch's three times, for nothing."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        if gc.get_freeze_count() == 0:
            # Together: everything to the oldest generation.
            gc.freeze()
            gc.unfreeze()
        gc.enable()
