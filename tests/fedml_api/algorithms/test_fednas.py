"""FedNAS: what one local search does, whom it looks at, what the server makes of it, and what it finds that FedAvg does not."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.autograd import grad

from fedml_api import Classifier, Examples, Experiment, FedAvg, FederatedDataset, LocalSGD, ModelTrainer, Standalone, simulate
from fedml_api.algorithms import FedNAS
from fedml_api.model import DartsSearch
from fedml_core.errors import ConfigError, TrainerError
from fedml_core.federation import SGD, Client, WeightedMean
from fedml_core.trainer import Cosine
from tests.conftest import blobs

STILL = LocalSGD(lr=1e-30)  # too little to change a float32
DATA = blobs(2, size=15)


class Mixed(nn.Module):
    """Two linear maps, mixed: y = sum_j softmax(alphas)_j w_j x, of which the loss is quadratic in w."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(7)
        self.alphas = nn.Parameter(torch.tensor([0.2, -0.3]))
        self.w = nn.Parameter(torch.randn(2, 5) * 0.3)

    def forward(self, x):
        return predict(self.w, self.alphas, x)


class Squares(ModelTrainer):
    def loss(self, model, batch):
        return (model(batch["x"]) - batch["y"]) ** 2


def predict(w, alphas, x):
    return (x @ w.T) @ alphas.softmax(0)


def run(algorithm, data=DATA, model=None, rounds=1, trainer=None, **settings):
    every = len(data.client_ids)
    defaults = {"seed": 3, "evaluate_every": rounds, "clients_per_round": every, "rounds": rounds} | settings
    return simulate(Experiment(model or Mixed(), data, trainer or Squares(), algorithm, **defaults))


def alone(data, client):
    return FederatedDataset(data.global_train, data.global_test, {client: data.train(client).index.numpy()}, name="alone")


def client_of(data, id, round=0):
    return Client(id, round, 3, data.train(id), data.test, Squares(), None)


def search(**settings):
    algorithm = FedNAS(**settings)
    return algorithm.algorithm.local


def naive(data, algorithm, momentum, lr, alpha_lr, id="c0"):
    """One client's search in plain PyTorch, on the batches of `Search.visits`; the derivative of the second order is exact."""
    task, client = algorithm.algorithm.local, client_of(data, id)
    course = task.visits(client)
    visited = [client.train.take(rows) for rows in torch.split(course.order, course.lengths)]
    each = {"mixed": 3, "first_order": 2, "second_order": 5}[algorithm.update]
    start = Mixed()
    w, a, velocity = start.w.detach(), start.alphas.detach(), 0.0

    def loss(w, a, batch):
        return ((predict(w, a, batch["x"]) - batch["y"]) ** 2).mean()

    for k in range(0, len(visited), each):
        train, held = (visited[k + 1], visited[k]) if algorithm.update == "first_order" else (visited[k], visited[k + 1])
        w, a = w.detach().requires_grad_(), a.detach().requires_grad_()
        if algorithm.update == "mixed":
            along = grad(loss(w, a, train), a)[0] + algorithm.lam * grad(loss(w, a, held), a)[0]
        elif algorithm.update == "first_order":
            along = grad(loss(w, a, held), a)[0]
        else:
            moved = w - lr * (momentum * velocity + grad(loss(w, a, train), w, create_graph=True)[0])
            along = grad(loss(moved, a, held), a)[0]
        a = (a - alpha_lr * along).detach()
        velocity = momentum * velocity + grad(loss(w, a, train), w)[0]
        w = w - lr * velocity
    return w.detach(), a


@pytest.mark.parametrize(("update", "lam"), [("mixed", 0.7), ("first_order", 1.0), ("second_order", 1.0)])
def test_one_clients_search_is_the_papers(update, lam):
    local, architecture = LocalSGD(lr=0.05, batch_size=4, epochs=2, momentum=0.5), LocalSGD(lr=0.5)
    algorithm, data = FedNAS(local, architecture, update, lam), alone(DATA, "c0")
    found = run(algorithm, data).model.params
    w, alphas = naive(data, algorithm, 0.5, 0.05, 0.5)
    torch.testing.assert_close(found["alphas"], alphas, rtol=1e-4, atol=2e-5)
    torch.testing.assert_close(found["w"], w, rtol=1e-4, atol=2e-5)
    assert (alphas - Mixed().alphas).abs().max() > 0.05


