"""FedBN."""

from __future__ import annotations

from fedml_api.algorithms.fedper import FedPer
from fedml_core.federation import (
    SGD,
    Aggregator,
    Composed,
    LocalSGD,
    LocalUpdate,
    Private,
    ServerOptimizer,
    WeightedMean,
    algorithms,
)
from fedml_core.settings import settings


@algorithms.register("fedbn")
@settings
class FedBN(Composed):
    """FedAvg of all but the normalisation layers, for clients whose features differ. Li et al., ICLR 2021, Algorithm 1.

    The layers' scales, shifts and running statistics stay with the client, everything else is averaged. Which layer is meant is
    seen from its numbers: a `weight` of one dimension, or a running mean.
    """

    local: LocalUpdate = LocalSGD()
    private: Private = "norm"
    server: ServerOptimizer = SGD()
    aggregator: Aggregator = WeightedMean()

    @property
    def algorithm(self) -> FedPer:
        return FedPer(self.local, self.private, self.server, self.aggregator)
