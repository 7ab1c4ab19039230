"""Every algorithm, once. Importing this package registers them all."""

from fedml_api.algorithms.compressed import Compressed
from fedml_api.algorithms.fedavg import FedAvg
from fedml_api.algorithms.fedbuff import FedBuff
from fedml_api.algorithms.fedprox import FedProx

__all__ = ["Compressed", "FedAvg", "FedBuff", "FedProx"]
