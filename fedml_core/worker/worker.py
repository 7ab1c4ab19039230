"""Worker: a party that reacts to messages; the door for protocols nobody has thought of yet."""

from __future__ import annotations

import logging
from collections.abc import Callable

from fedml_core.communication.com_manager import GONE, ComManager
from fedml_core.communication.message import Message
from fedml_core.tree import Tree

ERROR = "error"
Handler = Callable[[Message], object]

log = logging.getLogger(__name__)


class Worker:
    """Calls the handler of each message that arrives, one at a time, until one of them calls `finish`.

    A message is handled once, however often it arrives. A handler that raises is logged, and whoever sent the message gets an
    "error" that answers it, with `{"reason": text}`; the worker goes on. A "gone" message may be handled like any other.

    Args:
        com: the door to the other workers; who opened it closes it.
        run: messages of other runs are dropped.

    Example:
        worker = Worker(com)
        worker.register_message_handler("ping", lambda message: worker.reply(message, "pong"))
        worker.run()
    """

    def __init__(self, com: ComManager, run: str = "") -> None:
        self.com, self.name, self.run_id = com, com.name, run
        self._handlers: dict[str, Handler] = {}
        self._seen = Memory()
        self._unknown: set[str] = set()
        self._finished = False

    def register_message_handler(self, type: str, handler: Handler) -> None:
        """From now on, `handler` is called with each message of this type; what it returns is ignored."""
        self._handlers[type] = handler

    def send(self, type: str, receiver: str, payload: Tree = None, round: int = -1, reply_to: str = "", wait: bool = True) -> str:
        """Send a message of this run, and return its id.

        Args:
            wait: return only when the payload may be written into again.

        Raises:
            CommunicationError: the receiver is unknown, the payload not a tree, or the door closed.
        """
        message = Message(type, self.name, receiver, payload, self.run_id, round, reply_to=reply_to)
        (self.com.send if wait else self.com.post)(message)
        return message.id

    def reply(self, to: Message, payload: Tree = None, type: str = "reply") -> str:
        """Answer a message, and return the id of the answer."""
        return self.send(type, to.sender, payload, to.round, reply_to=to.id)

    def run(self) -> None:
        """Handle messages until `finish` is called, or the door is closed."""
        while not self._finished and (message := self.next()) is not None:
            self.handle(message)

    def finish(self) -> None:
        """To be called by a handler: `run` returns after it."""
        self._finished = True

    def next(self, timeout: float | None = None) -> Message | None:
        """The next message of this run that has not been seen before, or None if none came within about `timeout` seconds."""
        while (message := self.com.receive(timeout)) is not None:
            # A backend does not know the run when it reports that a peer is gone.
            if (message.run == self.run_id or message.type == GONE) and self._seen.add(message.id):
                return message
        return None

    def handle(self, message: Message) -> None:
        """Call the handler of a message."""
        handler = self._handlers.get(message.type)
        if handler is None:
            self._unhandled(message)
            return
        try:
            handler(message)
        except Exception as error:
            log.exception("%s could not handle '%s' from %s", self.name, message.type, message.sender)
            # An answer expects none, and two workers that cannot handle each other's errors would never stop.
            if not message.reply_to and message.type != GONE:
                self.reply(message, {"reason": f"{error.__class__.__name__}: {error}"}, ERROR)

    def _unhandled(self, message: Message) -> None:
        if message.type == ERROR:
            log.warning("%s: %s reports: %s", self.name, message.sender, message.payload)
        elif message.type != GONE and message.type not in self._unknown and len(self._unknown) < 100:
            self._unknown.add(message.type)
            log.warning("%s has no handler for '%s', sent by %s; its kind is ignored", self.name, message.type, message.sender)


class Memory:
    """The last `size` texts."""

    def __init__(self, size: int = 10_000) -> None:
        self._size = size
        self._texts: dict[str, None] = {}

    def __contains__(self, text: str) -> bool:
        return text in self._texts

    def add(self, text: str) -> bool:
        """Remember `text`; False if it was known."""
        if text in self._texts:
            return False
        self._texts[text] = None
        if len(self._texts) > self._size:
            del self._texts[next(iter(self._texts))]
        return True
