"""What this machine has: versions, devices, threads, MPI, a broker."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import socket
import subprocess
from typing import Any

import torch

from fedml_api.run.folder import processor
from fedml_core.errors import ConfigError

PACKAGES = [
    "fedml",
    "torch",
    "numpy",
    "msgspec",
    "safetensors",
    "rich",
    "matplotlib",
    "mlxtend",
    "scikit-learn",
    "mpi4py",
    "paho-mqtt",
]


def examine(broker: str) -> dict[str, Any]:
    """Findings by topic, in the order to print them."""
    cuda = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "python": platform.python_version(),
        **{name.replace("-", "_"): _version(name) for name in PACKAGES},
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cuda": ", ".join(cuda) or "no device",
        "mpirun": _mpirun(),
        "broker": _broker(broker),
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _mpirun() -> str:
    path = shutil.which("mpirun")
    if path is None:
        return "not found"
    done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=20, check=False)
    return f"{path}: {(done.stdout or done.stderr).strip().splitlines()[0]}"


def _broker(address: str) -> str:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ConfigError(f"--broker {address}: must be HOST:PORT, e.g. localhost:1883")
    try:
        with socket.create_connection((host, int(port)), timeout=2):
            return f"{address} answers"
    except OSError as error:
        return f"{address} does not answer ({error.strerror or error})"
