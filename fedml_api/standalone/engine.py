"""The standalone engine: clients are carried out on this machine."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Annotated, Literal

from msgspec import Meta

from fedml_api.standalone.auto import Choice, choose
from fedml_api.standalone.executor import Executor, Work, log
from fedml_api.standalone.state_store import StateStore
from fedml_core import tree
from fedml_core.errors import FedMLError
from fedml_core.federation import (
    SERVER,
    Aggregator,
    Client,
    ClientRunner,
    ClientValues,
    Cohort,
    Conversation,
    Dialogue,
    Engine,
    Folded,
    Gathered,
    Gossip,
    LocalUpdate,
    Reply,
    Session,
    Setup,
    Spoken,
    Talks,
    Task,
    engines,
)
from fedml_core.settings import settings
from fedml_core.tree import Tree


@engines.register("standalone")
@settings
class Standalone(Engine):
    """All clients on this machine.

    Args:
        executor: `sequential`: one client after the other, the reference that every other engine matches bit for bit; `traced`: the
            same with the training step as straight-line code; `stacked`: many clients as one computation; `auto`: what suits the
            model, see docs/performance.md. They differ by rounding.
        block: clients per stack; chosen by the size of the model if not given.
        processes: worker processes, each with one thread; chosen by the amount of work if not given, 1 for none.
        state_memory: megabytes of memory for the private states of clients, where an algorithm leaves any; what is beyond them lies
            in a temporary file (in the folder TMPDIR, or /var/tmp).
    """

    executor: Literal["auto", "sequential", "traced", "stacked"] = "auto"
    block: Annotated[int, Meta(ge=1)] | None = None
    processes: Annotated[int, Meta(ge=1)] | None = None
    state_memory: Annotated[int, Meta(ge=0)] = 1024

    @contextmanager
    def open(self, setup: Setup) -> Iterator[Session]:
        states = StateStore(self.state_memory << 20, setup.device)
        session = StandaloneSession(setup, lambda work: choose(setup, work, self.executor, self.block, self.processes), states)
        try:
            yield session
        finally:
            session.close()


class StandaloneSession(Session):
    """Clients' data is a view of the shared columns, their private state stays here.

    Local updates and other tasks have an executor each, chosen at the first of their kind: what suits the one says nothing about
    the other, and which of them comes first must not matter.
    """

    def __init__(self, setup: Setup, choose: Callable[[Work], Choice], states: StateStore) -> None:
        self.setup, self._choose, self.states = setup, choose, states
        self._executors: dict[bool, Executor] = {}
        self._empty: set[str] = set()

    def executor(self, work: Work) -> Executor:
        """What carries this work out."""
        trains = isinstance(work.inside().task, LocalUpdate)
        if trains not in self._executors:
            choice = self._choose(work)
            log.info("executor of %s: %s", type(work.task).__name__, choice)
            if trains or not self.how:
                self.how = str(choice)
            self._executors[trains] = choice.start(self.setup)
        if new := {id for id in work.clients if id not in self._empty and not self.setup.size(id)}:
            self._empty |= new
            log.warning("without training examples, and hence without weight: client %s", ", ".join(sorted(new)))
        return self._executors[trains]

    @cached_property
    def own_place(self) -> ClientRunner:
        """Where the server computes, once an algorithm has it do so."""
        return ClientRunner(self.setup)

    def population(self) -> Sequence[str]:
        return self.setup.data.client_ids

    def cohort(self, round: int, clients: Sequence[str]) -> Cohort:
        return StandaloneCohort(self, round, clients)

    def save(self) -> Iterable[tuple[str, Tree]]:
        return self.states.items()

    def restore(self, saved: Iterable[tuple[str, Tree]]) -> None:
        self.states.clear()
        self.states.update(saved)

    def close(self) -> None:
        # The last first: worker processes that were forked later hold the lines of those before them.
        for executor in reversed(self._executors.values()):
            executor.close()
        self.states.close()


class StandaloneCohort(Cohort):
    def __init__(self, session: StandaloneSession, round: int, clients: Sequence[str]) -> None:
        self.session, self.round, self.clients = session, round, clients
        self.population = len(session.population())

    def only(self, clients: Sequence[str], round: int | None = None) -> Cohort:
        return self.session.cohort(self.round if round is None else round, clients)

    @property
    def server(self) -> Client:  # type: ignore[override]
        return self.session.own_place.server(self.round)

    def converse(self, task: Dialogue, shared: Tree, own: Mapping[str, Tree] | None = None) -> Conversation:
        return StandaloneConversation(self, task, shared, own or {})

    def map(self, task: Task, shared: Tree, own: Mapping[str, Tree] | None = None) -> ClientValues:
        if isinstance(task, Dialogue):
            return Gossiped(self, task, shared, own) if isinstance(task, Gossip) else Spoken(self, task, shared, own)
        return StandaloneValues(self.session, Work(self.round, task, shared, self.clients, own or {}, self.session.states))


class StandaloneValues(ClientValues):
    def __init__(self, session: StandaloneSession, work: Work) -> None:
        self.session, self.work = session, work

    def __iter__(self) -> Iterator[tuple[str, Reply]]:
        self.ask_once()
        for id, reply in self.session.executor(self.work).replies(self.work):
            if reply.state is not None:
                self.session.states[id] = reply.state
            yield id, reply

    def fold(self, aggregator: Aggregator) -> Folded:
        self.ask_once()
        total, states = self.session.executor(self.work).fold(self.work, aggregator)
        self.session.states.update(states)
        return aggregator.finish(total)


class Gossiped(Spoken):
    """The replies of clients who gossip; unless the bits are to be those of their dialogues, all train first, and then all mix."""

    cohort: StandaloneCohort
    task: Gossip

    def __iter__(self) -> Iterator[tuple[str, Reply]]:
        session, own, clients = self.cohort.session, self.own or {}, self.cohort.clients
        nodes = {id: self.task.node(session.states.get(id), own[id]) for id in clients}
        begins = {id: self.task.begins(node) for id, node in nodes.items()}
        work = Work(self.cohort.round, self.task.training, begins[clients[0]].model, clients, {}, begins)
        executor = session.executor(work)
        if executor.exact:
            yield from super().__iter__()
            return
        self.ask_once()
        for id, reply in self.task.together(nodes, dict(executor.replies(work)), own):
            session.states[id] = reply.state
            yield id, reply


class StandaloneConversation(Conversation):
    """All dialogues of a cohort in this process, each as far as it gets by itself."""

    def __init__(self, cohort: StandaloneCohort, task: Dialogue, shared: Tree, own: Mapping[str, Tree]) -> None:
        self.clients, self.lost = cohort.clients, ()
        self.session = cohort.session
        self.letters: dict[str, deque[Tree]] = defaultdict(deque)
        self.talks = Talks(self._outside)
        runner = ClientRunner(self.session.setup)
        for id in cohort.clients:
            self.talks.begin(*runner.talk(id, cohort.round, task, shared, own.get(id), self.session.states.get(id)))

    def _outside(self, sender: str, recipient: str, letter: Tree) -> None:
        if recipient != SERVER:
            raise FedMLError(f"client {sender} writes to {recipient}, who does not take part in the conversation")
        self.letters[sender].append(letter)

    def _run(self, silent: Callable[[str], bool]) -> None:
        """Go on until everyone waits, or is through; nobody may be left waiting who is `silent`."""
        self.talks.run()
        for error in self.talks.failed.values():
            raise error
        waiting = self.talks.waiting()
        if stuck := [id for id in waiting if silent(id)]:
            others = "; ".join(f"client {id} waits for {' and '.join(parties)}" for id, parties in waiting.items())
            raise FedMLError(f"nobody can go on: the server waits for client {stuck[0]}; {others}")

    def hear(self, *clients: str) -> dict[str, Tree]:
        wanted = [id for id in self.clients if not clients or id in clients]
        self._run(lambda id: id in wanted and not self.letters[id])
        return {id: self.letters[id].popleft() for id in wanted if self.letters[id]}

    def say(self, letters: Mapping[str, Tree]) -> None:
        for id, letter in letters.items():
            self.talks.deliver(SERVER, id, tree.compact(letter))

    def replies(self) -> ClientValues:
        self._run(lambda id: True)
        replies = {id: self.talks.replies[id] for id in self.clients}
        self.session.states.update((id, reply.state) for id, reply in replies.items() if reply.state is not None)
        return Gathered(replies)

    def __exit__(self, *_: object) -> None:
        self.letters.clear()
