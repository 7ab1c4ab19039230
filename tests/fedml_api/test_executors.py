"""The executors of the standalone engine against the sequential one."""

import functools
import logging
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fedml_api import Experiment, FedAvg, LocalSGD, Standalone, simulate
from fedml_api.algorithms import Ditto
from fedml_api.data import FederatedDataset
from fedml_api.run.checkpoint import Checkpoints
from fedml_api.standalone import stacked
from fedml_api.standalone.auto import choose
from fedml_api.standalone.executor import Sequential, Work
from fedml_api.standalone.processes import Processes
from fedml_api.standalone.stacked import Layout, Stacked
from fedml_core import tree
from fedml_core.errors import RunError, TrainerError
from fedml_core.federation import Aggregator, ClientRunner, Evaluate, Reply, Setup, Task, WeightedMean, tasks
from fedml_core.settings import settings
from fedml_core.trainer import Classifier, Examples, GradientTransform, ModelState, ModelTrainer, Proximal
from tests.conftest import blobs

EXECUTORS = {
    "traced": Standalone(executor="traced", processes=1),
    "stacked": Standalone(executor="stacked", block=3, processes=1),
    "stacked, one block": Standalone(executor="stacked", block=100, processes=1),
    "processes": Standalone(executor="sequential", processes=2),
    "stacked in processes": Standalone(executor="stacked", block=2, processes=2),
}
LOCALS = {
    "plain": LocalSGD(lr=0.1, batch_size=5),
    "two epochs": LocalSGD(lr=0.1, batch_size=7, epochs=2),
    "steps": LocalSGD(lr=0.1, batch_size=5, steps=7),
    "full batch": LocalSGD(lr=0.1, batch_size=0, epochs=3),
    "drop last": LocalSGD(lr=0.1, batch_size=5, drop_last=True),
    "everything": LocalSGD(0.1, batch_size=5, epochs=2, momentum=0.9, nesterov=True, weight_decay=0.1, clip=0.5),
    "proximal": LocalSGD(lr=0.1, batch_size=5, epochs=2, transforms=(Proximal(0.5),)),
}


def uneven(sizes=(1, 33, 4, 0, 12, 12, 5, 20)):
    """Clients down to one example, one of them empty."""
    full = blobs(len(sizes), 40)
    starts = np.arange(len(sizes)) * 40
    parts = {f"c{k}": np.arange(starts[k], starts[k] + size) for k, size in enumerate(sizes)}
    return FederatedDataset(full.global_train, full.global_test, parts, classes=3, name="uneven")


def network(*extra):
    torch.manual_seed(7)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), *extra, nn.Linear(8, 3))


def run(engine, local=LOCALS["plain"], module=None, data=None, rounds=5, **more):
    data = data or uneven()
    defaults = {"clients_per_round": min(7, len(data.client_ids)), "seed": 5, "threads": 1, "evaluate_every": rounds}
    return simulate(
        Experiment(model=module or network(), data=data, algorithm=FedAvg(local), engine=engine, rounds=rounds, **(defaults | more))
    )


SEQUENTIAL = Standalone(executor="sequential", processes=1)


def difference(a, b):
    return max(part.abs().max().item() for part in tree.tensors(tree.sub(a.model, b.model)))


@pytest.fixture(scope="module")
def reference():
    torch.set_num_threads(1)
    return {name: run(SEQUENTIAL, local) for name, local in LOCALS.items()}


@pytest.mark.parametrize("local", LOCALS)
@pytest.mark.parametrize("executor", EXECUTORS)
def test_equal_to_sequential_after_five_rounds(reference, executor, local):
    found, wanted = run(EXECUTORS[executor], LOCALS[local]), reference[local]
    assert difference(found, wanted) < 1e-5
    for ours, theirs in zip(found.history, wanted.history, strict=True):
        assert ours["round"] == theirs["round"]
        assert ours.get("clients") == theirs.get("clients")
        assert ours.get("examples") == theirs.get("examples")
        assert ours.get("train_loss", 0) == pytest.approx(theirs.get("train_loss", 0), abs=1e-5)


