"""Compression of what clients send, for any algorithm."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from fedml_core.compression import Compress, Compressor, Decompressing, NoCompression, Uniform
from fedml_core.federation import (
    Aggregator,
    Algorithm,
    Client,
    ClientValues,
    Cohort,
    Folded,
    LocalUpdate,
    Mean,
    Reply,
    Task,
    algorithms,
)
from fedml_core.settings import settings
from fedml_core.trainer import ModelState
from fedml_core.tree import Tree


@algorithms.register("compressed")
@settings
class Compressed(Algorithm):
    """Another algorithm, whose clients send their replies compressed; what the server sends is as it was.

    The algorithm converses with a cohort that compresses every reply at the client and decompresses it on arrival, and is not told.
    That is exact with `compressor: none`. The metric `bits_per_parameter` tells what is sent.

    Args:
        algorithm: the algorithm; `compressor`: see `fedml_core/compression`. One with error feedback compresses local updates only:
            other tasks may be asked in the same round, in which but one may leave something with a client.
    """

    algorithm: Algorithm
    compressor: Compressor = Uniform()

    def problems(self) -> Iterator[str]:
        if isinstance(self.algorithm, Compressed):
            yield "algorithm is compressed already: keep one of the two"

    def init(self, model: ModelState) -> Tree:
        return self.algorithm.init(model)

    def model(self, state: Tree) -> ModelState:
        return self.algorithm.model(state)

    def round(self, state: Tree, cohort: Cohort) -> tuple[Tree, dict[str, Mean]]:
        return self.algorithm.round(state, CompressedCohort(cohort, self.compressor))

    def judge(self) -> Task:
        return Compress(self.algorithm.judge())

    def shown(self, state: Tree) -> Tree:
        return self.algorithm.shown(state)


class CompressedCohort(Cohort):
    """A cohort whose clients send less."""

    def __init__(self, cohort: Cohort, compressor: Compressor) -> None:
        self.cohort, self.compressor = cohort, compressor
        self.round, self.clients, self.population = cohort.round, cohort.clients, cohort.population

    @property
    def missing(self) -> Sequence[str]:  # type: ignore[override]
        return self.cohort.missing

    @property
    def server(self) -> Client:  # type: ignore[override]
        return self.cohort.server

    def map(self, task: Task, shared: Tree, own: Mapping[str, Tree] | None = None) -> ClientValues:
        once = self.compressor.feedback and not isinstance(task, LocalUpdate)
        compressor = NoCompression() if once else self.compressor
        return CompressedValues(self.cohort.map(Compress(task, compressor), shared, own), compressor)

    def only(self, clients: Sequence[str], round: int | None = None) -> Cohort:
        return CompressedCohort(self.cohort.only(clients, round), self.compressor)

    @property
    def at_work(self) -> Mapping[str, int]:
        return self.cohort.at_work

    def begin(self, task: Task, shared: Tree) -> None:
        self.cohort.begin(Compress(task, self.compressor), shared)

    def arrivals(self, count: int) -> Iterator[tuple[str, Reply]]:
        return decompressed(self.cohort.arrivals(count), self.compressor)


class CompressedValues(ClientValues):
    """Values that travel compressed and arrive as they were, but for what is lost."""

    def __init__(self, values: ClientValues, compressor: Compressor) -> None:
        self.values, self.compressor = values, compressor

    def __iter__(self) -> Iterator[tuple[str, Reply]]:
        return decompressed(self.values, self.compressor)

    def fold(self, aggregator: Aggregator) -> Folded:
        return self.values.fold(Decompressing(aggregator, self.compressor))


def decompressed(replies: Iterable[tuple[str, Reply]], compressor: Compressor) -> Iterator[tuple[str, Reply]]:
    """The replies as they were before compression."""
    for client, reply in replies:
        yield client, replace(reply, value=compressor.decompress(reply.value))
