"""Who holds which examples."""

from fedml_core.partition.partitioner import Dirichlet, Iid, Partitioner, Quantity, Shards, natural, partitioners
from fedml_core.partition.split import matching_split, stratified_split

__all__ = [
    "Dirichlet",
    "Iid",
    "Partitioner",
    "Quantity",
    "Shards",
    "matching_split",
    "natural",
    "partitioners",
    "stratified_split",
]
