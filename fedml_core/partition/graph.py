"""Communities of a graph, to partition its nodes by."""

from __future__ import annotations

import numpy as np

from fedml_core.rng import rng


def communities(edges: np.ndarray, nodes: int, seed: int, resolution: float = 1.0) -> np.ndarray:
    """The community of each node, int64 `[nodes]` from 0: a partition whose modularity no move of a node or a community raises.

    The Louvain method: nodes in random order move to the neighbouring community that raises modularity most, until none does; then
    communities become the nodes of a weighted graph, and it begins again. Blondel et al., J. Stat. Mech. 2008.

    Args:
        edges: int `[m, 2]`, undirected; one that is listed twice, in whatever direction, weighs twice.
        resolution: how much the expected number of edges counts against those there are; the larger, the more communities
            (Reichardt and Bornholdt, Phys. Rev. E 74, 2006).
    """
    random = rng(seed, "communities")
    found = np.arange(nodes)
    weights: list[dict[int, float]] = [{} for _ in range(nodes)]
    for one, other in edges.tolist():
        for a, b in ((one, other), (other, one)):  # a loop counts twice, as it does in its node's degree
            weights[a][b] = weights[a].get(b, 0.0) + 1.0
    while True:
        moved = _moved(weights, random, resolution)
        names, place = np.unique(moved, return_inverse=True)
        found = place[found]
        if len(names) == len(weights):
            return found
        merged: list[dict[int, float]] = [{} for _ in names]
        for node, neighbours in enumerate(weights):
            here = merged[place[node]]
            for other, weight in neighbours.items():
                here[int(place[other])] = here.get(int(place[other]), 0.0) + weight
        weights = merged


def modularity(edges: np.ndarray, found: np.ndarray) -> float:
    """Q = sum_c [ m_c / m - (d_c / 2m)^2 ], m_c edges and d_c the sum of degrees within community c. Newman and Girvan, 2004."""
    inside = found[edges[:, 0]] == found[edges[:, 1]]
    degrees = np.bincount(found[edges.ravel()], minlength=int(found.max()) + 1)
    return float(inside.mean() - ((degrees / (2 * len(edges))) ** 2).sum())


def _moved(weights: list[dict[int, float]], random: np.random.Generator, resolution: float) -> np.ndarray:
    """The community of each node when no move of one raises modularity."""
    degrees = [sum(neighbours.values()) for neighbours in weights]
    total = sum(degrees)
    place, held = list(range(len(weights))), list(degrees)
    order = random.permutation(len(weights)).tolist()
    improved = total > 0
    while improved:
        improved = False
        for node in order:
            towards: dict[int, float] = {place[node]: 0.0}
            for other, weight in weights[node].items():
                if other != node:
                    towards[place[other]] = towards.get(place[other], 0.0) + weight
            held[place[node]] -= degrees[node]
            gain = {there: weight - resolution * degrees[node] * held[there] / total for there, weight in towards.items()}
            best = max(gain, key=gain.__getitem__)
            # Rounding must not move a node to and fro.
            if gain[best] > gain[place[node]] + 1e-9 * total / len(weights):
                place[node], improved = best, True
            held[place[node]] += degrees[node]
    return np.array(place)
