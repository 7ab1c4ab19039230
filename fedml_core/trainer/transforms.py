"""Gradient transforms: the parts of which local optimizers are composed.

A transform turns the gradients of one step into the direction of that step; the local update then moves the parameters by
`-lr * direction`. Transforms are chained in the order given. A transform may overwrite the gradients it is handed and the state
it returned before: both are its own. It sees lists of tensors in the order of the model's parameters.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor

from fedml_core.settings import Registry, settings
from fedml_core.tree import Tree

Tensors = list[Tensor]
NO_STEPS = torch.tensor(0.0, dtype=torch.float64)


@dataclass(frozen=True)
class LocalContext:
    """What a transform may look at beside gradients and parameters.

    Attributes:
        anchor: the parameters as they came from the server.
        shared: the task's `shared` tree, the same for every client; `own`: this client's part, or None.
        round: the round, counted from 0.
        state: the client's private state, or what `LocalUpdate.fresh` made for its first time.
        steps: how many steps the client takes in this round: float64, a scalar, or `[clients]` when stacked.
        stacked: whether gradients, parameters, states and `own` are those of many clients, along a first dimension that `anchor`
            and `shared` do not have. Elementwise operations need not care; what looks at a model as a whole uses `norm`, `dot`
            and `scale_`.
    """

    anchor: Tensors
    shared: Tree
    own: Tree
    round: int
    state: Tree = None
    steps: Tensor = NO_STEPS
    stacked: bool = False

    def norm(self, tensors: Tensors) -> Tensor:
        """Euclidean norm of all tensors taken as one vector: a scalar, or `[clients]` when stacked."""
        rows = [part.reshape(len(part), -1) for part in tensors] if self.stacked else []
        parts = [part.norm(dim=1) for part in rows] if self.stacked else list(torch._foreach_norm(tensors))
        total: Tensor = torch.linalg.vector_norm(torch.stack(parts), dim=0)
        return total

    def dot(self, one: Tensors, other: Tensors) -> Tensor:
        """The sum over all tensors of the elementwise products, shaped as what `norm` returns."""
        products = torch._foreach_mul(one, other)
        parts = [part.reshape(len(part), -1).sum(dim=1) if self.stacked else part.sum() for part in products]
        return torch.stack(parts).sum(dim=0)

    def scale_(self, tensors: Tensors, factor: Tensor) -> None:
        """Multiply all tensors in place by a `factor` shaped as what `norm` returns."""
        for part in tensors if self.stacked else ():
            part.mul_(per_client(factor, part))
        if tensors and not self.stacked:
            torch._foreach_mul_(tensors, factor)


def per_client(values: Tensor, like: Tensor) -> Tensor:
    """A number `[]`, or one for each stacked client `[clients]`, with as many dimensions as the client's or all clients' `like`."""
    return values.view(*values.shape, *[1] * (like.dim() - values.dim()))


class GradientTransform(ABC):
    """One link of the chain: (gradients, state) -> (direction, state)."""

    def init(self, params: Sequence[Tensor]) -> Tree:
        """State before the first step."""
        return None

    @abstractmethod
    def update(self, grads: Tensors, state: Tree, params: Tensors, context: LocalContext) -> tuple[Tensors, Tree]:
        """Direction and new state from the gradients at `params`."""


transforms: Registry[GradientTransform] = Registry("gradient transform", GradientTransform)


@transforms.register("clip")
@settings
class Clip(GradientTransform):
    """Scale the gradients so that their joint Euclidean norm is at most `norm`: g min(1, norm / |g|).

    Pascanu et al., ICML 2013."""

    norm: Annotated[float, Meta(gt=0)]

    def update(self, grads: Tensors, state: Tree, params: Tensors, context: LocalContext) -> tuple[Tensors, Tree]:
        context.scale_(grads, torch.clamp(self.norm / (context.norm(grads) + 1e-12), max=1.0))
        return grads, state


@transforms.register("proximal")
@settings
class Proximal(GradientTransform):
    """Gradient of the proximal term (mu/2) |w - w_server|^2: g + mu (w - w_server).

    Li et al., MLSys 2020 (FedProx), Algorithm 2."""

    mu: Annotated[float, Meta(ge=0)]

    def update(self, grads: Tensors, state: Tree, params: Tensors, context: LocalContext) -> tuple[Tensors, Tree]:
        torch._foreach_add_(grads, torch._foreach_sub(params, context.anchor), alpha=self.mu)
        return grads, state


@transforms.register("weight_decay")
@settings
class WeightDecay(GradientTransform):
    """Gradient of the penalty (decay/2) |w|^2: g + decay * w."""

    decay: Annotated[float, Meta(ge=0)]

    def update(self, grads: Tensors, state: Tree, params: Tensors, context: LocalContext) -> tuple[Tensors, Tree]:
        torch._foreach_add_(grads, params, alpha=self.decay)
        return grads, state


@transforms.register("momentum")
@settings
class Momentum(GradientTransform):
    """Heavy-ball momentum: v <- beta v + g, direction v; with `nesterov`, direction g + beta v.

    Sutskever et al., ICML 2013, in the form of `torch.optim.SGD`, whose first v is g itself."""

    beta: Annotated[float, Meta(gt=0, lt=1)] = 0.9
    nesterov: bool = False

    def update(self, grads: Tensors, state: Tree, params: Tensors, context: LocalContext) -> tuple[Tensors, Tree]:
        if state is None:
            velocity = [grad.clone() for grad in grads]
        else:
            velocity = state
            torch._foreach_mul_(velocity, self.beta)
            torch._foreach_add_(velocity, grads)
        if not self.nesterov:
            return [part.clone() for part in velocity], velocity
        torch._foreach_add_(grads, velocity, alpha=self.beta)
        return grads, velocity


@transforms.register("adam")
@settings
class Adaptive(GradientTransform):
    """Adam's direction, m / (sqrt(v) + eps) with moments m, v freed of their bias; started afresh every round.

    Kingma and Ba, ICLR 2015, Algorithm 1, as `torch.optim.Adam` has it."""

    beta1: Annotated[float, Meta(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Meta(ge=0, lt=1)] = 0.999
    eps: Annotated[float, Meta(gt=0)] = 1e-8

    def init(self, params: Sequence[Tensor]) -> Tree:
        return {"m": [torch.zeros_like(part) for part in params], "v": [torch.zeros_like(part) for part in params], "steps": 0}

    def update(self, grads: Tensors, state: Tree, params: Tensors, context: LocalContext) -> tuple[Tensors, Tree]:
        steps = state["steps"] + 1
        torch._foreach_lerp_(state["m"], grads, 1 - self.beta1)
        torch._foreach_mul_(state["v"], self.beta2)
        torch._foreach_addcmul_(state["v"], grads, grads, 1 - self.beta2)
        scale = torch._foreach_sqrt(state["v"])
        torch._foreach_div_(scale, (1 - self.beta2**steps) ** 0.5)
        torch._foreach_add_(scale, self.eps)
        direction = torch._foreach_div(state["m"], scale)
        torch._foreach_div_(direction, 1 - self.beta1**steps)
        return list(direction), {"m": state["m"], "v": state["v"], "steps": steps}
