"""Logistic regression and the multilayer perceptron of the FedAvg paper."""

from __future__ import annotations

import math
from typing import Annotated

from msgspec import Meta
from torch import nn

from fedml_api.model.model_spec import ModelSpec, Shape, models, outputs
from fedml_core.settings import settings
from fedml_core.trainer import ModelTrainer, Tagger


@models.register("lr")
@settings
class LogisticRegression(ModelSpec):
    """Multinomial logistic regression: logits = W x + b of the flattened input. 7,850 parameters for 28x28 pixels, 10 classes.

    From `[b, ...]` to logits `[b, classes]`.
    """

    def build(self, shape: Shape, classes: int | None) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), outputs(self, shape, classes)))


@models.register("lr_tags")
@settings
class TagRegression(ModelSpec):
    """Logistic regression for each label by itself, of which an example may have any number.

    Logits `[b, labels]` = W x + b of the flattened input `[b, ...]`; 5,000,500 parameters for the 10,000 words and 500 tags of
    Stack Overflow. Reddi et al., ICLR 2021, app. C.
    """

    def build(self, shape: Shape, classes: int | None) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), outputs(self, shape, classes)))

    def labels(self, shape: Shape, classes: int | None) -> Shape | None:
        return None if classes is None else (classes,)

    def trainer(self) -> ModelTrainer:
        return Tagger()


@models.register("2nn")
@settings
class TwoNN(ModelSpec):
    """Two hidden layers of 200 units with ReLU: 199,210 parameters for 28x28 pixels, 10 classes. McMahan et al., 2017, sec. 3.

    From `[b, ...]`, flattened, to logits `[b, classes]`.
    """

    hidden: Annotated[int, Meta(ge=1)] = 200

    def build(self, shape: Shape, classes: int | None) -> nn.Module:
        return nn.Sequential(
            nn.Flatten(),
            nn.Linear(math.prod(shape), self.hidden),
            nn.ReLU(),
            nn.Linear(self.hidden, self.hidden),
            nn.ReLU(),
            nn.Linear(self.hidden, outputs(self, shape, classes)),
        )
