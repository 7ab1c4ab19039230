"""Networks by name."""

from fedml_api.model.autoencoder import Autoencoder
from fedml_api.model.cnn import McMahanCNN, ReddiCNN
from fedml_api.model.darts import Darts, DartsSearch, Genotype
from fedml_api.model.factorization import MatrixFactorization
from fedml_api.model.gan import GAN
from fedml_api.model.graph import GAT, GCN, GraphSAGE
from fedml_api.model.in_parts import CNNInParts, Edge, InParts, ResNetInParts
from fedml_api.model.linear import LogisticRegression, TagRegression, TwoNN
from fedml_api.model.mobilenet import MobileNet
from fedml_api.model.model_spec import ModelSpec, models
from fedml_api.model.norm import BatchNorm, GroupNorm
from fedml_api.model.recurrent import CharLSTM, WordLSTM
from fedml_api.model.resnet import ResNet, ResNet18GN
from fedml_api.model.resnet_cifar import ResNet20, ResNet56, ResNet110, ResNetCIFAR
from fedml_api.model.segmentation import DeepLabV3, UNet
from fedml_api.model.text import BagOfWords, BiLSTM
from fedml_api.model.transformer import WordTransformer
from fedml_api.model.vertical import VerticalLR, VerticalNN
from fedml_api.model.vision import VGG, EfficientNetB0, MobileNetV3, ViT

__all__ = [
    "GAN",
    "GAT",
    "GCN",
    "VGG",
    "Autoencoder",
    "BagOfWords",
    "BatchNorm",
    "BiLSTM",
    "CNNInParts",
    "CharLSTM",
    "Darts",
    "DartsSearch",
    "DeepLabV3",
    "Edge",
    "EfficientNetB0",
    "Genotype",
    "GraphSAGE",
    "GroupNorm",
    "InParts",
    "LogisticRegression",
    "MatrixFactorization",
    "McMahanCNN",
    "MobileNet",
    "MobileNetV3",
    "ModelSpec",
    "ReddiCNN",
    "ResNet",
    "ResNet18GN",
    "ResNet20",
    "ResNet56",
    "ResNet110",
    "ResNetCIFAR",
    "ResNetInParts",
    "TagRegression",
    "TwoNN",
    "UNet",
    "VerticalLR",
    "VerticalNN",
    "ViT",
    "WordLSTM",
    "WordTransformer",
    "models",
]
