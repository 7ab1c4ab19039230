"""Regret of online learning: what clients lost on their streams, beyond what the best fixed model would have."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from fedml_api.run.experiment import Row
from fedml_core.trainer import Batch, Examples, ModelTrainer


def regret(history: Sequence[Row], best: Mapping[int, float]) -> dict[int, float]:
    """sum_{t <= T} sum_i f_it(z_it) - min_z sum_{t <= T} sum_i f_it(z), by T; every f_it is a sum over examples.

    Args:
        history: a run's rows, whose `train_loss` is the mean over `examples`, each judged before it was trained on.
        best: the second term, by T; see `best_fixed`.
    """
    suffered = {row["round"]: row["train_loss"] * row["examples"] for row in history if "train_loss" in row}
    return {last: sum(loss for round, loss in suffered.items() if round <= last) - least for last, least in best.items()}


def best_fixed(
    trainer: ModelTrainer, network: nn.Module, streams: Sequence[Examples], per_round: int, rounds: Sequence[int]
) -> dict[int, float]:
    """min_z sum_{t <= T} sum_i f_it(z) for every T of `rounds`, ascending.

    Args:
        network: where the search begins; it is not changed.
        streams: what comes to each client, `per_round` examples in every round.
    """
    network, found = copy.deepcopy(network), {}
    # The longest first: few examples can often be told apart perfectly, which drives parameters to where no search begins well.
    for last in sorted(rounds, reverse=True):
        come = [stream.take(torch.arange(min(last * per_round, len(stream)))) for stream in streams]
        found[last] = _descend(trainer, network, {name: torch.cat([one[name] for one in come]) for name in come[0]})
    return dict(sorted(found.items()))


def _descend(trainer: ModelTrainer, network: nn.Module, batch: Batch) -> float:
    """The least sum of losses over a batch, by L-BFGS from where `network` is, which moves there.

    It is the minimum if the loss is convex and has one; if not, what a hundred steps come to.
    """
    network.eval()
    optimizer = torch.optim.LBFGS(network.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def mean() -> torch.Tensor:
        optimizer.zero_grad()
        loss = trainer.loss(network, batch).mean()
        loss.backward()
        return loss

    optimizer.step(mean)
    with torch.no_grad():
        return float(trainer.loss(network, batch).sum(dtype=torch.float64))
