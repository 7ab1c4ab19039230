"""Aggregators: how replies become one value, stated as an algebra so that engines may fold anywhere."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from fedml_core import tree
from fedml_core.federation.client import Mean, Replies, Reply
from fedml_core.settings import Registry, settings
from fedml_core.tree import Tree


@tree.node
class Folded:
    """The replies of a cohort as one value.

    Attributes:
        value: the aggregate; `weight`: the sum of the weights; `clients`: how many replies went in.
        metrics: the clients' metrics, merged.
    """

    value: Tree
    weight: float
    clients: int
    metrics: dict[str, Mean]


class Aggregator(ABC):
    """A fold over replies.

    The law: any grouping of `add` and `merge` over the same replies in the same order gives the same result up to rounding. It
    licenses streaming, folding on each rank before crossing to the server, and secure summation. `add` and `merge` own their first
    argument and may write into it.
    """

    @abstractmethod
    def zero(self) -> Tree:
        """The accumulator of no replies."""

    @abstractmethod
    def add(self, total: Tree, reply: Reply) -> Tree:
        """The accumulator with one more reply."""

    def add_stack(self, total: Tree, replies: Replies) -> Tree:
        """The accumulator with all of these replies added, in their order; where a stack can be folded at once, it is worth it."""
        for _, reply in replies.apart():
            total = self.add(total, reply)
        return total

    @abstractmethod
    def merge(self, total: Tree, other: Tree) -> Tree:
        """The accumulator of the replies of both, those of `total` first."""

    @abstractmethod
    def finish(self, total: Tree) -> Folded:
        """The aggregate of all that was added."""


aggregators: Registry[Aggregator] = Registry("aggregator", Aggregator)


@tree.node
class Sum:
    """Accumulator of weighted means: sum of w_k x_k (None before the first), sum of w_k, number of replies, merged metrics."""

    value: Tree
    weight: float
    clients: int
    metrics: dict[str, Mean]


@aggregators.register("mean")
@settings
class WeightedMean(Aggregator):
    """sum_k w_k x_k / sum_k w_k, with w_k the client's number of examples (`by: examples`) or 1 (`by: clients`).

    McMahan et al., AISTATS 2017, last line of Algorithm 1. Clients without examples weigh nothing; if nobody weighs anything, the
    value is zero.
    """

    by: Literal["examples", "clients"] = "examples"

    def zero(self) -> Sum:
        return Sum(None, 0.0, 0, {})

    def add(self, total: Sum, reply: Reply) -> Sum:
        weight = reply.weight if self.by == "examples" else float(reply.weight > 0)
        if total.value is None:
            value = tree.scale(reply.value, weight)
        else:
            value = total.value
            tree.add_(value, reply.value, alpha=weight)
        return Sum(value, total.weight + weight, total.clients + 1, merge_metrics(total.metrics, reply.metrics))

    def add_stack(self, total: Sum, replies: Replies) -> Sum:
        weights = replies.weights if self.by == "examples" else [float(weight > 0) for weight in replies.weights]
        factors = torch.from_numpy(np.array(weights, dtype=np.float64))

        def folded(part: Tensor) -> Tensor:
            return (factors.to(part) @ part.reshape(len(part), -1)).view(part.shape[1:])

        metrics = {name: Mean(sum(totals.tolist()), sum(counts.tolist())) for name, (totals, counts) in replies.metrics.items()}
        return self.merge(total, Sum(tree.map_tensors(folded, replies.value), sum(weights), len(weights), metrics))

    def merge(self, total: Sum, other: Sum) -> Sum:
        if total.value is None or other.value is None:
            value = other.value if total.value is None else total.value
        else:
            value = total.value
            tree.add_(value, other.value)
        metrics = merge_metrics(total.metrics, other.metrics)
        return Sum(value, total.weight + other.weight, total.clients + other.clients, metrics)

    def finish(self, total: Sum) -> Folded:
        value = tree.scale(total.value, 1 / total.weight) if total.weight else total.value
        return Folded(value, total.weight, total.clients, total.metrics)


def merge_metrics(a: dict[str, Mean], b: dict[str, Mean]) -> dict[str, Mean]:
    """The means of both, by name."""
    merged = dict(a)
    for name, mean in b.items():
        merged[name] = merged[name].merge(mean) if name in merged else mean
    return merged
