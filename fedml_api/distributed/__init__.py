"""The engines whose clients are other workers. Algorithms are in `fedml_api.algorithms`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedml_core.exports import exports
from fedml_core.federation import engines

if TYPE_CHECKING:
    from fedml_api.distributed.edge import Edge
    from fedml_api.distributed.engines import Loopback, Mpi

# What each module exports, and the names of the engines that it registers.
_modules = {
    ".edge": ("Edge", "edge"),
    ".engines": ("Loopback Mpi", "loopback mpi"),
}
__getattr__, __dir__ = exports(__name__, {module: names for module, (names, _) in _modules.items()})
engines.declare(__name__, {module: names for module, (_, names) in _modules.items()})

__all__ = ["Edge", "Loopback", "Mpi"]
