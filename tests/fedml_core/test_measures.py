"""Metrics chosen by name or from torchmetrics: scikit-learn's values, and the same from whatever parts as from the whole."""

import sys
from contextlib import suppress

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn
from torch import nn

from fedml_api import Experiment, FedAvg, FederatedDataset, LocalSGD, simulate, vision
from fedml_api.data import Digits
from fedml_api.model import LogisticRegression
from fedml_api.run.config import RunConfig, prepare
from fedml_core.errors import ConfigError
from fedml_core.trainer import Classifier, Examples, ModelTrainer, NextToken, Reconstruction, Segmenter, Tagger
from fedml_core.trainer.measures import NAMES, measure

BINARY = ("precision", "recall", "f1", "auc")
EVERY = [name.replace("K", "3") for name in NAMES]


class Given(nn.Module):
    """A network that returns column `x` as its logits."""

    def forward(self, x):
        return x


def drawn(rows, classes, seed=0):
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, classes, generator=draw).mul(4).round().div(4)
    return {"x": x, "y": torch.randint(0, classes, (rows,), generator=draw)}


def apart(trainer, columns, parts):
    """What is concluded from sums of parties, some of which have nothing."""
    sums = {}
    for part in parts:
        if len(part):
            _, own = trainer.tally(Given(), Examples(columns, part), batch_size=4)
            sums = {name: sums.get(name, 0) + value for name, value in own.items()}
    return trainer.concluded(sums)


def chosen(classes):
    return [name for name in EVERY if name not in BINARY or classes == 2]


