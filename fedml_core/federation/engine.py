"""Engine: what supplies cohorts. An engine knows how a cohort is carried out and knows no algorithm."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from fedml_core.federation.cohort import Cohort
from fedml_core.settings import Registry
from fedml_core.trainer import Examples, ModelTrainer
from fedml_core.tree import Tree


class ClientData(Protocol):
    """Where an engine finds the examples of a client."""

    client_ids: Sequence[str]

    def train(self, client: str) -> Examples: ...
    def test(self, client: str) -> Examples: ...


@dataclass(frozen=True)
class Setup:
    """What every party of a run agrees on: the trainer, the network, who holds which data, the seed and the device."""

    trainer: ModelTrainer
    module: nn.Module
    data: ClientData
    seed: int
    device: torch.device


class Session(ABC):
    """An engine at work on one setup."""

    @abstractmethod
    def cohort(self, round: int, clients: Sequence[str]) -> Cohort:
        """The cohort of these clients in this round."""

    @abstractmethod
    def save(self) -> Tree:
        """The private states of clients that live with this engine, for a checkpoint."""

    @abstractmethod
    def restore(self, saved: Tree) -> None:
        """Put back what `save` returned."""


class Engine(ABC):
    """The settings of an engine, and the way to start it."""

    @abstractmethod
    def open(self, setup: Setup) -> AbstractContextManager[Session]:
        """Start; leaving the context stops everything that was started."""


engines: Registry[Engine] = Registry("engine", Engine)
