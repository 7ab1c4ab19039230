"""Other libraries of federated learning, each run by the interpreter of its own environment.

The numbers of a workload lie in a folder that this module writes: `settings.json`, `x.npy`, `y.npy` and `initial.npz`, the
parameters under torch's names. A script `<name>_peer.py` is started with that folder; it knows nothing of this library. For every
line `round` on its input it carries out one round and answers with a line of JSON, `{"seconds": ...}`, measured where the round
runs; for `weights` it writes `<name>.npz`, and with `end` it ends. Its environment is a folder with `bin/python`; see
benchmarks/README.md.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

SCRIPTS = Path(__file__).parent
ENVIRONMENTS = SCRIPTS.parent / "envs"


def present(environments: Path = ENVIRONMENTS, scripts: Path = SCRIPTS) -> dict[str, list[str]]:
    """The command of every peer whose environment is there, by name."""
    names = sorted(script.name.removesuffix("_peer.py") for script in scripts.glob("*_peer.py"))
    found = {name: [str(environments / name / "bin" / "python"), str(scripts / f"{name}_peer.py")] for name in names}
    return {name: command for name, command in found.items() if Path(command[0]).exists()}


def save(folder: Path, settings: Mapping[str, Any], x: np.ndarray, y: np.ndarray, initial: Mapping[str, np.ndarray]) -> None:
    """Write what every peer reads."""
    (folder / "settings.json").write_text(json.dumps(settings))
    np.save(folder / "x.npy", x)
    np.save(folder / "y.npy", y)
    np.savez(folder / "initial.npz", **initial)


class Peer:
    """A running script of a peer; leaving the context ends it, with every process it started."""

    def __init__(self, name: str, command: list[str], folder: Path) -> None:
        self.name, self.folder = name, folder
        self.log = folder / f"{name}.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*command, str(folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            # A word, because processes that the caller has forked meanwhile keep the pipe open.
            self.process.communicate("end\n", timeout=60)
        except (subprocess.TimeoutExpired, BrokenPipeError):
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()

    def ask(self, word: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(word + "\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise RuntimeError(f"{self.name} ended; its log says:\n{self.log.read_text()[-3000:]}")
        found: dict[str, Any] = json.loads(answer)
        return found

    def round(self, _: int = 0) -> float:
        """Seconds of one more round."""
        return float(self.ask("round")["seconds"])

    def weights(self) -> dict[str, np.ndarray]:
        """The model after the rounds so far, under torch's names and in torch's shapes."""
        self.ask("weights")
        with np.load(self.folder / f"{self.name}.npz", allow_pickle=False) as arrays:
            return dict(arrays)
