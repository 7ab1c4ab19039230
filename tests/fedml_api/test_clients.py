"""Evaluation by every client, on its own test examples."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from fedml_api import Experiment, FedAvg, FederatedDataset, LocalSGD, Observer, Standalone, draw_curves, simulate
from fedml_api.cli import main
from fedml_api.distributed import Loopback
from fedml_api.run.checkpoint import Checkpoints
from fedml_api.run.clients import Verdicts, newest_table
from fedml_api.run.observers import Metrics
from fedml_core import tree
from fedml_core.errors import ConfigError, DataError
from fedml_core.federation import Evaluate, LocalUpdate
from fedml_core.settings import settings
from fedml_core.trainer import ModelState
from tests.conftest import blobs
from tests.fedml_api.test_cli import SMALL


def owned(clients: int = 4) -> FederatedDataset:
    """Client k has k test examples of its own: the first none, the second one, ..."""
    data = blobs(clients)
    ends = np.cumsum(range(clients))
    parts = {f"c{k}": np.arange(ends[k] - k, ends[k]) for k in range(clients)}
    rows = {id: data.train(id).index.numpy() for id in data.client_ids}
    return FederatedDataset(data.global_train, data.global_test, rows, parts, classes=3, name="owned")


def experiment(network, **rest):
    defaults = {"data": owned(), "algorithm": FedAvg(LocalSGD(batch_size=5)), "rounds": 5, "clients_per_round": 2, "seed": 1}
    return Experiment(model=network, **(defaults | rest))


class Keep(Observer):
    def __init__(self):
        self.tables = {}

    def on_clients(self, round, table):
        self.tables[round] = table


def test_every_client_measures_the_global_model_on_its_own_examples(network):
    kept, data = Keep(), owned()
    result = simulate(experiment(network, evaluate_clients=2), [kept])
    assert list(kept.tables) == [2, 4, 5]
    assert list(kept.tables[5]) == ["c1", "c2", "c3"]  # c0 has no test examples
    for client, found in kept.tables[5].items():
        batch = data.test(client).all()
        with torch.no_grad():
            logits = result.network(batch["x"])
        assert found["examples"] == len(batch["y"]) == int(client[1])
        assert found["accuracy"] == pytest.approx((logits.argmax(1) == batch["y"]).float().mean().item())
        assert found["loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits, batch["y"]).item(), abs=1e-6)
    row = result.history[-1]
    assert {name: row[name] for name in row if name.startswith("client_")} == Verdicts(kept.tables[5]).spread()
    assert "client_accuracy_mean" not in result.history[3]


def test_the_spread_over_clients():
    values = [0.5, 1.0, 0.0, 0.75]
    table = {str(k): {"examples": 2.0**k, "accuracy": value} for k, value in enumerate(values)}
    found = Verdicts(table).spread()
    assert found == {
        "client_accuracy": pytest.approx((0.5 + 2 * 1.0 + 4 * 0.0 + 8 * 0.75) / 15),
        "client_accuracy_mean": pytest.approx(2.25 / 4),
        "client_accuracy_std": pytest.approx(np.sqrt(np.mean(np.square(np.array(values) - 0.5625)))),
        "client_accuracy_p10": pytest.approx(0.3 * 0.5),  # between the worst and the second: 0 + 0.3 (0.5 - 0)
        "client_accuracy_min": 0.0,
    }
    assert Verdicts({}).spread() == {}


@pytest.mark.parametrize("engine", [Standalone(processes=2), Standalone(executor="stacked", processes=1), Loopback(workers=2)])
def test_all_engines_ask_alike_and_the_model_does_not_notice(network, engine):
    kept, reference = Keep(), Keep()
    asked = simulate(experiment(network, evaluate_clients=1, engine=engine), [kept])
    assert asked.sha256 == simulate(experiment(network, engine=engine)).sha256
    simulate(experiment(network, evaluate_clients=1, engine=Standalone("sequential", processes=1)), [reference])
    for round, table in reference.tables.items():
        assert list(kept.tables[round]) == list(table)
        for client, found in table.items():
            assert kept.tables[round][client] == pytest.approx(found, abs=1e-5)


@settings
class Own(LocalSGD):
    """Clients keep their own trained model, and use it."""

    def fresh(self, model):
        return {"model": model, "rounds": torch.tensor(0.0)}

    def keep(self, trained, start, carry, context):
        return {"model": trained, "rounds": context.state["rounds"] + 1}

    def personal(self, model, state):
        return state["model"]


@settings
class Alone(FedAvg):
    local: LocalUpdate = Own(batch_size=5)

    def judge(self):
        return Evaluate(of=self.local)


def test_personal_models_are_judged_with_the_private_state_after_the_round(network):
    """Not with the one before, and not by the global model."""
    data, kept = owned(), Keep()
    one = experiment(network, data=data, algorithm=Alone(), rounds=1, clients_per_round=4, evaluate_clients=1)
    result = simulate(one, [kept])
    with one.engine.open(one.setup()) as session:
        replies = session.cohort(0, ["c3"]).map(Alone().local, shared=tree.clone(ModelState.of(network))).gather()
    own = replies["c3"].state["model"].load_into(network)
    batch = data.test("c3").all()
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(own(batch["x"]), batch["y"]).item()
    assert kept.tables[1]["c3"]["loss"] == pytest.approx(loss, abs=1e-6)
    assert result.last["test_loss"] != pytest.approx(loss, abs=1e-3)


def test_data_without_local_test_sets_are_refused_before_work(network):
    data = blobs()
    data = FederatedDataset(data.global_train, data.global_test, {"c0": np.arange(5)}, classes=3, name="blobs")
    with pytest.raises(ConfigError, match="no client of data set 'blobs' has test examples;"):
        simulate(experiment(network, data=data, clients_per_round=1, evaluate_clients=1))
    with pytest.raises(ConfigError, match="evaluate_clients = -1"):
        simulate(experiment(network, evaluate_clients=-1))


def test_clients_may_bring_test_sets_which_together_are_the_global_one():
    def columns(*values):
        return {"x": torch.tensor(values).float()[:, None], "y": torch.tensor(values) % 3}

    train = {"anna": columns(1, 2), "ben": columns(3)}
    data = FederatedDataset.from_clients(train, {"ben": columns(4, 5), "anna": columns(6)}, classes=3)
    assert data.global_test.all()["x"].flatten().tolist() == [4, 5, 6]
    assert data.test("anna").all()["x"].flatten().tolist() == [6]
    assert data.test("ben").all()["y"].tolist() == [1, 2]
    assert data.train("anna").all()["x"].flatten().tolist() == [1, 2]
    with pytest.raises(DataError, match="client 'ben' has"):
        FederatedDataset.from_clients(train, {"ben": {"x": torch.ones(2, 1)}})


def test_tables_are_kept_and_drawn(network, tmp_path):
    stop = Checkpoints(tmp_path / "checkpoints")
    result = simulate(experiment(network, evaluate_clients=2), [kept := Keep(), Metrics(tmp_path)], stop, checkpoint_every=2)
    assert sorted(path.name for path in (tmp_path / "clients").iterdir()) == ["000002.csv", "000004.csv", "000005.csv"]
    assert newest_table(tmp_path) == kept.tables[5]
    header, *rows = (line.split(",") for line in (tmp_path / "metrics.csv").read_text().splitlines())
    assert len(rows) == 6
    assert [bool(row[header.index("client_accuracy_min")]) for row in rows] == [False, False, True, False, True, True]
    assert [row[header.index("round")] for row in rows] == [str(k) for k in range(6)]
    for name, clients in {"with": {"run": kept.tables[5]}, "without": {"run": {}}}.items():
        draw_curves({"run": result.history}, tmp_path / f"{name}.png", clients)
    widths = {name: int.from_bytes((tmp_path / f"{name}.png").read_bytes()[16:20], "big") for name in ("with", "without")}
    assert widths == {"with": 3 * 780, "without": 2 * 780}  # panels of 5.2 inches, 150 dots per inch


def test_from_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("small.yaml").write_text(yaml.safe_dump(SMALL))
    assert main(["run", "small.yaml", "rounds=3", "evaluate_clients=2", "evaluate_every=3", "--format", "json"]) == 0
    folder = Path(json.loads(capsys.readouterr().out)["run"])
    assert sorted(path.stem for path in (folder / "clients").iterdir()) == ["000002", "000003"]
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert ["client_accuracy_p10" in row for row in rows] == [False, False, True, True]
    # Every test example belongs to one client, so their pooled accuracy is the global one.
    assert rows[-1]["client_accuracy"] == pytest.approx(rows[-1]["test_accuracy"], abs=1e-9)
    assert (folder / "curve.png").stat().st_size > 0
