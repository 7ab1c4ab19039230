"""Networks by name."""

from fedml_api.model.cnn import McMahanCNN, ReddiCNN
from fedml_api.model.darts import Darts, DartsSearch, Genotype
from fedml_api.model.gan import GAN
from fedml_api.model.in_parts import CNNInParts, Edge, InParts, ResNetInParts
from fedml_api.model.linear import LogisticRegression, TwoNN
from fedml_api.model.model_spec import ModelSpec, models
from fedml_api.model.recurrent import WordLSTM
from fedml_api.model.vertical import VerticalLR, VerticalNN

__all__ = [
    "GAN",
    "CNNInParts",
    "Darts",
    "DartsSearch",
    "Edge",
    "Genotype",
    "InParts",
    "LogisticRegression",
    "McMahanCNN",
    "ModelSpec",
    "ReddiCNN",
    "ResNetInParts",
    "TwoNN",
    "VerticalLR",
    "VerticalNN",
    "WordLSTM",
    "models",
]
