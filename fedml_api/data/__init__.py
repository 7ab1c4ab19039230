"""Data sets: who holds what, read from official files or from installed packages."""

from fedml_api.data.adult import Adult
from fedml_api.data.ag_news import AgNews
from fedml_api.data.celeba import LeafCelebA
from fedml_api.data.cifar import Cifar10, Cifar100
from fedml_api.data.cinic10 import Cinic10
from fedml_api.data.citation import CiteSeer, Cora, PubMed
from fedml_api.data.credit import Credit, LendingClubSample
from fedml_api.data.dataset import Dataset, DataSource, FederatedData, FederatedDataset, data_sources
from fedml_api.data.digits import Digits
from fedml_api.data.fashion_mnist import FashionMnist
from fedml_api.data.fednlp import FedNlp
from fedml_api.data.horizontal import AdultHorizontal, CreditHorizontal, LendingClubHorizontal
from fedml_api.data.hugging_face import HuggingFace, from_hugging_face
from fedml_api.data.image_folder import ImageFolder
from fedml_api.data.imagenet import ImageNet
from fedml_api.data.karate import Karate
from fedml_api.data.landmarks import Gld23k, Gld160k
from fedml_api.data.lazy import LazyDataset
from fedml_api.data.leaf import LeafFemnist, LeafMnist, LeafShakespeare, LeafSynthetic, Sent140
from fedml_api.data.lending_club import LendingClub
from fedml_api.data.mnist import Emnist, Mnist
from fedml_api.data.mnist5k import Mnist5k
from fedml_api.data.moleculenet import MoleculeNet
from fedml_api.data.molecules import Molecules
from fedml_api.data.motes import Motes
from fedml_api.data.movielens import MovieLens
from fedml_api.data.n_baiot import NBaIoT
from fedml_api.data.natural import NaturalSource
from fedml_api.data.newsgroups import Newsgroups
from fedml_api.data.nus_wide import NusWide
from fedml_api.data.partitioned import PartitionedSource
from fedml_api.data.pictures import View
from fedml_api.data.reddit import Reddit
from fedml_api.data.roles import ShakespeareRoles
from fedml_api.data.rotten_tomatoes import RottenTomatoes
from fedml_api.data.saved import Saved, save_partition, save_partition_of
from fedml_api.data.sotu import Sotu
from fedml_api.data.sst2 import Sst2
from fedml_api.data.streams import RoomOccupancy, StreamSource, Susy
from fedml_api.data.synthetic import Synthetic
from fedml_api.data.tables import TableSource
from fedml_api.data.texts import TextSource
from fedml_api.data.tff import FedCifar100, FedShakespeare, Femnist, FemnistDigits, StackOverflowLr, StackOverflowNwp
from fedml_api.data.torchvision_sets import TorchvisionSet, from_torchvision
from fedml_api.data.vertical import VerticalDataset

__all__ = [
    "Adult",
    "AdultHorizontal",
    "AgNews",
    "Cifar10",
    "Cifar100",
    "Cinic10",
    "CiteSeer",
    "Cora",
    "Credit",
    "CreditHorizontal",
    "DataSource",
    "Dataset",
    "Digits",
    "Emnist",
    "FashionMnist",
    "FedCifar100",
    "FedNlp",
    "FedShakespeare",
    "FederatedData",
    "FederatedDataset",
    "Femnist",
    "FemnistDigits",
    "Gld23k",
    "Gld160k",
    "HuggingFace",
    "ImageFolder",
    "ImageNet",
    "Karate",
    "LazyDataset",
    "LeafCelebA",
    "LeafFemnist",
    "LeafMnist",
    "LeafShakespeare",
    "LeafSynthetic",
    "LendingClub",
    "LendingClubHorizontal",
    "LendingClubSample",
    "Mnist",
    "Mnist5k",
    "MoleculeNet",
    "Molecules",
    "Motes",
    "MovieLens",
    "NBaIoT",
    "NaturalSource",
    "Newsgroups",
    "NusWide",
    "PartitionedSource",
    "PubMed",
    "Reddit",
    "RoomOccupancy",
    "RottenTomatoes",
    "Saved",
    "Sent140",
    "ShakespeareRoles",
    "Sotu",
    "Sst2",
    "StackOverflowLr",
    "StackOverflowNwp",
    "StreamSource",
    "Susy",
    "Synthetic",
    "TableSource",
    "TextSource",
    "TorchvisionSet",
    "VerticalDataset",
    "View",
    "data_sources",
    "from_hugging_face",
    "from_torchvision",
    "save_partition",
    "save_partition_of",
]
