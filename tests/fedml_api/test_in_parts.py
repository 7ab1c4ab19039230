"""Networks in parts: those of FedGKT, with the parameters and operations that the paper has, and a small one."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fedml_api.model import CNNInParts, Edge, InParts, ResNetInParts
from fedml_api.model.cost import Cost, cost
from fedml_core.errors import ConfigError

MNIST, CIFAR = (1, 28, 28), (3, 32, 32)


def count(module):
    return sum(param.numel() for param in module.parameters())


@pytest.mark.parametrize(
    ("depth", "parameters", "fewer_flops", "fewer_parameters"),
    [(56, 591, 9, 54), (110, 1_150, 17, 105)],  # He, Annavaram and Avestimehr, NeurIPS 2020, section 4: thousands, and times
)
def test_the_resnets_cost_what_the_paper_says(depth, parameters, fewer_flops, fewer_parameters):
    large, edge = (cost(ResNetInParts(part=part, depth=depth).build(CIFAR, 10), CIFAR) for part in ("large", "edge"))
    assert edge.parameters == 10_586  # the paper's 11 thousand, from which its 54 and 105 are: it divides what it has rounded
    assert large.parameters == pytest.approx(1000 * parameters, rel=0.003)
    assert round(large.parameters / 1000) / 11 == pytest.approx(fewer_parameters, abs=1)
    assert large.flops / edge.flops == pytest.approx(fewer_flops, abs=0.5)
    server = ResNetInParts(depth=depth).build(CIFAR, 10).server
    # One layer less than the large network, and in each stage a convolution on the skip that changes the number of channels.
    layers = [module for module in server.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    assert len(layers) - 3 == depth - 1
    assert large.parameters == count(server) + 3 * 16 * 9 + 2 * 16


@pytest.mark.parametrize(("edge", "layers"), [(1, 5), (2, 8)])
def test_the_edges_are_a_resnet_5_and_a_resnet_8(edge, layers):
    network = ResNetInParts(part="edge", edge=edge).build(CIFAR, 10)
    assert sum(isinstance(module, (nn.Conv2d, nn.Linear)) for module in network.modules()) - 1 == layers


def test_flops_are_counted_by_hand():
    """conv 3x3 on 28x28, then a dense layer from 8 x 4 x 4: two operations for each multiplication."""
    assert cost(CNNInParts(part="edge").build(MNIST, 10), MNIST) == Cost(1_370, 2 * (28 * 28 * 9 * 8 + 128 * 10))
    large = 28 * 28 * 9 * 8 + 14 * 14 * 25 * 8 * 16 + 784 * 128 + 128 * 10
    assert cost(CNNInParts(part="large").build(MNIST, 10), MNIST) == Cost(105_066, 2 * large)
    network = nn.Linear(3, 2).train()
    assert cost(network, (3,)) == Cost(8, 12)
    assert network.training


def test_the_cnn_computes_what_it_describes():
    torch.manual_seed(0)
    network, x = CNNInParts(edge=2).build(MNIST, 10), torch.randn(5, *MNIST)
    p = dict(network.named_parameters())
    features = F.max_pool2d(F.conv2d(x, p["edges.2.extractor.0.weight"], p["edges.2.extractor.0.bias"], padding=1).relu(), 2)
    edge = F.linear(features.view(5, 8, 2, 7, 2, 7).mean((3, 5)).flatten(1), *list(network.edge("a").classifier.parameters()))
    torch.testing.assert_close(network.edge("a")(x), edge)
    top = list(network.server.parameters())
    wide = F.max_pool2d(F.conv2d(features, *top[:2], padding=2).relu(), 2).flatten(1)
    torch.testing.assert_close(network(x), F.linear(F.linear(wide, *top[2:4]).relu(), *top[4:]))


def bottleneck(x, w, stride):
    """He et al., CVPR 2016, figure 5, right: weights in order of the layers, those of the skip last."""

    def norm(x):
        return F.batch_norm(x, torch.zeros(x.shape[1]), torch.ones(x.shape[1]))

    y = norm(F.conv2d(x, w[0])).relu()
    y = norm(F.conv2d(y, w[1], stride=stride, padding=1)).relu()
    y = norm(F.conv2d(y, w[2]))
    return (y + (norm(F.conv2d(x, w[3], stride=stride)) if len(w) == 4 else x)).relu()


def test_the_resnet_computes_what_the_paper_describes():
    torch.manual_seed(0)
    network = ResNetInParts(part="large").build((3, 8, 8), 10).eval()
    x = torch.randn(2, 3, 8, 8)
    weights = [module.weight for module in network.modules() if isinstance(module, nn.Conv2d)]
    found = F.batch_norm(F.conv2d(x, weights.pop(0), padding=1), torch.zeros(16), torch.ones(16)).relu()
    for stage in range(3):
        for block in range(6):
            several = 3 if block else 4
            found = bottleneck(found, weights[:several], 2 if stage and not block else 1)
            del weights[:several]
    dense = network[1][-1]
    torch.testing.assert_close(network(x), F.linear(found.mean((2, 3)), dense.weight, dense.bias))


def test_convolutions_are_drawn_as_he_et_al_do():
    torch.manual_seed(0)
    for module in ResNetInParts(part="large").build(CIFAR, 10).modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 8_000:
            wanted = (2 / (module.out_channels * module.kernel_size[0] ** 2)) ** 0.5
            assert module.weight.std().item() == pytest.approx(wanted, rel=0.05)


def test_edges_by_client_begin_with_one_extractor():
    network = CNNInParts(edge=4, edges={"7": 2, "9": 4}).build(MNIST, 10)
    assert list(network.edges) == ["4", "2"]
    assert network.edge("7") is network.edges["2"]
    assert network.edge("9") is network.edge("1") is network.edges["4"]
    one, other = (network.edges[name].extractor[0].weight for name in ("4", "2"))
    assert torch.equal(one, other)
    assert one is not other
    with pytest.raises(ConfigError, match="edges"):
        CNNInParts(edges={"7": 0})


def test_the_large_network_is_the_servers_part_on_the_first_edge():
    torch.manual_seed(0)
    edges = {name: Edge(nn.Linear(3, 4), nn.Linear(4, 2)) for name in ("first", "other")}
    network, x = InParts(edges, nn.Linear(4, 2), {"b": "other"}), torch.randn(5, 3)
    assert torch.equal(network(x), network.server(edges["first"].extractor(x)))
    assert torch.equal(network.edge("b")(x), edges["other"].classifier(edges["other"].extractor(x)))
