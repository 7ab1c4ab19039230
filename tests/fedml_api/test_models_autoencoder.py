"""The autoencoder, and that it learns to tell what is out of the ordinary; tags."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fedml_api import Experiment, FedAvg, FederatedDataset, LocalSGD, simulate
from fedml_api.model import Autoencoder, TagRegression
from fedml_core.errors import ConfigError
from fedml_core.trainer import Reconstruction, Tagger


def count(network):
    return sum(p.numel() for p in network.parameters())


def test_parameter_counts():
    """Of the widths 115, 86, 57, 37, 28 and back; and of Reddi et al., ICLR 2021, app. C: 784, 1000, 500, 250, 30 and back."""
    for spec, shape, widths, exactly in [
        (Autoencoder(), (115,), (115, 86, 57, 37, 28), 36_377),
        (Autoencoder((1000, 500, 250, 30), "sigmoid", "sigmoid"), (1, 28, 28), (784, 1000, 500, 250, 30), 2_837_314),
    ]:
        path = [*widths, *widths[-2::-1]]
        by_hand = sum(a * b + b for a, b in pairwise(path))
        with torch.device("meta"):
            assert count(spec.build(shape, None)) == by_hand == exactly
    assert count(TagRegression().build((10_000,), 500)) == 10_000 * 500 + 500 == 5_000_500


@pytest.mark.parametrize("output", ["linear", "sigmoid"])
@pytest.mark.parametrize(("activation", "function"), [("tanh", torch.tanh), ("sigmoid", torch.sigmoid), ("relu", torch.relu)])
def test_what_it_computes(activation, function, output):
    torch.manual_seed(0)
    network = Autoencoder((5, 3), activation, output).build((2, 4), None)
    x, p = torch.randn(6, 2, 4), list(network.parameters())
    code = F.linear(function(F.linear(x.flatten(1), *p[0:2])), *p[2:4])
    assert code.shape == (6, 3)
    wanted = F.linear(function(F.linear(code, *p[4:6])), *p[6:8])
    torch.testing.assert_close(network(x), wanted if output == "linear" else wanted.sigmoid())
    assert type(Autoencoder().trainer()) is Reconstruction
    assert type(TagRegression().trainer()) is Tagger


def test_narrow_inputs_have_a_code_too():
    assert [layer.out_features for layer in Autoencoder().build((2,), None) if isinstance(layer, nn.Linear)] == [
        1,
        1,
        1,
        1,
        1,
        1,
        1,
        2,
    ]
    with pytest.raises(ConfigError, match="hidden"):
        Autoencoder((3, 0))


def test_trained_on_ordinary_traffic_it_finds_attacks():
    """Ordinary examples lie on a plane in ten dimensions, attacks do not, and are as long: only the plane tells them apart."""
    torch.manual_seed(0)
    plane = torch.linalg.qr(torch.randn(10, 2)).Q.T
    ordinary, attacks = torch.randn(240, 2) @ plane, torch.randn(80, 10) * 0.2**0.5
    train = {f"device{k}": {"x": ordinary[40 * k : 40 * k + 40], "y": torch.zeros(40, dtype=torch.int64)} for k in range(4)}
    y = torch.tensor([0, 1]).repeat_interleave(80)
    data = FederatedDataset.from_clients(train, {"x": torch.cat([ordinary[160:], attacks]), "y": y})
    network = Autoencoder((6, 2)).build((10,), None)
    local = LocalSGD(lr=0.5, epochs=5, batch_size=10, momentum=0.9)
    result = simulate(Experiment(network, data, Reconstruction(), FedAvg(local), rounds=15, clients_per_round=4, evaluate_every=15))
    first, last = result.history[0], result.last
    assert first["test_auc"] < 0.75
    assert last["test_auc"] > 0.9
    assert last["test_recall_at_5_percent"] > 0.5 > first["test_recall_at_5_percent"]
