"""Pachinko allocation: label skew on two levels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from msgspec import Meta

from fedml_core.errors import ConfigError
from fedml_core.partition.deal import deal, fill, group
from fedml_core.partition.partitioner import Columns, Concentration, Partitioner, column, partitioners
from fedml_core.partition.sizes import Iid, SizeLaw
from fedml_core.rng import rng
from fedml_core.settings import settings


@partitioners.register("pachinko")
@settings
class Pachinko(Partitioner):
    """Label skew on two levels: every client prefers some superclasses, and within each of them some classes.

    Client k draws theta ~ Dir(alpha) over superclasses and phi_s ~ Dir(beta) over the classes of each superclass s, both symmetric.
    Each of its examples is drawn without replacement: a superclass from theta, then a class from phi_s. What is exhausted is left
    out and its level renormalised: a superclass keeps its probability until none of its classes is left.

    Li and McCallum, ICML 2006; Reddi et al., ICLR 2021, app. F, with alpha = 0.1, beta = 10 and 500 clients for CIFAR-100.

    Args:
        coarse: the column that holds superclasses, or the superclass of each class, in the order of the classes.
        sizes: how many examples each client draws; `by`: the column that holds the classes.
    """

    alpha: Concentration = 0.1
    beta: Concentration = 10.0
    coarse: str | tuple[Annotated[int, Meta(ge=0, le=2**31)], ...] = "coarse"
    sizes: SizeLaw = Iid()
    by: str = "y"

    def clients(self, columns: Columns) -> Sequence[str] | None:
        return self.sizes.clients(columns)

    def parts(self, columns: Columns, clients: int, seed: int) -> list[np.ndarray]:
        labels = column(columns, self.by)
        sizes = self.sizes.draw(len(labels), clients, rng(seed, "partition", "sizes"))
        classes, codes, left = np.unique(labels, return_inverse=True, return_counts=True)
        children = self._children(columns, classes, codes)
        left_coarse = np.array([left[one].sum() for one in children])
        random = rng(seed, "partition", "pachinko")
        counts = np.zeros((clients, len(classes)), np.int64)
        alpha = np.full(len(children), self.alpha)
        for drawn, size in zip(counts, sizes, strict=True):
            of_coarse = fill(random.dirichlet(alpha), alpha, size, left_coarse, random)
            for s in np.flatnonzero(of_coarse):
                beta, below = np.full(len(children[s]), self.beta), left[children[s]]
                drawn[children[s]] = fill(random.dirichlet(beta), beta, of_coarse[s], below, random)
                left[children[s]] = below
        return deal(labels, counts, random)

    def _children(self, columns: Columns, classes: np.ndarray, codes: np.ndarray) -> list[np.ndarray]:
        """The classes of each superclass, as numbers from 0 in the order of the classes."""
        if isinstance(self.coarse, tuple):
            if len(self.coarse) != len(classes):
                raise ConfigError(f"coarse: {len(self.coarse)} superclasses for {len(classes)} classes; give one for each class")
            parents = np.array(self.coarse)
        else:
            every = column(columns, self.coarse)
            first = np.unique(codes, return_index=True)[1]
            parents = every[first]
            if (several := np.flatnonzero(parents[codes] != every)).size:
                raise ConfigError(
                    f"coarse = '{self.coarse}': examples of class {classes[codes[several[0]]]} have different superclasses; "
                    "each class must have one"
                )
        names, place = np.unique(parents, return_inverse=True)
        return group(place, len(names))
