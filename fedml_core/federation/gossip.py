"""Gossip: every client trains a model of its own and mixes it with those of its neighbours, without a server in between."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from fedml_core import tree
from fedml_core.errors import CommunicationError, ConfigError
from fedml_core.federation.client import Client, Reply, is_finite, shapes, tasks
from fedml_core.federation.dialogue import Dialogue, Post, Saying
from fedml_core.federation.local_update import Around, LocalUpdate, local_updates
from fedml_core.settings import settings
from fedml_core.trainer import LocalContext, ModelState
from fedml_core.trainer.transforms import Tensors, per_client
from fedml_core.tree import Tree


@tree.node
class GossipNode:
    """What a client keeps between two rounds.

    Attributes:
        model: x; `weight`: w, float64 `[]`, or None if it is 1 for good.
        local: the private state of the local update, if it has one.
    """

    model: ModelState
    weight: Tensor | None
    local: Tree

    @property
    def used(self) -> ModelState:
        """The model that the client uses, z = x / w."""
        if self.weight is None:
            return self.model
        weight = self.weight
        used: ModelState = tree.map_tensors(lambda part: part / per_client(weight, part).to(part.dtype), self.model)
        return used


@tree.node
class GossipLinks:
    """A client's row and column of the mixing matrix W.

    Attributes:
        to: W_ji, by those it sends to; `of`: W_ij, by those it hears from, in the order of the cohort; `kept`: W_ii.
        start: the model to begin with, for those who have none yet.
    """

    to: dict[str, float]
    of: dict[str, float]
    kept: float
    start: ModelState | None


def gossip_links(matrix: np.ndarray, clients: Sequence[str], start: Mapping[str, ModelState]) -> dict[str, GossipLinks]:
    """Every client's part of the mixing matrix `[clients, clients]`, `matrix[i, j]` being the weight at i of what j has."""
    found = {client: GossipLinks({}, {}, float(matrix[k, k]), start.get(client)) for k, client in enumerate(clients)}
    for i, j in np.argwhere(matrix).tolist():
        if i != j:
            found[clients[i]].of[clients[j]] = found[clients[j]].to[clients[i]] = float(matrix[i, j])
    return found


@local_updates.register("from_own")
@settings
class FromOwn(Around):
    """Train as `local` does, but from the model of the client's `GossipNode`; the server's tells only what shapes there are."""

    local: LocalUpdate

    def fresh(self, model: ModelState) -> GossipNode:
        return GossipNode(model, None, self.local.fresh(model))

    def personal(self, model: ModelState, state: GossipNode) -> ModelState:
        return self.local.personal(state.used, state.local)

    def begin(self, params: Tensors, context: LocalContext) -> Tree:
        return self.local.begin(params, _own(context))

    def step(self, carry: Tree, params: Tensors, grads: Tensors, context: LocalContext) -> Tree:
        return self.local.step(carry, params, grads, _own(context))

    def end(self, trained: ModelState, start: ModelState, carry: Tree, context: LocalContext) -> ModelState:
        change = self.local.end(trained, context.state.used, carry, _own(context))
        if not isinstance(change, ModelState):
            raise ConfigError(
                f"{type(self.local).__name__} does not end in a change of the model, which is all that can be mixed: choose "
                "another local update, such as sgd or private_part"
            )
        return change

    def keep(self, trained: ModelState, start: ModelState, carry: Tree, context: LocalContext) -> Tree:
        return self.local.keep(trained, context.state.used, carry, _own(context))


def _own(context: LocalContext) -> LocalContext:
    """The context as `local` would see it if the client's model were the server's."""
    used = context.state.used
    return replace(context, anchor=tree.tensors(used.params), shared=used, state=context.state.local)


