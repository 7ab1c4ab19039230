"""FedProx."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from fedml_api.algorithms.fedavg import FedAvg
from fedml_core.federation import SGD, Aggregator, Composed, LocalSGD, ServerOptimizer, WeightedMean, algorithms
from fedml_core.settings import settings
from fedml_core.trainer import Proximal


@algorithms.register("fedprox")
@settings
class FedProx(Composed):
    """FedAvg whose clients minimise a proximal objective. Li et al., MLSys 2020, Algorithm 2.

        h_k(w; w_t) = F_k(w) + (mu/2) |w - w_t|^2

    by local SGD, so every step goes along g + mu (w - w_t). FedAvg at mu = 0. The paper's uneven amounts of local work are a matter
    of the clients' data and `local.epochs`.
    """

    mu: Annotated[float, Meta(ge=0)] = 0.1
    local: LocalSGD = LocalSGD()
    server: ServerOptimizer = SGD()
    aggregator: Aggregator = WeightedMean()

    @property
    def algorithm(self) -> FedAvg:
        return FedAvg(self.local.with_first(Proximal(self.mu)), self.server, self.aggregator)
