"""Graph networks, as dense products of matrices: for graphs of some thousand nodes, and for stacks of clients like any network.

They take graphs as `fedml_api.data.graphs.stack` lays them out, `[b, n, F + n]`, of which rows of zeros are no nodes, and make
logits `[b, classes]` of graphs, numbers `[b, 1]` of graphs, or logits `[b, classes, n]` of nodes.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

import torch
from msgspec import Meta
from torch import Tensor, nn

from fedml_api.model.model_spec import ModelSpec, Shape, check_shape, models, outputs
from fedml_core.errors import ConfigError
from fedml_core.federation import ClientData
from fedml_core.settings import settings
from fedml_core.trainer import Classifier, ModelTrainer, NodeClassifier, Regression

Count = Annotated[int, Meta(ge=1)]
Rate = Annotated[float, Meta(ge=0, lt=1)]
Predicts = Literal["class", "value", "nodes"]


@settings
class OfGraphs(ModelSpec):
    """Layers that each make of a node something of it and its neighbours.

    Args:
        layers: how many; of a network for nodes the last one makes the logits. That for graphs has a dense layer after them,
            of what `readout` makes of a graph's nodes.
        dropout: of the features before each layer, in training.
        predicts: a `class` of each graph, a `value` of each, or a class for each of its `nodes`; what the data have, if not given.
    """

    takes: ClassVar[str] = "graphs [nodes, features + nodes]"
    layers: Count = 2
    dropout: Rate = 0.5
    readout: Literal["mean", "sum"] = "mean"
    predicts: Predicts | None = None

    @classmethod
    def fits(cls, shape: Shape) -> bool:
        return len(shape) == 2 and shape[1] > shape[0]

    def fitted(self, data: ClientData) -> ModelSpec:
        labels = data.global_test.columns.get("y")
        if self.predicts is not None or labels is None:
            return self
        kind: Predicts = "nodes" if labels.dim() == 2 else "value" if labels.is_floating_point() else "class"
        return replace(self, predicts=kind)  # type: ignore[type-var]

    def labels(self, shape: Shape, classes: int | None) -> Shape | None:
        return (shape[0],) if self.predicts == "nodes" else ()

    def trainer(self) -> ModelTrainer:
        return {"nodes": NodeClassifier, "value": Regression}.get(self.predicts or "class", Classifier)()

    def build(self, shape: Shape, classes: int | None) -> nn.Module:
        if self.predicts == "value":
            if classes is not None:
                raise ConfigError(f"model.predicts = 'value': the data have {classes} classes; leave model.predicts out")
            check_shape(self, shape)
            numbers = 1
        else:
            numbers = outputs(self, shape, classes)
        layers, width = [], shape[1] - shape[0]
        for left in reversed(range(self.layers)):
            layer, width = self.layer(width, numbers if self.predicts == "nodes" and not left else None)
            layers.append(layer)
        head = None if self.predicts == "nodes" else nn.Linear(width, numbers)
        return GraphNetwork(layers, self.activation(), self.dropout, head, self.readout == "mean")

    @abstractmethod
    def activation(self) -> nn.Module:
        """What comes after each layer that makes no logits."""

    @abstractmethod
    def layer(self, features: int, logits: int | None) -> tuple[Layer, int]:
        """A layer for so many features of a node, and how many it makes: the logits, where they are given."""


class Layer(nn.Module):
    """From features of nodes `[b, n, F]` and what `around` makes of their links to new features `[b, n, F']`."""

    def around(self, links: Tensor) -> Tensor:
        """`[b, n, n]`, the same for all layers of a network, of links `[b, n, n]` that are 1, of a node to itself as well, or 0."""
        raise NotImplementedError


class GraphNetwork(nn.Module):
    """Layers one after the other, and `head` on the mean or the sum of what they make of a graph's nodes."""

    def __init__(self, layers: Sequence[Layer], activation: nn.Module, dropout: float, head: nn.Module | None, mean: bool) -> None:
        super().__init__()
        self.layers, self.activation, self.dropout = nn.ModuleList(layers), activation, nn.Dropout(dropout)
        self.head, self.mean = head, mean

    def forward(self, x: Tensor) -> Tensor:
        nodes, links = apart(x)
        first: Any = self.layers[0]
        around = first.around(links)
        for k, layer in enumerate(self.layers):
            nodes = layer(self.dropout(nodes), around)
            if self.head is not None or k < len(self.layers) - 1:
                nodes = self.activation(nodes)
        if self.head is None:
            return nodes.transpose(1, 2)
        real = links.diagonal(dim1=1, dim2=2).unsqueeze(2)
        total = (nodes * real).sum(dim=1)
        logits: Tensor = self.head(total / real.sum(dim=1).clamp(min=1) if self.mean else total)
        return logits


