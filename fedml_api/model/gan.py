"""Two networks against each other, as one model."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from msgspec import Meta
from torch import Tensor, nn
from torch.func import functional_call

from fedml_api.model.model_spec import ModelSpec, Shape, check_shape, models
from fedml_core.settings import settings
from fedml_core.trainer import Batch, ModelTrainer
from fedml_core.trainer.model_trainer import Model


@models.register("gan")
@settings
class GAN(ModelSpec):
    """A generator and a discriminator of one hidden layer each: 419,345 parameters for 28x28 pixels.

    Images `x` `[b, channels, height, width]` are in [0, 1]; the output is `[b, 3]`, see `Adversaries`. Goodfellow et al.,
    Generative Adversarial Nets, NeurIPS 2014, with the loss that does not saturate.

    Args:
        noise: numbers that the generator starts from; `hidden`: units of each hidden layer.
        balance: the generator's rate as a multiple of the discriminator's.
    """

    takes: ClassVar[str] = "images [channels, height, width]"
    noise: Annotated[int, Meta(ge=1)] = 64
    hidden: Annotated[int, Meta(ge=1)] = 256
    balance: Annotated[float, Meta(gt=0)] = 1.0

    @classmethod
    def fits(cls, shape: Shape) -> bool:
        return len(shape) == 3

    def build(self, shape: Shape, classes: int | None) -> nn.Module:
        check_shape(self, shape)
        return Adversaries(shape, self.noise, self.hidden)

    def labels(self, shape: Shape, classes: int | None) -> Shape | None:
        return None

    def trainer(self) -> ModelTrainer:
        return Adversarial(self.balance)


class Adversaries(nn.Module):
    """A generator and a discriminator. Called with images `[b, ...]`, returns logits `[b, 3]` of being real:

    of the images; of as many generated ones, with the generator fixed; of the same, with the discriminator fixed.
    """

    def __init__(self, shape: Shape, noise: int, hidden: int) -> None:
        super().__init__()
        self.noise, pixels = noise, math.prod(shape)
        self.generator = nn.Sequential(
            nn.Linear(noise, hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, pixels), nn.Sigmoid(), nn.Unflatten(1, shape)
        )
        self.discriminator = nn.Sequential(nn.Flatten(), nn.Linear(pixels, hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, 1))

    def forward(self, x: Tensor) -> Tensor:
        made = self.generate(torch.randn(x.shape[0], self.noise, device=x.device))
        fixed = {name: param.detach() for name, param in self.discriminator.named_parameters()}
        fooled = functional_call(self.discriminator, fixed, (made,))
        return torch.cat([self.discriminator(x), self.discriminator(made.detach()), fooled], dim=1)

    def generate(self, z: Tensor) -> Tensor:
        """Images from noise `[b, noise]`."""
        images: Tensor = self.generator(z)
        return images


class Adversarial(ModelTrainer):
    """Both losses as one, whose gradient is each network's gradient of its own:

        discriminator: -log D(x) - log(1 - D(G(z)))        generator: -balance log D(G(z))

    Either is taken where the other stands, so that a gradient step moves both at the same time. All is per example, hence what
    holds for other models (stacking aside, as noise is drawn in evaluation as well) holds for two that play against each other.
    """

    def __init__(self, balance: float = 1.0) -> None:
        self.balance = balance

    def loss(self, model: Model, batch: Batch) -> Tensor:
        real, made, fooled = model(batch["x"]).unbind(1)
        return F.softplus(-real) + F.softplus(made) + self.balance * F.softplus(-fooled)

    def metrics(self, model: Model, batch: Batch) -> dict[str, Tensor]:
        real, made, fooled = model(batch["x"]).unbind(1)
        return {
            "discriminator": F.softplus(-real) + F.softplus(made),
            "generator": F.softplus(-fooled),
            "told_apart": ((real > 0).float() + (made <= 0).float()) / 2,
        }
