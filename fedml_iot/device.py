"""The device client: trains on its own data when the server asks it to.

It needs torch, numpy, msgspec and paho-mqtt, nothing else. It survives the restart of everything: of itself (its private state is
on its disk), of the broker, and of the server, for which it waits.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fedml_api import algorithms as _algorithms  # noqa: F401 (registers their tasks)
from fedml_api.distributed.worker import ClientManager
from fedml_api.model import ModelSpec
from fedml_core.communication import codec
from fedml_core.communication.com_manager import ComManager
from fedml_core.errors import CommunicationError, ConfigError, Refused
from fedml_core.federation import Client, ClientRunner, Dialogue, Reply, Saying, Setup, Task
from fedml_core.files import write_atomic
from fedml_core.settings import build
from fedml_core.tree import Tree
from fedml_iot.data_folder import DeviceData

log = logging.getLogger("fedml")
# How often a device asks a server that does not answer.
KNOCK = 5.0


@dataclass(frozen=True)
class Device:
    """One device.

    Attributes:
        name: its name in the federation, which nobody else has.
        data: its folder of data (see `data_folder.py`); `state`: the folder in which its private state stays.
    """

    name: str
    data: Path
    state: Path

    def run(self, com: ComManager, run: str, identity: str | None = None) -> None:
        """Take part in `run` until it is over.

        Args:
            identity: refuse to take part in a run of another configuration than this.

        Raises:
            Refused: by the server, which says why.
        """
        data = DeviceData(self.name, self.data)
        over = False
        while not over:
            hosts = {client: len(data.train(client)) for client in data.client_ids}
            manager = ClientManager(com, run, identity, hosts)
            welcome = self._join(manager)
            setup = make_setup(welcome, data)
            log.info("%s joined run '%s' with %d examples", self.name, run, sum(hosts.values()))
            runner = KeepingRunner(setup, self.state / run, federation_of(welcome))
            over = manager.serve(runner)
            if not over:
                log.warning("the server is gone; waiting for it to come back")

    def _join(self, manager: ClientManager) -> Any:
        while True:
            try:
                return manager.join(timeout=KNOCK)
            except Refused:
                raise
            except CommunicationError:
                log.info("no answer from the server yet")


class KeepingRunner:
    """Carries this device's client out, and keeps its private state on disk instead of sending it.

    Args:
        folder: where; `federation`: what tells this run from others of its name, whose states are not for it.
    """

    def __init__(self, setup: Setup, folder: Path, federation: str) -> None:
        self.runner = ClientRunner(setup)
        self.folder, self.federation = folder, federation
        self.told: set[str] = set()

    def __call__(self, id: str, round: int, task: Task, shared: Tree, own: Tree, state: Tree) -> Reply:
        kept = self._kept(id, round)
        return self._without_state(id, round, kept, self.runner(id, round, task, shared, own, kept))

    def talk(self, id: str, round: int, task: Dialogue, shared: Tree, own: Tree, state: Tree) -> tuple[Client, Saying]:
        """As `ClientRunner.talk`."""
        kept = self._kept(id, round)
        client, saying = self.runner.talk(id, round, task, shared, own, kept)

        def keeping() -> Saying:
            return self._without_state(id, round, kept, (yield from saying))

        return client, keeping()

    def _kept(self, id: str, round: int) -> Tree:
        """The private state with which to begin this round."""
        path = self.folder / f"{id}.state"
        if not path.exists():
            return None
        saved = read_state(path)
        # Files of earlier versions do not say of which run they are. Before the first round there is no state in any.
        if saved.get("federation", self.federation) != self.federation or round == 0 < saved["round"]:
            if id not in self.told:
                log.warning("the private state in %s is of another run of this name: client %s begins afresh", path, id)
                self.told.add(id)
            return None
        if saved["round"] < round:
            return saved["after"]
        if saved["round"] > round:
            log.warning(
                "the server went back to round %d, and the private state of client %s to no earlier one than before round %d: "
                "the two may not fit each other",
                *(round + 1, id, saved["round"] + 1),
            )
        # Asked again for the round it did last, before the reply got through: the state is the one it had then.
        return saved["before"]

    def _without_state(self, id: str, round: int, kept: Tree, reply: Reply) -> Reply:
        """What leaves the device of a reply; its state does not."""
        if reply.state is not None:
            write_state(
                self.folder / f"{id}.state", {"federation": self.federation, "round": round, "before": kept, "after": reply.state}
            )
        return Reply(reply.value, reply.weight, reply.metrics)


def read_state(path: Path) -> Tree:
    """The tree that `write_state` wrote.

    Raises:
        CommunicationError: the file is damaged.
    """
    content = bytearray(path.read_bytes())
    if hashlib.sha256(content[32:]).digest() != bytes(content[:32]):
        raise CommunicationError(f"{path} is damaged; remove it to start this device's private state afresh")
    return codec.decode_tree(content[32:])


def write_state(path: Path, state: Tree) -> None:
    """Write a tree, in the codec's format behind its SHA-256, so that a crash leaves the old content or the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = codec.encode_tree(state)
    total = hashlib.sha256()
    for part in parts:
        total.update(part)
    write_atomic(path, [total.digest(), *parts])


def federation_of(welcome: Any) -> str:
    """What tells a run from others of its name, from the server's welcome: servers of earlier versions know its configuration."""
    return next((value for name in ("federation", "identity") if isinstance(value := welcome.get(name), str)), "")


def make_setup(welcome: Any, data: DeviceData) -> Setup:
    """What the recipe in the server's welcome describes, with this device's data.

    Raises:
        ConfigError: this device's version does not know what the recipe asks for.
    """
    problems: list[str] = []
    match welcome:
        case {"recipe": {"model": model, "shape": [*shape], "classes": classes, "seed": int(seed)} as recipe}:
            spec = build(ModelSpec, model, "model", problems)
        case _:
            problems.append("the server's welcome has no recipe with model, shape, classes and seed")
    if problems:
        raise ConfigError([*problems, "the server asks for what this version of fedml does not have: install the server's version"])
    return Setup(spec.trainer(), spec.build(tuple(shape), classes), data, seed, torch.device("cpu"), recipe=recipe)
