"""Split learning."""

from __future__ import annotations

import copy
from collections import Counter, OrderedDict, defaultdict
from typing import Annotated, NamedTuple

import torch
from msgspec import Meta
from torch import Tensor, nn

from fedml_core import tree
from fedml_core.errors import ConfigError, RoundFailed
from fedml_core.federation import (
    Algorithm,
    Client,
    ClientRunner,
    Cohort,
    Conversation,
    Dialogue,
    Evaluate,
    LocalSGD,
    Mean,
    Reply,
    Saying,
    Setup,
    Task,
    Workspace,
    algorithms,
    ask,
    merge_metrics,
    tasks,
)
from fedml_core.federation.private_part import chosen
from fedml_core.settings import settings
from fedml_core.trainer import Batch, LocalContext, ModelState, ModelTrainer
from fedml_core.trainer.gradients import autocast, gradients, unshared
from fedml_core.trainer.model_trainer import per_example
from fedml_core.tree import Tree


class Halves(NamedTuple):
    """The layers of a network by who has them: the client `lower` and, if it keeps its labels, `head`; the server `upper`."""

    lower: nn.Sequential
    upper: nn.Sequential
    head: nn.Sequential | None

    def of_client(self, model: ModelState) -> ModelState:
        """The client's part of the joined model."""
        return chosen(model, {name for layers in (self.lower, self.head) if layers is not None for name in layers.state_dict()})


def cut_at(network: nn.Module, cut: int, head: int) -> Halves:
    """Layers [0:cut] and [-head:] of a network for the client, and those between for the server.

    Raises:
        ConfigError: it cannot be cut there, or nowhere.
    """
    if not isinstance(network, nn.Sequential) or type(network).forward is not nn.Sequential.forward:
        raise ConfigError(
            f"model: a {type(network).__name__} cannot be cut into the client's layers and the server's; "
            "choose a network that is an nn.Sequential, or write yours as one"
        )
    layers = list(network._modules.items())
    weighty = [i for i, (_, layer) in enumerate(layers) if layer is not None and any(p.requires_grad for p in layer.parameters())]
    where = f"the network has {len(layers)} layers, of which those with parameters are {', '.join(map(str, weighty)) or 'none'}"
    if len(weighty) < (3 if head else 2):
        raise ConfigError(f"cut = {cut}, head = {head}: {where}; with {'a head three' if head else 'two'} would be needed")
    top = len(layers) - head
    heads = range(len(layers) - weighty[-1], len(layers) - weighty[1])
    if head and head not in heads:
        raise ConfigError(f"head = {head}: {where}; every part needs some, so head may be {_span(heads)}, or 0 for none")
    cuts = range(weighty[0] + 1, max(i for i in weighty if i < top) + 1)
    if cut not in cuts:
        raise ConfigError(f"cut = {cut}: {where}; every part needs some, so with head = {head} cut may be {_span(cuts)}")
    lower, upper, above = (nn.Sequential(OrderedDict(part)) for part in (layers[:cut], layers[cut:top], layers[top:]))
    owners: dict[int, int] = {}
    for number, part in enumerate((lower, upper, above)):
        if tied := [name for name, param in part.named_parameters() if owners.setdefault(id(param), number) != number]:
            raise ConfigError(f"cut = {cut}, head = {head}: layers on both sides have the parameter '{tied[0]}'; cut elsewhere")
    return Halves(lower, upper, above if head else None)


def _span(values: range) -> str:
    return f"{values[0]} to {values[-1]}" if len(values) > 1 else str(values[0])


