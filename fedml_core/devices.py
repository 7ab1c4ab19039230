"""Devices: which names are good on this machine, and which device a process computes on."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch


def device_problems(name: str, field: str = "device") -> list[str]:
    """What is wrong with a device's name, or with asking for it on this machine; `field` is the setting that holds it."""
    try:
        chosen = torch.device(name)
    except RuntimeError:
        chosen = torch.device("meta")
    if chosen.type not in ("cpu", "cuda"):
        return [f"{field} = '{name}': must be cpu, cuda or cuda:N"]
    count = torch.cuda.device_count()
    if chosen.type == "cuda" and (chosen.index or 0) >= count > 0:
        return [f"{field} = '{name}': there are only {count} CUDA devices; use cpu, or cuda:0 to cuda:{count - 1}"]
    if chosen.type == "cuda" and not torch.cuda.is_available():
        torch_version = f"torch {torch.__version__}"
        return [f"{field} = '{name}': {torch_version} sees no CUDA device here; use {field}=cpu, or a CUDA build of torch"]
    return []


def spread(place: int, devices: Sequence[str], default: torch.device) -> torch.device:
    """The device of the process or thread that is number `place` on its machine: they go round `devices`.

    With no `devices` it is the `default`, and if that is "cuda" without a number, they go round all that this process sees.
    """
    if not devices and default == torch.device("cuda"):
        devices = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    return torch.device(devices[place % len(devices)]) if devices else default


def local_rank() -> int:
    """The number of this process among those that the same `mpirun` or `srun` started on this machine; 0 outside of one."""
    for name in ("OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID"):
        if name in os.environ:
            return int(os.environ[name])
    return 0
