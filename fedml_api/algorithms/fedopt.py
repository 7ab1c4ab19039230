"""FedAdam, FedYogi and FedAdagrad."""

from __future__ import annotations

from fedml_api.algorithms.fedavg import FedAvg
from fedml_core.federation import (
    Adagrad,
    Adam,
    Aggregator,
    Composed,
    LocalSGD,
    LocalUpdate,
    ServerOptimizer,
    WeightedMean,
    Yogi,
    algorithms,
)
from fedml_core.settings import settings


@settings
class FedOpt(Composed):
    """FedAvg whose server takes the clients' mean change for a gradient, and steps along it adaptively.

    Reddi et al., Adaptive Federated Optimization, ICLR 2021, Algorithm 2, with D = sum_k n_k (w_k - w) / sum_k n_k,

        m <- b1 m + (1 - b1) D,  v <- second(v, D^2),  w <- w + lr m / (sqrt(v) + tau)

    without bias correction. tau is the adaptivity: coordinates whose sqrt(v) is far below it move as with momentum. What `second`
    is stands with each `server`.
    """

    local: LocalUpdate = LocalSGD()
    server: ServerOptimizer = Adam()
    aggregator: Aggregator = WeightedMean()

    @property
    def algorithm(self) -> FedAvg:
        return FedAvg(self.local, self.server, self.aggregator)


@algorithms.register("fedadam")
@settings
class FedAdam(FedOpt):
    """FedOpt with v <- b2 v + (1 - b2) D^2."""

    server: Adam = Adam()


@algorithms.register("fedyogi")
@settings
class FedYogi(FedOpt):
    """FedOpt with v <- v - (1 - b2) D^2 sign(v - D^2)."""

    server: Yogi = Yogi()


@algorithms.register("fedadagrad")
@settings
class FedAdagrad(FedOpt):
    """FedOpt with v <- v + D^2."""

    server: Adagrad = Adagrad()
