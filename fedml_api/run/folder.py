"""The run folder: all that a run leaves behind, and all that it needs to go on.

config.yaml            the effective configuration, defaults written out
environment.json       versions, processor, threads, and the fingerprint of the data
clients.png            who holds how much of which class
metrics.jsonl, .csv    one row per round
clients/ROUND.csv      what every client found on its own test examples, if `evaluate_clients` asks them
checkpoints/           the newest states (see checkpoint.py)
curve.png              loss and accuracy over rounds
model.safetensors      the final model
result.json            the last evaluation, the time it took, the SHA-256 of the final parameters
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import safetensors.torch
import torch

from fedml_api.run.checkpoint import Checkpoints
from fedml_api.run.config import RunConfig, dump_config, read_config
from fedml_api.run.experiment import Experiment, Result, Row
from fedml_core.errors import ConfigError, RunError
from fedml_core.files import sync_folder, write_atomic

log = logging.getLogger("fedml")


class RunFolder:
    """An existing run folder."""

    def __init__(self, path: Path) -> None:
        if not (path / "environment.json").is_file():
            raise RunError(f"{path} is not a run folder: it holds no environment.json. `fedml list runs` shows the runs there are")
        self.path = path
        self.checkpoints = Checkpoints(path / "checkpoints")

    @classmethod
    def create(cls, config: RunConfig, experiment: Experiment) -> RunFolder:
        """A new folder below `config.runs_folder`, which appears complete or not at all."""
        parent = Path(config.runs_folder)
        try:
            parent.mkdir(parents=True, exist_ok=True)
            draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=parent))
        except OSError as error:
            raise RunError(f"runs_folder = '{parent}': {error.strerror}; name a folder that can be written to") from None
        draft.chmod(0o755)
        # With the threads that were resolved: another number on resuming would change the sums.
        write_atomic(draft / "config.yaml", dump_config(replace(config, threads=experiment.threads)))
        write_atomic(draft / "environment.json", json.dumps(environment(experiment), indent=2) + "\n")
        path = parent / f"{config.name}-{time.strftime('%Y%m%d-%H%M%S')}"
        for attempt in range(1, 1000):
            try:
                os.rename(draft, path)
                sync_folder(parent)
                return cls(path)
            except OSError:
                path = parent / f"{config.name}-{time.strftime('%Y%m%d-%H%M%S')}-{attempt}"
        shutil.rmtree(draft)
        raise RunError(f"cannot make a run folder in {parent}: the last name tried was {path.name}")

    @property
    def config(self) -> RunConfig:
        config, problems = read_config(self.path / "config.yaml", [])
        if problems:
            raise ConfigError([f"{self.path / 'config.yaml'}: {line}" for line in problems])
        return config

    @property
    def rows(self) -> list[Row]:
        """The rows written so far; a last line that a crash cut short is left out."""
        path = self.path / "metrics.jsonl"
        rows = []
        for line in path.read_text().splitlines() if path.exists() else []:
            try:
                rows.append(json.loads(line))
            except ValueError:
                log.warning("%s is damaged after round %d; what follows is left out", path, rows[-1]["round"] if rows else 0)
                break
        return rows

    @property
    def result(self) -> dict[str, Any] | None:
        """What the finished run came to, or None while it has not finished."""
        path = self.path / "result.json"
        try:
            return json.loads(path.read_text()) if path.exists() else None
        except ValueError:
            log.warning("%s is damaged; remove it, and `fedml resume` writes it again", path)
            return None

    def check_data(self, experiment: Experiment) -> None:
        """Refuse to go on with data other than the run began with."""
        then, now = json.loads((self.path / "environment.json").read_text())["data_fingerprint"], experiment.data.fingerprint
        if then != now:
            raise RunError(
                f"the data have changed since {self.path} began: their fingerprint was {then[:12]} and is {now[:12]}. "
                "Put the same files back, or start a new run"
            )

    def finish(self, result: Result) -> None:
        """Write the final model, then the result that marks the run as finished."""
        tensors = {
            name: tensor.cpu().clone(memory_format=torch.contiguous_format) for name, tensor in result.network.state_dict().items()
        }
        write_atomic(self.path / "model.safetensors", safetensors.torch.save(tensors))
        summary = {"sha256": result.sha256, "rounds": result.history[-1]["round"], "seconds": result.seconds, "last": result.last}
        write_atomic(self.path / "result.json", json.dumps(summary, indent=2) + "\n")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out of this folder; the lock goes with the process, however it ends.

        Worker processes let go of it at once: they may outlive a process that was killed, by as long as their work takes.
        """
        with (self.path / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise RunError(f"{self.path} is in use by another process: wait for it, or stop it") from None
            _locks.add(file)
            try:
                yield
            finally:
                _locks.discard(file)


_locks: set[IO[str]] = set()


def _let_go() -> None:
    """In a forked process: close the locks that it has inherited."""
    for file in _locks:
        file.close()
    _locks.clear()


os.register_at_fork(after_in_child=_let_go)


def list_runs(parent: Path) -> list[RunFolder]:
    """All run folders below `parent`, by name."""
    return [RunFolder(config.parent) for config in sorted(parent.glob("[!.]*/environment.json"))]


def environment(experiment: Experiment) -> dict[str, Any]:
    """What a figure has to be quoted with."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": experiment.threads,
        "device": experiment.device,
        "data": experiment.data.name,
        "data_fingerprint": experiment.data.fingerprint,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
    }


def processor() -> str:
    """The processor's model name, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
