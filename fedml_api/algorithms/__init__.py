"""Every algorithm, once. Importing this package registers them all."""

from fedml_api.algorithms.agnostic import Agnostic
from fedml_api.algorithms.apfl import APFL
from fedml_api.algorithms.ditto import Ditto
from fedml_api.algorithms.fedavg import FedAvg
from fedml_api.algorithms.fedbn import FedBN
from fedml_api.algorithms.fedper import FedPer
from fedml_api.algorithms.fedprox import FedProx
from fedml_api.algorithms.fedrep import FedRep
from fedml_api.algorithms.hierarchical import Hierarchical
from fedml_api.algorithms.hypcluster import HypCluster
from fedml_api.algorithms.qfedavg import QFedAvg

__all__ = ["APFL", "Agnostic", "Ditto", "FedAvg", "FedBN", "FedPer", "FedProx", "FedRep", "Hierarchical", "HypCluster", "QFedAvg"]
