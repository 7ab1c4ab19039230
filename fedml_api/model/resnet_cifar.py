"""The residual networks of He et al. for small images, and the blocks that residual networks are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, ClassVar, Literal

import torch.nn.functional as F
from msgspec import Meta
from torch import Tensor, nn

from fedml_api.model.model_spec import ModelSpec, Shape, models, outputs
from fedml_api.model.norm import BatchNorm, Norm
from fedml_core.settings import settings

Skip = Callable[[int, int, int, Norm], nn.Module]


@models.register("resnet_cifar")
@settings
class ResNetCIFAR(ModelSpec):
    """Residual network for 32x32 pixels: 269,722 parameters at depth 20, 853,018 at depth 56, 1,727,962 at depth 110, 10 classes.

    conv 3x3, 16 -> three stages of (depth - 2) / 6 basic blocks of 16, 32 and 64 channels, each but the first at half the
    resolution of the one before -> mean over pixels -> dense. From images `[b, channels, height, width]` to logits `[b, classes]`.
    He, Zhang, Ren and Sun, CVPR 2016, sec. 4.2.

    Args:
        norm: the paper's is `batch`.
        shortcut: where a block changes resolution and channels: `A`, every other pixel and zeros for the new channels, without
            parameters, as in the paper; `B`, a convolution 1x1.
    """

    takes: ClassVar[str] = "images [channels, height, width] of at least 8x8 pixels"
    depth: Annotated[int, Meta(ge=8)] = 20
    norm: Norm = BatchNorm()
    shortcut: Literal["A", "B"] = "A"

    def problems(self) -> Iterator[str]:
        if (self.depth - 2) % 6:
            yield f"depth = {self.depth}: three stages of blocks of two layers make 6n + 2: 20, 32, 44, 56, 110, ..."
        yield from self.norm.faults(16)

    @classmethod
    def fits(cls, shape: Shape) -> bool:
        return len(shape) == 3 and min(shape[1:]) >= 8

    def build(self, shape: Shape, classes: int | None) -> nn.Module:
        logits = outputs(self, shape, classes)
        blocks = (self.depth - 2) // 6
        skip = padded if self.shortcut == "A" else projected
        layers = [nn.Sequential(conv(shape[0], 16, 3), self.norm(16), nn.ReLU())]
        layers += stages(BasicBlock, 16, [(16, blocks, 1), (32, blocks, 2), (64, blocks, 2)], self.norm, skip)
        return as_he_et_al(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, logits)))


@models.register("resnet20")
@settings
class ResNet20(ResNetCIFAR):
    """`resnet_cifar` of depth 20: from images `[b, channels, height, width]` to logits `[b, classes]`; 269,722 parameters."""

    depth: Literal[20] = 20


@models.register("resnet56")
@settings
class ResNet56(ResNetCIFAR):
    """`resnet_cifar` of depth 56: from images `[b, channels, height, width]` to logits `[b, classes]`; 853,018 parameters."""

    depth: Literal[56] = 56


@models.register("resnet110")
@settings
class ResNet110(ResNetCIFAR):
    """`resnet_cifar` of depth 110: from images `[b, channels, height, width]` to logits `[b, classes]`; 1,727,962 parameters."""

    depth: Literal[110] = 110


class BasicBlock(nn.Module):
    """relu(f(x) + skip(x)): f is two convolutions 3x3, the first in steps of `stride`. He et al., CVPR 2016, fig. 5, left."""

    widening: ClassVar[int] = 1

    def __init__(self, channels: int, planes: int, stride: int, norm: Norm, skip: Skip) -> None:
        super().__init__()
        self.change = nn.Sequential(
            *(conv(channels, planes, 3, stride), norm(planes), nn.ReLU()),
            *(conv(planes, planes, 3), norm(planes)),
        )
        self.skip = skip(channels, planes, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        total: Tensor = self.change(x) + self.skip(x)
        return total.relu()


class Bottleneck(nn.Module):
    """relu(f(x) + skip(x)): f narrows to `planes`, looks around 3x3 in steps of `stride`, and widens to four times the planes.

    He et al., CVPR 2016, fig. 5, right.
    """

    widening: ClassVar[int] = 4

    def __init__(self, channels: int, planes: int, stride: int, norm: Norm, skip: Skip) -> None:
        super().__init__()
        self.change = nn.Sequential(
            *(conv(channels, planes, 1), norm(planes), nn.ReLU()),
            *(conv(planes, planes, 3, stride), norm(planes), nn.ReLU()),
            *(conv(planes, 4 * planes, 1), norm(4 * planes)),
        )
        self.skip = skip(channels, 4 * planes, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        total: Tensor = self.change(x) + self.skip(x)
        return total.relu()


def stages(
    block: type[BasicBlock | Bottleneck], channels: int, sizes: Sequence[tuple[int, int, int]], norm: Norm, skip: Skip
) -> list[nn.Sequential]:
    """One stage for each of `sizes`: planes, how many blocks, and the stride of the first; the first stage takes `channels`."""
    found = []
    for planes, blocks, stride in sizes:
        wide = planes * block.widening
        inputs = [channels, *[wide] * (blocks - 1)]
        found.append(nn.Sequential(*(block(c, planes, 1 if i else stride, norm, skip) for i, c in enumerate(inputs))))
        channels = wide
    return found


def projected(channels: int, results: int, stride: int, norm: Norm) -> nn.Module:
    """The way past a block, of type B: a convolution 1x1 where channels or resolution change, else nothing."""
    if (channels, stride) == (results, 1):
        return nn.Identity()
    return nn.Sequential(conv(channels, results, 1, stride), norm(results))


def padded(channels: int, results: int, stride: int, norm: Norm) -> nn.Module:
    """The way past a block, of type A: every `stride`-th pixel, and zeros behind the channels."""
    return nn.Identity() if (channels, stride) == (results, 1) else _Padded(results - channels, stride)


class _Padded(nn.Module):
    def __init__(self, zeros: int, stride: int) -> None:
        super().__init__()
        self.zeros, self.stride = zeros, stride

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.zeros))


def conv(channels: int, results: int, size: int, stride: int = 1) -> nn.Conv2d:
    """A convolution before a normalisation, which makes a bias needless, that keeps the resolution but for the stride."""
    return nn.Conv2d(channels, results, size, stride, padding=size // 2, bias=False)


def as_he_et_al(network: nn.Module) -> nn.Module:
    """Convolutions drawn as He et al., ICCV 2015, do: normal with variance 2 / (results x pixels of the kernel)."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return network
