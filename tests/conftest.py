from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import nn

from fedml_api.data import FederatedDataset
from fedml_api.model import Edge, InParts
from fedml_core.trainer import Examples


@pytest.fixture(autouse=True)
def one_thread():
    """Thread counts change float sums; tests that compare numbers must not depend on the machine."""
    torch.set_num_threads(1)


def blobs(clients: int = 4, size: int = 12, seed: int = 0, uneven: bool = True, tested: int = 1) -> FederatedDataset:
    """Three Gaussian classes in 5 dimensions over clients of different sizes, of whom `tested` have 5 test examples each."""
    draw = np.random.default_rng(seed)
    sizes = [size + (3 * k if uneven else 0) for k in range(clients)]
    y = draw.integers(0, 3, sum(sizes) + 60)
    x = draw.normal(size=(len(y), 5)) + 2 * np.eye(5)[y]
    columns = {"x": torch.tensor(x, dtype=torch.float32), "y": torch.tensor(y)}
    bounds = np.cumsum([0, *sizes])
    parts = {f"c{k}": np.arange(bounds[k], bounds[k + 1]) for k in range(clients)}
    rows = torch.arange(len(y))
    train, test = Examples(columns, rows[: bounds[-1]]), Examples(columns, rows[bounds[-1] :])
    held = {f"c{k}": np.arange(5 * k, 5 * k + 5) for k in range(tested)}
    return FederatedDataset(train, test, parts, held, classes=3, name="blobs")


def in_parts(seed: int = 7, of_client: Mapping[str, str] | None = None) -> InParts:
    """A network in parts for the blobs, with batch normalisation and dropout on both sides, and two kinds of edges."""
    torch.manual_seed(seed)

    def edge(hidden: int) -> Edge:
        extractor = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Tanh())
        return Edge(extractor, nn.Sequential(nn.Linear(6, hidden), nn.ReLU(), nn.Dropout(0.2), nn.Linear(hidden, 3)))

    server = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3))
    return InParts({"narrow": edge(4), "wide": edge(12)}, server, of_client)


@pytest.fixture
def dataset() -> FederatedDataset:
    return blobs()


@pytest.fixture
def network() -> torch.nn.Module:
    torch.manual_seed(7)
    return torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
