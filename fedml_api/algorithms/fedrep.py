"""FedRep."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor

from fedml_api.algorithms.fedper import FedPer
from fedml_core import tree
from fedml_core.federation import (
    SGD,
    Aggregator,
    Around,
    Client,
    Composed,
    LocalSGD,
    Private,
    ServerOptimizer,
    Visits,
    WeightedMean,
    algorithms,
    local_updates,
    model_of,
    private_names,
)
from fedml_core.settings import settings
from fedml_core.trainer import LocalContext
from fedml_core.trainer.transforms import Tensors, per_client
from fedml_core.tree import Tree


@local_updates.register("head_then_body")
@settings
class HeadThenBody(Around):
    """Train the private part for `head_epochs`, then all the rest for `local.epochs`, each with a fresh optimizer."""

    local: LocalSGD
    private: Private
    head_epochs: int

    @property
    def epochs(self) -> int:
        """Of both."""
        return self.head_epochs + (self.local.epochs or 1)

    def visits(self, client: Client) -> Visits:
        return replace(self.local, epochs=self.epochs).visits(client)

    def plain_rate(self, round: int) -> None:
        return None

    def begin(self, params: Tensors, context: LocalContext) -> Tree:
        model = model_of(context.shared)
        names = private_names(model, self.private)
        parts = [[i for i, name in enumerate(model.params) if (name in names) is private] for private in (True, False)]
        carries = [self.local.begin([params[i] for i in part], context) for part in parts]
        return {"done": torch.zeros_like(context.steps), "parts": parts, "carries": carries}

    def step(self, carry: Tree, params: Tensors, grads: Tensors, context: LocalContext) -> Tree:
        head = carry["done"] < context.steps * self.head_epochs / self.epochs
        carries = [
            self._move(moving, part, inner, params, grads, context) if part and moving.any() else inner
            for moving, part, inner in zip((head, ~head), carry["parts"], carry["carries"], strict=True)
        ]
        return {"done": carry["done"] + 1, "parts": carry["parts"], "carries": carries}

    def _move(self, moving: Tensor, part: list[int], carry: Tree, params: Tensors, grads: Tensors, context: LocalContext) -> Tree:
        """One step of one part of the model, at those clients (all or none, if there is one) whose turn it is."""
        mine, before = [params[i] for i in part], [params[i].clone() for i in part]
        carry = self.local.step(carry, mine, [grads[i] for i in part], replace(context, anchor=[context.anchor[i] for i in part]))
        for now, then in zip(mine, before, strict=True):
            now.copy_(torch.where(per_client(moving, now), now, then))
        # Zeros are what an optimizer begins with: it has seen nothing before its turn.
        return tree.map_tensors(lambda seen: seen * per_client(moving, seen), carry)


@algorithms.register("fedrep")
@settings
class FedRep(Composed):
    """A shared representation below heads of the clients' own. Collins et al., ICML 2021, Algorithm 1.

        h_k <- SGD(f_k(h, w)) in h, `head_epochs` passes, with the server's w
        w_k <- SGD(f_k(h_k, w)) in w, `local.epochs` passes, with the new head
        w   <- sum_k n_k w_k / sum_k n_k

    FedPer trains both at once.

    Args:
        head_epochs: passes for the head, before those for the body, `local.epochs`; the paper takes 10 and 1.
        private: the head: `last`, or patterns of names (see `PrivatePart`).
    """

    head_epochs: Annotated[int, Meta(ge=1)] = 10
    local: LocalSGD = LocalSGD()
    private: Private = "last"
    server: ServerOptimizer = SGD()
    aggregator: Aggregator = WeightedMean()

    def problems(self) -> Iterator[str]:
        if self.local.steps is not None:
            yield f"local.steps = {self.local.steps}: head and body are trained for epochs, give local.epochs instead"

    @property
    def algorithm(self) -> FedPer:
        return FedPer(HeadThenBody(self.local, self.private, self.head_epochs), self.private, self.server, self.aggregator)
