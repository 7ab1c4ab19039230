"""Compressed: any algorithm, fewer bytes, and error feedback."""

import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fedml_api import Experiment, FedAvg, LocalSGD, Standalone, simulate
from fedml_api.algorithms import Compressed, FedProx, HypCluster
from fedml_api.algorithms.compressed import CompressedCohort
from fedml_api.distributed import Loopback
from fedml_api.run.checkpoint import Checkpoints
from fedml_api.standalone.auto import choose
from fedml_api.standalone.executor import Work
from fedml_core import tree
from fedml_core.communication import codec
from fedml_core.communication.loopback import LoopbackComManager
from fedml_core.compression import Compress, Decompressing, Drive, NoCompression, Rotated, TernGrad, TopK, Uniform
from fedml_core.compression.compress import Remainder
from fedml_core.errors import ConfigError
from fedml_core.federation import (
    SGD,
    Algorithm,
    Around,
    ClientRunner,
    Evaluate,
    LocalUpdate,
    Mean,
    Reply,
    Setup,
    Task,
    WeightedMean,
    Wrapping,
    algorithms,
    describe,
    local_updates,
    restore,
    tasks,
)
from fedml_core.settings import settings
from fedml_core.trainer import Classifier, ModelState
from tests.conftest import blobs
from tests.quadratics import Quadratic, Vector, optimum, quadratics

LOCAL = LocalSGD(lr=0.1, batch_size=5, momentum=0.5)
COMPRESSORS = [Uniform(levels=16), Rotated(levels=4), TernGrad(), Drive(), TopK(fraction=0.2)]
SEQUENTIAL = Standalone(executor="sequential", processes=1)


@local_updates.register("momentous")
@settings
class Momentous(Around):
    """A local update whose clients keep a running sum of their changes, start from their share of it, and send both."""

    local: LocalUpdate = LOCAL

    def fresh(self, model):
        return {"sum": tree.zeros_like(model)}

    def personal(self, model, state):
        return tree.add(model, state["sum"], alpha=0.1)

    def keep(self, trained, start, carry, context):
        return {"sum": tree.add(context.state["sum"], tree.sub(trained, start))}

    def end(self, trained, start, carry, context):
        return {"change": tree.sub(trained, start), "number": torch.tensor(2.5, dtype=torch.float64)}


@tasks.register("look")
@settings
class Look(Task):
    """Sends the server's model and how much the client keeps."""

    def __call__(self, client, shared, own=None):
        kept = 0.0 if client.state is None else tree.norm(client.state["sum"])
        return Reply(shared, 1.0, {"kept": Mean(kept, 1.0)})


@settings
class Elaborate(Algorithm):
    """Asks twice in a round: by folding and by going through replies, some clients and all, with private states."""

    def init(self, model):
        return FedAvg().init(model)

    def round(self, state, cohort):
        looked = cohort.only(cohort.clients[:2]).map(Look(), shared=state.model).gather()
        total = WeightedMean().zero()
        for client, reply in cohort.map(Momentous(), shared=state.model):
            assert client in cohort.clients
            assert reply.value["number"].item() == 2.5
            total = WeightedMean().add(total, replace(reply, value=reply.value["change"]))
        change = WeightedMean().finish(total)
        kept = sum(reply.metrics["kept"].total for reply in looked.values())
        shown = sum(tree.norm(reply.value) for reply in looked.values())
        return (
            replace(state, model=tree.add(state.model, change.value)),
            change.metrics | {"kept": Mean(kept, 1.0), "shown": Mean(shown, 1.0)},
        )

    def judge(self):
        return Evaluate(of=Momentous())


def run(algorithm, engine=SEQUENTIAL, network=None, rounds=3, **more):
    torch.manual_seed(7)
    network = network or torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    experiment = Experiment(network, blobs(), algorithm=algorithm, engine=engine, rounds=rounds, clients_per_round=3, seed=3)
    return simulate(experiment, **more)


