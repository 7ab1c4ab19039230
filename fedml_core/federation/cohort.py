"""Cohort: the clients of a round, whoever carries them out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence

from fedml_core.errors import ConfigError
from fedml_core.federation.aggregator import Aggregator, Folded
from fedml_core.federation.client import Client, Reply, Task
from fedml_core.federation.dialogue import Conversation, Dialogue
from fedml_core.tree import Tree


class ClientValues(ABC):
    """Values that live at the clients: what `Cohort.map` returns.

    Nothing runs until the values are asked for, by folding them or going through them, and they can be asked for once: an engine
    may then fold where the values are, and never hold more than one of them.
    """

    _asked = False

    def ask_once(self) -> None:
        """For engines, before anything runs: refuse to carry the work out a second time."""
        if self._asked:
            raise RuntimeError("the values of a map can be asked for once; keep the result of fold() or gather()")
        self._asked = True

    @abstractmethod
    def __iter__(self) -> Iterator[tuple[str, Reply]]:
        """Client id and reply, in the order of the cohort."""

    def fold(self, aggregator: Aggregator) -> Folded:
        """All replies as one value."""
        total = aggregator.zero()
        for _, reply in self:
            total = aggregator.add(total, reply)
        return aggregator.finish(total)

    def gather(self) -> dict[str, Reply]:
        """All replies by client id. Memory grows with the cohort: for algorithms that honestly need every reply."""
        return dict(self)


class Gathered(ClientValues):
    """Replies that are here already."""

    def __init__(self, replies: Mapping[str, Reply]) -> None:
        self.replies = replies

    def __iter__(self) -> Iterator[tuple[str, Reply]]:
        return iter(self.replies.items())


class Spoken(ClientValues):
    """The replies of clients who talk among themselves, while the server says nothing."""

    def __init__(self, cohort: Cohort, task: Dialogue, shared: Tree, own: Mapping[str, Tree] | None) -> None:
        self.cohort, self.task, self.shared, self.own = cohort, task, shared, own

    def __iter__(self) -> Iterator[tuple[str, Reply]]:
        self.ask_once()
        with self.cohort.converse(self.task, self.shared, self.own) as conversation:
            replies = conversation.replies()
        yield from replies


class Cohort(ABC):
    """The clients sampled for one round.

    Attributes:
        round: the round, counted from 0.
        clients: ids, in the order in which their replies are folded.
        population: how many clients could have been sampled.
        missing: those of them that did not reply when they were asked last; the algorithm has done without.
        server: the server's own place to compute, as if it were a client without examples. Torch's generator may have been drawn
            from by others in between: `server.seed_torch` before each use of it.
    """

    round: int
    clients: Sequence[str]
    population: int
    missing: Sequence[str] = ()

    @abstractmethod
    def map(self, task: Task, shared: Tree, own: Mapping[str, Tree] | None = None) -> ClientValues:
        """Ask every client to carry out `task`, with `shared` for all and `own[id]` for each.

        In one round a client may be asked several times, but only one of the tasks may leave private state with it: a client that
        is asked again because its reply got lost starts from the state before the round.
        """

    @abstractmethod
    def only(self, clients: Sequence[str], round: int | None = None) -> Cohort:
        """The cohort of these clients of the population: in this round, or in another one, with the draws of that."""

    server: Client

    def converse(self, task: Dialogue, shared: Tree, own: Mapping[str, Tree] | None = None) -> Conversation:
        """Begin a dialogue with every client, `shared` and `own` as for `map`; the server talks through what is returned.

        Where nobody talks with the server, `map` does.

        Raises:
            ConfigError: this cohort changes what clients send, and cannot do so with their letters.
        """
        raise ConfigError(f"clients of a {type(self).__name__} cannot talk while they work: leave out what wraps the algorithm")

    @property
    def at_work(self) -> Mapping[str, int]:
        """The clients of the cohort that have begun, and whose replies have not been handed on, with the round in which they began.

        An engine forgets clients whose replies can no longer be expected; one that goes on from a checkpoint knows of none.
        """
        return {}

    def begin(self, task: Task, shared: Tree) -> None:
        """Set every client to work on `task`, with `shared` for all, and do not wait; what it was at work on is given up.

        Raises:
            ConfigError: the engine carries clients out only while their replies are waited for.
        """
        raise ConfigError(_AT_ONCE)

    def arrivals(self, count: int) -> Iterator[tuple[str, Reply]]:
        """The first `count` replies of the cohort's clients at work, as they arrive; fewer, if no more can be expected.

        Raises:
            ConfigError: as by `begin`.
            RoundFailed: so few can be expected that none is handed on; those that did arrive are kept.
        """
        raise ConfigError(_AT_ONCE)


_AT_ONCE = (
    "this engine has no clients that work at their own pace: choose engine=loopback, mpi or edge, or an algorithm that needs none, "
    "such as fedbuff with other durations than measured"
)
