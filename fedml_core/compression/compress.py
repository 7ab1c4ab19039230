"""A task whose replies are compressed, and an aggregator that takes them."""

from __future__ import annotations

from dataclasses import replace

from fedml_core import tree
from fedml_core.compression.compressor import Compressor, NoCompression
from fedml_core.federation import Aggregator, Client, Folded, LocalUpdate, Mean, Reply, Task, WeightedMean, aggregators, tasks
from fedml_core.settings import settings
from fedml_core.tree import Tree


@tree.node
class Remainder:
    """A client's private state under a compressor with feedback: that of the task, and what was not sent so far."""

    task: Tree
    unsent: Tree


@tasks.register("compress")
@settings
class Compress(Task):
    """What `task` replies, compressed.

    With a compressor that asks for feedback, what was lost is added to the client's next reply: x is sent as C(x + e), and
    e <- x + e - C(x + e) stays. The metric `bits_per_parameter` counts the tensors that are sent, not their names and shapes.
    """

    task: LocalUpdate | Task
    compressor: Compressor = NoCompression()

    def __call__(self, client: Client, shared: Tree, own: Tree = None) -> Reply:
        before = client.state if isinstance(client.state, Remainder) else Remainder(client.state, None)
        reply = self.task(replace(client, state=before.task), shared, own)
        value, state = reply.value, reply.state
        if before.unsent is not None and self.compressor.feedback:
            value = tree.add(value, before.unsent)
        sent = self.compressor.compress(value, client.rng(f"compress {type(self.task).__name__}"), client.round)
        if self.compressor.feedback:
            unsent = tree.sub(value, self.compressor.decompress(sent))
            state = Remainder(before.task if state is None else state, unsent)
        elif before is client.state and state is not None:
            state = Remainder(state, before.unsent)
        parameters, bits = float(tree.count(value)), 8.0 * sum(part.nbytes for part in tree.tensors(sent))
        metrics = {"bits_per_parameter": Mean(bits, parameters)} if parameters else {}
        return Reply(sent, reply.weight, reply.metrics | metrics, state)

    def objection(self, value: Tree, shared: Tree) -> str | None:
        try:  # the shapes first: what a few bytes stand for may be large
            outline = self.compressor.outline(value)
            return self.task.objection(outline, shared) or self.task.objection(self.compressor.decompress(value), shared)
        except ValueError as error:
            return f"cannot be decompressed: {error}"


@aggregators.register("decompressing")
@settings
class Decompressing(Aggregator):
    """Another aggregator, of replies that arrive compressed: each is decompressed when it is added."""

    aggregator: Aggregator = WeightedMean()
    compressor: Compressor = NoCompression()

    def zero(self) -> Tree:
        return self.aggregator.zero()

    def add(self, total: Tree, reply: Reply) -> Tree:
        return self.aggregator.add(total, replace(reply, value=self.compressor.decompress(reply.value)))

    def merge(self, total: Tree, other: Tree) -> Tree:
        return self.aggregator.merge(total, other)

    def finish(self, total: Tree) -> Folded:
        return self.aggregator.finish(total)
