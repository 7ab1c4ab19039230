"""The round loop, its observers and its checkpoints."""

import json
import logging
import math

import numpy as np
import pytest
import torch

from fedml_api import Classifier, Experiment, FedAvg, LocalSGD, Observer, simulate
from fedml_api.data import FederatedDataset
from fedml_api.run.checkpoint import Checkpoints
from fedml_core import tree
from fedml_core.errors import CheckpointError, ConfigError, DivergedError, RunError
from fedml_core.federation import SGD, Adam, Reply
from fedml_core.trainer import Examples, ModelState
from tests.conftest import blobs


def experiment(dataset, network, **settings):
    defaults = {"rounds": 7, "clients_per_round": 2, "seed": 1, "algorithm": FedAvg(server=Adam(lr=0.05))}
    return Experiment(model=network, data=dataset, **(defaults | settings))


def test_history_has_the_first_state_and_every_round(dataset, network):
    history = simulate(experiment(dataset, network, evaluate_every=3)).history
    assert [row["round"] for row in history] == list(range(8))
    assert [row["round"] for row in history if "test_accuracy" in row] == [0, 3, 6, 7]
    assert all(row["clients"] == 2 and row["examples"] > 0 and row["seconds"] > 0 for row in history[1:])
    assert history[-1]["test_accuracy"] > history[0]["test_accuracy"]


def test_evaluation_is_the_mean_over_the_test_set(dataset, network):
    row = simulate(experiment(dataset, network)).history[0]
    batch = dataset.global_test.all()
    logits = network(batch["x"])
    assert row["test_loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits, batch["y"]).item(), abs=1e-6)
    assert row["test_accuracy"] == pytest.approx((logits.argmax(1) == batch["y"]).float().mean().item())


def test_a_device_with_a_queue_evaluates_while_the_next_round_begins(dataset, network, tmp_path, monkeypatch):
    """The same history; a round is shown when the next one has been asked for, and before anything is saved."""
    seen = []

    class Watched(Classifier):
        def begin_test(self, model, examples):
            end = super().begin_test(model, examples)
            seen.append("evaluates")
            return lambda: (seen.append("waits"), end())[1]

        def loss(self, model, batch):
            if torch.is_grad_enabled() and seen[-1:] != ["trains"]:
                seen.append("trains")
            return super().loss(model, batch)

    class Shown(Observer):
        def on_round(self, row):
            seen.append(f"shown {row['round']}")

    def go(folder):
        seen.clear()
        watched = experiment(dataset, network, trainer=Watched(), rounds=4, evaluate_every=2)
        rows = simulate(watched, [Shown()], Checkpoints(folder), checkpoint_every=3).history
        return [{name: value for name, value in row.items() if name != "seconds"} for row in rows], list(seen)

    judged = ["trains", "evaluates", "waits"]
    at_once, order = go(tmp_path / "a")
    assert order[2:] == ["trains", "shown 1", *judged, "shown 2", "trains", "shown 3", *judged, "shown 4"]
    monkeypatch.setattr("fedml_api.run.experiment._goes_on", lambda device: True)
    later, order = go(tmp_path / "b")
    assert later == at_once
    assert order[2:] == ["trains", "shown 1", "evaluates", "trains", "waits", "shown 2", "shown 3", *judged, "shown 4"]


def test_evaluation_asks_the_network_once_per_batch(dataset, network):
    calls = []
    network.register_forward_hook(lambda *_: calls.append(1))
    Classifier().test(network, dataset.global_test, batch_size=20)
    assert len(calls) == len(dataset.global_test) / 20


class StopAt(Observer):
    def __init__(self, round):
        self.round = round

    def on_round(self, row):
        if row["round"] == self.round:
            raise KeyboardInterrupt


@pytest.mark.parametrize("stop", [1, 2, 5, 6])
def test_an_interrupted_run_goes_on_to_the_same_bits(dataset, network, tmp_path, stop):
    whole = simulate(experiment(dataset, network))
    rows = []

    class Keep(Observer):
        def on_round(self, row):
            rows.append(row)

    with pytest.raises(KeyboardInterrupt):
        simulate(experiment(dataset, network), [Keep(), StopAt(stop)], Checkpoints(tmp_path), checkpoint_every=2)
    again = simulate(experiment(dataset, network), [], Checkpoints(tmp_path), checkpoint_every=2, history=[whole.history[0], *rows])
    assert again.sha256 == whole.sha256
    assert [row["round"] for row in again.history] == [row["round"] for row in whole.history]
    assert [row.get("train_loss") for row in again.history] == [row.get("train_loss") for row in whole.history]


def test_private_client_state_stays_at_the_client_and_is_resumed(dataset, network, tmp_path):
    class Counting(LocalSGD):
        def __call__(self, client, shared, own=None):
            reply = super().__call__(client, shared, own)
            visits = (client.state or {"visits": 0})["visits"] + 1
            return Reply(reply.value, reply.weight * visits, reply.metrics, {"visits": visits})

    counting = experiment(dataset, network, algorithm=FedAvg(Counting()))
    whole = simulate(counting)
    assert whole.sha256 != simulate(experiment(dataset, network, algorithm=FedAvg(LocalSGD()))).sha256
    with pytest.raises(KeyboardInterrupt):
        simulate(counting, [StopAt(5)], Checkpoints(tmp_path), checkpoint_every=2)
    assert simulate(counting, [], Checkpoints(tmp_path), checkpoint_every=2).sha256 == whole.sha256


def test_checkpoints_keep_the_newest(tmp_path):
    store = Checkpoints(tmp_path, keep=2)
    for round in (1, 2, 10, 11):
        store.save(round, {"x": torch.full((2,), float(round)), "n": None})
    assert store.rounds() == [11, 10]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "000010.json",
        "000010.safetensors",
        "000011.json",
        "000011.safetensors",
    ]
    round, state = store.newest()
    assert round == 11
    assert state["x"].tolist() == [11, 11]


