"""The server's side of a distributed run: hands clients to workers and takes their replies.

The conversation, over any ComManager (`->` server to worker, `<-` worker to server):

    <- join      {protocol, config, hosts}        once, and again after either side was restarted
    -> welcome   {config}                         or: refused {reason}
    -> work      {map, task, shared, clients, own, states, fold, talk}
    .. letter, left, hush, report                 while clients talk with each other or the server, see `talking.py`
    <- done      {replies: {client: Reply}}       or {folded: accumulator} if `fold` named an aggregator; answers the work's id
    <- error     {reason}                         the work could not be done
    -> finish    {}                               the run is over

`shared` is sent with the first work of a map that a worker gets; later ones of the same map refer to it by `map`. A worker `hosts`
either certain clients, which it names with their numbers of examples (a device: itself), or any (a rank of a simulation). In the
second case the private states of clients travel with the work, since the next round may hand the client to another worker; in
the first they never leave the device.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from fedml_api.distributed.ongoing import Ongoing
from fedml_api.distributed.parcel import carry_out, objection
from fedml_api.distributed.talking import RemoteConversation
from fedml_core import tree
from fedml_core.communication.com_manager import GONE, ComManager
from fedml_core.communication.message import Message
from fedml_core.errors import CommunicationError, RoundFailed
from fedml_core.federation import (
    Aggregator,
    Client,
    ClientRunner,
    ClientValues,
    Cohort,
    Conversation,
    Dialogue,
    Folded,
    Reply,
    Session,
    Setup,
    Spoken,
    Task,
    describe,
)
from fedml_core.tree import Tree
from fedml_core.worker import Inquiry, Mailbox, Worker
from fedml_core.worker.worker import ERROR

log = logging.getLogger("fedml")
PROTOCOL = 2
# Work handed to a worker beyond what it is doing, so that it need not wait for the server between two clients.
AHEAD = 1


@dataclass(frozen=True)
class Patience:
    """How long a round waits, and for how many.

    Attributes:
        goal: replies after which the round ends (None: all that were asked).
        minimum: fewer replies make the round fail; None: none may be missing, and the first failure ends the run.
        deadline: seconds after which no more replies are waited for (None: for ever).
    """

    goal: int | None = None
    minimum: int | None = None
    deadline: float | None = None


@dataclass(eq=False)
class Member:
    """A worker that has joined: the clients it hosts (None: any), and the map whose `shared` it has."""

    name: str
    hosts: dict[str, int] | None
    map: int = -1

    def can(self, clients: Sequence[str]) -> bool:
        """Whether it can carry these clients out."""
        return self.hosts is None or all(client in self.hosts for client in clients)

    def work(
        self,
        map: int,
        task: Task,
        shared: Tree,
        clients: Sequence[str],
        own: Mapping[str, Tree],
        states: Mapping[str, Tree],
        aggregator: Aggregator | None = None,
    ) -> dict[str, Tree]:
        """The payload by which this member, and no other, is asked next to carry these clients out."""
        payload: dict[str, Tree] = {
            "map": map,
            "task": describe(task),
            "shared": shared if self.map != map else None,
            "clients": list(clients),
            "own": {client: own[client] for client in clients if client in own},
            "states": {client: states[client] for client in clients if client in states and self.hosts is None},
            "fold": None if aggregator is None else describe(aggregator),
            "talk": None,
        }
        self.map = map
        return payload

    def without_states(self, answer: dict[str, Any]) -> dict[str, Any]:
        """A sound answer of this member, less private states that are to stay with it: it may have sent some."""
        if self.hosts is None:
            return answer
        if "folded" in answer:
            return answer | {"states": {}}
        return {"replies": {client: replace(reply, state=None) for client, reply in answer["replies"].items()}}


class ServerManager:
    """Who has joined, and what they are doing.

    Args:
        run: the run that workers join; `config`: hash of the configuration that a worker must have, if it has one.
        welcome: what a worker is told that joins.
        own_clients: whether every worker must name clients of its own, as devices do, and is asked for no others.
    """

    def __init__(
        self,
        com: ComManager,
        run: str,
        config: str,
        patience: Patience = Patience(),
        own_clients: bool = False,
    ) -> None:
        self.worker, self.config, self.patience = Worker(com, run), config, patience
        self.own_clients = own_clients
        self.welcome: Tree = None
        self.mailbox = Mailbox(self.worker)
        self.worker.register_message_handler("join", self._join)
        self.worker.register_message_handler(GONE, self._gone)
        self.worker.register_message_handler("letter", self._letter)
        for answer in ("done", ERROR):
            self.worker.register_message_handler(answer, self._unasked)
        self.members: dict[str, Member] = {}
        self.conversations: dict[str, RemoteConversation] = {}
        self.maps = 0

    def wait_for(self, workers: int, timeout: float | None = None) -> None:
        """Return when so many workers have joined.

        Raises:
            CommunicationError: they have not, `timeout` seconds later.
        """
        end = None if timeout is None else time.monotonic() + timeout
        while len(self.members) < workers:
            left = None if end is None else max(end - time.monotonic(), 0.0)
            if not self.attend(left):
                raise CommunicationError(
                    f"{len(self.members)} of {workers} workers joined within {timeout} s: start the others, or ask for fewer"
                )

    def attend(self, timeout: float | None = None) -> bool:
        """See to the next message; whether one came within `timeout` seconds."""
        message = self.worker.next(timeout)
        if message is not None:
            self.mailbox.handle(message)
        return message is not None

    def attend_all(self) -> None:
        """See to what has arrived."""
        while self.attend(0):
            pass

    def _gone(self, message: Message) -> None:
        if self.members.pop(message.sender, None) is not None:
            log.warning("%s is gone", message.sender)

    def _letter(self, message: Message) -> None:
        match message.payload:
            case {"talk": str(id)} if id in self.conversations:
                self.conversations[id].receive(message)

    def _unasked(self, message: Message) -> None:
        log.info("%s answers what this server has not asked it", message.sender)

    def _join(self, message: Message) -> None:
        rivals = [member for name, member in self.members.items() if name != message.sender]
        reason = self._objection(message.payload, rivals)
        if reason is not None:
            log.warning("refused %s: %s", message.sender, reason)
            self.worker.reply(message, {"reason": reason}, "refused")
            return
        self.members[message.sender] = Member(message.sender, message.payload["hosts"])
        log.info("%s joined; %d present", message.sender, len(self.members))
        self.worker.reply(message, {"config": self.welcome}, "welcome")

    def _objection(self, about: Any, rivals: list[Member]) -> str | None:
        """Why a worker that says this about itself cannot join, and what to do about it."""
        match about:
            case {"protocol": int(protocol), "config": str() | None as config, "hosts": hosts} if _are_hosts(hosts):
                if protocol != PROTOCOL:
                    return f"it speaks protocol {protocol}, the server {PROTOCOL}: install the same version of fedml on both"
                if config is not None and config != self.config:
                    return f"its configuration is {config[:12]}, the server's {self.config[:12]}: start both with the same one"
                if self.own_clients and not hosts:
                    return "it names no client of its own, as every device must: start it with `fedml join` and a folder of data"
                taken = [client for client in hosts or () if any(client in (other.hosts or ()) for other in rivals)]
                return f"client {taken[0]} is here already, at another worker: give each device its own name" if taken else None
        return "its join message is not one of this protocol: install the same version of fedml on both"

    def next_map(self) -> int:
        """The number of the next map."""
        self.maps += 1
        return self.maps

    def finish(self) -> None:
        """Tell everybody that the run is over."""
        for name in self.members:
            self.worker.send("finish", name, {})
        self.members.clear()


def _are_hosts(hosts: Any) -> bool:
    """Whether these are clients with their numbers of examples, or None."""
    return hosts is None or (isinstance(hosts, dict) and all(type(size) is int and size >= 0 for size in hosts.values()))


class RemoteSession(Session):
    """An engine at work through workers.

    Args:
        clients: all clients, by their number of examples; the largest are handed out first.
        runner: carries out clients in the server's own process, beside the workers; None if the server only serves.
        fold_on_workers: fold on each worker and send one accumulator, where the exact order of additions does not matter.
        device: where what workers send is to lie.
        setup: with which the server computes, where an algorithm has it do so.
    """

    def __init__(
        self,
        server: ServerManager,
        clients: Mapping[str, int],
        runner: ClientRunner | None = None,
        fold_on_workers: bool = False,
        device: torch.device = torch.device("cpu"),  # noqa: B008  (a value)
        setup: Setup | None = None,
    ) -> None:
        self.setup = setup
        self.server, self.clients, self.runner, self.fold_on_workers = server, clients, runner, fold_on_workers
        self.device = device
        self.states: dict[str, Tree] = {}
        self.ongoing = Ongoing(self)

    @cached_property
    def own_place(self) -> ClientRunner:
        """Where the server computes, once an algorithm has it do so."""
        assert self.setup is not None
        return ClientRunner(self.setup)

    def population(self) -> Sequence[str]:
        return list(self.clients)

    def cohort(self, round: int, clients: Sequence[str]) -> Cohort:
        return RemoteCohort(self, round, clients)

    def save(self) -> Iterable[tuple[str, Tree]]:
        return self.states.items()

    def restore(self, saved: Iterable[tuple[str, Tree]]) -> None:
        self.states = dict(saved)


class RemoteCohort(Cohort):
    """Clients of workers; `whole` is the cohort that this is a part of, which hears who is missing."""

    def __init__(self, session: RemoteSession, round: int, clients: Sequence[str], whole: RemoteCohort | None = None) -> None:
        self.session, self.round, self.clients, self.whole = session, round, clients, whole
        self.population = len(session.clients)

    def only(self, clients: Sequence[str], round: int | None = None) -> Cohort:
        return RemoteCohort(self.session, self.round if round is None else round, clients, self)

    def miss(self, clients: Sequence[str]) -> None:
        """Note who did not reply."""
        self.missing = clients
        if self.whole is not None:
            self.whole.miss([client for client in self.whole.clients if client in {*self.whole.missing, *clients}])

    @property
    def server(self) -> Client:  # type: ignore[override]
        return self.session.own_place.server(self.round)

    def converse(self, task: Dialogue, shared: Tree, own: Mapping[str, Tree] | None = None) -> Conversation:
        return RemoteConversation(self, task, shared, own or {})

    def map(self, task: Task, shared: Tree, own: Mapping[str, Tree] | None = None) -> ClientValues:
        if isinstance(task, Dialogue):
            return Spoken(self, task, shared, own)
        return RemoteValues(self, task, shared, own or {})

    @property
    def at_work(self) -> Mapping[str, int]:
        begun = self.session.ongoing.begun
        return {client: begun[client].round for client in self.clients if client in begun}

    def begin(self, task: Task, shared: Tree) -> None:
        self.session.ongoing.begin(self.clients, self.round, task, shared)

    def arrivals(self, count: int) -> Iterator[tuple[str, Reply]]:
        ongoing = self.session.ongoing
        yield from ongoing.arrivals(self.clients, count, f"round {self.round + 1}")
        self.miss([client for client in self.clients if client in ongoing.lost])
        ongoing.lost.difference_update(self.clients)


class RemoteValues(ClientValues):
    """Replies as workers send them, handed on in the order of the cohort so that folding them gives the reference's bits."""

    def __init__(self, cohort: RemoteCohort, task: Task, shared: Tree, own: Mapping[str, Tree]) -> None:
        self.cohort, self.task, self.shared, self.own = cohort, task, shared, own
        self.session, self.server = cohort.session, cohort.session.server

    def __iter__(self) -> Iterator[tuple[str, Reply]]:
        waiting = deque(self.cohort.clients)
        arrived: dict[str, Reply] = {}
        for _, payload in self._ask([[client] for client in self.cohort.clients], None):
            arrived |= payload["replies"]
            while waiting and waiting[0] in arrived:
                client = waiting.popleft()
                yield client, self._keep(client, arrived.pop(client))
        for client in waiting:
            if client in arrived:
                yield client, self._keep(client, arrived.pop(client))

    def fold(self, aggregator: Aggregator) -> Folded:
        if not self.session.fold_on_workers:
            return super().fold(aggregator)
        folded = dict(self._ask(self._shares(), aggregator))
        total = aggregator.zero()
        for i in sorted(folded):
            self.session.states |= folded[i]["states"]
            total = aggregator.merge(total, folded[i]["folded"])
        return aggregator.finish(total)

    def _keep(self, client: str, reply: Reply) -> Reply:
        if reply.state is not None:
            self.session.states[client] = reply.state
        return reply

    def _size(self, clients: Sequence[str]) -> int:
        # A client that an algorithm asks for may have left since the population was looked at.
        return sum(self.session.clients.get(client, 0) for client in clients)

    @property
    def _places(self) -> int:
        """How many parcels can be carried out at a time."""
        return len(self.server.members) + (self.session.runner is not None)

    def _shares(self) -> list[list[str]]:
        """The cohort dealt to as many places as there are: the largest client first, each to the place with the least to do.

        Deterministic, so that the additions in each place, and hence the bits, are the same in every run with so many places.
        """
        shares: list[list[str]] = [[] for _ in range(self._places)]
        for client in sorted(self.cohort.clients, key=lambda client: -self.session.clients[client]):
            min(shares, key=self._size).append(client)
        order = {client: i for i, client in enumerate(self.cohort.clients)}
        return [sorted(share, key=order.__getitem__) for share in shares if share]

    def _ask(self, parcels: list[list[str]], aggregator: Aggregator | None) -> Iterator[tuple[int, dict[str, Any]]]:
        """Have the parcels carried out, the largest first, and yield (number of the parcel, answer) as they are done."""
        self.ask_once()
        server, patience, name = self.server, self.server.patience, f"round {self.cohort.round + 1}"
        queue = deque(sorted(range(len(parcels)), key=lambda i: -self._size(parcels[i])))
        goal = min(patience.goal or len(parcels), len(parcels))
        minimum = goal if patience.minimum is None else min(patience.minimum, len(parcels))
        present = set(server.members)
        answers = 0
        failed: list[int] = []
        map = server.next_map()
        with closing(server.mailbox.inquire(patience.deadline)) as inquiry:
            while answers < goal and (queue or inquiry.waiting):
                self._hand_out(map, queue, parcels, aggregator, inquiry)
                here = self.session.runner is not None and queue
                outcomes = inquiry.attend(0 if here else None)
                if outcomes is None and here:
                    parcel = queue.popleft()
                    answers += 1
                    yield parcel, self._here(parcels[parcel], aggregator)
                elif outcomes is None:
                    break
                for outcome in outcomes or ():
                    parcel, member = outcome.question.about
                    problem = outcome.reason or objection(
                        outcome.message.payload, parcels[parcel], self.task, self.shared, aggregator
                    )
                    if not problem:
                        answers += 1
                        yield parcel, tree.to(member.without_states(outcome.message.payload), self.session.device)
                        continue
                    failed.append(parcel)
                    problem = f"{name}: {outcome.question.worker} failed: {problem}"
                    if patience.minimum is None:
                        raise CommunicationError(problem)
                    log.warning(problem)
                if patience.minimum is None and (gone := present - set(server.members)):
                    raise CommunicationError(f"{name}: {min(gone)} is gone")
            pending = {question.about[0] for question in inquiry.waiting.values()}
        self.cohort.miss([client for i in sorted({*queue, *pending, *failed}) for client in parcels[i]])
        if answers < minimum:
            raise RoundFailed(
                f"{name}: {answers} of {len(parcels)} clients replied, at least {minimum} are needed; lower the minimum, raise the "
                "deadline, or see why the others are silent"
            )

    def _here(self, clients: list[str], aggregator: Aggregator | None) -> dict[str, Any]:
        """Carry a parcel out in the server's own process."""
        session = self.session
        assert session.runner is not None
        return carry_out(session.runner, self.cohort.round, self.task, self.shared, clients, self.own, session.states, aggregator)

    def _hand_out(
        self, map: int, queue: deque[int], parcels: list[list[str]], aggregator: Aggregator | None, inquiry: Inquiry
    ) -> None:
        """Give every worker that has too little to do the next parcel that it can carry out."""
        # By member, not by name: a worker that joins anew has forgotten what it was handed.
        busy = Counter(question.about[1] for question in inquiry.waiting.values())
        for parcel in list(queue):
            clients = parcels[parcel]
            ahead = AHEAD if aggregator is None and len(queue) > self._places else 0
            able = [member for member in self.server.members.values() if busy[member] <= ahead and member.can(clients)]
            if able:
                member = min(able, key=busy.__getitem__)
                work = member.work(map, self.task, self.shared, clients, self.own, self.session.states, aggregator)
                # The model of a round is never written into, and this process may have a client of its own to train.
                inquiry.ask("work", member.name, work, self.cohort.round, about=(parcel, member), wait=False)
                busy[member] += 1
                queue.remove(parcel)
