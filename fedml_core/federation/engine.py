"""Engine: what supplies cohorts. An engine knows how a cohort is carried out and knows no algorithm."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import torch
from torch import nn

from fedml_core.federation.cohort import Cohort
from fedml_core.federation.sampling import sample_clients
from fedml_core.settings import Registry
from fedml_core.trainer import Examples, ModelTrainer
from fedml_core.tree import Tree


class ClientData(Protocol):
    """Where an engine finds the examples of a client."""

    client_ids: Sequence[str]
    global_test: Examples

    def train(self, client: str) -> Examples: ...
    def test(self, client: str) -> Examples: ...


@dataclass(frozen=True)
class Setup:
    """What every party of a run agrees on: the trainer, the network, who holds which data, the seed and the device.

    `identity` is a hash of the configuration that all this was made from, by which parties recognise that they agree; `recipe` is
    plain data from which a device that has no configuration can build the network. `precision` is the dtype of `torch.autocast`
    while training, None for that of the parameters; `rounds` how long the run will be: an engine may judge by it what preparing
    pays; `clients_per_round` how many clients are to take part in each, 0 if nobody has said.
    """

    trainer: ModelTrainer
    module: nn.Module
    data: ClientData
    seed: int
    device: torch.device
    identity: str = ""
    recipe: Tree = None
    precision: torch.dtype | None = None
    rounds: int = 1
    clients_per_round: int = 0
    _sizes: dict[str, int] = field(default_factory=dict, init=False, repr=False, compare=False)

    def size(self, client: str) -> int:
        """How many training examples a client has, looked up once."""
        if client not in self._sizes:
            self._sizes[client] = len(self.data.train(client))
        return self._sizes[client]


class Session(ABC):
    """An engine at work on one setup.

    Attributes:
        how: in words, how clients are carried out, where an engine can do it in several ways that differ by rounding.
    """

    how: str = ""

    @abstractmethod
    def population(self) -> Sequence[str]:
        """The clients that could take part in a round now, always in the same order."""

    def select(self, count: int, seed: int, round: int) -> list[str]:
        """The clients to ask in this round, so that `count` may be expected to reply."""
        return sample_clients(self.population(), count, seed, round)

    @abstractmethod
    def cohort(self, round: int, clients: Sequence[str]) -> Cohort:
        """The cohort of these clients in this round."""

    def everyone(self, round: int) -> Cohort:
        """The cohort of all clients that could take part now; that some of them do not reply is no failure."""
        return self.cohort(round, self.population())

    @abstractmethod
    def save(self) -> Iterable[tuple[str, Tree]]:
        """The private states of clients that live with this engine, for a checkpoint: one after the other, as they may be large."""

    @abstractmethod
    def restore(self, saved: Iterable[tuple[str, Tree]]) -> None:
        """Put back what `save` returned."""


class Engine(ABC):
    """The settings of an engine, and the ways to start it.

    Attributes:
        brings_clients: whether clients join by themselves, with data of their own, so that nobody knows beforehand how many.
    """

    brings_clients: ClassVar[bool] = False

    def command(self, arguments: list[str]) -> tuple[list[str], dict[str, str]] | None:
        """The command line and environment by which to run `arguments` instead, where the engine needs more processes than this."""
        return None

    def work(self, setup: Setup) -> bool:
        """Be a worker until the run is over, if that is what this process is there for; whether it was."""
        return False

    def unfit(self) -> list[str]:
        """What keeps these settings from working on this machine, one line each."""
        return []

    def device(self, default: torch.device) -> torch.device:
        """Where this process computes, in a run whose device is `default`."""
        return default

    @abstractmethod
    def open(self, setup: Setup) -> AbstractContextManager[Session]:
        """Start; leaving the context stops everything that was started."""


engines: Registry[Engine] = Registry("engine", Engine)
