"""Splits of a data set: local test sets that resemble local training sets, and held-out parts that resemble the whole."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedml_core.errors import ConfigError
from fedml_core.partition.deal import apportion, deal
from fedml_core.rng import rng


def matching_split(
    test_labels: np.ndarray, train_labels: np.ndarray, train_parts: Sequence[np.ndarray], seed: int
) -> list[np.ndarray]:
    """Each client's rows of `test_labels`, with classes in proportion to the training examples the client holds.

    A test example of class c is client k's with probability n_kc / sum_j n_jc, where n_kc counts the client's training examples of
    c; how many k gets is within one of that quota. No example is given to two clients; classes nobody holds go to nobody.
    """
    random = rng(seed, "partition", "matching")
    classes, sizes = np.unique(test_labels, return_counts=True)
    held = np.array([(train_labels[rows, None] == classes).sum(axis=0) for rows in train_parts])
    shares = [apportion(size, held[:, c], random.random()) for c, size in enumerate(sizes)]
    return deal(test_labels, np.stack(shares, axis=1), random)


def stratified_split(labels: np.ndarray, held_out: int | float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(Rows that stay, rows held out), drawn at random with every class held out in the same proportion, to within one example.

    Args:
        held_out: how many examples (int), or which fraction of them (float).
    """
    examples = len(labels)
    if not 0 <= held_out <= (1 if isinstance(held_out, float) else examples):
        raise ConfigError(f"held_out = {held_out}: must be a fraction from 0.0 to 1.0, or a number from 0 to {examples} examples")
    number = round(held_out * examples) if isinstance(held_out, float) else held_out
    sizes = np.unique(labels, return_counts=True)[1]
    held = apportion(number, sizes, offset=0.5)
    stays, goes = deal(labels, np.stack([sizes - held, held]), rng(seed, "partition", "stratified"))
    return stays, goes
