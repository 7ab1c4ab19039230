"""Stochastic gradient push, and online push-sum."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from fedml_api.algorithms.dpsgd import Decentralized, Observed
from fedml_core.federation import (
    Around,
    Client,
    Cohort,
    Composed,
    Gossip,
    LocalSGD,
    LocalUpdate,
    Mean,
    Visits,
    algorithms,
    local_updates,
)
from fedml_core.settings import settings
from fedml_core.topology import Directed, Topology, uniform_out


@algorithms.register("pushsum")
@settings
class PushSum(Decentralized):
    """Stochastic gradient push, on directed graphs. Assran et al., ICML 2019, Algorithm 1; Nedic and Olshevsky, IEEE TAC 61, 2016.

        x_i <- x_i - lr g_i,   g_i = gradient of F_i at z_i, on a batch of client i's
        x_i <- sum_j P_ij x_j,   w_i <- sum_j P_ij w_j,   z_i = x_i / w_i             w_i = 1 in the beginning

    Whoever sends to d others gives itself and each of them the share P_ji = 1 / (d + 1) of what it has, and needs to know nothing
    else: columns of P sum to 1, so that the sum of all x stays what it is, however unevenly it is spread; w is spread in the same
    way, and z corrects for it. The model in use is z. `local` may take many steps: d_i = local(z_i) - z_i stands for -lr g_i.

    Where P is doubly stochastic, w stays 1, and this is D-PSGD that mixes what is `trained`.

    Args:
        topology: who sends to whom; `report`: let the server see the models.
    """

    local: LocalUpdate = LocalSGD(steps=1)
    topology: Topology = Directed()
    report: bool = True

    def matrix(self, nodes: int, round: int, seed: int) -> np.ndarray:
        return uniform_out(self.topology.graph(nodes, round, seed))

    def round(self, state: Observed, cohort: Cohort) -> tuple[Observed, dict[str, Mean]]:
        return self.gossip(state, cohort, Gossip(self.local, "trained", weighted=True, report=self.report))


@local_updates.register("stream")
@settings
class Stream(Around):
    """Examples come one after the other, `local.batch_size` of them in every round, in the client's order; then there are no more.

    What comes while a client is not asked, it misses. The loss of the reply is that of the model before the step, which is what
    online learning counts.
    """

    local: LocalSGD

    def problems(self) -> Iterator[str]:
        return _no_stream(self.local)

    def visits(self, client: Client) -> Visits:
        first = min(client.round * self.local.batch_size, len(client.train))
        last = min(first + self.local.batch_size, len(client.train))
        return Visits(torch.arange(first, last), [last - first] if last > first else [])


def _no_stream(local: LocalSGD) -> Iterator[str]:
    """Why this is no update on a stream."""
    if local.epochs is not None or local.steps is not None:
        yield "local.epochs and local.steps: a stream has one step per round, on what has come; leave them out"
    if not local.batch_size:
        yield "local.batch_size = 0: say how many examples come in a round, at least 1"


@algorithms.register("online_pushsum")
@settings
class OnlinePushSum(Composed):
    """Online learning in a network of one-sided trust. He et al., arXiv 1910.04956, 2019, Algorithm 1 (OPS).

        suffer f_it(z_i), the loss on what has come to client i in round t
        x_i <- x_i - lr grad f_it(z_i), and on as in PushSum

    Its regret, sum_t sum_i f_it(z_i) - min_z sum_t sum_i f_it(z), grows slower than the time; `fedml_api/run/regret.py` works it
    out from a run's history. Clients send to those they trust and need not know who trusts them, but for one thing: rounds keep
    step here, so each is told for whose letters to wait.

    Args:
        local: its `batch_size` is the number of examples that come to a client in a round.
    """

    local: LocalSGD = LocalSGD(batch_size=1)
    topology: Topology = Directed()
    report: bool = True

    def problems(self) -> Iterator[str]:
        return _no_stream(self.local)

    @property
    def algorithm(self) -> PushSum:
        return PushSum(Stream(self.local), self.topology, self.report)
