"""The standalone engine: clients are carried out in this process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from fedml_core.federation import ClientRunner, ClientValues, Cohort, Engine, Reply, Session, Setup, Task, engines
from fedml_core.settings import settings
from fedml_core.tree import Tree


@engines.register("standalone")
@settings
class Standalone(Engine):
    """All clients in this process, one after the other: the reference that every other engine has to match."""

    @contextmanager
    def open(self, setup: Setup) -> Iterator[Session]:
        yield SequentialSession(setup)


class SequentialSession(Session):
    """Clients take turns in one workspace. Their data is a view of the shared columns, their private state stays here."""

    def __init__(self, setup: Setup) -> None:
        self.runner = ClientRunner(setup)
        self.states: dict[str, Tree] = {}

    def population(self) -> Sequence[str]:
        return self.runner.setup.data.client_ids

    def cohort(self, round: int, clients: Sequence[str]) -> Cohort:
        return SequentialCohort(self, round, clients)

    def save(self) -> Tree:
        return self.states

    def restore(self, saved: Tree) -> None:
        self.states = dict(saved)


class SequentialCohort(Cohort):
    def __init__(self, session: SequentialSession, round: int, clients: Sequence[str]) -> None:
        self.session, self.round, self.clients = session, round, clients

    def map(self, task: Task, shared: Tree, own: Mapping[str, Tree] | None = None) -> ClientValues:
        return SequentialValues(self, task, shared, own or {})


class SequentialValues(ClientValues):
    def __init__(self, cohort: SequentialCohort, task: Task, shared: Tree, own: Mapping[str, Tree]) -> None:
        self.cohort, self.task, self.shared, self.own = cohort, task, shared, own

    def __iter__(self) -> Iterator[tuple[str, Reply]]:
        self.ask_once()
        session = self.cohort.session
        for id in self.cohort.clients:
            state = session.states.get(id)
            reply = session.runner(id, self.cohort.round, self.task, self.shared, self.own.get(id), state)
            if reply.state is not None:
                session.states[id] = reply.state
            yield id, reply
