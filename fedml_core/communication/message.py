"""Message: what one worker says to another."""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import uuid4

from fedml_core.tree import Tree

SERVER = "server"


def new_id() -> str:
    """An identifier that no other message has."""
    return uuid4().hex


@dataclass(frozen=True, slots=True)
class Message:
    """An addressed tree.

    Attributes:
        type: what the message is about; a worker has one handler for each type.
        sender, receiver: names of workers. The server of a run is called "server".
        payload: any tree.
        run: the run it belongs to; a message of another run is not for this worker.
        round: the round it belongs to, or -1.
        id: its own identity: a message that arrives twice is recognised by it.
        reply_to: the `id` of the message that this one answers, or "".
    """

    type: str
    sender: str
    receiver: str
    payload: Tree = None
    run: str = ""
    round: int = -1
    id: str = field(default_factory=new_id)
    reply_to: str = ""
