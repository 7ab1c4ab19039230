"""Starting the ranks of an MPI job on this machine."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from fedml_core.errors import ConfigError


def mpirun(ranks: int, command: list[str]) -> tuple[list[str], dict[str, str]]:
    """Command line and environment that run `command` in `ranks` ranks here.

    The `mpirun` beside the running interpreter is preferred: it belongs to the MPI library that mpi4py finds. More ranks than cores
    are allowed, and so is root, since both are usual in containers. Ranks are not bound to cores, where a rank's numerical threads
    would share one.

    Raises:
        ConfigError: there is no `mpirun`.
    """
    beside = Path(sys.executable).with_name("mpirun")
    found = str(beside) if beside.exists() else shutil.which("mpirun")
    if found is None:
        raise ConfigError('there is no mpirun here; run: pip install "fedml[mpi]", or install an MPI library')
    environment = os.environ | {
        "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
        "PRTE_MCA_hwloc_default_binding_policy": "none",
    }
    if os.geteuid() == 0:
        environment |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return [found, "-n", str(ranks), *command], environment
