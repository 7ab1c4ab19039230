"""Server optimizers: what the server does with the mean change of the clients, its pseudo-gradient.

Reddi et al., Adaptive Federated Optimization, ICLR 2021, Algorithm 2. With x the parameters and D the clients' mean change:

    m <- b1 m + (1 - b1) D          x <- x + lr * m / (sqrt(v) + tau)

where the second moment v starts at tau^2 and follows one of

    adagrad   v <- v + D^2
    yogi      v <- v - (1 - b2) D^2 sign(v - D^2)
    adam      v <- b2 v + (1 - b2) D^2

There is no bias correction, as in the paper. Buffers (running statistics) are not optimised: they move by their mean change.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor

from fedml_core import tree
from fedml_core.settings import Registry, settings
from fedml_core.trainer import ModelState, Rate, rate
from fedml_core.tree import Tree

Beta = Annotated[float, Meta(ge=0, lt=1)]
Tau = Annotated[float, Meta(gt=0)]
Params = dict[str, Tensor]


class ServerOptimizer(ABC):
    """State in, state out, applied to the pseudo-gradient; the models handed in are never written into."""

    @abstractmethod
    def init(self, model: ModelState) -> Tree:
        """State before the first round."""

    @abstractmethod
    def step(self, model: ModelState, change: ModelState, state: Tree, round: int) -> tuple[ModelState, Tree]:
        """The server's next model and optimizer state, from the clients' mean change."""


server_optimizers: Registry[ServerOptimizer] = Registry("server optimizer", ServerOptimizer)


@server_optimizers.register("sgd")
@settings
class SGD(ServerOptimizer):
    """v <- momentum v + D, x <- x + lr v. FedAvg at lr 1 without momentum; FedAvgM (Hsu et al., 2019) with it."""

    lr: Rate = 1.0
    momentum: Beta = 0.0

    def init(self, model: ModelState) -> Tree:
        return tree.zeros_like(model.params) if self.momentum else None

    def step(self, model: ModelState, change: ModelState, state: Tree, round: int) -> tuple[ModelState, Tree]:
        velocity = tree.add(change.params, state, alpha=self.momentum) if self.momentum else change.params
        params = tree.add(model.params, velocity, alpha=rate(self.lr, round))
        return ModelState(params, tree.add(model.buffers, change.buffers)), velocity if self.momentum else None


@settings
class Adaptive(ServerOptimizer):
    """One step of Algorithm 2. `second` is the rule of the second moment: all that its three optimizers differ in.

    Args:
        lr, beta1, tau: as in the equations above.
    """

    lr: Rate = 0.1
    beta1: Beta = 0.9
    tau: Tau = 1e-3

    @abstractmethod
    def second(self, v: Tensor, square: Tensor) -> Tensor:
        """The next v, from v and D^2."""

    def init(self, model: ModelState) -> Tree:
        second = tree.map_tensors(lambda param: torch.full_like(param, self.tau**2), model.params)
        return {"first": tree.zeros_like(model.params), "second": second}

    def step(self, model: ModelState, change: ModelState, state: Tree, round: int) -> tuple[ModelState, Tree]:
        lr, beta = rate(self.lr, round), self.beta1
        m = tree.map_tensors(lambda m, d: beta * m + (1 - beta) * d, state["first"], change.params)
        v = tree.map_tensors(lambda v, d: self.second(v, d * d), state["second"], change.params)
        params = tree.map_tensors(lambda x, m, v: x + lr * m / (v.sqrt() + self.tau), model.params, m, v)
        return ModelState(params, tree.add(model.buffers, change.buffers)), {"first": m, "second": v}


@server_optimizers.register("adagrad")
@settings
class Adagrad(Adaptive):
    """FedAdagrad: the second moment is a sum. beta1 is 0 in the paper's experiments."""

    beta1: Beta = 0.0

    def second(self, v: Tensor, square: Tensor) -> Tensor:
        return v + square


@server_optimizers.register("yogi")
@settings
class Yogi(Adaptive):
    """FedYogi: the second moment moves towards D^2 by a step that does not grow with their distance."""

    beta2: Beta = 0.99

    def second(self, v: Tensor, square: Tensor) -> Tensor:
        return v - (1 - self.beta2) * square * torch.sign(v - square)


@server_optimizers.register("adam")
@settings
class Adam(Adaptive):
    """FedAdam: the second moment is an exponential mean of D^2."""

    beta2: Beta = 0.99

    def second(self, v: Tensor, square: Tensor) -> Tensor:
        return self.beta2 * v + (1 - self.beta2) * square