class Part:
    """Consecutive layers of a network, trained by the party that has them with an optimizer that sees no others.

    Args:
        work: the layers; they get the numbers that `model` has for them.
        round: the round, counted from 0.
    """

    def __init__(self, work: Workspace, model: ModelState, local: LocalSGD, round: int) -> None:
        self.work, self.local, self.trained = work, local, work.view
        start = chosen(model, {*self.trained.params, *self.trained.buffers})
        self.work.load(start).train()
        self._params = tree.tensors(self.trained.params)
        self._context = LocalContext(tree.tensors(start.params), None, None, round)
        self._carry = local.begin(self._params, self._context)

    def __call__(self, x: Tensor) -> Tensor:
        with autocast(self.work.device, self.work.precision):
            out: Tensor = self.work.module(x)
        return out

    def follow(self, outputs: Tensor, weights: Tensor, *inputs: Tensor) -> list[Tensor]:
        """One step along the gradients of sum(weights * outputs); its gradients at `inputs`."""
        found = unshared(gradients(outputs, weights, [*inputs, *self.work.params]))
        self._carry = self.local.step(self._carry, self._params, found[len(inputs) :], self._context)
        return found[: len(inputs)]

    def learn(self, trainer: ModelTrainer, x: Tensor, labels: Batch) -> tuple[Tensor, Tensor]:
        """For the last layers, one step on a batch of which `x` arrives: its losses `[b]`, the gradient of their mean at `x`."""
        entry = x.requires_grad_()
        # Layers that write into what they get may not do so with a tensor whose gradient is asked for.
        batch = {"x": entry.clone(), **labels}
        with autocast(self.work.device, self.work.precision):
            losses = per_example(trainer.loss(self.work.module, batch), batch)
        (gradient,) = self.follow(losses, self.work.mean_of(len(losses)).to(losses.dtype), entry)
        return losses.detach(), gradient


@tasks.register("split_sgd")
@settings
class SplitSGD(Dialogue):
    """Train the client's layers [0:cut] and [-head:] on its batches, together with a server that has those between.

    A batch is one round trip; two, if the client has a head:

        client                                                  server
        {smashed: lower(x), labels}                   ->
                                                      <-        gradient of the mean loss at `smashed`

        {smashed: lower(x)}                           ->
                                                      <-        features: upper(smashed)
        {gradient: that of the mean loss at features} ->
                                                      <-        gradient at `smashed`

    Each of these four needs the one before, and the first of the next batch needs the last: a batch with fewer of them would be a
    step along an old gradient.

    `shared` holds the client's part of the joined `model`, and examples of no rows of the `letters` that are expected. The reply's
    value are the client's layers after training, or nothing, if it `keeps` them as its private state.
    """

    local: LocalSGD
    cut: int
    head: int = 0
    keeps: bool = False

    def talk(self, client: Client, shared: Tree, own: Tree = None) -> Saying:
        def part(layers: nn.Sequential) -> Part:
            return Part(client.workspace.part(layers), model, self.local, client.round)

        halves = cut_at(client.workspace.module, self.cut, self.head)
        model: ModelState = self.personal(shared["model"], client.state)
        lower, head = part(halves.lower), None if halves.head is None else part(halves.head)
        losses: list[Tensor] = []
        for batch in self.local.batches(client):
            labels = {name: column for name, column in batch.items() if name != "x"}
            smashed = lower(batch["x"])
            letter = {"smashed": smashed.detach()}
            if head is None:
                gradient = yield from ask(letter | {"labels": labels})
            else:
                features = yield from ask(letter)
                loss, at_features = head.learn(client.trainer, features, labels)
                losses.append(loss)
                gradient = yield from ask({"gradient": at_features})
            lower.follow(smashed, gradient)
        trained = model.replaced(lower.trained)
        trained = tree.clone(trained if head is None else trained.replaced(head.trained))
        metrics = {"loss": Mean.of(losses)} if head is not None else {}
        return Reply({} if self.keeps else trained, float(len(client.train)), metrics, trained if self.keeps else None)

    def personal(self, model: ModelState, state: Tree) -> ModelState:
        return model if state is None else model.replaced(state)

    def objection_to_letter(self, letter: Tree, shared: Tree) -> str | None:
        if not any(_alike(letter, example) for example in shared["letters"]):
            return "is none of those that this network's clients write"
        return super().objection(letter, shared)

    def objection(self, value: Tree, shared: Tree) -> str | None:
        sound = isinstance(value, dict) and not value if self.keeps else isinstance(value, ModelState)
        return super().objection(value, shared) if sound else "is not what the client's layers became"

    def shared(self, model: ModelState, server: Client) -> dict[str, Tree]:
        """What all clients are told of a model that is in training with this server.

        Raises:
            ConfigError: what passes between the layers is no tensor, or the data have no column `x` that they could take.
        """
        halves = cut_at(server.workspace.module, self.cut, self.head)
        columns = {name: column.new_zeros((1, *column.shape[1:])) for name, column in server.train.columns.items()}
        if "x" not in columns:
            raise ConfigError(f"split learning takes its inputs from column 'x'; the data set has {', '.join(columns)}")
        server.workspace.module.eval()
        with torch.no_grad(), autocast(server.workspace.device, server.workspace.precision):
            smashed = halves.lower(columns.pop("x"))
            passing = [smashed] if halves.head is None else [smashed, halves.upper(smashed)]
        if not all(isinstance(part, Tensor) for part in passing):
            raise ConfigError(f"cut = {self.cut}, head = {self.head}: layers there do not return a single tensor; cut elsewhere")
        first, *others = [part[:0] for part in passing]
        if halves.head is None:
            letters = [{"smashed": first, "labels": {name: column[:0] for name, column in columns.items()}}]
        else:
            letters = [{"smashed": first}, *({"gradient": features} for features in others)]
        return {"model": halves.of_client(model), "letters": letters}

    def unfit(self, setup: Setup) -> list[str]:
        """See `Algorithm`."""
        if setup.trainer.imperative:
            return [f"{type(setup.trainer).__name__} overrides train(), which cannot be cut in two: write loss() instead"]
        try:
            self.shared(ModelState.of(setup.module), ClientRunner(setup).server(0))
        except ConfigError as error:
            return error.problems
        return []


