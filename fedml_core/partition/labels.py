"""Label skew: clients that hold some classes more than others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from msgspec import Meta

from fedml_core.errors import ConfigError
from fedml_core.partition.deal import apportion, at_least, deal, evenly, fill, group
from fedml_core.partition.partitioner import Columns, Concentration, Partitioner, column, enough, numbered, partitioners
from fedml_core.partition.sizes import Iid, Minimum, SizeLaw
from fedml_core.rng import rng
from fedml_core.settings import settings


@partitioners.register("dirichlet")
@settings
class Dirichlet(Partitioner):
    """Label skew: every client draws its own class distribution, q ~ Dir(alpha p), with p the class frequencies of all examples.

    Client after client draws its examples without replacement, each of a class drawn from q; once a class is exhausted q is
    renormalised over the others. Sizes are equal to within one example. alpha -> 0: one class per client; alpha -> infinity: IID.
    The last clients share what is left, so they are the furthest from their q. Hsu, Qi and Brown, arXiv 1909.06335, 2019.

    Since p sums to 1, what others write as Dir(a, ..., a) over C balanced classes is alpha = C a here.

    Args:
        sizes: another law of sizes, for quantity and label skew at once; `by`: the column that holds the classes.
    """

    alpha: Concentration = 0.3
    sizes: SizeLaw = Iid()
    by: str = "y"

    def clients(self, columns: Columns) -> Sequence[str] | None:
        return self.sizes.clients(columns)

    def parts(self, columns: Columns, clients: int, seed: int) -> list[np.ndarray]:
        labels = column(columns, self.by)
        sizes = self.sizes.draw(len(labels), clients, rng(seed, "partition", "sizes"))
        random = rng(seed, "partition", "dirichlet")
        left = np.unique(labels, return_counts=True)[1]
        concentration = self.alpha * left / len(labels)
        counts = [fill(random.dirichlet(concentration), concentration, size, left, random) for size in sizes]
        return deal(labels, np.array(counts), random)


@partitioners.register("class_dirichlet")
@settings
class ClassDirichlet(Partitioner):
    """Label and quantity skew: of the examples of every class c, client k gets the share p_ck, with p_c ~ Dir(alpha) over clients.

    Yurochkin et al., ICML 2019; Li et al., ICDE 2022; what most libraries mean by a Dirichlet partition. `dirichlet` draws a
    distribution over classes for each client instead.

    Args:
        alpha: the same for all clients, or one for each.
        minimum: clients with fewer examples get what they lack from the then largest client, drawn at random. (Others draw
            everything again until nobody has fewer, for which they may wait forever.)
        balanced: whether a client that holds more than n / clients examples gets none of the classes still to come, as in the code
            of Yurochkin et al.
        by: the column that holds the classes.
    """

    alpha: Concentration | tuple[Concentration, ...] = 0.5
    minimum: Minimum = 1
    balanced: bool = False
    by: str = "y"

    def problems(self) -> list[str]:
        return ["alpha is empty: give a number, or one for each client"] if self.alpha == () else []

    def clients(self, columns: Columns) -> Sequence[str] | None:
        return numbered(len(self.alpha)) if isinstance(self.alpha, tuple) else None

    def parts(self, columns: Columns, clients: int, seed: int) -> list[np.ndarray]:
        labels = column(columns, self.by)
        enough(len(labels), clients, self.minimum, "minimum")
        random = rng(seed, "partition", "class_dirichlet")
        alpha = np.broadcast_to(np.array(self.alpha), clients)
        held = np.zeros(clients, np.int64)
        counts = []
        for size in np.unique(labels, return_counts=True)[1]:
            open_clients = np.flatnonzero(held <= len(labels) / clients) if self.balanced else np.arange(clients)
            # Of a Dirichlet draw, renormalised over some clients, the distribution is Dirichlet over these.
            shares = np.zeros(clients)
            shares[open_clients] = random.dirichlet(alpha[open_clients])
            counts.append(apportion(size, shares, random.random()))
            held += counts[-1]
        return at_least(deal(labels, np.stack(counts, axis=1), random), self.minimum, random)


@partitioners.register("shards")
@settings
class Shards(Partitioner):
    """Pathological label skew: sort by label, cut into equal shards, deal `shards_per_client` to each client.

    With 2 shards most clients see two classes only. McMahan et al., AISTATS 2017, sec. 3.

    Args:
        shards_per_client: None: as many as there are shards of `shard_size`, equal to within one.
        shard_size: None: all examples are cut into as many shards as are needed, equal to within one example.
        rest: of shards that have a size, the last one may be smaller: `keep` it, or `drop` it and all that nobody is dealt.
        by: the column that holds the classes.
    """

    shards_per_client: Annotated[int, Meta(ge=1)] | None = 2
    shard_size: Annotated[int, Meta(ge=1)] | None = None
    rest: Literal["keep", "drop"] = "keep"
    by: str = "y"

    def problems(self) -> list[str]:
        if self.shard_size is None:
            return ["shards_per_client and shard_size are both null: give one of them"] if self.shards_per_client is None else []
        if self.shards_per_client is not None and self.rest == "keep":
            return ["shards_per_client and shard_size together leave shards to nobody: say rest: drop, or shards_per_client: null"]
        return []

    def parts(self, columns: Columns, clients: int, seed: int) -> list[np.ndarray]:
        labels = column(columns, self.by)
        shards, random = self._sizes(len(labels), clients), rng(seed, "partition", "shards")
        if self.shards_per_client is None:
            holders = random.permutation(np.arange(clients).repeat(evenly(len(shards), clients)))
        else:
            holders = random.permutation(len(shards)) // self.shards_per_client
        owners = np.full(len(labels), clients, np.int64)
        owners[np.argsort(labels, kind="stable")[: shards.sum()]] = holders.repeat(shards)
        return group(owners, clients)

    def _sizes(self, examples: int, clients: int) -> np.ndarray:
        """How many examples each shard has."""
        if self.shard_size is None:
            assert self.shards_per_client is not None
            enough(examples, clients, self.shards_per_client, "shards_per_client")
            return evenly(examples, clients * self.shards_per_client)
        whole, last = divmod(examples, self.shard_size)
        sizes = np.array([self.shard_size] * whole + [last] * (last > 0 and self.rest == "keep"), np.int64)
        needed = clients * (self.shards_per_client or 1)
        if len(sizes) < needed:
            raise ConfigError(
                f"shard_size = {self.shard_size}: of {examples} examples that makes {len(sizes)} shards, and {clients} clients "
                f"need {needed}; lower shard_size{', shards_per_client' if self.shards_per_client else ''} or clients"
            )
        return sizes


@partitioners.register("classes")
@settings
class Classes(Partitioner):
    """Pathological label skew: every client holds examples of exactly `classes_per_client` classes, and all classes are held.

    First classes are assigned to clients, then the examples of each class are split among the clients that have it.
    Li et al., ICDE 2022 (#C = k). With `assignment: deterministic` and `sizes: {name: lognormal, minimum: 5}`, FedProx's MNIST.

    Args:
        assignment: client k of classes 0 .. C-1 has the classes k, k + 1, ... mod C (`deterministic`), the class k mod C and others
            at random (`first`), or all at random (`random`). A class that no client drew takes the place, at a random client, of
            one that others have as well.
        sizes: how the examples of a class are split among its clients.
        by: the column that holds the classes.
    """

    classes_per_client: Annotated[int, Meta(ge=1)] = 2
    assignment: Literal["random", "first", "deterministic"] = "random"
    sizes: SizeLaw = Iid()
    by: str = "y"

    def parts(self, columns: Columns, clients: int, seed: int) -> list[np.ndarray]:
        labels = column(columns, self.by)
        enough(len(labels), clients, self.classes_per_client, "classes_per_client")
        random = rng(seed, "partition", "classes")
        classes, sizes = np.unique(labels, return_counts=True)
        held = self._assign(clients, len(classes), random)
        counts = np.zeros(held.shape, np.int64)
        for c, size in enumerate(sizes.tolist()):
            holders = np.flatnonzero(held[:, c])
            try:
                counts[holders, c] = self.sizes.draw(size, len(holders), random)
            except ConfigError as error:
                raise ConfigError(
                    f"class {classes[c]}, {size} examples of which {len(holders)} clients have some: {error}"
                ) from None
        return deal(labels, counts, random)

    def _assign(self, clients: int, classes: int, random: np.random.Generator) -> np.ndarray:
        """Who has which class: bool `[clients, classes]`, with `classes_per_client` in each row and some in each column."""
        each, first = self.classes_per_client, np.arange(clients) % classes
        if each > classes:
            raise ConfigError(f"classes_per_client = {each}: there are {classes} classes; lower it to at most {classes}")
        reached = clients + each - 1 if self.assignment == "deterministic" else clients * each
        if reached < classes:
            raise ConfigError(
                f"classes_per_client = {each}: {clients} clients hold {reached} of {classes} classes; raise it, or clients"
            )
        # The classes of a client are those with the smallest numbers in its row.
        if self.assignment == "deterministic":
            numbers = (np.arange(classes) - first[:, None]) % classes + 0.0
        else:
            numbers = random.random((clients, classes))
        if self.assignment == "first":
            numbers[np.arange(clients), first] = -1
        held = np.argsort(np.argsort(numbers, axis=1, kind="stable"), axis=1, kind="stable") < each
        for unused in np.flatnonzero(~held.any(axis=0)):
            removable = held & (held.sum(axis=0) > 1) & (numbers >= 0)
            client, other = np.argwhere(removable)[random.integers(removable.sum())]
            held[client, other], held[client, unused] = False, True
        return held


@partitioners.register("distribution")
@settings
class Distribution(Partitioner):
    """Class by class as given: of the examples of class c, client k gets the share w_kc / sum_j w_jc, to within one example.

    Args:
        shares: w, one list per client, one number per class in it.
        by: the column that holds the classes.
    """

    shares: tuple[tuple[Annotated[float, Meta(ge=0, le=1e12)], ...], ...]
    by: str = "y"

    def problems(self) -> list[str]:
        if not self.shares or {len(row) for row in self.shares} != {len(self.shares[0])} or not self.shares[0]:
            return ["shares must be one list per client, all with one number per class"]
        return [f"shares: client {k} has none of anything" for k, row in enumerate(self.shares) if not any(row)]

    def clients(self, columns: Columns) -> Sequence[str]:
        return numbered(len(self.shares))

    def parts(self, columns: Columns, clients: int, seed: int) -> list[np.ndarray]:
        labels, shares = column(columns, self.by), np.array(self.shares)
        random = rng(seed, "partition", "distribution")
        classes, sizes = np.unique(labels, return_counts=True)
        if len(classes) != shares.shape[1]:
            raise ConfigError(
                f"shares: each client has {shares.shape[1]} numbers, and there are {len(classes)} classes; give one for each"
            )
        if nobodys := [str(classes[c]) for c in np.flatnonzero(~shares.any(axis=0))]:
            raise ConfigError(f"shares: nobody has any of class {', '.join(nobodys)}; give its examples to somebody")
        counts = np.stack(
            [apportion(size, weights, random.random()) for size, weights in zip(sizes, shares.T, strict=True)], axis=1
        )
        if empty := np.flatnonzero(counts.sum(axis=1) == 0).tolist():
            raise ConfigError(
                f"shares: of {len(labels)} examples, none is left for client {empty[0]}; raise its shares, or use more data"
            )
        return deal(labels, counts, random)