def apart(x: Tensor) -> tuple[Tensor, Tensor]:
    """Features of nodes `[b, n, F]` and links `[b, n, n]` of graphs `[b, n, F + n]`."""
    width = x.shape[2] - x.shape[1]
    return x[:, :, :width], x[:, :, width:]


@models.register("gcn")
@settings
class GCN(OfGraphs):
    """Graph convolutional network: 23,063 parameters for the 1,433 features and 7 classes of the nodes of Cora.

    h' = ReLU(D^-1/2 (A + I) D^-1/2 h W + b), with D the degrees of A + I. Kipf and Welling, ICLR 2017, eq. 2 and sec. 5.2.
    """

    hidden: Count = 16

    def activation(self) -> nn.Module:
        return nn.ReLU()

    def layer(self, features: int, logits: int | None) -> tuple[Layer, int]:
        width = logits or self.hidden
        return GCNLayer(features, width), width


class GCNLayer(Layer):
    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.linear, self.bias = _linear(features, width), nn.Parameter(torch.zeros(width))

    def around(self, links: Tensor) -> Tensor:
        scale = links.sum(dim=2, keepdim=True).clamp(min=1).rsqrt()
        return scale * links * scale.transpose(1, 2)

    def forward(self, nodes: Tensor, around: Tensor) -> Tensor:
        return around @ self.linear(nodes) + self.bias


@models.register("graphsage")
@settings
class GraphSAGE(OfGraphs):
    """GraphSAGE with the mean of all neighbours as its aggregator, and without scaling features to length 1.

    h' = ReLU(h W_1 + mean of the neighbours' h W_2 + b), what is 0 for a node without neighbours. Hamilton, Ying and Leskovec,
    NeurIPS 2017, alg. 1: W_1 and W_2 are its W, in two parts.
    """

    hidden: Count = 64
    dropout: Rate = 0.0

    def activation(self) -> nn.Module:
        return nn.ReLU()

    def layer(self, features: int, logits: int | None) -> tuple[Layer, int]:
        width = logits or self.hidden
        return SAGELayer(features, width), width


class SAGELayer(Layer):
    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.own, self.neighbours, self.bias = _linear(features, width), _linear(features, width), nn.Parameter(torch.zeros(width))

    def around(self, links: Tensor) -> Tensor:
        others = links - torch.diag_embed(links.diagonal(dim1=1, dim2=2))
        return others / others.sum(dim=2, keepdim=True).clamp(min=1)

    def forward(self, nodes: Tensor, around: Tensor) -> Tensor:
        return self.own(nodes) + around @ self.neighbours(nodes) + self.bias


@models.register("gat")
@settings
class GAT(OfGraphs):
    """Graph attention network: 92,373 parameters for the 1,433 features and 7 classes of the nodes of Cora.

    h'_i = ELU(sum_j a_ij h_j W + b) over a node and its neighbours, a_ij = softmax_j LeakyReLU(u . h_i W + v . h_j W) with slope
    0.2, of several heads side by side; dropout of a_ij too. Velickovic et al., ICLR 2018, eq. 1 to 6 and sec. 3.3.

    Args:
        hidden: features of a head; `heads`: how many, but one only where a layer makes the logits.
    """

    hidden: Count = 8
    heads: Count = 8
    dropout: Rate = 0.6

    def activation(self) -> nn.Module:
        return nn.ELU()

    def layer(self, features: int, logits: int | None) -> tuple[Layer, int]:
        heads, width = (1, logits) if logits else (self.heads, self.hidden)
        return GATLayer(features, width, heads, self.dropout), heads * width


class GATLayer(Layer):
    def __init__(self, features: int, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.linear, self.dropout = _linear(features, heads * width), nn.Dropout(dropout)
        bound = math.sqrt(6 / (heads + width))
        self.toward, self.of = (nn.Parameter(torch.empty(heads, width).uniform_(-bound, bound)) for _ in "uv")
        self.bias = nn.Parameter(torch.zeros(heads * width))

    def around(self, links: Tensor) -> Tensor:
        return links

    def forward(self, nodes: Tensor, around: Tensor) -> Tensor:
        heads = self.linear(nodes).unflatten(2, self.toward.shape).transpose(1, 2)  # [b, heads, n, width]
        to, of = ((heads * vector.unsqueeze(1)).sum(dim=3) for vector in (self.toward, self.of))
        scores = nn.functional.leaky_relu(to.unsqueeze(3) + of.unsqueeze(2), 0.2)
        linked = around.unsqueeze(1) > 0
        # A finite number in place of minus infinity: rows that are no nodes have no links, and their softmax must not be NaN.
        attention = scores.masked_fill(~linked, -1e9).softmax(dim=3) * linked
        return (self.dropout(attention) @ heads).transpose(1, 2).flatten(2) + self.bias


def _linear(features: int, width: int) -> nn.Linear:
    linear = nn.Linear(features, width, bias=False)
    nn.init.xavier_uniform_(linear.weight)
    return linear
