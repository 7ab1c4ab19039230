"""FedBuff."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Annotated, Literal

from msgspec import Meta

from fedml_core import tree
from fedml_core.errors import RoundFailed
from fedml_core.federation import (
    SGD,
    Aggregator,
    Algorithm,
    Client,
    Cohort,
    LocalSGD,
    LocalUpdate,
    Mean,
    Reply,
    ServerOptimizer,
    Task,
    WeightedMean,
    algorithms,
    tasks,
)
from fedml_core.rng import rng
from fedml_core.settings import settings
from fedml_core.trainer import ModelState
from fedml_core.tree import Tree


@tree.node
class Flight:
    """A client at work: on the model of which version, and until when."""

    version: int
    until: float


@tree.node
class BufferedState:
    """The newest model, the server optimizer's state, the virtual time, who is at work, and the models that they work on."""

    model: ModelState
    optimizer: Tree
    clock: float
    flights: dict[str, Flight]
    models: dict[str, ModelState]


@tasks.register("count_examples")
@settings
class CountExamples(Task):
    """How many training examples a client has, as the weight of its reply."""

    def __call__(self, client: Client, shared: Tree, own: Tree = None) -> Reply:
        return Reply({}, float(len(client.train)), {})


@algorithms.register("fedbuff")
@settings
class FedBuff(Algorithm):
    """Asynchronous training with a buffer. Nguyen et al., AISTATS 2022, Algorithm 1.

    Clients work at different speeds, on the model that was the newest when they began. As soon as K of them are through,

        w <- w + lr sum_i s(t_i) n_i D_i / sum_i n_i,       s(t) = 1 / sqrt(1 + t)

    with t the staleness, the number of updates of the server since the client began; the weights n_i are the aggregator's, 1 in the
    paper. A round is one such update, in virtual time: clients of the cohort begin, until as many are at work as the cohort has
    clients (`clients_per_round` is the concurrency), and the K that are through first are computed. With K no less than that nobody
    is stale, and it is FedAvg.

    Args:
        buffer: K.
        durations: of a client's work: `constant`: 1; `uniform`: between 0 and 1; `half_normal`: |N(0, 1)|, the paper's choice;
            `examples`: the number of its examples.
        seed: of these draws, and of who begins.
    """

    buffer: Annotated[int, Meta(ge=1)] = 10
    durations: Literal["constant", "uniform", "half_normal", "examples"] = "half_normal"
    seed: Annotated[int, Meta(ge=0)] = 0
    local: LocalUpdate = LocalSGD()
    server: ServerOptimizer = SGD()
    aggregator: Aggregator = WeightedMean()

    def init(self, model: ModelState) -> BufferedState:
        return BufferedState(model, self.server.init(model), 0.0, {}, {})

    def round(self, state: BufferedState, cohort: Cohort) -> tuple[BufferedState, dict[str, Mean]]:
        flights = state.flights | self._begin(state, cohort)
        models = state.models | {str(cohort.round): state.model}
        through = sorted(flights, key=lambda client: flights[client].until)[: self.buffer]
        clock = max(flights[client].until for client in through)

        total, staleness = self.aggregator.zero(), Mean(0.0, 0.0)
        for version in sorted({flights[client].version for client in through}):
            group = [client for client in flights if client in through and flights[client].version == version]
            updates = cohort.only(group, round=version).map(self.local, shared=models[str(version)])
            late = cohort.round - version
            with suppress(RoundFailed):  # clients that are gone give their places to others
                for _, reply in updates:
                    total = self.aggregator.add(total, replace(reply, value=tree.scale(reply.value, (1 + late) ** -0.5)))
                    staleness = staleness.merge(Mean(late, 1.0))
        change = self.aggregator.finish(total)

        model, optimizer = state.model, state.optimizer
        if change.clients:
            model, optimizer = self.server.step(model, change.value, optimizer, cohort.round)
        left = {client: flight for client, flight in flights.items() if client not in through}
        needed = {str(flight.version): models[str(flight.version)] for flight in left.values()}
        metrics = change.metrics | {"staleness": staleness, "clock": Mean(clock, 1.0)}
        return BufferedState(model, optimizer, clock, left, needed), metrics

    def _begin(self, state: BufferedState, cohort: Cohort) -> dict[str, Flight]:
        """Clients of the cohort that are not at work, as many as there are places."""
        idle = [client for client in cohort.clients if client not in state.flights]
        places = max(0, len(cohort.clients) - len(state.flights))
        chosen = rng(self.seed, "begin", cohort.round).permutation(len(idle))[:places]
        begin = [idle[i] for i in sorted(chosen.tolist())]
        if self.durations == "examples":
            asked = cohort.only(begin).map(CountExamples(), shared=state.model)
            durations = [(client, reply.weight) for client, reply in asked]
        else:
            durations = [(client, self._drawn(cohort.round, client)) for client in begin]
        return {client: Flight(cohort.round, state.clock + duration) for client, duration in durations}

    def _drawn(self, round: int, client: str) -> float:
        """How long a client works that begins in this round."""
        draw = rng(self.seed, "duration", round, client)
        match self.durations:
            case "uniform":
                return float(draw.random())
            case "half_normal":
                return abs(float(draw.standard_normal()))
        return 1.0
