"""Metrics that a run chooses by name, or takes from torchmetrics: beside those that its trainer reports anyway.

All are made of sums over examples, which clients send and the server adds, so that a federated evaluation is the pooled one.
"""

from __future__ import annotations

import copy
import math
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from fedml_core.errors import ConfigError, unknown
from fedml_core.trainer.metrics import auc, f1_score, histograms, ratio

Sums = dict[str, Tensor]


class Measure(ABC):
    """A metric of decisions, each of which has a logit for every class and the class that is right.

    Attributes:
        name: under which it is reported, and what its sums are told apart by.
    """

    name: str

    @abstractmethod
    def sums(self, logits: Tensor, labels: Tensor) -> Sums:
        """What it is made of, from logits `[n, classes]` and labels `[n]`; n may be 0."""

    @abstractmethod
    def finish(self, sums: Sums) -> dict[str, float]:
        """What is reported; empty where these sums say nothing."""

    def fault(self, classes: int) -> str | None:
        """Why it cannot be had of decisions between so many classes, or None."""
        return None


class TopK(Measure):
    """`top_K`: how often the right class is among the K highest logits, ties counted for it."""

    def __init__(self, k: int) -> None:
        self.name, self.k = f"top_{k}", k

    def sums(self, logits: Tensor, labels: Tensor) -> Sums:
        higher = (logits > logits.gather(1, labels.unsqueeze(1))).sum(dim=1)
        return {"hits": (higher < self.k).sum(), "all": torch.tensor(len(labels))}

    def finish(self, sums: Sums) -> dict[str, float]:
        return {self.name: ratio(sums["hits"], sums["all"])} if float(sums["all"]) else {}


class Counted(Measure):
    """What follows from how often each class was found, decided for, and right: precision, recall, F1, and means of theirs."""

    def __init__(self, name: str, score: Callable[[Tensor], float | None], binary: bool = False) -> None:
        self.name, self.score, self.binary = name, score, binary

    def sums(self, logits: Tensor, labels: Tensor) -> Sums:
        classes, decided = logits.shape[1], logits.argmax(dim=1)
        parts = (labels[decided == labels], decided, labels)
        return {"counts": torch.stack([torch.bincount(part, minlength=classes) for part in parts])}

    def finish(self, sums: Sums) -> dict[str, float]:
        found = self.score(sums["counts"])
        return {} if found is None else {self.name: found}

    def fault(self, classes: int) -> str | None:
        if self.binary and classes != 2:
            return f"'{self.name}' is that of class 1 of two, and there are {classes}; choose macro_{self.name}"
        return None


class Auc(Measure):
    """`auc`: how often a decision for which class 1 is right has a higher logit for it than one for which 0 is, ties half.

    From the differences of the two logits in 20,001 bins, from -50 to 50, of which a client sends how many are in each.
    """

    name = "auc"
    edges: ClassVar[tuple[float, float, int]] = (-50.0, 50.0, 20_000)

    def sums(self, logits: Tensor, labels: Tensor) -> Sums:
        edges = torch.linspace(*self.edges, dtype=torch.float64, device=logits.device)
        scores = (logits[:, 1] - logits[:, 0]).double()
        return {"scores": histograms(scores, labels > 0, edges)}

    def finish(self, sums: Sums) -> dict[str, float]:
        found = auc(sums["scores"])
        return {} if found is None else {self.name: found}

    def fault(self, classes: int) -> str | None:
        return None if classes == 2 else f"'auc' is of two classes, and there are {classes}; choose macro_f1 or top_5"


class Perplexity(Measure):
    """`perplexity`: the exponential of the mean cross entropy."""

    name = "perplexity"

    def sums(self, logits: Tensor, labels: Tensor) -> Sums:
        losses = F.cross_entropy(logits, labels, reduction="none")
        return {"loss": losses.double().sum(), "all": torch.tensor(len(labels))}

    def finish(self, sums: Sums) -> dict[str, float]:
        mean = ratio(sums["loss"], sums["all"])
        return {self.name: math.exp(mean) if mean < 700 else math.inf} if float(sums["all"]) else {}


def _scores(counts: Tensor) -> list[dict[str, float]]:
    """Of every class that is there or decided for."""
    return [f1_score(*numbers) for numbers in zip(*counts, strict=True) if float(numbers[1] + numbers[2])]


def _of_class_1(name: str) -> Callable[[Tensor], float | None]:
    return lambda counts: f1_score(*counts[:, 1])[name] if counts.sum() else None


def _macro(name: str) -> Callable[[Tensor], float | None]:
    def mean(counts: Tensor) -> float | None:
        scores = _scores(counts)
        return math.fsum(score[name] for score in scores) / len(scores) if scores else None

    return mean


def _weighted_f1(counts: Tensor) -> float | None:
    total = counts[2].sum()
    if not total:
        return None
    shares = [f1_score(*numbers)["f1"] * float(numbers[2]) for numbers in zip(*counts, strict=True)]
    return math.fsum(shares) / float(total)


def _balanced_accuracy(counts: Tensor) -> float | None:
    there = counts[2] > 0
    return ratio((counts[0][there] / counts[2][there]).sum(), there.sum()) if there.any() else None


