"""FedPer."""

from __future__ import annotations

from fedml_api.algorithms.fedavg import FedAvg, ServerState
from fedml_core.federation import (
    SGD,
    Aggregator,
    Composed,
    LocalSGD,
    LocalUpdate,
    Private,
    PrivatePart,
    ServerOptimizer,
    WeightedMean,
    algorithms,
    private_names,
)
from fedml_core.settings import settings
from fedml_core.trainer import ModelState


@algorithms.register("fedper")
@settings
class FedPer(Composed):
    """FedAvg of base layers, below personalisation layers that stay with the client. Arivazhagan et al., 2019, Algorithms 1 and 2.

        (w_k, p_k) <- SGD(w, p_k)       base and personal layers are trained together
         w         <- sum_k n_k w_k / sum_k n_k

    The server's model keeps the private part that it began with: what counts is what clients say, each with its own.

    Args:
        private: the personalisation layers: `last`, or patterns of names (see `PrivatePart`).
    """

    local: LocalUpdate = LocalSGD()
    private: Private = "last"
    server: ServerOptimizer = SGD()
    aggregator: Aggregator = WeightedMean()

    @property
    def algorithm(self) -> FedAvg:
        return FedAvg(PrivatePart(self.local, self.private), self.server, self.aggregator)

    def init(self, model: ModelState) -> ServerState:
        private_names(model, self.private)
        return self.algorithm.init(model)
