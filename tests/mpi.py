"""Starting ranks from a test."""

import importlib.util
import os

import pytest

from fedml_core.communication.launch import mpirun


def mpi_or_skip(ranks: int, command: list[str]) -> tuple[list[str], dict[str, str]]:
    """Command line and environment that start `ranks` ranks; without MPI a test is skipped, or fails where CI is set."""
    if importlib.util.find_spec("mpi4py") is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("mpi4py is not installed")
    return mpirun(ranks, command)