@pytest.mark.parametrize("more", [(), (nn.Dropout(0.4),)], ids=["plain", "dropout"])
@pytest.mark.parametrize("executor", EXECUTORS)
def test_same_bits_every_time_and_after_a_resume(executor, more, tmp_path):
    engine = EXECUTORS[executor]
    whole = run(engine, LOCALS["everything"], network(*more))
    assert run(engine, LOCALS["everything"], network(*more)).sha256 == whole.sha256
    experiment = {"model": network(*more), "data": uneven(), "algorithm": FedAvg(LOCALS["everything"]), "engine": engine}
    rest = {"clients_per_round": 7, "seed": 5, "threads": 1, "evaluate_every": 5}
    simulate(Experiment(**experiment, **rest, rounds=3), checkpoints=Checkpoints(tmp_path), checkpoint_every=1)
    resumed = simulate(Experiment(**experiment, **rest, rounds=5), checkpoints=Checkpoints(tmp_path), checkpoint_every=1)
    assert resumed.sha256 == whole.sha256


def test_clients_that_bring_their_own_tensors():
    draw = np.random.default_rng(0)
    tensors = {
        f"c{k}": {"x": torch.tensor(draw.normal(size=(n, 5)), dtype=torch.float32), "y": torch.tensor(draw.integers(0, 3, n))}
        for k, n in enumerate((3, 9, 6))
    }

    class Own:
        """Every client has columns of its own."""

        client_ids = tuple(tensors)
        global_test = Examples(tensors["c0"])
        classes, name, fingerprint = 3, "own", ""

        def train(self, client):
            return Examples(tensors[client])

        def test(self, client):
            return Examples(tensors[client])

        def to(self, device):
            return self

    ours, theirs = (run(engine, data=Own()) for engine in (EXECUTORS["stacked"], SEQUENTIAL))
    assert difference(ours, theirs) < 1e-5


@functools.cache
def losses_with_dropout(engine):
    return [run(engine, module=network(nn.Dropout(0.4)), seed=seed, rounds=2).history[-1]["train_loss"] for seed in range(20)]


@pytest.mark.parametrize("executor", ["traced", "stacked", "stacked in processes"])
def test_dropout_is_the_same_in_distribution(executor):
    """Mean loss over 20 seeds: the difference of two means of 20 is within three of its standard deviations."""
    ours, theirs = losses_with_dropout(EXECUTORS[executor]), losses_with_dropout(SEQUENTIAL)
    assert ours != theirs
    spread = statistics.stdev([a - b for a, b in zip(ours, theirs, strict=True)]) / 20**0.5
    assert abs(statistics.mean(ours) - statistics.mean(theirs)) < 3 * spread + 1e-3


class OwnLoop(Classifier):
    def train(self, model, batches):
        for batch in batches:
            model.zero_grad()
            self.loss(model, batch).mean().backward()
            with torch.no_grad():
                for part in model.parameters():
                    part -= 0.1 * part.grad


class Moody(ModelTrainer):
    """Decides anew at every step."""

    def loss(self, model, batch):
        losses = Classifier().loss(model, batch)
        return losses * 2 if random.random() < 0.5 else losses + random.random()


class Centred(nn.Module):
    """Makes examples depend on each other."""

    def __init__(self):
        super().__init__()
        self.inner = network()

    def forward(self, x):
        return self.inner(x - x.mean(0))


@settings
class Greedy(GradientTransform):
    """Takes the largest gradient of all for its own: of all clients, when they are stacked."""

    def update(self, grads, state, params, context):
        return [grad / max(float(part.abs().max()) for part in grads) for grad in grads], state


@tasks.register("count for executors")
@settings
class Count(Task):
    """No local update at all."""

    def __call__(self, client, shared, own=None):
        return Reply(tree.zeros_like(shared), float(len(client.train)), {})


SEQUENTIAL_ONLY = {
    "batch normalisation": (
        {"module": nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))},
        "layer '1' is batch norm",
    ),
    "a loop of one's own": ({"trainer": OwnLoop()}, "OwnLoop has a training loop of its own"),
    "moods": ({"trainer": Moody()}, "decides anew in every step"),
    "rows that look at each other": ({"module": Centred()}, "some operation mixes clients or examples"),
}


