"""Networks that find a class for every pixel."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

import torch
from msgspec import Meta
from torch import Tensor, nn

from fedml_api.model.model_spec import ModelSpec, Shape, models, outputs
from fedml_api.model.norm import BatchNorm, Norm
from fedml_api.model.resnet_cifar import as_he_et_al, conv
from fedml_api.model.vision import OfPhotographs
from fedml_core.settings import settings
from fedml_core.trainer import ModelTrainer, Segmenter


@models.register("unet")
@settings
class UNet(ModelSpec):
    """U-Net: 31,037,698 parameters for 3 channels and 2 classes.

    Twice conv 3x3, `width` -> four times: max-pool 2, twice conv 3x3 with twice the channels -> four times: up-convolution 2x2 with
    half the channels, beside the features of that resolution, twice conv 3x3 -> conv 1x1. From images `[b, channels, height,
    width]` to logits `[b, classes, height, width]`. Ronneberger, Fischer and Brox, MICCAI 2015, fig. 1, with zero padding, so that
    the resolution stays, and a normalisation after each convolution 3x3.
    """

    takes: ClassVar[str] = "images [channels, height, width] of 32, 48, 64, ... pixels each way"
    width: Annotated[int, Meta(ge=1)] = 64
    norm: Norm = BatchNorm()

    def problems(self) -> Iterator[str]:
        yield from self.norm.faults(self.width)

    @classmethod
    def fits(cls, shape: Shape) -> bool:
        return len(shape) == 3 and all(side >= 32 and not side % 16 for side in shape[1:])

    def build(self, shape: Shape, classes: int | None) -> nn.Module:
        return _UNet(shape[0], outputs(self, shape, classes), self.width, self.norm)

    def labels(self, shape: Shape, classes: int | None) -> Shape | None:
        return shape[1:]

    def trainer(self) -> ModelTrainer:
        return Segmenter()


@models.register("deeplab_v3")
@settings
class DeepLabV3(OfPhotographs):
    """DeepLabV3 of torchvision: 39,638,869 parameters on a ResNet-50, 11,025,477 on a MobileNetV3, for 21 classes.

    From images `[b, 3, height, width]` to logits `[b, classes, height, width]`. Chen et al., 2017 (arXiv 1706.05587). Normalised by
    batches, it cannot be trained on a batch of one.
    """

    backbone: Literal["resnet50", "mobilenet_v3_large"] = "resnet50"

    def network(self, available: Any, logits: int) -> nn.Module:
        make = getattr(available.segmentation, f"deeplabv3_{self.backbone}")
        return _Out(make(weights=None, weights_backbone=None, num_classes=logits))

    def labels(self, shape: Shape, classes: int | None) -> Shape | None:
        return shape[1:]

    def trainer(self) -> ModelTrainer:
        return Segmenter()


class _UNet(nn.Module):
    def __init__(self, channels: int, logits: int, width: int, norm: Norm) -> None:
        super().__init__()
        widths = [width << level for level in range(5)]
        self.down = nn.ModuleList(_twice(a, b, norm) for a, b in zip([channels, *widths], widths, strict=False))
        self.widen = nn.ModuleList(nn.ConvTranspose2d(2 * w, w, 2, stride=2) for w in widths[-2::-1])
        self.up = nn.ModuleList(_twice(2 * w, w, norm) for w in widths[-2::-1])
        self.head = nn.Conv2d(width, logits, 1)
        as_he_et_al(self)

    def forward(self, x: Tensor) -> Tensor:
        beside = []
        for level, block in enumerate(self.down):
            x = block(nn.functional.max_pool2d(x, 2) if level else x)
            beside.append(x)
        for widen, block, features in zip(self.widen, self.up, beside[-2::-1], strict=True):
            x = block(torch.cat([features, widen(x)], dim=1))
        logits: Tensor = self.head(x)
        return logits


class _Out(nn.Module):
    """Of a network that returns several things, the logits."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)["out"]
        return logits


def _twice(channels: int, results: int, norm: Norm) -> nn.Module:
    return nn.Sequential(
        *(conv(channels, results, 3), norm(results), nn.ReLU()),
        *(conv(results, results, 3), norm(results), nn.ReLU()),
    )
