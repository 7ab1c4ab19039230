"""FedNAS."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Literal

import torch
from msgspec import Meta
from torch import Tensor

from fedml_api.algorithms.fedavg import FedAvg
from fedml_core import rng, tree
from fedml_core.federation import (
    SGD,
    Aggregator,
    Around,
    Client,
    Cohort,
    Composed,
    FullGradient,
    LocalSGD,
    Mean,
    ServerOptimizer,
    Setup,
    Visits,
    WeightedMean,
    algorithms,
    local_updates,
    model_of,
    names_like,
)
from fedml_core.settings import settings
from fedml_core.trainer import Adaptive, LocalContext, ModelState, ModelTrainer, Rate, WeightDecay, rate
from fedml_core.trainer.transforms import Tensors, per_client
from fedml_core.tree import Tree

Update = Literal["mixed", "first_order", "second_order"]
# Which batches one step looks at: of the examples that train, or of those that validate.
COURSES: dict[Update, tuple[str, ...]] = {
    "mixed": ("train", "validate", "train"),
    "first_order": ("validate", "train"),
    "second_order": ("train", "validate", "train", "train", "train"),
}
# How far the two points are apart from the middle between which a derivative is measured (Liu et al., section 2.3).
DISTANCE = 0.01


@local_updates.register("search")
@settings
class Search(Around):
    """Train the weights w of a network and its architecture alpha by turns, on examples that a client has split between the two.

    A step takes one batch of each, moves alpha as `FedNAS` says, and then w on the same training batch. The split is drawn once
    for a client, the same in every round; who has but one example cannot split it and takes no step. The metric `loss` is the
    mean over every batch that is looked at, as often as it is.

    Args:
        local: how w moves; `architecture`: how alpha does; both optimizers start afresh in every round.
        update, lam, validation, names: as in `FedNAS`.
    """

    local: LocalSGD
    architecture: LocalSGD
    update: Update
    lam: float
    validation: float
    names: tuple[str, ...]

    def split(self, client: Client) -> tuple[Tensor, Tensor]:
        """Positions of the client's training examples: of those that train, and of those that validate."""
        count = len(client.train)
        order = torch.from_numpy(rng.rng(client.seed, "validation", client.id).permutation(count))
        held = min(max(round(self.validation * count), 1), count - 1) if count > 1 else count
        return order[held:], order[:held]

    def visits(self, client: Client) -> Visits:
        train, held = self.split(client)
        course = self.local.course(len(train), client.rng("batches"))
        steps = replace(self.local, epochs=None, steps=max(len(course.lengths), 1), drop_last=True)
        other = steps.course(len(held), client.rng("validation batches"))
        kinds = {"train": (train, course), "validate": (held, other)}
        batches = {kind: torch.split(rows[visits.order], visits.lengths) for kind, (rows, visits) in kinds.items()}
        visited = [batches[kind][step] for step in range(len(course.lengths)) for kind in COURSES[self.update]]
        return Visits(torch.cat([course.order[:0], *visited]), [len(batch) for batch in visited])

    def plain_rate(self, round: int) -> None:
        return None

    def check(self, trainer: ModelTrainer) -> None:
        FullGradient().check(trainer)

    def begin(self, params: Tensors, context: LocalContext) -> Tree:
        model = model_of(context.shared)
        names = names_like(model, self.names)
        parts = [[i for i, name in enumerate(model.params) if (name in names) is alpha] for alpha in (False, True)]
        weights, alphas = ([params[i] for i in part] for part in parts)
        inner = {"weights": self.local.begin(weights, context), "alphas": self.architecture.begin(alphas, context)}
        return {"parts": parts, "visit": 0, "kept": {}} | inner

    def step(self, carry: Tree, params: Tensors, grads: Tensors, context: LocalContext) -> Tree:
        """What is done with the gradients of one visit: most of them only lead to the next."""
        part_w, part_a = carry["parts"]
        w, a, grad_w, grad_a = ([all[i] for i in part] for all in (params, grads) for part in (part_w, part_a))
        here = replace(context, anchor=[context.anchor[i] for i in part_w])
        visit, kept, along = carry["visit"], carry["kept"], None
        if visit == len(COURSES[self.update]) - 1:
            return carry | {"weights": self.local.step(carry["weights"], w, grad_w, here), "visit": 0, "kept": {}}
        match self.update, visit:
            case "first_order", 0:
                along = grad_a
            case "mixed", 0:
                kept = {"train": grad_a}
            case "mixed", 1:
                along = torch._foreach_add(kept["train"], grad_a, alpha=self.lam)
            case "second_order", 0:
                kept = {"w": tree.clone(w)}
                self.local.step(tree.clone(carry["weights"]), w, grad_w, here)
            case "second_order", 1:
                size = DISTANCE / context.norm(grad_w).clamp(min=1e-12)
                away = [part * per_client(size, part) for part in grad_w]
                kept |= {"validate": grad_a, "size": size, "away": away}
                tree.copy_(w, tree.add(kept["w"], away))
            case "second_order", 2:
                kept |= {"plus": grad_a}
                tree.copy_(w, tree.sub(kept["w"], kept["away"]))
            case "second_order", 3:
                tree.copy_(w, kept["w"])
                factor = rate(self.local.lr, context.round) / (2 * kept["size"])
                second = [per_client(factor, plus) * (plus - minus) for plus, minus in zip(kept["plus"], grad_a, strict=True)]
                along = tree.sub(kept["validate"], second)
        alphas = carry["alphas"]
        if along is not None:
            there = replace(context, anchor=[context.anchor[i] for i in part_a])
            alphas, kept = self.architecture.step(alphas, a, list(along), there), {}
        return carry | {"alphas": alphas, "visit": visit + 1, "kept": kept}


