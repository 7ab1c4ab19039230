import numpy as np
import pytest
import torch

from fedml_api.data import FederatedDataset
from fedml_core.trainer import Examples


@pytest.fixture(autouse=True)
def one_thread():
    """Thread counts change float sums; tests that compare numbers must not depend on the machine."""
    torch.set_num_threads(1)


def blobs(clients: int = 4, size: int = 12, seed: int = 0, uneven: bool = True) -> FederatedDataset:
    """Three Gaussian classes in 5 dimensions, spread over clients of different sizes."""
    draw = np.random.default_rng(seed)
    sizes = [size + (3 * k if uneven else 0) for k in range(clients)]
    y = draw.integers(0, 3, sum(sizes) + 60)
    x = draw.normal(size=(len(y), 5)) + 2 * np.eye(5)[y]
    columns = {"x": torch.tensor(x, dtype=torch.float32), "y": torch.tensor(y)}
    bounds = np.cumsum([0, *sizes])
    parts = {f"c{k}": np.arange(bounds[k], bounds[k + 1]) for k in range(clients)}
    rows = torch.arange(len(y))
    train, test = Examples(columns, rows[: bounds[-1]]), Examples(columns, rows[bounds[-1] :])
    return FederatedDataset(train, test, parts, {"c0": np.arange(5)}, classes=3, name="blobs")


@pytest.fixture
def dataset() -> FederatedDataset:
    return blobs()


@pytest.fixture
def network() -> torch.nn.Module:
    torch.manual_seed(7)
    return torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
