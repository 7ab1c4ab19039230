"""Dialogue: a task that exchanges letters while it is carried out, with the server or with other clients."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING

from fedml_core.communication.message import SERVER
from fedml_core.errors import CommunicationError, ConfigError
from fedml_core.federation.client import Client, Reply, Task
from fedml_core.tree import Tree

if TYPE_CHECKING:
    from fedml_core.federation.cohort import ClientValues

__all__ = ["SERVER", "Conversation", "Dialogue", "Letters", "Post", "Saying", "ask"]

# By sender. None: it has left, and nothing more will come from it.
Letters = dict[str, Tree]


@dataclass(frozen=True)
class Post:
    """What a client says, and for whom it waits before it goes on.

    Between any two parties letters are read in the order in which they were written, one at a time; who reads says from whom. So
    what is computed does not depend on which letter arrives first.

    Attributes:
        to: letters, by the names of clients, or SERVER.
        wait: the parties of whom one letter each is read next.
        lenient: read None of a party that has left; otherwise that is an error, which ends the dialogue.
    """

    to: Mapping[str, Tree] = field(default_factory=dict)
    wait: Sequence[str] = ()
    lenient: bool = False


Saying = Generator[Post, Letters, Reply]


def ask(letter: Tree) -> Generator[Post, Letters, Tree]:
    """For dialogues, `answer = yield from ask(letter)`: tell the server, and wait for what it says."""
    return (yield Post({SERVER: letter}, [SERVER]))[SERVER]


class Dialogue(Task):
    """A task whose client talks with others in the middle of its work: split learning, features of several parties, gossip.

        letters = yield Post({"ben": activations}, wait=["ben"])

    Every client of the cohort is at work at the same time, in a workspace of its own. Torch's generator is started on a stream of
    the client's own before the first letter and after each, so that nobody's draws depend on who else is at work.
    """

    @abstractmethod
    def talk(self, client: Client, shared: Tree, own: Tree = None) -> Saying:
        """Carry the task out for `client`, yielding posts and getting letters; returns the reply."""

    def objection_to_letter(self, letter: Tree, shared: Tree) -> str | None:
        """What is wrong with a letter to the server, or None; to be overridden where letters differ from the reply's value."""
        return self.objection(letter, shared)

    def __call__(self, client: Client, shared: Tree, own: Tree = None) -> Reply:
        raise ConfigError(
            f"{type(self).__name__} is a dialogue, which no client can carry out by itself; it cannot be compressed, "
            "buffered or wrapped: ask for it with Cohort.map or Cohort.converse"
        )


class Conversation(ABC):
    """The server's side of a dialogue with a cohort; leaving its context ends it for those who still talk.

    Attributes:
        clients: who takes part, in the order of the cohort.
        lost: those of them that are gone without a reply.
    """

    clients: Sequence[str]
    lost: Sequence[str]

    @abstractmethod
    def hear(self, *clients: str) -> dict[str, Tree]:
        """The next letter to the server of each of these clients (of everyone if none are named), in the order of the cohort.

        Who has replied instead, or is lost, is not in it: empty when all are through.
        """

    @abstractmethod
    def say(self, letters: Mapping[str, Tree]) -> None:
        """Write to clients; to those that are through or lost nothing is sent."""

    def dismiss(self, client: str, problem: str) -> None:
        """Go on without a client whose letter cannot be worked with: it is lost, as if the engine had not taken the letter.

        Raises:
            CommunicationError: none may be lost here.
        """
        raise CommunicationError(f"client {client}: {problem}")

    @abstractmethod
    def replies(self) -> ClientValues:
        """Wait until all dialogues are over: what they returned.

        Raises:
            RoundFailed: too many clients are lost.
        """

    def __enter__(self) -> Conversation:
        return self

    @abstractmethod
    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...
