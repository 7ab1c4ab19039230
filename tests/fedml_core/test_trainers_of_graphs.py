import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fedml_core.trainer import Examples, NodeClassifier, Regression


@pytest.mark.parametrize("shape", [(), (1,), (3,)])
def test_regression_has_the_errors_of_all_examples(shape):
    torch.manual_seed(0)
    x, y = torch.randn(30, 4), torch.randn(30, *shape) + 2
    network = nn.Linear(4, max(1, y[0].numel()))
    with torch.no_grad():
        errors = (network(x).view_as(y) - y).double().view(30, -1)
    found = Regression().test(network, Examples({"x": x, "y": y}), batch_size=7)
    total = (y.double() - y.double().mean()).square().sum()
    expected = {
        "loss": errors.square().mean(),
        "mae": errors.abs().mean(),
        "rmse": errors.square().mean().sqrt(),
        "r2": 1 - errors.square().sum() / total,
    }
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert math.isclose(found[name], float(value), rel_tol=1e-5)
    batch = {"x": x[:5], "y": y[:5]}
    torch.testing.assert_close(Regression().loss(network, batch).double(), errors[:5].square().mean(dim=1), rtol=1e-4, atol=1e-5)


class Given(nn.Module):
    def forward(self, x):
        return x


def test_nodes_without_a_class_do_not_count_and_others_all_alike():
    logits = torch.tensor([[[2.0, 0, 0, 1], [0, 1, 3, 0]], [[0.0, 0, 5, 0], [1, 1, 0, 2]]])
    y = torch.tensor([[0, 0, 1, 255], [1, 255, 255, 255]])
    trainer, batch = NodeClassifier(), {"x": logits, "y": y}
    losses = trainer.loss(Given(), batch)
    first = F.cross_entropy(logits[0].T[:3], y[0, :3])
    torch.testing.assert_close(losses, torch.stack([first, F.cross_entropy(logits[1].T[:1], y[1, :1])]))
    found = trainer.test(Given(), Examples(batch))
    # Three of four nodes are right: of class 0 one of two, of class 1 both, and one more is taken for it.
    assert (found["node_accuracy"], found["macro_recall"]) == (0.75, 0.75)
    assert math.isclose(found["macro_precision"], (1 + 2 / 3) / 2)
    unknown = {"x": logits, "y": torch.full((2, 4), 255)}
    assert trainer.loss(Given(), unknown).tolist() == [0, 0]
