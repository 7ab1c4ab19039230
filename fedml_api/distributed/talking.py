"""Conversations whose clients are carried out by workers (see `server.py` for all other messages).

    -> work    with `talk` {id, places}                 begin the dialogues of these clients; `places`: everyone's worker
    <> letter  {talk, from, to, letter}                 between the workers of two clients, or a worker and the server
    <- letter  {talk, from, to, wrote}                  the client is through, and wrote so many letters to whom
    -> left    {talk, who}                              clients that are through, with what they wrote, or None if they are lost
    -> hush    {talk}                                   the conversation is over; there is no answer to the work
    -> report  {talk}                                   answered by a letter {talk, waits}: for whom which client waits
    <- done, error                                      answer the work when the last of its dialogues is through, or one fails

Letters between clients go from worker to worker; messages of one sender arrive in the order in which they were sent.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from fedml_api.distributed.parcel import objection
from fedml_core import tree
from fedml_core.communication.com_manager import ComManager
from fedml_core.communication.message import SERVER, Message, new_id
from fedml_core.errors import CommunicationError, FedMLError, RoundFailed, Unsendable
from fedml_core.federation import ClientRunner, ClientValues, Conversation, Dialogue, Gathered, Reply, Talks, Task, restore
from fedml_core.tree import Tree
from fedml_core.worker import Outcome
from fedml_core.worker.worker import ERROR, Memory

if TYPE_CHECKING:
    from fedml_api.distributed.server import RemoteCohort

log = logging.getLogger("fedml")
# Seconds without a message, after which the others are told who is through: rarely does anybody wait for one who is.
QUIET = 0.2
# Conversations of which letters are kept that come before the work does, and letters of each, by sender.
EARLY, EARLY_LETTERS = 8, 100
# Letters of a client that the server has not read.
UNREAD = 1000
# Seconds in which a worker says for whom its clients wait; who is computing for longer counts as silent.
REPORT = 5.0


@contextmanager
def _unless_gone(place: str) -> Iterator[None]:
    """Send to somebody who may be gone, which is noticed elsewhere; what nobody could be sent is an error."""
    try:
        yield
    except Unsendable:
        raise
    except CommunicationError:
        log.debug("%s cannot be reached, and will be found to be gone", place)


class RemoteConversation(Conversation):
    """The server's side. A client stays at its worker until it is through; who has no other place is carried out here."""

    def __init__(self, cohort: RemoteCohort, task: Dialogue, shared: Tree, own: Mapping[str, Tree]) -> None:
        self.cohort, self.task, self.shared, self.own = cohort, task, shared, own
        self.session, self.server, self.clients = cohort.session, cohort.session.server, cohort.clients
        self.id, self.name = new_id(), f"round {cohort.round + 1}"
        self.lost: list[str] = []
        self.letters: dict[str, deque[Tree]] = defaultdict(deque)
        self._unread: deque[tuple[str, Tree]] = deque()
        self.through: dict[str, Mapping[str, int]] = {}
        self.arrived: dict[str, Reply] = {}
        self._announced: set[str] = set()
        self._waits: dict[str, list[str]] = {}
        self._here = Talks(self._outside)
        self.places = self._deal()
        self.inquiry = self.server.mailbox.inquire()
        self.server.conversations[self.id] = self
        try:
            self._begin()
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def _deal(self) -> dict[str, str]:
        """The worker of every client: its own, or, the largest client first, the one with the least to do."""
        members, sizes = list(self.server.members.values()), self.session.clients
        anywhere = [member.name for member in members if member.hosts is None]
        load = dict.fromkeys(anywhere or ([SERVER] if self.session.runner is not None else []), 0)
        places = {client: member.name for member in members for client in member.hosts or () if client in self.clients}
        for client in sorted(self.clients, key=lambda client: -sizes.get(client, 0)):
            if client not in places and load:
                places[client] = min(load, key=load.__getitem__)
                load[places[client]] += sizes.get(client, 0)
        return places

    def _begin(self) -> None:
        round, states = self.cohort.round, self.session.states
        map = self.server.next_map()
        by_place: dict[str, list[str]] = defaultdict(list)
        for client in self.clients:
            if client in self.places:
                by_place[self.places[client]].append(client)
            else:
                self._lose([client], "it is not here")
        for place, clients in by_place.items():
            if place == SERVER:
                continue
            member = self.server.members[place]
            work = member.work(map, self.task, self.shared, clients, self.own, states)
            work["talk"] = {"id": self.id, "places": {client: self.places.get(client, "") for client in self.clients}}
            try:
                self.inquiry.ask("work", place, work, round, about=(member, clients), wait=False)
            except CommunicationError as error:
                self._lose(clients, str(error))
        runner = self.session.runner
        assert runner is not None or SERVER not in by_place
        for client in by_place[SERVER]:
            assert isinstance(runner, ClientRunner)
            dialogue = runner.talk(client, round, self.task, self.shared, self.own.get(client), states.get(client))
            self._here.begin(*dialogue)
        if self.lost:  # before others were asked
            self._leave(dict.fromkeys(self.lost))

    def hear(self, *clients: str) -> dict[str, Tree]:
        wanted = [client for client in self.clients if not clients or client in clients]
        self._attend(lambda client: client in wanted and not self.letters[client] and client not in self.through)
        return {client: self.letters[client].popleft() for client in wanted if self.letters[client]}

    def say(self, letters: Mapping[str, Tree]) -> None:
        for client, letter in letters.items():
            self._write(SERVER, client, letter)

    def dismiss(self, client: str, problem: str) -> None:
        self._lose([client], problem)

    def replies(self) -> ClientValues:
        self._attend(lambda client: client not in self.arrived)
        replies = {client: self.arrived[client] for client in self.clients if client in self.arrived}
        minimum = self.server.patience.minimum
        if minimum is not None and len(replies) < min(minimum, len(self.clients)):
            raise RoundFailed(
                f"{self.name}: {len(replies)} of {len(self.clients)} clients got through their dialogue, at least {minimum} must; "
                f"lost: {', '.join(self.lost)}"
            )
        self.session.states |= {client: reply.state for client, reply in replies.items() if reply.state is not None}
        return Gathered(replies)

    def __exit__(self, *_: object) -> None:
        for question in self.inquiry.waiting.values():
            self._tell(question.worker, "hush", {})
        self.inquiry.close()
        del self.server.conversations[self.id]
        self.cohort.miss([client for client in self.clients if client in self.lost])

    def receive(self, message: Message) -> None:
        """See to a letter that has arrived at the server."""
        match message.payload:
            case {"from": str(sender), "to": str(recipient), "letter": letter} if self.places.get(sender) == message.sender:
                if recipient == SERVER:
                    # What is wrong with it may end the run, which the handler of a message cannot do.
                    self._unread.append((sender, tree.to(letter, self.session.device)))
                elif self.places.get(recipient) == SERVER:
                    self._here.deliver(sender, recipient, tree.to(letter, self.session.device))
            case {"waits": dict(waits)}:
                self._waits |= {
                    client: [str(party) for party in parties]
                    for client, parties in waits.items()
                    if self.places.get(client) == message.sender and isinstance(parties, list)
                }
            case {"from": str(sender), "wrote": dict(wrote)} if self.places.get(sender) == message.sender:
                self.through[sender] = {str(to): count for to, count in wrote.items() if type(count) is int}

    def _hear(self, sender: str, letter: Tree) -> None:
        if sender in self.lost:
            return
        problem = self.task.objection_to_letter(letter, self.shared)
        if problem is None and len(self.letters[sender]) >= UNREAD:
            problem = f"is one of more than {UNREAD} that nobody has asked for"
        if problem:
            self._lose([sender], f"its letter {problem}")
        else:
            self.letters[sender].append(letter)

    def _attend(self, silent: Callable[[str], bool]) -> None:
        """See to messages until nobody who still talks is `silent`."""
        patience = self.server.patience
        end = None if patience.deadline is None else time.monotonic() + patience.deadline
        while True:
            self._go_on_here()
            while self._unread:
                self._hear(*self._unread.popleft())
            if not (waited := [client for client in self.clients if client not in self.lost and silent(client)]):
                return
            outcomes = self.inquiry.attend(QUIET)
            for outcome in outcomes or ():
                self._settle(outcome)
            for id, question in list(self.inquiry.waiting.items()):
                member, clients = question.about
                if self.server.members.get(member.name) is not member:
                    self.inquiry.withdraw(id)
                    self._lose(clients, "it is gone, or has joined anew")
            if outcomes is None:
                self._announce()
            if end is not None and time.monotonic() > end:
                self._lose(self._to_blame(waited), "no answer in time")
                end = time.monotonic() + (patience.deadline or 0.0)

    def _to_blame(self, waited: list[str]) -> list[str]:
        """Those at the end of the chain: for whom the server waits, or they wait, and so on; all, if they wait for each other."""
        self._waits = self._here.waiting()
        for question in self.inquiry.waiting.values():
            self._tell(question.worker, "report", {})
        end = time.monotonic() + min(REPORT, self.server.patience.deadline or REPORT)
        talking = {client for client in self.clients if client not in self.lost and client not in self.through}
        while not talking <= self._waits.keys() and (left := end - time.monotonic()) > 0:
            for outcome in self.inquiry.attend(left) or ():
                self._settle(outcome)
        blamed, chain = [], list(waited)
        for client in chain:  # which grows meanwhile
            others = [party for party in self._waits.get(client, []) if party in talking]
            chain += [party for party in others if party not in chain]
            blamed += [] if others else [client]
        return blamed or waited

    def _go_on_here(self) -> None:
        self._here.run()
        for client, error in self._here.failed.items():
            raise CommunicationError(f"{self.name}: client {client} failed: {error}") from error
        for client, reply in self._here.replies.items():
            self.through[client] = self._here.wrote(client)
            self.arrived[client] = reply
        self._here.replies.clear()

    def _settle(self, outcome: Outcome) -> None:
        member, clients = outcome.question.about
        payload = outcome.message.payload
        problem = outcome.reason or objection(payload, clients, self.task, self.shared, None)
        if problem:
            self._lose(clients, problem)
        elif not set(clients) & set(self.lost):
            self.arrived |= tree.to(member.without_states(payload), self.session.device)["replies"]
            for client in clients:
                self.through.setdefault(client, {})

    def _lose(self, clients: list[str], problem: str) -> None:
        """Go on without these clients, or not at all, where none may be missing."""
        clients = [client for client in clients if client not in self.lost and client not in self.arrived]
        if not clients:
            return
        at = self.places.get(clients[0], "no worker")
        text = f"{self.name}: client{'s' * (len(clients) > 1)} {', '.join(clients)} at {at}: {problem}"
        if self.server.patience.minimum is None:
            raise CommunicationError(text)
        log.warning(text)
        self.lost += clients
        for client in clients:
            self.letters.pop(client, None)
        self._leave(dict.fromkeys(clients))

    def _announce(self) -> None:
        """Tell those who still talk who is through."""
        if new := {client: wrote for client, wrote in self.through.items() if client not in self._announced}:
            self._announced |= new.keys()
            self._leave(new)

    def _leave(self, who: Mapping[str, Mapping[str, int] | None]) -> None:
        for question in self.inquiry.waiting.values():
            self._tell(question.worker, "left", {"who": dict(who)})
        for client, wrote in who.items():
            if self.places.get(client) != SERVER:
                self._here.leave(client, wrote)

    def _outside(self, sender: str, recipient: str, letter: Tree) -> None:
        if recipient == SERVER:
            self._hear(sender, letter)
        elif recipient in self.places:
            self._write(sender, recipient, letter)
        else:
            raise CommunicationError(f"client {sender} writes to {recipient}, who does not take part in the conversation")

    def _write(self, sender: str, recipient: str, letter: Tree) -> None:
        if recipient in self.lost or recipient in self.through:
            return
        place = self.places[recipient]
        if place == SERVER:
            self._here.deliver(sender, recipient, tree.compact(letter))
        else:
            self._tell(place, "letter", {"from": sender, "to": recipient, "letter": letter})

    def _tell(self, place: str, type: str, payload: dict[str, Tree]) -> None:
        with _unless_gone(place):
            self.server.worker.send(type, place, {"talk": self.id} | payload, self.cohort.round)


