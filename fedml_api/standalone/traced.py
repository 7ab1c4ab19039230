"""The traced executor: one client after the other, its training step replayed without Python in between."""

from __future__ import annotations

import torch
from torch import Tensor

from fedml_api.standalone.executor import Sequential, Work
from fedml_api.standalone.stackable import Verdicts
from fedml_core import tree
from fedml_core.federation import ClientRunner, Setup, Workspace
from fedml_core.trainer import Batch, ModelTrainer
from fedml_core.trainer.traced import TracedStep
from fedml_core.trainer.transforms import Tensors


class TracedWorkspace(Workspace):
    """A workspace that traces the step for every shape of batch it meets, once."""

    def __init__(self, module: torch.nn.Module, precision: torch.dtype | None = None) -> None:
        super().__init__(module, precision)
        self._steps: dict[object, TracedStep] = {}

    def gradients(self, trainer: ModelTrainer, batch: Batch) -> tuple[Tensor, Tensors]:
        step, params, weights = self._step(trainer, batch)
        return step.gradients(params, batch, weights)

    def descend(self, trainer: ModelTrainer, batch: Batch, rate: float) -> Tensor:
        step, params, weights = self._step(trainer, batch)
        return step.descend(params, batch, weights, rate)

    def _step(self, trainer: ModelTrainer, batch: Batch) -> tuple[TracedStep, Tensors, Tensor]:
        params, weights = tree.tensors(self.view.params), self.mean_of(len(next(iter(batch.values()))))
        key = tuple(part.shape for part in batch.values())
        if key not in self._steps:
            self._steps[key] = TracedStep(trainer, self.module, params, batch, weights, stacked=False, precision=self.precision)
        return self._steps[key], params, weights


class Traced(Sequential):
    """As the sequential executor, with the step traced; what cannot be traced is carried out as it is, and the log says why.

    The update is made part of the backward pass, dropout masks are drawn from fewer random bits, elementwise results overwrite what
    is no longer needed: worth it for models of a few large operations, such as convolutions.
    """

    exact = False

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.plain = self.run
        self.verdicts = Verdicts(setup, stacked=False)

    def prepare(self, work: Work) -> None:
        fitting = TracedWorkspace if self.verdicts.suits(work) else Workspace
        if type(self.run.workspace) is not fitting:
            self.run = ClientRunner(self.setup, fitting)
