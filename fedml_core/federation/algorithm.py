"""Algorithm: a server program over a cohort."""

from __future__ import annotations

from abc import ABC, abstractmethod

from fedml_core.federation.client import Mean, Task
from fedml_core.federation.cohort import Cohort
from fedml_core.federation.engine import Setup
from fedml_core.federation.evaluate import Evaluate
from fedml_core.settings import Registry
from fedml_core.trainer import ModelState
from fedml_core.tree import Tree


class Algorithm(ABC):
    """State in, state out: checkpointing, resuming and evaluating know nothing about any algorithm.

    An algorithm maps tasks onto a cohort and reduces what comes back. It never asks which engine carries the cohort out, and keeps
    nothing on itself: all that a later round needs is in the state, a tree.
    """

    def unfit(self, setup: Setup) -> list[str]:
        """What keeps this from working with such a network, trainer or data set, one line each; asked before anything runs."""
        return []

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

    @property
    def server_has_model(self) -> bool:
        """Whether `model(state)` is what has been learnt. If not, it is not evaluated: clients judge by what they have."""
        return True

    def judge(self) -> Task:
        """The task by which every client finds out how good the model is that it uses; its `shared` tree is `shown(state)`."""
        return Evaluate()

    def shown(self, state: Tree) -> Tree:
        """What clients get to see when they judge: the model, unless there are several."""
        return self.model(state)


class Composed(Algorithm):
    """An algorithm that is another one with certain parts: what a paper's name stands for."""

    @property
    @abstractmethod
    def algorithm(self) -> Algorithm:
        """The other one, with the parts in place."""

    def unfit(self, setup: Setup) -> list[str]:
        return self.algorithm.unfit(setup)

    def init(self, model: ModelState) -> Tree:
        return self.algorithm.init(model)

    def round(self, state: Tree, cohort: Cohort) -> tuple[Tree, dict[str, Mean]]:
        return self.algorithm.round(state, cohort)

    def model(self, state: Tree) -> ModelState:
        return self.algorithm.model(state)

    @property
    def server_has_model(self) -> bool:
        return self.algorithm.server_has_model

    def judge(self) -> Task:
        return self.algorithm.judge()

    def shown(self, state: Tree) -> Tree:
        return self.algorithm.shown(state)


algorithms: Registry[Algorithm] = Registry("algorithm", Algorithm)
