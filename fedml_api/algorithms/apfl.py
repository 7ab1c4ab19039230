"""APFL."""

from __future__ import annotations

from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor

from fedml_api.algorithms.fedavg import FedAvg
from fedml_core import tree
from fedml_core.federation import (
    SGD,
    Aggregator,
    Around,
    Client,
    Composed,
    LocalSGD,
    LocalUpdate,
    ServerOptimizer,
    Visits,
    WeightedMean,
    algorithms,
    local_updates,
)
from fedml_core.settings import settings
from fedml_core.trainer import LocalContext, ModelState
from fedml_core.trainer.transforms import Tensors, per_client
from fedml_core.tree import Tree

Share = Annotated[float, Meta(ge=0, le=1)]
NotNegative = Annotated[float, Meta(ge=0)]


@local_updates.register("mixture")
@settings
class Mixture(Around):
    """Train the server's model and the client's part of a mixture with it, by turns on the same batches: see `APFL`."""

    local: LocalUpdate
    alpha: Share
    alpha_lr: NotNegative

    def visits(self, client: Client) -> Visits:
        return self.local.visits(client).twice()

    def plain_rate(self, round: int) -> None:
        return None

    def fresh(self, model: ModelState) -> Tree:
        return {"own": model.params, "alpha": tree.tensors(model)[0].new_tensor(self.alpha)}

    def personal(self, model: ModelState, state: Tree) -> ModelState:
        mixed = _mix(state["alpha"], list(state["own"].values()), list(model.params.values()))
        return ModelState(dict(zip(model.params, mixed, strict=True)), model.buffers)

    def begin(self, params: Tensors, context: LocalContext) -> Tree:
        common = [anchor.expand_as(part).clone() for anchor, part in zip(context.anchor, params, strict=True)]
        own = tree.tensors(tree.clone(context.state["own"]))
        carries = {"common": self.local.begin(common, context), "own": self.local.begin(own, context)}
        return {"turn": 0, "common": common, "own": own, "alpha": context.state["alpha"], "carries": carries}

    def step(self, carry: Tree, params: Tensors, grads: Tensors, context: LocalContext) -> Tree:
        common, own, alpha, turn = carry["common"], carry["own"], carry["alpha"], carry["turn"]
        whose = "common" if turn % 2 else "own"
        if turn == 0 and self.alpha_lr:
            alpha = (alpha - self.alpha_lr * context.dot(grads, list(torch._foreach_sub(own, common)))).clamp(0, 1)
        if whose == "own":
            grads = [per_client(carry["alpha"], grad) * grad for grad in grads]
        moved = self.local.step(carry["carries"][whose], carry[whose], grads, context)
        # The next gradients are those of the other model.
        torch._foreach_copy_(params, common if whose == "own" else _mix(alpha, own, common))
        return carry | {"turn": turn + 1, "alpha": alpha, "carries": carry["carries"] | {whose: moved}}

    def keep(self, trained: ModelState, start: ModelState, carry: Tree, context: LocalContext) -> Tree:
        return {"own": dict(zip(start.params, carry["own"], strict=True)), "alpha": carry["alpha"]}

    def end(self, trained: ModelState, start: ModelState, carry: Tree, context: LocalContext) -> Tree:
        return tree.sub(ModelState(dict(zip(start.params, carry["common"], strict=True)), trained.buffers), start)


def _mix(alpha: Tensor, own: Tensors, common: Tensors) -> Tensors:
    return [per_client(alpha, v) * v + (1 - per_client(alpha, v)) * w for v, w in zip(own, common, strict=True)]


@algorithms.register("apfl")
@settings
class APFL(Composed):
    """FedAvg, and for each client a mixture of its own model with the common one. Deng et al., 2020, Algorithm 1.

    The client uses u = alpha v + (1 - alpha) w, and every local step goes, on one batch, along

        v <- v - lr alpha grad F_k(u)
        w <- w - lr grad F_k(w)

    w is averaged as in FedAvg, v and alpha stay. At the first step of each round the mixture adapts,

        alpha <- clip(alpha - alpha_lr <grad F_k(u), v - w>, 0, 1)

    With alpha fixed at 0 clients use FedAvg's model. The reported training loss is the mean of those of u and w; running statistics
    are of both.

    Args:
        alpha: the share of the client's own model, at first; `alpha_lr`: how fast each client learns its own, 0 for not at all.
    """

    alpha: Share = 0.5
    alpha_lr: NotNegative = 0.1
    local: LocalSGD = LocalSGD()
    server: ServerOptimizer = SGD()
    aggregator: Aggregator = WeightedMean()

    @property
    def algorithm(self) -> FedAvg:
        return FedAvg(Mixture(self.local, self.alpha, self.alpha_lr), self.server, self.aggregator)
