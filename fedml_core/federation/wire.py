"""Tasks and aggregators as plain data, so that they can be asked of a client in another process.

What crosses is the registered name and the settings, never code: the other side builds the object from its own registries.
"""

from __future__ import annotations

from typing import Any

from fedml_core.errors import CommunicationError
from fedml_core.federation.aggregator import Aggregator, aggregators
from fedml_core.federation.client import Task, tasks
from fedml_core.federation.local_update import local_updates
from fedml_core.settings import Registry, build, to_plain

# Characters and values of a description. Of a long one the error would be longer still, and each of its unknown names is compared
# with all that are known.
LONGEST = 10_000

_kinds: dict[str, tuple[type, Registry[Any]]] = {
    "task": (Task, tasks),
    "local update": (Task, local_updates),
    "aggregator": (Aggregator, aggregators),
}


def describe(value: Task | Aggregator) -> dict[str, Any]:
    """`value` as plain data.

    Raises:
        CommunicationError: its class is not registered, so that no other process could know it.
    """
    for kind, (_, registry) in _kinds.items():
        if type(value) in registry.values():
            return {"kind": kind, "settings": to_plain(value)}
    name = type(value).__name__
    raise CommunicationError(
        f"{name} cannot leave this process because it is not registered: put @tasks.register('{name.lower()}') above it, "
        "in a module that every party imports"
    )


def restore(base: type, data: Any) -> Any:
    """The task or aggregator (as `base` says) that `describe` described.

    Raises:
        CommunicationError: the data describe nothing that is known here, or with settings that are not allowed.
    """
    if _length(data) > LONGEST:
        raise CommunicationError(f"not the description of a {base.__name__.lower()}: it is longer than {LONGEST}")
    match data:
        case {"kind": str(kind), "settings": {"name": str(name)} as settings} if kind in _kinds and _kinds[kind][0] is base:
            registry = _kinds[kind][1]
            problems: list[str] = []
            if name not in registry:
                raise CommunicationError(f"asked for the {kind} '{name}', which is not known here; known: {', '.join(registry)}")
            rest = {key: value for key, value in settings.items() if key != "name"}
            try:
                value = build(registry[name], rest, kind, problems)
            except Exception as error:  # whatever the constructor of somebody's task raises
                raise CommunicationError(f"the {kind} '{name}' cannot be made from what was sent: {error}") from error
            if problems:
                raise CommunicationError("; ".join(problems))
            return value
    raise CommunicationError(f"not the description of a {base.__name__.lower()}: {str(data)[:120]}")


def _length(data: Any) -> int:
    """Values in plain data and characters of their text."""
    total, stack = 0, [data]
    while stack:
        item = stack.pop()
        total += 1
        if isinstance(item, str):
            total += len(item)
        elif isinstance(item, dict):
            stack += [*item, *item.values()]
        elif isinstance(item, (list, tuple)):
            stack += item
    return total
