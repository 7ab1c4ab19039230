"""Numbers to predict."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fedml_core.trainer.examples import Batch
from fedml_core.trainer.metrics import ratio
from fedml_core.trainer.model_trainer import Model, ModelTrainer


class Regressor(ModelTrainer):
    """Squared error of a network that maps `x` to numbers `[b, ...]`, against as many `y`; an example's loss is their mean.

    `mae` is the mean absolute error; `rmse`, the root of the mean squared one, and `r2 = 1 - sum (y - f)^2 / sum (y - mean y)^2`
    are over all examples at once.
    """

    def loss(self, model: Model, batch: Batch) -> Tensor:
        return self._errors(model, batch).square().mean(dim=1)

    def metrics(self, model: Model, batch: Batch) -> dict[str, Tensor]:
        return {"mae": self._errors(model, batch).abs().mean(dim=1)}

    def sums(self, model: Model, batch: Batch, found: dict[str, Tensor]) -> dict[str, Tensor]:
        y, errors = batch["y"].double(), self._errors(model, batch).double()
        count = torch.tensor(y.numel(), dtype=torch.float64, device=y.device)
        return {"count": count, "y": y.sum(), "y2": y.square().sum(), "errors2": errors.square().sum()}

    def finish(self, sums: dict[str, Tensor]) -> dict[str, float]:
        total = sums["y2"] - sums["y"].square() / sums["count"]
        return {"rmse": math.sqrt(ratio(sums["errors2"], sums["count"])), "r2": 1 - ratio(sums["errors2"], total)}

    @staticmethod
    def _errors(model: Model, batch: Batch) -> Tensor:
        y = batch["y"].flatten(1) if batch["y"].dim() > 1 else batch["y"].unsqueeze(1)
        return model(batch["x"]).view(y.shape) - y
