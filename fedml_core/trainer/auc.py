"""The area under the receiver operating characteristic, exactly."""

from __future__ import annotations

import torch
from torch import Tensor

from fedml_core.trainer import metrics


def auc(scores: Tensor, labels: Tensor) -> float:
    """How often an example of class 1 scores higher than one of class 0, ties counted half: the Mann-Whitney statistic.

        AUC = sum_s p_s (N_{<s} + n_s / 2) / (n_1 n_0)        p_s, n_s: examples of class 1 and 0 with score s

    Args:
        scores: `[n]`; `labels`: `[n]`, 0 or 1.

    Returns:
        The area; NaN if there are no examples of one of the classes.
    """
    positive = labels.to(torch.bool)
    distinct, place = scores.unique(return_inverse=True)  # type: ignore[no-untyped-call]
    counts = [torch.bincount(place[of], minlength=len(distinct)) for of in (~positive, positive)]
    found = metrics.auc(torch.stack(counts))
    return float("nan") if found is None else found
