"""What goes wrong in federated learning without being noticed: data that leak, weights that count something else, and the like.

Each trap is looked for in every data set and in every network there is; newcomers join by themselves.
"""

import dataclasses
import random
from collections import Counter
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from fedml_api.data import LazyDataset, NaturalSource, NusWide, PartitionedSource, data_sources
from fedml_api.data.examine import digests, faults, overlap
from fedml_api.data.tables import TableSource
from fedml_api.model import GroupNorm, models
from fedml_api.model.model_spec import check_columns, check_shape
from fedml_core.errors import ConfigError
from fedml_core.federation import Client, CountExamples, LocalSGD, Workspace
from fedml_core.partition import Dirichlet, Iid
from fedml_core.trainer import Examples, ModelState, ModelTrainer
from tests.fedml_api.data.sources import DRAWN, SOURCES, made, written

KIND = {name: data_sources[name] for name in SOURCES}
NATURAL = [name for name, kind in KIND.items() if issubclass(kind, NaturalSource)]
PARTITIONED = [name for name, kind in KIND.items() if issubclass(kind, PartitionedSource)]
VERTICAL = [name for name, kind in KIND.items() if issubclass(kind, (TableSource, NusWide))]
# Clients for testing are others than those for training.
WITHOUT_LOCAL_TESTS = ["fed_cifar100"]


@pytest.fixture
def load(tmp_path, monkeypatch):
    """A data set, with some of its settings changed; its files are written once."""

    def loaded(name, seed=0, **settings):
        if name == "karate":
            pytest.importorskip("networkx")
        if name in DRAWN:
            return data_sources[name](clients=4, **settings).load(seed, tmp_path)
        if SOURCES[name].needs:
            pytest.importorskip(SOURCES[name].needs)
        folder = tmp_path / name
        if not folder.exists():
            folder.mkdir()
            written(name, folder)
        return made(name, folder, monkeypatch, **settings).load(seed, folder)

    return loaded


def counted(*parts):
    """The examples of several parties, by their content."""
    return Counter(one for part in parts for one in digests(part))


# Data that leak


@pytest.mark.parametrize("name", [*SOURCES, *sorted(DRAWN)])
def test_no_training_example_is_among_the_test_examples(name, load):
    data = load(name)
    assert overlap(data) == 0
    assert list(faults(data)) == []  # finite, labels in range, as many as counted
    # It would be seen if there were some.
    leaking = SimpleNamespace(client_ids=data.client_ids, train=data.train, test=data.train, global_test=data.global_test)
    assert overlap(leaking) == len(counted(*map(data.train, data.client_ids))) > 0


@pytest.mark.parametrize("name", [*NATURAL, *PARTITIONED, *sorted(DRAWN)])
def test_local_tests_are_local(name, load):
    """No client is tested on all test examples, none of these is in two clients' hands, and together they are the global ones."""
    data = load(name)
    local = {client: counted(data.test(client)) for client in data.client_ids}
    if name in WITHOUT_LOCAL_TESTS:
        assert not any(local.values())
        return
    together = sum(local.values(), Counter())
    everybodys = counted(data.global_test)
    assert together <= everybodys
    if set(data.client_ids) >= set(getattr(getattr(data, "_held_out", data), "ids", data.client_ids)):
        assert together == everybodys
    if everybodys.total() > 2:
        assert max(map(Counter.total, local.values())) < everybodys.total()


@pytest.mark.parametrize("name", VERTICAL)
def test_one_party_has_the_labels_and_no_column_is_somebody_elses(name, load):
    data = load(name)
    assert [party for party in data.client_ids if "y" in data.train(party).columns] == [data.holder]
    y = data.train(data.holder).columns["y"].float()
    for party in data.client_ids:
        rows = data.train(party).columns
        assert not any(party == data.holder and torch.equal(column, y) for column in rows["x"].T)
        assert set(rows) == set(data.test(party).columns)


@pytest.mark.parametrize("name", [name for name in NATURAL if name not in WITHOUT_LOCAL_TESTS])
def test_sampling_or_merging_clients_keeps_training_and_test_apart(name, load):
    whole = load(name)
    wanted = len(whole.client_ids) - 1
    for regroup in ("sample", "merge"):
        data = load(name, clients=wanted, regroup=regroup)
        assert (len(data.client_ids), overlap(data)) == (wanted, 0)
        assert counted(data.global_test) == counted(whole.global_test)
        assert counted(*map(data.train, data.client_ids)) <= counted(*map(whole.train, whole.client_ids))