def _mean_iou(counts: Tensor) -> float | None:
    union = counts[1] + counts[2] - counts[0]
    return ratio((counts[0] / union.clamp(min=1)).sum(), (union > 0).sum()) if union.any() else None


_of_counts: dict[str, Callable[[Tensor], float | None]] = {
    **{f"macro_{name}": _macro(name) for name in ("precision", "recall", "f1")},
    "balanced_accuracy": _balanced_accuracy,
    "mean_iou": _mean_iou,
    "weighted_f1": _weighted_f1,
}
_plain: dict[str, Callable[[], Measure]] = {"auc": Auc, "perplexity": Perplexity}
NAMES = (*_plain, *_of_counts, "precision", "recall", "f1", "top_K")


def measure(name: str) -> Measure:
    """The metric of a name: one of `NAMES`, with a number for K, as in `top_5`.

    `precision`, `recall` and `f1` are those of class 1 of two; `macro_...` means over those classes that are there or decided for,
    each counting the same; `weighted_f1` counts each class by how often it is right; `balanced_accuracy` is the mean of the
    recalls of classes that are there; `mean_iou` that of intersection over union. All are scikit-learn's.

    Raises:
        ConfigError: nothing has this name; the message says what there is.
    """
    if number := re.fullmatch(r"top_([1-9][0-9]{0,5})", name):
        return TopK(int(number[1]))
    if name in _plain:
        return _plain[name]()
    if name in _of_counts:
        return Counted(name, _of_counts[name])
    if name in ("precision", "recall", "f1"):
        return Counted(name, _of_class_1(name), binary=True)
    raise ConfigError(unknown("metric", name, NAMES) + ", K being a number, as in top_5")


class OfTorchmetrics(Measure):
    """A metric of torchmetrics whose states are sums, fed with logits and labels.

        state of all = state at the beginning + sum over batches of (state after the batch - state at the beginning)

    Args:
        metric: it is copied and never changed.

    Raises:
        ConfigError: one of its states is no sum, so that it cannot be made of what clients know each for themselves.
    """

    def __init__(self, name: str, metric: Any) -> None:
        self.name = name
        self._metric = copy.deepcopy(metric)
        self._metric.reset()
        for state, how in self._metric._reductions.items():
            if isinstance(self._metric._defaults[state], list) or getattr(how, "__name__", "") != "dim_zero_sum":
                kind = getattr(how, "__name__", str(how)).replace("dim_zero_", "")
                raise ConfigError(
                    f"metric '{name}': the state '{state}' of {type(metric).__name__} is merged by '{kind}', not by 'sum', so that "
                    "clients would have to send every prediction; choose one of sums, such as a curve with thresholds=..."
                )
        if not self._metric._reductions:
            raise ConfigError(f"metric '{name}': {type(metric).__name__} has no states of its own; give the metrics one by one")

    def sums(self, logits: Tensor, labels: Tensor) -> Sums:
        metric = self._metric.to(logits.device)
        metric.reset()
        begin = self._states(metric)
        if len(labels):
            metric.update(logits, labels)
        after = self._states(metric)
        metric.reset()
        return {state: after[state] - begin[state] for state in begin}

    def finish(self, sums: Sums) -> dict[str, float]:
        metric = self._metric
        metric.reset()
        for state, begin in self._states(metric).items():
            setattr(metric, state, (begin + sums[state].to(begin.device)).to(getattr(metric, state).dtype))
        metric._update_count = 1  # else it warns that nothing was measured
        found = metric.compute()
        metric.reset()
        return dict(_flat(self.name, found))

    @staticmethod
    def _states(metric: Any) -> Sums:
        return {state: getattr(metric, state).double().clone() for state in metric._reductions}


def _flat(name: str, value: Any) -> list[tuple[str, float]]:
    """Numbers by name: a tensor has one, or one for each class."""
    if isinstance(value, dict):
        return [pair for key, part in value.items() for pair in _flat(f"{name}_{key}", part)]
    if isinstance(value, Tensor) and value.dim():
        return [pair for k, part in enumerate(value) for pair in _flat(f"{name}_{k}", part)]
    return [(name, float(value))]


def measured(name: str, metric: object) -> Measure:
    """A `Measure`, the one of a name, or one of torchmetrics, to be reported as `name`.

    Raises:
        ConfigError: it is none of these, or cannot be had of sums.
    """
    if isinstance(metric, Measure):
        return metric
    if isinstance(metric, str):
        return measure(metric)
    torchmetrics = sys.modules.get("torchmetrics")  # whoever has made a metric has imported it
    if torchmetrics is not None and isinstance(metric, torchmetrics.MetricCollection):
        raise ConfigError(f"metric '{name}': a MetricCollection; give its metrics one by one, each with a name")
    if torchmetrics is not None and isinstance(metric, torchmetrics.Metric):
        return OfTorchmetrics(name, metric)
    raise ConfigError(
        f"metric '{name}': a {type(metric).__name__}; must be a name ({', '.join(NAMES)}) or a metric of torchmetrics"
    )
