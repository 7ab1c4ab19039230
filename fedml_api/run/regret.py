"""Regret of online learning: what the clients lost on their streams, beyond what the best fixed model would have."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn

from fedml_api.run.experiment import Row
from fedml_core.trainer import Batch, Examples, ModelTrainer


def regret(
    history: Sequence[Row],
    trainer: ModelTrainer,
    network: nn.Module,
    streams: Sequence[Examples],
    per_round: int,
    rounds: Sequence[int],
) -> list[float]:
    """sum_{t <= T} sum_i f_it(z_it) - min_z sum_{t <= T} sum_i f_it(z) for every T of `rounds`, f_it being a sum over examples.

    Args:
        history: a run's rows, whose `train_loss` is the mean over `examples`, each judged before it was trained on.
        network: where the search for the best fixed model begins; it is not changed.
        streams: what comes to each client, `per_round` examples in every round.
        rounds: ascending.
    """
    suffered = {row["round"]: row["train_loss"] * row["examples"] for row in history if "train_loss" in row}
    network, found = copy.deepcopy(network), []
    for last in rounds:
        come = [stream.take(torch.arange(min(last * per_round, len(stream)))) for stream in streams]
        batch = {name: torch.cat([one[name] for one in come]) for name in come[0]}
        found.append(sum(loss for round, loss in suffered.items() if round <= last) - least_loss(trainer, network, batch))
    return found


def least_loss(trainer: ModelTrainer, network: nn.Module, batch: Batch) -> float:
    """The least sum of losses over a batch, by L-BFGS from where `network` is, which moves there; a minimum if it is convex.

    Where examples can be told apart perfectly there is none: then what a hundred steps come to.
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
