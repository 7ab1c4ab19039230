"""What a client is asked (Task), may see (Client) and answers (Reply)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from fedml_core import rng, tree
from fedml_core.settings import Registry
from fedml_core.trainer import Batch, Examples, ModelState, ModelTrainer
from fedml_core.trainer.gradients import autocast, gradients
from fedml_core.trainer.model_trainer import per_example
from fedml_core.trainer.transforms import Tensors
from fedml_core.tree import Tree


class Workspace:
    """The module a worker trains in: one per worker, whoever its clients are. Numbers are loaded into it for each of them.

    Args:
        module: the network; `precision`: dtype of `torch.autocast` while training, or None to compute as the parameters are.
    """

    def __init__(self, module: nn.Module, precision: torch.dtype | None = None) -> None:
        self.module, self.precision = module, precision
        self.view = ModelState.of(module)
        self.params = [param for param in module.parameters() if param.requires_grad]
        self.counters = [(buffer, buffer.clone()) for buffer in module.buffers() if not buffer.is_floating_point()]
        self.device = self.params[0].device if self.params else torch.device("cpu")
        self._means: dict[int, torch.Tensor] = {}

    def load(self, model: ModelState) -> nn.Module:
        """The module, holding the numbers of `model`; integer buffers, which are no part of it, start anew."""
        tree.copy_(self.view, model)
        for buffer, first in self.counters:
            buffer.copy_(first)
        return self.module

    def part(self, module: nn.Module) -> Workspace:
        """Part of this workspace's module, to work in by itself."""
        part, inside = Workspace(module, self.precision), {id(buffer) for buffer in module.buffers()}
        part.counters = [(buffer, first) for buffer, first in self.counters if id(buffer) in inside]
        return part

    def mean_of(self, rows: int) -> torch.Tensor:
        """The weights of a mean over `rows` examples: float32 `[rows]`, each 1/rows."""
        if rows not in self._means:
            self._means[rows] = torch.full((rows,), 1 / rows, device=self.device)
        return self._means[rows]

    def gradients(self, trainer: ModelTrainer, batch: Batch) -> tuple[torch.Tensor, Tensors]:
        """The losses `[b]` of the module on a batch, and the gradients of their mean."""
        with autocast(self.device, self.precision):
            losses = per_example(trainer.loss(self.module, batch), batch)
        return losses.detach(), gradients(losses, self.mean_of(losses.shape[0]).to(losses.dtype), self.params)

    def descend(self, trainer: ModelTrainer, batch: Batch, rate: float) -> torch.Tensor:
        """Move the module's parameters by -rate * gradients; the losses before."""
        losses, grads = self.gradients(trainer, batch)
        torch._foreach_add_(tree.tensors(self.view.params), grads, alpha=-rate)
        return losses


@dataclass(frozen=True)
class Client:
    """One client in one round: all that a task may see, and nothing more.

    Attributes:
        id: the client's name; `round`: the round, counted from 0; `seed`: the run's seed.
        train: the client's own training examples; `tests`: where a client's own test examples are found, looked up when needed.
        trainer: the user's ModelTrainer; `workspace`: a module to work in, whose content is undefined until loaded.
        state: what this client's last reply left here for itself, or None.
    """

    id: str
    round: int
    seed: int
    train: Examples
    tests: Callable[[str], Examples]
    trainer: ModelTrainer
    workspace: Workspace
    state: Tree = None

    @property
    def test(self) -> Examples:
        """This client's own test examples."""
        return self.tests(self.id)

    def rng(self, purpose: str) -> np.random.Generator:
        """This client's own random stream for `purpose` in this round."""
        return rng.rng(self.seed, purpose, self.round, self.id)

    def seed_torch(self, purpose: str) -> None:
        """Start torch's generator (dropout) on this client's own stream for `purpose` in this round."""
        rng.seed_torch(self.seed, purpose, self.round, self.id, device=self.workspace.device)


@tree.node
class Mean:
    """A mean that can still be merged with others: `total / count`."""

    total: float
    count: float

    @classmethod
    def of(cls, values: list[torch.Tensor]) -> Mean:
        """The mean over some batches' values, `[b]` each, summed as float64."""
        seen = torch.cat(values) if values else torch.zeros(0)
        return cls(float(seen.sum(dtype=torch.float64)), seen.shape[0])

    @property
    def value(self) -> float:
        return self.total / self.count if self.count else float("nan")

    def merge(self, other: Mean) -> Mean:
        return Mean(self.total + other.total, self.count + other.count)


