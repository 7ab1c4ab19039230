"""FedGKT."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import reduce
from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn

from fedml_core import tree
from fedml_core.errors import ConfigError
from fedml_core.federation import (
    Algorithm,
    Around,
    Client,
    Cohort,
    Evaluate,
    LocalSGD,
    Mean,
    Reply,
    Setup,
    Task,
    algorithms,
    merge_metrics,
    tasks,
)
from fedml_core.settings import settings
from fedml_core.trainer import Batch, Examples, LocalContext, Model, ModelState, ModelTrainer, Once
from fedml_core.trainer.model_trainer import per_example
from fedml_core.trainer.transforms import Tensors
from fedml_core.tree import Tree

# Rows of a forward pass without gradients.
ROWS = 256


def divergence(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(logits / T)) of each example `[b]`, for logits `[b, ..., classes]`.

    Hinton, Vinyals and Dean, arXiv 1503.02531, 2015; T^2 keeps the gradients as large as they are at T = 1. The mean over what lies
    between the first dimension and the last.
    """
    wanted, found = (torch.log_softmax(each / temperature, dim=-1) for each in (teacher, logits))
    apart = (wanted.exp() * (wanted - found)).sum(dim=-1)
    return temperature**2 * apart.reshape(len(apart), -1).mean(dim=1)


class Distillation(ModelTrainer):
    """The loss of `trainer`, plus alpha times the `divergence` from the logits in column `teacher`, where column `taught` is 1."""

    def __init__(self, trainer: ModelTrainer, alpha: float, temperature: float) -> None:
        self.trainer, self.alpha, self.temperature = trainer, alpha, temperature

    def loss(self, model: Model, batch: Batch) -> Tensor:
        once = Once(model)
        losses = per_example(self.trainer.loss(once, batch), batch)
        if "teacher" not in batch:
            return losses
        return losses + self.alpha * batch["taught"] * divergence(once(batch["x"]), batch["teacher"], self.temperature)


@settings
class Continued(Around):
    """Train as `local` does, with an optimizer that goes on from where it stopped: its state is the private state."""

    local: LocalSGD

    def begin(self, params: Tensors, context: LocalContext) -> Tree:
        return self.local.begin(params, context) if context.state is None else tree.clone(context.state)

    def keep(self, trained: ModelState, start: ModelState, carry: Tree, context: LocalContext) -> Tree:
        return carry


def numbers(module: nn.Module) -> ModelState:
    """A copy of a module's numbers."""
    copy: ModelState = tree.clone(ModelState.of(module))
    return copy


def outputs(module: nn.Module, inputs: Tensor) -> Tensor:
    """What a module makes of all rows, in evaluation mode and without gradients."""
    module.eval()
    with torch.no_grad():
        return torch.cat([module(rows) for rows in inputs.split(ROWS)])


def edge_of(network: nn.Module, client: str) -> nn.Sequential:
    """The edge network of a client: its extractor, then its classifier.

    Raises:
        ConfigError: the network is not one in parts.
    """
    edge = network.edge(client) if callable(getattr(network, "edge", None)) else None
    parts = {f"edge('{client}').{name}": getattr(edge, name, None) for name in ("extractor", "classifier")}
    wanted = {"server": getattr(network, "server", None), **parts}
    if missing := [name for name, part in wanted.items() if not isinstance(part, nn.Module)]:
        raise ConfigError(
            f"algorithm fedgkt needs a network in parts, and a {type(network).__name__} has no {', '.join(missing)}. Needed are "
            "`server`, a module from features to logits, and for each client's id `edge(id)` with modules `extractor`, from x to "
            "features, and `classifier`, from features to logits: choose model=cnn_in_parts or resnet_in_parts"
        )
    return nn.Sequential(*parts.values())


def misfits(network: nn.Module, clients: Sequence[str], x: Tensor) -> Iterator[str]:
    """Where the edge networks of these clients and the server's part do not go together, tried out on examples `x`."""
    shapes: dict[str, list[list[int]]] = {}
    for id in reversed(clients):
        extractor, classifier = edge_of(network, id)
        features = outputs(extractor, x)
        shapes[id] = [list(part.shape[1:]) for part in (features, outputs(classifier, features))]
    wanted = shapes[clients[0]]
    for id in clients:
        if shapes[id] != wanted:
            yield (
                "algorithm fedgkt needs edge networks whose features and logits have one shape, and not "
                f"{wanted} at client {clients[0]} and {shapes[id]} at client {id}"
            )
    try:
        made = list(outputs(network.server, features).shape[1:])
    except RuntimeError as error:
        yield f"algorithm fedgkt: the network's server cannot take features of shape {wanted[0]}: {error}"
    else:
        if made != wanted[1]:
            yield f"algorithm fedgkt: the network's server makes logits of shape {made}, and its edges {wanted[1]}"