def _alike(letter: Tree, example: Tree) -> bool:
    """Whether a letter has the structure of another, kinds and sizes of numbers included, and everywhere the same rows, some."""

    def kind(part: Tensor) -> tuple[object, ...]:
        return part.is_floating_point() or part.dtype, *part.shape[1:]

    (structure, parts), (wanted, examples) = tree.pack(letter), tree.pack(example)
    return structure == wanted and (
        all(part.dim() and kind(part) == kind(examples[path]) for path, part in parts.items())
        and len(rows := {len(part) for part in parts.values()}) == 1
        and 0 not in rows
    )


class Upper:
    """The server's layers in training, and what they say to clients whose layers end where these begin."""

    def __init__(self, task: SplitSGD, model: ModelState, server: Client) -> None:
        layers = copy.deepcopy(cut_at(server.workspace.module, task.cut, task.head).upper)
        work = Workspace(layers, server.workspace.precision)
        self.server, self.part = server, Part(work, model, task.local, server.round)
        self._entry = self._features = torch.empty(0)
        self._answers: Counter[str] = Counter()
        self._losses: dict[str, list[Tensor]] = defaultdict(list)

    @property
    def trained(self) -> ModelState:
        """The server's part of the joined model, as it is now."""
        return self.part.trained

    def metrics(self, client: str) -> dict[str, Mean]:
        """Of a client's examples, those whose losses were seen here."""
        return {"loss": Mean.of(self._losses[client])} if self._losses[client] else {}

    def answers(self, conversation: Conversation, said: dict[str, Tree]) -> dict[str, Tensor]:
        """What to say to these letters of `SplitSGD`, one after the other, after a step of these layers where one is due.

        Labels that are none, say, make themselves known here: who writes what cannot be computed with is dismissed.
        """
        found = {}
        for client, letter in said.items():
            try:
                found[client] = self._answer(client, letter)
            except (RuntimeError, ValueError, IndexError) as error:
                conversation.dismiss(client, f"its letter cannot be computed with: {error}")
        return found

    def _answer(self, client: str, letter: dict[str, Tree]) -> Tensor:
        self.server.seed_torch(f"answer {self._answers[client]} to {client}")
        self._answers[client] += 1
        if "labels" in letter:
            losses, gradient = self.part.learn(self.server.trainer, letter["smashed"], letter["labels"])
            self._losses[client].append(losses)
        elif "smashed" in letter:
            self._entry = letter["smashed"].requires_grad_()
            self._features = self.part(self._entry.clone())
            return self._features.detach()
        else:
            (gradient,) = self.part.follow(self._features, letter["gradient"], self._entry)
        return gradient


