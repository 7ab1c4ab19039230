"""Networks by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedml_api.model.model_spec import ModelSpec, models
from fedml_core.exports import exports

if TYPE_CHECKING:
    from fedml_api.model.autoencoder import Autoencoder
    from fedml_api.model.cnn import McMahanCNN, ReddiCNN
    from fedml_api.model.darts import Darts, DartsSearch, Genotype
    from fedml_api.model.factorization import MatrixFactorization
    from fedml_api.model.gan import GAN
    from fedml_api.model.graph import GAT, GCN, GraphSAGE
    from fedml_api.model.in_parts import CNNInParts, Edge, InParts, ResNetInParts
    from fedml_api.model.linear import LogisticRegression, TagRegression, TwoNN
    from fedml_api.model.mobilenet import MobileNet
    from fedml_api.model.norm import BatchNorm, GroupNorm
    from fedml_api.model.recurrent import CharLSTM, WordLSTM
    from fedml_api.model.resnet import ResNet, ResNet18GN
    from fedml_api.model.resnet_cifar import ResNet20, ResNet56, ResNet110, ResNetCIFAR
    from fedml_api.model.segmentation import DeepLabV3, UNet
    from fedml_api.model.text import BagOfWords, BiLSTM
    from fedml_api.model.transformer import WordTransformer
    from fedml_api.model.vertical import VerticalLR, VerticalNN
    from fedml_api.model.vision import VGG, EfficientNetB0, MobileNetV3, ViT

# What each module exports, and the names of the networks that it registers.
_modules = {
    ".autoencoder": ("Autoencoder", "autoencoder"),
    ".cnn": ("McMahanCNN ReddiCNN", "cnn cnn_mcmahan"),
    ".darts": ("Darts DartsSearch Genotype", "darts_search darts"),
    ".factorization": ("MatrixFactorization", "matrix_factorization"),
    ".gan": ("GAN", "gan"),
    ".graph": ("GAT GCN GraphSAGE", "gcn graphsage gat"),
    ".in_parts": ("CNNInParts Edge InParts ResNetInParts", "cnn_in_parts resnet_in_parts"),
    ".linear": ("LogisticRegression TagRegression TwoNN", "lr lr_tags 2nn"),
    ".mobilenet": ("MobileNet", "mobilenet"),
    ".norm": ("BatchNorm GroupNorm", ""),
    ".recurrent": ("CharLSTM WordLSTM", "lstm_chars lstm_words"),
    ".resnet": ("ResNet ResNet18GN", "resnet resnet18_gn"),
    ".resnet_cifar": ("ResNet20 ResNet56 ResNet110 ResNetCIFAR", "resnet_cifar resnet20 resnet56 resnet110"),
    ".segmentation": ("DeepLabV3 UNet", "unet deeplab_v3"),
    ".text": ("BagOfWords BiLSTM", "text_bag text_bilstm"),
    ".transformer": ("WordTransformer", "transformer_words"),
    ".vertical": ("VerticalLR VerticalNN", "vertical_lr vertical_nn"),
    ".vision": ("VGG EfficientNetB0 MobileNetV3 ViT", "mobilenet_v3 efficientnet_b0 vgg vit_b_16"),
}
__getattr__, __dir__ = exports(__name__, {module: names for module, (names, _) in _modules.items()})
models.declare(__name__, {module: names for module, (_, names) in _modules.items()})

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