@pytest.mark.parametrize("case", SEQUENTIAL_ONLY)
def test_what_cannot_be_stacked_runs_one_by_one_and_says_why(case, caplog):
    given, reason = SEQUENTIAL_ONLY[case]
    sizes = (8, 33, 4, 12)
    with caplog.at_level(logging.WARNING):
        random.seed(0)
        ours = run(EXECUTORS["stacked"], data=uneven(sizes), **given)
    assert len([record for record in caplog.records if reason in record.message]) == 1
    random.seed(0)
    theirs = run(SEQUENTIAL, data=uneven(sizes), **given)
    if case != "moods":  # tracing has drawn from the model's own random numbers
        assert ours.sha256 == theirs.sha256


def test_a_transform_that_looks_at_the_stack_as_one_model_is_found_out(caplog):
    local = LocalSGD(lr=0.1, batch_size=5, transforms=(Greedy(),))
    with caplog.at_level(logging.WARNING):
        ours = run(EXECUTORS["stacked"], local)
    assert "looks at stacked clients as one" in caplog.text
    assert ours.sha256 == run(SEQUENTIAL, local).sha256


def test_a_task_that_is_no_local_update_runs_anyway(caplog):
    data = uneven()
    setup = Setup(Classifier(), network(), data, 0, torch.device("cpu"))
    for executor in (Stacked(setup, 4), Processes(2, lambda: Sequential(setup), setup)):
        work = Work(0, Count(), ModelState.of(setup.module), data.client_ids, {}, {})
        folded, _ = executor.fold(work, WeightedMean())
        assert WeightedMean().finish(folded).weight == 87
        executor.close()


def test_empty_clients_are_named_once(caplog):
    with caplog.at_level(logging.WARNING):
        run(SEQUENTIAL, clients_per_round=8)
    assert [record.message for record in caplog.records] == ["without training examples, and hence without weight: client c3"]


def test_replies_come_in_the_order_of_the_cohort():
    data = uneven()
    setup = Setup(Classifier(), network(), data, 0, torch.device("cpu"))
    work = Work(0, LOCALS["everything"], ModelState.of(setup.module), data.client_ids, {}, {})
    wanted = dict(Sequential(setup).replies(work))
    for executor in (Stacked(setup, 3), Processes(2, lambda: Stacked(setup, 3), setup)):
        found = dict(executor.replies(work))
        executor.close()
        assert list(found) == list(data.client_ids)
        for id, reply in found.items():
            torch.testing.assert_close(tree.tensors(reply.value), tree.tensors(wanted[id].value), rtol=1e-4, atol=1e-6)
            assert reply.weight == wanted[id].weight
            assert reply.metrics["loss"].value == pytest.approx(wanted[id].metrics["loss"].value, nan_ok=True)


def test_a_median_like_aggregator_gets_every_reply_of_a_stack():
    class Largest(Aggregator):
        def zero(self):
            return {}

        def add(self, total, reply):
            return total | {str(len(total)): reply.weight}

        def merge(self, total, other):
            return total | other

        def finish(self, total):
            raise NotImplementedError

    data = uneven()
    setup = Setup(Classifier(), network(), data, 0, torch.device("cpu"))
    work = Work(0, LOCALS["plain"], ModelState.of(setup.module), data.client_ids, {}, {})
    total, _ = Stacked(setup, 3).fold(work, Largest())
    assert sorted(total.values()) == [0, 1, 4, 5, 12, 12, 20, 33]


def test_the_block_shrinks_as_clients_get_through():
    data = uneven((50, 40, 5, 5, 5))
    setup = Setup(Classifier(), network(), data, 0, torch.device("cpu"))
    runner, task = ClientRunner(setup), LOCALS["plain"]
    clients = [runner.client(id, 0) for id in data.client_ids]
    layout = Layout(tuple((len(one.train), tuple(task.visits(one).lengths)) for one in clients), torch.device("cpu"))
    assert layout.going == [5, 2, 2, 2, 2, 2, 2, 2, 1, 1]
    assert layout.widths == [5, *[2] * 7, 1, 1]