class Speakers:
    """The worker's side: the dialogues it carries out.

    Args:
        com: the worker's door; `run`: its run.
        device: where what others send is to lie.
    """

    def __init__(self, com: ComManager, run: str, device: torch.device) -> None:
        self.com, self.run, self.device = com, run, device
        self._open: dict[str, _Open] = {}
        self._early: dict[str, dict[str, list[Message]]] = defaultdict(dict)
        self._over = Memory()

    def begin(self, message: Message, runner: Any, shared: Tree) -> None:
        """Begin the dialogues that a "work" message asks for."""
        work = message.payload
        id, places = work["talk"]["id"], work["talk"]["places"]
        talk = _Open(self, id, message, places)
        task = restore(Task, work["task"])
        own, states = tree.to(work["own"], self.device), tree.to(work["states"], self.device)
        for client in work["clients"]:
            talk.begin(*runner.talk(client, message.round, task, shared, own.get(client), states.get(client)))
        for of_sender in self._early.values():
            for early in of_sender.pop(id, []):
                talk.receive(early)
        self._open[id] = talk

    def handle(self, message: Message) -> None:
        """See to a "letter", "left", "hush" or "report"."""
        match message.payload:
            case {"talk": str(id)} if id in self._open:
                if message.type == "hush" and message.sender == SERVER:
                    self.end(id)
                else:
                    self._open[id].receive(message)
            case {"talk": str(id)} if id not in self._over and message.type != "report":
                kept = self._early[message.sender]
                kept.setdefault(id, []).append(message)
                if len(kept[id]) > EARLY_LETTERS:
                    kept[id].pop()
                if len(kept) > EARLY:
                    del kept[next(iter(kept))]

    def go_on(self) -> None:
        """Carry all dialogues on as far as they get, and answer for those that are through."""
        for id, talk in list(self._open.items()):
            answer = talk.go_on()
            if answer is not None:
                type, payload = answer
                asked = talk.message
                self.end(id)
                answer_or_error(self.com, Message(type, self.com.name, SERVER, payload, self.run, asked.round, reply_to=asked.id))

    def end(self, id: str) -> None:
        """Forget a conversation."""
        self._over.add(id)
        self._open.pop(id, None)
        for of_sender in self._early.values():
            of_sender.pop(id, None)


