"""Clients whose losses are quadratics, so that what an algorithm must come to can be written down.

Client k has f_k(w) = 1/2 sum_d a_kd (w_d - b_kd)^2 with gradient a_k (w - b_k); a full-batch step is w <- w - r a_k (w - b_k).
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from fedml_api import Examples, Experiment, FederatedDataset, ModelTrainer, simulate
from fedml_core.federation import Algorithm


class Vector(nn.Module):
    """A parameter `w` `[d]`, which is all the model there is."""

    def __init__(self, start: Sequence[float]) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(start, dtype=torch.float32))

    def forward(self, like: torch.Tensor) -> torch.Tensor:
        return self.w.expand_as(like)


class Quadratic(ModelTrainer):
    def loss(self, model, batch):
        return 0.5 * (batch["a"] * (model(batch["b"]) - batch["b"]) ** 2).sum(dim=1)


def quadratics(a: Sequence[Sequence[float]], b: Sequence[Sequence[float]], examples: Sequence[int]) -> FederatedDataset:
    """A client for each row of the curvatures `a` and the minima `b`, with so many equal examples; also the test set."""
    columns = {
        name: torch.tensor(rows).float().repeat_interleave(torch.tensor(examples), 0) for name, rows in {"a": a, "b": b}.items()
    }
    ends = np.cumsum([0, *examples])
    parts = {f"q{k}": np.arange(ends[k], ends[k + 1]) for k in range(len(examples))}
    return FederatedDataset(Examples(columns), Examples(columns), parts, name="quadratics")


def optimum(a: Sequence[Sequence[float]], b: Sequence[Sequence[float]], examples: Sequence[float]) -> torch.Tensor:
    """The minimum of sum_k n_k f_k: sum n a b / sum n a, per dimension."""
    curvature, minima, n = torch.tensor(a).double(), torch.tensor(b).double(), torch.tensor(examples).double()[:, None]
    return (n * curvature * minima).sum(0) / (n * curvature).sum(0)


def minimise(
    algorithm: Algorithm,
    data: FederatedDataset,
    start: Sequence[float],
    rounds: int,
    per_round: int | None = None,
    seed: int = 0,
    **settings: object,
) -> np.ndarray:
    """Where the algorithm comes to from `start`: float32 `[d]`."""
    every = per_round or len(data.client_ids)
    experiment = Experiment(
        Vector(start),
        data,
        Quadratic(),
        algorithm,
        rounds=rounds,
        clients_per_round=every,
        seed=seed,
        evaluate_every=rounds,
        **settings,
    )
    return simulate(experiment).model.params["w"].numpy()
