"""How many rows are evaluated at a time, and that it makes no difference to what is found."""

import pytest
import torch
from torch import nn

from fedml_core.errors import TrainerError
from fedml_core.trainer import Classifier, Examples
from fedml_core.trainer.model_trainer import FIRST_ROWS, MOST_ROWS, ROOM


class Watched(Classifier):
    def __init__(self):
        self.rows = []

    def loss(self, model, batch):
        self.rows.append(len(batch["y"]))
        return super().loss(model, batch)


def rows_of(model, count, **given):
    trainer = Watched()
    examples = Examples({"x": torch.zeros(count, 4), "y": torch.zeros(count, dtype=torch.int64)})
    trainer.test(model, examples, **given)
    assert sum(trainer.rows) == count
    return trainer.rows


def test_narrow_networks_are_evaluated_in_large_batches():
    assert rows_of(nn.Linear(4, 3), 2000) == [FIRST_ROWS, *[MOST_ROWS] * 3, 2000 - FIRST_ROWS - 3 * MOST_ROWS]


@pytest.mark.parametrize("width", [10_000, 100_000])
def test_the_widest_layer_decides_wherever_it_is(width):
    """4 bytes a number: so many rows that the layer makes 8 MB, and 16 at least."""
    model = nn.Sequential(nn.Linear(4, 2), nn.Linear(2, width), nn.Linear(width, 3))
    fitting = max(FIRST_ROWS, ROOM // (4 * width))
    assert rows_of(model, FIRST_ROWS + 2 * fitting + 1) == [FIRST_ROWS, fitting, fitting, 1]


def test_a_batch_size_that_is_given_is_kept():
    assert rows_of(nn.Linear(4, 3), 50, batch_size=20) == [20, 20, 10]
    assert rows_of(nn.Linear(4, 3), 7, batch_size=20) == rows_of(nn.Linear(4, 3), 7) == [7]


@pytest.mark.parametrize("index", [None, torch.randperm(700)[:601]])
def test_the_same_is_found_whatever_the_batches_are(index):
    """Against the mean of everything at once, written by hand."""
    torch.manual_seed(0)
    model, columns = nn.Linear(4, 3).double(), {"x": torch.randn(700, 4, dtype=torch.float64), "y": torch.randint(0, 3, (700,))}
    examples = Examples(columns, index)
    x, y = (column if index is None else column[index] for column in columns.values())
    logits = model(x)
    wanted = {"loss": nn.functional.cross_entropy(logits, y).item(), "accuracy": (logits.argmax(1) == y).double().mean().item()}
    for size in (None, 1, 64, 5000):
        assert Classifier().test(model, examples, size) == pytest.approx(wanted, rel=1e-12)


def test_nothing_stays_behind():
    model = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5))
    rows_of(model, 40)
    assert model.training
    assert not any(part._forward_hooks for part in model.modules())
    assert not any(part.is_inference() for part in model.parameters())
    with pytest.raises(TrainerError, match="one value per example"):
        Mean().test(model, Examples({"x": torch.zeros(3, 4), "y": torch.zeros(3, dtype=torch.int64)}))
    assert model.training
    assert not any(part._forward_hooks for part in model.modules())


class Mean(Classifier):
    def loss(self, model, batch):
        return super().loss(model, batch).mean()
