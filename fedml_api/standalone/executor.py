"""Executor: how the clients of a round are carried out in this process."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from fedml_core.federation import Aggregator, ClientRunner, Reply, Setup, Task, Wrapping
from fedml_core.tree import Tree

log = logging.getLogger("fedml")
States = dict[str, Tree]


@dataclass(frozen=True)
class Work:
    """What a round asks: `task` of every one of `clients`, with `shared` for all, and each one's own part and private state."""

    round: int
    task: Task
    shared: Tree
    clients: Sequence[str]
    own: Mapping[str, Tree]
    states: Mapping[str, Tree]

    def only(self, clients: Sequence[str]) -> Work:
        """The same for some of the clients."""
        return replace(self, clients=clients)

    def inside(self) -> Work:
        """What a wrapping task asks of the clients before it looks at their replies; itself if the task wraps none."""
        task = self.task
        if not isinstance(task, Wrapping):
            return self
        states = {id: task.kept(self.states[id]) for id in self.clients if id in self.states}
        return replace(self, task=task.task, states=states).inside()


class Executor(ABC):
    """A way to carry work out. All of them do the same mathematics; they differ in speed, memory, and in rounding.

    Attributes:
        exact: whether it does what is asked to the last bit, so that clients who gossip have to talk.
    """

    exact = False

    @abstractmethod
    def replies(self, work: Work) -> Iterator[tuple[str, Reply]]:
        """Every client's reply, in the order of the work."""

    def fold(self, work: Work, aggregator: Aggregator) -> tuple[Tree, States]:
        """The accumulator of all replies, and the new private states of those clients that have one."""
        total, states = aggregator.zero(), {}
        for id, reply in self.replies(work):
            total = aggregator.add(total, reply)
            if reply.state is not None:
                states[id] = reply.state
        return total, states

    def close(self) -> None:  # noqa: B027 (most have nothing to stop)
        """Stop what was started."""


class Sequential(Executor):
    """One client after the other in one workspace: the reference."""

    exact = True

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.run = ClientRunner(setup)

    def prepare(self, work: Work) -> None:
        """Before the first client."""

    def replies(self, work: Work) -> Iterator[tuple[str, Reply]]:
        self.prepare(work)
        for id in work.clients:
            yield id, self.run(id, work.round, work.task, work.shared, work.own.get(id), work.states.get(id))
