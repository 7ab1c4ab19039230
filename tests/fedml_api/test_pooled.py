"""Metrics that are no means over examples: clients who measure each for itself find together what is found on all at once."""

import logging

import pytest
import torch
from torch import nn

from fedml_api import Experiment, FedAvg, FederatedDataset, LocalSGD, Observer, Standalone, simulate
from fedml_api.algorithms import HypCluster
from fedml_api.distributed import Loopback
from fedml_api.model import Autoencoder, TagRegression, UNet, WordTransformer
from fedml_core.federation import Evaluate, Reply
from fedml_core.settings import settings
from fedml_core.trainer import Classifier

ENGINES = [Standalone("sequential", processes=1), Standalone(processes=2), Loopback(workers=2)]
SIZES = {"anna": 3, "ben": 1, "carl": 8, "dora": 2}


def federated(columns, classes=None):
    """The first rows are anna's, the next ben's, ...; each tests on what it trains on."""
    clients = {}
    for client, size in SIZES.items():
        clients[client] = {name: column[:size] for name, column in columns.items()}
        columns = {name: column[size:] for name, column in columns.items()}
    return FederatedDataset.from_clients(clients, clients, classes)


def texts():
    x = torch.randint(1, 12, (14, 6)) * (torch.arange(6) < torch.randint(2, 7, (14, 1)))
    return WordTransformer(4, 2, 6, 1, special=(1, -1)), federated({"x": x, "y": x.roll(-1, 1) * (torch.arange(6) < 5)}, 12)


def tags():
    return TagRegression(), federated({"x": torch.randn(14, 8), "y": (torch.rand(14, 7) < 0.3).float()}, 7)


def traffic():
    """Anna's and ben's is ordinary: they know no area under a curve, and have a part in that of all."""
    return Autoencoder(), federated({"x": torch.randn(14, 8), "y": torch.tensor([0] * 4 + [0, 1] * 5)})


def pictures():
    y = torch.randint(0, 3, (14, 32, 32))
    y[torch.rand(14, 32, 32) < 0.2] = 255
    return UNet(2), federated({"x": torch.randn(14, 3, 32, 32), "y": y}, 3)


class Keep(Observer):
    def on_clients(self, round, table):
        self.table = table


def run(spec, data, engine, trainer=None, algorithm=None):
    torch.manual_seed(0)
    network = spec.build(tuple(data.global_test.columns["x"].shape[1:]), data.classes)
    algorithm, trainer = algorithm or FedAvg(LocalSGD(batch_size=2)), trainer or spec.trainer()
    experiment = Experiment(network, data, trainer, algorithm, engine, rounds=1, clients_per_round=2, evaluate_clients=1, threads=1)
    result = simulate(experiment, [kept := Keep()])
    return trainer, result, kept.table


@pytest.mark.parametrize("engine", ENGINES, ids=str)
@pytest.mark.parametrize(
    ("made", "names"),
    [
        (texts, {"accuracy", "token_accuracy", "word_accuracy", "perplexity"}),
        (tags, {"precision", "recall", "f1", "recall_at_5"}),
        (traffic, {"auc", "recall_at_5_percent"}),
        (pictures, {"pixel_accuracy", "class_accuracy", "mean_iou", "weighted_iou"}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_clients_find_together_what_the_pool_does(made, names, engine):
    torch.manual_seed(1)
    spec, data = made()
    trainer, result, table = run(spec, data, engine)
    pooled = trainer.test(result.network, data.global_test)
    assert set(pooled) == names | {"loss"}
    row = result.history[-1]
    assert {name: row[f"client_{name}"] for name in pooled} == pytest.approx(pooled, rel=1e-5)
    assert {name: row[f"test_{name}"] for name in pooled} == pytest.approx(pooled, rel=1e-5)
    for client in SIZES:
        own = trainer.test(result.network, data.test(client))
        assert table[client] == pytest.approx({"examples": SIZES[client], **own}, rel=1e-5)
    assert len({round(row.get(next(iter(names)), -1.0), 5) for row in table.values()}) > 1


def test_no_mean_over_clients_is_what_the_pool_finds():
    """Otherwise the test above would not tell."""
    torch.manual_seed(1)
    row = run(*texts(), ENGINES[0])[1].history[-1]
    assert abs(row["client_perplexity"] - row["client_perplexity_mean"]) > 1e-3
    torch.manual_seed(1)
    _, result, table = run(*traffic(), ENGINES[0])
    assert [client for client in table if "auc" in table[client]] == ["carl", "dora"]
    assert result.history[-1]["client_auc_min"] == min(table[client]["auc"] for client in ("carl", "dora"))


def blobs():
    return federated({"x": torch.randn(14, 4), "y": torch.randint(0, 3, (14,))}, 3)


class Linear:
    def build(self, shape, classes):
        return nn.Linear(*shape, classes)


def test_who_chooses_among_models_judges_alike():
    algorithm = HypCluster(1, FedAvg(LocalSGD(batch_size=2)))
    _, result, table = run(Linear(), blobs(), ENGINES[0], Classifier(macro=True), algorithm)
    assert all("macro_f1" in found for found in table.values())
    assert result.last["client_macro_f1"] == pytest.approx(result.last["test_macro_f1"])


@settings
class Odd(Evaluate):
    """Carl sends sums of another shape, ben none."""

    def __call__(self, client, shared, own=None):
        reply = super().__call__(client, shared, own)
        sums = {"confusion": torch.ones(9, dtype=torch.float64)}
        return {"carl": Reply({"sums": sums}, reply.weight, reply.metrics), "ben": Reply({}, 1.0, reply.metrics)}.get(
            client.id, reply
        )


@settings
class Judged(FedAvg):
    def judge(self):
        return Odd()


def test_sums_that_were_not_asked_for_are_left_out(caplog):
    data = blobs()
    with caplog.at_level(logging.WARNING):
        trainer, result, table = run(Linear(), data, ENGINES[0], Classifier(macro=True), Judged(LocalSGD(batch_size=2)))
    assert {client for client, found in table.items() if "macro_f1" in found} == {"anna", "dora"}
    assert sorted(record.args[0] for record in caplog.records if "other sums" in record.msg) == ["ben", "carl"]
    rows = torch.tensor([0, 1, 2, 12, 13])  # of anna and dora
    assert result.last["client_macro_f1"] == pytest.approx(trainer.test(result.network, data.global_test.subset(rows))["macro_f1"])
    assert result.last["client_loss"] == pytest.approx(trainer.test(result.network, data.global_test)["loss"])


class Imperative(Classifier):
    """What a user may write who knows no sums."""

    def test(self, model, examples, batch_size=None):
        return {"rows": float(len(examples)), **super().test(model, examples, batch_size)}


def test_a_test_of_ones_own_is_kept():
    _, result, table = run(Linear(), blobs(), ENGINES[0], Imperative(macro=True))
    assert {client: found["rows"] for client, found in table.items()} == SIZES
    assert result.last["test_rows"] == 14
    assert result.last["client_rows"] == pytest.approx((9 + 1 + 64 + 4) / 14)
