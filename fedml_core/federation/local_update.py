"""LocalUpdate: tasks that train, cut into begin / step / end so that engines can carry out many clients at once."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property, lru_cache
from typing import Annotated, NamedTuple

import numpy as np
import torch
from msgspec import Meta
from torch import Tensor

from fedml_core import tree
from fedml_core.errors import TrainerError
from fedml_core.federation.client import Client, Mean, Reply, Task
from fedml_core.settings import Registry, settings
from fedml_core.trainer import (
    Batch,
    Clip,
    GradientTransform,
    LocalContext,
    ModelState,
    ModelTrainer,
    Momentum,
    Proximal,
    Rate,
    WeightDecay,
    rate,
)
from fedml_core.trainer.gradients import unshared
from fedml_core.trainer.transforms import Tensors
from fedml_core.tree import Tree


def model_of(shared: Tree) -> ModelState:
    """The server's model in a task's `shared` tree: the tree itself, or its entry `model` where more is sent along."""
    return shared if isinstance(shared, ModelState) else shared["model"]


class Visits(NamedTuple):
    """The course of a client's local training.

    Attributes:
        order: int64 `[n]`, positions within the client's examples, all passes strung together.
        lengths: rows of each mini-batch, summing to n.
    """

    order: Tensor
    lengths: Sequence[int]

    def twice(self) -> Visits:
        """The same batches, each of them two times in a row."""
        batches = [rows for batch in torch.split(self.order, list(self.lengths)) for rows in (batch, batch)]
        return Visits(torch.cat([self.order[:0], *batches]), [length for length in self.lengths for _ in range(2)])


class LocalUpdate(Task):
    """Train the server's model on the client's data and reply with the change.

    The reply's value is `w_client - w_server` as a ModelState, its weight the number of the client's examples, its metric `loss`
    the mean over all examples visited. Subclasses say which batches are drawn and what one step does; `begin` and `step` own their
    carry and the parameters they are handed, and may write into both.

    A client that keeps private state starts from `personal(model, state)`, and leaves what `keep` says. All of these methods see
    one client, or many stacked along a first dimension which the server's model and `shared` do not have (`LocalContext`).
    """

    @abstractmethod
    def visits(self, client: Client) -> Visits:
        """Which examples this client trains on in this round, in which order and batches."""

    def batches(self, client: Client, visits: Visits | None = None) -> Iterator[Batch]:
        """The mini-batches of this client in this round, in order; `visits` if they are known already."""
        visits = visits or self.visits(client)
        return client.train.subset(visits.order.to(client.workspace.device)).batches(visits.lengths)

    @abstractmethod
    def begin(self, params: Tensors, context: LocalContext) -> Tree:
        """The carry before the first step."""

    @abstractmethod
    def step(self, carry: Tree, params: Tensors, grads: Tensors, context: LocalContext) -> Tree:
        """Move `params` along the gradients of one batch; the new carry."""

    def plain_rate(self, round: int) -> float | None:
        """The rate r if `step` does nothing but params <- params - r * grads, so that it may be made part of the backward pass."""
        return None

    def check(self, trainer: ModelTrainer) -> None:
        """Before anything runs.

        Raises:
            TrainerError: this update cannot work with this trainer.
        """

    def end(self, trained: ModelState, start: ModelState, carry: Tree, context: LocalContext) -> Tree:
        """What the server gets to see; `start` is the server's model."""
        return tree.sub(trained, start)

    def fresh(self, model: ModelState) -> Tree:
        """The private state of a client that is asked for the first time, from the server's model; None if clients have none."""
        return None

    def keep(self, trained: ModelState, start: ModelState, carry: Tree, context: LocalContext) -> Tree:
        """What stays at the client for its next round, or None. It may share memory with the arguments: it is copied."""
        return None

    def objection(self, value: Tree, shared: Tree) -> str | None:
        if self.ends_in_change and not isinstance(value, ModelState):
            return "is not a change of the model"
        return super().objection(value, shared)

    @property
    def ends_in_change(self) -> bool:
        """Whether the server gets to see the change of the model, as `end` has it here."""
        return type(self).end is LocalUpdate.end

    def __call__(self, client: Client, shared: Tree, own: Tree = None) -> Reply:
        """Reference implementation: this client alone, in place, one batch after the other.

        Raises:
            TrainerError: the trainer's loss is not per example.
        """
        start, work, trainer = model_of(shared), client.workspace, client.trainer
        self.check(trainer)
        state = self.fresh(start) if client.state is None else client.state
        visits = self.visits(client)
        module = work.load(self.personal(start, state))
        params = tree.tensors(work.view.params)
        steps = torch.tensor(float(len(visits.lengths)), dtype=torch.float64, device=work.device)
        context = LocalContext(tree.tensors(start.params), shared, own, client.round, state, steps)
        carry = self.begin(params, context)
        module.train()
        client.seed_torch("train")
        if trainer.imperative:
            module.zero_grad(set_to_none=True)
            trainer.train(module, self.batches(client, visits))
            return self._reply(client, start, carry, context, {})

        losses: list[torch.Tensor] = []
        plain = self.plain_rate(client.round)
        for batch in self.batches(client, visits):
            if plain is not None:
                losses.append(work.descend(trainer, batch, plain))
                continue
            loss, grads = work.gradients(trainer, batch)
            carry = self.step(carry, params, grads, context)
            losses.append(loss)
        return self._reply(client, start, carry, context, {"loss": Mean.of(losses)})

    def _reply(self, client: Client, start: ModelState, carry: Tree, context: LocalContext, metrics: dict[str, Mean]) -> Reply:
        trained = client.workspace.view
        kept = tree.clone(self.keep(trained, start, carry, context))
        return Reply(self.end(trained, start, carry, context), float(len(client.train)), metrics, kept)


