"""LocalSGD against torch's own optimizer, the contract of the trainer, and the imperative door."""

import copy
import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fedml_core import tree
from fedml_core.errors import ConfigError, TrainerError
from fedml_core.federation import Client, FullGradient, LocalSGD, Workspace
from fedml_core.trainer import (
    Adaptive,
    Classifier,
    Clip,
    Cosine,
    Examples,
    Exponential,
    LocalContext,
    ModelState,
    ModelTrainer,
    Momentum,
    Proximal,
)
from fedml_core.trainer.gradients import gradients
from tests.oracles.fedavg import client_update


def make_client(network, dataset, trainer=None, id="c1", round=0, seed=3):
    work = Workspace(copy.deepcopy(network))
    return Client(id, round, seed, dataset.train(id), dataset.test, trainer or Classifier(), work)


def orders(client, passes, batch_size):
    draw = client.rng("batches")
    n = len(client.train)
    return [torch.from_numpy(draw.permutation(n)) if batch_size else torch.arange(n) for _ in range(passes)]


def train(local, client, network):
    start = tree.clone(ModelState.of(network))
    return tree.add(start, local(client, start).value)


@pytest.mark.parametrize(
    "settings",
    [
        {"lr": 0.1},
        {"lr": 0.1, "epochs": 3, "batch_size": 4},
        {"lr": 0.1, "batch_size": 0, "epochs": 2},
        {"lr": 0.1, "batch_size": 4, "epochs": 2, "momentum": 0.9},
        {"lr": 0.1, "batch_size": 4, "epochs": 2, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
        {"lr": 0.1, "batch_size": 100, "weight_decay": 0.1},
    ],
)
def test_equals_torch_sgd(settings, dataset, network):
    client = make_client(network, dataset)
    ours = train(LocalSGD(**settings), client, network)
    batch_size, passes = settings.get("batch_size", 20), settings.get("epochs", 1)
    options = {name: settings[name] for name in ("lr", "momentum", "nesterov", "weight_decay") if name in settings}
    batch = client.train.all()
    theirs = client_update(
        copy.deepcopy(network), batch["x"], batch["y"], orders(client, passes, batch_size), batch_size, **options
    )
    for name, value in ours.params.items():
        torch.testing.assert_close(value, theirs[name], atol=1e-6, rtol=0)


def test_clipping_equals_torchs(dataset, network):
    client = make_client(network, dataset)
    ours = train(LocalSGD(lr=0.5, batch_size=0, clip=0.1), client, network)
    twin = copy.deepcopy(network)
    batch = client.train.all()
    F.cross_entropy(twin(batch["x"]), batch["y"]).backward()
    assert nn.utils.clip_grad_norm_(twin.parameters(), 0.1) > 0.1  # or the test would show nothing
    for (name, value), param in zip(ours.params.items(), twin.parameters(), strict=True):
        torch.testing.assert_close(value, param.detach() - 0.5 * param.grad, atol=1e-7, rtol=0, msg=name)


def test_proximal_term_has_the_gradient_of_its_definition(dataset, network):
    mu, client = 0.7, make_client(network, dataset)
    ours = train(LocalSGD(lr=0.1, batch_size=0, epochs=4, transforms=(Proximal(mu),)), client, network)
    twin, anchor, batch = copy.deepcopy(network), list(network.parameters()), client.train.all()
    for _ in range(4):
        penalty = sum(((w - a.detach()) ** 2).sum() for w, a in zip(twin.parameters(), anchor, strict=True))
        loss = F.cross_entropy(twin(batch["x"]), batch["y"]) + mu / 2 * penalty
        for w, grad in zip(twin.parameters(), torch.autograd.grad(loss, list(twin.parameters())), strict=True):
            w.data -= 0.1 * grad
    for value, param in zip(ours.params.values(), twin.parameters(), strict=True):
        torch.testing.assert_close(value, param.detach(), atol=1e-6, rtol=0)


def test_drift_falls_as_mu_grows(dataset, network):
    client = make_client(network, dataset)
    start = tree.clone(ModelState.of(network))
    drift = [tree.norm(LocalSGD(epochs=5, transforms=(Proximal(mu),))(client, start).value) for mu in (0.0, 0.5, 2.0)]
    assert drift[0] > 1.1 * drift[1] > 1.1 * drift[2]


def test_steps_string_passes_together(dataset, network):
    client = make_client(network, dataset)
    n = len(client.train)
    batches = list(LocalSGD(steps=10, batch_size=4).batches(client))
    assert len(batches) == 10
    per_pass = -(-n // 4)
    first = torch.cat([batch["x"] for batch in batches[:per_pass]])
    assert sorted(first[:, 0].tolist()) == sorted(client.train.all()["x"][:, 0].tolist())
    assert list(map(len, (b["x"] for b in batches[per_pass : 2 * per_pass]))) == [4] * (n // 4) + [n % 4] * (n % 4 > 0)


def test_batches_depend_on_seed_round_and_client_and_nothing_else(dataset, network):
    def seen(**kwargs):
        return torch.cat([b["x"] for b in LocalSGD(batch_size=4).batches(make_client(network, dataset, **kwargs))])

    assert torch.equal(seen(), seen())
    assert not torch.equal(seen(), seen(round=1))
    assert not torch.equal(seen(), seen(seed=4))


def test_reply_counts_examples_and_averages_the_loss_over_visits(dataset, network):
    client = make_client(network, dataset)
    start = tree.clone(ModelState.of(network))
    reply = LocalSGD(lr=1e-12, batch_size=4, epochs=2)(client, start)
    batch = client.train.all()
    assert reply.weight == len(client.train)
    assert reply.metrics["loss"].count == 2 * len(client.train)
    assert reply.metrics["loss"].value == pytest.approx(F.cross_entropy(network(batch["x"]), batch["y"]).item(), abs=1e-6)


def test_the_servers_model_is_not_written_into(dataset, network):
    start = tree.clone(ModelState.of(network))
    before = tree.digest(start)
    client = make_client(network, dataset)
    first = LocalSGD(momentum=0.9, clip=1.0)(client, start)
    assert tree.digest(start) == before
    assert tree.digest(LocalSGD(momentum=0.9, clip=1.0)(client, start).value) == tree.digest(first.value)


def test_gradients_equal_autograd_and_are_zero_for_unused_parameters():
    torch.manual_seed(0)
    used, unused = nn.Linear(3, 2), nn.Parameter(torch.ones(2))
    x, y, w = torch.randn(4, 3), torch.tensor([0, 1, 1, 0]), torch.tensor([0.1, 0.2, 0.3, 0.4])
    losses = F.cross_entropy(used(x), y, reduction="none")
    expected = torch.autograd.grad((w * losses).sum(), list(used.parameters()), retain_graph=True)
    found = gradients(losses, w, [*used.parameters(), unused])
    for ours, theirs in zip(found, (*expected, torch.zeros(2)), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_buffers_are_part_of_the_change(dataset):
    network = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    reply = LocalSGD(batch_size=4)(make_client(network, dataset), tree.clone(ModelState.of(network)))
    assert set(reply.value.buffers) == {"1.running_mean", "1.running_var"}
    assert reply.value.buffers["1.running_mean"].abs().sum() > 0


class MeanLoss(ModelTrainer):
    def loss(self, model, batch):
        return F.cross_entropy(model(batch["x"]), batch["y"])


def test_a_loss_that_is_already_averaged_is_refused(dataset, network):
    with pytest.raises(TrainerError, match=r"one value per example, a tensor of shape \[15\]; got shape \[\]"):
        LocalSGD()(make_client(network, dataset, MeanLoss()), ModelState.of(network))


class OwnLoop(MeanLoss):
    def train(self, model, batches):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for batch in batches:
            optimizer.zero_grad()
            self.loss(model, batch).backward()
            optimizer.step()


def test_an_imperative_trainer_equals_the_same_loop_by_loss(dataset, network):
    local = LocalSGD(lr=0.1, batch_size=4, epochs=2)
    ours = train(local, make_client(network, dataset, OwnLoop()), network)
    reference = train(local, make_client(network, dataset), network)
    for a, b in zip(tree.tensors(ours), tree.tensors(reference), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)


def test_an_imperative_trainer_cannot_have_transforms(dataset, network):
    with pytest.raises(TrainerError, match="out of reach of Clip, Proximal"):
        LocalSGD(clip=1.0, transforms=(Proximal(1.0),))(make_client(network, dataset, OwnLoop()), ModelState.of(network))


def test_a_client_without_examples_weighs_nothing(dataset, network):
    client = make_client(network, dataset)
    empty = Client(
        "e", 0, 0, Examples(client.train.columns, torch.empty(0, dtype=torch.int64)), client.tests, client.trainer, client.workspace
    )
    reply = LocalSGD(batch_size=0, steps=3)(empty, tree.clone(ModelState.of(network)))
    assert reply.weight == 0
    assert tree.norm(reply.value) == 0


def test_full_gradient_is_that_of_all_examples_at_the_servers_model(dataset, network):
    client, start = make_client(network, dataset), tree.clone(ModelState.of(network))
    batch = client.train.all()
    loss = F.cross_entropy(network(batch["x"]), batch["y"])
    reply = FullGradient()(client, start)
    assert list(reply.value) == list(start.params)
    for found, wanted in zip(reply.value.values(), torch.autograd.grad(loss, list(network.parameters())), strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)
    assert (reply.weight, reply.metrics["loss"].value) == (15, pytest.approx(loss.item(), rel=1e-6))
    with pytest.raises(TrainerError, match="out of reach"):
        FullGradient()(make_client(network, dataset, OwnLoop()), start)


def test_schedules():
    assert [Exponential(0.8, 0.5, every=2)(r) for r in (0, 2, 4)] == pytest.approx([0.8, 0.4, 0.2])
    assert [Cosine(1.0, 10, final=0.2)(r) for r in (0, 5, 10, 15)] == pytest.approx([1.0, 0.6, 0.2, 0.2])


def test_a_schedule_sets_the_rate_of_the_round(dataset, network):
    start = tree.clone(ModelState.of(network))
    change = [
        tree.norm(LocalSGD(lr=lr, batch_size=0)(make_client(network, dataset, round=3), start).value)
        for lr in (Exponential(0.4, 0.5), 0.05)
    ]
    assert change[0] == pytest.approx(change[1], rel=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": 0.0}, r"LocalSGD.lr = 0.0: expected float > 0.0"),
        ({"epochs": 1, "steps": 2}, "both given"),
        ({"nesterov": True}, "needs momentum"),
        ({"momentum": 1.0}, "expected float < 1.0"),
        ({"batch_size": -1}, ">= 0"),
        ({"transforms": ("clip",)}, "tuple of GradientTransform"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        LocalSGD(**settings)


def test_examples_views_agree_with_plain_indexing():
    draw = np.random.default_rng(0)
    columns = {"x": torch.from_numpy(draw.normal(size=(50, 3000))), "y": torch.arange(50)}
    rows = torch.from_numpy(draw.permutation(50)[:41])
    for examples, picked in ((Examples(columns), torch.arange(50)), (Examples(columns, rows), rows)):
        assert len(examples) == len(picked)
        for size in (1, 7, 41, 100):
            batches = list(examples.batches(size))
            assert [len(b["y"]) for b in batches] == [min(size, len(picked) - s) for s in range(0, len(picked), size)]
            for name, column in columns.items():
                assert torch.equal(torch.cat([b[name] for b in batches]), column[picked])
        some = torch.tensor([3, 1, 3])
        assert torch.equal(examples.take(some)["y"], columns["y"][picked[some]])
        assert torch.equal(examples.subset(some).all()["y"], columns["y"][picked[some]])
    with pytest.raises(ValueError, match="same number of rows"):
        Examples({"x": torch.ones(2), "y": torch.ones(3)})


def test_orders_are_not_sorted(dataset, network):
    """Guards the oracle itself: shuffled orders must differ between passes, or epochs would prove nothing."""
    client = make_client(network, dataset)
    assert len({tuple(order.tolist()) for order in itertools.chain(orders(client, 3, 4))}) == 3


class Shared(nn.Module):
    """Two parameters that autograd gives one gradient, and one whose gradient is expanded."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.common, self.personal = nn.Parameter(torch.randn(3, 5)), nn.Parameter(torch.randn(3, 5))
        self.scale = nn.Parameter(torch.randn(4))

    def forward(self, x):
        return F.linear(x, self.common + self.personal) * self.scale.sum()


@pytest.mark.parametrize(
    "options", [{"weight_decay": 0.5}, {"momentum": 0.9, "nesterov": True}, {"momentum": 0.9, "weight_decay": 0.1}], ids=str
)
def test_parameters_that_share_a_gradient_are_stepped_once(dataset, options):
    client = make_client(Shared(), dataset)
    ours = train(LocalSGD(lr=0.05, batch_size=4, epochs=2, **options), client, Shared())
    batch = client.train.all()
    theirs = client_update(Shared(), batch["x"], batch["y"], orders(client, 2, 4), 4, lr=0.05, **options)
    for name, value in ours.params.items():
        torch.testing.assert_close(value, theirs[name], atol=1e-6, rtol=0)


def test_integer_buffers_do_not_travel_from_client_to_client(dataset):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4, momentum=None), nn.Linear(4, 3))
    start, local = tree.clone(ModelState.of(network)), LocalSGD(batch_size=6, drop_last=True)
    client = make_client(network, dataset)
    alone = tree.digest(local(client, start).value)
    local(client, start)
    assert tree.digest(local(client, start).value) == alone


def test_drop_last_leaves_out_what_is_not_full(dataset, network):
    client = make_client(network, dataset)  # 15 examples
    sizes = [len(batch["y"]) for batch in LocalSGD(batch_size=4, drop_last=True).batches(client)]
    assert sizes == [4, 4, 4]
    assert [len(batch["y"]) for batch in LocalSGD(batch_size=20, drop_last=True).batches(client)] == [15]


class Averaged(Classifier):
    def metrics(self, model, batch):
        return {"accuracy": super().metrics(model, batch)["accuracy"].mean()}


def test_metrics_that_are_already_averaged_are_refused(dataset, network):
    with pytest.raises(TrainerError, match=r"accuracy must have one value per example.*\[16\]; got shape \[\]"):
        Averaged().test(network, dataset.global_test)


class Named(Classifier):
    def loss(self, model, batch):
        return F.cross_entropy(model(input=batch["x"]), batch["y"], reduction="none")


def test_a_network_may_be_called_by_keyword(dataset, network):
    assert Named().test(network, dataset.global_test) == pytest.approx(Classifier().test(network, dataset.global_test))


def test_reach_is_the_sum_of_the_weights_that_gradients_have_in_the_change():
    """Wang et al., NeurIPS 2020, section 3: SGD, momentum, proximal. Nesterov's direction is g + rho v."""
    steps = torch.tensor([0.0, 1.0, 2.0, 7.0], dtype=torch.float64)
    t, rho, lr, mu = np.array([1.0, 1.0, 2.0, 7.0]), 0.8, 0.5 * 0.9**4, 0.3
    momentum = (t - rho * (1 - rho**t) / (1 - rho)) / (1 - rho)
    expected = {
        LocalSGD(lr=0.1, clip=1.0, weight_decay=0.2): t,
        LocalSGD(lr=0.1, momentum=rho, weight_decay=0.2): momentum,
        LocalSGD(lr=0.1, transforms=(Momentum(rho), Clip(1.0))): momentum,
        LocalSGD(lr=0.1, momentum=rho, nesterov=True): t + rho * momentum,
        LocalSGD(lr=Exponential(0.5, 0.9), transforms=(Proximal(mu),)): (1 - (1 - lr * mu) ** t) / (lr * mu),
    }
    for local, wanted in expected.items():
        np.testing.assert_allclose(local.reach(steps, 4), wanted, rtol=1e-12)
    both = LocalSGD(lr=0.5, momentum=rho, transforms=(Proximal(mu),))
    # v1 = 1; v2 = rho + 1 - lr mu; p = v1 + v2
    assert both.reach(torch.tensor(2.0), 0).item() == pytest.approx(1 + rho + 1 - 0.5 * mu, rel=1e-12)


def test_dot_and_norm_are_per_client_when_stacked():
    torch.manual_seed(0)
    one, other = [torch.randn(3, 2, 4), torch.randn(3)], [torch.randn(3, 2, 4), torch.randn(3)]
    stacked, alone = LocalContext([], None, None, 0, stacked=True), LocalContext([], None, None, 0)
    for k in range(3):
        mine, theirs = [part[k] for part in one], [part[k] for part in other]
        wanted = float(sum((a * b).sum() for a, b in zip(mine, theirs, strict=True)))
        assert stacked.dot(one, other)[k].item() == pytest.approx(wanted, abs=1e-6)
        assert alone.dot(mine, theirs).item() == pytest.approx(wanted, abs=1e-6)
        assert stacked.norm(one)[k].item() ** 2 == pytest.approx(alone.dot(mine, mine).item(), rel=1e-5)


def test_adam_as_a_link_is_torchs():
    torch.manual_seed(0)
    param = torch.nn.Parameter(torch.randn(4))
    other = [param.detach().clone()]
    adam, link = torch.optim.Adam([param], lr=0.1, betas=(0.5, 0.9), eps=1e-3), Adaptive(0.5, 0.9, 1e-3)
    state, context = link.init(other), LocalContext(other, None, None, 0)
    for _ in range(5):
        param.grad = torch.randn(4)
        direction, state = link.update([param.grad.clone()], state, other, context)
        torch._foreach_add_(other, direction, alpha=-0.1)
        adam.step()
        assert torch.allclose(param, other[0], atol=1e-6)


def test_a_part_of_a_workspace_is_trained_by_itself():
    """The rest neither moves nor is it asked for; what counts batches starts anew, whoever has been here before."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 4), nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, momentum=None)))
    whole = Workspace(network, torch.bfloat16)
    network(torch.randn(6, 5))
    part = whole.part(network[1])
    assert part.precision == torch.bfloat16
    assert list(part.view.params) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    part.load(tree.clone(ModelState.of(network[1])))
    assert network[1][1].num_batches_tracked == 0
    before = network[0].weight.detach().clone()
    part.precision = None
    part.descend(Classifier(), {"x": torch.randn(6, 4), "y": torch.tensor([0, 1, 2, 0, 1, 2])}, 0.1)
    assert torch.equal(network[0].weight, before)
    assert network[0].weight.grad is None
