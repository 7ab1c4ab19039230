"""Dealing rows to parties: every split of a data set comes down to who owns which row."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np


def group(owners: np.ndarray, parties: int) -> list[np.ndarray]:
    """The rows that parties 0, 1, ... own, ascending and int64; rows of any other owner are nobody's."""
    order = np.argsort(owners, kind="stable").astype(np.int64, copy=False)
    bounds = np.searchsorted(owners[order], np.arange(parties + 1))
    return [order[start:stop] for start, stop in itertools.pairwise(bounds)]


def deal(labels: np.ndarray, counts: np.ndarray, random: np.random.Generator) -> list[np.ndarray]:
    """Rows drawn without replacement: `counts[k, c]` of the c-th class (in sorted order) to party k, the rest to nobody."""
    sizes = np.unique(labels, return_counts=True)[1]
    shuffled = random.permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    with_nobody = np.vstack([counts, sizes - counts.sum(axis=0)])
    owners = np.empty(len(labels), np.int64)
    owners[by_class] = np.tile(np.arange(len(with_nobody)), len(sizes)).repeat(with_nobody.T.ravel())
    return group(owners, len(counts))


def apportion(total: int, weights: np.ndarray, offset: float) -> np.ndarray:
    """Whole shares of `total` that sum to it, each less than 1 away from total * weights / sum(weights).

    Systematic sampling: the cumulative shares plus `offset`, rounded down. With the offset uniform in [0, 1) each share has exactly
    its quota as its mean; 0.5 rounds to nearest. All zero if the weights are.
    """
    if not weights.any():
        return np.zeros(len(weights), np.int64)
    cumulative = np.cumsum(weights)
    exact = np.where(cumulative == cumulative[-1], total, cumulative * total / cumulative[-1])
    whole = np.floor(exact)
    # Compared with 1 - offset, which is above zero, rather than added to it: an offset next to 1 must not lift a whole number.
    bounds = (whole + (exact - whole >= 1 - offset)).astype(np.int64)
    return np.diff(bounds, prepend=0)


def evenly(total: int, parts: int) -> np.ndarray:
    """`parts` whole numbers that sum to `total` and differ by 1 at most, the larger ones first."""
    return total // parts + (np.arange(parts) < total % parts)


def at_random(sizes: np.ndarray, examples: int, random: np.random.Generator) -> list[np.ndarray]:
    """Rows drawn uniformly without replacement: `sizes[k]` of so many examples to party k, the rest to nobody."""
    with_nobody = np.append(sizes, examples - sizes.sum())
    return group(random.permutation(np.arange(len(with_nobody)).repeat(with_nobody)), len(sizes))


def fill(q: np.ndarray, concentration: np.ndarray, size: int, left: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """How many of `size` draws, without replacement, are of each class, where q renormalised over the open classes says of which.

    Args:
        q: drawn from Dir(`concentration`); `left`: the examples left of each class, at least `size` in all; they are taken off.
    """
    drawn = np.zeros(len(left), np.int64)
    # Renormalising is the same as rejecting draws of exhausted classes: draw all that is missing at once, keep what there is.
    # Every repetition has exhausted a class, so few are needed.
    while missing := size - drawn.sum():
        q = np.where(left > 0, q, 0)
        if not q.any():
            # The open classes' part of q has underflowed. Renormalised, it is Dirichlet and independent of the rest.
            q[left > 0] = random.dirichlet(concentration[left > 0])
        kept = np.minimum(random.multinomial(missing, q / q.sum()), left)
        drawn += kept
        left -= kept
    return drawn


def at_least(parts: Sequence[np.ndarray], minimum: int, random: np.random.Generator) -> list[np.ndarray]:
    """The same, but parties of fewer than `minimum` rows get what they lack, row by row, each drawn from the then largest party.

    There must be `minimum` rows for each party.
    """
    parts, sizes = list(parts), np.array([len(rows) for rows in parts])
    for poor in np.flatnonzero(sizes < minimum):
        gained: list[int] = []
        while sizes[poor] + len(gained) < minimum:
            rich = sizes.argmax()
            which = random.integers(sizes[rich])
            gained.append(parts[rich][which])
            parts[rich], sizes[rich] = np.delete(parts[rich], which), sizes[rich] - 1
        parts[poor] = np.sort(np.append(parts[poor], np.array(gained, np.int64)))
        sizes[poor] = minimum
    return parts
