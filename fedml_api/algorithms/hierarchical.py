"""Hierarchical federated averaging."""

from __future__ import annotations

import zlib
from typing import Annotated

from msgspec import Meta

from fedml_api.algorithms.fedavg import FedAvg, ServerState
from fedml_core import tree
from fedml_core.federation import (
    SGD,
    Aggregator,
    Algorithm,
    Cohort,
    CountExamples,
    Mean,
    Reply,
    ServerOptimizer,
    Setup,
    Task,
    WeightedMean,
    algorithms,
    merge_metrics,
)
from fedml_core.settings import settings
from fedml_core.trainer import ModelState


@algorithms.register("hierarchical")
@settings
class Hierarchical(Algorithm):
    """Clients under edge servers under a cloud. Liu et al., ICC 2020 (HierFAVG), Algorithm 1.

        w_g <- w, then `edge_rounds` rounds of `inner` over the clients of g       for every group g
        w   <- sum_g n_g w_g / sum_g n_g                                           n_g: the examples of its clients

    An edge server is to the cloud what a client is to a server: its change is folded, and `server` makes a step of it. The inner
    algorithm begins anew with every round of the cloud; its rounds are numbered through, from round * edge_rounds, so that draws
    and schedules of rates go on. The inner algorithm itself with one group and one edge round.

    Args:
        groups: how many; a client's name decides to which it belongs, in every round.
        edge_rounds: rounds of an edge server for one of the cloud; `inner`: what they are.
    """

    groups: Annotated[int, Meta(ge=1)] = 2
    edge_rounds: Annotated[int, Meta(ge=1)] = 2
    inner: Algorithm = FedAvg()
    server: ServerOptimizer = SGD()
    aggregator: Aggregator = WeightedMean()

    def unfit(self, setup: Setup) -> list[str]:
        return self.inner.unfit(setup)

    def init(self, model: ModelState) -> ServerState:
        return ServerState(model, self.server.init(model))

    def group(self, client: str) -> int:
        """The group to which a client belongs."""
        return zlib.crc32(client.encode()) % self.groups

    def round(self, state: ServerState, cohort: Cohort) -> tuple[ServerState, dict[str, Mean]]:
        sizes = {id: reply.weight for id, reply in cohort.map(CountExamples(), shared={}).gather().items()}
        total = self.aggregator.zero()
        for group in range(self.groups):
            members = [id for id in sizes if self.group(id) == group]
            if members:
                model, metrics = self._edge(state.model, cohort, members)
                change = Reply(tree.sub(model, state.model), sum(sizes[id] for id in members), metrics)
                total = self.aggregator.add(total, change)
        folded = self.aggregator.finish(total)
        model, optimizer = self.server.step(state.model, folded.value, state.optimizer, cohort.round)
        return ServerState(model, optimizer), folded.metrics

    def _edge(self, model: ModelState, cohort: Cohort, members: list[str]) -> tuple[ModelState, dict[str, Mean]]:
        """What the edge server of these clients makes of the cloud's model."""
        state, metrics = self.inner.init(model), dict[str, Mean]()
        for edge_round in range(self.edge_rounds):
            inner_cohort = cohort.only(members, round=cohort.round * self.edge_rounds + edge_round)
            state, found = self.inner.round(state, inner_cohort)
            metrics = merge_metrics(metrics, found)
        return self.inner.model(state), metrics

    def judge(self) -> Task:
        return self.inner.judge()
