"""Every algorithm, once. Importing this package registers them all."""

from fedml_api.algorithms.fedavg import FedAvg
from fedml_api.algorithms.fedgan import FedGAN
from fedml_api.algorithms.fedprox import FedProx

__all__ = ["FedAvg", "FedGAN", "FedProx"]
