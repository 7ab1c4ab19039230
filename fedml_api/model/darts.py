"""DARTS: a network that mixes all operations of a search space, the genotype it comes to, and the network of a genotype.

Liu, Simonyan and Yang, DARTS: Differentiable Architecture Search, ICLR 2019. A network is a stem, a row of cells, a global mean and
a linear layer. A cell has the outputs of the two cells before it as inputs, `steps` nodes of which each is a sum of operations on
inputs and earlier nodes, and joins the last `multiplier` of them along the channels. At a third and at two thirds of the layers
stands a reduction cell: the operations on its inputs have stride 2, and the channels double. All normal cells have the same
operations, and so have both reduction cells.

Normalisation. The paper's is batch normalisation, in the search without scale and shift, which would undo what the mixture weighs.
The default here normalises each example by itself, over groups of four channels, in the search without scale and shift as well.
That suits federated training: clients with other classes have other statistics, whose average is nobody's; there are no buffers to
average; and a client's examples stay apart, so that losses are per example and clients can be stacked. The paper's is
`norm: batch`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import accumulate, count
from typing import Annotated, ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from msgspec import Meta
from torch import Tensor, nn

from fedml_api.model.model_spec import ModelSpec, Shape, models, outputs
from fedml_api.model.norm import GroupNorm, Norm
from fedml_core.settings import settings

Kept = Literal["max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5"]
Operation = Literal["none", Kept]
Natural = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]
# An operation, and the input or node that it is applied to.
Edge = tuple[Kept, Natural]
KEPT: tuple[Kept, ...] = get_args(Kept)
OPERATIONS: tuple[Operation, ...] = ("none", *KEPT)
# (source, how to make the module for so many channels and this stride), for every edge into a node; and for every node.
Node = Sequence[tuple[int, Callable[[int, int], nn.Module]]]
Plan = Sequence[Node]


@settings
class Genotype:
    """The two cells that a search ends with.

    Args:
        normal, reduce: the edges into the nodes, two for each: (operation, source), where 0 is the cell before the last, 1 the last
            cell, and 2 the first node.
        normal_concat, reduce_concat: the nodes that are joined to make the output, 2 being the first.
    """

    normal: tuple[Edge, ...]
    normal_concat: tuple[Natural, ...]
    reduce: tuple[Edge, ...]
    reduce_concat: tuple[Natural, ...]

    def problems(self) -> Iterator[str]:
        for name in ("normal", "reduce"):
            edges, concat = getattr(self, name), getattr(self, f"{name}_concat")
            nodes = len(edges) // 2
            if not edges or len(edges) % 2:
                yield f"{name} has {len(edges)} edges: give two for every node"
            late = [(operation, source) for k, (operation, source) in enumerate(edges) if source >= 2 + k // 2]
            if late:
                yield f"{name}: {late[0]} comes from a node that is not there yet; its source must be earlier than its node"
            if not concat or not all(2 <= node < 2 + nodes for node in concat):
                yield f"{name}_concat = {list(concat)}: must name nodes of the cell, from 2 to {1 + nodes}"


def _published(normal: str, reduce: str) -> Genotype:
    """A genotype of four nodes, all of which are joined, from words such as `sep_conv_3x3:0`."""
    cells = [tuple((op, int(at)) for op, at in (word.split(":") for word in text.split())) for text in (normal, reduce)]
    return Genotype(cells[0], (2, 3, 4, 5), cells[1], (2, 3, 4, 5))  # type: ignore[arg-type]


# Found on CIFAR-10: by DARTS, first order and second order (Liu et al., figures 4 to 7), and by FedNAS (He et al., 2020).
GENOTYPES: dict[str, Genotype] = {
    "darts_v1": _published(
        "sep_conv_3x3:1 sep_conv_3x3:0 skip_connect:0 sep_conv_3x3:1 skip_connect:0 sep_conv_3x3:1 sep_conv_3x3:0 skip_connect:2",
        "max_pool_3x3:0 max_pool_3x3:1 skip_connect:2 max_pool_3x3:0 max_pool_3x3:0 skip_connect:2 skip_connect:2 avg_pool_3x3:0",
    ),
    "darts_v2": _published(
        "sep_conv_3x3:0 sep_conv_3x3:1 sep_conv_3x3:0 sep_conv_3x3:1 sep_conv_3x3:1 skip_connect:0 skip_connect:0 dil_conv_3x3:2",
        "max_pool_3x3:0 max_pool_3x3:1 skip_connect:2 max_pool_3x3:1 max_pool_3x3:0 skip_connect:2 skip_connect:2 max_pool_3x3:1",
    ),
    "fednas_v1": _published(
        "sep_conv_3x3:1 sep_conv_3x3:0 sep_conv_3x3:2 sep_conv_5x5:0 sep_conv_3x3:1 sep_conv_5x5:3 dil_conv_5x5:3 sep_conv_3x3:4",
        "max_pool_3x3:0 skip_connect:1 max_pool_3x3:0 max_pool_3x3:2 max_pool_3x3:0 dil_conv_5x5:1 max_pool_3x3:0 dil_conv_5x5:2",
    ),
}


@settings
class _Cells(ModelSpec):
    """What the network of a search and that of a genotype have in common."""

    takes: ClassVar[str] = "images [channels, height, width] of at least 4x4 pixels"

    @classmethod
    def fits(cls, shape: Shape) -> bool:
        return len(shape) == 3 and min(shape[1:]) >= 4


@models.register("darts_search")
@settings
class DartsSearch(_Cells):
    """The mixture of all cells: 1,930,618 parameters beside the architecture's 224, for 3 channels, 10 classes and 16, 8, 4, 4.

    From images `[b, channels, height, width]` to logits `[b, classes]`. Every edge is a mixture of `operations`, o(x) = sum_j p_j
    o_j(x), where p = softmax(alpha) (Liu et al., eq. 2). The parameters `alphas_normal` and `alphas_reduce` are alpha of the
    edges of either cell, `[edges, operations]`, the edges into the first node first, and each node's by source. `genotype()` of
    the network reads the cells off.

    Args:
        channels: of the first cells; `layers`: cells; `steps`: nodes of a cell; `multiplier`: how many of them are joined.
        stem: channels of the stem, as a multiple of `channels`.
        operations: those to choose from.
        norm: see above.
        sampling: `softmax`: the mixture. `gumbel`: each forward pass in training draws one operation for every edge,
            j = argmax (alpha_j + Gumbel noise), and computes only that; derivatives are those of the softmax of the same numbers
            divided by the temperature, which is the buffer `tau` (GDAS: Dong and Yang, CVPR 2019, eq. 3 to 6). In evaluation the
            operation with the largest alpha stands for the edge. A network that decides while it computes cannot be traced or
            stacked, so its clients are carried out one by one.
    """

    channels: Positive = 16
    layers: Positive = 8
    steps: Positive = 4
    multiplier: Positive = 4
    stem: Positive = 3
    operations: tuple[Operation, ...] = OPERATIONS
    norm: Norm = GroupNorm(each=4)
    sampling: Literal["softmax", "gumbel"] = "softmax"

    def problems(self) -> Iterator[str]:
        yield from self.norm.faults(self.channels)
        if self.multiplier > self.steps:
            yield f"multiplier = {self.multiplier}: a cell of {self.steps} steps has no more than {self.steps} nodes to join"
        if len(set(self.operations)) < max(len(self.operations), 2) or set(self.operations) == {"none"}:
            yield f"operations = {list(self.operations)}: give at least two, each once"

    def build(self, shape: Shape, classes: int | None) -> SearchNetwork:
        return SearchNetwork(self, shape, outputs(self, shape, classes))


@models.register("darts")
@settings
class Darts(_Cells):
    """The network of a genotype: 3,349,342 parameters for darts_v2, 3 channels, 10 classes, 36 and 20, with either norm.

    From images `[b, channels, height, width]` to logits `[b, classes]`, without the auxiliary head and the dropping of paths that
    the paper trains it with.

    Args:
        genotype: its cells, or the name of a published one.
        channels: of the first cells; `layers`: cells; `stem`: channels of the stem, as a multiple of `channels`.
        norm: see above; here with scale and shift.
    """

    genotype: Literal["darts_v1", "darts_v2", "fednas_v1"] | Genotype = "darts_v2"
    channels: Positive = 36
    layers: Positive = 20
    stem: Positive = 3
    norm: Norm = GroupNorm(each=4)

    def problems(self) -> Iterator[str]:
        yield from self.norm.faults(self.channels)

    def build(self, shape: Shape, classes: int | None) -> nn.Module:
        found = GENOTYPES[self.genotype] if isinstance(self.genotype, str) else self.genotype
        classes = outputs(self, shape, classes)
        plans = _plan_of(found.normal, self.norm), _plan_of(found.reduce, self.norm)
        return CellNetwork(self, shape[0], classes, plans, (found.normal_concat, found.reduce_concat), affine=True)


def _plan_of(edges: Sequence[Edge], norm: Norm) -> Plan:
    made = [(source, partial(operation_of, name, norm, True)) for name, source in edges]
    return [made[k : k + 2] for k in range(0, len(made), 2)]


def operation_of(name: Operation, norm: Norm, affine: bool, channels: int, stride: int) -> nn.Module:
    """One of the operations, for images that keep their channels; odd sizes are halved to the larger half."""
    kind, _, size = name.rpartition("_")
    match kind:
        case "max_pool":
            return nn.MaxPool2d(3, stride, padding=1)
        case "avg_pool":
            return nn.AvgPool2d(3, stride, padding=1, count_include_pad=False)
        case "sep_conv":
            width = int(size[0])
            first = _filter(channels, width, stride, 1, norm, affine)
            return nn.Sequential(*first, *_filter(channels, width, 1, 1, norm, affine))
        case "dil_conv":
            return nn.Sequential(*_filter(channels, int(size[0]), stride, 2, norm, affine))
    if name == "none":
        return Zero(stride)
    return nn.Identity() if stride == 1 else FactorizedReduce(channels, channels, norm, affine)


def _filter(channels: int, width: int, stride: int, dilation: int, norm: Norm, affine: bool) -> list[nn.Module]:
    """ReLU, a convolution of each channel by itself, one across channels, normalisation."""
    padding = dilation * (width - 1) // 2
    return [
        nn.ReLU(),
        nn.Conv2d(channels, channels, width, stride, padding, dilation, groups=channels, bias=False),
        nn.Conv2d(channels, channels, 1, bias=False),
        norm(channels, affine),
    ]


class Zero(nn.Module):
    """No connection: zeros."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, :: self.stride, :: self.stride] * 0.0


