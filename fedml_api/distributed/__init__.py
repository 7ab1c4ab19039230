"""The engines whose clients are other workers. Algorithms are in `fedml_api.algorithms`."""

from fedml_api.distributed.edge import Edge
from fedml_api.distributed.engines import Loopback, Mpi

__all__ = ["Edge", "Loopback", "Mpi"]
