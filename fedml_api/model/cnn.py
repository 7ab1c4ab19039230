"""The two convolutional networks that the field measures itself on."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from msgspec import Meta
from torch import nn

from fedml_api.model.model_spec import ModelSpec, Shape, models, outputs
from fedml_core.settings import settings


@models.register("cnn")
@settings
class ReddiCNN(ModelSpec):
    """CNN with dropout of Adaptive Federated Optimization: 1,199,882 parameters for 28x28 pixels and 10 classes, 1,206,590 for 62.

    conv 3x3, 32 -> conv 3x3, 64 -> max-pool 2 -> dropout 1/4 -> dense 128 -> dropout 1/2 -> dense, ReLU after each of the first
    two and after the dense layer, no padding. From images `[b, channels, height, width]` to logits `[b, classes]`.
    Reddi et al., ICLR 2021, app. C.
    """

    takes: ClassVar[str] = "images [channels, height, width] of at least 6x6 pixels"

    @classmethod
    def fits(cls, shape: Shape) -> bool:
        return len(shape) == 3 and min(shape[1:]) >= 6

    def build(self, shape: Shape, classes: int | None) -> nn.Module:
        logits = outputs(self, shape, classes)
        channels, height, width = shape
        network = nn.Sequential(
            nn.Conv2d(channels, 32, 3),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Dropout(0.25),
            nn.Flatten(),
            nn.Linear(64 * ((height - 4) // 2) * ((width - 4) // 2), 128),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(128, logits),
        )
        # The convolutions of this network are a quarter faster on a CPU when their weights lie channels last.
        return network.to(memory_format=torch.channels_last)


@models.register("cnn_mcmahan")
@settings
class McMahanCNN(ModelSpec):
    """CNN of the FedAvg paper: 1,663,370 parameters for 28x28 pixels, 10 classes. McMahan et al., AISTATS 2017, sec. 3.

    conv 5x5, 32 -> max-pool 2 -> conv 5x5, 64 -> max-pool 2 -> dense 512 -> dense, ReLU after each but the last, zero padding that
    keeps the size. With other `channels` than 32 in the first layer, the next two have 2 and 16 times as many; 8 make a network for
    comparisons on a small machine, 105,194 parameters. From images `[b, channels, height, width]` to logits `[b, classes]`.
    """

    channels: Annotated[int, Meta(ge=1)] = 32
    takes: ClassVar[str] = "images [channels, height, width] of at least 4x4 pixels"

    @classmethod
    def fits(cls, shape: Shape) -> bool:
        return len(shape) == 3 and min(shape[1:]) >= 4

    def build(self, shape: Shape, classes: int | None) -> nn.Module:
        logits = outputs(self, shape, classes)
        channels, height, width = shape
        return nn.Sequential(
            nn.Conv2d(channels, self.channels, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(self.channels, 2 * self.channels, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(2 * self.channels * (height // 4) * (width // 4), 16 * self.channels),
            nn.ReLU(),
            nn.Linear(16 * self.channels, logits),
        )
