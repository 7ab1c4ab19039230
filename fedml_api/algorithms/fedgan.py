"""FedGAN."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated

from msgspec import Meta

from fedml_api.algorithms.fedavg import FedAvg
from fedml_core.federation import SGD, Aggregator, Composed, LocalSGD, ServerOptimizer, WeightedMean, algorithms
from fedml_core.settings import settings


@algorithms.register("fedgan")
@settings
class FedGAN(Composed):
    """Generators and discriminators, averaged every K steps. Rasouli, Sun and Rajagopal, arXiv 2006.07228, 2020, Algorithm 1.

        w_i  <- w_i  - a dL_D/dw (w_i, theta_i)        theta_i <- theta_i - b dL_G/dtheta (w_i, theta_i)        K times, at once
        w    <- sum_i p_i w_i                          theta   <- sum_i p_i theta_i,        p_i = n_i / sum_j n_j

    Discriminator w and generator theta are one model here, and their two losses one (`fedml_api/model/gan.py`, whose `balance` is
    b / a). What is left is FedAvg with so many local steps, which holds for any model.

    Args:
        interval: K, the steps of a client between two averages.
    """

    interval: Annotated[int, Meta(ge=1)] = 20
    local: LocalSGD = LocalSGD()
    server: ServerOptimizer = SGD()
    aggregator: Aggregator = WeightedMean()

    def problems(self) -> Iterator[str]:
        if self.local.epochs is not None or self.local.steps is not None:
            yield "local.epochs and local.steps: clients take `interval` steps; leave these two out"

    @property
    def algorithm(self) -> FedAvg:
        return FedAvg(replace(self.local, steps=self.interval), self.server, self.aggregator)
