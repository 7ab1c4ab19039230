"""Models of which a part never leaves the client."""

from __future__ import annotations

from collections.abc import Collection
from fnmatch import fnmatchcase
from typing import Literal

from fedml_core import tree
from fedml_core.errors import ConfigError
from fedml_core.federation.local_update import Around, LocalUpdate, local_updates
from fedml_core.settings import settings
from fedml_core.trainer import LocalContext, ModelState
from fedml_core.tree import Tree

# `last`: the last layer. `norm`: the normalisation layers with their running statistics, which are those whose `weight` has one
# dimension. Otherwise patterns of names, such as `head.*`.
Private = Literal["last", "norm"] | tuple[str, ...]


def names_like(model: ModelState, patterns: Collection[str]) -> frozenset[str]:
    """The parameters and buffers whose name is like one of these patterns."""
    return frozenset(name for name in (*model.params, *model.buffers) if any(fnmatchcase(name, pattern) for pattern in patterns))


def private_names(model: ModelState, private: Private) -> frozenset[str]:
    """The parameters and buffers of the server's model that are meant.

    Raises:
        ConfigError: there are none.
    """
    if isinstance(private, tuple):
        found = names_like(model, private)
    else:
        layers = {_layer(list(model.params)[-1])} if private == "last" else _normalisation(model)
        found = frozenset(name for name in (*model.params, *model.buffers) if _layer(name) in layers)
    if not found:
        raise ConfigError(f"private = {private!r}: the model has no such part; its parameters are {', '.join(model.params)}")
    return found


def _normalisation(model: ModelState) -> set[str]:
    flat = {_layer(name) for name, part in model.params.items() if name.endswith("weight") and part.dim() == 1}
    return flat | {_layer(name) for name in model.buffers if name.endswith("running_mean")}


def _layer(name: str) -> str:
    return name.rpartition(".")[0]


def chosen(model: ModelState, names: Collection[str]) -> ModelState:
    """The part of `model` that has these names."""
    parts = ({name: part for name, part in numbers.items() if name in names} for numbers in (model.params, model.buffers))
    return ModelState(*parts)


@local_updates.register("private_part")
@settings
class PrivatePart(Around):
    """Train as `local` does a model whose private part stays at the client: it starts from the server's and never returns there.

    The server gets to see a change of zero for it, so that whatever is done with changes of models can be done with these.

    Args:
        private: `last` (layer), `norm` (all normalisation layers), or patterns of names of parameters and buffers.
    """

    local: LocalUpdate
    private: Private = "last"

    def fresh(self, model: ModelState) -> ModelState:
        return chosen(model, private_names(model, self.private))

    def personal(self, model: ModelState, state: Tree) -> ModelState:
        return model.replaced(state)

    def keep(self, trained: ModelState, start: ModelState, carry: Tree, context: LocalContext) -> ModelState:
        return chosen(trained, private_names(start, self.private))

    def end(self, trained: ModelState, start: ModelState, carry: Tree, context: LocalContext) -> ModelState:
        change: ModelState = tree.sub(trained, start)
        return self.personal(change, tree.zeros_like(chosen(change, private_names(start, self.private))))
