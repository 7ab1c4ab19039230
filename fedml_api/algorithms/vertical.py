"""Vertical federated learning."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from fedml_core import tree
from fedml_core.errors import CommunicationError, ConfigError, DataError, RoundFailed
from fedml_core.federation import (
    Algorithm,
    Client,
    Cohort,
    Dialogue,
    Letters,
    LocalSGD,
    Mean,
    Post,
    Reply,
    Saying,
    Setup,
    Task,
    algorithms,
    merge_metrics,
    shapes,
    tasks,
    verdict,
)
from fedml_core.federation.intersection import Method, common_ids
from fedml_core.federation.private_part import chosen
from fedml_core.security.masking import Masks, unmasked
from fedml_core.security.paillier import Columns, Weights
from fedml_core.settings import settings
from fedml_core.trainer import Batch, Examples, LocalContext, ModelState
from fedml_core.trainer.auc import auc
from fedml_core.trainer.examples import places
from fedml_core.trainer.gradients import autocast, gradients
from fedml_core.trainer.model_trainer import per_example
from fedml_core.tree import Tree

# Test examples of which parties send their outputs at a time.
ROWS = 4096


@tree.node
class VerticalState:
    """The parties' networks as they were handed in last, before that the initial ones, and whether the parties have begun."""

    model: ModelState
    begun: bool


@tree.node
class Belongings:
    """What stays at a party: its part of the network, the people all parties know (int64 ids, sorted), and who has the labels."""

    part: ModelState
    train: Tensor
    test: Tensor
    holder: str


