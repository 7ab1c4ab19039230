"""Ditto."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from fedml_api.algorithms.fedavg import FedAvg, ServerState
from fedml_core.federation import (
    SGD,
    Aggregator,
    Around,
    Cohort,
    Composed,
    Evaluate,
    LocalSGD,
    LocalUpdate,
    Mean,
    ServerOptimizer,
    Task,
    WeightedMean,
    algorithms,
    local_updates,
)
from fedml_core.settings import settings
from fedml_core.trainer import LocalContext, ModelState, Proximal
from fedml_core.tree import Tree


@local_updates.register("at_home")
@settings
class AtHome(Around):
    """Train as `local` does a model of the client's own, which starts as the server's; the server gets to see nothing of it."""

    local: LocalUpdate

    def fresh(self, model: ModelState) -> ModelState:
        return model

    def personal(self, model: ModelState, state: Tree) -> ModelState:
        own: ModelState = state
        return own

    def keep(self, trained: ModelState, start: ModelState, carry: Tree, context: LocalContext) -> ModelState:
        return trained

    def end(self, trained: ModelState, start: ModelState, carry: Tree, context: LocalContext) -> Tree:
        return {}


@algorithms.register("ditto")
@settings
class Ditto(Composed):
    """FedAvg, and beside it a model of each client's own that is pulled towards the server's. Li et al., ICML 2021, Algorithm 1.

        w   <- FedAvg(w)
        v_k <- v_k - lr (grad F_k(v_k) + lam (v_k - w))      for every client k of the cohort, with the w it was sent

    Purely local training at lam = 0; the closer to the server's model the larger lam is. Clients are sent w twice, since the two
    have nothing to do with each other at the client.

    Args:
        lam: the pull; lr * lam beyond 1 overshoots.
        local: how the server's model is trained; `personal`: how the client's own is, as `local` if not given.
    """

    lam: Annotated[float, Meta(ge=0)] = 1.0
    local: LocalSGD = LocalSGD()
    personal: LocalSGD | None = None
    server: ServerOptimizer = SGD()
    aggregator: Aggregator = WeightedMean()

    @property
    def algorithm(self) -> FedAvg:
        return FedAvg(self.local, self.server, self.aggregator)

    @property
    def at_home(self) -> AtHome:
        """How clients train their own models."""
        return AtHome((self.personal or self.local).with_first(Proximal(self.lam)))

    def round(self, state: ServerState, cohort: Cohort) -> tuple[ServerState, dict[str, Mean]]:
        new, metrics = self.algorithm.round(state, cohort)
        there = cohort.only([id for id in cohort.clients if id not in cohort.missing])
        own = there.map(self.at_home, shared=state.model).fold(WeightedMean())
        return new, metrics | {f"personal_{name}": mean for name, mean in own.metrics.items()}

    def judge(self) -> Task:
        return Evaluate(of=self.at_home)
