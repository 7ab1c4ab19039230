"""Data sets: who holds what, read from official files or from installed packages."""

from fedml_api.data.dataset import Dataset, DataSource, FederatedDataset, data_sources
from fedml_api.data.digits import Digits
from fedml_api.data.fashion_mnist import FashionMnist
from fedml_api.data.mnist5k import Mnist5k
from fedml_api.data.partitioned import PartitionedSource
from fedml_api.data.synthetic import Synthetic
from fedml_api.data.vertical import VerticalDataset

__all__ = [
    "DataSource",
    "Dataset",
    "Digits",
    "FashionMnist",
    "FederatedDataset",
    "Mnist5k",
    "PartitionedSource",
    "Synthetic",
    "VerticalDataset",
    "data_sources",
]
