"""Networks in parts, one of which every party of vertical federated learning has."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, ClassVar

import torch
from msgspec import Meta
from torch import Tensor, nn

from fedml_api.model.model_spec import ModelSpec, Shape, models, outputs
from fedml_core.errors import ConfigError
from fedml_core.federation import ClientData
from fedml_core.settings import settings

AtLeastOne = Annotated[int, Meta(ge=1)]


class Parts(nn.Module):
    """logits = top(bottom_1(x_1) + bottom_2(x_2) + ...), where x_p is what party p knows.

    Adding up loses nothing against a layer on all outputs side by side, W [h_1, h_2] = W_1 h_1 + W_2 h_2, and whoever has `top`
    can do with the sum.

    Args:
        bottoms: a network for each party's columns, all with outputs `[b, cut]`; `widths`: how many columns that are.
        top: from `[b, cut]` to logits `[b, classes]`.
    """

    def __init__(self, bottoms: Mapping[str, nn.Module], widths: Mapping[str, int], top: nn.Module) -> None:
        super().__init__()
        if bad := [party for party in bottoms if "." in party or hasattr(nn.ModuleDict, party)]:
            raise ConfigError(f"party '{bad[0]}': no part of a network can have this name; call it something else, without dots")
        self.bottoms, self.top = nn.ModuleDict(bottoms), top
        self.widths = [widths[party] for party in bottoms]

    def forward(self, x: Tensor) -> Tensor:
        first, *others = (bottom(own) for bottom, own in zip(self.bottoms.values(), x.split(self.widths, dim=1), strict=True))
        total = first
        for other in others:
            total = total + other
        logits: Tensor = self.top(total)
        return logits


class Bias(nn.Module):
    """Adds a vector, at first zero."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias


class AgainstZero(nn.Module):
    """A number z `[b, 1]` as the logits 0 and z `[b, 2]`, whose softmax is the logistic function of z."""

    def forward(self, z: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(z), z], dim=1)


class VerticalSpec(ModelSpec):
    """A network in parts.

    Attributes:
        parties: the number of columns of each party, in their order; None: those of the data set.
    """

    takes: ClassVar[str] = "the columns of several parties (data sets such as adult and credit)"
    parties: dict[str, AtLeastOne] | None

    @classmethod
    def fits(cls, shape: Shape) -> bool:
        return False

    def fitted(self, data: ClientData) -> ModelSpec:
        return replace(self, parties=getattr(data, "widths", None)) if self.parties is None else self  # type: ignore[type-var]

    def build(self, shape: Shape, classes: int | None) -> nn.Module:
        if classes is None or self.parties is None:
            outputs(self, shape, classes)
        assert classes is not None
        assert self.parties is not None
        if (sum(self.parties.values()),) != shape:
            raise ConfigError(f"model.parties = {self.parties}: the data have {list(shape)} columns in all")
        return self.parts(self.parties, classes)

    @abstractmethod
    def parts(self, widths: Mapping[str, int], classes: int) -> Parts:
        """The network."""


@models.register("vertical_lr")
@settings
class VerticalLR(VerticalSpec):
    """Logistic regression on the columns of all parties: logit = sum_p w_p . x_p + b, where b is the label holder's.

    For more than two classes there is one such logit for each.
    """

    parties: dict[str, AtLeastOne] | None = None

    def parts(self, widths: Mapping[str, int], classes: int) -> Parts:
        cut = 1 if classes == 2 else classes
        bottoms = {party: nn.Linear(width, cut, bias=False) for party, width in widths.items()}
        return Parts(bottoms, widths, nn.Sequential(Bias(cut), *[AgainstZero()] * (cut == 1)))


@models.register("vertical_nn")
@settings
class VerticalNN(VerticalSpec):
    """A hidden layer at every party, and one on their sum at the label holder.

        h_p = V_p relu(U_p x_p + a_p)        logits = W relu(sum_p h_p + c) + d

    Args:
        hidden: units of a party's layer; `cut`: numbers that a party sends of an example.
    """

    parties: dict[str, AtLeastOne] | None = None
    hidden: AtLeastOne = 32
    cut: AtLeastOne = 16

    def parts(self, widths: Mapping[str, int], classes: int) -> Parts:
        bottoms = {
            party: nn.Sequential(nn.Linear(width, self.hidden), nn.ReLU(), nn.Linear(self.hidden, self.cut, bias=False))
            for party, width in widths.items()
        }
        return Parts(bottoms, widths, nn.Sequential(Bias(self.cut), nn.ReLU(), nn.Linear(self.cut, classes)))