@given(rows=st.integers(1, 40), classes=st.integers(2, 5), parties=st.integers(1, 8), seed=st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_federated_is_pooled(rows, classes, parties, seed):
    """Whoever holds which examples, and some parties none; exactly, but for the order in which the losses are added."""
    columns = drawn(rows, classes, seed)
    trainer = Classifier().measuring(*chosen(classes))
    whole = trainer.test(Given(), Examples(columns))
    holder = np.random.default_rng(seed).integers(0, parties, rows)
    found = apart(trainer, columns, [torch.from_numpy(np.flatnonzero(holder == party)) for party in range(parties)])
    assert found.pop("perplexity") == pytest.approx(whole.pop("perplexity"), rel=1e-12)
    assert {"loss", "accuracy"} | found.keys() == whole.keys()
    assert found == {name: whole[name] for name in found}


@pytest.mark.parametrize("classes", [2, 5])
def test_values_are_scikit_learns(classes):
    columns = drawn(300, classes)
    found = Classifier().measuring(*chosen(classes)).test(Given(), Examples(columns))
    y, decided = columns["y"].numpy(), columns["x"].argmax(1).numpy()
    scores = {name: getattr(sklearn, f"{name}_score") for name in ("precision", "recall", "f1")}
    wanted = {f"macro_{name}": score(y, decided, average="macro") for name, score in scores.items()}
    wanted |= {
        "weighted_f1": sklearn.f1_score(y, decided, average="weighted"),
        "balanced_accuracy": sklearn.balanced_accuracy_score(y, decided),
        "mean_iou": sklearn.jaccard_score(y, decided, average="macro"),
        "perplexity": np.exp(sklearn.log_loss(y, columns["x"].double().softmax(1))),
        "accuracy": (y == decided).mean(),
    }
    if classes == 2:
        wanted |= {name: score(y, decided) for name, score in scores.items()}
        wanted["auc"] = sklearn.roc_auc_score(y, columns["x"][:, 1] - columns["x"][:, 0])  # quarters: no two share a bin
    for name, value in wanted.items():
        assert found[name] == pytest.approx(value, rel=1e-5), name
    # Ties count for the label.
    rank = (columns["x"] > columns["x"].gather(1, columns["y"][:, None])).sum(1)
    assert found["top_3"] == pytest.approx((rank < 3).double().mean().item())


def test_classes_that_are_not_there_and_parties_of_one_class():
    columns = {"x": F.one_hot(torch.tensor([0, 0, 1]), 4).float(), "y": torch.tensor([0, 0, 0])}
    found = Classifier().measuring("macro_recall", "balanced_accuracy", "mean_iou").test(Given(), Examples(columns))
    assert found["macro_recall"] == pytest.approx((2 / 3 + 0) / 2)  # class 1 is decided for
    assert found["balanced_accuracy"] == pytest.approx(2 / 3)
    assert found["mean_iou"] == pytest.approx((2 / 3 + 0) / 2)
    two = {"x": torch.randn(5, 2), "y": torch.zeros(5, dtype=torch.int64)}
    assert Classifier().measuring("auc").test(Given(), Examples(two)).keys() == {"loss", "accuracy"}


def test_every_trainer_with_decisions_can_be_asked():
    torch.manual_seed(0)
    y = torch.randint(1, 9, (20, 6)) * (torch.arange(6) < torch.randint(1, 7, (20, 1)))
    x, real = torch.randn(20, 6, 9), y != 0
    text = NextToken().measuring("macro_f1", "top_3").test(Given(), Examples({"x": x, "y": y}))
    assert text["macro_f1"] == pytest.approx(sklearn.f1_score(y[real], x.argmax(2)[real], average="macro", zero_division=0))
    assert text["top_3"] == pytest.approx((x[real].topk(3).indices == y[real][:, None]).any(1).double().mean().item())
    tags = {"x": torch.randn(30, 7), "y": (torch.rand(30, 7) < 0.3).float()}
    tagged = Tagger().measuring("auc", "balanced_accuracy").test(Given(), Examples(tags))
    assert tagged["auc"] == pytest.approx(sklearn.roc_auc_score(tags["y"].flatten(), tags["x"].flatten()), abs=1e-3)
    wanted = sklearn.balanced_accuracy_score(tags["y"].flatten(), tags["x"].flatten() > 0)
    assert tagged["balanced_accuracy"] == pytest.approx(wanted)
    pixels = {"x": torch.randn(5, 4, 3, 3), "y": torch.randint(0, 4, (5, 3, 3))}
    pixels["y"][:, 0] = 255
    found = Segmenter().measuring("mean_iou", "macro_f1").test(Given(), Examples(pixels))
    actual, decided = pixels["y"][:, 1:].flatten(), pixels["x"].argmax(1)[:, 1:].flatten()
    assert found["macro_f1"] == pytest.approx(sklearn.f1_score(actual, decided, average="macro"))
    assert found["mean_iou"] == pytest.approx(sklearn.jaccard_score(actual, decided, average="macro"))


def test_choosing_changes_no_other_trainer_and_adds_up():
    plain = Classifier()
    trainer = plain.measuring("top_2").measuring("macro_f1", "top_2")
    assert [one.name for one in trainer.measures] == ["top_2", "macro_f1"]
    assert plain.measures == ()


class Imperative(Classifier):
    def test(self, model, examples, batch_size=None):
        return {"loss": 0.0}


@pytest.mark.parametrize(
    ("trainer", "names", "words"),
    [
        (Classifier(), ["macro_f2"], r"unknown metric 'macro_f2': did you mean 'macro_f1'\? Allowed: auc, .*top_K"),
        (Classifier(), ["top_0"], "unknown metric 'top_0'"),
        (Classifier(), ["top_"], "unknown metric 'top_'"),
        (Reconstruction(), ["auc"], "Reconstruction decides nothing between classes"),
        (ModelTrainer(), ["f1"], "ModelTrainer decides nothing"),
        (Imperative(), ["f1"], "Imperative has a test of its own"),
    ],
)
def test_what_cannot_be_measured_is_refused(trainer, names, words):
    with pytest.raises(ConfigError, match=words):
        trainer.measuring(*names)
    with pytest.raises(ConfigError, match=r"metric 'mine': a int; must be a name \(auc, .*\) or a metric of torchmetrics"):
        Classifier().measuring(mine=3)


def test_metrics_of_two_classes_are_refused_for_more():
    assert {name: measure(name).fault(3) is None for name in EVERY} == {name: name not in BINARY for name in EVERY}
    assert not [name for name in EVERY if measure(name).fault(2)]


def test_a_run_says_before_it_starts_what_is_wrong_with_its_metrics(tmp_path):
    def config(*names, **others):
        return RunConfig(data=Digits(clients=3), model=LogisticRegression(), data_folder=str(tmp_path), metrics=names, **others)

    with pytest.raises(ConfigError) as caught:
        prepare(config("f1", "auc", "top_5", clients_per_round=3), [])
    assert caught.value.problems == [
        "metrics: 'f1' is that of class 1 of two, and there are 10; choose macro_f1",
        "metrics: 'auc' is of two classes, and there are 10; choose macro_f1 or top_5",
    ]
    with pytest.raises(ConfigError, match="unknown metric 'top5': did you mean 'top_K'"):
        prepare(config("top5"), [])
    experiment = prepare(config("top_2", "macro_f1", rounds=1, clients_per_round=2, evaluate_clients=1, threads=1), [])
    last = simulate(experiment).last
    assert last["test_top_2"] > last["test_accuracy"]
    # The clients' own test examples are together the global ones.
    for name in ("accuracy", "top_2", "macro_f1"):
        assert last[f"client_{name}"] == pytest.approx(last[f"test_{name}"], rel=1e-9)


# torchmetrics, which is optional


@pytest.fixture(scope="module")
def torchmetrics():
    with suppress(ConfigError):
        vision.torchvision()  # which they import where it is installed, whatever torch it is built for
    return pytest.importorskip("torchmetrics")


def of_sums(torchmetrics):
    c = torchmetrics.classification
    return {
        "accuracy_of_theirs": c.MulticlassAccuracy(4, average="micro"),
        "f1_of_theirs": c.MulticlassF1Score(4),
        "kappa": c.MulticlassCohenKappa(4),
        "mcc": c.MulticlassMatthewsCorrCoef(4),
        "recalls": c.MulticlassRecall(4, average="none"),
        "auc_of_theirs": c.MulticlassAUROC(4, thresholds=50),
        "hinge": c.MulticlassHingeLoss(4),
    }


def test_theirs_are_what_they_are_federated_or_not(torchmetrics):
    columns = drawn(200, 4)
    parts = torch.randperm(200, generator=torch.Generator().manual_seed(1)).split([90, 60, 0, 49, 1])
    trainer = Classifier().measuring("macro_f1", **of_sums(torchmetrics))
    whole, federated = trainer.test(Given(), Examples(columns)), apart(trainer, columns, parts)
    for name, metric in of_sums(torchmetrics).items():
        metric.update(columns["x"], columns["y"])
        theirs = metric.compute()
        values = {name: theirs} if not theirs.dim() else {f"{name}_{k}": value for k, value in enumerate(theirs)}
        for key, value in values.items():
            assert whole[key] == pytest.approx(value.item(), rel=1e-6), key
            assert federated[key] == pytest.approx(whole[key], rel=1e-6 if name == "hinge" else 0), key
    assert whole["accuracy_of_theirs"] == pytest.approx(whole["accuracy"])
    assert whole["f1_of_theirs"] == pytest.approx(whole["macro_f1"], rel=1e-6)


def test_theirs_that_keep_predictions_are_refused(torchmetrics):
    for metric, state, how in [
        (torchmetrics.classification.MulticlassAUROC(4, thresholds=None), "preds", "cat"),
        (torchmetrics.MaxMetric(), "max_value", "max"),
        (torchmetrics.PearsonCorrCoef(), "mean_x", "None"),
    ]:
        words = f"metric 'mine': the state '{state}' of {type(metric).__name__} is merged by '{how}', not by 'sum'"
        with pytest.raises(ConfigError, match=words):
            Classifier().measuring(mine=metric)
    with pytest.raises(ConfigError, match="give its metrics one by one"):
        Classifier().measuring(mine=torchmetrics.MetricCollection([torchmetrics.classification.MulticlassAccuracy(4)]))


def test_theirs_in_a_run(torchmetrics):
    columns = drawn(60, 3)
    clients = {f"c{k}": {name: column[20 * k : 20 * k + 20] for name, column in columns.items()} for k in range(2)}
    local = {client: {name: column[40:] for name, column in columns.items()} for client in ("c0",)}
    data = FederatedDataset.from_clients(clients, local, classes=3)
    given = torchmetrics.classification.MulticlassF1Score(3)
    trainer = Classifier().measuring(f1_of_theirs=given)
    run = Experiment(nn.Linear(3, 3), data, trainer, FedAvg(LocalSGD(lr=0.1)), rounds=1, clients_per_round=2, evaluate_clients=1)
    last = simulate(run).last
    assert last["client_f1_of_theirs"] == pytest.approx(last["test_f1_of_theirs"])
    assert given._update_count == 0  # the user's own is not touched


def test_nobody_has_to_have_torchmetrics(monkeypatch):
    monkeypatch.delitem(sys.modules, "torchmetrics", raising=False)
    assert Classifier().measuring("top_1").test(Given(), Examples(drawn(10, 3))).keys() == {"loss", "accuracy", "top_1"}
    assert "torchmetrics" not in sys.modules
