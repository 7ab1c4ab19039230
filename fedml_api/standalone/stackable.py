"""Whether a task can be carried out in traced or stacked steps: tried out on a few rows, before any client trains."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from fedml_api.standalone.executor import Work, log
from fedml_core import tree
from fedml_core.errors import TrainerError
from fedml_core.federation import ClientRunner, Evaluate, LocalUpdate, Setup, Task, model_of
from fedml_core.trainer import LocalContext, ModelState
from fedml_core.trainer.traced import TracedStep
from fedml_core.trainer.transforms import Tensors

RANDOM = ("bernoulli", "rand", "dropout", "keep_with_probability", "normal", "uniform")


class Verdicts:
    """Whether work can be traced (or stacked), found out once for every task; the log says why not."""

    def __init__(self, setup: Setup, stacked: bool) -> None:
        self.setup, self.stacked = setup, stacked
        self._known: dict[str, bool] = {}
        self._last: tuple[Task | None, bool] = (None, False)

    def suits(self, work: Work) -> bool:
        work = work.inside()
        if work.task is self._last[0]:
            return self._last[1]
        kind = repr(work.task)
        if kind not in self._known:
            reason = reason_against(self.setup, work, self.stacked)
            self._known[kind] = reason is None
            if reason and not isinstance(work.task, Evaluate):
                so = "clients are not stacked but carried out one by one" if self.stacked else "training steps are not traced"
                log.warning("%s: %s", so, reason)
        self._last = work.task, self._known[kind]
        return self._known[kind]


def reason_against(setup: Setup, work: Work, stacked: bool) -> str | None:
    """Why this work cannot be traced (or stacked), in words for the log; None if it can.

    Tracing fixes whatever the trainer's Python code decides, and stacking asks more of every operation. So both are tried: two
    clients with different parameters, one row of padding, compared with the gradients of each client by itself.
    """
    task, trainer = work.task, setup.trainer
    if not isinstance(task, LocalUpdate) or type(task).__call__ is not LocalUpdate.__call__:
        return f"{type(task).__name__} is not a local update made of begin, step and end"
    if trainer.imperative:
        return f"{type(trainer).__name__} has a training loop of its own; write loss() instead of train()"
    for name, module in setup.module.named_modules():
        if isinstance(module, _BatchNorm):
            return f"layer '{name}' is batch normalisation, which makes examples depend on each other; use group normalisation"
    client = next((id for id in work.clients if setup.size(id)), None)
    if client is None:
        return "no client of the round has examples"
    try:
        return _trial(setup, work, task, client, stacked)
    except TrainerError as error:
        return f"the training step cannot be traced: {error}"


def _trial(setup: Setup, work: Work, task: LocalUpdate, client: str, stacked: bool) -> str | None:
    workspace = ClientRunner(replace(setup, precision=None)).workspace
    trainer, module = setup.trainer, workspace.load(model_of(work.shared))
    examples = setup.data.train(client)
    count = min(3, len(examples))
    rows = torch.arange(count, device=setup.device)
    alone = [examples.take(rows), examples.take(rows.flip(0))][: 1 + stacked]
    start = tree.tensors(model_of(work.shared).params)
    models = [start, [part + 0.01 * part.abs().mean() for part in start]][: 1 + stacked]
    weights = torch.full((count,), 1 / count, device=setup.device)
    if stacked:
        batch = {name: torch.stack([_padded(one[name]) for one in alone]) for name in alone[0]}
        weights = torch.cat([weights, weights.new_zeros(1)]).expand(2, -1).contiguous()
        params = [torch.stack(parts) for parts in zip(*models, strict=True)]
    else:
        batch, params = alone[0], tree.tensors(workspace.view.params)
    buffers = [buffer.clone() for buffer in module.buffers()]
    module.train()
    drawn = _draws()
    step = TracedStep(trainer, module, params, batch, weights, stacked)
    again = TracedStep(trainer, module, params, batch, weights, stacked)
    if step.code != again.code or drawn != _draws():
        return "the model's code decides anew in every step (it draws from Python's or NumPy's generator, or counts), a trace once"
    if not all(torch.equal(old, new) for old, new in zip(buffers, module.buffers(), strict=True)):
        return "the model changes its buffers in training"
    if any(word in step.code for word in RANDOM):
        module.eval()
        step = TracedStep(trainer, module, params, batch, weights, stacked)
        if any(word in step.code for word in RANDOM):
            return "the model draws random numbers in evaluation as well, so that a trace cannot be compared with it"
    _, grads = step.gradients(params, batch, weights)
    for k, (piece, model) in enumerate(zip(alone, models, strict=True)):
        tree.copy_(tree.tensors(workspace.view.params), model)
        _, wanted = workspace.gradients(trainer, piece)
        if not _close([part[k] for part in grads] if stacked else grads, wanted):
            return "its gradients are not those of each client by itself: some operation mixes clients or examples"
    module.train()
    if stacked and not _steps_alike(work, task, params, grads, model_of(work.shared)):
        return f"{type(task).__name__} or one of its transforms looks at stacked clients as one; use LocalContext.norm and scale_"
    return None


def _draws() -> object:
    """Where the generators stand that Python code may draw from."""
    return random.getstate(), repr(np.random.get_state())  # noqa: NPY002 (to see whether it is used)


def _padded(column: Tensor) -> Tensor:
    return torch.cat([column, column[:1]])


def _steps_alike(work: Work, task: LocalUpdate, params: Tensors, grads: Tensors, model: ModelState) -> bool:
    """Whether two steps of the stack come to what two steps of each client do: its parameters, what it sends, what it keeps."""
    anchor = tree.tensors(model.params)

    def run(start: Tensors, along: Tensors, buffers: dict[str, Tensor], context: LocalContext) -> Tensors:
        at = tree.clone(start)
        carry = task.begin(at, context)
        for _ in range(2):
            carry = task.step(carry, at, tree.clone(along), context)
        trained = ModelState(dict(zip(model.params, at, strict=True)), buffers)
        kept = tree.tensors(tree.clone(task.keep(trained, model, carry, context)))
        return [*tree.sub(at, start), *kept, *tree.tensors(task.end(trained, model, carry, context))]

    ids = [work.clients[0]] * 2
    grads = [torch.stack([grad[0], 3 * grad[1]]) for grad in grads]
    state, own = states_of(work, task, ids), own_of(work, ids)
    buffers = {name: expanded(buffer, buffer, 2) for name, buffer in model.buffers.items()}
    steps = torch.tensor([1.0, 2.0], dtype=torch.float64, device=params[0].device)
    together = run(params, grads, buffers, LocalContext(anchor, work.shared, own, work.round, state, steps, stacked=True))
    for k in range(2):
        mine, theirs = (tree.map_tensors(lambda part, k=k: part[k], one) for one in (own, state))
        context = LocalContext(anchor, work.shared, mine, work.round, theirs, steps[k])
        alone = run([p[k] for p in params], [g[k] for g in grads], model.buffers, context)
        if len(alone) != len(together) or not _close([part[k] for part in together], alone):
            return False
    return True


def own_of(work: Work, clients: list[str]) -> tree.Tree:
    """The parts of these clients stacked, or None if they have none."""
    parts = [work.own.get(id) for id in clients]
    if any(part is None for part in parts):
        return None
    return tree.stack(parts)


def states_of(work: Work, task: LocalUpdate, clients: list[str]) -> tree.Tree:
    """The private states of these clients stacked, fresh ones where they have none; None if the task knows of none.

    Clients may then have some nevertheless, from another task of the algorithm.
    """
    if (fresh := task.fresh(model_of(work.shared))) is None:
        return None
    states = [fresh if (state := work.states.get(id)) is None else state for id in clients]
    return tree.stack(states)


def apart(stacked: tree.Tree, count: int) -> list[tree.Tree]:
    """The `count` trees of a stack, in memory of their own; as many None if there is no stack."""
    return [None] * count if stacked is None else list(tree.unstack(stacked, count))


def expanded(part: Tensor, like: Tensor, count: int) -> Tensor:
    """`part` with a first dimension of `count` clients; it may have that already, beyond those of `like`."""
    return part if part.dim() > like.dim() else part.expand(count, *part.shape)


def _close(found: Tensors, wanted: Tensors) -> bool:
    return all(float((a - b).norm()) <= 1e-3 * float(b.norm()) + 1e-6 for a, b in zip(found, wanted, strict=True))
