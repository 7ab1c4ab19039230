"""FedDyn."""

from __future__ import annotations

from typing import Annotated

import torch
from msgspec import Meta

from fedml_core import tree
from fedml_core.federation import (
    SGD,
    Algorithm,
    Around,
    Cohort,
    LocalSGD,
    Mean,
    ServerOptimizer,
    WeightedMean,
    algorithms,
    local_updates,
)
from fedml_core.settings import settings
from fedml_core.trainer import GradientTransform, LocalContext, ModelState, Proximal, transforms
from fedml_core.trainer.transforms import Tensors
from fedml_core.tree import Tree


@transforms.register("linear_penalty")
@settings
class LinearPenalty(GradientTransform):
    """Gradient of the penalty -<l_k, w>: g - l_k, with l_k the client's private state."""

    def update(self, grads: Tensors, state: Tree, params: Tensors, context: LocalContext) -> tuple[Tensors, Tree]:
        torch._foreach_sub_(grads, tree.tensors(context.state))
        return grads, state


@local_updates.register("feddyn")
@settings
class DynamicallyRegularised(Around):
    """Train as `local` does, whose links have `LinearPenalty` among them; l_k <- l_k - alpha (w_k - w) stays with the client."""

    alpha: float
    local: LocalSGD

    def fresh(self, model: ModelState) -> Tree:
        return tree.zeros_like(model.params)

    def keep(self, trained: ModelState, start: ModelState, carry: Tree, context: LocalContext) -> Tree:
        return tree.add(context.state, tree.sub(trained.params, start.params), alpha=-self.alpha)


@tree.node
class FedDynState:
    """The global model, the state of the server optimizer, and h, the mean of all clients' l_k."""

    model: ModelState
    optimizer: Tree
    h: Tree


@algorithms.register("feddyn")
@settings
class FedDyn(Algorithm):
    """Dynamic regularisation. Acar et al., ICLR 2021, Algorithm 1, with N clients of which S are asked.

        client   w_k = argmin f_k(w) - <l_k, w> + (alpha/2) |w - x|^2,  l_k <- l_k - alpha (w_k - x)
        server   h <- h - alpha |S|/N mean (w_k - x),  x <- mean w_k - h / alpha

    where the argmin is what `local` comes to from x, along g - l_k + alpha (w - x), and means are over clients, as printed: only
    so is h always the mean of all l_k. Where everything stands still, l_k is the gradient of f_k and their sum is 0: x minimises
    the mean of all f_k, whatever the clients' minima are. `server` gets mean (w_k - x) - h / alpha for the clients' mean change:
    plain SGD at rate 1 is the paper's. Private state: l_k, as large as the model.
    """

    alpha: Annotated[float, Meta(gt=0)] = 0.1
    local: LocalSGD = LocalSGD()
    server: ServerOptimizer = SGD()

    def init(self, model: ModelState) -> FedDynState:
        return FedDynState(model, self.server.init(model), tree.zeros_like(model.params))

    def round(self, state: FedDynState, cohort: Cohort) -> tuple[FedDynState, dict[str, Mean]]:
        task = DynamicallyRegularised(self.alpha, self.local.with_first(LinearPenalty(), Proximal(self.alpha)))
        found = cohort.map(task, shared=state.model).fold(WeightedMean(by="clients"))
        h = tree.add(state.h, found.value.params, alpha=-self.alpha * found.weight / cohort.population)
        change = ModelState(tree.add(found.value.params, h, alpha=-1 / self.alpha), found.value.buffers)
        model, optimizer = self.server.step(state.model, change, state.optimizer, cohort.round)
        return FedDynState(model, optimizer, h), found.metrics
