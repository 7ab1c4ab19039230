"""The way to torchvision: everything here imports it by `torchvision()`, when it is needed, and the core never does.

What package indexes have is built for CUDA devices. Beside a torch for the CPU its compiled operators cannot be loaded, and the
import ends in an error, for it describes these operators to torch. Networks and pictures need none of them. So that it can describe
them, they are declared here, without code behind them.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import torch

from fedml_core.errors import ConfigError

OPERATORS = ("nms", "qnms")
# An operator is known as long as the library that it was declared in is.
_declared: list[torch.library.Library] = []


def torchvision(part: str = "") -> ModuleType:
    """The package, or its module `part`.

    Raises:
        ConfigError: it is not installed, or not made for the torch that is.
    """
    name = f"torchvision.{part}" if part else "torchvision"
    try:
        if _lacks_operators():
            library = torch.library.Library("torchvision", "FRAGMENT")
            for operator in OPERATORS:
                library.define(f"{operator}(Tensor boxes, Tensor scores, float iou_threshold) -> Tensor")
            _declared.append(library)
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != "torchvision":
            raise
        raise ConfigError('torchvision is not installed; run: pip install "fedml[vision]"') from None
    except RuntimeError as error:
        raise ConfigError(f"torchvision cannot be used with torch {torch.__version__}: {error}") from error


def _lacks_operators() -> bool:
    """Whether the import of torchvision ends for want of an operator; then nothing stays behind of it."""
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if _declared or not any(f"torchvision::{operator} " in str(error) for operator in OPERATORS):
            raise
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        return True
    return False
