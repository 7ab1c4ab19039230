"""Traced steps against the gradients of each client by itself, computed by autograd as a user would write it."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fedml_api.model import LogisticRegression, McMahanCNN, ReddiCNN, TwoNN, WordLSTM
from fedml_core.errors import TrainerError
from fedml_core.trainer import Classifier, ModelTrainer, NextToken, graph
from fedml_core.trainer.graph import keep_with_probability
from fedml_core.trainer.traced import TracedStep

IMAGE = (1, 12, 12)


class Tied(nn.Module):
    """W + V: autograd hands both parameters one gradient; and one parameter has no part in the loss."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.idle = (nn.Parameter(torch.randn(144, 3)) for _ in range(3))

    def forward(self, x):
        return x.flatten(1) @ (self.a + self.b)


class Product(nn.Module):
    """p * q: the gradient of each is made of the other's value, so that neither may move before both are known."""

    def __init__(self):
        super().__init__()
        self.p, self.q = nn.Parameter(torch.randn(3)), nn.Parameter(torch.randn(3))

    def forward(self, x):
        return (self.p * self.q).expand(x.shape[0], 3)


class Writer(nn.Module):
    """Writes in place where it can."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(144, 8), nn.ReLU(inplace=True), nn.Linear(8, 3))

    def forward(self, x):
        hidden = self.layers[1](self.layers[0](x))
        hidden += 1
        twice = hidden * 2
        hidden = self.layers[2](hidden)
        return self.layers[3](hidden * twice)


def split(x):
    first, second = x.flatten(1).chunk(2, dim=1)
    return torch.cat([torch.tanh(second), torch.sigmoid(first) * second], dim=1)


class Split(nn.Module):
    """Views of one tensor, some of them still needed when another is done with."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(144, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.last(split(self.first(x.flatten(1))))


def without_dropout(module):
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    return module


NETWORKS = {
    "lr": lambda: LogisticRegression().build(IMAGE, 3),
    "2nn": lambda: TwoNN(hidden=9).build(IMAGE, 3),
    "cnn": lambda: without_dropout(ReddiCNN().build(IMAGE, 3)),
    "cnn_mcmahan": lambda: McMahanCNN().build(IMAGE, 3),
    "norm": lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(400, 3)),
    "tied": Tied,
    "product": Product,
    "writer": Writer,
    "split": Split,
}


def by_itself(trainer, module, batch, weights):
    """Losses and gradients of one client, the plain way."""
    module = copy.deepcopy(module)
    losses = trainer.loss(module, batch)
    (losses * weights).sum().backward()
    return losses.detach(), [torch.zeros_like(p) if p.grad is None else p.grad for p in module.parameters() if p.requires_grad]


def moved(module, k):
    other = copy.deepcopy(module)
    with torch.no_grad():
        for part in other.parameters():
            part.mul_(1 + 0.1 * k)
    return other


def params_of(module):
    return [part.detach() for part in module.parameters() if part.requires_grad]


