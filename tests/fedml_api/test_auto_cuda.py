"""What `auto` chooses on a CUDA device, which here is only a name: the figure of its free memory is given."""

import numpy as np
import pytest
import torch
from torch import nn

from fedml_api.data import FederatedDataset
from fedml_api.model import LogisticRegression, ReddiCNN, TwoNN, WordLSTM
from fedml_api.standalone.auto import bytes_of_client, choose
from fedml_api.standalone.executor import Work
from fedml_core.federation import LocalSGD, Setup
from fedml_core.trainer import Classifier, Examples, ModelState, NextToken

GB = 1 << 30


def work_of(module, clients=100, size=60, batch=20, shape=(1, 28, 28), trainer=None, rounds=1000):
    rows = clients * size
    x = torch.zeros(rows, *shape, dtype=torch.int64 if trainer else torch.float32)
    columns = {"x": x, "y": torch.zeros((rows, *shape) if trainer else rows, dtype=torch.int64)}
    parts = {str(k): np.arange(k * size, (k + 1) * size) for k in range(clients)}
    data = FederatedDataset(Examples(columns), Examples(columns), parts)
    setup = Setup(trainer or Classifier(), module, data, 0, torch.device("cuda"), rounds=rounds)
    return setup, Work(0, LocalSGD(lr=0.1, batch_size=batch), ModelState.of(module), data.client_ids, {}, {})


def chosen(module, free, executor="auto", **more):
    return choose(*work_of(module, **more), executor, None, None, free=lambda device: free)


def test_convolutions_are_stacked_recurrent_networks_are_not_and_nothing_is_forked():
    dense, conv = (spec.build((1, 28, 28), 10) for spec in (TwoNN(), ReddiCNN()))
    for module in (dense, conv):
        assert chosen(module, 80 * GB).executor == "stacked"
        assert chosen(module, 80 * GB).processes == 1
        assert chosen(module, 80 * GB, rounds=1, clients=1).executor == "sequential"
    words = WordLSTM(4, 6).build((7,), 11)
    assert chosen(words, 80 * GB, shape=(7,), trainer=NextToken(), rounds=100_000).executor == "sequential"


def test_a_block_takes_half_of_the_free_memory_at_most():
    conv = ReddiCNN().build((1, 28, 28), 10)
    each = bytes_of_client(*work_of(conv), 20)
    for free in (2 * GB, 8 * GB, 9 * GB, 80 * GB):
        block = chosen(conv, free, clients=2000).block
        assert block * each <= free / 2 < 2 * block * each, "the largest power of two that fits"


def test_where_not_even_two_fit_clients_go_one_by_one():
    conv = ReddiCNN().build((1, 28, 28), 10)
    assert str(chosen(conv, 1 << 20)) == "traced"
    assert str(chosen(conv, 1 << 20, executor="stacked")) == "stacked, blocks of 1"


def test_no_block_is_larger_than_the_cohort():
    assert chosen(LogisticRegression().build((1, 28, 28), 10), 80 * GB, executor="stacked", clients=30).block == 30


@pytest.mark.parametrize("batch", [1, 10])
def test_memory_of_a_client_by_hand(batch):
    """Linear(3, 5), ReLU, Linear(5, 2): 32 parameters; a row keeps x, the hidden layer, log-probabilities, and a little more."""
    module = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    setup, work = work_of(module, clients=2, shape=(3,))
    row = (bytes_of_client(setup, work, batch) - 4 * 4 * 32) / (2 * batch)
    least = 4 * 3 + 4 * 5 + 4 * 2 + (4 * 3 + 8)  # saved for the backward pass, and the example itself
    assert least <= row <= 3 * least


def test_looking_at_memory_leaves_the_network_as_it_was():
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).train()
    before = {name: part.clone() for name, part in module.state_dict().items()}
    bytes_of_client(*work_of(module, clients=2, shape=(3,)), 5)
    assert module.training
    assert all(torch.equal(part, before[name]) for name, part in module.state_dict().items())
