"""The standalone engine: clients are carried out in this process."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from fedml_core.federation import Client, ClientValues, Cohort, Engine, Reply, Session, Setup, Task, Workspace, engines
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
        self.setup = setup
        self.workspace = Workspace(copy.deepcopy(setup.module).to(setup.device))
        self.states: dict[str, Tree] = {}

    def cohort(self, round: int, clients: Sequence[str]) -> Cohort:
        return SequentialCohort(self, round, clients)

    def carry_out(self, id: str, round: int, task: Task, shared: Tree, own: Tree) -> Reply:
        """One client's reply to one task; its new private state, if any, is kept."""
        setup = self.setup
        train, test = setup.data.train(id), setup.data.test(id)
        client = Client(id, round, setup.seed, train, test, setup.trainer, self.workspace, self.states.get(id))
        reply = task(client, shared, own)
        if reply.state is not None:
            self.states[id] = reply.state
        return reply

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
        self.asked = False

    def __iter__(self) -> Iterator[tuple[str, Reply]]:
        if self.asked:
            raise RuntimeError("the values of a map can be asked for once; keep the result of fold() or gather()")
        self.asked = True
        session, round = self.cohort.session, self.cohort.round
        for id in self.cohort.clients:
            yield id, session.carry_out(id, round, self.task, self.shared, self.own.get(id))
