"""Networks in parts: small ones for the edge, and what a server puts on top of their features."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import field
from typing import Annotated, ClassVar, Literal

from msgspec import Meta
from torch import Tensor, nn

from fedml_api.model.model_spec import ModelSpec, Shape, models, outputs
from fedml_api.model.norm import BatchNorm, Norm
from fedml_api.model.resnet_cifar import Bottleneck, as_he_et_al, conv, projected, stages
from fedml_core.settings import settings


class Edge(nn.Module):
    """What a client trains: `extractor`, from x to features, and `classifier`, from features to logits `[b, classes]`."""

    def __init__(self, extractor: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        self.extractor, self.classifier = extractor, classifier

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.extractor(x))
        return logits


class InParts(nn.Module):
    """Edge networks that make features of one shape, and `server`, from these to logits `[b, classes]`.

    Called with x it is the large network: the extractor of the first edge, and the server on top of it.

    Args:
        edges: by a name of theirs, without dots; `of_client`: the names of clients' edges, the first where nothing is said.
    """

    def __init__(self, edges: Mapping[str, Edge], server: nn.Module, of_client: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self.edges, self.server = nn.ModuleDict(edges), server
        self.first, self.of_client = next(iter(edges)), dict(of_client or {})

    def edge(self, client: str) -> Edge:
        """The edge network of a client."""
        found: Edge = self.edges[self.of_client.get(client, self.first)]
        return found

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.server(self.edges[self.first].extractor(x))
        return logits


@settings
class InPartsSpec(ModelSpec):
    """Settings of a network in parts.

    Args:
        part: `all` for algorithms that know about parts; as an ordinary network, `large`: an extractor and the server's part, or
            `edge`: an extractor and the edge's classifier.
        edge: the size of edge networks, as the subclass says; `edges`: by client, where it is another one.
    """

    part: Literal["all", "large", "edge"] = "all"
    edge: Annotated[int, Meta(ge=1)] = 1
    edges: dict[str, Annotated[int, Meta(ge=1)]] = field(default_factory=dict)

    @abstractmethod
    def extractor(self, shape: Shape) -> nn.Module:
        """From examples of `shape` to features."""

    @abstractmethod
    def classifier(self, size: int, shape: Shape, classes: int) -> nn.Module:
        """From features to logits, on the edge."""

    @abstractmethod
    def top(self, shape: Shape, classes: int) -> nn.Module:
        """From features to logits, at the server."""

    def build(self, shape: Shape, classes: int | None) -> nn.Module:
        logits = outputs(self, shape, classes)
        if self.part == "large":
            return nn.Sequential(self.extractor(shape), self.top(shape, logits))
        extractor = self.extractor(shape)
        if self.part == "edge":
            return Edge(extractor, self.classifier(self.edge, shape, logits))
        # All extractors begin alike, so that their features mean the same to the server.
        sizes = dict.fromkeys([self.edge, *self.edges.values()])
        edges = {str(size): Edge(deepcopy(extractor), self.classifier(size, shape, logits)) for size in sizes}
        return InParts(edges, self.top(shape, logits), {client: str(size) for client, size in self.edges.items()})


@models.register("cnn_in_parts")
@settings
class CNNInParts(InPartsSpec):
    """The CNN of the FedAvg paper with a 3x3 convolution first, in parts, small enough for comparisons on a small machine.

    Edge: conv 3x3, `channels` -> max-pool 2 -> these features -> means over a grid of `edge` by `edge` cells -> dense.
    Server: conv 5x5, twice the channels -> max-pool 2 -> dense, 16 times the channels -> dense. ReLU after all but the last.
    28x28 pixels and 10 classes: 1,370 parameters on the edge, 105,066 in the large network.
    From images `[b, channels, height, width]` to logits `[b, classes]`.
    """

    edge: Annotated[int, Meta(ge=1)] = 4
    channels: Annotated[int, Meta(ge=1)] = 8
    takes: ClassVar[str] = "images [channels, height, width] of at least 4x4 pixels"

    @classmethod
    def fits(cls, shape: Shape) -> bool:
        return len(shape) == 3 and min(shape[1:]) >= 4

    def extractor(self, shape: Shape) -> nn.Module:
        return nn.Sequential(nn.Conv2d(shape[0], self.channels, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))

    def classifier(self, size: int, shape: Shape, classes: int) -> nn.Module:
        return nn.Sequential(nn.AdaptiveAvgPool2d(size), nn.Flatten(), nn.Linear(self.channels * size**2, classes))

    def top(self, shape: Shape, classes: int) -> nn.Module:
        wide, (height, width) = 2 * self.channels, shape[1:]
        return nn.Sequential(
            nn.Conv2d(self.channels, wide, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(wide * (height // 4) * (width // 4), 8 * wide),
            nn.ReLU(),
            nn.Linear(8 * wide, classes),
        )


@models.register("resnet_in_parts")
@settings
class ResNetInParts(InPartsSpec):
    """The residual networks of FedGKT: a ResNet-8 on the edge, and a ResNet-55 or ResNet-109 at the server.

    From images `[b, channels, height, width]` to logits `[b, classes]`. Both halves meet after the first convolution of a ResNet-56
    or ResNet-110 of bottlenecks, three stages of 16, 32 and 64 planes and four times as many channels, for images of 32x32
    pixels. He, Annavaram and Avestimehr, NeurIPS 2020, section 4; bottlenecks: He, Zhang, Ren and Sun, CVPR 2016.

    Edge: conv 3x3, 16 -> these features -> `edge` bottlenecks of the first stage (1: ResNet-5, 2: ResNet-8) -> mean -> dense.
    Server: all bottlenecks -> mean -> dense. 32x32 pixels and 10 classes: 10,586 parameters on the edge; 591,322 in a ResNet-56,
    1,147,738 in a ResNet-110.

    Args:
        depth: layers of the large network; `norm`: the paper's is `batch`.
    """

    edge: Annotated[int, Meta(ge=1)] = 2
    depth: Literal[56, 110] = 56
    norm: Norm = BatchNorm()
    takes: ClassVar[str] = "images [channels, height, width] of at least 4x4 pixels"

    def problems(self) -> Iterator[str]:
        yield from self.norm.faults(16)

    @classmethod
    def fits(cls, shape: Shape) -> bool:
        return len(shape) == 3 and min(shape[1:]) >= 4

    def extractor(self, shape: Shape) -> nn.Module:
        return as_he_et_al(nn.Sequential(conv(shape[0], 16, 3), self.norm(16), nn.ReLU()))

    def classifier(self, size: int, shape: Shape, classes: int) -> nn.Module:
        return self._residual([(16, size, 1)], classes)

    def top(self, shape: Shape, classes: int) -> nn.Module:
        blocks = (self.depth - 2) // 9
        return self._residual([(16, blocks, 1), (32, blocks, 2), (64, blocks, 2)], classes)

    def _residual(self, sizes: list[tuple[int, int, int]], classes: int) -> nn.Module:
        layers = [block for stage in stages(Bottleneck, 16, sizes, self.norm, projected) for block in stage]
        head = nn.Linear(sizes[-1][0] * Bottleneck.widening, classes)
        return as_he_et_al(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head))
