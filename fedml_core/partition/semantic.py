"""Semantic partition: clients whose examples look alike within each class."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from msgspec import Meta

from fedml_core.errors import ConfigError
from fedml_core.partition.deal import at_least, group
from fedml_core.partition.partitioner import Columns, Partitioner, column, enough, partitioners
from fedml_core.rng import rng
from fedml_core.settings import settings


@partitioners.register("semantic")
@settings
class Semantic(Partitioner):
    """Feature skew within classes: each client holds one cluster of every class, and clusters that are near each other in space.

    Features are projected on their first `dimensions` principal components. The examples of each class are clustered into as many
    clusters as there are clients (k-means++; Lloyd's algorithm). Class after class, in random order, clusters are matched to
    clients so that the sum of squared distances between the cluster's mean and the mean of what the client holds is least
    (Hungarian algorithm). Clients that remain empty get an example of the largest one.

    Yuan et al., What Do We Mean by Generalization in Federated Learning?, ICLR 2022; they embed images with a pretrained
    network, and compare mixtures of Gaussians. The last bits of the projection differ between processors, so that a partition may:
    save it where that matters.

    Args:
        by: the column of features, `[n, ...]`: the inputs, or embeddings, if there are any.
        dimensions: how many principal components; `iterations`: at most so many of k-means.
    """

    by: str = "x"
    dimensions: Annotated[int, Meta(ge=1)] = 32
    iterations: Annotated[int, Meta(ge=1)] = 20

    def parts(self, columns: Columns, clients: int, seed: int) -> list[np.ndarray]:
        labels = column(columns, "y")
        enough(len(labels), clients)
        features = self._features(columns)
        random = rng(seed, "partition", "semantic")
        owners = np.empty(len(labels), np.int64)
        sums, held = np.zeros((clients, features.shape[1])), np.zeros(clients)
        for label in random.permutation(np.unique(labels)):
            rows = np.flatnonzero(labels == label)
            cluster = kmeans(features[rows], min(clients, len(rows)), self.iterations, random)
            members = group(cluster, cluster.max() + 1)
            members = [some for some in members if len(some)]
            means = np.stack([features[rows[some]].mean(axis=0) for some in members])
            # A client that holds nothing is equally far from every cluster.
            distance = np.where(held > 0, _squared(means, sums / np.maximum(held, 1)[:, None]), 0.0)
            for some, client in zip(members, cheapest_matching(distance), strict=True):
                owners[rows[some]] = client
                sums[client] += features[rows[some]].sum(axis=0)
                held[client] += len(some)
        return at_least(group(owners, clients), 1, random)

    def _features(self, columns: Columns) -> np.ndarray:
        """`[n, dimensions]`: the first principal components."""
        if self.by not in columns or columns[self.by].dtype.kind not in "biuf" or columns[self.by].ndim < 2:
            known = ", ".join(name for name, values in columns.items() if values.ndim > 1) or "none"
            raise ConfigError(f"by = '{self.by}': needed are features, numbers [n, ...]; there are: {known}")
        features = columns[self.by].reshape(len(columns[self.by]), -1).astype(np.float64)
        if not np.isfinite(features).all():
            raise ConfigError(f"by = '{self.by}': has what is no finite number; use another column")
        features /= np.abs(features).max(initial=0.0) or 1.0  # first, so that no sum of the largest numbers overflows
        features -= features.mean(axis=0)
        axes = np.linalg.eigh(features.T @ features)[1][:, ::-1][:, : self.dimensions]
        return np.asarray(features @ axes)


def kmeans(x: np.ndarray, clusters: int, iterations: int, random: np.random.Generator) -> np.ndarray:
    """The cluster of each row of `x` `[n, d]`: int64 from 0 to `clusters` - 1, of which some may have no rows.

    Seeds are drawn in proportion to the squared distance from those there are (Arthur and Vassilvitskii, SODA 2007).
    """
    centres = np.empty((clusters, x.shape[1]))
    nearest = np.ones(len(x))
    for k in range(clusters):
        total = np.cumsum(nearest)
        centres[k] = x[min(np.searchsorted(total, random.random() * total[-1], side="right"), len(x) - 1)]
        nearest = np.minimum(nearest if k else np.inf, _squared(x, centres[k : k + 1])[:, 0])
    found = np.full(len(x), -1)
    for _ in range(iterations):
        before, found = found, _squared(x, centres).argmin(axis=1)
        if np.array_equal(before, found):
            break
        sizes = np.bincount(found, minlength=clusters)
        sums = np.zeros_like(centres)
        np.add.at(sums, found, x)
        centres[sizes > 0] = sums[sizes > 0] / sizes[sizes > 0, None]
    return found


def _squared(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Squared distances of rows: `[n, d]` and `[m, d]` -> `[n, m]`."""
    distance = (one**2).sum(axis=1)[:, None] - 2 * one @ other.T + (other**2).sum(axis=1)
    return np.asarray(np.maximum(distance, 0.0))


def cheapest_matching(cost: np.ndarray) -> np.ndarray:
    """A column of its own for each row of `cost` (`[n, m]`, n <= m), such that the sum of their costs is least.

    The Hungarian algorithm by shortest augmenting paths, O(n^2 m). Kuhn, 1955; Munkres, 1957.
    """
    rows, columns = cost.shape
    of_row, of_column = np.zeros(rows), np.zeros(columns)
    matched = np.full(columns, -1)  # the row of each column
    for start in range(rows):
        shortest, before = np.full(columns, np.inf), np.full(columns, -1)
        done = np.zeros(columns, bool)
        row, last = start, -1
        while True:
            reached = cost[row] - of_row[row] - of_column
            closer = ~done & (reached < shortest)
            shortest[closer], before[closer] = reached[closer], last
            last = int(np.where(done, np.inf, shortest).argmin())
            step = shortest[last]
            of_column[done] -= step
            of_row[start] += step
            of_row[matched[done]] += step
            shortest[~done] -= step
            done[last] = True
            if matched[last] < 0:
                break
            row = matched[last]
        while last >= 0:
            matched[last] = start if before[last] < 0 else matched[before[last]]
            last = before[last]
    found = np.empty(rows, np.int64)
    found[matched[matched >= 0]] = np.flatnonzero(matched >= 0)
    return found
