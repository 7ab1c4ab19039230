"""FedProx's synthetic data: every client has its own linear model and its own inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from msgspec import Meta

from fedml_api.data.dataset import DataSource, FederatedDataset, data_sources
from fedml_api.data.mapped import mapped
from fedml_core.partition import natural
from fedml_core.rng import rng
from fedml_core.settings import settings, to_plain
from fedml_core.trainer import Examples

FEATURES, CLASSES = 60, 10


@data_sources.register("synthetic")
@settings
class Synthetic(DataSource):
    """Synthetic(alpha, beta) of FedProx: 60 features, 10 classes, 30 clients of very unequal size; drawn, no files needed.

    For client k, with j = 1 .. 60:

        u_k ~ N(0, alpha^2)         W_k [60, 10], b_k [10] ~ N(u_k, 1)      the client's model
        B_k ~ N(0, beta^2)          v_k [60] ~ N(B_k, 1)                    the mean of its inputs
        x ~ N(v_k, diag(j^-1.2))    y = argmax softmax(W_k x + b_k)         n_k = 50 + floor(lognormal(4, 2)) examples

    90 % of each client's examples are for training, 10 % are its local test set; the global test set is their union. A client's
    data depends on the seed, beta and its own number, not on how many clients there are.

    Li et al., Federated Optimization in Heterogeneous Networks, MLSys 2020, app. C.1. The paper writes N(0, alpha); its code, which
    we follow, takes alpha and beta as standard deviations. The two agree at the published (0, 0) and (1, 1), not at (0.5, 0.5).
    As there, u_k is one number per client. It adds u_k (1 + sum_j x_j) to every logit alike, so that alpha changes no label: local
    models differ by their N(., 1) alone.

    Args:
        largest: bound on n_k, which the lognormal does not have; the paper's code sets none.
    """

    alpha: Annotated[float, Meta(ge=0, le=1e3)] = 1.0
    beta: Annotated[float, Meta(ge=0, le=1e3)] = 1.0
    clients: Annotated[int, Meta(ge=1)] = 30
    largest: Annotated[int, Meta(ge=50)] = 100_000

    def load(self, seed: int, root: Path) -> FederatedDataset:
        sizes = np.array([self._size(_stream(seed, client)) for client in range(self.clients)])
        train, test = mapped(lambda: self._draw(seed), self, [to_plain(self), seed], root)
        name = f"synthetic({self.alpha:g}, {self.beta:g})"
        cuts = sizes * 9 // 10
        return FederatedDataset(train, test, _rows(cuts), _rows(sizes - cuts), CLASSES, name)

    def _draw(self, seed: int) -> tuple[Examples, Examples]:
        drawn = [self._client(_stream(seed, client)) for client in range(self.clients)]
        train = [(x[: len(y) * 9 // 10], y[: len(y) * 9 // 10]) for x, y in drawn]
        test = [(x[len(y) * 9 // 10 :], y[len(y) * 9 // 10 :]) for x, y in drawn]
        return _pool(train), _pool(test)

    def _size(self, random: np.random.Generator) -> int:
        return min(50 + int(random.lognormal(4, 2)), self.largest)

    def _client(self, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Inputs `[n, 60]` and labels `[n]`; examples are independent, so their order means nothing."""
        n = self._size(random)
        u, B = random.normal(0, self.alpha), random.normal(0, self.beta)
        v = random.normal(B, 1, FEATURES)
        W, b = random.normal(u, 1, (FEATURES, CLASSES)), random.normal(u, 1, CLASSES)
        x = random.normal(v, np.arange(1, FEATURES + 1) ** -0.6, (n, FEATURES))
        return x, (x @ W + b).argmax(axis=1)


def _stream(seed: int, client: int) -> np.random.Generator:
    return rng(seed, "synthetic", client)


def _rows(sizes: np.ndarray) -> dict[str, np.ndarray]:
    """Each client's rows, where so many of each lie one after the other."""
    return natural(np.arange(len(sizes)).repeat(sizes))


def _pool(clients: list[tuple[np.ndarray, np.ndarray]]) -> Examples:
    """All clients' examples as shared columns."""
    x = torch.from_numpy(np.concatenate([x for x, _ in clients]).astype(np.float32))
    y = torch.from_numpy(np.concatenate([y for _, y in clients]))
    return Examples({"x": x, "y": y})