def test_the_second_order_is_not_the_first():
    """The oracles above tell them apart: by a hundred times what they allow for rounding."""
    data, local, architecture = alone(DATA, "c0"), LocalSGD(lr=0.05, batch_size=4, epochs=2), LocalSGD(lr=0.5)
    one, other = (
        run(FedNAS(local, architecture, update), data).model.params["alphas"] for update in ("first_order", "second_order")
    )
    assert (one - other).abs().max() > 2e-3


def test_the_architectures_adam_is_torchs():
    data = alone(DATA, "c0")
    usual = FedNAS().architecture
    algorithm = FedNAS(LocalSGD(lr=1e-30, batch_size=4), replace(usual, lr=0.1), "first_order")
    client = client_of(data, "c0")
    course = algorithm.algorithm.local.visits(client)
    model = Mixed()
    optimizer = torch.optim.Adam([model.alphas], lr=0.1, betas=(0.5, 0.999), weight_decay=1e-3)
    for rows in torch.split(course.order, course.lengths)[::2]:
        batch = client.train.take(rows)
        optimizer.zero_grad()
        Squares().loss(model, batch).mean().backward()
        optimizer.step()
    torch.testing.assert_close(run(algorithm, data).model.params["alphas"], model.alphas.detach(), rtol=1e-6, atol=1e-6)
    assert usual.lr == 3e-4


def test_with_an_architecture_that_stays_it_is_fedavg_on_the_training_split():
    """A third of 12, 15, 18 and 21 examples validates, so that clients weigh as much as with the rest alone."""
    data, local = blobs(4), LocalSGD(lr=0.1, batch_size=5, epochs=2, momentum=0.5)
    algorithm = FedNAS(local, STILL, validation=1 / 3)
    found = run(algorithm, data, rounds=3).model.params
    parts = {}
    for id in data.client_ids:
        train, _ = algorithm.algorithm.local.split(client_of(data, id))
        parts[id] = data.train(id).index[train].numpy()
    fixed = Mixed()
    fixed.alphas.requires_grad_(False)
    halves = FederatedDataset(data.global_train, data.global_test, parts, name="training halves")
    torch.testing.assert_close(found["w"], run(FedAvg(local), halves, fixed, rounds=3).model.params["w"], rtol=1e-5, atol=1e-6)
    assert torch.equal(found["alphas"], Mixed().alphas)


@pytest.mark.parametrize("update", ["mixed", "first_order", "second_order"])
def test_clients_may_be_stacked(update):
    """Each has its own distance for the second derivative; in the conformance matrix is the mixed update."""
    algorithm = FedNAS(LocalSGD(lr=0.1, batch_size=4, momentum=0.5), LocalSGD(lr=0.5), update)
    one, other = (
        run(algorithm, blobs(3), rounds=2, engine=Standalone(executor=executor, processes=1))
        for executor in ("sequential", "stacked")
    )
    assert other.history[1]["executor"].startswith("stacked")
    assert one.sha256 != other.sha256
    for name in ("alphas", "w"):
        torch.testing.assert_close(one.model.params[name], other.model.params[name], rtol=1e-4, atol=1e-5)


def relabelled(data, of_validation):
    """The same data with other labels for the examples that validate, or for those that train."""
    y, parts = data.global_train.columns["y"].clone(), {}
    for id in data.client_ids:
        train, held = search().split(client_of(data, id))
        parts[id] = data.train(id).index.numpy()
        rows = data.train(id).index[held if of_validation else train]
        y[rows] = (y[rows] + 1) % 3
    return FederatedDataset(Examples(data.global_train.columns | {"y": y}), data.global_test, parts, name="relabelled")


