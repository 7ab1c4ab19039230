"""The residual networks of He et al. for photographs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from torch import nn

from fedml_api.model.model_spec import ModelSpec, Shape, models, outputs
from fedml_api.model.norm import BatchNorm, GroupNorm, Norm
from fedml_api.model.resnet_cifar import BasicBlock, Bottleneck, as_he_et_al, conv, projected, stages
from fedml_core.settings import settings

BLOCKS: dict[int, tuple[type[BasicBlock | Bottleneck], tuple[int, int, int, int]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
}


@models.register("resnet")
@settings
class ResNet(ModelSpec):
    """ResNet-18, -34 or -50: 11,689,512, 21,797,672 and 25,557,032 parameters for 3 channels and 1000 classes.

    conv 7x7, 64, stride 2 -> max-pool 3x3, stride 2 -> four stages of blocks of 64, 128, 256 and 512 planes, each but the first at
    half the resolution of the one before -> mean over pixels -> dense. From images `[b, channels, height, width]` to logits
    `[b, classes]`. He, Zhang, Ren and Sun, CVPR 2016, table 1, with the stride of a bottleneck in its convolution 3x3.

    With `depth=18, norm=group` it is the ResNet-18 that federated CIFAR-100 is measured with (Reddi et al., ICLR 2021);
    `resnet18_gn` is short for that.

    Args:
        norm: the paper's is `batch`.
        stem: what the image meets first: `7x7`, as above; `3x3`, a convolution 3x3 of stride 1 and no pooling, for small images.
    """

    takes: ClassVar[str] = "images [channels, height, width] of at least 8x8 pixels"
    depth: Literal[18, 34, 50] = 18
    norm: Norm = BatchNorm()
    stem: Literal["7x7", "3x3"] = "7x7"

    def problems(self) -> Iterator[str]:
        yield from self.norm.faults(64)

    @classmethod
    def fits(cls, shape: Shape) -> bool:
        return len(shape) == 3 and min(shape[1:]) >= 8

    def build(self, shape: Shape, classes: int | None) -> nn.Module:
        logits = outputs(self, shape, classes)
        block, blocks = BLOCKS[self.depth]
        sizes = [(64 << stage, number, 2 if stage else 1) for stage, number in enumerate(blocks)]
        first = conv(shape[0], 64, 7, 2) if self.stem == "7x7" else conv(shape[0], 64, 3)
        pool = [nn.MaxPool2d(3, 2, padding=1)] if self.stem == "7x7" else []
        layers = [nn.Sequential(first, self.norm(64), nn.ReLU(), *pool), *stages(block, 64, sizes, self.norm, projected)]
        head = nn.Linear(512 * block.widening, logits)
        return as_he_et_al(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head))


@models.register("resnet18_gn")
@settings
class ResNet18GN(ResNet):
    """`resnet` of depth 18 with group normalisation: from images `[b, channels, height, width]` to logits `[b, classes]`."""

    depth: Literal[18] = 18
    norm: GroupNorm = GroupNorm()