@pytest.mark.parametrize("clients", [None, 1, 3])
@pytest.mark.parametrize("name", NETWORKS)
def test_matches_each_client_by_itself(name, clients):
    """In float64: rounding, which depends on where tensors lie in memory, must not decide on which side of a ReLU one is."""
    torch.manual_seed(0)
    trainer, module, rows = Classifier(), NETWORKS[name]().train().double(), 5
    models = [moved(module, k) for k in range(clients or 1)]
    batches = [{"x": torch.randn(rows, *IMAGE, dtype=torch.float64), "y": torch.randint(0, 3, (rows,))} for _ in models]
    shares = [torch.tensor([0.5, 0.2, 0.2, 0.1, 0.0], dtype=torch.float64)[torch.randperm(rows)] for _ in models]
    wanted = [by_itself(trainer, *of) for of in zip(models, batches, shares, strict=True)]
    if clients is None:
        params, batch, weights = params_of(copy.deepcopy(models[0])), batches[0], shares[0]
        wanted_losses, wanted_grads = wanted[0]
    else:
        params = [torch.stack(parts) for parts in zip(*map(params_of, models), strict=True)]
        batch = {column: torch.stack([one[column] for one in batches]) for column in ("x", "y")}
        weights = torch.stack(shares)
        wanted_losses = torch.stack([losses for losses, _ in wanted])
        wanted_grads = [torch.stack(parts) for parts in zip(*(grads for _, grads in wanted), strict=True)]
    step = TracedStep(trainer, module, params, batch, weights, stacked=clients is not None)
    before = [part.clone() for part in params]
    losses, grads = step.gradients(params, batch, weights)
    torch.testing.assert_close(losses, wanted_losses, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(grads, wanted_grads, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(params, before, rtol=0, atol=0)

    for rate in (0.1, 0.05):  # the rate is an argument of the step, not a part of it
        at = [part.clone() for part in before]
        losses = step.descend(at, batch, weights, rate)
        torch.testing.assert_close(losses, wanted_losses, rtol=1e-9, atol=1e-12)
        expected = [old - rate * grad for old, grad in zip(before, wanted_grads, strict=True)]
        torch.testing.assert_close(at, expected, rtol=1e-9, atol=1e-12)


LOSSES = {
    "labels": lambda z, y: F.cross_entropy(z, y, reduction="none"),
    "labels, some of them ignored": lambda z, y: F.cross_entropy(z, torch.where(y == 2, -100, y), reduction="none"),
    "labels, by hand": lambda z, y: F.log_softmax(z, -1).gather(1, y.unsqueeze(1)).squeeze(1),
    "weighted classes": lambda z, y: F.cross_entropy(z, y, z.new_tensor([1.0, 0.5, 2.0]), reduction="none"),
    "smoothed labels": lambda z, y: F.cross_entropy(z, y, label_smoothing=0.1, reduction="none"),
    "distributions": lambda z, y: -(F.softmax(z.flip(1).detach(), 1) * F.log_softmax(z, 1)).sum(1),
    "entropy": lambda z, y: -(F.log_softmax(z, 1) * F.log_softmax(z, 1).exp()).sum(1),
    "softmax of many": lambda z, y: F.log_softmax(z.repeat(1, 40), 1)[:, 0],
}


@pytest.mark.parametrize("scale", [1.0, 200.0])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("stacked", [False, True])
def test_softmax_and_its_gradient_for_any_use(loss, stacked, scale):
    """Logits in the hundreds overflow where a softmax is written out carelessly."""
    torch.manual_seed(0)

    class Trainer(Classifier):
        def loss(self, model, batch):
            return LOSSES[loss](model(batch["x"]), batch["y"])

    trainer, module = Trainer(), nn.Sequential(nn.Linear(4, 3)).double()
    batch = {"x": scale * torch.randn(2, 5, 4, dtype=torch.float64), "y": torch.randint(0, 3, (2, 5))}
    weights = torch.tensor([[0.4, 0.3, 0.3, 0, 0], [0.2] * 5], dtype=torch.float64)
    wanted = [by_itself(trainer, module, {c: column[k] for c, column in batch.items()}, weights[k]) for k in range(2)]
    params = [torch.stack([part, part]) for part in params_of(module)]
    if not stacked:
        params, batch, weights = params_of(module), {c: column[0] for c, column in batch.items()}, weights[0]
    step = TracedStep(trainer, module, params, batch, weights, stacked, natural={"y"})
    losses, grads = step.gradients(params, batch, weights)
    pick = (lambda parts: torch.stack(parts)) if stacked else (lambda parts: parts[0])
    torch.testing.assert_close(losses, pick([losses for losses, _ in wanted]), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(grads, [pick(list(part)) for part in zip(*(grads for _, grads in wanted), strict=True)])


class Turned(nn.Module):
    """A dense layer whose weights lie as (in, out), without a bias."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs) / inputs**0.5)

    def forward(self, x):
        return x @ self.weight


SHORT = {
    "a last layer": (nn.Linear(200, 10), 20, torch.float32, True),
    "of few rows": (nn.Linear(200, 100), 3, torch.float32, True),
    "without a bias": (nn.Linear(784, 10, bias=False), 5, torch.float32, True),
    "weights the other way round": (Turned(784, 10), 5, torch.float32, True),
    "a short inner dimension": (nn.Linear(100, 10), 20, torch.float32, False),
    "hardly anything": (nn.Linear(130, 3), 3, torch.float32, False),
    "many rows and columns": (nn.Linear(128, 20), 20, torch.float32, False),
    "more than one thread's worth": (nn.Linear(3000, 10), 20, torch.float32, False),
    "double precision": (nn.Linear(200, 10), 20, torch.float64, False),
}


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("kind", SHORT)
def test_numpy_multiplies_short_matrices_where_it_is_faster(kind, fast, monkeypatch):
    monkeypatch.setattr(graph, "numpy_is_fast", lambda: fast)
    torch.manual_seed(0)
    module, rows, dtype, short = SHORT[kind]
    module, trainer = copy.deepcopy(module).to(dtype), Classifier()
    inputs, classes = module.weight.shape if isinstance(module, Turned) else module.weight.shape[::-1]
    batch = {"x": torch.randn(3, rows, inputs, dtype=dtype), "y": torch.randint(0, classes, (3, rows))}
    weights = torch.full((3, rows), 1 / rows, dtype=dtype)
    params = [torch.stack(parts) for parts in zip(*(params_of(moved(module, k)) for k in range(3)), strict=True)]
    step = TracedStep(trainer, module, params, batch, weights, stacked=True)
    assert ("short_product" in step.code) == (short and fast)
    losses, grads = step.gradients(params, batch, weights)
    for k in range(3):
        found = by_itself(trainer, moved(module, k), {name: column[k] for name, column in batch.items()}, weights[k])
        torch.testing.assert_close((losses[k], [grad[k] for grad in grads]), (found[0], list(found[1])))
    wanted = [param - 0.1 * grad for param, grad in zip(params, grads, strict=True)]
    torch.testing.assert_close(step.descend(params, batch, weights, 0.1), losses)
    torch.testing.assert_close(params, wanted)


def test_language_model_matches():
    torch.manual_seed(0)
    trainer, module = NextToken(), WordLSTM(embedding=4, hidden=6).build((7,), 11)
    batch = {"x": torch.randint(0, 11, (3, 7)), "y": torch.randint(0, 11, (3, 7))}
    weights = torch.full((3,), 1 / 3)
    params = params_of(copy.deepcopy(module))
    step = TracedStep(trainer, module, params, batch, weights, stacked=False)
    losses, grads = step.gradients(params, batch, weights)
    wanted_losses, wanted = by_itself(trainer, module, batch, weights)
    torch.testing.assert_close(losses, wanted_losses)
    torch.testing.assert_close(grads, wanted, rtol=1e-4, atol=1e-6)


def test_padding_targets_do_not_count():
    logits = torch.randn(2, 3, 5)
    batch = {"x": torch.ones(2, 3, dtype=torch.int64), "y": torch.tensor([[1, 2, 0], [3, 0, 0]])}
    found = NextToken().loss(lambda x: logits, batch)
    wanted = [F.cross_entropy(logits[0, :2], torch.tensor([1, 2])), F.cross_entropy(logits[1, :1], torch.tensor([3]))]
    torch.testing.assert_close(found, torch.stack(wanted))


def test_a_dense_layers_gradient_is_never_written_out():
    module = TwoNN().build(IMAGE, 3)
    batch, weights = {"x": torch.randn(4, *IMAGE), "y": torch.tensor([0, 1, 2, 0])}, torch.full((4,), 0.25)
    params = params_of(module)
    step = TracedStep(Classifier(), module, params, batch, weights, stacked=False)
    step.descend(params, batch, weights, 0.1)
    assert ".addmm_" not in step.code
    fused = step._descend.__self__.code
    assert fused.count(".addmm_(") == 3
    assert fused.count(".add_(") == 3  # the biases
    assert fused.count(".sum(0)") == 3  # of the shape of the biases, without a view of it


def test_dropout_masks_differ_between_clients_and_follow_the_generator():
    module = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(144, 3))
    batch = {"x": torch.ones(2, 4, *IMAGE), "y": torch.zeros(2, 4, dtype=torch.int64)}
    weights = torch.full((2, 4), 0.25)
    params = [part.expand(2, *part.shape).contiguous() for part in params_of(module)]
    step = TracedStep(Classifier(), module.train(), params, batch, weights, stacked=True)
    torch.manual_seed(1)
    losses, _ = step.gradients(params, batch, weights)
    assert len(set(losses.flatten().tolist())) > 6
    torch.manual_seed(1)
    again, _ = step.gradients(params, batch, weights)
    torch.testing.assert_close(again, losses, rtol=0, atol=0)


@pytest.mark.parametrize("keep", [0.0, 0.1, 0.5, 0.75, 1.0])
def test_masks_are_fair(keep):
    torch.manual_seed(0)
    mask = keep_with_probability((1001, 99), (99, 1), keep)
    assert set(mask.unique().tolist()) <= {0.0, 1.0}
    # Five standard deviations of a binomial mean, over all, over rows and between neighbours.
    assert abs(mask.mean().item() - keep) <= 5 * (keep * (1 - keep) / mask.numel()) ** 0.5
    pairs = (mask[:, 1:] * mask[:, :-1]).mean().item()
    assert abs(pairs - keep**2) <= 5 * (keep**2 * (1 - keep**2) / mask.numel()) ** 0.5 * 2


def test_masks_take_the_layout_asked_for():
    assert keep_with_probability((2, 3, 4, 4), (48, 1, 12, 3), 0.5).is_contiguous(memory_format=torch.channels_last)


def test_what_cannot_be_traced_is_said():
    class Branching(ModelTrainer):
        def loss(self, model, batch):
            losses = Classifier().loss(model, batch)
            return losses if losses.mean() > 0 else -losses

    module = LogisticRegression().build(IMAGE, 3)
    batch, weights = {"x": torch.randn(2, 2, *IMAGE), "y": torch.zeros(2, 2, dtype=torch.int64)}, torch.full((2, 2), 0.5)
    params = [part.expand(2, *part.shape).contiguous() for part in params_of(module)]
    with pytest.raises(TrainerError, match="data-dependent"):
        TracedStep(Branching(), module, params, batch, weights, stacked=True)
    with pytest.raises(TrainerError, match="one value per example"):
        TracedStep(Mean(), module, params, batch, weights, stacked=True)


class Mean(ModelTrainer):
    def loss(self, model, batch):
        return Classifier().loss(model, batch).mean()


def test_labels_left_out_of_the_loss():
    """Targets of -100 count for nothing, unless it was promised that there are none: then nobody asks."""
    module = LogisticRegression().build(IMAGE, 3)
    batch = {"x": torch.randn(2, 3, *IMAGE), "y": torch.tensor([[0, -100, 2], [1, 1, -100]])}
    weights = torch.full((2, 3), 1 / 3)
    params = [part.expand(2, *part.shape).contiguous() for part in params_of(module)]
    step = TracedStep(Classifier(), module, params, batch, weights, stacked=True)
    losses, _ = step.gradients(params, batch, weights)
    assert (losses == 0).tolist() == [[False, True, False], [False, False, True]]
    quick = TracedStep(Classifier(), module, params, batch, weights, stacked=True, natural={"y"})
    assert "where" in step.code
    assert "where" not in quick.code
    fine = batch | {"y": batch["y"].clamp(min=0)}
    torch.testing.assert_close(quick.gradients(params, fine, weights), step.gradients(params, fine, weights), rtol=0, atol=0)