def same(algorithm, one, other):
    """Whether alphas and w come to the same."""
    first, second = (run(algorithm, data).model.params for data in (one, other))
    return torch.equal(first["alphas"], second["alphas"]), torch.equal(first["w"], second["w"])


def test_what_each_part_of_the_examples_is_for():
    """With lam = 0 nothing depends on those that validate; in the first order weights that stay leave alpha to these alone."""
    local = LocalSGD(lr=0.05, batch_size=4)
    held, train = (relabelled(DATA, of_validation) for of_validation in (True, False))
    assert same(FedNAS(local, LocalSGD(lr=0.5), lam=0.0), DATA, held) == (True, True)
    assert same(FedNAS(local, LocalSGD(lr=0.5), lam=0.1), DATA, held) == (False, False)
    assert same(FedNAS(LocalSGD(lr=1e-30), LocalSGD(lr=0.5), "first_order"), DATA, train) == (True, True)
    assert same(FedNAS(LocalSGD(lr=0.05, batch_size=4), STILL, "first_order"), DATA, held) == (True, True)


def test_weights_and_architecture_are_averaged():
    """By examples, 15 and 18; the first widely used program computed the mean of alpha and went on with the first client's."""
    algorithm = FedNAS(LocalSGD(lr=0.1, batch_size=5), LocalSGD(lr=1.0))
    together = run(algorithm).model.params
    first, second = (run(algorithm, alone(DATA, id)).model.params for id in DATA.client_ids)
    for name in ("alphas", "w"):
        mean = (15 * first[name] + 18 * second[name]) / 33
        torch.testing.assert_close(together[name], mean, rtol=1e-5, atol=1e-6)
        assert (first[name] - second[name]).abs().max() > 0.01
        half = run(replace(algorithm, server=SGD(lr=0.5), aggregator=WeightedMean(by="clients"))).model.params[name]
        start = dict(Mixed().named_parameters())[name].detach()
        torch.testing.assert_close(half, (start + (first[name] + second[name]) / 2) / 2, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("update", ["mixed", "first_order", "second_order"])
def test_examples_that_validate_never_train(update):
    task = search(update=update, validation=0.3, local=LocalSGD(batch_size=4, epochs=2))
    kinds = {"mixed": "tvt", "first_order": "vt", "second_order": "tvttt"}[update]
    splits = []
    for round in (0, 5):
        client = client_of(DATA, "c1", round)
        train, held = task.split(client)
        splits.append(held.tolist())
        assert sorted(train.tolist() + held.tolist()) == list(range(18))
        assert len(held) == 5  # 0.3 * 18
        course = task.visits(client)
        batches = torch.split(course.order, course.lengths)
        assert len(batches) == 2 * 4 * len(kinds)  # two passes over 13 examples, four at a time
        for k, batch in enumerate(batches):
            part = train if kinds[k % len(kinds)] == "t" else held
            assert set(batch.tolist()) <= set(part.tolist())
        trained = [batch for k, batch in enumerate(batches) if k % len(kinds) == len(kinds) - 1]
        assert torch.cat(trained).sort().values.tolist() == sorted(2 * train.tolist())
        within = [batches[k] for k in range(len(kinds)) if kinds[k] == "t"]
        assert all(torch.equal(batch, within[0]) for batch in within)
        assert all(len(batch) == 4 for k, batch in enumerate(batches) if kinds[k % len(kinds)] == "v")
    assert splits[0] == splits[1]
    assert task.split(client_of(DATA, "c1"))[1].tolist() != sorted(splits[0])
    orders = [task.visits(client_of(DATA, "c1", round)).order for round in (0, 5)]
    assert not torch.equal(*orders)


def test_clients_with_an_example_or_none():
    sizes = {"none": 0, "one": 1, "two": 2, "many": 12}
    ends = np.cumsum([0, *sizes.values()])
    parts = {id: np.arange(ends[k], ends[k + 1]) for k, id in enumerate(sizes)}
    data = FederatedDataset(DATA.global_train, DATA.global_test, parts, name="small")
    task = search(local=LocalSGD(batch_size=5))
    lengths = {id: task.visits(client_of(data, id)).lengths for id in sizes}
    assert lengths == {"none": [], "one": [], "two": [1, 1, 1], "many": [5, 5, 5, 1, 5, 1]}
    assert [len(part) for part in search(validation=0.9).split(client_of(data, "two"))] == [1, 1]
    assert run(FedNAS(LocalSGD(batch_size=5)), data).last["test_loss"] > 0


class Memory(nn.Module):
    """Logits of three classes, from a table with a row for every example, or from what the examples look like."""

    def __init__(self, examples):
        super().__init__()
        torch.manual_seed(1)
        self.table, self.look = nn.Parameter(torch.zeros(examples, 3)), nn.Linear(5, 3)
        self.alphas = nn.Parameter(torch.zeros(2))

    def forward(self, x):
        table, look = self.alphas.softmax(0)
        return 5 * table * self.table[x[:, 5].long()] + look * self.look(x[:, :5])


def test_unlike_fedavg_it_is_not_taken_in_by_what_has_only_been_memorised():
    """Two labels of five are noise, which only the table can fit, example by example: FedAvg trusts it, FedNAS sees it fail."""
    data = blobs(3, size=30)
    columns, draw = data.global_train.columns, torch.Generator().manual_seed(0)
    count = len(columns["y"])
    y = torch.where(torch.rand(count, generator=draw) < 0.4, torch.randint(0, 3, (count,), generator=draw), columns["y"])
    examples = Examples({"x": torch.cat([columns["x"], torch.arange(count)[:, None].float()], dim=1), "y": y})
    parts = {id: data.train(id).index.numpy() for id in data.client_ids}
    numbered = FederatedDataset(examples, examples, parts, classes=3, name="numbered")
    local, trust = LocalSGD(lr=0.3, batch_size=0, epochs=5), []
    for algorithm in (FedNAS(local, LocalSGD(lr=0.3), "first_order"), FedAvg(local)):
        found = run(algorithm, numbered, Memory(count), rounds=20, trainer=Classifier()).model
        trust.append(found.params["alphas"].softmax(0)[0].item())
    assert trust[0] < 0.4
    assert trust[1] > 0.75


def images(count=24):
    draw = torch.Generator().manual_seed(0)
    columns = {"x": torch.rand(count, 1, 4, 4, generator=draw), "y": torch.arange(count) % 3}
    parts = {"0": np.arange(count // 2), "1": np.arange(count // 2, count)}
    return FederatedDataset(Examples(columns), Examples(columns), parts, classes=3, name="images")


def test_the_temperature_falls_over_the_rounds():
    network = DartsSearch(channels=4, layers=1, steps=1, multiplier=1, sampling="gumbel").build((1, 4, 4), 3)
    algorithm = FedNAS(LocalSGD(batch_size=6), update="first_order", temperature=Cosine(10.0, rounds=4, final=1.0))
    for rounds, tau in ((1, 10.0), (3, 5.5)):
        found = run(algorithm, images(), network, rounds=rounds, trainer=Classifier()).model
        assert found.buffers["tau"].item() == pytest.approx(tau)
        assert not torch.equal(found.params["alphas_reduce"], network.alphas_reduce)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"names": ("beta*",)}, "none of the model's parameters"),
        ({"names": ("*",)}, "all of the model's parameters"),
        ({"temperature": 1.0}, "sampling=gumbel"),
    ],
)
def test_a_network_that_does_not_fit_is_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        run(FedNAS(**settings))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"architecture": LocalSGD(steps=3)}, "architecture.steps"),
        ({"update": "first_order", "lam": 0.5}, "lam = 0.5"),
        ({"validation": 0.0}, "validation = 0.0"),
    ],
)
def test_bad_settings_are_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        FedNAS(**settings)


def test_the_search_needs_gradients():
    class Own(Squares):
        def train(self, model, batches):
            pass

    with pytest.raises(TrainerError, match="overrides train"):
        run(FedNAS(LocalSGD(batch_size=5)), trainer=Own())