def test_clients_with_the_same_batches_are_laid_out_once(monkeypatch):
    made = []
    monkeypatch.setattr(stacked, "Layout", lambda *given: made.append(given) or Layout(*given))
    data, task = uneven((7, 5, 5, 7, 7, 5)), LOCALS["plain"]
    setup = Setup(Classifier(), network(), data, 0, torch.device("cpu"))
    executor = Stacked(setup, 3)
    for round, clients in enumerate((["c0", "c3"], ["c4", "c0"], ["c0", "c1"])):
        executor.fold(Work(round, task, ModelState.of(setup.module), clients, {}, {}), WeightedMean())
    assert [shape for shape, _ in made] == [((7, (5, 2)), (7, (5, 2))), ((7, (5, 2)), (5, (5,)))]


def test_training_does_not_look_for_test_examples(monkeypatch):
    data = uneven()
    monkeypatch.setattr(data, "test", None)
    setup = Setup(Classifier(), network(), data, 0, torch.device("cpu"))
    work = Work(0, LOCALS["plain"], ModelState.of(setup.module), data.client_ids, {}, {})
    for executor in (Sequential(setup), Stacked(setup, 3)):
        executor.fold(work, WeightedMean())


@tasks.register("fail for executors")
@settings
class Fail(Task):
    kind: str = "trainer"

    def __call__(self, client, shared, own=None):
        if self.kind == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        raise TrainerError("the loss is upside down") if self.kind == "trainer" else ValueError("a bug of one's own")


@pytest.mark.parametrize(
    ("kind", "error", "text"),
    [
        ("trainer", TrainerError, "the loss is upside down"),
        ("bug", RuntimeError, "a bug of one's own"),
        ("die", RunError, r"worker process 0 died \(signal 9\)"),
    ],
)
def test_what_happens_in_a_worker_process_is_told(kind, error, text):
    data = uneven()
    setup = Setup(Classifier(), network(), data, 0, torch.device("cpu"))
    executor = Processes(2, lambda: Sequential(setup), setup)
    try:
        with pytest.raises(error, match=text):
            executor.fold(Work(0, Fail(kind), ModelState.of(setup.module), data.client_ids, {}, {}), WeightedMean())
        if kind != "die":  # and the workers are still there for the next thing
            work = Work(0, Count(), ModelState.of(setup.module), data.client_ids, {}, {})
            assert executor.fold(work, WeightedMean())[0].clients == 8
    finally:
        executor.close()


SCRIPT = """
import sys, time
from tests.fedml_api.test_executors import *
setup = Setup(Classifier(), network(), uneven(), 0, torch.device("cpu"))
executor = Processes(2, lambda: Sequential(setup), setup)
print(*[worker.pid for worker in executor.workers], flush=True)
time.sleep(60)
"""