# What is said in the course of a conversation.
TALK = frozenset({"letter", "left", "hush", "report"})


def reason_of(error: Exception) -> Tree:
    """The payload by which a worker tells why it could not do what it was asked to."""
    if isinstance(error, FedMLError):
        return {"reason": str(error)}
    log.error("this worker could not do what it was asked to", exc_info=error)
    return {"reason": f"{error.__class__.__name__}: {error}"}


def answer_or_error(com: ComManager, message: Message) -> None:
    """Send an answer to work, or, if it cannot be sent, the reason."""
    try:
        com.post(message)
    except Unsendable as error:
        com.post(replace(message, type=ERROR, payload={"reason": str(error)}, id=new_id()))


class _Open:
    """One conversation of a worker."""

    def __init__(self, speakers: Speakers, id: str, message: Message, places: Mapping[str, str]) -> None:
        self.speakers, self.id, self.message, self.places = speakers, id, message, places
        self.talks = Talks(self._outside)
        self.replies: dict[str, Reply] = {}
        self.begin = self.talks.begin

    def receive(self, message: Message) -> None:
        match message.type, message.payload:
            case "letter", {"from": str(sender), "to": str(recipient), "letter": letter}:
                if sender == message.sender == SERVER or self.places.get(sender) == message.sender:
                    self.talks.deliver(sender, recipient, tree.to(letter, self.speakers.device))
            case "report", _ if message.sender == SERVER:
                self._send(SERVER, {"waits": self.talks.waiting()})
            case "left", {"who": dict(who)} if message.sender == SERVER:
                for client, wrote in who.items():
                    if self.places.get(client) != self.speakers.com.name:
                        self.talks.leave(client, wrote)

    def go_on(self) -> tuple[str, Tree] | None:
        """The answer to the work, once there is one."""
        try:
            self.talks.run()
        except FedMLError as error:
            return ERROR, reason_of(error)
        for client, error in self.talks.failed.items():
            return ERROR, {"reason": f"client {client}: {reason_of(error)['reason']}"}
        for client, reply in self.talks.replies.items():
            self._send(SERVER, {"from": client, "to": SERVER, "wrote": dict(self.talks.wrote(client))})
            self.replies[client] = reply
        self.talks.replies.clear()
        return ("done", {"replies": self.replies}) if set(self.replies) == set(self.message.payload["clients"]) else None

    def _outside(self, sender: str, recipient: str, letter: Tree) -> None:
        if recipient != SERVER and recipient not in self.places:
            raise CommunicationError(f"client {sender} writes to {recipient}, who does not take part in the conversation")
        self._send(SERVER if recipient == SERVER else self.places[recipient], {"from": sender, "to": recipient, "letter": letter})

    def _send(self, place: str, payload: dict[str, Tree]) -> None:
        com, message = self.speakers.com, self.message
        if place:  # a client that was not here from the beginning has none
            with _unless_gone(place):
                com.post(Message("letter", com.name, place, {"talk": self.id} | payload, message.run, message.round))
