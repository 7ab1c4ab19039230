"""Networks by name."""

from fedml_api.model.cnn import McMahanCNN, ReddiCNN
from fedml_api.model.gan import GAN
from fedml_api.model.linear import LogisticRegression, TwoNN
from fedml_api.model.model_spec import ModelSpec, models
from fedml_api.model.norm import BatchNorm, GroupNorm
from fedml_api.model.recurrent import WordLSTM
from fedml_api.model.resnet_cifar import ResNetCIFAR

__all__ = [
    "GAN",
    "BatchNorm",
    "GroupNorm",
    "LogisticRegression",
    "McMahanCNN",
    "ModelSpec",
    "ReddiCNN",
    "ResNetCIFAR",
    "TwoNN",
    "WordLSTM",
    "models",
]
