"""FedNova."""

from __future__ import annotations

from fedml_api.algorithms.fedavg import ServerState
from fedml_core import tree
from fedml_core.federation import (
    SGD,
    Aggregator,
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
from fedml_core.trainer import LocalContext, ModelState
from fedml_core.tree import Tree


@local_updates.register("normalised")
@settings
class Normalised(Around):
    """Train as `local` does; the server gets to see the change per unit of `reach`, and the reach `[1]`."""

    local: LocalSGD

    def end(self, trained: ModelState, start: ModelState, carry: Tree, context: LocalContext) -> Tree:
        change, reach = tree.sub(trained, start), self.local.reach(context.steps, context.round)
        context.scale_(tree.tensors(change.params), 1 / reach)
        return {"change": change, "reach": reach[..., None]}


@algorithms.register("fednova")
@settings
class FedNova(Algorithm):
    """FedAvg on normalised changes. Wang et al., NeurIPS 2020, section 4.

    Local training comes to w_k - w = -lr sum_j a_kj g_kj; the weights a_k are ones for SGD, growing with momentum, shrinking with a
    proximal term (put `proximal` into `local.transforms`). With p_k = n_k / sum n the server follows

        D = (sum_k p_k |a_k|_1) sum_k p_k (w_k - w) / |a_k|_1

    so that a client with more steps has no more say than its p_k. With equally many steps that is FedAvg. The first factor is what
    the paper calls tau_eff, in the choice that keeps the speed of FedAvg. Buffers are averaged as they are.
    """

    local: LocalSGD = LocalSGD()
    server: ServerOptimizer = SGD()
    aggregator: Aggregator = WeightedMean()

    def init(self, model: ModelState) -> ServerState:
        return ServerState(model, self.server.init(model))

    def round(self, state: ServerState, cohort: Cohort) -> tuple[ServerState, dict[str, Mean]]:
        found = cohort.map(Normalised(self.local), shared=state.model).fold(self.aggregator)
        change, reach = found.value["change"], found.value["reach"].item()
        direction = ModelState(tree.scale(change.params, reach), change.buffers)
        model, optimizer = self.server.step(state.model, direction, state.optimizer, cohort.round)
        return ServerState(model, optimizer), found.metrics
