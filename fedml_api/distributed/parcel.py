"""A parcel: some clients of a cohort, carried out one after the other, wherever that is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fedml_core.federation import Aggregator, Mean, Reply, Task
from fedml_core.tree import Tree

# Up to here floats count exactly; beyond, the model times the weight of its client might overflow.
HEAVIEST = 1 << 53
# Up to here sums over clients stay finite, however many they are.
HIGHEST = 1e290

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


def objection(payload: Any, clients: Sequence[str], task: Task, shared: Tree, aggregator: Aggregator | None) -> str | None:
    """What is wrong with the answer to a parcel of these clients, or None. A device may send anything that can be decoded."""
    if not isinstance(payload, dict) or set(payload) != ({"replies"} if aggregator is None else {"folded", "states"}):
        return "it does not hold what was asked for"
    if aggregator is not None:
        folded, states = payload["folded"], payload["states"]
        sound = type(folded) is type(aggregator.zero()) and isinstance(states, dict) and set(states) <= set(clients)
        return None if sound else "what it folded is not an accumulator"
    replies = payload["replies"]
    if not isinstance(replies, dict) or set(replies) != set(clients):
        return "its replies are not those of the clients that were asked"
    for client, reply in replies.items():
        if not isinstance(reply, Reply) or not isinstance(reply.metrics, dict):
            return f"what client {client} sent is not a reply"
        if not isinstance(reply.weight, (int, float)) or not 0 <= reply.weight <= HEAVIEST:
            return f"the weight of client {client} is {reply.weight}"
        if not all(map(_is_mean, reply.metrics.values())):
            return f"the metrics of client {client} are not means of finite numbers"
        if problem := task.objection(reply.value, shared):
            return f"what client {client} sent {problem}"
    return None


def _is_mean(mean: Any) -> bool:
    """Whether it is one that leaves the mean over all clients finite."""
    if not isinstance(mean, Mean) or not isinstance(mean.total, float) or not isinstance(mean.count, (int, float)):
        return False
    return abs(mean.total) <= HIGHEST and 0 <= mean.count <= HEAVIEST
