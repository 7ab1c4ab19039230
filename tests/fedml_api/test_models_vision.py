"""Networks for photographs, and the way to torchvision."""

import itertools
import re
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fedml_api import vision
from fedml_api.model import VGG, BatchNorm, EfficientNetB0, GroupNorm, MobileNet, MobileNetV3, ResNet, ViT, models
from fedml_core.errors import ConfigError

ROOT = Path(__file__).parents[2]
PHOTO = (3, 224, 224)
NORMS = [BatchNorm(), GroupNorm(8)]


def count(network):
    return sum(p.numel() for p in network.parameters())


def on_meta(spec, shape=PHOTO, classes=1000):
    """The network without numbers: to count its parameters and follow the shapes."""
    with torch.device("meta"):
        return spec.build(shape, classes)


def by_hand(width=1.0, classes=1000):
    """Howard et al., 2017, table 1: convolutions, and two parameters a channel for each normalisation."""
    sizes = [int(width * c) for c in (32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)]
    total = 27 * sizes[0] + 2 * sizes[0] + sizes[-1] * classes + classes
    return total + sum(9 * a + 2 * a + a * b + 2 * b for a, b in itertools.pairwise(sizes))


@pytest.mark.parametrize("norm", NORMS, ids=str)
@pytest.mark.parametrize(
    ("kind", "parameters", "convolutions"),
    [
        # What torchvision publishes for its networks of these names: the papers' tables round to 0.1 million.
        (lambda norm: ResNet(18, norm), 11_689_512, 20),
        (lambda norm: ResNet(34, norm), 21_797_672, 36),
        (lambda norm: ResNet(50, norm), 25_557_032, 53),
        (lambda norm: MobileNetV3(norm, "large"), 5_483_032, 62),
        (lambda norm: MobileNetV3(norm, "small"), 2_542_856, 52),
        (lambda norm: EfficientNetB0(norm), 5_288_548, 81),
        (lambda norm: VGG(norm, 11), 132_868_840, 8),
        (lambda norm: MobileNet(norm=norm), by_hand(), 27),
        (lambda norm: MobileNet(0.5, norm), by_hand(0.5), 27),
    ],
)
def test_parameter_counts_are_the_published_ones_whatever_the_normalisation(kind, parameters, convolutions, norm):
    network = on_meta(kind(norm))
    assert count(network) == parameters
    layers = list(network.modules())
    assert sum(isinstance(layer, nn.Conv2d) for layer in layers) == convolutions
    used = {type(layer) for layer in layers} & {nn.BatchNorm2d, nn.GroupNorm}
    assert used == ({nn.BatchNorm2d} if norm == BatchNorm() else {nn.GroupNorm})
    assert network(torch.empty(2, *PHOTO, device="meta")).shape == (2, 1000)


@pytest.mark.parametrize(
    ("spec", "parameters"),
    [(VGG(), 132_863_336), (VGG(depth=16), 138_357_544), (VGG(depth=19), 143_667_240), (ViT(), 86_567_656)],
    ids=str,
)
def test_parameter_counts_without_normalisation_of_channels(spec, parameters):
    network = on_meta(spec)
    assert count(network) == parameters
    assert not any(isinstance(layer, (nn.BatchNorm2d, nn.GroupNorm)) for layer in network.modules())
    assert network(torch.empty(2, *PHOTO, device="meta")).shape == (2, 1000)


def test_mobilenets_of_other_widths_and_classes():
    """Howard et al., 2017, table 6: 4.2, 2.6, 1.3 and 0.5 million."""
    assert [round(by_hand(width) / 1e6, 1) for width in (1.0, 0.75, 0.5, 0.25)] == [4.2, 2.6, 1.3, 0.5]
    assert count(on_meta(MobileNet(0.25))) == by_hand(0.25)
    assert count(on_meta(MobileNet(), (3, 32, 32), 10)) == by_hand(classes=10) == 3_217_226


@pytest.mark.parametrize("depth", [18, 34, 50])
def test_resnets_compute_what_torchvisions_do(depth):
    torch.manual_seed(0)
    ours, theirs = ResNet(depth).build(PHOTO, 10), getattr(vision.torchvision("models"), f"resnet{depth}")(num_classes=10)
    for layer in ours.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.running_mean, std=0.1)
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True)))
    x = torch.randn(2, 3, 40, 33)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=1e-5, atol=1e-5)


