"""Every algorithm, once. Importing this package registers them all."""

from fedml_api.algorithms.agnostic import Agnostic
from fedml_api.algorithms.apfl import APFL
from fedml_api.algorithms.compressed import Compressed
from fedml_api.algorithms.ditto import Ditto
from fedml_api.algorithms.dpsgd import DPSGD, DFedAvg
from fedml_api.algorithms.fedavg import FedAvg
from fedml_api.algorithms.fedavgm import FedAvgM
from fedml_api.algorithms.fedbn import FedBN
from fedml_api.algorithms.fedbuff import FedBuff
from fedml_api.algorithms.feddyn import FedDyn
from fedml_api.algorithms.fedgan import FedGAN
from fedml_api.algorithms.fedgkt import FedGKT
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
from fedml_api.algorithms.pushsum import OnlinePushSum, PushSum
from fedml_api.algorithms.qfedavg import QFedAvg
from fedml_api.algorithms.scaffold import Scaffold
from fedml_api.algorithms.split import Split
from fedml_api.algorithms.splitfed import SplitFed
from fedml_api.algorithms.turboaggregate import TurboAggregate
from fedml_api.algorithms.vertical import Vertical

__all__ = [
    "APFL",
    "DPSGD",
    "Agnostic",
    "Compressed",
    "DFedAvg",
    "Ditto",
    "FedAdagrad",
    "FedAdam",
    "FedAvg",
    "FedAvgM",
    "FedBN",
    "FedBuff",
    "FedDyn",
    "FedGAN",
    "FedGKT",
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
    "OnlinePushSum",
    "PushSum",
    "QFedAvg",
    "Scaffold",
    "Split",
    "SplitFed",
    "TurboAggregate",
    "Vertical",
]