@algorithms.register("fednas")
@settings
class FedNAS(Composed):
    """Federated neural architecture search. He, Annavaram and Avestimehr, 2020 (arXiv:2004.08546), Algorithm 1.

        client   alpha <- alpha - a d_alpha,  w <- w - r dL_tr/dw (w, alpha)      for every batch, of examples split into two parts
        server   w <- sum_k n_k w_k / sum_k n_k,  alpha <- sum_k n_k alpha_k / sum_k n_k

    The network is a mixture of many, and alpha are the parameters that weigh them, as in `fedml_api/model/darts.py`. Both are
    parameters of one model here, so that the server's part is FedAvg. d_alpha is one of

        mixed          dL_tr/dalpha (w, alpha) + lam dL_val/dalpha (w, alpha)     MiLeNAS: He et al., CVPR 2020; the paper's
        first_order    dL_val/dalpha (w, alpha)                                   DARTS: Liu et al., ICLR 2019, xi = 0
        second_order   dL_val/dalpha (w', alpha) - r d2L_tr/dalpha dw (w, alpha) dL_val/dw (w', alpha),  w' = w - r dL_tr/dw

    where w' is one step of `local`, and the second derivative is the difference of dL_tr/dalpha at w + e v and w - e v, over 2 e,
    with v = dL_val/dw (w', alpha) and e = 0.01 / |v|. They cost three, two and five gradients for each batch that trains the
    weights. When the search is over, the cells are read off alpha (`genotype()` of the network), and their network is trained anew,
    by FedAvg say.

    Validation examples are part of the client's training examples; its test examples are never looked at. The server sees the
    changes of w and of alpha. As in the authors' program, the optimizer of alpha starts afresh in every round and leaves nothing at
    the client.

    Args:
        local: of the weights; its rate may fall over the rounds, by the schedule `cosine`.
        architecture: of alpha: only the rate and what is done with gradients count, as there is one step for each of `local`. The
            default is Adam with (0.5, 0.999) and a penalty, as the papers have it.
        update, lam: see above; `lam` is of the mixed update.
        validation: the share of a client's training examples that do not train its weights.
        temperature: of a network that draws its operations (`sampling: gumbel`), over the rounds: GDAS, with `first_order`.
        names: patterns of the names of alpha.
    """

    local: LocalSGD = LocalSGD(lr=0.025, batch_size=64, momentum=0.9, weight_decay=3e-4, clip=5.0)
    architecture: LocalSGD = LocalSGD(lr=3e-4, transforms=(WeightDecay(1e-3), Adaptive(beta1=0.5)))
    update: Update = "mixed"
    lam: Annotated[float, Meta(ge=0)] = 1.0
    validation: Annotated[float, Meta(gt=0, lt=1)] = 0.5
    temperature: Rate | None = None
    names: tuple[str, ...] = ("alphas*", "*.alphas*")
    server: ServerOptimizer = SGD()
    aggregator: Aggregator = WeightedMean()

    def problems(self) -> Iterator[str]:
        if self.architecture.epochs is not None or self.architecture.steps is not None:
            yield "architecture.epochs and architecture.steps: it takes one step for each of local; leave these two out"
        if self.update != "mixed" and self.lam != 1.0:
            yield f"lam = {self.lam}: the update {self.update} has none; leave it out, or choose mixed"

    @property
    def algorithm(self) -> FedAvg:
        search = Search(self.local, self.architecture, self.update, self.lam, self.validation, self.names)
        return FedAvg(search, self.server, self.aggregator)

    def unfit(self, setup: Setup) -> list[str]:
        model, found = ModelState.of(setup.module), []
        alphas = names_like(model, self.names) & model.params.keys()
        if len(alphas) in (0, len(model.params)):
            found.append(
                f"names = {list(self.names)}: {'all' if alphas else 'none'} of the model's parameters are like these; there must "
                "be an architecture beside weights: choose model=darts_search, or give the names of your own"
            )
        if self.temperature is not None and "tau" not in model.buffers:
            found.append("temperature: the network draws nothing; choose model.sampling=gumbel, or leave the temperature out")
        return found + super().unfit(setup)

    def round(self, state: Tree, cohort: Cohort) -> tuple[Tree, dict[str, Mean]]:
        if self.temperature is not None:
            tau = torch.full_like(state.model.buffers["tau"], rate(self.temperature, cohort.round))
            state = replace(state, model=replace(state.model, buffers=state.model.buffers | {"tau": tau}))
        return self.algorithm.round(state, cohort)
