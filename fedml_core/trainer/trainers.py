"""Trainers for other tasks than one class per example."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fedml_core.trainer.examples import Batch
from fedml_core.trainer.metrics import auc, confusion, f1_score, histograms, overlap, ratio, recall_at
from fedml_core.trainer.model_trainer import Model, ModelTrainer

VOID = 255


class Tagger(ModelTrainer):
    """Any number of labels per example: binary cross entropy of logits `[b, labels]` against `y` `[b, labels]` of zeros and ones.

    The loss of an example is the mean over labels. `precision`, `recall` and `f1` count all labels of all examples alike, a logit
    above 0 being a yes; `recall_at_5` is the share of labels that are among the five highest of their example.
    """

    def loss(self, model: Model, batch: Batch) -> Tensor:
        logits = model(batch["x"])
        return F.binary_cross_entropy_with_logits(logits, batch["y"].to(logits.dtype), reduction="none").mean(dim=1)

    def decisions(self, model: Model, batch: Batch) -> tuple[Tensor, Tensor]:
        """For every label of every example, whether it has it: class 1 of two."""
        yes = model(batch["x"]).flatten().unsqueeze(1)
        return torch.cat([torch.zeros_like(yes), yes], dim=1), (batch["y"] > 0).long().flatten()

    def classes_of(self, classes: int) -> int:
        return 2

    def sums(self, model: Model, batch: Batch, found: dict[str, Tensor]) -> dict[str, Tensor]:
        logits, actual = model(batch["x"]), batch["y"] > 0
        yes = logits > 0
        best = actual.gather(1, logits.topk(min(5, logits.shape[1]), dim=1).indices)
        return {"hits": (yes & actual).sum(), "predicted": yes.sum(), "actual": actual.sum(), "hits_at_5": best.sum()}

    def finish(self, sums: dict[str, Tensor]) -> dict[str, float]:
        scores = f1_score(sums["hits"], sums["predicted"], sums["actual"])
        return scores | {"recall_at_5": ratio(sums["hits_at_5"], sums["actual"])}


class Segmenter(ModelTrainer):
    """A class for every pixel: cross entropy of logits `[b, classes, h, w]` against `y` `[b, h, w]`, where 255 is nothing to learn.

    The loss of an example is the mean over its other pixels; for the metrics see `metrics.overlap`.
    """

    def loss(self, model: Model, batch: Batch) -> Tensor:
        targets = batch["y"].long()
        losses = F.cross_entropy(model(batch["x"]), targets, reduction="none", ignore_index=VOID)
        return losses.flatten(1).sum(dim=1) / (targets != VOID).flatten(1).sum(dim=1).clamp(min=1)

    def decisions(self, model: Model, batch: Batch) -> tuple[Tensor, Tensor]:
        targets = batch["y"].long()
        real = targets != VOID
        return model(batch["x"]).movedim(1, -1)[real], targets[real]

    def sums(self, model: Model, batch: Batch, found: dict[str, Tensor]) -> dict[str, Tensor]:
        logits, targets = model(batch["x"]), batch["y"].long()
        real = targets != VOID
        return {"confusion": confusion(logits.argmax(dim=1)[real], targets[real], logits.shape[1])}

    def finish(self, sums: dict[str, Tensor]) -> dict[str, float]:
        return overlap(sums["confusion"])


class Regression(ModelTrainer):
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
        return {"rmse": ratio(sums["errors2"], sums["count"]) ** 0.5, "r2": 1 - ratio(sums["errors2"], total)}

    @staticmethod
    def _errors(model: Model, batch: Batch) -> Tensor:
        y = batch["y"].flatten(1) if batch["y"].dim() > 1 else batch["y"].unsqueeze(1)
        return model(batch["x"]).view(y.shape) - y


class Reconstruction(ModelTrainer):
    """An autoencoder that tells what is out of the ordinary: the mean squared error between `x` and what the network makes of it.

    Where examples have labels `y` `[b]`, those above 0 are out of the ordinary, and should be reconstructed worse than the others,
    on which to train: `auc` is the chance that one of them has a larger error than an ordinary one, `recall_at_5_percent` the share
    of them that is found where 5 % of the ordinary give a false alarm. Both are from errors in bins, a hundred for a factor of ten,
    from 1e-9 to 1e6; what a client sends is how many of its examples are in each.
    """

    def loss(self, model: Model, batch: Batch) -> Tensor:
        x = batch["x"].flatten(1)
        return (model(batch["x"]).flatten(1) - x).square().mean(dim=1)

    def sums(self, model: Model, batch: Batch, found: dict[str, Tensor]) -> dict[str, Tensor]:
        if "y" not in batch:
            return {}
        edges = torch.logspace(-9, 6, 1501, dtype=torch.float64, device=found["loss"].device)
        return {"errors": histograms(found["loss"].double(), batch["y"] > 0, edges)}

    def finish(self, sums: dict[str, Tensor]) -> dict[str, float]:
        scores = {"auc": auc(sums["errors"]), "recall_at_5_percent": recall_at(sums["errors"], 0.05)}
        return {name: score for name, score in scores.items() if score is not None}