@pytest.mark.parametrize(
    "inner", [FedAvg(LOCAL, SGD(momentum=0.5)), FedProx(0.5, LOCAL), FedAvg(LOCAL, aggregator=WeightedMean("clients")), Elaborate()]
)
def test_nothing_compressed_changes_nothing(inner):
    plain, wrapped = run(inner), run(Compressed(inner, NoCompression()))
    assert wrapped.sha256 == plain.sha256
    assert wrapped.history[-1]["train_loss"] == plain.history[-1]["train_loss"]
    assert wrapped.history[-1]["train_bits_per_parameter"] == pytest.approx(32, rel=0.02)  # one scalar of 64 bits


@pytest.mark.parametrize("compressor", COMPRESSORS, ids=str)
@pytest.mark.parametrize("inner", [FedAvg(LOCAL), Elaborate()], ids=["fedavg", "elaborate"])
def test_compression_changes_something_and_the_same_on_all_engines(inner, compressor):
    found = run(Compressed(inner, compressor))
    reference, history = found.sha256, found.history
    assert reference != run(inner).sha256
    assert history[-1]["test_loss"] < history[0]["test_loss"]
    assert run(Compressed(inner, compressor), Loopback(workers=2)).sha256 == reference
    one, other = (run(Compressed(inner, compressor), Loopback(workers=n, fold_on_workers=True)).model for n in (1, 3))
    assert tree.norm(tree.sub(one, other)) < 1e-5


@tasks.register("doubled")
@settings
class Doubled(Wrapping):
    """A task around another: it doubles the value, and keeps its own count beside what that keeps."""

    task: LocalUpdate | Task

    def kept(self, state):
        return None if state is None else state["inside"]

    def after(self, client, reply):
        times = 1 if client.state is None else client.state["times"] + 1
        return Reply(tree.scale(reply.value, 2.0), reply.weight * times, reply.metrics, {"inside": reply.state, "times": times})


@settings
class Twofold(Algorithm):
    """FedAvg with a task around a task around a local update, both of which keep something."""

    def init(self, model):
        return FedAvg().init(model)

    def round(self, state, cohort):
        task = Compress(Doubled(LOCAL), TopK(fraction=0.3))
        change = cohort.map(task, shared=state.model).fold(Decompressing(compressor=TopK(fraction=0.3)))
        return replace(state, model=tree.add(state.model, change.value, alpha=0.5)), change.metrics


@pytest.mark.parametrize(
    "algorithm",
    [Compressed(FedAvg(LOCAL), Rotated()), Compressed(FedAvg(LOCAL), TopK()), Twofold()],
    ids=["rotated", "topk", "twofold"],
)
@pytest.mark.parametrize("engine", [Standalone("stacked", 2, 1), Standalone("traced", None, 1)], ids=["stacked", "traced"])
def test_what_is_compressed_is_trained_in_every_way(caplog, engine, algorithm):
    """Local updates are stacked and traced as without compression; rounding may bring single coordinates to another level."""
    with caplog.at_level("WARNING", "fedml"):
        found = run(algorithm, engine)
    assert not caplog.records
    assert tree.norm(tree.sub(found.model, run(algorithm).model)) < 1e-5
    assert found.history[-1]["train_bits_per_parameter"] < 12


def test_the_choice_of_an_executor_looks_inside(network):
    experiment = Experiment(network, blobs(60), algorithm=Compressed(FedAvg(LOCAL)), rounds=10_000, clients_per_round=60)
    setup = experiment.setup()
    for task in (LOCAL, Compress(LOCAL), Compress(Look())):
        work = Work(0, task, ModelState.of(network), setup.data.client_ids, {}, {})
        assert choose(setup, work, "auto", None, 1).executor == ("sequential" if task == Compress(Look()) else "stacked")


@tasks.register("own_part")
@settings
class OwnPart(Task):
    """Sends what it was sent for itself alone, and its round."""

    def __call__(self, client, shared, own=None):
        return Reply({"own": own, "round": torch.tensor(float(client.round))}, 1.0, {})


