"""D-PSGD, decentralised federated averaging, and what all gossip has in common."""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal

import numpy as np
import torch

from fedml_core import tree
from fedml_core.errors import ConfigError
from fedml_core.federation import (
    Algorithm,
    Cohort,
    Composed,
    Evaluate,
    FromOwn,
    Gossip,
    GossipNode,
    LocalSGD,
    LocalUpdate,
    Mean,
    Setup,
    Task,
    algorithms,
    gossip_links,
    merge_metrics,
    shapes,
)
from fedml_core.settings import settings
from fedml_core.topology import Ring, Topology, check_stochastic, metropolis, uniform_in
from fedml_core.trainer import ModelState


@tree.node
class Observed:
    """What the server knows of those who gossip.

    Attributes:
        model: the mean of the models that were reported last, sum_i x_i / sum_i w_i; the initial one as long as none are.
        start: what every node begins with; `joined`: the nodes that have begun, and said so.
    """

    model: ModelState
    start: ModelState
    joined: list[str]


class Decentralized(Algorithm):
    """Clients train models of their own and mix them with their neighbours', to whom they write directly.

    The server says who is linked with whom, and with which weights; it sends the initial model to those who begin. If `report` is
    on, every client shows it its model, so that there is a mean model to look at, which nobody else gets; `consensus` is the mean
    squared distance of the clients' models from it. Otherwise it gets the metrics only.

    Neighbours see each other's models, of which each letter is a known share; nobody else sees them. Who is not sampled for a round
    keeps its model; the topology is that of the clients who are. Clients are judged with the models that they use.
    """

    local: LocalUpdate
    topology: Topology

    @abstractmethod
    def matrix(self, nodes: int, round: int, seed: int) -> np.ndarray:
        """The mixing matrix of a round.

        Raises:
            ConfigError: the topology has none that is allowed.
        """

    def unfit(self, setup: Setup) -> list[str]:
        nodes = setup.clients_per_round
        try:
            for round in range(self.topology.window(nodes) if nodes else 0):
                self.matrix(nodes, round, setup.seed)
        except ConfigError as error:
            return error.problems
        return []

    def init(self, model: ModelState) -> Observed:
        return Observed(model, model, [])

    def judge(self) -> Task:
        return Evaluate(of=FromOwn(self.local))

    def gossip(self, state: Observed, cohort: Cohort, task: Gossip) -> tuple[Observed, dict[str, Mean]]:
        """Have the cohort carry `task` out once with the round's mixing matrix, and look on."""
        matrix = self.matrix(len(cohort.clients), cohort.round, cohort.server.seed)
        start = dict.fromkeys((client for client in cohort.clients if client not in set(state.joined)), state.start)
        replies = cohort.map(task, shared={"shapes": shapes(state.start)}, own=gossip_links(matrix, cohort.clients, start)).gather()
        metrics: dict[str, Mean] = {}
        for reply in replies.values():
            metrics = merge_metrics(metrics, reply.metrics)
        model = state.model
        if task.report:
            model, distance = _look([reply.value for reply in replies.values()])
            metrics["consensus"] = Mean(distance, float(len(replies)))
        # Who was asked and lost has nothing yet, and is told again what to begin with.
        return Observed(model, state.start, [*state.joined, *(client for client in start if client in replies)]), metrics


def _look(nodes: list[GossipNode]) -> tuple[ModelState, float]:
    """The mean model, and the sum of the squared distances of all models in use from it."""
    weight = sum(1.0 if node.weight is None else float(node.weight) for node in nodes)
    together: GossipNode = tree.stack(nodes)
    mean: ModelState = tree.map_tensors(lambda part: part.sum(0) / weight, together.model)
    apart = tree.map_tensors(lambda part, middle: (part - middle).square().sum(dtype=torch.float64), together.used, mean)
    return mean, sum(float(part) for part in tree.tensors(apart.params))


@algorithms.register("dpsgd")
@settings
class DPSGD(Decentralized):
    """Decentralised parallel SGD. Lian et al., NeurIPS 2017, Algorithm 1.

        g_i  = gradient of F_i at x_i, on a batch of client i's                    for every client i, all at once
        x_i <- sum_j W_ij x_j - lr g_i                                             W_ij > 0 for neighbours j of i, and for i itself

    `local` may as well take many steps: d_i = local(x_i) - x_i stands for -lr g_i. `mixes: trained` is the other order,
    x_i <- sum_j W_ij (x_j + d_j), which with epochs of local work is decentralised FedAvg (see `DFedAvg`).

    W has to be doubly stochastic, so that the mean of all models moves along the mean of all gradients. With rows that sum to 1 and
    columns that do not, nodes still agree in the end, but follow those more who are heard by more; `unbiased: false` lets you see
    that. On directed topologies PushSum does without.

    Args:
        topology: who sends to whom, in every round.
        weights: `metropolis` (see `fedml_core/topology/mixing.py`), or `uniform`: the plain mean of what a node has and hears,
            which is doubly stochastic on regular topologies.
        unbiased: refuse matrices that are not doubly stochastic.
        report: let the server see the models.
    """

    local: LocalUpdate = LocalSGD(steps=1)
    topology: Topology = Ring()
    weights: Literal["metropolis", "uniform"] = "metropolis"
    mixes: Literal["start", "trained"] = "start"
    unbiased: bool = True
    report: bool = True

    def matrix(self, nodes: int, round: int, seed: int) -> np.ndarray:
        graph = self.topology.graph(nodes, round, seed)
        matrix = metropolis(graph) if self.weights == "metropolis" else uniform_in(graph)
        remedy = "choose weights=metropolis with an undirected topology, or the algorithm pushsum; unbiased=false lets it pass"
        check_stochastic(matrix, rows=True, columns=self.unbiased, remedy=remedy)
        return matrix

    def round(self, state: Observed, cohort: Cohort) -> tuple[Observed, dict[str, Mean]]:
        return self.gossip(state, cohort, Gossip(self.local, self.mixes, report=self.report))


@algorithms.register("dfedavg")
@settings
class DFedAvg(Composed):
    """Decentralised federated averaging. Sun, Li and Wang, IEEE TPAMI 45, 2023 (arXiv 2104.11375), Algorithm 1.

        z_i  = x_i after local training, by SGD with `local.momentum`
        x_i <- sum_j W_ij z_j

    FedAvg of clients that count the same, on a complete graph with a common start.
    """

    local: LocalUpdate = LocalSGD()
    topology: Topology = Ring()
    weights: Literal["metropolis", "uniform"] = "metropolis"
    unbiased: bool = True
    report: bool = True

    @property
    def algorithm(self) -> DPSGD:
        return DPSGD(self.local, self.topology, self.weights, "trained", self.unbiased, self.report)
