"""Data sets: who holds what, read from official files or from installed packages."""

from fedml_api.data.adult import Adult
from fedml_api.data.cifar import Cifar10, Cifar100
from fedml_api.data.cinic10 import Cinic10
from fedml_api.data.credit import Credit, LendingClubSample
from fedml_api.data.dataset import Dataset, DataSource, FederatedData, FederatedDataset, data_sources
from fedml_api.data.digits import Digits
from fedml_api.data.fashion_mnist import FashionMnist
from fedml_api.data.lazy import LazyDataset
from fedml_api.data.leaf import LeafFemnist, LeafMnist, LeafShakespeare, LeafSynthetic, Sent140
from fedml_api.data.lending_club import LendingClub
from fedml_api.data.mnist import Emnist, Mnist
from fedml_api.data.mnist5k import Mnist5k
from fedml_api.data.natural import NaturalSource
from fedml_api.data.nus_wide import NusWide
from fedml_api.data.partitioned import PartitionedSource
from fedml_api.data.synthetic import Synthetic
from fedml_api.data.tables import TableSource
from fedml_api.data.tff import FedCifar100, FedShakespeare, Femnist, FemnistDigits, StackOverflowLr, StackOverflowNwp
from fedml_api.data.vertical import VerticalDataset

__all__ = [
    "Adult",
    "Cifar10",
    "Cifar100",
    "Cinic10",
    "Credit",
    "DataSource",
    "Dataset",
    "Digits",
    "Emnist",
    "FashionMnist",
    "FedCifar100",
    "FedShakespeare",
    "FederatedData",
    "FederatedDataset",
    "Femnist",
    "FemnistDigits",
    "LazyDataset",
    "LeafFemnist",
    "LeafMnist",
    "LeafShakespeare",
    "LeafSynthetic",
    "LendingClub",
    "LendingClubSample",
    "Mnist",
    "Mnist5k",
    "NaturalSource",
    "NusWide",
    "PartitionedSource",
    "Sent140",
    "StackOverflowLr",
    "StackOverflowNwp",
    "Synthetic",
    "TableSource",
    "VerticalDataset",
    "data_sources",
]