class FactorizedReduce(nn.Module):
    """Half the size: half of the new channels from every other pixel, half from the pixels between."""

    def __init__(self, channels: int, new: int, norm: Norm, affine: bool) -> None:
        super().__init__()
        self.even = nn.Conv2d(channels, new // 2, 1, 2, bias=False)
        self.odd = nn.Conv2d(channels, new - new // 2, 1, 2, bias=False)
        self.norm = norm(new, affine)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x)
        # The row and column of zeros are seen only where the size is odd.
        between = F.pad(x, (0, 1, 0, 1))[:, :, 1:, 1:]
        result: Tensor = self.norm(torch.cat([self.even(x), self.odd(between)], dim=1))
        return result


# What an edge of the search is called with: the weights of its operations, and the only one to compute, if only one is.
Weights = tuple[Tensor, int | None]


class Mixture(nn.Module):
    """An edge of the search: the weighted sum of all operations, or one of them, times its weight."""

    def __init__(self, operations: Sequence[Operation], norm: Norm, channels: int, stride: int) -> None:
        super().__init__()
        made = [operation_of(name, norm, False, channels, stride) for name in operations]
        # What a pool returns is as large as its input; the other operations end in a normalisation, or change nothing.
        self.operations = nn.ModuleList(
            nn.Sequential(one, norm(channels, affine=False)) if "pool" in name else one
            for name, one in zip(operations, made, strict=True)
        )

    def forward(self, x: Tensor, weights: Tensor, chosen: int | None) -> Tensor:
        if chosen is not None:
            one: Tensor = weights[chosen] * self.operations[chosen](x)
            return one
        return torch.tensordot(weights, torch.stack([operation(x) for operation in self.operations]), dims=1)


class Cell(nn.Module):
    """Inputs brought to the same shape, nodes that are sums over their edges, and the join of some of them.

    Args:
        plan: the edges into every node; `concat`: the nodes that are joined.
        before, last: channels of the two cells before; `channels`: of each node.
        halved: whether the last cell has halved the images; `reduction`: whether this one does.
    """

    def __init__(
        self,
        plan: Plan,
        concat: Sequence[int],
        before: int,
        last: int,
        channels: int,
        halved: bool,
        reduction: bool,
        norm: Norm,
        affine: bool,
    ) -> None:
        super().__init__()
        self.reduction, self.concat, self.width = reduction, tuple(concat), len(concat) * channels
        shrink = FactorizedReduce(before, channels, norm, affine) if halved else _project(before, channels, norm, affine)
        self.inputs = nn.ModuleList([shrink, _project(last, channels, norm, affine)])
        self.edges = nn.ModuleList(make(channels, 2 if reduction and source < 2 else 1) for node in plan for source, make in node)
        ends = [0, *accumulate(len(node) for node in plan)]
        self.nodes = [
            [(edge, source) for edge, (source, _) in enumerate(node, first)] for first, node in zip(ends, plan, strict=False)
        ]

    def forward(self, before: Tensor, last: Tensor, weights: Sequence[Weights] | None = None) -> Tensor:
        """`weights`: those of every edge, in the search."""
        states = [self.inputs[0](before), self.inputs[1](last)]
        for node in self.nodes:
            parts = [self.edges[edge](states[source], *weights[edge] if weights else ()) for edge, source in node]
            states.append(sum(parts[1:], parts[0]))
        return torch.cat([states[node] for node in self.concat], dim=1)


def _project(channels: int, new: int, norm: Norm, affine: bool) -> nn.Module:
    return nn.Sequential(nn.ReLU(), nn.Conv2d(channels, new, 1, bias=False), norm(new, affine))


class CellNetwork(nn.Module):
    """Stem, cells, global mean, linear layer: images `[b, channels, height, width]` to logits `[b, classes]`.

    Args:
        spec: the sizes; `colours`: channels of the images.
        plans, concats: of the normal and of the reduction cell; `affine`: whether normalisation in cells has scale and shift.
    """

    def __init__(
        self,
        spec: DartsSearch | Darts,
        colours: int,
        classes: int,
        plans: tuple[Plan, Plan],
        concats: tuple[Sequence[int], Sequence[int]],
        affine: bool,
    ) -> None:
        super().__init__()
        channels, before, halved, norm = spec.channels, spec.stem * spec.channels, False, spec.norm
        self.stem = nn.Sequential(nn.Conv2d(colours, before, 3, padding=1, bias=False), norm(before))
        self.cells = nn.ModuleList()
        last = before
        for layer in range(spec.layers):
            reduction = layer in (spec.layers // 3, 2 * spec.layers // 3)
            channels *= 2 if reduction else 1
            cell = Cell(plans[reduction], concats[reduction], before, last, channels, halved, reduction, norm, affine)
            self.cells.append(cell)
            before, last, halved = last, cell.width, reduction
        self.classifier = nn.Linear(last, classes)

    def forward(self, x: Tensor) -> Tensor:
        normal, reduction = self.weights()
        before = last = self.stem(x)
        for cell in self.cells:
            before, last = last, cell(before, last, reduction if cell.reduction else normal)
        logits: Tensor = self.classifier(last.mean(dim=(2, 3)))
        return logits

    def weights(self) -> tuple[Sequence[Weights] | None, Sequence[Weights] | None]:
        """Of the edges of both cells, in the search."""
        return None, None


class SearchNetwork(CellNetwork):
    """The network of `DartsSearch`; the architecture is the two parameters `alphas_normal` and `alphas_reduce`."""

    def __init__(self, spec: DartsSearch, shape: Shape, classes: int) -> None:
        edge = partial(Mixture, spec.operations, spec.norm)
        plan = [[(source, edge) for source in range(2 + node)] for node in range(spec.steps)]
        concat = range(2 + spec.steps - spec.multiplier, 2 + spec.steps)
        super().__init__(spec, shape[0], classes, (plan, plan), (concat, concat), affine=False)
        self.spec, size = spec, (sum(len(node) for node in plan), len(spec.operations))
        self.alphas_normal, self.alphas_reduce = (nn.Parameter(1e-3 * torch.randn(size)) for _ in range(2))
        if spec.sampling == "gumbel":
            self.register_buffer("tau", torch.ones(()))

    def weights(self) -> tuple[Sequence[Weights], Sequence[Weights]]:
        return self._weights(self.alphas_normal), self._weights(self.alphas_reduce)

    def _weights(self, alphas: Tensor) -> Sequence[Weights]:
        if self.spec.sampling == "softmax":
            return [(row, None) for row in F.softmax(alphas, dim=1).unbind()]
        drawn = F.gumbel_softmax(alphas, self.tau, hard=True) if self.training else one_hot(alphas)  # type: ignore[arg-type]
        return list(zip(drawn.unbind(), drawn.argmax(dim=1).tolist(), strict=True))

    def genotype(self) -> Genotype:
        """The cells that the present alphas stand for."""
        return genotype_of(self.alphas_normal, self.alphas_reduce, self.spec.operations, self.spec.multiplier)


def one_hot(alphas: Tensor) -> Tensor:
    """1 at the largest of each row, 0 elsewhere."""
    return F.one_hot(alphas.argmax(dim=1), alphas.shape[1]).to(alphas.dtype)


def genotype_of(normal: Tensor, reduce: Tensor, operations: Sequence[Operation], multiplier: int) -> Genotype:
    """The cells that alphas `[edges, operations]` stand for. Liu et al., ICLR 2019, section 2.4.

    Of the edges into a node two are kept: those whose strongest operation other than `none` has the largest share of the softmax of
    the edge. (The share of `none` counts in the softmax: an edge that is mostly `none` is weak.) Of each, that operation is kept.
    """
    steps = next(steps for steps in count(1) if sum(range(2, 2 + steps)) >= len(normal))
    concat = tuple(range(2 + steps - multiplier, 2 + steps))
    return Genotype(_strongest(normal, operations, steps), concat, _strongest(reduce, operations, steps), concat)


def _strongest(alphas: Tensor, operations: Sequence[Operation], steps: int) -> tuple[Edge, ...]:
    shares = F.softmax(alphas.detach(), dim=1)
    kept = [k for k, name in enumerate(operations) if name != "none"]
    best, which = (found.tolist() for found in shares[:, kept].max(dim=1))
    edges: list[Edge] = []
    for rows in torch.arange(len(best)).split([2 + node for node in range(steps)]):
        # Sorting is stable: of equals the earlier source.
        strongest = sorted(range(len(rows)), key=lambda source, first=int(rows[0]): -best[first + source])[:2]
        edges += [(operations[kept[which[int(rows[source])]]], source) for source in sorted(strongest)]  # type: ignore[misc]
    return tuple(edges)
