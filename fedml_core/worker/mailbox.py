"""Mailbox: ask several workers, and get their answers as they arrive."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping

from fedml_core.communication.com_manager import GONE
from fedml_core.communication.message import Message
from fedml_core.errors import CommunicationError
from fedml_core.tree import Tree
from fedml_core.worker.worker import ERROR, Memory, Worker


class Mailbox:
    """The asking side of a conversation.

    Messages that answer nothing go to the handlers of `worker`, also while answers are waited for.

    Args:
        worker: sends and receives for the mailbox.
        clock: seconds, as `time.monotonic`.

    Attributes:
        stray: answers that were dropped: late ones, and second ones to the same question.
    """

    def __init__(self, worker: Worker, clock: Callable[[], float] = time.monotonic) -> None:
        self.worker, self.clock = worker, clock
        self.stray = 0
        self._settled = Memory()

    def ask(
        self,
        type: str,
        payloads: Mapping[str, Tree],
        round: int = -1,
        goal: int | None = None,
        minimum: int | None = None,
        deadline: float | None = None,
    ) -> Replies:
        """Send each receiver its payload; iterate over the result for what they answer.

        Args:
            goal: answers after which no more are waited for; None: all.
            minimum: fewer are an error; None: as many as the goal.
            deadline: seconds from now after which no more are waited for; None: for ever.
        """
        replies = Replies(self, goal, minimum, deadline)
        for receiver, payload in payloads.items():
            try:
                replies.waiting[self.worker.send(type, receiver, payload, round)] = receiver
            except CommunicationError as error:
                replies.failed[receiver] = str(error)
        return replies

    def is_stray(self, message: Message) -> bool:
        """Whether a message answers a question that is settled; it is counted."""
        stray = message.reply_to in self._settled
        self.stray += stray
        return stray

    def settle(self, id: str) -> None:
        """From now on, answers to the question `id` are stray."""
        self._settled.add(id)


class Replies:
    """Answers in the order in which they arrive: an iterable of (worker, message), to be gone through once.

    Raises:
        CommunicationError: by the iteration, once the minimum is out of reach, or the door was closed.

    Attributes:
        waiting: id of the question -> worker; at the end, those that did not answer in time.
        failed: worker -> reason: it answered with an error, is gone, or could not be asked.
        arrived: number of answers.
    """

    def __init__(self, mailbox: Mailbox, goal: int | None, minimum: int | None, deadline: float | None) -> None:
        self.mailbox, self.goal, self.minimum = mailbox, goal, minimum
        self.end = None if deadline is None else mailbox.clock() + deadline
        self.waiting: dict[str, str] = {}
        self.failed: dict[str, str] = {}
        self.arrived = 0

    def __iter__(self) -> Iterator[tuple[str, Message]]:
        asked = self.arrived + len(self.waiting) + len(self.failed)
        goal = asked if self.goal is None else min(self.goal, asked)
        minimum = goal if self.minimum is None else self.minimum
        try:
            while self.arrived < goal and self.waiting and self.arrived + len(self.waiting) >= minimum:
                message = self._next()
                if message is None:
                    break
                worker = self.waiting.get(message.reply_to)
                if worker is None or message.type == ERROR:
                    self._note(message)
                    continue
                self._settle(message.reply_to)
                self.arrived += 1
                yield worker, message
        finally:
            for id in self.waiting:
                self.mailbox.settle(id)
        if self.arrived < minimum:
            reasons = self.failed | dict.fromkeys(self.waiting.values(), "no answer in time")
            listed = "; ".join(f"{worker}: {reason}" for worker, reason in sorted(reasons.items()))
            raise CommunicationError(f"{self.arrived} of {asked} workers answered, at least {minimum} are needed ({listed})")

    def _next(self) -> Message | None:
        """The next message of any kind; None: the deadline is over."""
        left = None if self.end is None else max(self.end - self.mailbox.clock(), 0.0)
        message = self.mailbox.worker.next(left)
        if message is None and self.end is None:
            raise CommunicationError(f"{self.mailbox.worker.name} closed its door while it waited for answers")
        return message

    def _note(self, message: Message) -> None:
        """What a message means that is not an answer: an error, a peer that is gone, a stray, or something for the handlers."""
        if message.reply_to in self.waiting:
            reason = message.payload.get("reason", "") if isinstance(message.payload, dict) else ""
            self.failed[self._settle(message.reply_to)] = str(reason) or "it reports an error"
            return
        if message.type == GONE:
            for id in [id for id, worker in self.waiting.items() if worker == message.sender]:
                self.failed[self._settle(id)] = "it is gone"
        if not self.mailbox.is_stray(message):
            self.mailbox.worker.handle(message)

    def _settle(self, id: str) -> str:
        self.mailbox.settle(id)
        return self.waiting.pop(id)