@algorithms.register("vertical")
@settings
class Vertical(Algorithm):
    """Parties that know different things about the same people train one network, each its own part of it.

        label holder L, parties p = 1 ... n, of whom L is one; people that all of them know: private set intersection, once
        for each batch B, which all draw alike:
            p -> L:  h_p = bottom_p(x_p[B])
            L:       loss = mean over B of loss(top(h_1 + ... + h_n), y[B]),        g = d loss / d (h_1 + ... + h_n)
            L -> p:  g
            p:       w_p <- w_p - lr direction(g . d h_p / d w_p);        L does so for `top`, too

    Vertical federated learning as Yang, Liu, Chen and Tong define it (ACM TIST 10(2), 2019, section 2.3.2), with the network split
    as by Vepakomma et al. (arXiv 1812.00564, 2018, vertically partitioned data). One pass over the people a round, if `local` says
    nothing else. Up to rounding it is training on all columns in one place. The server sees none of this but what `hand_in` says.

    Who sees what: L sees h_p of each training person (with `masks` only the sum of the others' h_p). p sees g, from which, in
    logistic regression, the labels of the training people can be read: g is negative where y = 1; a network above hides
    less than one may think (Li et al., Label Leakage and Protection in Two-party Split Learning, ICLR 2022). Nobody sees columns
    or weights of others, but p, who knows all h_p it sent, may still be guessed from them by L if x_p takes few values.
    What all learn about who is known to whom: `fedml_core/federation/intersection.py`.

    Args:
        local: what each party does with the gradient of its part: LocalSGD's rate, batches (drawn as for the label holder),
            transforms. What looks at a model as a whole, such as `clip`, looks at a part.
        intersection: `x25519`, `hmac` or `plain`.
        masks: let the label holder see the sum of the other parties' outputs only; needs two others. They then cost 8 bytes
            instead of 4 per number, and are rounded to 2^-24.
        encrypt: keep g from the other parties: they get the gradients of their weights, sum_i x_i g_i, with g under homomorphic
            encryption (`fedml_core/security/paillier.py`). For logistic regression, in batches that are all of the same size
            (`drop_last`) and have more examples than any party columns, or it could solve for g. It hides each g, not what such
            sums tell over many rounds, and takes a processor some 50 milliseconds for each example.
        hand_in: after each round the server gets to see every party's part, to evaluate and to save them as one network. Otherwise
            they stay where they are, and only the clients' own judgement (`evaluate_clients`) tells how good they are: loss,
            metrics and AUC, at the label holder.
    """

    local: LocalSGD = LocalSGD()
    intersection: Method = "x25519"
    masks: bool = False
    encrypt: bool = False
    hand_in: bool = True

    def unfit(self, setup: Setup) -> list[str]:
        parties, found = _parties(ModelState.of(setup.module)), []
        if len(parties) < 2 or [name for name, _ in setup.module.named_children()] != ["bottoms", "top"]:
            found.append(
                "algorithm vertical needs a network with a part for each of two parties or more, not a "
                f"{type(setup.module).__name__}: choose model=vertical_lr or vertical_nn, and data with parties, such as adult"
            )
        elif self.masks and len(parties) < 3:
            found.append(
                f"algorithm.masks = true: with the parties {' and '.join(parties)} there is one beside the label holder, whose "
                "outputs are the sum; masks hide something from three parties on"
            )
        elif self.encrypt:
            found += self._unfit_to_encrypt(setup.module)
        if setup.trainer.imperative:
            found.append(
                f"{type(setup.trainer).__name__} overrides train(), a loop over one network in one place, which vertical learning "
                "cuts between parties: write loss() instead"
            )
        return found

    def _unfit_to_encrypt(self, module: Any) -> Iterator[str]:
        layers = list(module.bottoms.values())
        if any(type(layer) is not nn.Linear or layer.bias is not None for layer in layers):
            yield "algorithm.encrypt = true: for networks whose parts are matrices only: choose model=vertical_lr, or encrypt=false"
            return
        size, drop_last, widest = self.local.batch_size, self.local.drop_last, max(layer.in_features for layer in layers)
        if size and (size <= widest or not drop_last):
            yield (
                f"algorithm.encrypt = true: from sums over a batch that is no larger than its {widest} columns a party could "
                f"compute what is to be hidden; set local.batch_size to {widest + 1} at least, and local.drop_last to true"
            )

    def init(self, model: ModelState) -> VerticalState:
        return VerticalState(model, False)

    def round(self, state: VerticalState, cohort: Cohort) -> tuple[VerticalState, dict[str, Mean]]:
        parties = _parties(state.model)
        _all_here(parties, cohort)
        task = TrainTogether(self.local, self.intersection, self.masks, self.encrypt, self.hand_in)
        shared = {"parties": parties, "top": None if state.begun else _part(state.model, "top.")}
        if self.hand_in:
            shared["shapes"] = shapes(state.model)
        own = {} if state.begun else {party: _part(state.model, f"bottoms.{party}.") for party in parties}
        replies = cohort.map(task, shared, own).gather()
        if missing := [party for party in parties if party not in replies]:
            raise RoundFailed(f"round {cohort.round + 1}: {', '.join(missing)} did not finish it, and nobody can do without")
        metrics: dict[str, Mean] = {}
        for reply in replies.values():
            metrics = merge_metrics(metrics, reply.metrics)
        return VerticalState(_handed_in(state.model, replies) if self.hand_in else state.model, True), metrics

    @property
    def server_has_model(self) -> bool:
        return self.hand_in

    def judge(self) -> Task:
        return JudgeTogether(self.masks)

    def shown(self, state: VerticalState) -> Tree:
        return {"parties": _parties(state.model)}


