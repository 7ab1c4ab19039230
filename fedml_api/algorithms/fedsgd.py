"""FedSGD."""

from __future__ import annotations

from fedml_api.algorithms.fedavg import FedAvg
from fedml_core.federation import Aggregator, Composed, LocalSGD, WeightedMean, algorithms
from fedml_core.settings import settings
from fedml_core.trainer import Rate


@algorithms.register("fedsgd")
@settings
class FedSGD(Composed):
    """One gradient of each client a round. McMahan et al., AISTATS 2017, section 2.

        w <- w - lr sum_k n_k grad F_k(w) / sum_k n_k

    with the gradient over all examples of a client at once. As all clients take one step from the same w, averaging gradients and
    averaging the models after a step are the same. With all clients it is gradient descent on the pooled data.
    """

    lr: Rate = 0.1
    aggregator: Aggregator = WeightedMean()

    @property
    def algorithm(self) -> FedAvg:
        return FedAvg(LocalSGD(lr=self.lr, batch_size=0), aggregator=self.aggregator)
