"""Clients that work at their own pace: begun in one round, and through in this one or a later one."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedml_api.distributed.parcel import objection
from fedml_core import tree
from fedml_core.communication.com_manager import GONE
from fedml_core.errors import CommunicationError, RoundFailed
from fedml_core.federation import Reply, Task
from fedml_core.tree import Tree
from fedml_core.worker import Outcome

if TYPE_CHECKING:
    from fedml_api.distributed.server import Member, RemoteSession

log = logging.getLogger("fedml")


@dataclass(eq=False)
class Begun:
    """What a client is at work on; `member` is the worker that carries it out, until `end`, or None while it waits for one."""

    client: str
    round: int
    map: int
    task: Task
    shared: Tree
    member: Member | None = None
    end: float = math.inf


class Ongoing:
    """Work that is under way from round to round, beside what a round waits for.

    A client waits until a worker that can carry it out is free, and is handed out alone. It is forgotten when its worker is gone or
    fails, when there is none that could carry it out, and when there is no answer within `patience.deadline`. Without a
    `patience.minimum`, where none may be missing, a failure ends the run; a worker that is gone does not, while there are others.
    The server's own process carries nobody out: replies would have to wait for it.

    Attributes:
        begun: what clients are at work on, until their replies are handed on; `done`: the replies that have arrived, in this order;
            `lost`: the clients that were forgotten, and have not begun again.
    """

    def __init__(self, session: RemoteSession) -> None:
        self.session, self.server = session, session.server
        self.inquiry = session.server.mailbox.inquire()
        self.begun: dict[str, Begun] = {}
        self.done: dict[str, Reply] = {}
        self.lost: set[str] = set()

    def begin(self, clients: Sequence[str], round: int, task: Task, shared: Tree) -> None:
        """Set these clients to work, each as soon as a worker is free."""
        map = self.server.next_map()
        for client in clients:
            self.done.pop(client, None)
            self.lost.discard(client)
            self.begun[client] = Begun(client, round, map, task, shared)
        self._attend_all()

    def arrivals(self, clients: Sequence[str], count: int, name: str) -> Iterator[tuple[str, Reply]]:
        """As `Cohort.arrivals`, of these clients, in the round of this name."""
        minimum = self.server.patience.minimum
        need, handed, ours = max(1, min(minimum or 1, count)), 0, set(clients)
        self._attend_all()
        while True:
            ready = [client for client in self.done if client in ours]
            if handed or len(ready) >= need:
                for client in ready[: count - handed]:
                    handed += 1
                    yield client, self._hand_on(client)
            if handed == count or not ours & (self.begun.keys() - self.done.keys()):
                break
            self._attend()
        if not handed:
            problem = f"{name}: {len(ready)} clients replied, at least {need} must: no worker is left, or none answers in time"
            raise CommunicationError(problem) if minimum is None else RoundFailed(problem)

    def _hand_on(self, client: str) -> Reply:
        del self.begun[client]
        reply = self.done.pop(client)
        if reply.state is not None:
            self.session.states[client] = reply.state
        return reply

    def _attend_all(self) -> None:
        """See to what has arrived, and hand out what can be."""
        while self._attend(0):
            pass

    def _attend(self, timeout: float | None = None) -> bool:
        """See to the next message, or to the next one that does not come in time; whether there was a message."""
        ends = [question.about.end for question in self.inquiry.waiting.values()]
        left = min(ends, default=math.inf) - time.monotonic()
        outcomes = self.inquiry.attend(timeout if timeout is not None or left == math.inf else max(left, 0.0))
        for outcome in outcomes or ():
            self._settle(outcome)
        for id, question in list(self.inquiry.waiting.items()):
            one = question.about
            if self.server.members.get(one.member.name) is not one.member:
                self.inquiry.withdraw(id)
                self._lose(one, "it is gone, or has joined anew")
            elif outcomes is None and one.end <= time.monotonic():  # and its answer is not among what has arrived
                self.inquiry.withdraw(id)
                self._lose(one, "no answer in time")
        self._hand_out()
        return outcomes is not None

    def _settle(self, outcome: Outcome) -> None:
        one: Begun = outcome.question.about
        payload = outcome.message.payload
        problem = outcome.reason or objection(payload, [one.client], one.task, one.shared, None)
        if problem:
            self._lose(one, problem, fatal=outcome.message.type != GONE and self.server.patience.minimum is None)
        elif self.begun.get(one.client) is one and one.member is not None:
            self.done[one.client] = tree.to(one.member.without_states(payload), self.session.device)["replies"][one.client]

    def _lose(self, one: Begun, problem: str, fatal: bool = False) -> None:
        """Forget what a client was at work on, unless it has begun something else since."""
        text = f"round {one.round + 1}: client {one.client} at {one.member.name if one.member else 'no worker'}: {problem}"
        if fatal:
            raise CommunicationError(text)
        if self.begun.get(one.client) is one:
            log.warning(text)
            del self.begun[one.client]
            self.lost.add(one.client)

    def _hand_out(self) -> None:
        """Give every worker that has nothing to do the next client that it can carry out."""
        busy = {question.about.member for question in self.inquiry.waiting.values()}
        for one in [one for one in self.begun.values() if one.member is None]:
            able = [member for member in self.server.members.values() if member.can([one.client])]
            free = [member for member in able if member not in busy]
            if not able:
                self._lose(one, "nobody can carry it out")
            elif free:
                deadline = self.server.patience.deadline
                one.member, one.end = free[0], math.inf if deadline is None else time.monotonic() + deadline
                work = free[0].work(one.map, one.task, one.shared, [one.client], {}, self.session.states)
                self.inquiry.ask("work", free[0].name, work, one.round, about=one, wait=False)
                busy.add(free[0])
