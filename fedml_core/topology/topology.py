"""Topologies: who sends to whom, as settings."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import lru_cache
from typing import Annotated

import numpy as np
from msgspec import Meta

from fedml_core.errors import ConfigError
from fedml_core.rng import key, rng
from fedml_core.settings import Registry, settings

# bool [nodes, nodes]: graph[i, j] says that node i sends to node j. Nobody needs a link to itself: the diagonal is False.
Graph = np.ndarray
# Draws of a random graph that may come out in pieces.
ATTEMPTS = 100


class Topology(ABC):
    """Settings from which a directed graph follows: a pure function of the number of nodes, the round and the seed."""

    def graph(self, nodes: int, round: int = 0, seed: int = 0) -> Graph:
        """Who sends to whom in this round.

        Raises:
            ConfigError: there is no such graph of so many nodes, or information does not get from everybody to everybody.
        """
        return _connected(self, nodes, round if self.varies else 0, seed)

    @abstractmethod
    def draw(self, nodes: int, round: int, seed: int) -> Graph:
        """`graph`, whether connected or not."""

    @property
    def varies(self) -> bool:
        """Whether the graph depends on the round."""
        return False

    def window(self, nodes: int) -> int:
        """Over how many rounds in a row the links together connect everybody with everybody."""
        return 1


topologies: Registry[Topology] = Registry("topology", Topology)


def is_symmetric(graph: Graph) -> bool:
    """Whether every link goes both ways."""
    return bool((graph == graph.T).all())


def unreachable(graph: Graph) -> tuple[int, int] | None:
    """Two nodes such that nothing gets from the first to the second, over however many links; None if there are none."""
    for links, backwards in ((graph, False), (graph.T, True)):
        reached = np.zeros(len(graph), dtype=bool)
        reached[:1] = True
        newest = reached
        while newest.any():
            newest = links[newest].any(axis=0) & ~reached
            reached = reached | newest
        if not reached.all():
            other = int(np.argmin(reached))
            return (other, 0) if backwards else (0, other)
    return None


@lru_cache(maxsize=256)
def _connected(topology: Topology, nodes: int, round: int, seed: int) -> Graph:
    graph = topology.draw(nodes, round, seed)
    window = topology.window(nodes)
    together = np.logical_or.reduce([graph, *(topology.draw(nodes, round + ahead, seed) for ahead in range(1, window))])
    if pair := unreachable(together):
        when = f"in round {round}" if window == 1 else f"in rounds {round} to {round + window - 1}"
        raise ConfigError(
            f"{topology} of {nodes} nodes: {when} nothing gets from node {pair[0]} to node {pair[1]}; every node must reach every "
            "other, directly or through others: add links, or choose another topology"
        )
    graph.flags.writeable = False
    return graph


def _refuse(topology: Topology, nodes: int, problem: str) -> ConfigError:
    return ConfigError(f"{topology} of {nodes} nodes: {problem}")


def _offsets(nodes: int, offsets: list[int]) -> Graph:
    """Node i sends to i + offset, around the circle."""
    graph = np.zeros((nodes, nodes), dtype=bool)
    at = np.arange(nodes)
    for offset in offsets:
        graph[at, (at + offset) % nodes] = True
    np.fill_diagonal(graph, False)
    return graph


def _lattice(nodes: int, degree: int) -> Graph:
    """A circle on which everyone is linked with its `degree` nearest; the one opposite, if that is odd."""
    near = [*range(1, degree // 2 + 1), *([nodes // 2] if degree % 2 else [])]
    return _offsets(nodes, [*near, *(-offset for offset in near)])


@topologies.register("complete")
@settings
class Complete(Topology):
    """Everybody sends to everybody."""

    def draw(self, nodes: int, round: int, seed: int) -> Graph:
        return ~np.eye(nodes, dtype=bool)


@topologies.register("ring")
@settings
class Ring(Topology):
    """A circle: everybody sends to both neighbours; `directed`: to the next one only."""

    directed: bool = False

    def draw(self, nodes: int, round: int, seed: int) -> Graph:
        return _offsets(nodes, [1] if self.directed else [1, -1])


@topologies.register("torus")
@settings
class Torus(Topology):
    """A grid of `rows` times nodes / rows whose borders are joined: four neighbours each.

    Args:
        rows: at least 2; the largest divisor of the number of nodes up to its square root, if not given.
    """

    rows: Annotated[int, Meta(ge=2)] | None = None

    def draw(self, nodes: int, round: int, seed: int) -> Graph:
        rows = self.rows or max(number for number in range(1, math.isqrt(nodes) + 1) if nodes % number == 0)
        if nodes % rows or rows == 1 or nodes == rows:
            raise _refuse(
                self, nodes, "a torus needs rows * columns nodes, at least two of each: change the number, or take a ring"
            )
        row, column = np.divmod(np.arange(nodes), nodes // rows)
        graph = np.zeros((nodes, nodes), dtype=bool)
        for down, right in ((1, 0), (-1, 0), (0, 1), (0, -1)):
            graph[np.arange(nodes), (row + down) % rows * (nodes // rows) + (column + right) % (nodes // rows)] = True
        return graph


@topologies.register("regular")
@settings
class Regular(Topology):
    """A random connected graph in which every node is linked, both ways, with `degree` others.

    A lattice on a circle, of which pairs of links a-b, c-d are made a-d, c-b at random, ten times as often as there are links, and
    until all are connected. Such a graph mixes far better than the lattice.
    """

    degree: Annotated[int, Meta(ge=1)] = 4

    def draw(self, nodes: int, round: int, seed: int) -> Graph:
        degree = self.degree
        if degree >= nodes or nodes * degree % 2:
            raise _refuse(self, nodes, f"degree must be below the number of nodes, and degree times nodes even; it is {degree}")
        graph = _lattice(nodes, degree)
        random, ends = rng(seed, "topology", "regular"), np.argwhere(np.triu(graph))
        for _ in range(ATTEMPTS):
            chosen = random.integers(len(ends), size=(10 * len(ends), 2))
            turned = random.random(len(chosen)) < 0.5
            for (one, other), turn in zip(chosen.tolist(), turned.tolist(), strict=True):
                (a, b), (c, d) = ends[one].tolist(), ends[other].tolist()
                c, d = (d, c) if turn else (c, d)
                if len({a, b, c, d}) == 4 and not graph[a, d] and not graph[c, b]:
                    graph[[a, b, c, d], [b, a, d, c]] = False
                    graph[[a, d, c, b], [d, a, b, c]] = True
                    ends[one], ends[other] = (a, d), (c, b)
            if unreachable(graph) is None:
                break
        return graph


@topologies.register("small_world")
@settings
class SmallWorld(Topology):
    """Watts and Strogatz, Nature 393, 1998: a lattice on a circle, whose links are each bent to anybody with probability `rewire`.

    Args:
        degree: even, links per node of the lattice; `rewire`: 0 is the lattice itself.
    """

    degree: Annotated[int, Meta(ge=2)] = 4
    rewire: Annotated[float, Meta(ge=0, le=1)] = 0.3

    def problems(self) -> Iterator[str]:
        if self.degree % 2:
            yield f"degree = {self.degree}: must be even, half of the links go to each side"

    def draw(self, nodes: int, round: int, seed: int) -> Graph:
        if self.degree >= nodes:
            raise _refuse(self, nodes, f"degree must be below the number of nodes; it is {self.degree}")
        random = rng(seed, "topology", "small_world")
        for _ in range(ATTEMPTS):
            graph = _lattice(nodes, self.degree)
            for offset in range(1, self.degree // 2 + 1):
                for node in range(nodes):
                    free = np.flatnonzero(~graph[node])
                    free = free[free != node]
                    if random.random() < self.rewire and len(free):
                        old, new = (node + offset) % nodes, random.choice(free)
                        graph[node, old] = graph[old, node] = False
                        graph[node, new] = graph[new, node] = True
            if unreachable(graph) is None:
                break
        return graph


@topologies.register("directed")
@settings
class Directed(Topology):
    """Links of one direction: every node sends to `degree` others at random, as whom one trusts; how many send to it is chance.

    The first of its links leads around a random circle through all nodes, so that everybody reaches everybody.
    """

    degree: Annotated[int, Meta(ge=1)] = 3

    def draw(self, nodes: int, round: int, seed: int) -> Graph:
        if self.degree >= nodes:
            raise _refuse(self, nodes, f"degree must be below the number of nodes; it is {self.degree}")
        random = rng(seed, "topology", "directed")
        circle = random.permutation(nodes)
        graph = np.zeros((nodes, nodes), dtype=bool)
        graph[circle, np.roll(circle, -1)] = True
        for node in range(nodes):
            others = np.flatnonzero(~graph[node])
            graph[node, random.choice(others[others != node], self.degree - 1, replace=False)] = True
        return graph


@topologies.register("exponential")
@settings
class Exponential(Topology):
    """Node i sends to i + 1, i + 2, i + 4, ... around the circle; `one_peer`: in every round to one of them, in turn.

    The directed exponential graph of Assran et al., ICML 2019. Where the number of nodes is a power of two, one turn of the latter
    with weights of one half makes everybody's value the exact mean.
    """

    one_peer: bool = True

    @property
    def varies(self) -> bool:
        return self.one_peer

    def window(self, nodes: int) -> int:
        return max(1, (nodes - 1).bit_length()) if self.one_peer else 1

    def draw(self, nodes: int, round: int, seed: int) -> Graph:
        hops = [1 << power for power in range((nodes - 1).bit_length())]
        return _offsets(nodes, [hops[round % len(hops)]] if self.one_peer and hops else hops)


@topologies.register("links")
@settings
class Links(Topology):
    """A graph that is known: `[i, j]` for every node i that sends to a node j, nodes being counted from 0 in the cohort's order."""

    links: tuple[tuple[Annotated[int, Meta(ge=0)], Annotated[int, Meta(ge=0)]], ...]

    def problems(self) -> Iterator[str]:
        if loops := [link for link in self.links if link[0] == link[1]]:
            yield f"links = {loops}: a node needs no link to itself, leave these out"

    def draw(self, nodes: int, round: int, seed: int) -> Graph:
        graph = np.zeros((nodes, nodes), dtype=bool)
        if outside := [link for link in self.links if max(link) >= nodes]:
            raise _refuse(self, nodes, f"there are nodes 0 to {nodes - 1} only, no {outside}")
        for sender, receiver in self.links:
            graph[sender, receiver] = True
        return graph


@topologies.register("sequence")
@settings
class Sequence(Topology):
    """One topology after the other, a round each, again and again; together they have to connect everybody."""

    topologies: tuple[Topology, ...]

    def problems(self) -> Iterator[str]:
        if not self.topologies:
            yield "topologies = []: name one at least"

    @property
    def varies(self) -> bool:
        return True

    def window(self, nodes: int) -> int:
        return len(self.topologies) * max(topology.window(nodes) for topology in self.topologies)

    def draw(self, nodes: int, round: int, seed: int) -> Graph:
        turn, number = divmod(round, len(self.topologies))
        return self.topologies[number].draw(nodes, turn, key(seed, "sequence", number))


@topologies.register("redrawn")
@settings
class Redrawn(Topology):
    """A random topology that is drawn afresh in every round.

    Args:
        rounds: over how many rounds the links together have to connect everybody.
    """

    of: Topology
    rounds: Annotated[int, Meta(ge=1)] = 1

    @property
    def varies(self) -> bool:
        return True

    def window(self, nodes: int) -> int:
        return self.rounds

    def draw(self, nodes: int, round: int, seed: int) -> Graph:
        return self.of.draw(nodes, round, key(seed, "redrawn", round))
