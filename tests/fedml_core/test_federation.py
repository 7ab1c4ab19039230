"""Aggregators, server optimizers and sampling against their definitions."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedml_core import tree
from fedml_core.federation import SGD, Adagrad, Adam, Mean, Reply, WeightedMean, Yogi, sample_clients
from fedml_core.federation.aggregator import aggregators
from fedml_core.trainer import Exponential, ModelState


def reply(values, weight):
    vector = torch.tensor(values, dtype=torch.float64)
    return Reply({"w": vector, "b": [vector * 2]}, float(weight), {"loss": Mean(weight * 0.5, float(weight))})


replies = st.lists(
    st.builds(reply, st.lists(st.floats(-10, 10), min_size=3, max_size=3), st.integers(0, 50)), min_size=1, max_size=8
)


def fold(aggregator, group):
    total = aggregator.zero()
    for one in group:
        total = aggregator.add(total, one)
    return total


@pytest.mark.parametrize("name", list(aggregators))
@settings(max_examples=60, deadline=None)
@given(replies, st.data())
def test_any_grouping_of_add_and_merge_gives_the_same(name, group, data):
    aggregator = aggregators[name]()
    together = aggregator.finish(fold(aggregator, group))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(group)), max_size=3)))
    total = aggregator.zero()
    for start, end in zip([0, *cuts], [*cuts, len(group)], strict=True):
        total = aggregator.merge(total, fold(aggregator, group[start:end]))
    apart = aggregator.finish(total)
    assert (apart.clients, apart.weight) == (together.clients, together.weight)
    assert apart.metrics["loss"].value == pytest.approx(together.metrics["loss"].value, nan_ok=True)
    for a, b in zip(tree.tensors(apart.value), tree.tensors(together.value), strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-12)


def test_weighted_mean_is_the_weighted_mean():
    group = [reply([1, 2, 3], 1), reply([4, 5, 6], 3), reply([9, 9, 9], 0)]
    mean = WeightedMean()
    assert mean.finish(fold(mean, group)).value["w"].tolist() == [3.25, 4.25, 5.25]
    plain = WeightedMean(by="clients")
    assert plain.finish(fold(plain, group)).value["w"].tolist() == [2.5, 3.5, 4.5]
    assert mean.finish(fold(mean, group[2:])).value["w"].tolist() == [0, 0, 0]
    assert group[0].value["w"].tolist() == [1, 2, 3]  # replies are not written into


def numpy_oracle(kind, x, changes, lr, beta1, beta2, tau):
    """Algorithm 2 of Reddi et al. (2021), line by line."""
    m, v = np.zeros_like(x), np.full_like(x, tau**2)
    for d in changes:
        m = beta1 * m + (1 - beta1) * d
        if kind == "adagrad":
            v = v + d**2
        elif kind == "yogi":
            v = v - (1 - beta2) * d**2 * np.sign(v - d**2)
        else:
            v = beta2 * v + (1 - beta2) * d**2
        x = x + lr * m / (np.sqrt(v) + tau)
    return x


@pytest.mark.parametrize(("kind", "cls"), [("adagrad", Adagrad), ("yogi", Yogi), ("adam", Adam)])
def test_adaptive_server_optimizers_follow_the_paper(kind, cls):
    draw = np.random.default_rng(1)
    x, changes = draw.normal(size=7), draw.normal(size=(6, 7)) * 0.1
    optimizer = cls(lr=0.03, beta1=0.8, tau=0.01)
    model = ModelState({"x": torch.tensor(x)}, {"mean": torch.zeros(2, dtype=torch.float64)})
    state = optimizer.init(model)
    for round, d in enumerate(changes):
        change = ModelState({"x": torch.tensor(d)}, {"mean": torch.ones(2, dtype=torch.float64)})
        model, state = optimizer.step(model, change, state, round)
    np.testing.assert_allclose(model.params["x"], numpy_oracle(kind, x, changes, 0.03, 0.8, 0.99, 0.01), atol=1e-12)
    assert model.buffers["mean"].tolist() == [6, 6]  # buffers move by their mean change, whatever the optimizer


def test_server_sgd_with_momentum_and_schedule():
    optimizer = SGD(lr=Exponential(1.0, 0.5), momentum=0.5)
    model = ModelState({"x": torch.zeros(1)}, {})
    state = optimizer.init(model)
    for round in range(3):
        model, state = optimizer.step(model, ModelState({"x": torch.ones(1)}, {}), state, round)
    # v = 1, 1.5, 1.75 and rates 1, 1/2, 1/4
    assert model.params["x"].item() == pytest.approx(1 + 0.75 + 0.4375)


def test_plain_server_sgd_adds_the_change_exactly():
    model = ModelState({"x": torch.tensor([0.1, 0.2])}, {})
    moved, state = SGD().step(model, ModelState({"x": torch.tensor([0.3, 0.7])}, {}), None, 0)
    assert state is None
    assert torch.equal(moved.params["x"], torch.tensor([0.1, 0.2]) + torch.tensor([0.3, 0.7]))
    assert model.params["x"].tolist() == pytest.approx([0.1, 0.2])


def test_sampling_is_uniform_without_replacement_and_keyed():
    ids = [f"c{k}" for k in range(10)]
    seen = dict.fromkeys(ids, 0)
    for round in range(3000):
        chosen = sample_clients(ids, 3, seed=4, round=round)
        assert len(set(chosen)) == 3
        assert chosen == sorted(chosen, key=ids.index)
        for id in chosen:
            seen[id] += 1
    # Each is expected 900 times with standard deviation sqrt(3000 * .3 * .7) = 25; five of them bound the largest of ten.
    assert all(abs(count - 900) < 125 for count in seen.values())
    assert sample_clients(ids, 3, 4, 8) == sample_clients(ids, 3, 4, 8)
    assert sample_clients(ids, 10, 4, 8) == ids