# Weights


class Nothing(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        return self.w.expand(len(x))


class Own(ModelTrainer):
    def loss(self, model, batch):
        return model(batch["x"]) ** 2


@pytest.mark.parametrize("name", [*SOURCES, *sorted(DRAWN)])
def test_weights_are_numbers_of_training_examples(name, load):
    """Not of batches, and not of training and test examples together: in what is counted, averaged, and shown."""
    data = load(name)
    network = Nothing()
    start = ModelState.of(network)
    for client in data.client_ids:
        examples = len(data.train(client).all()["x"])
        party = Client(client, 0, 0, data.train(client), data.test, Own(), Workspace(network))
        assert len(data.train(client)) == examples
        assert party.train is not party.test
        assert CountExamples()(party, start).weight == examples
        for batch_size in (0, 2, 1000):
            assert LocalSGD(lr=0.1, batch_size=batch_size)(party, start).weight == examples
        if name not in VERTICAL:
            assert data.sizes[client] == examples
    if getattr(data, "labelled", False):
        assert data.label_counts().sum(axis=1).tolist() == list(data.sizes.values())


@pytest.mark.parametrize("partition", [Iid(), Dirichlet(alpha=0.1)], ids=str)
@pytest.mark.parametrize("name", PARTITIONED)
def test_spreading_loses_and_doubles_no_example(name, partition, load):
    """The last batch is not dropped, nor a small client."""
    data = load(name, partition=partition, clients=5)
    assert len(data.client_ids) == 5
    assert counted(*map(data.train, data.client_ids)) == counted(data.global_train)
    assert sum(data.sizes.values()) == len(data.global_train)
    seen = [len(batch["y"]) for client in data.client_ids for batch in data.train(client).batches(3)]
    assert sum(seen) == len(data.global_train)


@pytest.mark.parametrize("name", PARTITIONED)
def test_validation_looks_at_no_test_example(name, load):
    data, validation = load(name), load(name, validation=0.3)
    held_out = counted(validation.global_test)
    assert held_out <= counted(data.global_train)
    assert not held_out & counted(data.global_test)
    assert overlap(validation) == 0
    assert len(validation.global_train) + len(validation.global_test) == len(data.global_train)


# Randomness


@pytest.mark.parametrize("name", [*NATURAL, *PARTITIONED])
def test_test_examples_are_the_same_whenever_and_by_whatever_seed_they_are_read(name, load):
    """So nothing is cropped, flipped or cut out at random."""
    first = counted(load(name).global_test)
    other = load(name, seed=1)
    assert first == counted(other.global_test)
    client = other.client_ids[0]
    for which in (other.train, other.test):
        once = counted(which(client))
        if isinstance(other, LazyDataset):
            other._recent.clear()
        assert counted(which(client)) == once


@pytest.mark.parametrize("name", [*SOURCES, *sorted(DRAWN)])
def test_reading_draws_from_nobody_elses_generator(name, load):
    def states():
        return np.random.get_state()[1].tolist(), random.getstate(), torch.get_rng_state().tolist()  # noqa: NPY002

    load(name)
    before = states()
    data = load(name, seed=3)
    for client in data.client_ids:
        data.train(client).all()
    assert len(data.global_test) > 0
    assert states() == before


# Settings that are overridden in silence


@pytest.mark.parametrize("name", NATURAL)
def test_the_clients_that_data_have_are_not_overridden_in_silence(name, load):
    there = len(load(name).client_ids)
    for wanted in (there - 1, there + 1, 1000):
        with pytest.raises(
            ConfigError, match=f"^data.clients = {wanted}: {name} has {there} clients of its own; leave data.clients"
        ):
            load(name, clients=wanted)
    with pytest.raises(ConfigError, match="ask for fewer"):
        load(name, clients=there + 1, regroup="merge")
    assert len(load(name, clients=there).client_ids) == there
    assert len(load(name, clients=1, regroup="merge").client_ids) == 1


@pytest.mark.parametrize("name", [*PARTITIONED, *sorted(DRAWN)])
def test_as_many_clients_as_are_asked_for(name, load):
    if name in PARTITIONED:
        assert load(name, clients=3).client_ids == ("0", "1", "2")
        with pytest.raises(ConfigError, match="clients = 100000"):
            load(name, clients=100_000)


@pytest.mark.parametrize("name", [name for name in VERTICAL if issubclass(KIND[name], TableSource)])
def test_as_many_parties_as_are_asked_for(name, load):
    assert [len(load(name, parties=parties).client_ids) for parties in (2, 3)] == [2, 3]
    for parties in (1, 4):
        with pytest.raises(ConfigError, match=f"parties = {parties}"):
            load(name, parties=parties)


# Sequences


@pytest.mark.parametrize("name", [name for name in NATURAL if name in ("fed_shakespeare", "stackoverflow_nwp")])
def test_the_target_is_the_next_token_at_every_position(name, load):
    data = load(name)
    for client in data.client_ids:
        batch = data.train(client).all()
        x, y = batch["x"], batch["y"]
        assert torch.equal(y[:, :-1], x[:, 1:])
        assert ((y == 0) <= (x.roll(-1, 1) == 0) | (torch.arange(x.shape[1]) == x.shape[1] - 1)).all()
        padded = (x == 0).long()
        assert (padded.diff(dim=1) >= 0).all()  # only at the end


@pytest.mark.parametrize("name", [name for name in NATURAL if name.endswith("shakespeare")])
def test_no_character_has_the_number_of_padding(name, load):
    data = load(name)
    for client in data.client_ids:
        batch = data.train(client).all()
        real = batch["x"][batch["y"] != 0] if batch["y"].dim() > 1 else batch["x"]
        assert real.min() > 0


# Networks

SMALL = {
    "darts": {"channels": 4, "layers": 3},
    "darts_search": {"channels": 4, "layers": 3, "steps": 1, "multiplier": 1},
    "unet": {"width": 8},
    "mobilenet": {"width": 0.25},
    "cnn_mcmahan": {"channels": 4},
}
SHAPES = [(1, 8, 8), (3, 32, 32), (3, 64, 64), (12,)]
# Which ask the data for more than the shape of x, or are trained by an algorithm of their own.
MADE_FOR_THE_DATA = ("darts_search", "matrix_factorization")
# Whose parameters take seconds to draw: networks of torchvision's, compared with those in test_models_vision.
LARGE = 15_000_000


@cache
def build(name):
    """A registered network for the first shape that it fits, and examples for it; None if it fits none of them or is large."""
    spec = models[name](**SMALL.get(name, {}))
    shape = next((shape for shape in SHAPES if spec.fits(shape)), None)
    if shape is None:
        return None
    with torch.device("meta"):
        if sum(p.numel() for p in spec.build(shape, 7).parameters()) > LARGE:
            return None
    torch.manual_seed(0)
    x = torch.rand(4, *shape) if not spec.tokens else torch.randint(1, 7, (4, *shape))
    network = spec.build(shape, 7)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0  # statistics of these examples, without which most of what tells them apart is lost
    with torch.no_grad():
        network.train()(x)
    return network.eval(), x


def built(name):
    if (found := build(name)) is None:
        pytest.skip("large, or a network in parts")
    return found


@pytest.mark.parametrize("name", [name for name in models if name not in ("gan", "darts_search")])
def test_each_example_is_judged_for_itself(name):
    """A recurrence over the batch would mix them, which is what a wrong order of dimensions makes of one over time."""
    network, x = built(name)
    order = torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        found, reordered, alone = network(x), network(x[order]), network(x[1:2])
    spread = (found - found.mean(dim=0)).abs().max().item()
    assert spread > 0
    torch.testing.assert_close(reordered, found[order], rtol=0, atol=2e-3 * spread)
    torch.testing.assert_close(alone, found[1:2], rtol=0, atol=2e-3 * spread)


def test_the_images_a_gan_is_shown_are_judged_each_for_itself():
    network, x = built("gan")
    order = torch.tensor([2, 0, 3, 1])
    assert torch.allclose(network(x)[order, 0], network(x[order])[:, 0])


EVERY_TOKEN = [name for name in models if models[name].tokens and models[name]().labels((12,), 7) == (12,)]


@pytest.mark.parametrize("name", EVERY_TOKEN)
def test_a_later_token_changes_no_earlier_answer_and_an_earlier_one_changes_later_ones(name):
    network, x = built(name)
    with torch.no_grad():
        before = network(x)
        for place in range(x.shape[1]):
            other = x.clone()
            other[:, place] = x[:, place] % 6 + 1
            change = (network(other) - before).abs().amax(dim=(0, 2))
            assert change[:place].eq(0).all()
            assert change[place:].gt(0).all()


def test_language_models_are_among_them():
    assert {"lstm_chars", "lstm_words", "transformer_words"} <= set(EVERY_TOKEN)


WITH_NORM = [name for name in models if "norm" in {field.name for field in dataclasses.fields(models[name])}]


@pytest.mark.parametrize("name", WITH_NORM)
def test_networks_with_group_normalisation_have_none_by_batches(name):
    spec = models[name](**{**SMALL.get(name, {}), "norm": GroupNorm(4)})
    shape = next(shape for shape in SHAPES if spec.fits(shape))
    with torch.device("meta"):
        network = spec.build(shape, 7)
    layers = list(network.modules())
    assert not [layer for layer in layers if "BatchNorm" in type(layer).__name__ or "InstanceNorm" in type(layer).__name__]
    assert any(isinstance(layer, nn.GroupNorm) for layer in layers)
    assert not [key for key, _ in network.named_buffers() if "running" in key or "num_batches" in key]


def test_residual_networks_are_among_them():
    assert {"resnet", "resnet_cifar", "mobilenet", "vgg", "darts"} <= set(WITH_NORM)


NO_CLASSIFIERS = ("autoencoder", "gan", "darts_search")


@pytest.mark.parametrize("name", [name for name in models if name not in NO_CLASSIFIERS])
def test_logits_are_not_squashed(name):
    """Cross entropy takes the softmax itself: a sigmoid before it learns something, and less."""
    network, x = built(name)
    heads = [layer for layer in network.modules() if isinstance(layer, (nn.Linear, nn.Conv2d)) and layer.weight.shape[0] == 7]
    biases = [layer.bias for layer in heads if layer.bias is not None]
    if not biases:
        pytest.skip("the last layer has no bias")
    with torch.no_grad():
        before = network(x)
        biases[-1] += 50
        raised = network(x) - before
        biases[-1] -= 50
    torch.testing.assert_close(raised, torch.full_like(raised, 50), rtol=0, atol=1e-3)


# Pairs


def kinds_of_data(load):
    """Columns of each kind: what a network can know of a data set before it is trained."""
    found = {}
    for name in sorted({*NATURAL, *PARTITIONED, *DRAWN} - {"gld160k"}):
        try:
            data = load(name)
        except pytest.skip.Exception:
            continue
        columns = {column: values[:1] for column, values in data.global_test.columns.items()}
        key = tuple((column, values.dtype, values.shape) for column, values in columns.items())
        found[key] = (columns, data.classes)
    return found.values()


def answer(spec, columns, classes):
    """None, or the networks that are named as fitting where this one does not."""
    try:
        check_shape(spec, tuple(columns["x"].shape[1:]))
        check_columns(spec, columns, classes)
    except ConfigError as error:
        return set(str(error).partition("models that fit: ")[2].split(", "))
    return None


def test_a_network_that_does_not_fit_is_refused_with_those_that_do(load):
    kinds = kinds_of_data(load)
    assert len(kinds) >= 8
    for columns, classes in kinds:
        answers = {name: answer(models[name](), columns, classes) for name in models}
        fitting = {name for name, found in answers.items() if found is None}
        assert fitting
        assert fitting < set(answers)
        shape = tuple(columns["x"].shape[1:])
        for name, found in answers.items():
            if found is not None:
                # Who does not take this shape hears of all that do, whatever they learn.
                wanted = fitting if models[name].fits(shape) else {other for other in models if models[other].fits(shape)}
                assert found == wanted, name


def test_what_fits_can_be_trained(load):
    """One step on one example, without numbers: shapes and types go together, and there is one loss for each example."""
    seen = set()
    for columns, classes in kinds_of_data(load):
        for name in models:
            spec = models[name](**SMALL.get(name, {}))
            unknown = name in MADE_FOR_THE_DATA or (classes is None and spec.labels((), None) is None)
            if name in seen or unknown or answer(spec, columns, classes) is not None:
                continue
            seen.add(name)
            with torch.device("meta"):
                network = spec.build(tuple(columns["x"].shape[1:]), classes).eval()
                batch = {column: values.to("meta") for column, values in columns.items()}
                assert spec.trainer().loss(network, batch).shape == (1,), name


def test_examples_are_compared_by_all_of_their_columns():
    """What the first test rests on."""
    one = Examples({"x": torch.tensor([[1.0], [2.0]]), "y": torch.tensor([0, 1])})
    other = Examples({"x": torch.tensor([[1.0], [2.0]]), "y": torch.tensor([1, 1])})
    assert (counted(one) & counted(other)).total() == 1
