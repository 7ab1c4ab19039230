"""Every algorithm, once. Importing this package makes them known by name; each is imported when it is first asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedml_core.exports import exports
from fedml_core.federation import aggregators, algorithms, local_updates, tasks
from fedml_core.trainer import transforms

if TYPE_CHECKING:
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

# What each module exports, and the names of the algorithms that it registers.
_modules = {
    ".agnostic": ("Agnostic", "agnostic"),
    ".apfl": ("APFL", "apfl"),
    ".compressed": ("Compressed", "compressed"),
    ".ditto": ("Ditto", "ditto"),
    ".dpsgd": ("DPSGD DFedAvg", "dpsgd dfedavg"),
    ".fedavg": ("FedAvg", "fedavg"),
    ".fedavgm": ("FedAvgM", "fedavgm"),
    ".fedbn": ("FedBN", "fedbn"),
    ".fedbuff": ("FedBuff", "fedbuff"),
    ".feddyn": ("FedDyn", "feddyn"),
    ".fedgan": ("FedGAN", "fedgan"),
    ".fedgkt": ("FedGKT", "fedgkt"),
    ".fednas": ("FedNAS", "fednas"),
    ".fednova": ("FedNova", "fednova"),
    ".fedopt": ("FedAdagrad FedAdam FedYogi", "fedadam fedyogi fedadagrad"),
    ".fedper": ("FedPer", "fedper"),
    ".fedprox": ("FedProx", "fedprox"),
    ".fedrep": ("FedRep", "fedrep"),
    ".fedsgd": ("FedSGD", "fedsgd"),
    ".hierarchical": ("Hierarchical", "hierarchical"),
    ".hypcluster": ("HypCluster", "hypcluster"),
    ".mime": ("Mime MimeLite", "mime mimelite"),
    ".pushsum": ("OnlinePushSum PushSum", "pushsum online_pushsum"),
    ".qfedavg": ("QFedAvg", "qfedavg"),
    ".scaffold": ("Scaffold", "scaffold"),
    ".split": ("Split", "split"),
    ".splitfed": ("SplitFed", "splitfed"),
    ".turboaggregate": ("TurboAggregate", "turboaggregate"),
    ".vertical": ("Vertical", "vertical"),
}
__getattr__, __dir__ = exports(__name__, {module: names for module, (names, _) in _modules.items()})
algorithms.declare(__name__, {module: names for module, (_, names) in _modules.items()})
aggregators.declare("fedml_core.compression", {".compress": "decompressing"})
transforms.declare(__name__, {".feddyn": "linear_penalty", ".mime": "frozen", ".scaffold": "control_variate"})
tasks.declare("fedml_core.compression", {".compress": "compress"})
tasks.declare(
    __name__,
    {
        ".agnostic": "domain_losses",
        ".fedgkt": "gkt_edge gkt_judge",
        ".hypcluster": "choose",
        ".split": "split_sgd",
        ".turboaggregate": "pass_on",
        ".vertical": "vertical_judge vertical_train",
    },
)
local_updates.declare(
    __name__,
    {
        ".agnostic": "weighted",
        ".apfl": "mixture",
        ".ditto": "at_home",
        ".feddyn": "feddyn",
        ".fednas": "search",
        ".fednova": "normalised",
        ".fedrep": "head_then_body",
        ".mime": "svrg",
        ".pushsum": "stream",
        ".qfedavg": "fair",
        ".scaffold": "scaffold",
    },
)

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
