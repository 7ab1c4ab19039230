"""Classifiers of photographs that torchvision has."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta
from torch import nn

from fedml_api.model.model_spec import ModelSpec, Shape, models, outputs
from fedml_api.model.norm import BatchNorm, Norm
from fedml_api.vision import torchvision
from fedml_core.settings import settings


@settings
class OfPhotographs(ModelSpec):
    """From images `[b, 3, height, width]` to logits `[b, classes]`, with initial parameters as torchvision draws them.

    Args:
        norm: after convolutions.
    """

    takes: ClassVar[str] = "images [3, height, width] of at least 32x32 pixels"
    channels: ClassVar[int] = 8
    norm: Norm = BatchNorm()

    def problems(self) -> Iterator[str]:
        yield from self.norm.faults(self.channels)

    @classmethod
    def fits(cls, shape: Shape) -> bool:
        return len(shape) == 3 and shape[0] == 3 and min(shape[1:]) >= 32

    def build(self, shape: Shape, classes: int | None) -> nn.Module:
        logits = outputs(self, shape, classes)
        return normalised(self.network(torchvision("models"), logits), self.norm)

    @abstractmethod
    def network(self, available: Any, logits: int) -> nn.Module:
        """One of those that are `available`, as it comes."""


@models.register("mobilenet_v3")
@settings
class MobileNetV3(OfPhotographs):
    """MobileNetV3: for 1000 classes 5,483,032 parameters if large, 2,542,856 if small. Howard et al., ICCV 2019, tables 1 and 2.

    From images `[b, 3, height, width]` to logits `[b, classes]`.
    """

    size: Literal["large", "small"] = "large"

    def network(self, available: Any, logits: int) -> nn.Module:
        made: nn.Module = getattr(available, f"mobilenet_v3_{self.size}")(num_classes=logits)
        return made


@models.register("efficientnet_b0")
@settings
class EfficientNetB0(OfPhotographs):
    """EfficientNet-B0: 5,288,548 parameters for 1000 classes. Tan and Le, ICML 2019, table 1. Blocks are left out at random.

    From images `[b, 3, height, width]` to logits `[b, classes]`.
    """

    def network(self, available: Any, logits: int) -> nn.Module:
        made: nn.Module = available.efficientnet_b0(num_classes=logits)
        return made


@models.register("vgg")
@settings
class VGG(OfPhotographs):
    """VGG-11, -13, -16 or -19: 132,863,336 parameters at depth 11 and 138,357,544 at depth 16, without `norm`, for 1000 classes.

    From images `[b, 3, height, width]` to logits `[b, classes]`. Simonyan and Zisserman, ICLR 2015, table 1, columns A, B, D and E;
    features of another resolution than 7x7 are brought to it.

    Args:
        norm: after convolutions; none in the paper.
        dropout: between the dense layers.
    """

    channels: ClassVar[int] = 64
    norm: Norm | None = None  # type: ignore[assignment]
    depth: Literal[11, 13, 16, 19] = 11
    dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.5

    def problems(self) -> Iterator[str]:
        yield from () if self.norm is None else super().problems()

    def network(self, available: Any, logits: int) -> nn.Module:
        name = f"vgg{self.depth}" + ("" if self.norm is None else "_bn")
        made: nn.Module = getattr(available, name)(num_classes=logits, dropout=self.dropout)
        return made


@models.register("vit_b_16")
@settings
class ViT(ModelSpec):
    """Vision transformer with patches of 16x16 pixels, base size: 86,567,656 parameters for 224x224 pixels and 1000 classes.

    12 layers of 12 heads, 768 wide, 3072 within. From images `[b, 3, side, side]` to logits `[b, classes]`. Initial parameters are
    as torchvision draws them; the last layer's are zero. Dosovitskiy et al., ICLR 2021, table 1.
    """

    takes: ClassVar[str] = "images [3, side, side], the side a multiple of 16 pixels"
    dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.0

    @classmethod
    def fits(cls, shape: Shape) -> bool:
        return len(shape) == 3 and shape[0] == 3 and shape[1] == shape[2] and shape[1] > 0 and not shape[1] % 16

    def build(self, shape: Shape, classes: int | None) -> nn.Module:
        logits = outputs(self, shape, classes)
        made: nn.Module = torchvision("models").vit_b_16(num_classes=logits, image_size=shape[1], dropout=self.dropout)
        return made


def normalised(network: nn.Module, norm: Norm | None) -> nn.Module:
    """The network with its normalisations by batches replaced by `norm`, unless that is what they are."""
    if norm is None or isinstance(norm, BatchNorm):
        return network
    for name, layer in list(network.named_modules()):
        if isinstance(layer, nn.BatchNorm2d):
            network.set_submodule(name, norm(layer.num_features))
    return network
