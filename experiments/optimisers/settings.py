"""What is compared on what, and with which settings."""

from __future__ import annotations

from typing import NamedTuple


class Problem(NamedTuple):
    """A configuration beside this file without an algorithm; `local`: how much clients train; `target`: an accuracy to reach."""

    name: str
    local: str
    target: float


class Row(NamedTuple):
    """Settings of an algorithm.

    Attributes:
        lr: the clients' rate on each problem (the rate itself of an algorithm without local steps).
        more: further settings below `algorithm`.
    """

    algorithm: str
    lr: tuple[float, float, float]
    more: str = ""


PROBLEMS = (
    Problem("synthetic", local="epochs=1 batch_size=10", target=0.75),
    Problem("mnist5k", local="epochs=1 batch_size=10", target=0.8),
    Problem("fashion_mnist", local="epochs=1 batch_size=20", target=0.7),
)

# Rates of clients and servers on the images: the best of Reddi et al. (ICLR 2021, tables 8 and 9) for EMNIST and its CNN, 10^-1 and
# 10^0 for FedAvg, 10^-1.5 and 10^-0.5 for FedAvgM, 10^-1.5, 10^-2.5 and tau = 10^-4 for FedAdam and FedYogi, 10^-1.5, 10^-1 and
# tau = 10^-2 for FedAdagrad; others start from FedAvg's. On Synthetic(1, 1): 0.01 and mu = 1 of Li et al. (MLSys 2020). What is
# specific to an algorithm is its paper's choice. SCAFFOLD diverged at 0.1 on mnist5k with two of three seeds, so it has a third.
#
# algorithm, rate on (synthetic, mnist5k, fashion_mnist), further settings
TABLE = (
    Row("fedsgd", (0.1, 0.3, 0.3)),
    Row("fedavg", (0.01, 0.1, 0.1)),
    Row("fedavgm", (0.01, 0.0316, 0.0316), "momentum=0.9 lr=0.316"),
    Row("fedadagrad", (0.01, 0.0316, 0.0316), "server.lr=0.1 server.tau=0.01"),
    Row("fedadam", (0.01, 0.0316, 0.0316), "server.lr=0.00316 server.tau=0.0001"),
    Row("fedyogi", (0.01, 0.0316, 0.0316), "server.lr=0.00316 server.tau=0.0001"),
    Row("fedprox", (0.01, 0.1, 0.1), "mu=1.0"),
    Row("fednova", (0.01, 0.1, 0.1)),
    Row("scaffold", (0.01, 0.0316, 0.0316)),
    Row("feddyn", (0.01, 0.1, 0.1), "alpha=0.1"),
    Row("mime", (0.01, 0.1, 0.1)),
    Row("mimelite", (0.01, 0.1, 0.1)),
    Row("compressed", (0.01, 0.1, 0.1), "algorithm.name=fedavg compressor=drive"),
    Row("fedbuff", (0.01, 0.1, 0.1), "buffer=5"),
    Row("hierarchical", (0.01, 0.1, 0.1)),
    Row("qfedavg", (0.01, 0.1, 0.1)),
    Row("agnostic", (0.01, 0.1, 0.1)),
    Row("hypcluster", (0.01, 0.1, 0.1)),
    Row("apfl", (0.01, 0.1, 0.1)),
    Row("ditto", (0.01, 0.1, 0.1)),
    Row("fedrep", (0.01, 0.1, 0.1), "head_epochs=1"),
    Row("fedper", (0.01, 0.1, 0.1)),
)

# What shares a panel of the picture. Of the last family it shows how good clients' own models are, of the others the global one.
PERSONAL = "personalised"
FAMILIES = {
    "the server's step": ("fedavg", "fedsgd", "fedavgm", "fedadagrad", "fedadam", "fedyogi"),
    "against drift": ("fedavg", "fedprox", "fednova", "scaffold", "feddyn", "mime", "mimelite"),
    "compressed, late, in groups, fair": ("fedavg", "compressed", "fedbuff", "hierarchical", "qfedavg", "agnostic"),
    PERSONAL: ("fedavg", "hypcluster", "apfl", "ditto", "fedrep", "fedper"),
}
