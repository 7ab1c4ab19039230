"""The stacked executor: a block of clients trains as one computation."""

from __future__ import annotations

import operator
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from fedml_api.standalone.executor import Executor, Sequential, States, Work
from fedml_api.standalone.stackable import Verdicts, apart, expanded, own_of, states_of
from fedml_core import rng, tree
from fedml_core.federation import Aggregator, Client, LocalUpdate, Replies, Reply, Setup, Task, Visits, Wrapping, model_of
from fedml_core.trainer import Batch, Examples, LocalContext, ModelState
from fedml_core.trainer.traced import TracedStep
from fedml_core.trainer.transforms import Tensors
from fedml_core.tree import Tree

GATHERED = 4 << 20  # bytes of small batches that are gathered together


class Stacked(Executor):
    """Clients in blocks: parameters `[clients, ...]`, one batch of each client per step, one gradient computation for all.

    A block holds clients with about equally many steps, those with the most first. A batch that is shorter than its neighbours is
    filled up with rows of weight 0. Clients that are through leave the block, which goes on with those before them. Batches are
    drawn as in the sequential executor, so that results differ by rounding only; dropout masks are drawn for the block as a whole.
    What cannot be stacked is carried out sequentially, and the log says why.

    Args:
        block: the most clients in a block; those of a round are spread evenly over as many blocks as that takes.
        threads: how many threads of torch train them; as many as there are, if not given.
    """

    def __init__(self, setup: Setup, block: int, threads: int | None = None) -> None:
        self.setup, self.block, self.threads = setup, block, threads
        self.sequential = Sequential(setup)
        self.verdicts = Verdicts(setup, stacked=True)
        self._steps: dict[object, TracedStep] = {}
        self._memory: Tensors = []
        self._rows: dict[str, Tensor] = {}
        self._natural: tuple[object, frozenset[str]] = (None, frozenset())

    def replies(self, work: Work) -> Iterator[tuple[str, Reply]]:
        if not self.verdicts.suits(work):
            yield from self.sequential.replies(work)
            return
        with threads(self.threads):
            found = {id: reply for replies in self._stacks(work.inside()) for id, reply in replies.apart()}
        for id in work.clients:
            client = self.sequential.run.client(id, work.round, work.states.get(id))
            yield id, _wrapped(work.task, client, found.pop(id))

    def fold(self, work: Work, aggregator: Aggregator) -> tuple[Tree, States]:
        if not self.verdicts.suits(work):
            return self.sequential.fold(work, aggregator)
        if isinstance(work.task, Wrapping):
            return super().fold(work, aggregator)
        total, states = aggregator.zero(), {}
        with threads(self.threads):
            for replies in self._stacks(work):
                total = aggregator.add_stack(total, replies)
                states |= {id: state for id, state in zip(replies.clients, replies.states, strict=True) if state is not None}
        return total, states

    def _stacks(self, work: Work) -> Iterator[Replies]:
        """The replies of all clients, those that are through at the same time in one stack."""
        run, task = self.sequential.run, work.task
        assert isinstance(task, LocalUpdate)
        # The sort is stable: clients with equally many examples keep the order of the cohort.
        ids = sorted(work.clients, key=lambda id: -self.setup.size(id))
        if run.workspace.view.buffers or run.workspace.counters:  # which traced steps find there; parameters are handed to them
            run.workspace.load(model_of(work.shared))
        blocks = -(-len(ids) // self.block)
        ends = [len(ids) * i // blocks for i in range(blocks + 1)]
        for begin, end in pairwise(ends):
            clients = [run.client(id, work.round) for id in ids[begin:end]]
            courses = [(client, task.visits(client)) for client in clients]
            courses.sort(key=lambda course: -len(course[1].lengths))
            yield from self._train(work, task, Feed(courses, self.setup.device))

    def _train(self, work: Work, task: LocalUpdate, feed: Feed) -> Iterator[Replies]:
        """Train one block; the replies of those who leave it, when they do.

        A step with a rate and nothing else leaves clients without gradients where they are, so all may leave together at the end.
        """
        start, ids = model_of(work.shared), [client.id for client in feed.clients]
        rng.seed_torch(self.setup.seed, "train", work.round, ids[0], device=self.setup.device)
        plain, anchor = task.plain_rate(work.round), tree.tensors(start.params)
        state, own = states_of(work, task, ids), own_of(work, ids)
        first, steps = task.personal(start, state), torch.from_numpy(feed.steps).to(self.setup.device, torch.float64)
        params = self._copies(anchor, tree.tensors(first.params), len(ids))
        buffers = {name: expanded(first.buffers[name], buffer, len(ids)) for name, buffer in start.buffers.items()}

        def about(first: int, last: int) -> LocalContext:
            mine, theirs = (tree.map_tensors(lambda part: part[first:last], one) for one in (own, state))
            return LocalContext(anchor, work.shared, mine, work.round, theirs, steps[first:last], stacked=True)

        def leave(first: int, last: int) -> Replies:
            trained = ModelState(
                dict(zip(start.params, (part[first:last] for part in params), strict=True)),
                {name: buffer[first:last] for name, buffer in buffers.items()},
            )
            rest, context = tree.map_tensors(lambda part: part[first:last], carry), about(first, last)
            kept = apart(task.keep(trained, start, rest, context), last - first)
            if task.ends_in_change and not trained.buffers:
                torch._foreach_sub_(list(trained.params.values()), anchor)
                value: Tree = trained
            else:
                value = task.end(trained, start, rest, context)
            return Replies(ids[first:last], value, feed.sizes[first:last], {"loss": feed.means(first, last)}, kept)

        context, active, natural = about(0, len(ids)), len(ids), self._no_negatives(feed)
        carry = task.begin(params, context)
        part, computed, step = params, active, None
        for going, width, batch, weights, lost in feed.batches(self._rows):
            if width < computed:
                part, computed, step = [param[:width] for param in params], width, None
            if plain is None and going < active:
                yield leave(going, active)
                carry, context = tree.map_tensors(lambda rows, n=going: rows[:n], carry), about(0, going)
                active = going
            step = step or self._step(part, batch, weights, natural)
            if plain is not None:
                losses = step.descend(part, batch, weights, plain)
            else:
                losses, grads = step.gradients(part, batch, weights)
                carry = task.step(carry, [param[:active] for param in part], [grad[:active] for grad in grads], context)
            lost.copy_(losses)
        yield leave(0, active)

    def _copies(self, like: Tensors, start: Tensors, count: int) -> Tensors:
        """What `count` clients start from, in memory that the next block will use again; `like` are the server's parameters."""
        if not self._memory or len(self._memory[0]) < count:
            self._memory = [part.new_empty((count, *part.shape)) for part in like]
        copies = [memory[:count] for memory in self._memory]
        torch._foreach_copy_(copies, [expanded(one, part, count) for one, part in zip(start, like, strict=True)])
        return copies

    def _no_negatives(self, feed: Feed) -> frozenset[str]:
        """The columns without negative numbers, as far as that is known of all that will ever come: of columns that all share."""
        if not feed.shared:
            return frozenset()
        if self._natural[0] is not feed.columns:
            self._natural = feed.columns, Examples.natural(feed.columns)
        return self._natural[1]

    def _step(self, params: Tensors, batch: Batch, weights: Tensor, natural: frozenset[str]) -> TracedStep:
        key = (natural, *(part.shape for part in batch.values()))
        if key not in self._steps:
            setup, module = self.setup, self.sequential.run.workspace.module.train()
            self._steps[key] = TracedStep(setup.trainer, module, params, batch, weights, True, setup.precision, natural)
        return self._steps[key]


class Feed:
    """The batches of a block, step by step, and what was lost on them.

    Args:
        courses: clients and what they visit, those with the most steps first.
    """

    def __init__(self, courses: list[tuple[Client, Visits]], device: torch.device) -> None:
        self.clients = [client for client, _ in courses]
        steps = [len(visits.lengths) for _, visits in courses]
        self.steps, self.going = np.array(steps), [bisect_left(steps, -step, key=operator.neg) for step in range(steps[0])]
        examples = [client.train for client in self.clients]
        sizes, counts = [len(one) for one in examples], np.array([len(visits.order) for _, visits in courses])
        self.sizes, first = [float(size) for size in sizes], examples[0].columns
        self.shared = all(one.index is not None and _same(one.columns, first) for one in examples)
        if self.shared:
            # All look-ups in one: each client's positions, moved to where its index lies among those of all.
            self.columns, orders = first, torch.cat([visits.order for _, visits in courses]).numpy()
            indices = torch.cat([one.index for one in examples if one.index is not None]).cpu().numpy()
            found = indices[orders + np.repeat(np.cumsum(sizes) - sizes, counts)]
        else:
            taken = [one.take(visits.order.to(device)) for one, (_, visits) in zip(examples, courses, strict=True)]
            self.columns = {name: torch.cat([batch[name] for batch in taken]) for name in first}
            found = np.arange(counts.sum())
        # Where each visited row goes: [step, client, place in the batch], all as one number.
        lengths = np.array([length for _, visits in courses for length in visits.lengths], dtype=np.int64)
        shape = (steps[0], len(courses), int(lengths.max(initial=1)))
        starts = np.array([(step * shape[1] + client) * shape[2] for client, count in enumerate(steps) for step in range(count)])
        places = np.arange(len(found)) + np.repeat(starts - np.cumsum(lengths) + lengths, lengths)
        rows, weights = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.float32)
        rows.reshape(-1)[places], weights.reshape(-1)[places] = found, np.repeat(1 / lengths, lengths)
        self.widths = self._widths()
        rows = rows[np.arange(len(courses)) < np.array(self.widths)[:, None]]
        self.rows, self.weights = (torch.from_numpy(part).to(device) for part in (rows, weights))
        self.lost = torch.zeros_like(self.weights)
        self.count = torch.from_numpy(counts.astype(np.float64))

    def _widths(self) -> list[int]:
        """For how many clients each step is computed: for those who go on, rounded up to few numbers, since each is traced.

        These are all, three, two and one quarter of them, an eighth, and so on: the longest courses may belong to very few.
        """
        clients = len(self.clients)
        grain, found = -(-clients // 4), []
        for going in self.going:
            while going <= -(-grain // 2) < grain:
                grain = -(-grain // 2)
            found.append(min(-(-going // grain) * grain, clients))
        return found

    def batches(self, memory: dict[str, Tensor]) -> Iterator[tuple[int, int, Batch, Tensor, Tensor]]:
        """Step by step: how many clients go on, for how many to compute, and the batches of these, columns `[clients, b, ...]`.

        With them come their weights, and where their losses go, `[clients, b]` each. Small batches are gathered together, in
        `memory`, which the next ones overwrite.
        """
        clients, size = self.weights.shape[1:]
        most = GATHERED // (size * sum(column[:1].nbytes for column in self.columns.values()) or 1)
        weights, lost, rows = self.weights.unbind(), self.lost.unbind(), 0
        for steps in _grouped(self.widths, most):
            widths = self.widths[steps.start : steps.stop]
            picked = self.rows[rows : (rows := rows + sum(widths))].flatten()
            parts = [_gathered(name, column, picked, memory) for name, column in self.columns.items()]
            parts = [part.view(-1, size, *part.shape[1:]).split(widths) for part in parts]
            for step, width, *batch in zip(steps, widths, *parts, strict=True):
                given = (one[step] if width == clients else one[step][:width] for one in (weights, lost))
                yield self.going[step], width, dict(zip(self.columns, batch, strict=True)), *given

    def means(self, first: int, last: int) -> tuple[Tensor, Tensor]:
        """Totals and counts of the losses of these clients."""
        real = self.weights[:, first:last] > 0
        return torch.where(real, self.lost[:, first:last], 0.0).sum((0, 2), dtype=torch.float64).cpu(), self.count[first:last]


def _same(one: Batch, other: Batch) -> bool:
    """Whether these columns are those."""
    return one is other or all(one[name] is other[name] for name in other)


def _grouped(widths: list[int], most: int) -> Iterator[range]:
    """Consecutive steps whose widths make at most so many together, or single ones."""
    begin = total = 0
    for step, width in enumerate(widths):
        if step > begin and total + width > most:
            yield range(begin, step)
            begin, total = step, 0
        total += width
    if widths:
        yield range(begin, len(widths))


def _gathered(name: str, column: Tensor, rows: Tensor, memory: dict[str, Tensor]) -> Tensor:
    """These rows of a column, in memory that is kept under its name."""
    kept, shape = memory.get(name), (len(rows), *column.shape[1:])
    if kept is None or len(kept) < len(rows) or kept.shape[1:] != column.shape[1:] or kept.dtype != column.dtype:
        kept = memory[name] = column.new_empty(shape)
    return torch.index_select(column, 0, rows, out=kept if len(kept) == len(rows) else kept[: len(rows)])


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """So many threads of torch meanwhile; None leaves them as they are."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _wrapped(task: Task, client: Client, reply: Reply) -> Reply:
    """The reply to `task`, from that to the task in the middle of all wrapping ones."""
    if not isinstance(task, Wrapping):
        return reply
    return task.after(client, _wrapped(task.task, replace(client, state=task.kept(client.state)), reply))