@tasks.register("vertical_train")
@settings
class TrainTogether(Dialogue):
    """One round at each party; the label holder's is a part more, and has the loss in its reply.

    `shared["parties"]` are all parties in the order in which outputs are added; `own` is the initial bottom of a party that begins,
    and `shared["top"]` the initial top for the label holder; `shared["shapes"]` are those of the network, where
    its parts are handed in.
    """

    local: LocalSGD
    intersection: Method
    masks: bool
    encrypt: bool
    hand_in: bool

    def talk(self, client: Client, shared: Tree, own: Tree = None) -> Saying:
        state = client.state if own is None else (yield from _begin(client, shared, own, self.intersection))
        party = yield from _Party.sit_down(client, shared, state, self.masks)
        mine = client.train.subset(_rows(state.train, client.train, client.id))
        # The batches are those of the label holder, whoever draws them.
        drawing = replace(client, id=state.holder, train=mine)
        visits = self.local.visits(drawing)
        if self.encrypt:
            party.check_hidden(min(visits.lengths, default=0), len(mine))
        params = tree.tensors(party.part.params)
        steps = torch.tensor(float(len(visits.lengths)), dtype=torch.float64, device=client.workspace.device)
        context = LocalContext(tree.clone(params), shared, None, client.round, None, steps)
        carry = self.local.begin(params, context)
        party.module.train()
        losses: list[Tensor] = []
        answer: Mapping[str, Tree] = {}
        weights, columns = (yield from self._keys(party)) if self.encrypt else (None, None)
        for batch in self.local.batches(drawing, visits):
            if party.holds:
                letters = yield Post(answer, wait=party.others)
                loss, (*grads, back) = party.descend(batch, letters)
                losses.append(loss)
                answer = dict.fromkeys(party.others, back)
                if weights is not None:
                    sealed = weights.sealed(back)
                    letters = yield Post(dict.fromkeys(party.others, sealed), wait=party.others)
                    answer = {other: weights.opened(letters[other]) for other in party.others}
            else:
                with party.precisely():
                    out = party.own(batch["x"])
                letters = yield Post({party.holder: party.sealed(out)}, wait=[party.holder])
                if columns is None:
                    grads = gradients(out, party.back(letters, out), party.leaves)
                else:
                    sums = columns.summed(letters[party.holder], batch["x"])
                    letters = yield Post({party.holder: sums}, wait=[party.holder])
                    grads = [columns.revealed(letters[party.holder]).to(out)]
            carry = self.local.step(carry, params, grads, context)
        yield Post(answer)
        metrics = {"loss": Mean.of(losses)} if party.holds else {}
        part = tree.clone(party.part)
        return Reply(part if self.hand_in else {}, float(len(mine)), metrics, replace(state, part=part))

    def objection(self, value: Tree, shared: Tree) -> str | None:
        if not self.hand_in:
            return "tells what nobody has asked for" if value != {} else None
        if not isinstance(value, ModelState) or shapes(value) not in _parts(shared["shapes"], shared["parties"]):
            return "is not a party's part of the network"
        return super().objection(value, {})

    def _keys(self, party: _Party) -> Generator[Post, Letters, tuple[Weights | None, Columns | None]]:
        """What either side needs to compute under encryption, with keys for this round."""
        if party.holds:
            weights = Weights()
            yield Post(dict.fromkeys(party.others, weights.public))
            return weights, None
        letters = yield Post(wait=[party.holder])
        return None, Columns(letters[party.holder])


@tasks.register("vertical_judge")
@settings
class JudgeTogether(Dialogue):
    """The label holder's verdict on the network as it lies at the parties, on the test people all know; others reply nothing."""

    masks: bool

    def talk(self, client: Client, shared: Tree, own: Tree = None) -> Saying:
        state = client.state
        party = yield from _Party.sit_down(client, shared, state, self.masks)
        party.module.eval()
        mine = client.test.subset(_rows(state.test, client.test, client.id))
        totals: list[Tensor] = []
        for batch in mine.batches(ROWS):
            with torch.no_grad():
                out = party.own(batch["x"])
            if party.holds:
                letters = yield Post(wait=party.others)
                totals.append(party.total(out, letters))
            else:
                yield Post({party.holder: party.sealed(out)})
        if not totals:
            return Reply({}, 0.0, {})
        judged = Examples({**mine.all(), "x": torch.cat(totals)})
        reply = verdict(client.trainer, party.module.top, judged)
        with torch.no_grad():
            logits = party.module.top(judged.columns["x"])
        if logits.dim() == 2 and logits.shape[1] == 2:
            area = auc(logits[:, 1] - logits[:, 0], judged.columns["y"])
            reply.metrics["auc"] = Mean(area * len(judged), len(judged))
        return reply


