"""Checkpoints: a tree at a round, as `ROUND.safetensors` (the tensors) and `ROUND.json` (structure and checksums).

The JSON file is written last and makes the checkpoint exist. It holds the SHA-256 of the other files and of its own content, so
that a truncated or altered checkpoint is recognised, and the one before it is used. Private states of clients, which together may
be more than fits into memory, lie one after the other in `ROUND.clients`.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import safetensors.torch

from fedml_core import tree
from fedml_core.communication.codec import UNLIMITED, Buffer, decode_tree, encode_tree, size
from fedml_core.errors import CheckpointError
from fedml_core.files import write_atomic
from fedml_core.tree import Tree

log = logging.getLogger("fedml")
FORMAT = 2


class Checkpoints:
    """The checkpoints of one run, in `folder`; the newest `keep` of them stay."""

    def __init__(self, folder: Path, keep: int = 3) -> None:
        self.folder, self.keep = folder, keep

    def rounds(self) -> list[int]:
        """Rounds with a checkpoint, newest first."""
        return sorted((int(path.stem) for path in self.folder.glob("[0-9]*.json") if path.stem.isdecimal()), reverse=True)

    def save(self, round: int, state: Tree, clients: Iterable[tuple[str, Tree]] = ()) -> None:
        """Write the checkpoint of `round`, with the private states of `clients`, and remove those that are too old."""
        self.folder.mkdir(parents=True, exist_ok=True)
        structure, tensors = tree.pack(state)
        # Cloned, because the format refuses tensors that share memory and a state may well name one tensor twice.
        blob = safetensors.torch.save({path: tensor.cpu().clone() for path, tensor in tensors.items()})
        lengths, clients_sha256 = self._save_clients(self._path(round, "clients"), clients)
        body = {
            "format": FORMAT,
            "round": round,
            "structure": structure,
            "tensors_sha256": hashlib.sha256(blob).hexdigest(),
            "clients": lengths,
            "clients_sha256": clients_sha256,
        }
        write_atomic(self._path(round, "safetensors"), blob)
        write_atomic(self._path(round, "json"), json.dumps(body | {"sha256": _digest(body)}))
        kept = self.rounds()[: self.keep]
        for path in self.folder.iterdir():
            if path.name.startswith(".") or (path.stem.isdigit() and int(path.stem) not in kept):
                path.unlink(missing_ok=True)

    def _save_clients(self, path: Path, clients: Iterable[tuple[str, Tree]]) -> tuple[dict[str, int], str]:
        """Write the states of `clients`; how many bytes each takes, and the SHA-256 of all."""
        lengths: dict[str, int] = {}
        total = hashlib.sha256()

        def parts() -> Iterator[Buffer]:
            for client, state in clients:
                encoded = encode_tree(state)
                lengths[client] = size(encoded)
                for part in encoded:
                    total.update(part)
                    yield part

        write_atomic(path, parts())
        if not lengths:
            path.unlink()
        return lengths, total.hexdigest()

    def load(self, round: int) -> Tree:
        """The state of `round`.

        Raises:
            CheckpointError: a file is missing, truncated or altered.
        """
        path = self._path(round, "json")
        try:
            body = self._body(round)
            if body["clients"]:
                with self._path(round, "clients").open("rb") as file:
                    if hashlib.file_digest(file, "sha256").hexdigest() != body["clients_sha256"]:
                        raise ValueError("the checksum of its clients' states does not match")
            blob = self._path(round, "safetensors").read_bytes()
            if hashlib.sha256(blob).hexdigest() != body["tensors_sha256"]:
                raise ValueError("the checksum of its tensors does not match")
            return tree.unpack(body["structure"], safetensors.torch.load(blob))
        except Exception as error:  # JSON, safetensors and the tree's nodes each have errors of their own
            raise CheckpointError(f"checkpoint {path} is damaged: {error}") from error

    def clients(self, round: int) -> Iterator[tuple[str, Tree]]:
        """The private states in the checkpoint of `round`, which `load` has found sound, one after the other."""
        lengths = self._body(round)["clients"]
        if lengths:
            with self._path(round, "clients").open("rb") as file:
                for client, length in lengths.items():
                    yield client, decode_tree(bytearray(file.read(length)), UNLIMITED)

    def _body(self, round: int) -> dict[str, Any]:
        """The content of a checkpoint's JSON file."""
        body: dict[str, Any] = json.loads(self._path(round, "json").read_bytes())
        if body.pop("sha256") != _digest(body) or body["format"] != FORMAT:
            raise ValueError("its checksum does not match")
        return body

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
