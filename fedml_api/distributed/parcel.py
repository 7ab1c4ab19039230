"""A parcel: some clients of a cohort, carried out one after the other, wherever that is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fedml_core.federation import Aggregator, Reply, Task
from fedml_core.tree import Tree

# (client, round, task, shared, own, private state) -> reply; a ClientRunner, or a device's own
Runner = Callable[[str, int, Task, Tree, Tree, Tree], Reply]


def carry_out(
    runner: Runner,
    round: int,
    task: Task,
    shared: Tree,
    clients: Sequence[str],
    own: Mapping[str, Tree],
    states: Mapping[str, Tree],
    aggregator: Aggregator | None,
) -> dict[str, Any]:
    """`{"replies": {client: Reply}}`, or with an aggregator `{"folded": accumulator, "states": {client: new state}}`."""
    replies = ((id, runner(id, round, task, shared, own.get(id), states.get(id))) for id in clients)
    if aggregator is None:
        return {"replies": dict(replies)}
    total, new = aggregator.zero(), {}
    for id, reply in replies:
        total = aggregator.add(total, reply)
        if reply.state is not None:
            new[id] = reply.state
    return {"folded": total, "states": new}
