"""Federated averaging."""

from __future__ import annotations

from fedml_core import tree
from fedml_core.federation import (
    SGD,
    Aggregator,
    Algorithm,
    Cohort,
    Evaluate,
    LocalSGD,
    LocalUpdate,
    Mean,
    ServerOptimizer,
    Task,
    WeightedMean,
    algorithms,
)
from fedml_core.settings import settings
from fedml_core.trainer import ModelState
from fedml_core.tree import Tree


@tree.node
class ServerState:
    """The global model and the state of the server optimizer."""

    model: ModelState
    optimizer: Tree


@algorithms.register("fedavg")
@settings
class FedAvg(Algorithm):
    """Federated averaging. McMahan et al., AISTATS 2017, Algorithm 1.

        w_k = ClientUpdate(k, w)        for every client k of the cohort
        w  <- sum_k n_k w_k / sum_k n_k

    written on changes, D = sum_k n_k (w_k - w) / sum_k n_k, so that `server` may be any optimizer on the pseudo-gradient D: plain
    SGD at rate 1 is the paper's algorithm, momentum gives FedAvgM, Adam and its kin give FedOpt; another `aggregator` gives the
    robust variants.
    """

    local: LocalUpdate = LocalSGD()
    server: ServerOptimizer = SGD()
    aggregator: Aggregator = WeightedMean()

    def init(self, model: ModelState) -> ServerState:
        return ServerState(model, self.server.init(model))

    def round(self, state: ServerState, cohort: Cohort) -> tuple[ServerState, dict[str, Mean]]:
        updates = cohort.map(self.local, shared=state.model)
        change = updates.fold(self.aggregator)
        model, optimizer = self.server.step(state.model, change.value, state.optimizer, cohort.round)
        return ServerState(model, optimizer), change.metrics

    def judge(self) -> Task:
        return Evaluate(of=self.local)
