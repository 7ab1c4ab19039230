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
        self._layout: Layout | None = None

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
            clients, visits = ([course[side] for course in courses] for side in (0, 1))
            shape = tuple((len(client.train), tuple(one.lengths)) for client, one in courses)
            if self._layout is None or self._layout.shape != shape:
                self._layout = Layout(shape, self.setup.device)
            yield from self._train(work, task, Feed(clients, visits, self._layout, self.setup.device))

    def _train(self, work: Work, task: LocalUpdate, feed: Feed) -> Iterator[Replies]:
        """Train one block; the replies of those who leave it, when they do.

        A step with a rate and nothing else leaves clients without gradients where they are, so all may leave together at the end.
        """
        start, ids = model_of(work.shared), [client.id for client in feed.clients]
        rng.seed_torch(self.setup.seed, "train", work.round, ids[0], device=self.setup.device)
        plain, anchor = task.plain_rate(work.round), tree.tensors(start.params)
        state, own = states_of(work, task, ids), own_of(work, ids)
        first, steps = task.personal(start, state), feed.layout.steps
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
            rest, mine = (tree.map_tensors(lambda part: part[first:last], carry), about(first, last)) if first else (carry, context)
            kept = apart(task.keep(trained, start, rest, mine), last - first)
            if task.ends_in_change and not trained.buffers:
                torch._foreach_sub_(list(trained.params.values()), anchor)
                value: Tree = trained
            else:
                value = task.end(trained, start, rest, mine)
            weights = [float(size) for size in feed.layout.sizes[first:last]]
            return Replies(ids[first:last], value, weights, {"loss": feed.means(first, last)}, kept)

        context, active, natural = about(0, len(ids)), len(ids), self._no_negatives(feed)
        carry = task.begin(params, context)
        part, computed, step = params, active, None
        for going, width, batch, weights in feed.batches(self._rows):
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
            feed.lost.append(losses)
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


class Layout:
    """Where the rows of a block's batches lie: step by step, in a step client by client, each batch as long as the longest.

    Args:
        shape: for every client, how many examples it has, and the rows of each of its batches; those with the most batches first.

    Attributes:
        sizes: how many examples each client has.
        steps: how many batches each client has, float64; `counts`: how many rows.
        going: how many clients still have a batch in each step; `widths`: for how many it is computed; `size`: rows in a batch.
        places: where each visited row lies, client by client; `clients`: whose it is; `before`: examples of all before it.
        weights: what each row counts in its batch, 0 where nobody's row lies; float32, `[width, size]` for each step.
    """

    def __init__(self, shape: tuple[tuple[int, tuple[int, ...]], ...], device: torch.device) -> None:
        self.shape, self.sizes, lengths = shape, [size for size, _ in shape], [batches for _, batches in shape]
        taken = [len(batches) for batches in lengths]
        self.steps = torch.tensor(taken, dtype=torch.float64, device=device)
        self.size = max(max(batches, default=1) for batches in lengths)
        self.going = [bisect_left(taken, -step, key=operator.neg) for step in range(taken[0])]
        self.widths = self._widths(len(lengths))
        self.counts = [sum(batches) for batches in lengths]
        rows, ids = np.array([length for batches in lengths for length in batches], dtype=np.int64), np.arange(len(lengths))
        self.clients, widths = np.repeat(ids, self.counts), np.array(self.widths, dtype=np.int64)
        self.before = (np.cumsum(self.sizes) - self.sizes)[self.clients]
        steps = np.arange(len(rows)) - np.repeat(np.cumsum(taken) - taken, taken)
        begins = ((np.cumsum(widths) - widths)[steps] + np.repeat(ids, taken)) * self.size
        self.places = np.arange(len(self.clients)) + np.repeat(begins - np.cumsum(rows) + rows, rows)
        weights = np.zeros(sum(self.widths) * self.size, dtype=np.float32)
        weights[self.places] = np.repeat(1 / rows, rows)
        self.weights = torch.from_numpy(weights).to(device).view(-1, self.size).split(self.widths)

    def _widths(self, clients: int) -> list[int]:
        """For how many clients each step is computed: for those who go on, rounded up to few numbers, since each is traced.

        These are all, three, two and one quarter of them, an eighth, and so on: the longest courses may belong to very few.
        """
        grain, found = -(-clients // 4), []
        for going in self.going:
            while going <= -(-grain // 2) < grain:
                grain = -(-grain // 2)
            found.append(min(-(-going // grain) * grain, clients))
        return found


class Feed:
    """The batches of a block, step by step, and what was lost on them.

    Args:
        clients: those of the block; `visits`: what each of them visits, in its `layout`.

    Attributes:
        lost: where the losses of each step go, `[clients, b]`, one after the other.
    """

    def __init__(self, clients: list[Client], visits: list[Visits], layout: Layout, device: torch.device) -> None:
        self.clients, self.layout, self.lost = clients, layout, list[Tensor]()
        examples, orders = [client.train for client in clients], [one.order.numpy() for one in visits]
        first = examples[0].columns
        self.shared = all(one.index is not None and _same(one.columns, first) for one in examples)
        if self.shared:
            # All look-ups in one: each client's positions, moved to where its index lies among those of all.
            indices = torch.cat([one.index for one in examples if one.index is not None]).cpu().numpy()
            self.columns, found = first, indices[np.concatenate(orders) + layout.before]
        else:
            taken = [one.take(visit.order.to(device)) for one, visit in zip(examples, visits, strict=True)]
            self.columns = {name: torch.cat([batch[name] for batch in taken]) for name in first}
            found = np.arange(len(layout.places))
        rows = np.zeros(sum(layout.widths) * layout.size, dtype=np.int64)
        rows[layout.places] = found
        self.rows = torch.from_numpy(rows).to(device)
        self._losses, self._known = np.empty(len(rows)), 0

    def batches(self, memory: dict[str, Tensor]) -> Iterator[tuple[int, int, Batch, Tensor]]:
        """Step by step: how many clients go on, for how many to compute, and the batches of these, columns `[clients, b, ...]`.

        With them come their weights, `[clients, b]`. Small batches are gathered in `memory`, which the next ones overwrite.
        """
        layout, size, rows = self.layout, self.layout.size, 0
        most = GATHERED // (size * sum(column[:1].nbytes for column in self.columns.values()) or 1)
        for steps in _grouped(layout.widths, most):
            widths = layout.widths[steps.start : steps.stop]
            picked = self.rows[rows : (rows := rows + sum(widths) * size)]
            parts = [_gathered(name, column, picked, memory) for name, column in self.columns.items()]
            parts = [part.view(-1, size, *part.shape[1:]).split(widths) for part in parts]
            for step, width, *batch in zip(steps, widths, *parts, strict=True):
                yield layout.going[step], width, dict(zip(self.columns, batch, strict=True)), layout.weights[step]

    def means(self, first: int, last: int) -> tuple[Tensor, Tensor]:
        """Totals and counts of the losses of these clients, who are through."""
        if self.lost:
            new = torch.cat(self.lost).flatten().cpu().double().numpy()
            self._losses[self._known : self._known + len(new)] = new
            self._known += len(new)
            self.lost.clear()
        counts, begin = self.layout.counts[first:last], sum(self.layout.counts[:first])
        rows = slice(begin, begin + sum(counts))
        totals = np.bincount(self.layout.clients[rows] - first, self._losses[self.layout.places[rows]], last - first)
        return torch.from_numpy(totals), torch.from_numpy(np.array(counts, dtype=np.float64))


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
