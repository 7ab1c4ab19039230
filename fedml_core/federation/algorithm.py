"""Algorithm: a server program over a cohort."""

from __future__ import annotations

from abc import ABC, abstractmethod

from fedml_core.federation.client import Mean
from fedml_core.federation.cohort import Cohort
from fedml_core.settings import Registry
from fedml_core.trainer import ModelState
from fedml_core.tree import Tree


class Algorithm(ABC):
    """State in, state out: checkpointing, resuming and evaluating know nothing about any algorithm.

    An algorithm maps tasks onto a cohort and reduces what comes back. It never asks which engine carries the cohort out, and keeps
    nothing on itself: all that a later round needs is in the state, a tree.
    """

    @abstractmethod
    def init(self, model: ModelState) -> Tree:
        """The state before round 0, from the initial model."""

    @abstractmethod
    def round(self, state: Tree, cohort: Cohort) -> tuple[Tree, dict[str, Mean]]:
        """One round: the new state, and the metrics of the clients that took part."""

    def model(self, state: Tree) -> ModelState:
        """The model that the state stands for, to evaluate and to save."""
        model: ModelState = state.model
        return model


algorithms: Registry[Algorithm] = Registry("algorithm", Algorithm)
