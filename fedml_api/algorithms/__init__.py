"""Every algorithm, once. Importing this package registers them all."""

from fedml_api.algorithms.agnostic import Agnostic
from fedml_api.algorithms.apfl import APFL
from fedml_api.algorithms.compressed import Compressed
from fedml_api.algorithms.ditto import Ditto
from fedml_api.algorithms.fedavg import FedAvg
from fedml_api.algorithms.fedavgm import FedAvgM
from fedml_api.algorithms.fedbn import FedBN
from fedml_api.algorithms.fedbuff import FedBuff
from fedml_api.algorithms.feddyn import FedDyn
from fedml_api.algorithms.fedgan import FedGAN
from fedml_api.algorithms.fednas import FedNAS
from fedml_api.algorithms.fednova import FedNova
from fedml_api.algorithms.fedopt import FedAdagrad, FedAdam, FedYogi
from fedml_api.algorithms.fedper import FedPer
from fedml_api.algorithms.fedprox import FedProx
from fedml_api.algorithms.fedrep import FedRep
from fedml_api.algorithms.fedsgd import FedSGD
from fedml_api.algorithms.hierarchical import Hierarchical
from fedml_api.algorithms.hypcluster import HypCluster
from fedml_api.algorithms.mime import Mime, MimeLite
from fedml_api.algorithms.qfedavg import QFedAvg
from fedml_api.algorithms.scaffold import Scaffold

__all__ = [
    "APFL",
    "Agnostic",
    "Compressed",
    "Ditto",
    "FedAdagrad",
    "FedAdam",
    "FedAvg",
    "FedAvgM",
    "FedBN",
    "FedBuff",
    "FedDyn",
    "FedGAN",
    "FedNAS",
    "FedNova",
    "FedPer",
    "FedProx",
    "FedRep",
    "FedSGD",
    "FedYogi",
    "Hierarchical",
    "HypCluster",
    "Mime",
    "MimeLite",
    "QFedAvg",
    "Scaffold",
]
