"""HypCluster."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

import torch
from msgspec import Meta

from fedml_api.algorithms.fedavg import FedAvg
from fedml_core import tree
from fedml_core.federation import Algorithm, Client, Cohort, Mean, Reply, Setup, Task, algorithms, merge_metrics, tasks, verdict
from fedml_core.settings import settings
from fedml_core.trainer import ModelState
from fedml_core.tree import Tree


@tree.node
class Clusters:
    """The state of the inner algorithm for each cluster, and how many examples the clients that chose it last had."""

    states: list[Tree]
    sizes: list[float]


@tasks.register("choose")
@settings
class Choose(Task):
    """Which of several models has the least loss on the client's training examples: the reply's `cluster`, the first of equals.

    Its metrics are those of that model, on the client's examples of `on`. `shared` holds the first `model` and the `others`.
    """

    on: Literal["train", "test"] = "train"

    def __call__(self, client: Client, shared: Tree, own: Tree = None) -> Reply:
        def found(number: int, on: str) -> Reply:
            client.seed_torch("evaluate")
            examples = client.train if on == "train" else client.test
            return verdict(client.trainer, client.workspace.load(models[number]), examples) if len(examples) else Reply({}, 0.0, {})

        models = [shared["model"], *shared["others"]]
        losses = [found(number, "train").metrics.get("loss", Mean(0.0, 1.0)).value for number in range(len(models))]
        best = losses.index(min(losses))
        reply = found(best, self.on)
        return replace(reply, value={"cluster": torch.tensor(best), **reply.value})


@algorithms.register("hypcluster")
@settings
class HypCluster(Algorithm):
    """Several models, of which each client takes the one that suits it. Mansour et al., 2020, Algorithm HypCluster.

        c(k) = argmin_c F_k(w_c)                                   for every client k of the cohort
        w_c <- inner round of w_c over the clients with c(k) = c   for every cluster c

    The inner algorithm itself with one cluster. Clients are judged with the model that suits their training examples; the one model
    that the state stands for is that of the largest cluster.

    All models begin as one. What tells them apart is ours, where the paper leaves it open: a cluster that nobody has taken so far
    is given to the client that is worst off, and goes on from the model which that client had. (Random beginnings mostly end with
    one model that is best for everybody.)

    Args:
        clusters: how many; `inner`: what trains each.
    """

    clusters: Annotated[int, Meta(ge=1)] = 2
    inner: Algorithm = FedAvg()

    def unfit(self, setup: Setup) -> list[str]:
        return self.inner.unfit(setup)

    def init(self, model: ModelState) -> Clusters:
        return Clusters([self.inner.init(model) for _ in range(self.clusters)], [0.0] * self.clusters)

    def round(self, state: Clusters, cohort: Cohort) -> tuple[Clusters, dict[str, Mean]]:
        replies = cohort.map(Choose(), shared=self.shown(state)).gather()
        taken = {id: int(reply.value["cluster"]) for id, reply in replies.items()}
        states, sizes, metrics = list(state.states), list(state.sizes), dict[str, Mean]()
        for number in range(self.clusters):
            shared = [id for id in taken if replies[id].weight and list(taken.values()).count(taken[id]) > 1]
            if shared and not sizes[number] and number not in taken.values():
                worst = max(shared, key=lambda id: replies[id].metrics["loss"].value)
                states[number], taken[worst] = states[taken[worst]], number
        for number in sorted(set(taken.values())):
            members = [id for id in taken if taken[id] == number]
            sizes[number] = sum(replies[id].weight for id in members)
            states[number], found = self.inner.round(states[number], cohort.only(members))
            metrics = merge_metrics(metrics, found)
        return Clusters(states, sizes), metrics

    def model(self, state: Clusters) -> ModelState:
        return self.inner.model(state.states[state.sizes.index(max(state.sizes))])

    def shown(self, state: Clusters) -> Tree:
        model, *others = (self.inner.model(one) for one in state.states)
        return {"model": model, "others": others}

    def judge(self) -> Task:
        return Choose(on="test")
