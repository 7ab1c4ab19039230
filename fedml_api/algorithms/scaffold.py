"""SCAFFOLD."""

from __future__ import annotations

from typing import Literal

import torch

from fedml_core import tree
from fedml_core.federation import (
    SGD,
    Algorithm,
    Around,
    Client,
    Cohort,
    LocalSGD,
    Mean,
    ServerOptimizer,
    Visits,
    WeightedMean,
    algorithms,
    local_updates,
)
from fedml_core.settings import settings
from fedml_core.trainer import GradientTransform, LocalContext, ModelState, rate, transforms
from fedml_core.trainer.transforms import Tensors
from fedml_core.tree import Tree


@transforms.register("control_variate")
@settings
class ControlVariate(GradientTransform):
    """g - c_k + c, with the client's own control variate c_k (its private state) and the server's c (in `shared`)."""

    def update(self, grads: Tensors, state: Tree, params: Tensors, context: LocalContext) -> tuple[Tensors, Tree]:
        torch._foreach_sub_(grads, tree.tensors(context.state))
        torch._foreach_add_(grads, tree.tensors(context.shared["control"]))
        return grads, state


@local_updates.register("scaffold")
@settings
class Controlled(Around):
    """What a client does in SCAFFOLD; `local` has the link `ControlVariate`. The server gets to see how model and c_k changed."""

    local: LocalSGD
    option: Literal["I", "II"]

    def fresh(self, model: ModelState) -> Tree:
        return tree.zeros_like(model.params)

    def visits(self, client: Client) -> Visits:
        order, lengths = self.local.visits(client)
        if self.option == "II" or not lengths:
            return Visits(order, lengths)
        count = len(client.train)
        return Visits(torch.cat([torch.arange(count), order]), [count, *lengths])

    def begin(self, params: Tensors, context: LocalContext) -> Tree:
        return {"local": self.local.begin(params, context), "gradient": None}

    def step(self, carry: Tree, params: Tensors, grads: Tensors, context: LocalContext) -> Tree:
        if self.option == "I" and carry["gradient"] is None:
            return carry | {"gradient": grads}
        return carry | {"local": self.local.step(carry["local"], params, grads, context)}

    def keep(self, trained: ModelState, start: ModelState, carry: Tree, context: LocalContext) -> Tree:
        if carry["gradient"] is not None:
            return dict(zip(start.params, carry["gradient"], strict=True))
        moved = tree.sub(start.params, trained.params)
        context.scale_(
            tree.tensors(moved), 1 / (self.local.reach(context.steps, context.round) * rate(self.local.lr, context.round))
        )
        return tree.add(tree.sub(context.state, context.shared["control"]), moved)

    def end(self, trained: ModelState, start: ModelState, carry: Tree, context: LocalContext) -> Tree:
        control = self.keep(trained, start, carry, context)
        return {"change": tree.sub(trained, start), "control": tree.sub(control, context.state)}


@tree.node
class ScaffoldState:
    """The global model, the state of the server optimizer, and c, the mean of all clients' control variates."""

    model: ModelState
    optimizer: Tree
    control: Tree


@algorithms.register("scaffold")
@settings
class Scaffold(Algorithm):
    """Stochastic controlled averaging. Karimireddy et al., ICML 2020, Algorithm 1.

        client   y <- y - lr (g(y) - c_k + c)         in each of K steps from y = x
                 c_k' = grad f_k(x)                   option I, over all of its examples, which costs one more pass
                 c_k' = c_k - c + (x - y) / (K lr)    option II
        server   x <- x + mean (y - x),  c <- c + |S|/N mean (c_k' - c_k)

    Means are over clients, as printed: only so is c always the mean of all N control variates, those of clients not asked included.
    K is the `reach` of the local steps, which is their number unless there is momentum. In the first round all controls are 0 and
    it is FedAvg with `aggregator: {by: clients}`. Private state: c_k, as large as the model. The metric `loss` counts the pass of
    option I as well.
    """

    local: LocalSGD = LocalSGD()
    server: ServerOptimizer = SGD()
    option: Literal["I", "II"] = "II"

    def init(self, model: ModelState) -> ScaffoldState:
        return ScaffoldState(model, self.server.init(model), tree.zeros_like(model.params))

    def round(self, state: ScaffoldState, cohort: Cohort) -> tuple[ScaffoldState, dict[str, Mean]]:
        task = Controlled(self.local.with_first(ControlVariate()), self.option)
        replies = cohort.map(task, shared={"model": state.model, "control": state.control})
        found = replies.fold(WeightedMean(by="clients"))
        model, optimizer = self.server.step(state.model, found.value["change"], state.optimizer, cohort.round)
        control = tree.add(state.control, found.value["control"], alpha=found.weight / cohort.population)
        return ScaffoldState(model, optimizer, control), found.metrics
