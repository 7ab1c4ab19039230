"""Networks that find a class for every pixel."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fedml_api.model import BatchNorm, DeepLabV3, GroupNorm, UNet
from fedml_api.vision import torchvision
from fedml_core.trainer import Segmenter


def count(network):
    return sum(p.numel() for p in network.parameters())


def on_meta(spec, shape, classes):
    with torch.device("meta"):
        return spec.build(shape, classes)


def twice(a, b):
    return 9 * a * b + 9 * b * b + 4 * b


def test_parameter_counts():
    widths = [64, 128, 256, 512, 1024]  # Ronneberger et al., 2015, fig. 1
    down = twice(3, 64) + sum(twice(w // 2, w) for w in widths[1:])
    up = sum(4 * w * (w // 2) + w // 2 + twice(w, w // 2) for w in widths[1:])
    assert count(on_meta(UNet(), (3, 64, 64), 2)) == down + up + 64 * 2 + 2 == 31_037_698
    # What torchvision publishes, without the auxiliary classifier: conv 3x3, normalisation, conv 1x1 on 1024 and on 40 channels.
    of_resnet, of_mobilenet = 42_004_074 - (9 * 1024 * 256 + 512 + 256 * 21 + 21), 11_029_328 - (9 * 40 * 10 + 20 + 10 * 21 + 21)
    assert count(on_meta(DeepLabV3(), (3, 64, 64), 21)) == of_resnet == 39_638_869
    assert count(on_meta(DeepLabV3(backbone="mobilenet_v3_large"), (3, 64, 64), 21)) == of_mobilenet == 11_025_477


@pytest.mark.parametrize("make", [UNet, DeepLabV3])
def test_normalisation_is_a_choice(make):
    kinds = {nn.BatchNorm2d, nn.GroupNorm}
    for norm, kind in ((BatchNorm(), nn.BatchNorm2d), (GroupNorm(8), nn.GroupNorm)):
        network = on_meta(make(norm=norm), (3, 64, 64), 5)
        assert {type(layer) for layer in network.modules()} & kinds == {kind}
        assert network(torch.empty(2, 3, 64, 64, device="meta")).shape == (2, 5, 64, 64)
    assert type(make().trainer()) is Segmenter


def test_the_u_net_computes_what_its_paper_describes():
    torch.manual_seed(0)
    network = UNet(2, GroupNorm()).build((3, 32, 48), 5)
    for layer in network.modules():
        if isinstance(layer, nn.GroupNorm):
            nn.init.normal_(layer.bias)
    x = torch.randn(2, 3, 32, 48)
    p = list(network.parameters())
    down, widen, up, head = p[:30], p[30:38], p[38:62], p[62:]

    def block(x, weights):
        for w, scale, shift in (weights[:3], weights[3:]):
            x = F.group_norm(F.conv2d(x, w, padding=1), 2, scale, shift).relu()
        return x

    levels, state = [], x
    for level in range(5):
        state = block(state if level == 0 else F.max_pool2d(state, 2), down[6 * level : 6 * level + 6])
        levels.append(state)
    for level in range(4):
        state = F.conv_transpose2d(state, *widen[2 * level : 2 * level + 2], stride=2)
        state = block(torch.cat([levels[3 - level], state], dim=1), up[6 * level : 6 * level + 6])
    torch.testing.assert_close(network(x), F.conv2d(state, *head))


def test_deeplab_is_torchvisions():
    torch.manual_seed(0)
    ours = DeepLabV3(backbone="mobilenet_v3_large").build((3, 32, 32), 4).eval()
    segmentation = torchvision("models").segmentation
    theirs = segmentation.deeplabv3_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=4).eval()
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True)))
    x = torch.randn(1, 3, 32, 48)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x)["out"], rtol=1e-5, atol=1e-5)
