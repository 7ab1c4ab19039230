"""FedAvgM."""

from __future__ import annotations

from fedml_api.algorithms.fedavg import FedAvg
from fedml_core.federation import SGD, Aggregator, Composed, LocalSGD, LocalUpdate, WeightedMean, algorithms
from fedml_core.federation.server_optimizer import Beta
from fedml_core.settings import settings
from fedml_core.trainer import Rate


@algorithms.register("fedavgm")
@settings
class FedAvgM(Composed):
    """FedAvg with momentum at the server. Hsu, Qi and Brown, 2019 (arXiv:1909.06335).

        v <- momentum v + D,  w <- w + lr v

    where D is the clients' mean change: the server goes on in the directions that many rounds had in common, and what single
    cohorts of non-identical clients pull at is damped. FedAvg at momentum 0 and lr 1; in the long run a change counts
    1 / (1 - momentum) times.
    """

    momentum: Beta = 0.9
    lr: Rate = 1.0
    local: LocalUpdate = LocalSGD()
    aggregator: Aggregator = WeightedMean()

    @property
    def algorithm(self) -> FedAvg:
        return FedAvg(self.local, SGD(self.lr, self.momentum), self.aggregator)