@dataclass(frozen=True)
class _Party:
    """A party in the course of a dialogue: its module, of which `part` is a view, and the masks it has agreed on, if any."""

    client: Client
    parties: Sequence[str]
    holder: str
    part: ModelState
    masked: bool
    secret: Masks | None

    @classmethod
    def sit_down(cls, client: Client, shared: Tree, state: Belongings | None, masks: bool) -> Generator[Post, Letters, _Party]:
        if not isinstance(state, Belongings):
            raise CommunicationError(
                f"client {client.id} no longer has its part of the network and the people it has in common with the others: "
                "start the run anew"
            )
        part = _part(client.workspace.view, f"bottoms.{client.id}.")
        if client.id == state.holder:
            part = part.replaced(_part(client.workspace.view, "top."))
        tree.copy_(part, _in_order(state.part, part))
        secret = None
        masking = [party for party in shared["parties"] if party != state.holder]
        if masks and client.id in masking:
            secret = Masks(client.id, f"vertical {client.round}")
            peers = [party for party in masking if party != client.id]
            secret.agree((yield Post(dict.fromkeys(peers, secret.public), wait=peers)))
        return cls(client, shared["parties"], state.holder, part, masks, secret)

    @property
    def holds(self) -> bool:
        return self.client.id == self.holder

    @property
    def others(self) -> list[str]:
        return [party for party in self.parties if party != self.client.id]

    @property
    def leaves(self) -> list[Tensor]:
        """The party's parameters, to differentiate by."""
        named = dict(self.module.named_parameters())
        return [named[name] for name in self.part.params]

    @property
    def module(self) -> Any:
        return self.client.workspace.module

    def precisely(self) -> AbstractContextManager[Any]:
        """With the precision in which the run trains."""
        return autocast(self.client.workspace.device, self.client.workspace.precision)

    @property
    def own(self) -> nn.Module:
        """The party's part below the sum."""
        bottom: nn.Module = self.module.bottoms[self.client.id]
        return bottom

    def check_hidden(self, rows: int, people: int) -> None:
        """Refuse batches from whose sums a party could compute the label holder's gradients.

        Args:
            rows: of the smallest batch; `people`: how many all parties know.
        """
        widths = {party: self.module.bottoms[party].in_features for party in self.parties if party != self.holder}
        widest = max(widths, key=widths.__getitem__)
        if rows <= widths[widest]:
            raise ConfigError(
                f"algorithm.encrypt = true: of the {people} people that all parties know a batch has as few as {rows}, and client "
                f"{widest} has {widths[widest]} columns: from sums over a batch that is no larger it could compute what is to be "
                "hidden; find more people in common, take larger batches that are all of one size (local.batch_size, "
                "local.drop_last), leave columns out, or set encrypt=false"
            )

    def sealed(self, out: Tensor) -> Tensor:
        """What to send of the party's outputs."""
        return out.detach() if self.secret is None else self.secret.hide(out)

    def total(self, out: Tensor, letters: Letters) -> Tensor:
        """The sum of all parties' outputs, in their order; `out` is the label holder's."""
        for sender, letter in letters.items():
            if not isinstance(letter, Tensor) or letter.shape != out.shape or letter.is_floating_point() == self.masked:
                raise CommunicationError(f"client {sender} has sent something other than outputs of the shape {list(out.shape)}")
        if self.masked:
            return out + unmasked(list(letters.values())).to(out)
        pieces = [out if party == self.client.id else letters[party].to(out.dtype) for party in self.parties]
        total = pieces[0]
        for piece in pieces[1:]:
            total = total + piece
        return total

    def descend(self, batch: Batch, letters: Letters) -> tuple[Tensor, list[Tensor]]:
        """The losses `[b]` of a batch, and the gradients of their mean: of the label holder's part, and last of the sum."""
        work = self.client.workspace
        with self.precisely():
            total = self.total(self.own(batch["x"]), letters)
            losses = per_example(self.client.trainer.loss(self.module.top, {**batch, "x": total}), batch)
        weights = work.mean_of(len(losses)).to(losses.dtype)
        return losses.detach(), gradients(losses, weights, [*self.leaves, total])

    def back(self, letters: Letters, out: Tensor) -> Tensor:
        """The gradient that the label holder has sent."""
        letter = letters[self.holder]
        if not isinstance(letter, Tensor) or letter.shape != out.shape:
            raise CommunicationError(
                f"client {self.holder} has sent something other than a gradient of the shape {list(out.shape)}"
            )
        return letter.to(out.dtype)


def _begin(client: Client, shared: Tree, own: Tree, method: Method) -> Generator[Post, Letters, Belongings]:
    """Find out who has the labels, and which people all parties know."""
    ids = [_ids(examples, client.id) for examples in (client.train, client.test)]
    others = [party for party in shared["parties"] if party != client.id]
    labels = "y" in client.train.columns
    letters = yield Post(dict.fromkeys(others, labels), wait=others)
    holders = [party for party in shared["parties"] if (labels if party == client.id else letters[party] is True)]
    if len(holders) != 1:
        raise ConfigError(f"labels y are held by {' and '.join(holders) or 'nobody'}: exactly one party must hold them")
    _check_fit(client)
    train, test = yield from common_ids(client.id, shared["parties"], ids, method)
    if not len(train):
        raise DataError(
            f"no training id is common to {', '.join(shared['parties'])}: do they number the same people in the same way?"
        )
    part = own.replaced(shared["top"]) if holders == [client.id] else own
    return Belongings(part, train, test, holders[0])


