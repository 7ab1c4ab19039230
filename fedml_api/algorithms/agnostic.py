"""Agnostic federated learning."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from msgspec import Meta

from fedml_api.algorithms.qfedavg import ratio
from fedml_core import tree
from fedml_core.federation import (
    SGD,
    Algorithm,
    Around,
    Client,
    Cohort,
    LocalSGD,
    LocalUpdate,
    Mean,
    Reply,
    ServerOptimizer,
    Task,
    WeightedMean,
    algorithms,
    local_updates,
    merge_metrics,
    model_of,
    tasks,
)
from fedml_core.settings import settings
from fedml_core.trainer import LocalContext, ModelState
from fedml_core.tree import Tree

# No domain is given up for good: it may come to be the worst.
LEAST_WEIGHT = 1e-6


@tree.node
class AgnosticState:
    """The model, the state of the server optimizer, and the weights of the domains that were seen, whose mean is 1."""

    model: ModelState
    optimizer: Tree
    weights: dict[str, float]


@tasks.register("domain_losses")
@settings
class DomainLosses(Task):
    """The model's loss on the client's training examples of each domain, as the metric of that name.

    An example's domain is what its column `domain` says, or, without such a column, its client.
    """

    def __call__(self, client: Client, shared: Tree, own: Tree = None) -> Reply:
        examples = client.train
        if not len(examples):
            return Reply({}, 0.0, {})
        parts = {client.id: examples}
        if "domain" in examples.columns:
            domain = examples.all()["domain"]
            parts = {str(one): examples.subset((domain == one).nonzero().flatten()) for one in torch.unique(domain).tolist()}
        client.seed_torch("evaluate")
        module = client.workspace.load(model_of(shared))
        losses = {one: client.trainer.test(module, part)["loss"] for one, part in parts.items()}
        metrics = {one: Mean(loss * len(parts[one]), len(parts[one])) for one, loss in losses.items()}
        return Reply({}, float(len(examples)), metrics)


@local_updates.register("weighted")
@settings
class Weighted(Around):
    """Train as `local` does, and reply with the change times the client's `weight` in `own`, and that weight."""

    local: LocalUpdate

    def end(self, trained: ModelState, start: ModelState, carry: Tree, context: LocalContext) -> Tree:
        change, weight = tree.sub(trained, start), context.own["weight"]
        context.scale_(tree.tensors(change), weight)
        return {"change": change, "weight": weight}


@algorithms.register("agnostic")
@settings
class Agnostic(Algorithm):
    """A model that is good for the worst mixture of domains: min over w, max over p, of sum_d p_d L_d(w).

    Mohri et al., ICML 2019 (Stochastic-AFL), with local steps and exponentiated ascent as in Ro et al., 2021:

        L_d = loss of w on domain d           asked of all clients of the cohort
        w  <- w + sum_d p_d sum_k (n_kd / n_d) (w_k - w)
        p_d <- p_d exp(ascent L_d) / Z

    Domains are the clients, or what a column `domain` of the data says. A client's examples may be of several; its steps take them
    as they come, and its change counts by all of them. Domains that are not in a round's cohort keep their weights, so that
    p is shared out anew among those that are. FedAvg with one domain, and with `ascent` 0 FedAvg of equal domains.

    Args:
        ascent: rate at which weight moves to the domains with high losses.
    """

    ascent: Annotated[float, Meta(ge=0)] = 0.1
    local: LocalUpdate = LocalSGD()
    server: ServerOptimizer = SGD()

    def init(self, model: ModelState) -> AgnosticState:
        return AgnosticState(model, self.server.init(model), {})

    def round(self, state: AgnosticState, cohort: Cohort) -> tuple[AgnosticState, dict[str, Mean]]:
        asked = cohort.map(DomainLosses(), shared=state.model).gather()
        domains: dict[str, Mean] = {}
        for reply in asked.values():
            domains = merge_metrics(domains, reply.metrics)
        weights = {domain: state.weights.get(domain, 1.0) for domain in domains}
        number = tree.tensors(state.model)[0].new_tensor
        own = {
            id: {"weight": number(sum(weights[d] * part.count / domains[d].count for d, part in reply.metrics.items()))}
            for id, reply in asked.items()
        }
        folded = cohort.only(list(own)).map(Weighted(self.local), shared=state.model, own=own).fold(WeightedMean(by="clients"))
        model, optimizer = self.server.step(state.model, ratio(folded), state.optimizer, cohort.round)
        worst = max((loss.value for loss in domains.values()), default=0.0)
        raised = {d: weights[d] * math.exp(self.ascent * (loss.value - worst)) for d, loss in domains.items()}
        share = sum(weights.values()) / sum(raised.values()) if raised else 1.0
        new = state.weights | {domain: max(weight * share, LEAST_WEIGHT) for domain, weight in raised.items()}
        return AgnosticState(model, optimizer, new), folded.metrics | {"worst_loss": Mean(worst, 1)}
