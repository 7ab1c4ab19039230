"""q-FedAvg."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from fedml_api.algorithms.fedavg import ServerState
from fedml_core import tree
from fedml_core.federation import (
    SGD,
    Algorithm,
    Around,
    Cohort,
    Evaluate,
    Folded,
    LocalSGD,
    Mean,
    ServerOptimizer,
    WeightedMean,
    algorithms,
    local_updates,
)
from fedml_core.settings import settings
from fedml_core.trainer import LocalContext, ModelState, rate
from fedml_core.tree import Tree

# A loss of zero has no power with a negative exponent.
LEAST_LOSS = 1e-10


@local_updates.register("fair")
@settings
class Fair(Around):
    """Train as `local` does, and reply with what q-FedAvg divides: see there. `own` holds the client's `loss` before training."""

    local: LocalSGD
    q: float

    def end(self, trained: ModelState, start: ModelState, carry: Tree, context: LocalContext) -> Tree:
        change, lipschitz = tree.sub(trained, start), 1 / rate(self.local.lr, context.round)
        loss = context.own["loss"].clamp(min=LEAST_LOSS)
        square = (lipschitz * context.norm(tree.tensors(change.params))) ** 2
        step = self.q * loss ** (self.q - 1) * square + lipschitz * loss**self.q
        context.scale_(tree.tensors(change.params), lipschitz * loss**self.q)
        # Buffers are no matter of fairness: divided by the sum of these, they are averaged.
        context.scale_(tree.tensors(change.buffers), step)
        return {"change": change, "weight": step}


def ratio(folded: Folded) -> ModelState:
    """sum of `change` / sum of `weight` over replies that hold the two; no change if nobody had any."""
    change: ModelState = tree.scale(folded.value["change"], 1 / (float(folded.value["weight"]) or 1.0))
    return change


@algorithms.register("qfedavg")
@settings
class QFedAvg(Algorithm):
    """q-FedAvg, for a fairer spread of accuracy over clients. Li et al., ICLR 2020, Algorithm 2.

    Minimises sum_k F_k(w)^(q+1) / (q+1): the larger q, the more the clients with high losses count. With L = 1 / lr,

        d_k = L (w - w_k)
        h_k = q F_k(w)^(q-1) |d_k|^2 + L F_k(w)^q
        w  <- w - sum_k F_k(w)^q d_k / sum_k h_k

    where w_k is what client k makes of w by `local`, and F_k(w) its loss before, over all its examples, for which clients are asked
    first. All clients count alike, whatever they hold: at q = 0 this is FedAvg with the plain mean.

    Args:
        q: how much fairness; 0 is none.
        server: what is done with the step, as in FedAvg.
    """

    q: Annotated[float, Meta(ge=0)] = 1.0
    local: LocalSGD = LocalSGD()
    server: ServerOptimizer = SGD()

    def init(self, model: ModelState) -> ServerState:
        return ServerState(model, self.server.init(model))

    def round(self, state: ServerState, cohort: Cohort) -> tuple[ServerState, dict[str, Mean]]:
        asked = cohort.map(Evaluate(on="train"), shared=state.model).gather()
        number = tree.tensors(state.model)[0].new_tensor
        losses = {id: {"loss": number(reply.metrics["loss"].value if reply.weight else 0.0)} for id, reply in asked.items()}
        updates = cohort.only(list(losses)).map(Fair(self.local, self.q), shared=state.model, own=losses)
        folded = updates.fold(WeightedMean(by="clients"))
        model, optimizer = self.server.step(state.model, ratio(folded), state.optimizer, cohort.round)
        return ServerState(model, optimizer), folded.metrics