@tasks.register("gkt_edge")
@settings
class TrainEdge(Task):
    """Train the client's edge network; reply with what the server is to learn from.

    `own` holds the `edge` network as all begin, and the server's `answers` (None before there are any): `logits` of the examples
    with these `ids`. The reply holds of every training example its `ids`, `features`, edge `logits` and `labels`. The edge network
    and the state of its optimizer stay at the client. `shared` may hold `features` and `logits` of no examples, for their shapes.
    """

    local: LocalSGD
    alpha: float
    temperature: float

    def __call__(self, client: Client, shared: Tree, own: Tree = None) -> Reply:
        if not len(client.train):
            return Reply({}, 0.0, {})
        edge, examples = edge_of(client.workspace.module, client.id), client.train.all()
        state = {"edge": own["edge"], "optimizer": None} if client.state is None else client.state
        pupil = replace(
            client,
            train=Examples(examples | teaching(len(client.train), own["answers"])),
            trainer=Distillation(client.trainer, self.alpha, self.temperature),
            workspace=client.workspace.part(edge),
            state=state["optimizer"],
        )
        trained = Continued(self.local)(pupil, state["edge"])
        extractor, classifier = edge
        features = outputs(extractor, examples["x"])
        ids = torch.arange(len(features), device=features.device)
        lesson = {"ids": ids, "features": features, "logits": outputs(classifier, features), "labels": examples["y"]}
        return Reply(lesson, trained.weight, trained.metrics, {"edge": numbers(edge), "optimizer": trained.state})

    def objection(self, value: Tree, shared: Tree) -> str | None:
        if value == {}:
            return None
        found = [value.get(name) for name in LESSON] if isinstance(value, dict) else []
        if not found or not all(isinstance(part, Tensor) and part.dim() and len(part) for part in found):
            return f"has not all of {', '.join(LESSON)}"
        ids, features, logits, labels = found
        if not len(ids) == len(features) == len(logits) or logits.shape[:-1] != labels.shape:
            return "has not as many features, logits and labels as ids"
        if ids.dtype != torch.int64 or ids.dim() > 1 or ids.min() < 0 or len(ids.unique()) < len(ids):
            return "has ids that are not different numbers from 0 on"
        if labels.dtype != torch.int64 or labels.min() < 0 or labels.max() >= logits.shape[-1]:
            return "has labels that are not among the classes of its logits"
        for name, example in shared.items():
            if value[name].dtype != example.dtype or value[name].shape[1:] != example.shape[1:]:
                found = [f"{part.dtype} {list(part.shape[1:])}" for part in (value[name], example)]
                return f"has {name} of {found[0]} each, and those of this network are {found[1]}"
        return super().objection(value, shared)


LESSON = ("ids", "features", "logits", "labels")


def made_of_none(edge: nn.Sequential, examples: Examples) -> Batch:
    """The `features` and `logits` that an edge network makes of such examples, of none of them."""
    if "x" not in examples.columns:
        return {}
    x = examples.columns["x"]
    features = outputs(edge[0], x.new_zeros((1, *x.shape[1:])))
    return {"features": features[:0].clone(), "logits": outputs(edge[1], features)[:0].clone()}


def teaching(count: int, answers: Tree) -> Batch:
    """The server's logits as columns for a client's `count` examples; those of whose ids it has said nothing are not `taught`."""
    if answers is None:
        return {}
    ids, logits = answers["ids"], answers["logits"]
    teacher, taught = logits.new_zeros(count, *logits.shape[1:]), logits.new_zeros(count)
    teacher[ids], taught[ids] = logits, 1.0
    return {"teacher": teacher, "taught": taught}


def together(lessons: Mapping[str, Tree]) -> Examples:
    """What all clients have sent, for the server's part to learn: in the order of clients, and of ids at each.

    Raises:
        ConfigError: it is of different shapes.
    """
    shapes = {id: [list(lesson[name].shape[1:]) for name in ("features", "logits")] for id, lesson in lessons.items()}
    first, shape = next(iter(shapes.items()))
    if others := [f"client {id} sends {found}" for id, found in shapes.items() if found != shape]:
        raise ConfigError(
            f"fedgkt: features and logits must have one shape, whatever the edge network; client {first} sends {shape}, {others[0]}"
        )
    places = {id: lesson["ids"].argsort() for id, lesson in lessons.items()}
    features, logits, labels = (torch.cat([lessons[id][name][place] for id, place in places.items()]) for name in LESSON[1:])
    return Examples({"x": features, "y": labels, "teacher": logits, "taught": logits.new_ones(len(logits))})


def apart(lessons: Mapping[str, Tree], logits: Tensor) -> dict[str, Tree]:
    """The server's answers by client, from its `logits` of `together(lessons)`."""
    ids = {id: lesson["ids"].sort().values for id, lesson in lessons.items()}
    parts = logits.split([len(own) for own in ids.values()])
    return {id: {"ids": own, "logits": part.clone()} for (id, own), part in zip(ids.items(), parts, strict=True)}


@tasks.register("gkt_judge")
@settings
class JudgeParts(Task):
    """Loss and metrics of the server's part on top of the client's extractor, on its test examples, which stay where they are.

    `shared` is the whole network: the server's part, and the edge network of those who have none of their own yet. Metrics whose
    names begin with `edge_` are those of the edge network by itself.
    """

    def __call__(self, client: Client, shared: Tree, own: Tree = None) -> Reply:
        network = client.workspace.load(shared)
        edge = edge_of(network, client.id)
        if client.state is not None:
            client.state["edge"].load_into(edge)
        large, small = (
            Evaluate()(replace(client, workspace=client.workspace.part(module)), numbers(module))
            for module in (nn.Sequential(edge[0], network.server), edge)
        )
        return replace(large, metrics=large.metrics | {f"edge_{name}": mean for name, mean in small.metrics.items()})


