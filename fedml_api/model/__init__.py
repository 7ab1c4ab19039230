"""Networks by name."""

from fedml_api.model.cnn import McMahanCNN, ReddiCNN
from fedml_api.model.darts import Darts, DartsSearch, Genotype
from fedml_api.model.gan import GAN
from fedml_api.model.linear import LogisticRegression, TwoNN
from fedml_api.model.model_spec import ModelSpec, models
from fedml_api.model.recurrent import WordLSTM

__all__ = [
    "GAN",
    "Darts",
    "DartsSearch",
    "Genotype",
    "LogisticRegression",
    "McMahanCNN",
    "ModelSpec",
    "ReddiCNN",
    "TwoNN",
    "WordLSTM",
    "models",
]
