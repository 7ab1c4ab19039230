"""Partitioners: how the examples of a data set that names no owners are spread over clients."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated

import numpy as np
from msgspec import Meta

from fedml_core.errors import ConfigError
from fedml_core.partition.deal import apportion, deal, group
from fedml_core.rng import rng
from fedml_core.settings import Registry, settings

# Past these bounds a Dirichlet draw is a single one, or the mean, to within rounding; they keep its arithmetic finite.
Concentration = Annotated[float, Meta(ge=1e-9, le=1e9)]


class Partitioner(ABC):
    """Settings that say who holds which example: a pure function of the labels, the number of clients and the seed."""

    @abstractmethod
    def __call__(self, labels: np.ndarray, clients: int, seed: int) -> list[np.ndarray]:
        """Each client's rows of `labels` (`[n]`), as ascending int64; every row is exactly one client's.

        Raises:
            ConfigError: the examples do not suffice for so many clients.
        """


partitioners: Registry[Partitioner] = Registry("partitioner", Partitioner)


@partitioners.register("iid")
@settings
class Iid(Partitioner):
    """Uniformly at random, sizes equal to within one example. McMahan et al., AISTATS 2017, sec. 3."""

    def __call__(self, labels: np.ndarray, clients: int, seed: int) -> list[np.ndarray]:
        _check(labels, clients)
        return _at_random(_even(len(labels), clients), rng(seed, "partition", "iid"))


@partitioners.register("dirichlet")
@settings
class Dirichlet(Partitioner):
    """Label skew: every client draws its own class distribution, q ~ Dir(alpha p), with p the class frequencies of all examples.

    Client after client draws its examples without replacement, each of a class drawn from q; once a class is exhausted q is
    renormalised over the others. Sizes are equal to within one example. alpha -> 0: one class per client; alpha -> infinity: IID.
    The last clients share what is left, so they are the furthest from their q. Hsu, Qi and Brown, arXiv 1909.06335, 2019.

    Since p sums to 1, what others write as Dir(a, ..., a) over C balanced classes is alpha = C a here.
    """

    alpha: Concentration = 0.3

    def __call__(self, labels: np.ndarray, clients: int, seed: int) -> list[np.ndarray]:
        _check(labels, clients)
        random = rng(seed, "partition", "dirichlet")
        left = np.unique(labels, return_counts=True)[1]
        concentration = self.alpha * left / len(labels)
        counts = np.zeros((clients, len(left)), np.int64)
        for drawn, size in zip(counts, _even(len(labels), clients), strict=True):
            q = random.dirichlet(concentration)
            # Renormalising is the same as rejecting draws of exhausted classes: draw all that is missing at once, keep what there
            # is. Every repetition has exhausted a class, so few are needed.
            while missing := size - drawn.sum():
                q = np.where(left > 0, q, 0)
                if not q.any():
                    # The open classes' part of q has underflowed. Renormalised, it is Dirichlet and independent of the rest.
                    q[left > 0] = random.dirichlet(concentration[left > 0])
                kept = np.minimum(random.multinomial(missing, q / q.sum()), left)
                drawn += kept
                left -= kept
        return deal(labels, counts, random)


@partitioners.register("shards")
@settings
class Shards(Partitioner):
    """Pathological label skew: sort by label, cut into equal shards, deal `shards_per_client` to each client.

    With 2 shards most clients see two classes only. McMahan et al., AISTATS 2017, sec. 3.
    """

    shards_per_client: Annotated[int, Meta(ge=1)] = 2

    def __call__(self, labels: np.ndarray, clients: int, seed: int) -> list[np.ndarray]:
        _check(labels, clients, self.shards_per_client, "shards_per_client")
        shards = clients * self.shards_per_client
        dealt = rng(seed, "partition", "shards").permutation(shards) // self.shards_per_client
        owners = np.empty(len(labels), np.int64)
        owners[np.argsort(labels, kind="stable")] = dealt.repeat(_even(len(labels), shards))
        return group(owners, clients)


@partitioners.register("quantity")
@settings
class Quantity(Partitioner):
    """Quantity skew: n_k = minimum + q_k (n - clients minimum) examples with q ~ Dir(alpha), drawn uniformly at random.

    Li et al., Federated Learning on Non-IID Data Silos, ICDE 2022, with a floor under the size of a client.
    """

    alpha: Concentration = 0.5
    minimum: Annotated[int, Meta(ge=1)] = 1

    def __call__(self, labels: np.ndarray, clients: int, seed: int) -> list[np.ndarray]:
        _check(labels, clients, self.minimum, "minimum")
        random = rng(seed, "partition", "quantity")
        shares = random.dirichlet(np.full(clients, self.alpha))
        sizes = self.minimum + apportion(len(labels) - clients * self.minimum, shares, offset=0.5)
        return _at_random(sizes, random)


def natural(owners: np.ndarray) -> dict[str, np.ndarray]:
    """Clients as the data set names them: each owner's rows, by its id as text, in the order of the sorted ids."""
    ids, codes = np.unique(owners, return_inverse=True)
    return dict(zip(map(str, ids), group(codes, len(ids)), strict=True))


def _even(examples: int, parts: int) -> np.ndarray:
    return examples // parts + (np.arange(parts) < examples % parts)


def _at_random(sizes: np.ndarray, random: np.random.Generator) -> list[np.ndarray]:
    return group(random.permutation(np.arange(len(sizes)).repeat(sizes)), len(sizes))


def _check(labels: np.ndarray, clients: int, each: int = 1, field: str = "") -> None:
    """Refuse fewer than `each` examples for every client, the number that `field` asks for."""
    if clients < 1:
        raise ConfigError(f"clients = {clients}: must be at least 1")
    examples, needed = len(labels), clients * each
    if needed > examples:
        remedies = [f"lower clients to at most {examples // each}"] if examples >= each else []
        remedies += [f"lower {field} to at most {examples // clients}"] if field and examples >= clients else []
        asked = f"clients = {clients}" + (f" and {field} = {each}" if field else "")
        raise ConfigError(
            f"{asked}: need at least {needed} examples, and there are {examples}; {', or '.join([*remedies, 'use more data'])}"
        )
