"""MobileNet, the network of depthwise separable convolutions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, ClassVar

from msgspec import Meta
from torch import nn

from fedml_api.model.model_spec import ModelSpec, Shape, models, outputs
from fedml_api.model.norm import BatchNorm, Norm
from fedml_api.model.resnet_cifar import as_he_et_al
from fedml_core.settings import settings

# Results and stride of each depthwise separable convolution, at width 1.
LAYERS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))


@models.register("mobilenet")
@settings
class MobileNet(ModelSpec):
    """MobileNet (the first version): 4,231,976 parameters for 3 channels and 1000 classes, 3,217,226 for 10.

    conv 3x3, 32, stride 2 -> 13 times conv 3x3 of each channel for itself, then conv 1x1, up to 1024 channels -> mean over pixels
    -> dense, normalisation and ReLU after each convolution. From images `[b, channels, height, width]` to logits `[b, classes]`.
    Howard et al., 2017 (arXiv 1704.04861), table 1, whose last stride of 2 is a 1 where it would not change the resolution.

    Args:
        width: the paper's width multiplier, in (0, 1]: channels are this many times as many, rounded down.
        norm: the paper's is `batch`.
        stride: of the first convolution; 1 for small images, such as CIFAR's.
    """

    takes: ClassVar[str] = "images [channels, height, width] of at least 16x16 pixels"
    width: Annotated[float, Meta(ge=1 / 32, le=1)] = 1.0
    norm: Norm = BatchNorm()
    stride: Annotated[int, Meta(ge=1, le=2)] = 2

    def problems(self) -> Iterator[str]:
        yield from self.norm.faults(math.gcd(*(int(channels * self.width) for channels, _ in ((32, 1), *LAYERS))))

    @classmethod
    def fits(cls, shape: Shape) -> bool:
        return len(shape) == 3 and min(shape[1:]) >= 16

    def build(self, shape: Shape, classes: int | None) -> nn.Module:
        logits, channels = outputs(self, shape, classes), int(32 * self.width)
        layers = [self._conv(shape[0], channels, 3, self.stride)]
        for results, stride in LAYERS:
            results = int(results * self.width)
            layers += [self._conv(channels, channels, 3, stride, groups=channels), self._conv(channels, results, 1)]
            channels = results
        return as_he_et_al(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, logits)))

    def _conv(self, channels: int, results: int, size: int, stride: int = 1, groups: int = 1) -> nn.Module:
        layer = nn.Conv2d(channels, results, size, stride, padding=size // 2, groups=groups, bias=False)
        return nn.Sequential(layer, self.norm(results), nn.ReLU())
