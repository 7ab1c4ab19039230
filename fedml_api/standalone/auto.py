"""Which executor suits a task: the rule that docs/performance.md explains."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedml_api.standalone.executor import Executor, Sequential, Work
from fedml_api.standalone.processes import Processes, can_fork
from fedml_api.standalone.stacked import Stacked
from fedml_api.standalone.traced import Traced
from fedml_core import tree
from fedml_core.errors import CommunicationError
from fedml_core.federation import Client, LocalUpdate, Setup, describe, model_of

STACK_BYTES = 4 << 20
LARGEST_BLOCK = 128
FEW_SECONDS = 2.0
# Seconds of a round that are not worth a second process; stacked products use the cores from within one process.
SHORT_ROUND, SHORT_STACKED_ROUND = 0.03, 0.2
PER_STEP = 2e-4
# Operations of a step that are not worth waking a second thread, which on a busy machine is long in coming.
SHORT_STEP = 1e7
FLOPS = 3e10
# Of what a CUDA device has free; the rest is for evaluation, for aggregation, and for what the allocator cannot use.
SHARE_OF_MEMORY = 0.5


@dataclass(frozen=True)
class Choice:
    """An executor, clients per block where it stacks, worker processes, and torch's threads where they are not left as they are."""

    executor: str
    block: int
    processes: int
    threads: int | None = None

    def start(self, setup: Setup) -> Executor:
        return Processes(self.processes, lambda: self._here(setup), setup) if self.processes > 1 else self._here(setup)

    def _here(self, setup: Setup) -> Executor:
        match self.executor:
            case "stacked":
                return Stacked(setup, self.block, self.threads)
            case "traced":
                return Traced(setup)
            case _:
                return Sequential(setup)

    def __str__(self) -> str:
        block = f", blocks of {self.block}" if self.executor == "stacked" else ""
        processes = f", {self.processes} processes of 1 thread" if self.processes > 1 else ""
        threads = f", {self.threads} thread" if self.threads and self.processes == 1 else ""
        return f"{self.executor}{block}{processes}{threads}"


def free_memory(device: torch.device) -> int:
    """Bytes that this process could still have on a CUDA device, with those that its allocator keeps for later."""
    return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def choose(
    setup: Setup,
    work: Work,
    executor: str,
    block: int | None,
    processes: int | None,
    free: Callable[[torch.device], int] = free_memory,
) -> Choice:
    """What was asked for, and for the rest what suits the model and the amount of work.

    The rule looks at the model, the task, the sizes of the clients, the number of rounds and the machine, never at a clock: a run
    that is resumed chooses the same. `free` tells the free memory of a CUDA device.
    """
    inside = work.inside()
    trains = isinstance(inside.task, LocalUpdate)
    bytes_of_model = sum(part.nbytes for part in tree.tensors(model_of(work.shared) if trains else work.shared))
    steps, rows, batch = _amount(setup, inside)
    seconds = steps * PER_STEP + rows * 6 * bytes_of_model / 4 / FLOPS
    if block is None:
        block = 1
        if setup.device.type == "cpu":
            block = max(1, min(LARGEST_BLOCK, STACK_BYTES // max(1, bytes_of_model)))
        elif trains and executor in ("auto", "stacked"):
            fitting = SHARE_OF_MEMORY * free(setup.device) / bytes_of_client(setup, inside, batch)
            # A power of two: a resumed run, which finds a little more or less, should choose the same.
            block = 2 ** int(math.log2(max(1, fitting)))
    if not trains:
        executor = "sequential"
    elif executor == "auto":
        executor = _suited(setup, inside, block) if seconds * setup.rounds > FEW_SECONDS else "sequential"
    if processes is None:
        short = SHORT_STACKED_ROUND if executor == "stacked" else SHORT_ROUND
        processes = _processes(setup, work) if seconds * setup.rounds > FEW_SECONDS and seconds > short else 1
    if executor != "stacked":
        return Choice(executor, block, processes)
    block = max(1, min(block, -(-len(work.clients) // processes)))
    short = setup.device.type == "cpu" and 6 * bytes_of_model / 4 * block * batch < SHORT_STEP
    return Choice(executor, block, processes, 1 if short else None)


def _suited(setup: Setup, work: Work, block: int) -> str:
    convolves = any(isinstance(part, nn.modules.conv._ConvNd) for part in setup.module.modules())
    recurs = any(isinstance(part, nn.RNNBase) for part in setup.module.modules())
    if recurs:
        return "sequential"
    if setup.device.type == "cpu" and (convolves or block < 3):
        return "traced"
    return "stacked" if min(block, len(work.clients)) > 1 else "traced"


def _processes(setup: Setup, work: Work) -> int:
    if setup.device.type != "cpu" or not can_fork():
        return 1
    try:
        describe(work.task)
    except CommunicationError:
        return 1
    return max(1, min(cores(), len(work.clients)))


def cores() -> int:
    """The cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def bytes_of_client(setup: Setup, work: Work, batch: int) -> float:
    """Memory of a stacked client while it takes a step on `batch` rows, generously.

    Its parameters, their gradients, a state of the optimizer and what is computed from them; and twice, for values and gradients,
    what the backward pass needs of a batch. That is found by trying it on one example (in evaluation mode, in which batch
    normalisation takes a single one).
    """
    model, rows = 4 * sum(part.nbytes for part in tree.tensors(model_of(work.shared))), 0
    client = next((id for id in work.clients if setup.size(id)), None)
    if client is not None and isinstance(work.task, LocalUpdate) and not setup.trainer.imperative:
        module, one = copy.deepcopy(setup.module).eval(), next(setup.data.train(client).batches(1))
        own = {part.untyped_storage().data_ptr() for part in (*module.parameters(), *module.buffers())}

        def keep(part: Tensor) -> Tensor:
            nonlocal rows
            rows += 0 if part.untyped_storage().data_ptr() in own else part.nbytes
            return part

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda part: part):
            setup.trainer.loss(module, one)
        rows += sum(column.nbytes for column in one.values())
    return model + 2 * batch * rows


def _amount(setup: Setup, work: Work) -> tuple[float, float, int]:
    """Expected steps and visited rows of a round, and the longest batch, from the first clients of the population."""
    sample = list(setup.data.client_ids[:50]) or list(work.clients[:50])
    batch = 0
    if isinstance(work.task, LocalUpdate):
        workspace: object = None
        visits = [
            work.task.visits(Client(id, 0, setup.seed, setup.data.train(id), setup.data.test, setup.trainer, workspace))  # type: ignore[arg-type]
            for id in sample
        ]
        steps, rows = sum(len(one.lengths) for one in visits), sum(len(one.order) for one in visits)
        batch = max((length for one in visits for length in one.lengths), default=0)
    else:
        steps, rows = len(sample), sum(setup.size(id) for id in sample)
    share = len(work.clients) / len(sample)
    return steps * share, rows * share, batch
