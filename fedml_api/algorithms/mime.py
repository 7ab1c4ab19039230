"""Mime and MimeLite."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from fedml_core import tree
from fedml_core.federation import (
    SGD,
    Aggregator,
    Algorithm,
    Around,
    Client,
    Cohort,
    Composed,
    FullGradient,
    LocalSGD,
    Mean,
    ServerOptimizer,
    Visits,
    WeightedMean,
    algorithms,
    local_updates,
)
from fedml_core.settings import settings
from fedml_core.trainer import GradientTransform, LocalContext, ModelState, transforms
from fedml_core.trainer.transforms import Tensors
from fedml_core.tree import Tree


def _step(base: ServerOptimizer, gradient: dict[str, Tensor], state: Tree, round: int) -> tuple[dict[str, Tensor], Tree]:
    """Where `base` goes from 0 along -gradient, and its state then."""
    moved, after = base.step(ModelState(tree.zeros_like(gradient), {}), ModelState(tree.scale(gradient, -1), {}), state, round)
    return moved.params, after


@transforms.register("frozen")
@settings
class Frozen(GradientTransform):
    """Against the way that the optimizer `base` would go from the state `optimizer` of `shared`, which stays what it is."""

    base: ServerOptimizer

    def update(self, grads: Tensors, state: Tree, params: Tensors, context: LocalContext) -> tuple[Tensors, Tree]:
        gradient = dict(zip(context.shared["model"].params, grads, strict=True))
        moved, _ = _step(self.base, gradient, context.shared["optimizer"], context.round)
        return tree.tensors(tree.scale(moved, -1)), state


@local_updates.register("svrg")
@settings
class VarianceReduced(Around):
    """Train as `local` does, along g - g' + c: g' of the same batch at the server's model, c the entry `gradient` of `shared`.

    Every batch is visited twice, at the server's model and at the client's. While the former is computed, the carry has the latter.
    Dropout draws anew for each of the two.
    """

    local: LocalSGD

    def visits(self, client: Client) -> Visits:
        return self.local.visits(client).twice()

    def begin(self, params: Tensors, context: LocalContext) -> Tree:
        return {"local": self.local.begin(params, context), "client": tree.clone(params), "anchor": None}

    def step(self, carry: Tree, params: Tensors, grads: Tensors, context: LocalContext) -> Tree:
        if carry["anchor"] is None:
            tree.copy_(params, carry["client"])
            return carry | {"anchor": grads}
        along = list(torch._foreach_sub(grads, carry["anchor"]))
        torch._foreach_add_(along, tree.tensors(context.shared["gradient"]))
        local, client = self.local.step(carry["local"], params, along, context), tree.clone(params)
        for part, start in zip(params, context.anchor, strict=True):
            part.copy_(start)
        return {"local": local, "client": client, "anchor": None}

    def end(self, trained: ModelState, start: ModelState, carry: Tree, context: LocalContext) -> Tree:
        return tree.sub(ModelState(dict(zip(start.params, carry["client"], strict=True)), trained.buffers), start)


@tree.node
class MimeState:
    """The global model, the state of the server optimizer, and the state of the base optimizer, which the clients only read."""

    model: ModelState
    optimizer: Tree
    base: Tree


@algorithms.register("mime")
@settings
class Mime(Algorithm):
    """Mimicking centralised training. Karimireddy et al., NeurIPS 2021, Algorithm 1, with the optimizer `base` = (U, V).

        server   c = mean grad f_k(x)                 over all examples of the clients asked
        client   y <- y - lr U(g(y) - g(x) + c, s)    in each step from y = x, both g of the same batch; `lite`: U(g(y), s)
        server   s <- V(c, s),  x <- mean y

    The statistics s, such as momentum, thus are those of all clients, and no client changes them by its own data; the correction
    takes out that clients' optima differ. U is one step of `base` from the state s, V the state after a step along c. Its rate and
    that of `local` multiply. The v of SGD is the paper's m / (1 - momentum), so that a rate of 1 - momentum gives the paper's
    U = (1 - momentum) g + momentum m. Where `base` is adaptive, U divides by the second moment in which g has its part.

    A round asks its clients twice. The metric `loss` of Mime counts both visits of each batch.

    Args:
        base: where momentum belongs; `local` may clip and decay, but has none of its own.
        lite: MimeLite, without the correction: it moves less data and computes half, and clients drift.
        server: applied to the mean change; plain SGD at rate 1 is the paper's.
    """

    base: ServerOptimizer = SGD(lr=0.1, momentum=0.9)
    local: LocalSGD = LocalSGD()
    server: ServerOptimizer = SGD()
    aggregator: Aggregator = WeightedMean()
    lite: bool = False

    def problems(self) -> Iterator[str]:
        if self.local.momentum:
            yield f"local.momentum = {self.local.momentum}: momentum is that of base, which is the same for all clients"

    def init(self, model: ModelState) -> MimeState:
        return MimeState(model, self.server.init(model), self.base.init(model))

    def round(self, state: MimeState, cohort: Cohort) -> tuple[MimeState, dict[str, Mean]]:
        gradient = cohort.map(FullGradient(), shared=state.model).fold(self.aggregator).value
        shared, local = {"model": state.model, "optimizer": state.base}, self.local.with_first(Frozen(self.base))
        updates = cohort.map(local, shared) if self.lite else cohort.map(VarianceReduced(local), shared | {"gradient": gradient})
        change = updates.fold(self.aggregator)
        model, optimizer = self.server.step(state.model, change.value, state.optimizer, cohort.round)
        _, base = _step(self.base, gradient, state.base, cohort.round)
        return MimeState(model, optimizer, base), change.metrics


@algorithms.register("mimelite")
@settings
class MimeLite(Composed):
    """Mime without the correction of local gradients. Karimireddy et al., NeurIPS 2021, Algorithm 1."""

    base: ServerOptimizer = SGD(lr=0.1, momentum=0.9)
    local: LocalSGD = LocalSGD()
    server: ServerOptimizer = SGD()
    aggregator: Aggregator = WeightedMean()

    def problems(self) -> Iterator[str]:
        return self.algorithm.problems()  # which has been made then, or refused

    @property
    def algorithm(self) -> Mime:
        return Mime(self.base, self.local, self.server, self.aggregator, lite=True)
