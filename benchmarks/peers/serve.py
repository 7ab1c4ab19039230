"""A peer's end of the conversation that `benchmarks/peers/__init__.py` describes. Needs nothing but NumPy."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(sys.argv[1]) if len(sys.argv) > 1 else Path()


def settings(folder: Path = FOLDER) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "settings.json").read_text())
    return found


def clients(folder: Path = FOLDER) -> list[tuple[np.ndarray, np.ndarray]]:
    """The examples of every client, as views of two arrays."""
    x, y = np.load(folder / "x.npy"), np.load(folder / "y.npy")
    ends = np.cumsum(settings(folder)["sizes"])[:-1]
    return list(zip(np.split(x, ends), np.split(y, ends), strict=True))


def initial() -> dict[str, np.ndarray]:
    with np.load(FOLDER / "initial.npz", allow_pickle=False) as arrays:
        return dict(arrays)


def serve(name: str, one_round: Callable[[], None], weights: Callable[[], Mapping[str, np.ndarray]]) -> None:
    """Answer until the end. What a library prints goes to the log, not among the answers."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for word in map(str.strip, sys.stdin):
        if word == "end":
            break
        if word == "round":
            start = time.perf_counter()
            one_round()
            answer: dict[str, Any] = {"seconds": time.perf_counter() - start}
        else:
            np.savez(FOLDER / f"{name}.npz", **weights())
            answer = {"saved": f"{name}.npz"}
        print(json.dumps(answer), file=answers, flush=True)