def test_every_client_gets_its_own_part_in_the_round_that_is_asked_for(network):
    setup = Setup(Classifier(), network, blobs(), 0, torch.device("cpu"))
    with SEQUENTIAL.open(setup) as session:
        cohort = CompressedCohort(session.cohort(5, ["c0", "c1"]), NoCompression())
        parts = {"c0": torch.zeros(2), "c1": torch.ones(2)}
        now = cohort.map(OwnPart(), shared={}, own=parts).gather()
        then = cohort.only(["c1"], round=3).map(OwnPart(), shared={}).gather()
    assert {client: (reply.value["own"].tolist(), reply.value["round"].item()) for client, reply in now.items()} == {
        "c0": ([0, 0], 5),
        "c1": ([1, 1], 5),
    }
    assert {client: reply.value["round"].item() for client, reply in then.items()} == {"c1": 3}


def test_the_algorithm_hears_who_is_missing():
    cohort = SimpleNamespace(round=2, clients=["a", "b"], population=9, missing=["b"])
    wrapped = CompressedCohort(cohort, Uniform())
    assert (wrapped.round, wrapped.clients, wrapped.population, wrapped.missing) == (2, ["a", "b"], 9, ["b"])


def test_compressing_twice_is_refused():
    with pytest.raises(ConfigError, match="compressed already"):
        Compressed(Compressed(FedAvg()))


def test_replies_are_decompressed_on_arrival_and_states_reach_the_task():
    """With all coordinates sent, error feedback has nothing to do, and the algorithm sees what it would see without."""
    plain, wrapped = run(Elaborate()), run(Compressed(Elaborate(), TopK(fraction=1.0)))
    assert tree.norm(tree.sub(plain.model, wrapped.model)) < 1e-5
    for name in ("train_kept", "train_shown"):
        assert [row[name] for row in wrapped.history[1:]] == pytest.approx([row[name] for row in plain.history[1:]], rel=1e-5)
    assert plain.history[-1]["train_kept"] > 0


def test_clients_judge_as_the_algorithm_says(network):
    setup = Setup(Classifier(), network, blobs(), 0, torch.device("cpu"))
    for algorithm in (Elaborate(), Compressed(Elaborate(), TopK(fraction=0.5))):
        with SEQUENTIAL.open(setup) as session:
            state = algorithm.init(ModelState.of(network))
            state, _ = algorithm.round(state, session.cohort(0, ["c0", "c1"]))
            kept = dict(session.save())["c0"]
            inside = kept.task if isinstance(kept, Remainder) else kept
            found = session.cohort(1, ["c0"]).map(algorithm.judge(), shared=algorithm.model(state)).gather()["c0"]
            judged = ClientRunner(setup)("c0", 1, Evaluate(of=Momentous()), algorithm.model(state), None, inside)
        assert found.metrics == judged.metrics
        assert found.value == {}
    assert isinstance(kept, Remainder)


WIDE = torch.nn.Sequential(torch.nn.Linear(5, 128), torch.nn.Tanh(), torch.nn.Linear(128, 128), torch.nn.Linear(128, 3))
SIZES = [640, 128, 16384, 128, 384, 3]


