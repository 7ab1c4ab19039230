"""Data sets: who holds what, read from official files or from installed packages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedml_api.data.dataset import Dataset, DataSource, FederatedData, FederatedDataset, data_sources
from fedml_core.exports import exports
from fedml_core.partition import partitioners

if TYPE_CHECKING:
    from fedml_api.data.adult import Adult
    from fedml_api.data.ag_news import AgNews
    from fedml_api.data.celeba import LeafCelebA
    from fedml_api.data.cifar import Cifar10, Cifar100
    from fedml_api.data.cinic10 import Cinic10
    from fedml_api.data.citation import CiteSeer, Cora, PubMed
    from fedml_api.data.credit import Credit, LendingClubSample
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

# What each module exports, and the names of the data sets that it registers.
_modules = {
    ".adult": ("Adult", "adult"),
    ".ag_news": ("AgNews", "ag_news"),
    ".celeba": ("LeafCelebA", "leaf_celeba"),
    ".cifar": ("Cifar10 Cifar100", "cifar10 cifar100"),
    ".cinic10": ("Cinic10", "cinic10"),
    ".citation": ("CiteSeer Cora PubMed", "cora citeseer pubmed"),
    ".credit": ("Credit LendingClubSample", "credit lending_club_sample"),
    ".digits": ("Digits", "digits"),
    ".fashion_mnist": ("FashionMnist", "fashion_mnist"),
    ".fednlp": ("FedNlp", "fednlp"),
    ".horizontal": (
        "AdultHorizontal CreditHorizontal LendingClubHorizontal",
        "adult_horizontal credit_horizontal lending_club_sample_horizontal",
    ),
    ".hugging_face": ("HuggingFace from_hugging_face", "hugging_face"),
    ".image_folder": ("ImageFolder", "image_folder"),
    ".imagenet": ("ImageNet", "imagenet"),
    ".karate": ("Karate", "karate"),
    ".landmarks": ("Gld23k Gld160k", "gld23k gld160k"),
    ".lazy": ("LazyDataset", ""),
    ".leaf": (
        "LeafFemnist LeafMnist LeafShakespeare LeafSynthetic Sent140",
        "leaf_femnist leaf_mnist leaf_synthetic leaf_shakespeare sent140",
    ),
    ".lending_club": ("LendingClub", "lending_club"),
    ".mnist": ("Emnist Mnist", "mnist emnist"),
    ".mnist5k": ("Mnist5k", "mnist5k"),
    ".moleculenet": ("MoleculeNet", "moleculenet"),
    ".molecules": ("Molecules", "molecules"),
    ".motes": ("Motes", "motes"),
    ".movielens": ("MovieLens", "movielens"),
    ".n_baiot": ("NBaIoT", "n_baiot"),
    ".natural": ("NaturalSource", ""),
    ".newsgroups": ("Newsgroups", "newsgroups"),
    ".nus_wide": ("NusWide", "nus_wide"),
    ".partitioned": ("PartitionedSource", ""),
    ".pictures": ("View", ""),
    ".reddit": ("Reddit", "reddit"),
    ".roles": ("ShakespeareRoles", "shakespeare_roles"),
    ".rotten_tomatoes": ("RottenTomatoes", "rotten_tomatoes"),
    ".saved": ("Saved save_partition save_partition_of", ""),
    ".sotu": ("Sotu", "sotu"),
    ".sst2": ("Sst2", "sst2"),
    ".streams": ("RoomOccupancy StreamSource Susy", "susy room_occupancy"),
    ".synthetic": ("Synthetic", "synthetic"),
    ".tables": ("TableSource", ""),
    ".texts": ("TextSource", ""),
    ".tff": (
        "FedCifar100 FedShakespeare Femnist FemnistDigits StackOverflowLr StackOverflowNwp",
        "femnist femnist_digits fed_cifar100 fed_shakespeare stackoverflow_nwp stackoverflow_lr",
    ),
    ".torchvision_sets": ("TorchvisionSet from_torchvision", "torchvision"),
    ".vertical": ("VerticalDataset", ""),
}
__getattr__, __dir__ = exports(__name__, {module: names for module, (names, _) in _modules.items()})
data_sources.declare(__name__, {module: names for module, (_, names) in _modules.items()})
partitioners.declare(__name__, {".saved": "saved"})

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
