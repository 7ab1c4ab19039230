"""Networks by name."""

from fedml_api.model.cnn import McMahanCNN, ReddiCNN
from fedml_api.model.gan import GAN
from fedml_api.model.linear import LogisticRegression, TwoNN
from fedml_api.model.model_spec import ModelSpec, models
from fedml_api.model.recurrent import WordLSTM
from fedml_api.model.vertical import VerticalLR, VerticalNN

__all__ = [
    "GAN",
    "LogisticRegression",
    "McMahanCNN",
    "ModelSpec",
    "ReddiCNN",
    "TwoNN",
    "VerticalLR",
    "VerticalNN",
    "WordLSTM",
    "models",
]
