"""ComManager: moves messages between workers, and knows neither models nor rounds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType

from fedml_core.communication.message import Message

GONE = "gone"


class ComManager(ABC):
    """One worker's door to the others.

    `send` and `receive` may be called from any thread. Every payload goes through the codec, also where it need not, so that what
    works between threads works between machines. A message is delivered at most once to `receive`, and, as long as both ends live,
    at least once; messages of one sender arrive in the order in which they were sent.

    Attributes:
        name: this worker's name.
    """

    name: str

    @abstractmethod
    def send(self, message: Message) -> None:
        """Hand a message over. Returns when the payload may be written into again; waits while too much is under way.

        Raises:
            CommunicationError: the receiver is unknown, or this door is closed.
        """

    def post(self, message: Message) -> None:
        """Like `send`, for a payload that nobody will write into any more: may return while it is still under way."""
        self.send(message)

    @abstractmethod
    def receive(self, timeout: float | None = None) -> Message | None:
        """The next message, or None if none came within `timeout` seconds (None: wait for ever) or the door was closed.

        When a peer is known to have died, that is a message too: of type "gone", with the peer as its sender.
        """

    @abstractmethod
    def close(self) -> None:
        """Deliver what was sent, then stop all threads. Closing twice does nothing."""

    def __enter__(self) -> ComManager:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