@pytest.mark.parametrize(
    ("compressor", "bits"),
    [
        (Uniform(levels=256), sum(8 * n + 64 for n in SIZES)),
        (Uniform(levels=16), sum(8 * -(-n // 2) + 64 for n in SIZES)),
        (Rotated(levels=2), sum(8 * -(-n // 8) + 64 for n in SIZES)),
        (TernGrad(), sum(8 * -(-n // 5) + 64 for n in SIZES)),
        (Drive(), sum(8 * -(-n // 8) + 32 for n in SIZES)),
        (TopK(fraction=0.01), 6 * 48 + 1 * 40 + 164 * 48 + 1 * 40 + 4 * 48 + 1 * 40),
    ],
    ids=str,
)
def test_messages_are_as_short_as_the_metric_says(monkeypatch, compressor, bits):
    """Through the codec that all engines have in common; log2(levels) d + 64 per tensor for the uniform quantiser."""
    sent = []
    send = LoopbackComManager.send

    def count(door, message):
        if message.type == "done":
            sent.append(codec.size(codec.encode(message)))
        send(door, message)

    monkeypatch.setattr(LoopbackComManager, "send", count)
    row = run(Compressed(FedAvg(LOCAL), compressor), Loopback(workers=1), WIDE, rounds=1).history[-1]
    kept = 4 * sum(SIZES) + 600 if compressor.feedback else 0  # on a rank of a simulation the private state travels along
    assert row["train_bits_per_parameter"] == pytest.approx(bits / sum(SIZES))
    assert all(bits / 8 + kept < size < bits / 8 + kept + 1200 for size in sent)
    sent.clear()
    run(FedAvg(LOCAL), Loopback(workers=1), WIDE, rounds=1)
    assert all(size > 4 * sum(SIZES) for size in sent)
    assert len(sent) == 3


MINIMA = [[10, 1.07, 2.3, -0.83], [-10, 1.07, 2.3, -0.83]]


def far_apart(rounds, feedback, engine=SEQUENTIAL, **more):
    """Two clients that pull at the first coordinate against each other, and a little at the others together."""
    data = quadratics([[1.0] * 4] * 2, MINIMA, [1, 1])
    algorithm = Compressed(FedAvg(LocalSGD(lr=0.05, batch_size=0)), TopK(fraction=0.25, feedback=feedback))
    experiment = Experiment(Vector([0.0] * 4), data, Quadratic(), algorithm, engine, rounds=rounds, clients_per_round=2)
    return simulate(experiment, **more).model.params["w"]


def test_with_error_feedback_the_largest_coordinate_alone_leads_to_the_optimum():
    best = optimum([[1.0] * 4] * 2, MINIMA, [1, 1]).float()
    assert (far_apart(250, True) - best).abs().max() < 0.3
    assert far_apart(250, False).tolist() == [0, 0, 0, 0]


def test_error_feedback_follows_the_paper():
    """Karimireddy et al., Algorithm 2, for each client, in NumPy."""
    minima, w, error = np.array(MINIMA), np.zeros(4), np.zeros((2, 4))
    for _ in range(60):
        p = 0.05 * (minima - w) + error
        sent = np.where(np.abs(p) == np.abs(p).max(axis=1, keepdims=True), p, 0)
        error = p - sent
        w = w + sent.mean(axis=0)
    np.testing.assert_allclose(far_apart(60, True), w, atol=1e-4)
    assert np.abs(w).max() > 0.1


def test_what_was_not_sent_is_part_of_a_checkpoint(tmp_path):
    whole = far_apart(30, True)
    far_apart(11, True, checkpoints=Checkpoints(tmp_path), checkpoint_every=1)
    assert torch.equal(far_apart(30, True, checkpoints=Checkpoints(tmp_path), checkpoint_every=1), whole)
    assert torch.equal(far_apart(30, True, Loopback(workers=2)), whole)


def test_rounding_differs_by_client_and_round(network):
    setup = Setup(Classifier(), network, blobs(), 0, torch.device("cpu"))
    task, model = Compress(Look(), Uniform(levels=2)), ModelState.of(network)
    with SEQUENTIAL.open(setup) as session:
        found = {
            (client, round): tree.digest(reply.value.codes)
            for round in (0, 1)
            for client, reply in session.cohort(round, ["c0", "c1"]).map(task, shared=model)
        }
        again = session.cohort(1, ["c1"]).map(task, shared=model).gather()["c1"]
    assert len(set(found.values())) == 4
    assert tree.digest(again.value.codes) == found["c1", 1]


def test_tasks_cross_to_devices():
    task = Compress(LocalSGD(lr=0.3), TopK(fraction=0.3))
    assert restore(Task, describe(task)) == task
    script = f"import fedml_iot.device; from fedml_core.federation import Task, restore; restore(Task, {describe(task)!r})"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_it_is_registered():
    assert algorithms["compressed"] is Compressed
    assert isinstance(Compressed(FedAvg()).compressor, Uniform)


def test_clients_see_what_the_algorithm_shows_them():
    inner = HypCluster(clusters=2)
    state = inner.init(ModelState.of(torch.nn.Linear(2, 2)))
    assert tree.digest(Compressed(inner).shown(state)) == tree.digest(inner.shown(state)) != tree.digest(inner.model(state))
