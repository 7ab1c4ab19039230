"""Dealing rows to parties: every split of a data set comes down to who owns which row."""

from __future__ import annotations

import itertools

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