@tasks.register("gossip")
@settings
class Gossip(Dialogue):
    """One step of gossip: train from one's own model, and mix it with those of the neighbours.

        d_i  = local(z_i) - z_i,   z_i = x_i / w_i
        x_i <- sum_j W_ij x_j + d_i          mixes `start`: letters are under way while everybody trains
        x_i <- sum_j W_ij (x_j + d_j)        mixes `trained`
        w_i <- sum_j W_ij w_j                if `weighted`; else w_i stays 1, as it is in the beginning

    W is what `gossip_links` made of it, in `own`; `shared` may tell the `shapes` of a sound model. A letter from j to i is W_ij
    times what is mixed. Instead of a letter that will never come, because its writer is lost, or that cannot be added, a client
    takes W_ij times its own, so that its weights still sum to 1; if models are `weighted`, it does without: what is missing is
    missing in x and in w.

    All is linear but the training, and the training needs nobody else. So an engine that would rather carry out many clients at
    once has them do `training`, from the private states `begins` tells, and lets `together` do the rest.

    Args:
        report: whether the reply tells the server x and w, as a `GossipNode` without private state; its value is empty otherwise.
    """

    local: LocalUpdate
    mixes: Literal["start", "trained"] = "trained"
    weighted: bool = False
    report: bool = True

    @property
    def training(self) -> FromOwn:
        """What every client does by itself, as a local update whose private state is a `GossipNode`."""
        return FromOwn(self.local)

    def node(self, state: GossipNode | None, links: GossipLinks) -> GossipNode:
        """What a client has before the step.

        Raises:
            CommunicationError: the client has begun before, and what it had is gone.
        """
        if state is not None:
            return state
        if links.start is None:
            raise CommunicationError("a client no longer has its model, which it had from an earlier round: start the run anew")
        weight = torch.ones((), dtype=torch.float64, device=tree.tensors(links.start)[0].device) if self.weighted else None
        return replace(self.training.fresh(links.start), weight=weight)

    def begins(self, node: GossipNode) -> GossipNode:
        """What `training` starts from: z, worked out once."""
        return GossipNode(node.used, None, node.local)

    def talk(self, client: Client, shared: Tree, own: Tree = None) -> Saying:
        links: GossipLinks = own
        node = self.node(client.state, links)
        said = None
        if self.mixes == "start":
            said = self._said(node, None)
            yield Post(_letters(said, links))
        begins = self.begins(node)
        reply = self.training(replace(client, state=begins), begins.model)
        if said is None:
            said = self._said(node, reply.value)
            yield Post(_letters(said, links))
        heard = yield Post(wait=list(links.of), lenient=True)
        mixed = tree.scale(said, links.kept)
        for peer, weight in links.of.items():
            if _fits(heard[peer], said):
                tree.add_(mixed, heard[peer])
            elif not self.weighted:
                tree.add_(mixed, said, alpha=weight)
        return self._reply(reply, self._mixed(node, reply.value, mixed))

    def together(
        self, nodes: Mapping[str, GossipNode], replies: Mapping[str, Reply], own: Mapping[str, GossipLinks]
    ) -> Iterator[tuple[str, Reply]]:
        """What the dialogues of all `nodes` come to, but for rounding, given their replies to `training`."""
        before = tree.stack([GossipNode(node.model, node.weight, None) for node in nodes.values()])
        changes = tree.stack([replies[client].value for client in nodes])
        matrix = torch.from_numpy(_matrix(list(nodes), own))
        mixed = tree.map_tensors(lambda part: _product(matrix, part), self._said(before, changes))
        after = tree.unstack(self._mixed(before, changes, mixed), len(nodes))
        for client, node in zip(nodes, after, strict=True):
            yield client, self._reply(replies[client], node)

    def objection(self, value: Tree, shared: Tree) -> str | None:
        if not self.report:
            return "tells what nobody has asked for" if tree.tensors(value) else None
        known = shared.get("shapes") if isinstance(shared, dict) else None
        if not isinstance(value, GossipNode) or not isinstance(value.model, ModelState) or value.local is not None:
            return "is not the model of somebody who gossips"
        if not _is_weight(value.weight) if self.weighted else value.weight is not None:
            return "is not the model of somebody who gossips: its weight is none"
        if known is not None and shapes(value.model) != known:
            return "has other parameters than the server's model"
        return super().objection(value, shared)

    def _said(self, node: GossipNode, change: ModelState | None) -> Tree:
        """What is mixed; here and in `_mixed`, of one client or of a stack."""
        model = node.model if self.mixes == "start" else tree.add(node.model, change)
        return {"model": model} | ({"weight": node.weight} if self.weighted else {})

    def _mixed(self, node: GossipNode, change: ModelState, mixed: Tree) -> GossipNode:
        model = tree.add(mixed["model"], change) if self.mixes == "start" else mixed["model"]
        return GossipNode(model, mixed.get("weight"), None)

    def _reply(self, trained: Reply, node: GossipNode) -> Reply:
        return replace(trained, value=node if self.report else {}, state=replace(node, local=trained.state))


def _is_weight(weight: Tree) -> bool:
    """Whether somebody who gossips can have this weight w."""
    return (
        isinstance(weight, Tensor)
        and weight.dtype == torch.float64
        and weight.shape == ()
        and bool(weight.isfinite())
        and bool(weight > 0)
    )


def _ordered(named: Tree) -> Tree:
    """A tree in which names are in an order that counts, as it does where tensors are added one after the other."""
    return [(name, _ordered(part)) for name, part in named.items()] if isinstance(named, dict) else named


def _fits(letter: Tree, said: Tree) -> bool:
    """Whether a letter can be added to what one would say oneself."""
    if letter is None or _ordered(tree.pack(letter)[0]) != _ordered(tree.pack(said)[0]):
        return False
    pairs = zip(tree.tensors(letter), tree.tensors(said), strict=True)
    alike = all(one.shape == two.shape and one.dtype == two.dtype and is_finite(one) for one, two in pairs)
    return alike and ("weight" not in said or _is_weight(letter["weight"]))


def _letters(said: Tree, links: GossipLinks) -> dict[str, Tree]:
    return {peer: tree.scale(said, weight) for peer, weight in links.to.items()}


def _matrix(clients: Sequence[str], own: Mapping[str, GossipLinks]) -> np.ndarray:
    """What `gossip_links` was given."""
    number = {client: k for k, client in enumerate(clients)}
    matrix = np.diag([own[client].kept for client in clients])
    for client, k in number.items():
        for peer, weight in own[client].to.items():
            matrix[number[peer], k] = weight
    return matrix


def _product(matrix: Tensor, part: Tensor) -> Tensor:
    return (matrix.to(part.device, part.dtype) @ part.reshape(len(part), -1)).view(part.shape)