@tree.node
class Reply:
    """What a task returns.

    Attributes:
        value: the tree that the server will see, such as the change of the model; `weight`: how much it counts, usually examples.
        metrics: means over the examples the task went through.
        state: what stays at the client, for its next round; the server never sees it.
    """

    value: Tree
    weight: float
    metrics: dict[str, Mean]
    state: Tree = None


@dataclass(frozen=True)
class Replies:
    """The replies of some clients, stacked: every tensor of `value` has a first dimension over `clients`.

    The tensors lie in memory that is used again: whoever wants to keep a reply takes it from `apart`.

    Attributes:
        clients: ids; `weights`: one per client.
        metrics: by name, the totals and the counts of the clients' means (see `Mean`), float64 `[clients]` each.
        states: each client's new private state, in memory of its own; None where there is none.
    """

    clients: list[str]
    value: Tree
    weights: list[float]
    metrics: dict[str, tuple[torch.Tensor, torch.Tensor]]
    states: list[Tree]

    def apart(self) -> Iterator[tuple[str, Reply]]:
        """Client by client, in memory of their own."""
        plain = {name: (totals.tolist(), counts.tolist()) for name, (totals, counts) in self.metrics.items()}
        for k, (client, value) in enumerate(zip(self.clients, tree.unstack(self.value, len(self.clients)), strict=True)):
            metrics = {name: Mean(totals[k], counts[k]) for name, (totals, counts) in plain.items()}
            yield client, Reply(value, self.weights[k], metrics, self.states[k])


class Task(ABC):
    """What a client can be asked to do: frozen hyper-parameters and a function.

    A task reads the client, `shared` and `own`, nothing else. Whatever it needs from the server has to arrive in these two, so that
    what works in a simulation also works on a device.
    """

    @abstractmethod
    def __call__(self, client: Client, shared: Tree, own: Tree = None) -> Reply:
        """Carry the task out for `client`. `shared` is the same tree for every client of the round, `own` is this client's."""

    def personal(self, model: ModelState, state: Tree) -> ModelState:
        """The model that a client uses which has this private state, from the server's: the server's, unless the task says else."""
        return model

    def objection(self, value: Tree, shared: Tree) -> str | None:
        """What is wrong with a reply's `value`, or None: a device may send anything that can be decoded."""
        start = shared["model"] if isinstance(shared, dict) and "model" in shared else shared
        if isinstance(start, ModelState) and isinstance(value, ModelState) and shapes(value) != shapes(start):
            return "has other parameters than the server's model"
        return None if all(is_finite(part) for part in tree.tensors(value)) else "holds numbers that are not finite"


class Wrapping(Task):
    """A task that does what its field `task` does, and then something with the reply, `after`.

    The two are apart so that an engine may carry the inner task out in its own way, many clients at once.
    """

    task: Task

    def __call__(self, client: Client, shared: Tree, own: Tree = None) -> Reply:
        return self.after(client, self.task(replace(client, state=self.kept(client.state)), shared, own))

    def kept(self, state: Tree) -> Tree:
        """The private state of `task` in that of a client."""
        return state

    @abstractmethod
    def after(self, client: Client, reply: Reply) -> Reply:
        """The reply, from the one to `task`; `client` is as it was before."""


def is_finite(part: torch.Tensor) -> bool:
    """Whether all numbers of a tensor are."""
    part = part.float() if part.dtype.itemsize == 1 else part  # of the types of one byte not all know infinity
    # The sum is finite only if every number is, and costs a tenth of looking at each; those of a sound part may still overflow.
    return part.is_meta or bool(part.sum().isfinite()) or bool(part.isfinite().all())


def shapes(model: ModelState) -> Tree:
    """Name, type and shape of everything in a model, in order: what two models must agree in to be added, tensor by tensor.

    What is no tensor has no shape, and so agrees with no part of a model.
    """
    return {"params": _shapes(model.params), "buffers": _shapes(model.buffers)}


def _shapes(parts: Tree) -> list[list[str | None]] | None:
    if not isinstance(parts, dict):  # a device may have sent it
        return None
    return [
        [name, str((part.dtype, tuple(part.shape))) if isinstance(part, torch.Tensor) else None] for name, part in parts.items()
    ]


tasks: Registry[Task] = Registry("task", Task)
