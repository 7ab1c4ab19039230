"""Laws of sizes: how many examples each client holds. By itself, a law deals so many of them uniformly at random."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Annotated, Literal, TypeVar

import numpy as np
from msgspec import Meta

from fedml_core.errors import ConfigError
from fedml_core.partition.deal import apportion, at_random, evenly
from fedml_core.partition.partitioner import Columns, Concentration, Partitioner, count, enough, numbered, partitioners
from fedml_core.rng import rng
from fedml_core.settings import Registry, settings

Minimum = Annotated[int, Meta(ge=1)]


class SizeLaw(Partitioner):
    """Quantity skew; other partitioners take one as their `sizes`, for quantity and label skew at once."""

    @abstractmethod
    def draw(self, examples: int, clients: int, random: np.random.Generator) -> np.ndarray:
        """How many of so many examples each client holds (int64 `[clients]`).

        Raises:
            ConfigError: they do not suffice.
        """

    def parts(self, columns: Columns, clients: int, seed: int) -> list[np.ndarray]:
        random, examples = rng(seed, "partition", partitioners.name_of(type(self))), count(columns)
        return at_random(self.draw(examples, clients, random), examples, random)


size_laws: Registry[SizeLaw] = Registry("law of sizes", SizeLaw)
Law = TypeVar("Law", bound=SizeLaw)


def law_of_sizes(name: str) -> Callable[[type[Law]], type[Law]]:
    """Class decorator: make the class available under `name`, as a law of sizes and as a partitioner."""

    def add(cls: type[Law]) -> type[Law]:
        size_laws.register(name)(cls)
        partitioners.register(name)(cls)
        return cls

    return add


@law_of_sizes("iid")
@settings
class Iid(SizeLaw):
    """Uniformly at random, sizes equal to within one example. McMahan et al., AISTATS 2017, sec. 3."""

    def draw(self, examples: int, clients: int, random: np.random.Generator) -> np.ndarray:
        enough(examples, clients)
        return evenly(examples, clients)


@law_of_sizes("quantity")
@settings
class Quantity(SizeLaw):
    """Quantity skew: n_k = minimum + q_k (n - clients minimum) examples with q ~ Dir(alpha), drawn uniformly at random.

    Li et al., Federated Learning on Non-IID Data Silos, ICDE 2022, with a floor under the size of a client.
    """

    alpha: Concentration = 0.5
    minimum: Minimum = 1

    def draw(self, examples: int, clients: int, random: np.random.Generator) -> np.ndarray:
        shares = random.dirichlet(np.full(clients, self.alpha))
        return _above(self.minimum, shares, examples, clients)


@law_of_sizes("lognormal")
@settings
class Lognormal(SizeLaw):
    """Heavy-tailed sizes: n_k = minimum + (n - clients minimum) s_k / sum(s) examples with log s ~ N(0, sigma^2).

    What FedProx calls a power law. Li et al., MLSys 2020.
    """

    sigma: Annotated[float, Meta(ge=0, le=20)] = 2.0
    minimum: Minimum = 1

    def draw(self, examples: int, clients: int, random: np.random.Generator) -> np.ndarray:
        return _above(self.minimum, random.lognormal(0, self.sigma, clients), examples, clients)


@law_of_sizes("power")
@settings
class Power(SizeLaw):
    """Sizes as a power of the client's number: n_k proportional to k^exponent, k = 1, 2, ..., clients.

    1: linear; 2: square; negative: the rank-size (Zipf) law. Each size is within one example of its quota, unless that is 0: a
    client without examples gets one of the largest client's.
    """

    exponent: Annotated[float, Meta(ge=-10, le=10)] = 1.0

    def draw(self, examples: int, clients: int, random: np.random.Generator) -> np.ndarray:
        return _by_number(self.exponent * np.log(np.arange(1, clients + 1)), examples)


@law_of_sizes("exponential")
@settings
class Exponential(SizeLaw):
    """Sizes that grow exponentially with the client's number: n_k proportional to exp(rate k).

    Each size is within one example of its quota, unless that is 0: a client without examples gets one of the largest client's.
    """

    rate: Annotated[float, Meta(ge=-100, le=100)] = 1.0

    def draw(self, examples: int, clients: int, random: np.random.Generator) -> np.ndarray:
        return _by_number(self.rate * np.arange(1, clients + 1), examples)


@law_of_sizes("sizes")
@settings
class Sizes(SizeLaw):
    """So many examples for the first client, so many for the second, ...

    Args:
        rest: what becomes of examples that the sizes leave over: `refuse` the partition, or `drop` them.
    """

    sizes: tuple[Annotated[int, Meta(ge=1, le=2**53)], ...]
    rest: Literal["refuse", "drop"] = "refuse"

    def problems(self) -> list[str]:
        return [] if self.sizes else ["sizes is empty: there must be one for each client"]

    def clients(self, columns: Columns) -> Sequence[str]:
        return numbered(len(self.sizes))

    def draw(self, examples: int, clients: int, random: np.random.Generator) -> np.ndarray:
        asked = sum(self.sizes)
        if len(self.sizes) != clients:
            raise ConfigError(
                f"sizes: there are {len(self.sizes)} of them, and {clients} to be given; use another law of sizes here"
            )
        if asked > examples or (asked < examples and self.rest == "refuse"):
            remedy = "lower them" if asked > examples else "raise them, or say rest: drop"
            raise ConfigError(f"sizes sum to {asked}, and there are {examples} examples; {remedy}")
        return np.array(self.sizes, np.int64)


def _above(minimum: int, weights: np.ndarray, examples: int, clients: int) -> np.ndarray:
    """`minimum` for everybody, and what is left in proportion to the weights."""
    enough(examples, clients, minimum, "minimum")
    return minimum + apportion(examples - clients * minimum, weights, offset=0.5)


def _by_number(log_weights: np.ndarray, examples: int) -> np.ndarray:
    enough(examples, len(log_weights))
    sizes = apportion(examples, np.exp(log_weights - log_weights.max()), offset=0.5)
    for empty in np.flatnonzero(sizes == 0):
        sizes[sizes.argmax()] -= 1
        sizes[empty] = 1
    return sizes
