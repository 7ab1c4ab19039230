"""Metrics that are no means over examples: against scikit-learn and by hand, and the same from parts as from the whole."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn import metrics as sklearn
from torch import nn

from fedml_core.trainer import Classifier, Examples, NextToken, Reconstruction, Segmenter, Tagger
from fedml_core.trainer.metrics import auc, by_class, confusion, f1_score, histograms, overlap, ratio, recall_at


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_ratios_of_nothing_are_zero():
    assert ratio(torch.tensor(3), torch.tensor(4)) == 0.75
    assert ratio(0.0, 0.0) == 0.0
    assert f1_score(2, 3, 8) == {"precision": 2 / 3, "recall": 1 / 4, "f1": 4 / 11}
    assert f1_score(0, 0, 5) == {"precision": 0.0, "recall": 0.0, "f1": 0.0}


def test_confusion_and_means_over_classes_are_scikit_learns():
    actual, predicted = torch.randint(0, 5, (200,)), torch.randint(0, 5, (200,))
    predicted[:90] = actual[:90]
    matrix = confusion(predicted, actual, 5)
    assert matrix.tolist() == sklearn.confusion_matrix(actual, predicted, labels=range(5)).tolist()
    found = by_class(matrix.double())
    for name in ("precision", "recall", "f1"):
        assert found[f"macro_{name}"] == pytest.approx(getattr(sklearn, f"{name}_score")(actual, predicted, average="macro"))
    assert by_class(confusion(predicted % 2, actual % 2, 5).double()) == by_class(confusion(predicted % 2, actual % 2, 2).double())
    assert by_class(torch.zeros(3, 3, dtype=torch.float64)) == {}


def test_overlap_by_hand():
    """Class 0 has four pixels, of which three are found; class 1 two, of which one is; 2 is predicted only, 3 not even that."""
    matrix = torch.zeros(4, 4, dtype=torch.float64)
    matrix[0, 0], matrix[0, 2], matrix[1, 1], matrix[1, 0] = 3, 1, 1, 1
    assert overlap(matrix) == {
        "pixel_accuracy": pytest.approx(4 / 6),
        "class_accuracy": pytest.approx((3 / 4 + 1 / 2) / 2),
        "mean_iou": pytest.approx((3 / 5 + 1 / 2 + 0) / 3),
        "weighted_iou": pytest.approx((4 * 3 / 5 + 2 * 1 / 2) / 6),
    }


def test_overlap_is_scikit_learns_jaccard():
    actual, predicted = torch.randint(0, 4, (300,)), torch.randint(0, 4, (300,))
    found = overlap(confusion(predicted, actual, 4).double())
    assert found["mean_iou"] == pytest.approx(sklearn.jaccard_score(actual, predicted, average="macro"))
    assert found["weighted_iou"] == pytest.approx(sklearn.jaccard_score(actual, predicted, average="weighted"))
    assert found["class_accuracy"] == pytest.approx(sklearn.balanced_accuracy_score(actual, predicted))


@pytest.mark.parametrize("bins", [3, 20, 2000])
def test_the_area_under_the_curve_is_as_exact_as_its_bins(bins):
    positive = torch.rand(400) < 0.3
    scores = torch.randn(400, dtype=torch.float64) + positive
    counts = histograms(scores, positive, torch.linspace(-4, 5, bins, dtype=torch.float64))
    assert counts.sum(dim=1).tolist() == [int((~positive).sum()), int(positive.sum())]
    together = float((counts[0] * counts[1]).sum() / (counts[0].sum() * counts[1].sum()))
    exact = sklearn.roc_auc_score(positive, scores)
    assert abs(auc(counts) - exact) <= together / 2
    binned = np.digitize(scores, np.linspace(-4, 5, bins))  # scores that are equal within a bin
    assert auc(counts) == pytest.approx(sklearn.roc_auc_score(positive, binned))
    fpr, tpr, _ = sklearn.roc_curve(positive, binned, drop_intermediate=False)
    assert recall_at(counts, 0.1) == pytest.approx(max(tpr[fpr <= 0.1]))


def test_as_many_false_alarms_as_allowed():
    """Of four negatives one, a quarter, is in the last bin, with three of four positives; another in the one before."""
    counts = torch.tensor([[2, 1, 1], [0, 1, 3]])
    assert [recall_at(counts, share) for share in (0.2, 0.25, 0.4, 0.5)] == [0.0, 0.75, 0.75, 1.0]


def test_what_is_on_an_edge_belongs_to_the_bin_above():
    counts = histograms(torch.tensor([0.0, 1.0, 1.5, 2.0]), torch.tensor([False, True, True, False]), torch.tensor([1.0, 2.0]))
    assert counts.tolist() == [[1, 0, 1], [0, 2, 0]]
    assert auc(counts[:, :2]) == 1.0
    assert auc(torch.tensor([[1, 2], [0, 0]])) is auc(torch.tensor([[0, 0], [1, 0]])) is recall_at(torch.zeros(2, 3), 0.1) is None


class Given(nn.Module):
    """A network that returns column `x` as its logits."""

    def forward(self, x):
        return x


def both(trainer, columns, model=None):
    """What is found on all at once, and from parts of unequal sizes that are added."""
    model, rows = model or Given(), len(columns["x"])
    whole = trainer.test(model, Examples(columns))
    totals, sums = {}, {}
    for part in torch.randperm(rows).split([rows - 7, 5, 2]):
        found, added = trainer.tally(model, Examples(columns, part), batch_size=3)
        totals = {name: totals.get(name, 0) + value for name, value in found.items()}
        sums = {name: sums.get(name, 0) + value for name, value in added.items()}
    assert all(value.dtype == torch.float64 for value in sums.values())
    return whole, {name: value / rows for name, value in totals.items()} | trainer.finish(sums)


def test_top_k_and_macro_scores_of_a_classifier():
    columns = {"x": torch.randn(60, 9), "y": torch.randint(0, 9, (60,))}
    trainer = Classifier(top=(1, 5), macro=True)
    whole, parts = both(trainer, columns)
    assert parts == pytest.approx(whole, rel=1e-6)
    probabilities = columns["x"].softmax(dim=1)
    assert whole["top5"] == pytest.approx(sklearn.top_k_accuracy_score(columns["y"], probabilities, k=5, labels=range(9)))
    assert whole["top1"] == pytest.approx(whole["accuracy"])
    wanted = sklearn.f1_score(columns["y"], columns["x"].argmax(1), average="macro", labels=range(9), zero_division=0)
    assert whole["macro_f1"] == pytest.approx(wanted)
    assert Classifier().test(Given(), Examples(columns)).keys() == {"loss", "accuracy"}


def test_perplexity_and_accuracies_of_tokens():
    lengths = torch.randint(1, 8, (30,))
    y = torch.randint(1, 11, (30, 8)) * (torch.arange(8) < lengths[:, None])
    x = torch.randn(30, 8, 11) + 3 * F.one_hot(y, 11)
    columns, real = {"x": x, "y": y}, y != 0
    whole, parts = both(NextToken(special=(3, -1)), columns)
    assert parts == pytest.approx(whole, rel=1e-6)
    assert whole["perplexity"] == pytest.approx(math.exp(F.cross_entropy(x[real], y[real]).item()), rel=1e-5)
    hits = x.argmax(2) == y
    assert whole["token_accuracy"] == pytest.approx(hits[real].double().mean().item())
    words = real & (y != 3) & (y != 10)
    assert whole["word_accuracy"] == pytest.approx(hits[words].double().mean().item())
    assert len({whole["accuracy"], whole["token_accuracy"], whole["word_accuracy"]}) == 3
    plain = NextToken().test(Given(), Examples(columns))
    assert plain == {name: value for name, value in whole.items() if name != "word_accuracy"}


def test_tags():
    columns = {"x": torch.randn(40, 12) - 1, "y": (torch.rand(40, 12) < 0.2).float()}
    whole, parts = both(Tagger(), columns)
    assert parts == pytest.approx(whole, rel=1e-6)
    x, y = columns["x"], columns["y"]
    assert whole["loss"] == pytest.approx(sklearn.log_loss(y.flatten(), x.flatten().double().sigmoid()), rel=1e-5)
    for name in ("precision", "recall", "f1"):
        assert whole[name] == pytest.approx(getattr(sklearn, f"{name}_score")(y.flatten(), (x > 0).flatten()))
    best = torch.zeros(40, 12).scatter(1, x.argsort(dim=1)[:, -5:], 1.0)
    assert whole["recall_at_5"] == pytest.approx(sklearn.recall_score(y.flatten(), best.flatten()))
    assert Tagger().test(Given(), Examples({"x": x[:, :3], "y": y[:, :3]}))["recall_at_5"] == 1.0


def test_pixels_without_a_class_do_not_count():
    columns = {"x": torch.randn(20, 4, 5, 6), "y": torch.randint(0, 4, (20, 5, 6), dtype=torch.uint8)}
    columns["y"][torch.rand(20, 5, 6) < 0.3] = 255
    columns["y"][3] = 255
    whole, parts = both(Segmenter(), columns)
    assert parts == pytest.approx(whole, rel=1e-6)
    real = columns["y"] != 255
    actual, predicted = columns["y"][real], columns["x"].argmax(1)[real]
    assert whole["mean_iou"] == pytest.approx(sklearn.jaccard_score(actual, predicted, average="macro"))
    losses = [
        F.cross_entropy(x[:, there].T, y[there].long()).item() if there.any() else 0.0
        for x, y, there in zip(columns["x"], columns["y"], real, strict=True)
    ]
    assert whole["loss"] == pytest.approx(sum(losses) / 20, rel=1e-5)


class Scaled(nn.Module):
    def forward(self, x):
        return x.flatten(1) * 0.5


def test_what_is_out_of_the_ordinary_is_reconstructed_worse():
    y = (torch.rand(80) < 0.4).long()
    columns = {"x": torch.randn(80, 2, 3) * (1 + y)[:, None, None], "y": y}
    whole, parts = both(Reconstruction(), columns, Scaled())
    assert parts == pytest.approx(whole, rel=1e-6)
    errors = (0.25 * columns["x"].flatten(1).square()).mean(dim=1)
    assert whole["loss"] == pytest.approx(errors.mean().item())
    assert whole["auc"] == pytest.approx(sklearn.roc_auc_score(y, errors), abs=2e-3)
    threshold = errors[y == 0].sort().values[-int(0.05 * (y == 0).sum()) - 1]
    assert whole["recall_at_5_percent"] == pytest.approx((errors[y == 1] > threshold).float().mean().item(), abs=0.04)
    del columns["y"]
    assert Reconstruction().test(Scaled(), Examples(columns)) == {"loss": whole["loss"]}
    ordinary = Examples(columns | {"y": torch.zeros(80, dtype=torch.int64)})
    assert Reconstruction().test(Scaled(), ordinary) == {"loss": whole["loss"]}