def _ids(examples: Examples, client: str) -> Tensor:
    ids = examples.all().get("id") if len(examples) else torch.empty(0, dtype=torch.int64)
    if ids is None or ids.dtype != torch.int64 or ids.dim() != 1 or "x" not in examples.columns:
        raise ConfigError(
            f"client {client} has the columns {', '.join(examples.columns)}: vertical learning needs `id` (int64, who a row "
            "is about), `x`, and at one party `y`"
        )
    if len(unique := ids.unique()) < len(ids):
        raise DataError(
            f"client {client}: {len(ids) - len(unique)} of its ids occur more than once, so that rows cannot be matched"
        )
    return ids.cpu()


def _check_fit(client: Client) -> None:
    """Refuse columns that the party's part of the network cannot take."""
    module: Any = client.workspace.module
    if client.id not in module.bottoms:
        raise ConfigError(f"client {client.id} has no part of the network; those who have: {', '.join(module.bottoms)}")
    one = client.train.take(torch.zeros(min(1, len(client.train)), dtype=torch.int64, device=client.workspace.device))["x"]
    bottom: nn.Module = module.bottoms[client.id].eval()
    try:
        with torch.no_grad():
            bottom(one)
    except RuntimeError as error:
        raise ConfigError(
            f"client {client.id}: x of shape {list(one.shape[1:])} does not fit its part of the network: {error}"
        ) from None


def _rows(ids: Tensor, examples: Examples, client: str) -> Tensor:
    """Where this party has these people."""
    if not len(ids):
        return torch.empty(0, dtype=torch.int64, device=ids.device)
    own = examples.all()["id"]
    try:
        return places(ids.to(own.device), own)
    except ValueError:
        raise DataError(
            f"client {client} no longer has all people that it had in common with the others: start the run anew"
        ) from None


def _all_here(parties: Sequence[str], cohort: Cohort) -> None:
    """Refuse a round in which not exactly the parties take part."""
    if strangers := [client for client in cohort.clients if client not in parties]:
        raise ConfigError(f"client {strangers[0]} has no part of the network; the parties are {', '.join(parties)}")
    if missing := [party for party in parties if party not in cohort.clients]:
        if cohort.population > len(cohort.clients):
            raise ConfigError(f"clients_per_round = {len(cohort.clients)}: every round needs all parties; set it to {len(parties)}")
        raise RoundFailed(f"round {cohort.round + 1}: {', '.join(missing)} is not here, and nobody can do without")


def _parties(model: ModelState) -> list[str]:
    """Who has a part of the network, in its order."""
    return list(dict.fromkeys(name.split(".")[1] for name in [*model.params, *model.buffers] if name.startswith("bottoms.")))


def _part(model: ModelState, prefix: str) -> ModelState:
    return chosen(model, [name for name in (*model.params, *model.buffers) if name.startswith(prefix)])


def _parts(whole: dict[str, list[list[str]]], parties: Sequence[str]) -> Iterator[Tree]:
    """The shapes of what each party may have of a network of these: its part below the sum, or that and what is above."""
    for party in parties:
        for prefixes in ((f"bottoms.{party}.",), (f"bottoms.{party}.", "top.")):
            yield {kind: [[name, shape] for name, shape in each if name.startswith(prefixes)] for kind, each in whole.items()}


def _in_order(model: ModelState, like: ModelState) -> ModelState:
    """The numbers of `model` by the names of `like`, in their order."""
    return ModelState({name: model.params[name] for name in like.params}, {name: model.buffers[name] for name in like.buffers})


def _handed_in(model: ModelState, replies: Mapping[str, Reply]) -> ModelState:
    """The network of the parts of all parties."""
    joined = ModelState({}, {})
    for reply in replies.values():
        joined = joined.replaced(reply.value)
    names = [name for reply in replies.values() for name in (*reply.value.params, *reply.value.buffers)]
    if sorted(names) == sorted((*model.params, *model.buffers)) and joined.params.keys() == model.params.keys():
        joined = _in_order(joined, model)
    if shapes(joined) != shapes(model):
        raise CommunicationError("the parts that the parties have handed in do not make up the network")
    return joined
