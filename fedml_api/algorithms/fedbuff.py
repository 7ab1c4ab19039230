"""FedBuff."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
    Cohort,
    CountExamples,
    LocalSGD,
    LocalUpdate,
    Mean,
    Reply,
    ServerOptimizer,
    WeightedMean,
    algorithms,
)
from fedml_core.rng import rng
from fedml_core.settings import settings
from fedml_core.trainer import ModelState
from fedml_core.tree import Tree


@tree.node
class Flight:
    """A client at work: on the model of which version, and until when (in virtual time; 0 if that has to be seen)."""

    version: int
    until: float


Flights = Mapping[str, Flight]


@tree.node
class BufferedState:
    """The newest model, the server optimizer's state, the virtual time, who is at work, and the models that they work on."""

    model: ModelState
    optimizer: Tree
    clock: float
    flights: dict[str, Flight]
    models: dict[str, ModelState]


@algorithms.register("fedbuff")
@settings
class FedBuff(Algorithm):
    """Asynchronous training with a buffer. Nguyen et al., AISTATS 2022, Algorithm 1.

    Clients work at different speeds, on the model that was the newest when they began. As soon as K of them are through,

        w <- w + lr sum_i s(t_i) n_i D_i / sum_i n_i,       s(t) = 1 / sqrt(1 + t)

    with t the staleness, the number of updates of the server since the client began; the weights n_i are the aggregator's, 1 in the
    paper. A round is one such update: clients of the cohort begin, until as many are at work as the cohort has clients
    (`clients_per_round` is the concurrency), and the K that are through first are taken. With K no less than that nobody is stale,
    and it is FedAvg.

    Who is through first is decided by a virtual clock, so that a run gives the same bits every time and everywhere, or, with
    `durations: measured`, by the order in which replies arrive: clients go on working from round to round, on workers of the
    engines loopback, mpi and edge. After a resume those who were at work begin again, on the models that they had.

    Args:
        buffer: K.
        durations: of a client's work, in virtual time: `constant`: 1; `uniform`: between 0 and 1; `half_normal`: |N(0, 1)|, the
            paper's choice; `examples`: the number of its examples. `measured`: as long as it takes.
        seed: of these draws, and of who begins.
    """

    buffer: Annotated[int, Meta(ge=1)] = 10
    durations: Literal["constant", "uniform", "half_normal", "examples", "measured"] = "half_normal"
    seed: Annotated[int, Meta(ge=0)] = 0
    local: LocalUpdate = LocalSGD()
    server: ServerOptimizer = SGD()
    aggregator: Aggregator = WeightedMean()

    def init(self, model: ModelState) -> BufferedState:
        return BufferedState(model, self.server.init(model), 0.0, {}, {})

    def round(self, state: BufferedState, cohort: Cohort) -> tuple[BufferedState, dict[str, Mean]]:
        measured = self.durations == "measured"
        flights = state.flights | self._begin(state, cohort)
        models = state.models | {str(cohort.round): state.model}
        if measured:
            replies, clock = self._arriving(flights, models, cohort), state.clock
        else:
            through = sorted(flights, key=lambda client: flights[client].until)[: self.buffer]
            replies, clock = self._computed(through, flights, models, cohort), max(flights[client].until for client in through)

        total, staleness = self.aggregator.zero(), Mean(0.0, 0.0)
        for client, reply in replies:
            late = cohort.round - flights[client].version
            total = self.aggregator.add(total, replace(reply, value=tree.scale(reply.value, (1 + late) ** -0.5)))
            staleness = staleness.merge(Mean(late, 1.0))
        change = self.aggregator.finish(total)

        model, optimizer = state.model, state.optimizer
        if change.clients:
            model, optimizer = self.server.step(model, change.value, optimizer, cohort.round)
        at_work = cohort.only(list(flights)).at_work if measured else flights.keys() - set(through)
        left = {client: flight for client, flight in flights.items() if client in at_work}
        needed = {str(flight.version): models[str(flight.version)] for flight in left.values()}
        metrics = change.metrics | {"staleness": staleness} | ({} if measured else {"clock": Mean(clock, 1.0)})
        return BufferedState(model, optimizer, clock, left, needed), metrics

    def _computed(
        self, through: Sequence[str], flights: Flights, models: Mapping[str, ModelState], cohort: Cohort
    ) -> Iterator[tuple[str, Reply]]:
        """The replies of those who are through in virtual time."""
        for group, model in _by_version(through, flights, models, cohort):
            with suppress(RoundFailed):  # clients that are gone give their places to others
                yield from group.map(self.local, shared=model)

    def _arriving(self, flights: Flights, models: Mapping[str, ModelState], cohort: Cohort) -> Iterator[tuple[str, Reply]]:
        """The replies that arrive first. Who should be at work and is not begins before: who is new, and after a resume all."""
        working = cohort.only(list(flights))
        at_work = working.at_work
        idle = [client for client, flight in flights.items() if at_work.get(client) != flight.version]
        for group, model in _by_version(idle, flights, models, cohort):
            group.begin(self.local, shared=model)
        return working.arrivals(self.buffer)

    def _begin(self, state: BufferedState, cohort: Cohort) -> dict[str, Flight]:
        """Clients of the cohort that are not at work, as many as there are places."""
        idle = [client for client in cohort.clients if client not in state.flights]
        places = max(0, len(cohort.clients) - len(state.flights))
        chosen = rng(self.seed, "begin", cohort.round).permutation(len(idle))[:places]
        begin = [idle[i] for i in sorted(chosen.tolist())]
        if self.durations == "examples":
            asked = cohort.only(begin).map(CountExamples(), shared={})
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
            case "measured":
                return 0.0
        return 1.0


def _by_version(
    clients: Sequence[str], flights: Flights, models: Mapping[str, ModelState], cohort: Cohort
) -> Iterator[tuple[Cohort, ModelState]]:
    """The clients as cohorts of the rounds in which they began, with the models of these."""
    for version in sorted({flights[client].version for client in clients}):
        group = [client for client in flights if client in clients and flights[client].version == version]
        yield cohort.only(group, round=version), models[str(version)]