class Around(LocalUpdate):
    """A local update that does what its field `local` does, but for what a subclass says otherwise."""

    local: LocalUpdate

    def visits(self, client: Client) -> Visits:
        return self.local.visits(client)

    def begin(self, params: Tensors, context: LocalContext) -> Tree:
        return self.local.begin(params, context)

    def step(self, carry: Tree, params: Tensors, grads: Tensors, context: LocalContext) -> Tree:
        return self.local.step(carry, params, grads, context)

    def plain_rate(self, round: int) -> float | None:
        return self.local.plain_rate(round)

    def check(self, trainer: ModelTrainer) -> None:
        self.local.check(trainer)


local_updates: Registry[LocalUpdate] = Registry("local update", LocalUpdate)


@local_updates.register("sgd")
@settings
class LocalSGD(LocalUpdate):
    """Mini-batch SGD on the client: w <- w - lr * direction(gradient). McMahan et al., AISTATS 2017, ClientUpdate of Algorithm 1.

    Args:
        lr: rate, or a schedule over rounds.
        epochs: passes over the client's examples, newly shuffled each (1 if neither is given); or `steps`: an exact number of
            batches, passes being strung together as needed.
        batch_size: rows per batch, the last of a pass being what is left; 0 takes all examples as one batch.
        drop_last: leave out the last batch of a pass if it is not full, unless it is the only one.
        momentum, nesterov, weight_decay: as in `torch.optim.SGD`, started afresh every round.
        clip: bound on the norm of each batch's gradient, before all else.
        transforms: further links of the chain, applied after clipping and before weight decay and momentum.
    """

    lr: Rate = 0.1
    epochs: Annotated[int, Meta(ge=1)] | None = None
    steps: Annotated[int, Meta(ge=1)] | None = None
    batch_size: Annotated[int, Meta(ge=0)] = 20
    drop_last: bool = False
    momentum: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    nesterov: bool = False
    weight_decay: Annotated[float, Meta(ge=0)] = 0.0
    clip: Annotated[float, Meta(gt=0)] | None = None
    transforms: tuple[GradientTransform, ...] = ()

    def problems(self) -> Iterator[str]:
        if self.epochs is not None and self.steps is not None:
            yield f"epochs = {self.epochs} and steps = {self.steps} are both given: keep one"
        if self.nesterov and not self.momentum:
            yield "nesterov = true needs momentum > 0"

    @cached_property
    def chain(self) -> tuple[GradientTransform, ...]:
        """All links in the order they are applied."""
        clip = (Clip(self.clip),) if self.clip is not None else ()
        decay = (WeightDecay(self.weight_decay),) if self.weight_decay else ()
        momentum = (Momentum(self.momentum, self.nesterov),) if self.momentum else ()
        return clip + self.transforms + decay + momentum

    def visits(self, client: Client) -> Visits:
        return self.course(len(client.train), client.rng("batches"))

    def course(self, count: int, draw: np.random.Generator) -> Visits:
        """The batches of so many examples."""
        if not count:
            return Visits(torch.empty(0, dtype=torch.int64), ())
        lengths, passes, used = _batches(count, self.batch_size or count, self.drop_last, self.epochs, self.steps)
        orders = [draw.permutation(count)[:used] if self.batch_size else np.arange(count) for _ in range(passes)]
        order = orders[0] if passes == 1 else np.concatenate(orders)
        return Visits(torch.from_numpy(order[: sum(lengths)]), lengths)

    def with_first(self, *links: GradientTransform) -> LocalSGD:
        """The same with further links, before its own `transforms`."""
        return replace(self, transforms=(*links, *self.transforms))

    def plain_rate(self, round: int) -> float | None:
        return None if self.chain else rate(self.lr, round)

    def begin(self, params: Tensors, context: LocalContext) -> Tree:
        return [link.init(params) for link in self.chain]

    def step(self, carry: Tree, params: Tensors, grads: Tensors, context: LocalContext) -> Tree:
        states = []
        grads = unshared(grads) if self.chain else grads
        for link, state in zip(self.chain, carry, strict=True):
            grads, state = link.update(grads, state, params, context)
            states.append(state)
        torch._foreach_add_(params, grads, alpha=-rate(self.lr, context.round))
        return states

    def reach(self, steps: Tensor, round: int) -> Tensor:
        """How far so many steps get if every gradient is 1, in units of the rate: |a|_1 of Wang et al., NeurIPS 2020, section 3.

        A client ends at w - lr sum_k a_k g_k. Without momentum and proximal terms all a_k are 1, and their sum is the number of
        steps; what else stands in the chain (clipping, weight decay) counts as part of the gradients g_k. No step counts as one, so
        that those who took none can be divided by it as well.

        Args:
            steps: float64 of any shape, as `LocalContext.steps`.
        """
        links = tuple(link for link in self.transforms if isinstance(link, (Proximal, Momentum)))
        linear = LocalSGD(self.lr, momentum=self.momentum, nesterov=self.nesterov, transforms=links)
        steps = steps.clamp(min=1)
        if not linear.chain:
            return steps
        most = int(steps.max())
        return _reaches(linear, 1 << most.bit_length(), round).to(steps.device)[steps.long()]

    def check(self, trainer: ModelTrainer) -> None:
        if trainer.imperative and self.chain:
            names = ", ".join(type(link).__name__ for link in self.chain)
            raise TrainerError(
                f"{type(trainer).__name__} overrides train(), so the gradients are out of reach of {names}. "
                "Write loss() instead of train(), or put these terms into your own loop and remove them from LocalSGD."
            )


@lru_cache(maxsize=256)
def _batches(count: int, size: int, drop_last: bool, epochs: int | None, steps: int | None) -> tuple[tuple[int, ...], int, int]:
    """The lengths of all batches of so many examples, in how many passes, and how many rows of a pass are used."""
    size = min(size, count)
    full, rest = divmod(count, size)
    lengths = (size,) * full + (rest,) * (rest > 0 and not drop_last)
    passes = epochs or 1 if steps is None else -(-steps // len(lengths))
    return (lengths * passes)[:steps], passes, sum(lengths)


@lru_cache(maxsize=16)
def _reaches(local: LocalSGD, most: int, round: int) -> Tensor:
    """`LocalSGD.reach` of 0, 1, ... `most` steps, float64 `[most + 1]`: the same for all clients of a round, hence remembered."""
    at, context = torch.zeros(1, dtype=torch.float64), LocalContext([torch.zeros(1, dtype=torch.float64)], None, None, round)
    carry, path = local.begin([at], context), [at.clone()]
    for _ in range(most):
        carry = local.step(carry, [at], [-torch.ones_like(at)], context)
        path.append(at.clone())
    return torch.cat(path) / rate(local.lr, round)
