"""Metrics that are no means over examples, from sums that parties may add before: the same number as from all examples at once."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def ratio(part: Tensor | float, whole: Tensor | float) -> float:
    """part / whole; 0 where there is nothing to have a part in."""
    return float(part) / float(whole) if float(whole) else 0.0


def f1_score(hits: Tensor | float, predicted: Tensor | float, actual: Tensor | float) -> dict[str, float]:
    """`precision`, hits / predicted; `recall`, hits / actual; and their harmonic mean, `f1`."""
    return {
        "precision": ratio(hits, predicted),
        "recall": ratio(hits, actual),
        "f1": ratio(2 * float(hits), float(predicted) + float(actual)),
    }


def confusion(predicted: Tensor, actual: Tensor, classes: int) -> Tensor:
    """How often each class was taken for each other: int64 `[actual, predicted]`."""
    return torch.bincount((actual * classes + predicted).flatten(), minlength=classes**2).view(classes, classes)


def by_class(matrix: Tensor) -> dict[str, float]:
    """Precision, recall and F1 from a `confusion`, each class counting the same: `macro_precision`, `macro_recall`, `macro_f1`.

    A class that is neither there nor predicted has no part in the means.
    """
    hits, predicted, actual = matrix.diagonal(), matrix.sum(dim=0), matrix.sum(dim=1)
    scores = [f1_score(*numbers) for numbers in zip(hits, predicted, actual, strict=True) if float(numbers[1] + numbers[2])]
    return {f"macro_{name}": math.fsum(score[name] for score in scores) / len(scores) for name in (scores[0] if scores else {})}


def overlap(matrix: Tensor) -> dict[str, float]:
    """Of a segmentation, from the `confusion` of its pixels.

    `pixel_accuracy`; `class_accuracy`, the mean over classes of the share of their pixels that is found; `mean_iou`, the mean over
    classes of intersection / union; `weighted_iou`, the same weighted by pixels. A class without pixels has no part in a mean.
    """
    hits, predicted, actual = matrix.diagonal(), matrix.sum(dim=0), matrix.sum(dim=1)
    union = predicted + actual - hits
    iou, found = hits / union.clamp(min=1), hits / actual.clamp(min=1)
    return {
        "pixel_accuracy": ratio(hits.sum(), matrix.sum()),
        "class_accuracy": ratio(found.sum(), (actual > 0).sum()),
        "mean_iou": ratio(iou.sum(), (union > 0).sum()),
        "weighted_iou": ratio((iou * actual).sum(), matrix.sum()),
    }


def histograms(scores: Tensor, positive: Tensor, edges: Tensor) -> Tensor:
    """How many negatives (row 0) and positives (row 1) have a score in each bin: below the first edge, from there up, ..."""
    bins = len(edges) + 1
    place = torch.bucketize(scores, edges, right=True) + bins * positive.long()
    return torch.bincount(place, minlength=2 * bins).view(2, bins)


def auc(counts: Tensor) -> float | None:
    """Area under the ROC curve from `histograms`: the chance that a positive scores higher than a negative, half where in one bin.

    So it differs from the exact one by no more than half the share of pairs that are in one bin. None if there are no positives, or
    no negatives.
    """
    negative, positive = counts.double()
    if not negative.sum() or not positive.sum():
        return None
    below = negative.cumsum(0) - negative
    return float((positive * (below + negative / 2)).sum() / (negative.sum() * positive.sum()))


def recall_at(counts: Tensor, false_alarms: float) -> float | None:
    """The share of positives in the bins from the top that hold no more than `false_alarms` of the negatives; None as for `auc`."""
    return None if auc(counts) is None else ratio(alarms(counts, threshold(counts, false_alarms))[1], counts[1].sum())


def threshold(counts: Tensor, false_alarms: float) -> int:
    """The lowest of the bins of `histograms` from which on there are no more than `false_alarms` of the negatives."""
    negative = counts[0].double()
    above = negative.flip(0).cumsum(0).flip(0) <= false_alarms * negative.sum()
    return int((~above).sum())


def alarms(counts: Tensor, threshold: int) -> Tensor:
    """How many negatives and how many positives are in the bins of `histograms` from `threshold` on: `[2]`."""
    return counts[:, threshold:].sum(1)