@tree.node
class Knowledge:
    """What the server keeps.

    Attributes:
        model: the network, the server's part as trained so far, the edges as clients begin; `optimizer`: of the server's part.
        answers: by client, the `logits` of the server's part for the examples with these `ids`, from the client's last round.
    """

    model: ModelState
    optimizer: Tree
    answers: dict[str, Tree]


@algorithms.register("fedgkt")
@settings
class FedGKT(Algorithm):
    """Group knowledge transfer: small networks on clients, a large one at the server. He, Annavaram and Avestimehr, NeurIPS 2020.

    Their Algorithm 1. A client has an edge network of its own, W_k: a feature extractor, and a classifier on top of it. The part
    at the server, W_s, takes the features. For every client k of the cohort, then once at the server:

        W_k <- SGD on  CE(z_k, y) + alpha T^2 KL(softmax(z_s / T) || softmax(z_k / T))               (CE only, in its first round)
        client k -> server: features h_k, logits z_k and labels y of its training examples
        W_s <- SGD on  CE(z_s, y) + server_alpha T^2 KL(softmax(z_k / T) || softmax(z_s / T))        over all that was sent
        server -> client k: its logits z_s of these examples, for the client's next round

    In place of CE stands the trainer's loss. Examples are known by their number at their client, never by their place in a batch.
    Optimizers go on from round to round, a client's with its private state. The paper's server goes from client to client within
    a pass; here each pass takes the examples of all clients in a new order, so that skewed clients do not pull it to and fro.

    What travels: to a client the edge network as it begins, and the server's logits; to the server features, logits and labels of
    training examples. Labels leave because the server's loss needs them, and features of a first convolution show much of a
    picture. Trained edge networks stay where they are and are never averaged, so they may be of different kinds (the network's
    `edge`), as long as their features have one shape. To be judged, the server's part travels to the clients; test examples never
    leave them. The server has no whole network and cannot judge by itself: set `evaluate_clients`, and look at `client_accuracy`.

    Args:
        local: the training of edge networks; `server`: that of the server's part, its epochs being passes over all that was sent.
        alpha: the weight of the server's logits on clients; `server_alpha`: that of the clients' logits at the server, which also
            say how often a client sees each class: 0, as in the authors' code, is better where clients have different classes.
        temperature: T.
    """

    local: LocalSGD = LocalSGD(lr=0.05)
    server: LocalSGD = LocalSGD(lr=0.05)
    alpha: Annotated[float, Meta(ge=0)] = 1.0
    server_alpha: Annotated[float, Meta(ge=0)] = 1.0
    temperature: Annotated[float, Meta(gt=0)] = 3.0

    def unfit(self, setup: Setup) -> list[str]:
        if setup.trainer.imperative:
            return [
                f"{type(setup.trainer).__name__} overrides train(), where nobody else's logits can come in: write loss() instead"
            ]
        clients = setup.data.client_ids
        try:
            whose = {edge_of(setup.module, id)[-1]: id for id in reversed(clients)}
        except ConfigError as error:
            return error.problems
        rows = next((setup.data.train(id).take(torch.zeros(1, dtype=torch.int64)) for id in clients if setup.size(id)), None)
        return list(misfits(deepcopy(setup.module), sorted(whose.values(), key=clients.index), rows["x"])) if rows else []

    def init(self, model: ModelState) -> Knowledge:
        return Knowledge(model, None, {})

    def round(self, state: Knowledge, cohort: Cohort) -> tuple[Knowledge, dict[str, Mean]]:
        server = cohort.server
        network = server.workspace.load(state.model)
        own = {id: {"edge": numbers(edge_of(network, id)), "answers": state.answers.get(id)} for id in cohort.clients}
        trainer = Distillation(server.trainer, self.server_alpha, self.temperature)
        shared = made_of_none(edge_of(network, cohort.clients[0]), server.train)
        replies = cohort.map(TrainEdge(self.local, self.alpha, self.temperature), shared, own).gather()
        lessons = {id: reply.value for id, reply in replies.items() if reply.weight and reply.value}
        if not lessons:
            return state, {}
        work, examples = server.workspace.part(network.server), together(lessons)
        pupil = replace(server, train=examples, trainer=trainer, workspace=work, state=state.optimizer)
        trained = Continued(self.server)(pupil, numbers(network.server))
        answers = apart(lessons, outputs(network.server, examples.columns["x"]))
        metrics = reduce(merge_metrics, (reply.metrics for reply in replies.values()))
        metrics |= {f"server_{name}": mean for name, mean in trained.metrics.items()}
        return Knowledge(numbers(network), trained.state, state.answers | answers), metrics

    @property
    def server_has_model(self) -> bool:
        return False

    def judge(self) -> Task:
        return JudgeParts()