def damage(path, how):
    content = bytearray(path.read_bytes())
    if how == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "missing":
        path.unlink()
    else:
        content[len(content) * 3 // 4] ^= 1 << 3
        path.write_bytes(content)


@pytest.mark.parametrize("suffix", ["json", "safetensors"])
@pytest.mark.parametrize("how", ["truncated", "empty", "flipped", "missing"])
def test_a_damaged_checkpoint_is_detected_and_the_one_before_used(tmp_path, caplog, suffix, how):
    store = Checkpoints(tmp_path)
    for round in (1, 2):
        store.save(round, {"x": torch.arange(100.0) * round})
    damage(tmp_path / f"000002.{suffix}", how)
    with caplog.at_level(logging.WARNING, "fedml"):
        round, state = store.newest()
    assert round == 1
    assert torch.equal(state["x"], torch.arange(100.0))
    if (suffix, how) != ("json", "missing"):  # without its JSON file a checkpoint was never finished
        assert "000002" in caplog.text
        assert "damaged" in caplog.text
        with pytest.raises(CheckpointError):
            store.load(2)


def test_every_single_bit_flip_of_a_small_checkpoint_is_detected(tmp_path):
    store = Checkpoints(tmp_path)
    store.save(3, {"x": torch.tensor([1.5]), "note": "n"})
    for suffix in ("json", "safetensors"):
        path = tmp_path / f"000003.{suffix}"
        sound = path.read_bytes()
        for i in range(len(sound)):
            path.write_bytes(sound[:i] + bytes([sound[i] ^ 4]) + sound[i + 1 :])
            with pytest.raises(CheckpointError):
                store.load(3)
        path.write_bytes(sound)
    assert store.load(3)["x"].tolist() == [1.5]


def test_states_that_name_one_tensor_twice_are_kept(tmp_path):
    same = torch.ones(3)
    Checkpoints(tmp_path).save(1, {"a": same, "b": same, "c": same[:2]})
    assert tree.digest(Checkpoints(tmp_path).load(1)) == tree.digest({"a": same, "b": same, "c": same[:2]})


def test_divergence_is_named_with_its_remedy(dataset, network):
    class Exploding(Classifier):
        def loss(self, model, batch):
            return super().loss(model, batch) * math.nan

    with pytest.raises(DivergedError, match=r"loss of round 1 is nan.*Lower algorithm.local.lr"):
        simulate(experiment(dataset, network, trainer=Exploding()))


def test_all_problems_of_an_experiment_are_reported_before_work(dataset, network):
    wrong = experiment(
        dataset, network, rounds=0, clients_per_round=5, seed=-1, device="cuda:0" if not torch.cuda.is_available() else "warp"
    )
    with pytest.raises(ConfigError) as caught:
        simulate(wrong)
    assert len(caught.value.problems) == 4
    assert "has only 4 clients" in str(caught.value)


def test_threads_are_set_and_recorded(dataset, network):
    simulate(experiment(dataset, network, threads=2, rounds=1))
    assert torch.get_num_threads() == 2


def test_buffers_follow_the_clients_and_not_the_server_optimizer(dataset):
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 3))
    result = simulate(experiment(dataset, network, algorithm=FedAvg(LocalSGD(batch_size=0), server=SGD(lr=1e-9)), rounds=3))
    assert result.model.buffers["1.running_mean"].abs().max() > 0.01
    assert tree.norm(tree.sub(result.model.params, ModelState.of(network).params)) < 1e-6


def test_rows_are_plain_json(dataset, network):
    history = simulate(experiment(dataset, network)).history
    assert json.loads(json.dumps(history)) == history


def test_a_checkpoint_of_another_experiment_is_refused(dataset, network, tmp_path):
    simulate(experiment(dataset, network), checkpoints=Checkpoints(tmp_path))
    with pytest.raises(RunError, match=r"seed 1.*seed 2.*use another folder"):
        simulate(experiment(dataset, network, seed=2), checkpoints=Checkpoints(tmp_path))


def test_the_result_holds_the_trained_network(dataset, network):
    result = simulate(experiment(dataset, network))
    assert tree.digest(ModelState.of(result.network)) == result.sha256
    assert Classifier().test(result.network, dataset.global_test)["accuracy"] == result.last["test_accuracy"]


def test_a_sampled_client_without_examples_is_no_divergence(network):
    full = blobs(3)
    parts = {client: full.train(client).index.numpy() for client in full.client_ids} | {"c1": np.empty(0, dtype=np.int64)}
    data = FederatedDataset(Examples(full.global_train.columns), full.global_test, parts, classes=3)
    history = simulate(experiment(data, network, clients_per_round=1, rounds=12)).history
    assert any("train_loss" not in row for row in history[1:])
    assert any("train_loss" in row for row in history[1:])