@algorithms.register("split")
@settings
class Split(Algorithm):
    """Split learning. Gupta and Raskar, J. Network and Computer Applications, 2018, Algorithms 1 and 2; Vepakomma et al., 2018.

        for every client k of the cohort, in turn, and each of its batches (x, y):
            s  = f_k(x)                         at the client, sent to the server with y
            L  = mean loss of g(s) and y        at the server:    g   <- g - lr dL/dg,  which sends dL/ds
                                                at the client:    f_k <- f_k - lr dL/ds ds/df

    Both halves together take the steps of the joined network. The next client goes on with the layers that the last one has
    trained, which the server hands on (the paper's centralised mode); without `handover` each keeps its own, as private state, and
    is judged with those below the server's layers. The joined model then has the client layers that it began with, and is not
    evaluated: see `evaluate_clients`.

    The server sees the activations and labels of every example, and with `handover` each client's layers, which the next client
    sees as well. With `head` > 0 a client has the last layers too, and labels do not leave it (U-shaped: Poirot et al., Split
    learning for collaborative deep learning in healthcare, 2019). `SplitSGD` has the letters. Activations and gradients tell
    much about inputs and labels: nothing here hides them.

    Client and server have an optimizer each, begun afresh with every turn. Steps are those of the joined network whatever
    `local` does number by number: weight decay, momentum, Adam. Clipping differs: `clip` bounds the norm of each part's gradient.

    A client that is lost leaves nothing of its turn behind: the next one goes on from before it. (Where the engine does without
    lost clients.)

    Args:
        cut: how many layers of the `nn.Sequential` the client has at the bottom; `head`: how many at the top, 0 to send labels.
        handover: whether the clients' layers are handed on.
        local: batches and steps, at both sides.
    """

    cut: Annotated[int, Meta(ge=1)] = 2
    head: Annotated[int, Meta(ge=0)] = 0
    handover: bool = True
    local: LocalSGD = LocalSGD()

    @property
    def task(self) -> SplitSGD:
        """What clients are asked to do."""
        return SplitSGD(self.local, self.cut, self.head, keeps=not self.handover)

    def unfit(self, setup: Setup) -> list[str]:
        return self.task.unfit(setup)

    def init(self, model: ModelState) -> ModelState:
        return model

    def round(self, state: ModelState, cohort: Cohort) -> tuple[ModelState, dict[str, Mean]]:
        server, metrics, through = cohort.server, dict[str, Mean](), 0
        for client in cohort.clients:
            try:
                state, found = self._turn(state, cohort.only([client]), server)
            except RoundFailed:
                continue
            metrics, through = merge_metrics(metrics, found), through + 1
        if not through:
            raise RoundFailed(f"round {cohort.round + 1}: every client was lost in its turn; see why they are silent")
        return state, metrics

    def _turn(self, model: ModelState, cohort: Cohort, server: Client) -> tuple[ModelState, dict[str, Mean]]:
        """The joined model after the turn of the cohort's only client.

        Raises:
            RoundFailed: it is lost.
        """
        upper = Upper(self.task, model, server)
        with cohort.converse(self.task, self.task.shared(model, server)) as conversation:
            while said := conversation.hear():
                conversation.say(upper.answers(conversation, said))
            ((client, reply),) = conversation.replies()
        model = model.replaced(upper.trained)
        return model.replaced(reply.value) if self.handover else model, merge_metrics(upper.metrics(client), reply.metrics)

    def model(self, state: ModelState) -> ModelState:
        return state

    @property
    def server_has_model(self) -> bool:
        return self.handover

    def judge(self) -> Task:
        return Evaluate(of=self.task)
