"""The area under the curve: against every pair, and against scikit-learn."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedml_core.trainer.auc import auc


@given(st.lists(st.tuples(st.integers(-4, 4), st.booleans()), min_size=1, max_size=40))
def test_is_the_share_of_pairs_in_the_right_order(examples):
    scores, labels = torch.tensor([s for s, _ in examples]).float() / 3, torch.tensor([y for _, y in examples]).long()
    pairs = [(a, b) for a, y in examples if y for b, z in examples if not z]
    if not pairs:
        assert math.isnan(auc(scores, labels))
    else:
        wanted = sum(1.0 if a > b else 0.5 * (a == b) for a, b in pairs) / len(pairs)
        assert auc(scores, labels) == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize(
    ("scores", "labels", "wanted"), [([1, 2, 3, 4], [0, 0, 1, 1], 1.0), ([1, 2, 3, 4], [1, 1, 0, 0], 0.0), ([5, 5], [0, 1], 0.5)]
)
def test_closed_cases(scores, labels, wanted):
    assert auc(torch.tensor(scores), torch.tensor(labels)) == wanted


@pytest.mark.soak  # importing scikit-learn takes seconds
def test_is_that_of_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    torch.manual_seed(0)
    scores, labels = torch.randn(5000).mul(20).round(), torch.randint(0, 2, (5000,))
    assert auc(scores, labels) == pytest.approx(metrics.roc_auc_score(labels.numpy(), scores.numpy()), abs=1e-12)
