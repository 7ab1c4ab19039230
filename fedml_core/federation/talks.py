"""Talks: the dialogues that are carried out in one process, whoever else takes part in the conversation."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from fedml_core import tree
from fedml_core.communication.message import SERVER
from fedml_core.errors import CommunicationError
from fedml_core.federation.client import Client, Reply
from fedml_core.federation.dialogue import Post, Saying
from fedml_core.tree import Tree


@dataclass(eq=False)
class _Speaker:
    """A client in the middle of its dialogue: what it waits for, what has arrived for it, and how many letters it has written."""

    client: Client
    saying: Saying
    waiting: Post | None = None
    turn: int = 0
    inbox: defaultdict[str, deque[Tree]] = field(default_factory=lambda: defaultdict(deque))
    read: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    wrote: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))


class Talks:
    """Dialogues side by side, each of which goes on when all that it waits for is there.

    A party that has left is known by how many letters it wrote to whom, since these may arrive after the news; None if it is lost,
    and what has not arrived never will.

    Args:
        outside: called with sender, recipient and letter for those who are not here; the letter may be kept.

    Attributes:
        replies: of those who are through, until somebody takes them away; `failed`: the errors of the others, likewise.
    """

    def __init__(self, outside: Callable[[str, str, Tree], None]) -> None:
        self.outside = outside
        self.replies: dict[str, Reply] = {}
        self.failed: dict[str, Exception] = {}
        self._speakers: dict[str, _Speaker] = {}
        self._left: dict[str, Mapping[str, int] | None] = {}

    def begin(self, client: Client, saying: Saying) -> None:
        """From now on `client` takes part."""
        self._speakers[client.id] = _Speaker(client, saying)

    def deliver(self, sender: str, recipient: str, letter: Tree) -> None:
        """A letter for somebody here; it gets lost if that one is through."""
        if recipient in self._speakers:
            self._speakers[recipient].inbox[sender].append(letter)

    def leave(self, party: str, wrote: Mapping[str, int] | None) -> None:
        """Learn that a party has left."""
        self._left[party] = wrote

    def run(self) -> None:
        """Go on with every dialogue until each is through, or waits."""
        while ready := [name for name, speaker in self._speakers.items() if self._can_go_on(name, speaker)]:
            for name in ready:
                self._go_on(name, self._speakers[name])

    def waiting(self) -> dict[str, list[str]]:
        """Who waits, and of those it waits for, from whom nothing has arrived."""
        return {
            name: [party for party in speaker.waiting.wait if not speaker.inbox[party]]
            for name, speaker in self._speakers.items()
            if speaker.waiting is not None
        }

    def wrote(self, name: str) -> Mapping[str, int]:
        """How many letters a party that has left here wrote to whom."""
        return self._left[name] or {}

    def _can_go_on(self, name: str, speaker: _Speaker) -> bool:
        wait = speaker.waiting.wait if speaker.waiting is not None else ()
        return all(speaker.inbox[party] or self._is_through(party, name, speaker) for party in wait)

    def _is_through(self, party: str, name: str, speaker: _Speaker) -> bool:
        """Whether no letter of this party will come any more."""
        if party not in self._left:
            return False
        wrote = self._left[party]
        return wrote is None or wrote.get(name, 0) <= speaker.read[party]

    def _go_on(self, name: str, speaker: _Speaker) -> None:
        letters, gone = {}, []
        post = speaker.waiting or Post()
        for party in post.wait:
            queue = speaker.inbox[party]
            speaker.read[party] += bool(queue)
            gone += [] if queue else [party]
            letters[party] = queue.popleft() if queue else None
        speaker.client.seed_torch(f"talk {speaker.turn}")
        speaker.turn += 1
        try:
            if gone and not post.lenient:
                problem = f"client {name} waits for a letter of {gone[0]}, who has left"
                post = speaker.saying.throw(CommunicationError(problem))
            else:
                post = next(speaker.saying) if speaker.waiting is None else speaker.saying.send(letters)
        except StopIteration as end:
            self.replies[name] = end.value
            self._end(name)
        except Exception as error:
            self.failed[name] = error
            self._end(name)
        else:
            speaker.waiting = post
            for recipient, letter in post.to.items():
                speaker.wrote[recipient] += 1
                # Whoever writes may go on to write into the same memory.
                self._send(name, recipient, tree.compact(letter))

    def _send(self, sender: str, recipient: str, letter: Tree) -> None:
        if recipient in self._speakers:
            self.deliver(sender, recipient, letter)
        elif recipient == SERVER or recipient not in self._left:
            self.outside(sender, recipient, letter)

    def _end(self, name: str) -> None:
        self.leave(name, dict(self._speakers.pop(name).wrote))
