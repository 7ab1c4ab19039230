"""Mailbox: ask several workers, and get their answers as they arrive."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

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
        self._inquiries: weakref.WeakSet[Inquiry] = weakref.WeakSet()

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
        replies = Replies(self.inquire(deadline), goal, minimum)
        for receiver, payload in payloads.items():
            try:
                replies.inquiry.ask(type, receiver, payload, round)
            except CommunicationError as error:
                replies.failed[receiver] = str(error)
        return replies

    def inquire(self, deadline: float | None = None) -> Inquiry:
        """Questions to be asked one by one, with what was answered before in mind; to be closed at the end.

        Args:
            deadline: seconds from now after which no answer is waited for; None: for ever.
        """
        inquiry = Inquiry(self, deadline)
        self._inquiries.add(inquiry)
        return inquiry

    def handle(self, message: Message) -> None:
        """Hand a message to the inquiry that it answers, or the handlers of the worker; count it, if its question is settled."""
        if any(inquiry.hear(message) for inquiry in self._inquiries):
            return
        if message.reply_to in self._settled:
            self.stray += 1
        else:
            self.worker.handle(message)

    def settle(self, id: str) -> None:
        """From now on, answers to the question `id` are stray."""
        self._settled.add(id)

    def forget(self, inquiry: Inquiry) -> None:
        """From now on, no message is for `inquiry`."""
        self._inquiries.discard(inquiry)


@dataclass(frozen=True)
class Question:
    """What was asked of `worker`; `about` is for whoever asks, to know it by."""

    worker: str
    about: Any = None


@dataclass(frozen=True)
class Outcome:
    """How a question ended: by a message that answers it, or by one that is a reason why there will be no answer."""

    question: Question
    message: Message
    reason: str = ""


class Inquiry:
    """Questions whose answers are waited for together. Several inquiries may be open, and each may see to the messages for all.

    Attributes:
        waiting: the questions whose outcomes have not been handed on, by the ids of their messages.
    """

    def __init__(self, mailbox: Mailbox, deadline: float | None) -> None:
        self.mailbox = mailbox
        self.end = None if deadline is None else mailbox.clock() + deadline
        self.waiting: dict[str, Question] = {}
        self._heard: dict[str, Outcome] = {}

    def ask(self, type: str, receiver: str, payload: Tree = None, round: int = -1, about: Any = None, wait: bool = True) -> None:
        """Ask one more question; `wait` as in `Worker.send`.

        Raises:
            CommunicationError: it cannot be sent.
        """
        self.waiting[self.mailbox.worker.send(type, receiver, payload, round, wait=wait)] = Question(receiver, about)

    def attend(self, timeout: float | None = None) -> list[Outcome] | None:
        """What has been settled; if nothing is, see to the next message, whatever it is, and say what it settles.

        Args:
            timeout: seconds to wait at most; None: until the deadline.

        Returns:
            None if no message came in time.

        Raises:
            CommunicationError: the door was closed.
        """
        if not self._heard:
            left = None if self.end is None else max(self.end - self.mailbox.clock(), 0.0)
            wait = min((limit for limit in (left, timeout) if limit is not None), default=None)
            message = self.mailbox.worker.next(wait)
            if message is None:
                if wait is None:
                    raise CommunicationError(f"{self.mailbox.worker.name} closed its door while it waited for answers")
                return None
            self.mailbox.handle(message)
        heard, self._heard = self._heard, {}
        for id in heard:
            del self.waiting[id]
        return list(heard.values())

    def hear(self, message: Message) -> bool:
        """Note what a message settles; whether it answers a question of this inquiry."""
        question = self.waiting.get(message.reply_to)
        if question is not None and question.worker == message.sender and message.reply_to not in self._heard:
            self._settle(message.reply_to, message, _reason(message) if message.type == ERROR else "")
            return True
        if message.type == GONE:
            for id, question in self.waiting.items():
                if question.worker == message.sender and id not in self._heard:
                    self._settle(id, message, "it is gone")
        return False

    def withdraw(self, id: str) -> None:
        """Wait no longer for the answer to the question `id`."""
        del self.waiting[id]
        self._heard.pop(id, None)
        self.mailbox.settle(id)

    def close(self) -> None:
        """Wait for no more: what still comes is late."""
        for id in self.waiting:
            self.mailbox.settle(id)
        self.mailbox.forget(self)

    def _settle(self, id: str, message: Message, reason: str) -> None:
        self.mailbox.settle(id)
        self._heard[id] = Outcome(self.waiting[id], message, reason)


class Replies:
    """Answers in the order in which they arrive: an iterable of (worker, message), to be gone through once.

    Raises:
        CommunicationError: by the iteration, once the minimum is out of reach, or the door was closed.

    Attributes:
        failed: worker -> reason: it answered with an error, is gone, or could not be asked.
        arrived: number of answers.
    """

    def __init__(self, inquiry: Inquiry, goal: int | None, minimum: int | None) -> None:
        self.inquiry, self.goal, self.minimum = inquiry, goal, minimum
        self.failed: dict[str, str] = {}
        self.arrived = 0

    @property
    def waiting(self) -> dict[str, str]:
        """Id of the question -> worker; at the end, those that did not answer in time."""
        return {id: question.worker for id, question in self.inquiry.waiting.items()}

    def __iter__(self) -> Iterator[tuple[str, Message]]:
        asked = self.arrived + len(self.waiting) + len(self.failed)
        goal = asked if self.goal is None else min(self.goal, asked)
        minimum = goal if self.minimum is None else self.minimum
        with closing(self.inquiry):
            while self.arrived < goal and self.waiting and self.arrived + len(self.waiting) >= minimum:
                outcomes = self.inquiry.attend()
                if outcomes is None:
                    break
                for outcome in outcomes:
                    if outcome.reason:
                        self.failed[outcome.question.worker] = outcome.reason
                    else:
                        self.arrived += 1
                        yield outcome.question.worker, outcome.message
        if self.arrived < minimum:
            reasons = self.failed | dict.fromkeys(self.waiting.values(), "no answer in time")
            listed = "; ".join(f"{worker}: {reason}" for worker, reason in sorted(reasons.items()))
            raise CommunicationError(f"{self.arrived} of {asked} workers answered, at least {minimum} are needed ({listed})")


def _reason(message: Message) -> str:
    reason = message.payload.get("reason") if isinstance(message.payload, dict) else None
    return reason[:2000] if isinstance(reason, str) and reason else "it reports an error"
