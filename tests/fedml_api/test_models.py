import math
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fedml_api.model
from fedml_api.data import Digits
from fedml_api.model import (
    GAN,
    CharLSTM,
    GroupNorm,
    LogisticRegression,
    McMahanCNN,
    ReddiCNN,
    ResNet,
    ResNetCIFAR,
    TagRegression,
    TwoNN,
    models,
)
from fedml_api.model.model_spec import ModelSpec, check_columns
from fedml_api.run.config import RunConfig, prepare
from fedml_core.errors import ConfigError

MNIST = (1, 28, 28)
OF_TOKENS = ("lstm_chars", "lstm_words", "text_bag", "text_bilstm", "transformer_words")
AT_EVERY_TOKEN = ("lstm_chars", "lstm_words", "transformer_words")
PHOTO = (3, 224, 224)
SHORT = {
    "resnet20": ResNetCIFAR(20),
    "resnet56": ResNetCIFAR(56),
    "resnet110": ResNetCIFAR(110),
    "resnet18_gn": ResNet(18, GroupNorm()),
}
AT_EVERY_PIXEL = ("deeplab_v3", "unet")
# Of networks that are large by default.
SMALLER = {"darts": {"channels": 4, "layers": 3}, "darts_search": {"channels": 4, "layers": 3, "steps": 1, "multiplier": 1}}
SHAPES = [MNIST, (3, 32, 32), (1, 8, 8), (1, 6, 6), (3, 4, 5), (2, 3, 40), (60,), (1, 6, 5)]


