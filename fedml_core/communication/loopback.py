"""Loopback backend: workers are threads of one process, and every message is encoded and decoded all the same."""

from __future__ import annotations

import queue
from collections.abc import Sequence

from fedml_core.communication import codec
from fedml_core.communication.com_manager import ComManager
from fedml_core.communication.message import Message
from fedml_core.errors import CommunicationError, unknown


def loopback_network(names: Sequence[str]) -> dict[str, ComManager]:
    """A door for each of these workers, connected to all others."""
    inboxes: dict[str, queue.SimpleQueue[bytearray | None]] = {name: queue.SimpleQueue() for name in names}
    return {name: LoopbackComManager(name, inboxes) for name in names}


class LoopbackComManager(ComManager):
    def __init__(self, name: str, inboxes: dict[str, queue.SimpleQueue[bytearray | None]]) -> None:
        self.name, self._inboxes, self._closed = name, inboxes, False

    def send(self, message: Message) -> None:
        if self._closed:
            raise CommunicationError(f"{self.name} cannot send '{message.type}': it is closed")
        if message.receiver not in self._inboxes:
            raise CommunicationError(unknown("receiver", message.receiver, self._inboxes))
        # One writable buffer, as a network would deliver it: the decoded tensors are views into it.
        self._inboxes[message.receiver].put(bytearray().join(codec.encode(message)))

    def receive(self, timeout: float | None = None) -> Message | None:
        if self._closed:
            return None
        try:
            inbox = self._inboxes[self.name]
            content = inbox.get_nowait() if timeout == 0 else inbox.get(timeout=timeout)
        except queue.Empty:
            return None
        return None if content is None else codec.decode(content)

    def close(self) -> None:
        self._closed = True
        self._inboxes[self.name].put(None)
