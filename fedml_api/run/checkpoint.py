"""Checkpoints: a tree at a round, as `ROUND.safetensors` (the tensors) and `ROUND.json` (structure and checksums).

The JSON file is written last and makes the checkpoint exist. It holds the SHA-256 of the tensors' file and of its own content, so
that a truncated or altered checkpoint is recognised, and the one before it is used.
"""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import safetensors.torch

from fedml_api.run.files import write_atomic
from fedml_core import tree
from fedml_core.errors import CheckpointError
from fedml_core.tree import Tree

log = logging.getLogger("fedml")
FORMAT = 1


class Checkpoints:
    """The checkpoints of one run, in `folder`; the newest `keep` of them stay."""

    def __init__(self, folder: Path, keep: int = 3) -> None:
        self.folder, self.keep = folder, keep

    def rounds(self) -> list[int]:
        """Rounds with a checkpoint, newest first."""
        return sorted((int(path.stem) for path in self.folder.glob("[0-9]*.json") if path.stem.isdecimal()), reverse=True)

    def save(self, round: int, state: Tree) -> None:
        """Write the checkpoint of `round` and remove those that are too old."""
        self.folder.mkdir(parents=True, exist_ok=True)
        structure, tensors = tree.pack(state)
        # Cloned, because the format refuses tensors that share memory and a state may well name one tensor twice.
        blob = safetensors.torch.save({path: tensor.cpu().clone() for path, tensor in tensors.items()})
        body = {"format": FORMAT, "round": round, "structure": structure, "tensors_sha256": hashlib.sha256(blob).hexdigest()}
        write_atomic(self._path(round, "safetensors"), blob)
        write_atomic(self._path(round, "json"), json.dumps(body | {"sha256": _digest(body)}))
        kept = self.rounds()[: self.keep]
        for path in self.folder.iterdir():
            if path.name.startswith(".") or (path.stem.isdigit() and int(path.stem) not in kept):
                path.unlink(missing_ok=True)

    def load(self, round: int) -> Tree:
        """The state of `round`.

        Raises:
            CheckpointError: a file is missing, truncated or altered.
        """
        path = self._path(round, "json")
        try:
            body: dict[str, Any] = json.loads(path.read_bytes())
            if body.pop("sha256") != _digest(body) or body["format"] != FORMAT:
                raise ValueError("its checksum does not match")
            blob = self._path(round, "safetensors").read_bytes()
            if hashlib.sha256(blob).hexdigest() != body["tensors_sha256"]:
                raise ValueError("the checksum of its tensors does not match")
            return tree.unpack(body["structure"], safetensors.torch.load(blob))
        except Exception as error:  # JSON, safetensors and the tree's nodes each have errors of their own
            raise CheckpointError(f"checkpoint {path} is damaged: {error}") from error

    def newest(self) -> tuple[int, Tree] | None:
        """The newest sound checkpoint, with a warning for every damaged one passed over; None if there is none."""
        for round in self.rounds():
            try:
                return round, self.load(round)
            except CheckpointError as error:
                log.warning("%s; using the one before it, or starting again if there is none", error)
        return None

    def _path(self, round: int, suffix: str) -> Path:
        return self.folder / f"{round:06d}.{suffix}"


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