def test_the_stem_for_small_images_keeps_their_resolution():
    """conv 3x3 instead of 7x7, so 64 x 3 x (49 - 9) weights less; four times as many pixels each way in the last stage."""
    small, large = on_meta(ResNet(stem="3x3"), (3, 24, 24), 100), on_meta(ResNet(), (3, 24, 24), 100)
    assert count(small) == count(large) - 64 * 3 * 40 == 11_220_132
    x = torch.empty(2, 3, 24, 24, device="meta")
    assert small[:5](x).shape == (2, 512, 3, 3)
    assert large[:5](x).shape == (2, 512, 1, 1)
    assert on_meta(MobileNet(stride=1), (3, 32, 32), 10)[:-3](torch.empty(2, 3, 32, 32, device="meta")).shape == (2, 1024, 2, 2)


@pytest.mark.parametrize("stride", [1, 2])
def test_mobilenet_computes_what_its_paper_describes(stride):
    torch.manual_seed(0)
    network, x = MobileNet(0.25, GroupNorm(2), stride).build((3, 32, 24), 7), torch.randn(2, 3, 32, 24)
    for layer in network.modules():
        if isinstance(layer, nn.GroupNorm):
            nn.init.normal_(layer.bias)
    p = iter(network.parameters())

    def step(x, size, stride=1, groups=1):
        x = F.conv2d(x, next(p), stride=stride, padding=size // 2, groups=groups)
        return F.group_norm(x, 2, next(p), next(p)).relu()

    state = step(x, 3, stride)
    for down in (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1):  # Howard et al., 2017, table 1
        state = step(step(state, 3, down, groups=state.shape[1]), 1)
    torch.testing.assert_close(network(x), F.linear(state.mean(dim=(2, 3)), next(p), next(p)))


def test_mobilenet_looks_at_each_channel_for_itself():
    torch.manual_seed(0)
    layer = MobileNet(0.25).build((3, 32, 32), 10)[1][0]
    x = torch.randn(1, 8, 6, 6)
    changed = x.clone()
    changed[:, 3] += 1
    assert (layer(x) != layer(changed)).any(dim=(0, 2, 3)).nonzero().flatten().tolist() == [3]


@pytest.mark.parametrize("name", ["efficientnet_b0", "mobilenet_v3", "vgg", "vit_b_16"])
def test_networks_for_photographs_refuse_what_is_none(name):
    for shape in [(1, 28, 28), (3, 16, 20), (60,)]:
        with pytest.raises(ConfigError, match=f"model '{name}' takes images \\[3, .*models that fit: 2nn"):
            models[name]().build(shape, 10)
    assert models[name].fits((3, 32, 32))
    assert ViT.fits((3, 64, 64))
    assert not ViT.fits((3, 64, 32))


def test_groups_that_do_not_divide_the_channels_are_refused():
    for make, channels in [(ResNet, 64), (VGG, 64), (MobileNet, 32), (MobileNetV3, 8), (EfficientNetB0, 8)]:
        make(norm=GroupNorm(channels))
        with pytest.raises(ConfigError, match=f"groups = 128: must divide {channels} channels"):
            make(norm=GroupNorm(128))
    with pytest.raises(ConfigError, match="groups = 2: must divide 1 channels"):
        MobileNet(0.3, GroupNorm(2))


def test_only_one_module_imports_torchvision():
    """And only when it is asked to. Whoever does otherwise works with some builds of torchvision only."""
    door = ROOT / "fedml_api" / "vision.py"
    assert "import torchvision" not in door.read_text()
    for package in ("fedml_core", "fedml_api", "fedml_iot", "fedml_mobile"):
        for path in sorted((ROOT / package).rglob("*.py")):
            imports = re.search(r"^\s*(import|from) torchvision\b|import_module\(.torchvision", path.read_text(), re.MULTILINE)
            assert not imports or path == door, path


def test_a_torchvision_built_for_another_torch_can_be_used():
    """And is imported once, whoever asks; elsewhere this is the ordinary import."""
    package = vision.torchvision()
    assert package is sys.modules["torchvision"] is vision.torchvision()
    assert vision.torchvision("models") is package.models
    assert torch.ops.torchvision.nms.default._schema.name == "torchvision::nms"


def test_who_lacks_torchvision_is_told_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)  # as if it were not installed
    with pytest.raises(ConfigError, match=r'run: pip install "fedml\[vision\]"'):
        VGG().build(PHOTO, 10)
