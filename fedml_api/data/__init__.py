"""Data sets: who holds what, read from official files or from installed packages."""

from fedml_api.data.adult import Adult
from fedml_api.data.credit import Credit, LendingClubSample
from fedml_api.data.dataset import Dataset, DataSource, FederatedDataset, data_sources
from fedml_api.data.digits import Digits
from fedml_api.data.fashion_mnist import FashionMnist
from fedml_api.data.lending_club import LendingClub
from fedml_api.data.mnist5k import Mnist5k
from fedml_api.data.nus_wide import NusWide
from fedml_api.data.partitioned import PartitionedSource
from fedml_api.data.synthetic import Synthetic
from fedml_api.data.tables import TableSource
from fedml_api.data.vertical import VerticalDataset

__all__ = [
    "Adult",
    "Credit",
    "DataSource",
    "Dataset",
    "Digits",
    "FashionMnist",
    "FederatedDataset",
    "LendingClub",
    "LendingClubSample",
    "Mnist5k",
    "NusWide",
    "PartitionedSource",
    "Synthetic",
    "TableSource",
    "VerticalDataset",
    "data_sources",
]