def test_no_worker_outlives_its_parent():
    parent = subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while any(_runs(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(_runs(pid) for pid in pids)


def _runs(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def choice(module, sizes, clients, rounds=1000, executor="auto", block=None, processes=None, local=LOCALS["plain"]):
    rows = sum(sizes)
    shape = (1, 28, 28)
    columns = {"x": torch.zeros(1).expand(rows, *shape), "y": torch.zeros(rows, dtype=torch.int64)}
    ends = np.cumsum([0, *sizes])
    parts = {str(k): np.arange(ends[k], ends[k + 1]) for k in range(len(sizes))}
    data = FederatedDataset(Examples(columns), Examples(columns), parts, classes=10)
    setup = Setup(Classifier(), module, data, 0, torch.device("cpu"), rounds=rounds)
    work = Work(0, local, ModelState.of(module), data.client_ids[:clients], {}, {})
    return choose(setup, work, executor, block, processes)


def test_the_rule(monkeypatch):
    from fedml_api.model import LogisticRegression, ReddiCNN, TwoNN

    monkeypatch.setattr("fedml_api.standalone.auto.cores", lambda: 4)
    linear, dense, conv = (spec.build((1, 28, 28), 10) for spec in (LogisticRegression(), TwoNN(), ReddiCNN()))
    sizes = (60,) * 100
    assert str(choice(linear, sizes, 100, rounds=1)) == "sequential"
    assert choice(linear, sizes, 100).executor == choice(dense, sizes, 100).executor == "stacked"
    assert choice(conv, sizes, 100).executor == "traced"
    assert choice(linear, sizes, 100).block > choice(dense, sizes, 100).block > 1
    assert choice(conv, sizes, 100).processes == 4
    assert choice(conv, sizes, 2).processes == 2
    assert str(choice(conv, sizes, 100, executor="sequential", processes=3)) == "sequential, 3 processes of 1 thread"
    assert choice(linear, sizes, 100, block=7).block == 7
    assert str(choice(linear, sizes, 10)) == "stacked, blocks of 10, 1 thread"
    assert choice(linear, sizes, 100, local=LocalSGD(batch_size=10)).threads is None


@pytest.mark.parametrize(("threads", "meanwhile"), [(1, 1), (None, 2)])
def test_blocks_train_with_the_threads_that_they_are_given(threads, meanwhile):
    seen = []

    class Watched(Classifier):
        def loss(self, model, batch):
            seen.append(torch.get_num_threads())
            return super().loss(model, batch)

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        setup = Experiment(network(), uneven(), trainer=Watched()).setup()
        work = Work(0, LOCALS["plain"], ModelState.of(setup.module), setup.data.client_ids, {}, {})
        Stacked(setup, 3, threads).fold(work, WeightedMean())
        assert seen[-1] == meanwhile
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_what_is_not_registered_stays_in_this_process(monkeypatch):
    from fedml_api.model import ReddiCNN

    @settings
    class Private(LocalSGD):
        pass

    monkeypatch.setattr("fedml_api.standalone.auto.cores", lambda: 4)
    module = ReddiCNN().build((1, 28, 28), 10)
    assert choice(module, (60,) * 10, 10, local=Private()).processes == 1


def test_the_choice_is_noted_once_and_a_change_is_told(tmp_path, caplog):
    rest = {"clients_per_round": 7, "seed": 5, "threads": 1}

    def go(engine, rounds, history=()):
        experiment = Experiment(
            model=network(), data=uneven(), algorithm=FedAvg(LOCALS["plain"]), engine=engine, rounds=rounds, **rest
        )
        return simulate(experiment, checkpoints=Checkpoints(tmp_path), checkpoint_every=1, history=history).history

    history = go(EXECUTORS["stacked"], 2)
    assert [row.get("executor") for row in history] == [None, "stacked, blocks of 3, 1 thread", None]
    history = go(EXECUTORS["stacked"], 3, history)
    assert "executor" not in history[-1]
    assert "goes on as" not in caplog.text
    history = go(SEQUENTIAL, 4, history)
    assert history[-1]["executor"] == "sequential"
    assert "was carried out as 'stacked, blocks of 3, 1 thread' before, and goes on as 'sequential'" in caplog.text


def test_a_round_that_begins_with_a_question_still_trains_as_was_chosen(caplog):
    """What evaluates is carried out one by one, without a word; what trains has the executor that suits training."""
    experiment = Experiment(network(), blobs(8), engine=EXECUTORS["stacked"])
    setup = experiment.setup()
    with experiment.engine.open(setup) as session, caplog.at_level(logging.INFO, "fedml"):
        cohort, model = session.cohort(0, session.population()), ModelState.of(setup.module)
        asked = cohort.map(Evaluate(on="train"), {"others": model}, None)
        assert session.executor(asked.work).__class__ is Sequential
        trained = cohort.map(LocalSGD(), model)
        assert session.executor(trained.work).__class__ is Stacked
        assert session.executor(cohort.map(Evaluate(), model).work).__class__ is Sequential
        assert session.how == "stacked, blocks of 3, 1 thread"
        assert trained.fold(WeightedMean()).clients == 8
    assert "one by one" not in caplog.text


def test_states_of_another_task_are_left_alone():
    """Ditto asks twice: for the common model, which needs no state, clients that have some and others share a block."""
    experiment = Experiment(network(), blobs(8), algorithm=Ditto(lam=0.5, local=LOCALS["plain"]), rounds=1, clients_per_round=4)
    with EXECUTORS["stacked"].open(experiment.setup()) as session:
        state = experiment.algorithm.init(ModelState.of(experiment.model))
        for round, clients in enumerate((["c7", "c1"], ["c7", "c2", "c1", "c3"])):
            state, _ = experiment.algorithm.round(state, session.cohort(round, clients))
        assert len(dict(session.save())) == 4
