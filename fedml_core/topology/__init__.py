"""Who talks to whom, and with what weights."""

from fedml_core.topology.mixing import check_stochastic, metropolis, second_eigenvalue, spectral_gap, uniform_in, uniform_out
from fedml_core.topology.topology import (
    Complete,
    Directed,
    Exponential,
    Graph,
    Links,
    Redrawn,
    Regular,
    Ring,
    Sequence,
    SmallWorld,
    Topology,
    Torus,
    is_symmetric,
    topologies,
    unreachable,
)

__all__ = [
    "Complete",
    "Directed",
    "Exponential",
    "Graph",
    "Links",
    "Redrawn",
    "Regular",
    "Ring",
    "Sequence",
    "SmallWorld",
    "Topology",
    "Torus",
    "check_stochastic",
    "is_symmetric",
    "metropolis",
    "second_eigenvalue",
    "spectral_gap",
    "topologies",
    "uniform_in",
    "uniform_out",
    "unreachable",
]
