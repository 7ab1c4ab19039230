"""Every algorithm, once. Importing this package registers them all."""

from fedml_api.algorithms.compressed import Compressed
from fedml_api.algorithms.fedavg import FedAvg
from fedml_api.algorithms.fedavgm import FedAvgM
from fedml_api.algorithms.fedbuff import FedBuff
from fedml_api.algorithms.feddyn import FedDyn
from fedml_api.algorithms.fedgan import FedGAN
from fedml_api.algorithms.fednova import FedNova
from fedml_api.algorithms.fedopt import FedAdagrad, FedAdam, FedYogi
from fedml_api.algorithms.fedprox import FedProx
from fedml_api.algorithms.fedsgd import FedSGD
from fedml_api.algorithms.mime import Mime, MimeLite
from fedml_api.algorithms.scaffold import Scaffold

__all__ = [
    "Compressed",
    "FedAdagrad",
    "FedAdam",
    "FedAvg",
    "FedAvgM",
    "FedBuff",
    "FedDyn",
    "FedGAN",
    "FedNova",
    "FedProx",
    "FedSGD",
    "FedYogi",
    "Mime",
    "MimeLite",
    "Scaffold",
]
