"""An autoencoder, which learns what is ordinary."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated, Literal

from msgspec import Meta
from torch import nn

from fedml_api.model.model_spec import ModelSpec, Shape, check_shape, models
from fedml_core.settings import settings
from fedml_core.trainer import ModelTrainer, Reconstruction

SHARES = (0.75, 0.5, 0.33, 0.25)


@models.register("autoencoder")
@settings
class Autoencoder(ModelSpec):
    """Dense layers that narrow to a code and widen again: from examples of any shape to `[b, numbers of an example]`.

    By default with 75, 50, 33 and 25 % of the input's width, as for the traffic of devices in N-BaIoT (Meidan et al., IEEE
    Pervasive Computing 2018): 36,377 parameters for its 115 numbers. `hidden=(1000, 500, 250, 30), activation=sigmoid,
    output=sigmoid` is that of Reddi et al., ICLR 2021, app. C: 2,837,314 parameters for 28x28 pixels.

    Args:
        hidden: the widths down to the code, or nothing for the default.
        activation: after every layer but the code and the last; `output`: after the last.
    """

    hidden: tuple[Annotated[int, Meta(ge=1)], ...] = ()
    activation: Literal["tanh", "sigmoid", "relu"] = "tanh"
    output: Literal["linear", "sigmoid"] = "linear"

    def build(self, shape: Shape, classes: int | None) -> nn.Module:
        check_shape(self, shape)
        width = math.prod(shape)
        down = [width, *(self.hidden or (max(1, int(share * width)) for share in SHARES))]
        activation = {"tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "relu": nn.ReLU}[self.activation]
        layers: list[nn.Module] = [nn.Flatten()]
        for part in (down, down[::-1]):
            for inputs, results in pairwise(part):
                layers += [nn.Linear(inputs, results), activation()]
            layers.pop()
        return nn.Sequential(*layers, *([nn.Sigmoid()] if self.output == "sigmoid" else []))

    def labels(self, shape: Shape, classes: int | None) -> Shape | None:
        return None

    def trainer(self) -> ModelTrainer:
        return Reconstruction()
