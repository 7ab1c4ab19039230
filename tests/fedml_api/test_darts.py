"""The DARTS networks: published sizes, the mixture, the rule of the genotype, and settings that are refused."""

import numpy as np
import pytest
import torch
from torch import nn

from fedml_api import Examples, Experiment, FederatedDataset, LocalSGD, Standalone, simulate
from fedml_api.algorithms import FedNAS
from fedml_api.model import BatchNorm, Darts, DartsSearch, Genotype, GroupNorm
from fedml_api.model.darts import GENOTYPES, OPERATIONS, Mixture, genotype_of, operation_of
from fedml_api.model.picture import draw_genotype
from fedml_core.errors import ConfigError
from fedml_core.settings import build, to_plain
from fedml_core.trainer import Cosine

GROUPS = GroupNorm(each=4)
SMALL = {"channels": 4, "layers": 3, "steps": 2, "multiplier": 2}


def size(module):
    return sum(param.numel() for param in module.parameters())


@pytest.mark.parametrize("norm", [GROUPS, BatchNorm()], ids=str)
def test_sizes_are_the_published_ones(norm):
    """Which the authors' programs print for CIFAR-10: for the search, and for DARTS_V2 without the auxiliary head."""
    search, found = DartsSearch(norm=norm).build((3, 32, 32), 10), Darts(norm=norm).build((3, 32, 32), 10)
    assert size(search) - search.alphas_normal.numel() - search.alphas_reduce.numel() == 1_930_618
    assert search.alphas_normal.shape == search.alphas_reduce.shape == (14, 8)
    assert size(found) == 3_349_342


