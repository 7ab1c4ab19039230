import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fedml_api.model import GAN, LogisticRegression, McMahanCNN, ReddiCNN, TwoNN, WordLSTM, models
from fedml_core.errors import ConfigError

MNIST = (1, 28, 28)
OF_TOKENS = ("lstm_words",)
SHAPES = [MNIST, (3, 32, 32), (1, 8, 8), (1, 6, 6), (3, 4, 5), (2, 3, 40), (60,), (1, 6, 5)]

# Of networks that are large by default.
SMALL = {"darts": {"channels": 4, "layers": 3}, "darts_search": {"channels": 4, "layers": 3, "steps": 1, "multiplier": 1}}


def test_models_are_registered():
    assert {"2nn", "cnn", "cnn_mcmahan", "gan", "lr", "lstm_words"} <= set(models)


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


def test_the_language_model_has_the_papers_parameters():
    network = WordLSTM().build((20,), 10_004)
    # 10004 x 96 + (4 x 670 x (96 + 670) + 4 x 670) + (670 x 96 + 96) + (96 x 10004 + 10004): Reddi et al., ICLR 2021, app. C
    assert sum(p.numel() for p in network.parameters() if p.requires_grad) == 4_050_748
    assert network(torch.zeros(2, 20, dtype=torch.int64)).shape == (2, 20, 10_004)
    assert not network.lstm.bias_hh_l0.any()


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
    spec = models[name](**SMALL.get(name, {}))
    if spec.fits(shape):
        with torch.device("meta"):  # shapes without numbers
            x = torch.zeros(2, *shape, dtype=torch.int64 if name in OF_TOKENS else torch.float32)
            found = spec.build(shape, 7)(x).shape
        assert found == {"lstm_words": (2, *shape, 7), "gan": (2, 3)}.get(name, (2, 7))
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


@pytest.mark.parametrize("name", [name for name in models if name != "gan"])
def test_classifiers_need_classes(name):
    with pytest.raises(ConfigError, match=f"model '{name}' is a classifier, and the data set has no classes"):
        models[name]().build(MNIST, None)


def test_building_draws_from_torchs_own_generator():
    def first(seed):
        torch.manual_seed(seed)
        return torch.cat([p.flatten() for p in ReddiCNN().build((1, 8, 8), 10).parameters()])

    assert torch.equal(first(0), first(0))
    assert not torch.equal(first(0), first(1))
