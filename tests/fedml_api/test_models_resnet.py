"""Residual networks: parameter counts, what each layer computes, and normalisation as a choice."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fedml_api.model import BatchNorm, GroupNorm, ResNetCIFAR
from fedml_core.errors import ConfigError

CIFAR = (3, 32, 32)


def count(network):
    return sum(p.numel() for p in network.parameters())


def on_meta(spec, shape, classes):
    """The network without numbers: to count its parameters and follow the shapes."""
    with torch.device("meta"):
        return spec.build(shape, classes)


def by_hand(depth):
    """Convolutions, and two parameters a channel for each normalisation, of the table in He et al., 2016, sec. 4.2."""
    n = (depth - 2) // 6
    total = 27 * 16 + 2 * 16 + 64 * 10 + 10
    for channels, planes in ((16, 16), (16, 32), (32, 64)):
        total += 9 * (channels + (2 * n - 1) * planes) * planes + 2 * n * 2 * planes
    return total


@pytest.mark.parametrize("norm", [BatchNorm(), GroupNorm(4)], ids=str)
@pytest.mark.parametrize(
    ("depth", "millions", "exactly"),
    # He et al., CVPR 2016, table 6.
    [(20, 0.27, 269_722), (32, 0.46, 464_154), (44, 0.66, 658_586), (56, 0.85, 853_018), (110, 1.7, 1_727_962)],
)
def test_cifar_resnets_have_the_papers_parameters(depth, millions, exactly, norm):
    network = on_meta(ResNetCIFAR(depth, norm), CIFAR, 10)
    assert count(network) == exactly == by_hand(depth)
    assert round(exactly / 1e6, 2 if millions < 1 else 1) == millions
    assert sum(isinstance(layer, (nn.Conv2d, nn.Linear)) for layer in network.modules()) == depth
    assert count(on_meta(ResNetCIFAR(depth, norm, shortcut="B"), CIFAR, 10)) == exactly + (16 * 32 + 2 * 32) + (32 * 64 + 2 * 64)


def naive(p, x, n, norm, shortcut):
    """He et al., sec. 4.2, as a function of the parameters in order."""
    p = iter(p)

    def step(x, stride, size=3):
        return norm(F.conv2d(x, next(p), stride=stride, padding=size // 2), next(p), next(p))

    x = step(x, 1).relu()
    for stage in range(3):
        for block in range(n):
            stride = 2 if stage and not block else 1
            change = step(step(x, stride).relu(), 1)
            if stride == 2 and shortcut == "A":
                x = x[:, :, ::2, ::2]
                x = torch.cat([x, torch.zeros_like(x)], dim=1)
            elif stride == 2:
                x = step(x, 2, size=1)
            x = (x + change).relu()
    return F.linear(x.mean(dim=(2, 3)), next(p), next(p))


@pytest.mark.parametrize("shape", [CIFAR, (1, 9, 12)], ids=str)
@pytest.mark.parametrize("shortcut", ["A", "B"])
@pytest.mark.parametrize("norm", [BatchNorm(), GroupNorm(4)], ids=str)
def test_cifar_resnets_compute_what_the_paper_describes(norm, shortcut, shape):
    torch.manual_seed(0)
    network = ResNetCIFAR(14, norm, shortcut).build(shape, 7)
    for layer in network.modules():  # normalisations begin as the identity up to scale, which would hide their order
        if isinstance(layer, (nn.BatchNorm2d, nn.GroupNorm)):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias)
    x = torch.randn(3, *shape)

    def batch(x, scale, shift):
        return F.batch_norm(x, None, None, scale, shift, training=True)

    def group(x, scale, shift):
        return F.group_norm(x, 4, scale, shift)

    found = network(x)
    assert found.shape == (3, 7)
    torch.testing.assert_close(found, naive(network.parameters(), x, 2, batch if norm == BatchNorm() else group, shortcut))


def kinds(network):
    return {type(layer) for layer in network.modules()} & {nn.BatchNorm2d, nn.GroupNorm}


def test_normalisation_by_groups_leaves_none_by_batches():
    """So each example is judged alone: the others of its batch change nothing."""
    network = ResNetCIFAR(8, GroupNorm()).build(CIFAR, 10)
    assert kinds(network) == {nn.GroupNorm}
    assert not list(network.buffers())
    x = torch.randn(4, *CIFAR)
    torch.testing.assert_close(network(x)[:1], network(x[:1]))
    batch = ResNetCIFAR(8).build(CIFAR, 10)
    assert kinds(batch) == {nn.BatchNorm2d}
    assert (batch(x)[:1] - batch(x[:1])).abs().max() > 1e-2


def test_convolutions_are_drawn_as_he_et_al_do():
    torch.manual_seed(0)
    weight = ResNetCIFAR(20).build(CIFAR, 10)[3][2].change[3].weight
    assert weight.shape == (64, 64, 3, 3)
    assert weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.02)


def test_settings_that_make_no_network_are_refused():
    with pytest.raises(ConfigError, match="depth = 21: three stages of blocks of two layers make 6n"):
        ResNetCIFAR(21)
    with pytest.raises(ConfigError, match=r"norm.groups = 3: must divide 16 channels\. Allowed: 1, 2, 4, 8, 16"):
        ResNetCIFAR(norm=GroupNorm(3))
