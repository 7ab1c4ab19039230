"""Every algorithm, once. Importing this package registers them all."""

from fedml_api.algorithms.fedavg import FedAvg

__all__ = ["FedAvg"]