def parameters_by_hand(genotype, channels, layers, stem, colours=3, classes=10):
    """The sum over stem, cells and classifier, from the papers' tables of operations."""
    one = {"sep_conv_3x3": lambda c: 2 * (9 * c + c * c + 2 * c), "sep_conv_5x5": lambda c: 2 * (25 * c + c * c + 2 * c)}
    one |= {"dil_conv_3x3": lambda c: 9 * c + c * c + 2 * c, "dil_conv_5x5": lambda c: 25 * c + c * c + 2 * c}
    before = last = stem * channels
    total = 9 * colours * last + 2 * last
    for layer in range(layers):
        reduction = layer in (layers // 3, 2 * layers // 3)
        channels *= 2 if reduction else 1
        total += before * channels + 2 * channels + last * channels + 2 * channels
        for name, source in genotype.reduce if reduction else genotype.normal:
            shrinks = name == "skip_connect" and reduction and source < 2
            total += one[name](channels) if name in one else (channels * channels + 2 * channels) * shrinks
        before, last = last, channels * len(genotype.reduce_concat if reduction else genotype.normal_concat)
    return total + last * classes + classes


@pytest.mark.parametrize("name", sorted(GENOTYPES))
def test_sizes_by_hand(name):
    spec = Darts(genotype=name, channels=4, layers=5, stem=1)
    assert size(spec.build((1, 8, 8), 7)) == parameters_by_hand(GENOTYPES[name], 4, 5, 1, colours=1, classes=7)
    if name == "fednas_v1":
        assert size(Darts(genotype=name).build((3, 32, 32), 10)) == parameters_by_hand(GENOTYPES[name], 36, 20, 3)


@pytest.mark.parametrize("side", [8, 9])
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_halves_alike(name, side):
    x = torch.randn(2, 4, side, side)
    for stride, wanted in ((1, side), (2, (side + 1) // 2)):
        made = operation_of(name, GROUPS, False, 4, stride)(x)
        assert made.shape == (2, 4, wanted, wanted)
        assert (made == 0).all() == (name == "none")


def test_skipping_with_half_the_size_sees_two_pixels_of_four():
    torch.manual_seed(0)
    x = torch.randn(1, 4, 6, 6).abs().requires_grad_()
    (operation_of("skip_connect", GROUPS, False, 4, 2)(x) * torch.randn(1, 4, 3, 3)).sum().backward()
    rows, columns = torch.meshgrid(torch.arange(6), torch.arange(6), indexing="ij")
    assert torch.equal(x.grad.abs().sum(1)[0] > 0, rows % 2 == columns % 2)


def test_an_edge_is_the_mixture_of_its_operations():
    torch.manual_seed(0)
    edge, x = Mixture(OPERATIONS, GROUPS, 4, 1), torch.randn(2, 4, 6, 6)
    weights = torch.rand(8)
    wanted = sum(weights[j] * edge.operations[j](x) for j in range(8))
    torch.testing.assert_close(edge(x, weights, None), wanted)
    torch.testing.assert_close(edge(x, weights, 3), weights[3] * x)


def test_the_mixture_is_a_softmax_of_alpha_in_both_cells():
    """Where one operation has all the weight on every edge, another's parameters have no gradient."""
    network = DartsSearch(**SMALL).build((1, 8, 8), 10)
    third = OPERATIONS.index("sep_conv_3x3")
    for alphas, shift in ((network.alphas_normal, 100.0), (network.alphas_reduce, 0.0)):
        alphas.data[:, third] += shift
    network(torch.randn(3, 1, 8, 8)).square().sum().backward()
    used = {
        (cell.reduction, name): any(
            param.grad.abs().max() > 1e-20 for edge in cell.edges for param in edge.operations[j].parameters()
        )
        for cell in network.cells
        for j, name in enumerate(OPERATIONS)
        if "conv" in name
    }
    assert used == {(reduction, name): reduction or name == "sep_conv_3x3" for reduction, name in used}


def test_group_norm_keeps_examples_apart_and_leaves_no_buffers():
    torch.manual_seed(0)
    x = torch.randn(4, 1, 8, 8)
    for norm, apart in ((GROUPS, True), (BatchNorm(), False)):
        network = DartsSearch(norm=norm, **SMALL).build((1, 8, 8), 10)
        assert torch.allclose(network(x)[:1], network(x[:1]), atol=1e-5) is apart
        assert (not list(network.buffers())) is apart
        inside = [layer for layer in network.cells.modules() if isinstance(layer, nn.GroupNorm | nn.BatchNorm2d)]
        assert inside
        assert all(layer.weight is None for layer in inside)


def test_the_rule_of_the_genotype():
    """Two nodes; operations none, skip_connect, sep_conv_3x3.

    The first has both inputs. For the second the strongest operations are 2.0 at the last cell, 3.0 at the one before, where `none`
    takes nearly all of the softmax, and 1.0 at the first node: the two that are kept are those with the largest shares.
    """
    names = ("none", "skip_connect", "sep_conv_3x3")
    first = [[9.0, 0.0, 0.1], [0.0, 0.3, 0.2]]
    second = [[9.0, 3.0, 0.0], [0.0, 0.0, 2.0], [0.0, 1.0, 0.0]]
    normal, reduce = torch.tensor(first + second), torch.tensor([*first, [0.0, 0.0, 5.0], *second[1:]])
    found = genotype_of(normal, reduce, names, multiplier=1)
    start = (("sep_conv_3x3", 0), ("skip_connect", 1))
    assert found.normal == (*start, ("sep_conv_3x3", 1), ("skip_connect", 2))
    assert found.reduce == (*start, ("sep_conv_3x3", 0), ("sep_conv_3x3", 1))
    assert found.normal_concat == found.reduce_concat == (3,)
    swapped = genotype_of(reduce, normal, names, multiplier=2)
    assert (swapped.normal, swapped.reduce, swapped.normal_concat) == (found.reduce, found.normal, (2, 3))


def test_a_network_is_built_from_what_a_search_found():
    search = DartsSearch(**SMALL).build((1, 9, 9), 10)
    found = search.genotype()
    assert [source for _, source in found.normal[:2]] == [0, 1]
    problems: list[str] = []
    spec = build(Darts, {"genotype": to_plain(found), "channels": 4, "layers": 3}, "model", problems)
    assert problems == []
    assert spec.genotype == found
    network = spec.build((1, 9, 9), 10)
    assert network(torch.randn(2, 1, 9, 9)).shape == (2, 10)
    assert len(network.cells[0].edges) == 4
    for cell in network.cells:
        sources = [source for node in cell.nodes for _, source in node]
        assert sources == [source for _, source in (found.reduce if cell.reduction else found.normal)]
    assert [cell.reduction for cell in network.cells] == [False, True, True]


def test_drawing_an_operation():
    """One operation for each edge in training, with derivatives for all; the strongest in evaluation."""
    spec = DartsSearch(sampling="gumbel", **SMALL)
    network = spec.build((1, 8, 8), 10)
    network.alphas_normal.data[:, 5] += 1.0
    torch.manual_seed(0)
    counts = torch.zeros(8)
    for _ in range(400):
        rows = network.weights()[0]
        assert all(weights[chosen] == 1 and weights.sum() == 1 for weights, chosen in rows)
        counts += torch.stack([weights.detach() for weights, _ in rows]).sum(0)
    shares = torch.full((8,), 1.0).index_fill(0, torch.tensor(5), np.e)
    torch.testing.assert_close(counts / counts.sum(), shares / shares.sum(), atol=0.03, rtol=0)
    network(torch.randn(3, 1, 8, 8)).square().sum().backward()
    assert (network.alphas_normal.grad != 0).any(dim=1).sum() > 1
    network.eval()
    assert [chosen for _, chosen in network.weights()[0]] == [5] * 5
    assert torch.equal(network(torch.ones(1, 1, 8, 8)), network(torch.ones(1, 1, 8, 8)))


def test_a_low_temperature_sharpens_the_derivative_of_a_draw():
    network = DartsSearch(sampling="gumbel", **SMALL).build((1, 8, 8), 10)
    spread = []
    for tau in (0.05, 10.0):
        network.tau.fill_(tau)
        network.zero_grad()
        torch.manual_seed(1)
        torch.stack([weights[0] for weights, _ in network.weights()[0]]).sum().backward()
        spread.append(network.alphas_normal.grad.abs().sum() * tau)
    # p (1 - p) of a softmax that is nearly one-hot, and of one that is nearly flat.
    assert spread[0] < 0.2 * spread[1]


def digits(clients, each):
    draw = torch.Generator().manual_seed(0)
    columns = {"x": torch.rand(clients * each, 1, 4, 4, generator=draw), "y": torch.arange(clients * each) % 3}
    parts = {str(k): np.arange(k * each, (k + 1) * each) for k in range(clients)}
    return FederatedDataset(Examples(columns), Examples(columns), parts, classes=3, name="digits")


def test_clients_that_search_may_be_stacked():
    torch.manual_seed(0)
    few = ("none", "max_pool_3x3", "skip_connect", "dil_conv_3x3")
    network = DartsSearch(channels=4, layers=1, steps=1, multiplier=1, stem=1, operations=few).build((1, 4, 4), 3)
    algorithm = FedNAS(LocalSGD(lr=0.1, batch_size=0), LocalSGD(lr=0.5))
    one, other = (
        simulate(
            Experiment(
                network,
                digits(2, 8),
                algorithm=algorithm,
                rounds=1,
                clients_per_round=2,
                engine=Standalone(executor=executor, processes=1),
            )
        )
        for executor in ("sequential", "stacked")
    )
    assert other.history[1]["executor"].startswith("stacked")
    for name, part in one.model.params.items():
        torch.testing.assert_close(part, other.model.params[name], rtol=1e-4, atol=1e-6)


def test_networks_that_draw_are_carried_out_one_by_one(caplog):
    network = DartsSearch(channels=4, layers=1, steps=1, multiplier=1, stem=1, sampling="gumbel").build((1, 4, 4), 3)
    algorithm = FedNAS(LocalSGD(batch_size=0), update="first_order", temperature=Cosine(10.0, 5, 1.0))
    engine = Standalone(executor="stacked", processes=1)
    simulate(Experiment(network, digits(2, 8), algorithm=algorithm, rounds=1, clients_per_round=2, engine=engine))
    assert "carried out one by one" in caplog.text


def cell(normal, concat=(2,)):
    return {"normal": normal, "normal_concat": concat, "reduce": (("skip_connect", 0), ("skip_connect", 1)), "reduce_concat": (2,)}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (cell((("skip_connect", 0),)), "1 edges: give two"),
        (cell((("skip_connect", 0), ("skip_connect", 2))), "earlier than its node"),
        (cell((("skip_connect", 0), ("skip_connect", 1)), (3,)), "from 2 to 2"),
        (cell((("none", 0), ("skip_connect", 1))), "none"),
    ],
)
def test_cells_that_cannot_be_built_are_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        Genotype(**settings)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"steps": 2}, "multiplier = 4"),
        ({"operations": ("none",)}, "at least two"),
        ({"operations": ("none", "none")}, "each once"),
    ],
)
def test_searches_that_cannot_be_built_are_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        DartsSearch(**settings)


def test_the_picture_is_drawn(tmp_path):
    draw_genotype(GENOTYPES["fednas_v1"], tmp_path / "cells.png", "FedNAS")
    assert (tmp_path / "cells.png").stat().st_size > 20_000