def test_every_model_can_be_imported():
    exported = fedml_api.model.__all__

    def order(name):
        parts = [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
        return not name.isupper(), not name[0].isupper(), parts

    assert exported == sorted(exported, key=order)
    assert {spec.__name__ for spec in models.values()} <= set(exported)


@pytest.mark.parametrize(
    ("spec", "classes", "parameters"),
    [
        (LogisticRegression(), 10, 784 * 10 + 10),
        (TwoNN(), 10, 199_210),  # McMahan et al., AISTATS 2017, sec. 3
        (McMahanCNN(), 10, 1_663_370),  # the same
        (McMahanCNN(8), 10, 105_194),  # (25 * 8 + 8) + (25 * 8 * 16 + 16) + (784 * 128 + 128) + (128 * 10 + 10)
        (GAN(), 10, 419_345),  # (64 * 256 + 256) + (256 * 784 + 784) + (784 * 256 + 256) + (256 + 1)
        (ReddiCNN(), 10, 1_199_882),  # (9 * 32 + 32) + (9 * 32 * 64 + 64) + (9216 * 128 + 128) + (128 * 10 + 10)
        (ReddiCNN(), 62, 1_206_590),  # Reddi et al., ICLR 2021, table of app. C: EMNIST
    ],
)
def test_parameter_counts_are_those_of_the_papers(spec, classes, parameters):
    assert sum(p.numel() for p in spec.build(MNIST, classes).parameters()) == parameters


# For each registered network its parameters, trained and fixed ones, on examples of this shape with so many classes. Networks of
# whose source no number is known to us have it by hand in their own tests; here stands what would change unnoticed.
PUBLISHED = {
    "2nn": (MNIST, 10, 199_210),  # McMahan et al., AISTATS 2017, sec. 3
    "autoencoder": ((115,), None, 36_377),  # Meidan et al., 2018: widths of 75, 50, 33 and 25 %
    "cnn": (MNIST, 62, 1_206_590),  # Reddi et al., ICLR 2021, app. C
    "cnn_in_parts": (MNIST, 10, None),
    "cnn_mcmahan": (MNIST, 10, 1_663_370),  # McMahan et al., 2017, sec. 3
    "darts": ((3, 32, 32), 10, 3_349_342),  # Liu et al., ICLR 2019, table 1: 3.3 million
    "darts_search": ((3, 32, 32), 10, 1_930_618 + 2 * 14 * 8),  # what the authors' program prints, and the architecture
    "deeplab_v3": ((3, 64, 64), 21, 39_638_869),
    "efficientnet_b0": (PHOTO, 1000, 5_288_548),  # Tan and Le, ICML 2019, table 2: 5.3 million
    "gan": (MNIST, 10, 419_345),
    "gat": ((30, 40), 3, None),
    "gcn": ((30, 40), 3, None),
    "graphsage": ((30, 40), 3, None),
    "lr": (MNIST, 10, 7_850),
    "lr_tags": ((10_000,), 500, 5_000_500),
    "lstm_chars": ((80,), 90, 820_522 + 2 * 4 * 256),  # Reddi et al., 2021; the second bias of torch's layers is fixed at 0
    "lstm_words": ((20,), 10_004, 4_050_748 + 4 * 670),  # the same
    "matrix_factorization": ((2,), None, None),
    "mobilenet": (PHOTO, 1000, 4_231_976),  # Howard et al., 2017, table 6: 4.2 million
    "mobilenet_v3": (PHOTO, 1000, 5_483_032),  # Howard et al., ICCV 2019, table 3: 5.4 million
    "resnet": (PHOTO, 1000, 11_689_512),  # torchvision's
    "resnet110": ((3, 32, 32), 10, 1_727_962),  # He et al., CVPR 2016, table 6: 1.7 million
    "resnet18_gn": ((3, 24, 24), 100, 11_227_812),  # torchvision's with 100 classes
    "resnet20": ((3, 32, 32), 10, 269_722),  # He et al., table 6: 0.27 million
    "resnet56": ((3, 32, 32), 10, 853_018),  # the same: 0.85 million
    "resnet_cifar": ((3, 32, 32), 10, 269_722),
    "resnet_in_parts": ((3, 32, 32), 10, None),
    "text_bag": ((20,), 4, 1_000_404),
    "text_bilstm": ((20,), 4, 1_235_524 + 2 * 4 * 128),
    "transformer_words": ((20,), 10_004, 1_962_912),
    "unet": ((3, 64, 64), 2, 31_037_698),
    "vgg": (PHOTO, 1000, 132_863_336),  # torchvision's; Simonyan and Zisserman, ICLR 2015, table 2: 133 million
    "vit_b_16": (PHOTO, 1000, 86_567_656),  # torchvision's; Dosovitskiy et al., ICLR 2021, table 1: 86 million
}


def test_every_network_has_a_number_of_parameters():
    """Where it depends on the data, or is that of parts, it is in test_in_parts, test_models_graph, ... instead."""
    missing = sorted(name for name in set(models) - set(PUBLISHED) if not name.startswith("vertical"))
    assert not missing, f"{', '.join(missing)}: add to PUBLISHED what its paper says, with the source, or a count by hand"


@pytest.mark.parametrize("name", [name for name, (*_, parameters) in PUBLISHED.items() if parameters])
def test_numbers_of_parameters(name):
    shape, classes, parameters = PUBLISHED[name]
    with torch.device("meta"):
        network = models[name]().build(shape, classes)
    assert sum(p.numel() for p in network.parameters()) == parameters


@pytest.mark.parametrize("name", models)
def test_docstrings_say_what_goes_in_and_what_comes_out(name):
    kinds = [kind for kind in models[name].__mro__ if issubclass(kind, ModelSpec) and kind is not ModelSpec]
    assert "[b, " in " ".join(kind.__doc__ or "" for kind in kinds) or name.startswith(("gat", "gcn", "graph", "vertical"))


@pytest.mark.parametrize(("name", "spec"), SHORT.items())
def test_short_names_of_the_field(name, spec):
    """Which mean a network that goes by a longer one as well."""
    torch.manual_seed(0)
    short = models[name]().build((3, 24, 24), 10).state_dict()
    torch.manual_seed(0)
    long = spec.build((3, 24, 24), 10).state_dict()
    assert list(short) == list(long)
    assert all(torch.equal(short[key], long[key]) for key in short)
    with pytest.raises(ConfigError, match="depth"):
        models[name](depth=44)


def naive(name, p, x):
    """The networks as their papers describe them, as functions of the parameters in order."""
    x = x.flatten(1) if name in ("lr", "2nn") else x
    if name == "lr":
        return F.linear(x, *p)
    if name == "2nn":
        return F.linear(F.linear(F.linear(x, *p[0:2]).relu(), *p[2:4]).relu(), *p[4:6])
    if name == "cnn":
        x = F.conv2d(F.conv2d(x, *p[0:2]).relu(), *p[2:4]).relu()
        x = F.max_pool2d(x, 2)
    else:
        x = F.max_pool2d(F.conv2d(x, *p[0:2], padding=2).relu(), 2)
        x = F.max_pool2d(F.conv2d(x, *p[2:4], padding=2).relu(), 2)
    return F.linear(F.linear(x.flatten(1), *p[4:6]).relu(), *p[6:8])


@pytest.mark.parametrize("shape", [MNIST, (3, 9, 12)])
@pytest.mark.parametrize("name", ["2nn", "cnn", "cnn_mcmahan", "lr"])
def test_networks_compute_what_their_papers_describe(name, shape):
    torch.manual_seed(0)
    network = models[name]().build(shape, 10).eval()
    x = torch.randn(5, *shape)
    torch.testing.assert_close(network(x), naive(name, list(network.parameters()), x))


def test_only_reddis_cnn_drops_out():
    rates = {
        name: [m.p for m in models[name]().build(MNIST, 10) if isinstance(m, nn.Dropout)]
        for name in ("2nn", "cnn", "cnn_mcmahan", "lr")
    }
    assert {name: found for name, found in rates.items() if found} == {"cnn": [0.25, 0.5]}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", models)
def test_a_network_fits_exactly_the_shapes_it_says(name, shape):
    spec = models[name](**SMALLER.get(name, {}))
    if spec.fits(shape):
        with torch.device("meta"):  # shapes without numbers
            x = torch.zeros(2, *shape, dtype=torch.int64 if name in OF_TOKENS else torch.float32)
            found = spec.build(shape, 7)(x).shape
        assert found == {
            **dict.fromkeys(AT_EVERY_TOKEN, (2, *shape, 7)),
            **dict.fromkeys(AT_EVERY_PIXEL, (2, 7, *shape[1:])),
            "autoencoder": (2, math.prod(shape)),
            "gan": (2, 3),
        }.get(name, (2, 7))
        return
    with pytest.raises(ConfigError) as caught:
        spec.build(shape, 7)
    fitting = ", ".join(other for other in models if models[other].fits(shape))
    expected = f"model '{name}' takes {spec.takes}, not x of shape {list(shape)}; models that fit: {fitting}"
    assert caught.value.problems == [expected]


def test_which_networks_fit_small_inputs():
    small = ["2nn", "cnn", "cnn_mcmahan", "gan", "lr", "lstm_words"]
    fitting = {shape: [name for name in small if models[name].fits(shape)] for shape in SHAPES[3:]}
    assert fitting == {
        (1, 6, 6): ["2nn", "cnn", "cnn_mcmahan", "gan", "lr"],
        (3, 4, 5): ["2nn", "cnn_mcmahan", "gan", "lr"],
        (2, 3, 40): ["2nn", "gan", "lr"],
        (60,): ["2nn", "lr", "lstm_words"],
        (1, 6, 5): ["2nn", "cnn_mcmahan", "gan", "lr"],
    }
    assert not any(spec.fits(()) for spec in models.values())


@pytest.mark.parametrize("name", [name for name in models if name not in ("autoencoder", "gan", "matrix_factorization")])
def test_classifiers_need_classes(name):
    with pytest.raises(ConfigError, match=f"model '{name}' is a classifier, and the data set has no classes"):
        models[name]().build(MNIST, None)


def test_building_draws_from_torchs_own_generator():
    def first(seed):
        torch.manual_seed(seed)
        return torch.cat([p.flatten() for p in ReddiCNN().build((1, 8, 8), 10).parameters()])

    assert torch.equal(first(0), first(0))
    assert not torch.equal(first(0), first(1))


def columns(x, y, dtype=torch.float32):
    return {"x": torch.zeros(2, *x, dtype=dtype)} | ({} if y is None else {"y": torch.zeros(2, *y, dtype=torch.int64)})


KINDS = {
    "a class": (columns((3, 32, 32), ()), {"cnn", "lr", "resnet", "vgg"}, {"unet", "lr_tags", "deeplab_v3"}),
    "pixels": (columns((3, 32, 32), (32, 32)), {"unet", "deeplab_v3"}, {"cnn", "lr", "lr_tags"}),
    "tags": (columns((60,), (7,)), {"lr_tags"}, {"lr", "2nn", "lstm_words"}),
    "texts": (columns((60,), (), torch.int64), {"text_bag", "text_bilstm"}, {"lr", "2nn", "lstm_words", "autoencoder"}),
    "next tokens": (columns((60,), (60,), torch.int64), set(AT_EVERY_TOKEN), {"text_bag", "lr_tags"}),
    "nothing": (columns((3, 32, 32), None), set(), {"cnn", "unet"}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_examples_and_labels_of_another_kind_are_refused(kind):
    """The shape of x may fit nevertheless: the message lists what is there for such data."""
    given, fit, unfit = KINDS[kind]
    for name in fit:
        check_columns(models[name](), given, 7)
    for name in unfit:
        with pytest.raises(ConfigError, match=f"^model '{name}' (takes|learns) .*; models that fit: ") as caught:
            check_columns(models[name](), given, 7)
        found = set(str(caught.value).partition("models that fit: ")[2].split(", "))
        assert fit <= found
        assert not found & unfit


def test_what_is_wrong_with_the_columns_is_said():
    for name, given, fault in [
        ("lstm_words", columns((60,), (60,)), "takes tokens, which are whole numbers, not x of torch.float32"),
        ("lr", columns((60,), (), torch.int64), "takes floating-point numbers, not x of torch.int64"),
        ("lr", columns((60,), (7,)), r"learns y of shape \[\] for each example, not \[7\]; models that fit: autoencoder, lr_tags$"),
        ("lr", columns((60,), None), r"learns y of shape \[\] for each example, and there is none; models that fit: autoencoder$"),
    ]:
        with pytest.raises(ConfigError, match=f"^model '{name}' {fault}"):
            check_columns(models[name](), given, 7)
    check_columns(CharLSTM(predicts="last"), columns((60,), (), torch.int64), 7)


def test_a_run_says_before_it_starts_which_models_fit_the_labels():
    fitting = [name for name in models if models[name].fits((1, 8, 8)) and name != "lr_tags"]
    with pytest.raises(ConfigError) as caught:
        prepare(RunConfig(model=TagRegression(), data=Digits()), [])
    wanted = f"model 'lr_tags' learns y of shape [10] for each example, not []; models that fit: {', '.join(fitting)}"
    assert caught.value.problems == [wanted]
