"""FedBuff: who is through when, how stale they are, and what that weighs."""

import numpy as np
import pytest
import torch

from fedml_api import Experiment, FedAvg, LocalSGD, Standalone, simulate
from fedml_api.algorithms import Compressed, FedBuff
from fedml_api.distributed import Loopback
from fedml_api.run.checkpoint import Checkpoints
from fedml_core import tree
from fedml_core.compression import Rotated
from fedml_core.errors import ConfigError, RoundFailed
from fedml_core.federation import SGD, Cohort, Setup, WeightedMean, sample_clients
from fedml_core.rng import rng
from fedml_core.trainer import ModelState
from tests.conftest import blobs
from tests.quadratics import Quadratic, Vector, quadratics

LOCAL = LocalSGD(lr=0.1, batch_size=5, momentum=0.5)
SEQUENTIAL = Standalone(executor="sequential", processes=1)
MINIMA = [[float(k), 3.0 - k**2] for k in range(7)]
SIZES = [5, 2, 9, 1, 4, 3, 7]


def on_blobs(algorithm, rounds=6, engine=SEQUENTIAL, **more):
    torch.manual_seed(7)
    network = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    return simulate(
        Experiment(network, blobs(8), algorithm=algorithm, engine=engine, rounds=rounds, clients_per_round=4, seed=3), **more
    )


def on_quadratics(algorithm, rounds, concurrency, engine=SEQUENTIAL, **more):
    data = quadratics([[1.0, 1.0]] * 7, MINIMA, SIZES)
    experiment = Experiment(
        Vector([20.0, -20.0]), data, Quadratic(), algorithm, engine, rounds=rounds, clients_per_round=concurrency, seed=3
    )
    return simulate(experiment, **more)


def duration(kind, seed, round, client):
    draw = rng(seed, "duration", round, client)
    return {
        "constant": lambda: 1.0,
        "uniform": lambda: draw.random(),
        "half_normal": lambda: abs(draw.standard_normal()),
        "examples": lambda: float(SIZES[int(client[1:])]),
    }[kind]()


def oracle(kind, rounds, concurrency, buffer, lr, seed, by):
    """Nguyen et al., Algorithm 1, as a simulation of events in NumPy; clients take one step of rate 0.3 towards their minimum."""
    w, clock, working, rows = np.array([20.0, -20.0]), 0.0, [], []
    for update in range(rounds):
        cohort = sample_clients([f"q{k}" for k in range(7)], concurrency, 3, update)
        idle = [client for client in cohort if client not in [one["client"] for one in working]]
        order = rng(seed, "begin", update).permutation(len(idle))
        for i in sorted(order[: concurrency - len(working)]):
            end = clock + duration(kind, seed, update, idle[i])
            working.append({"client": idle[i], "model": w.copy(), "update": update, "end": end})
        assert len(working) == concurrency
        received = sorted(working, key=lambda one: one["end"])[:buffer]
        working = [one for one in working if not any(one is other for other in received)]
        change, weights, stale = np.zeros(2), 0.0, []
        for one in received:
            k = int(one["client"][1:])
            weight = SIZES[k] if by == "examples" else 1
            stale.append(update - one["update"])
            change += weight / np.sqrt(1 + stale[-1]) * 0.3 * (np.array(MINIMA[k]) - one["model"])
            weights += weight
        w = w + lr * change / weights
        clock = received[-1]["end"]
        rows.append((np.mean(stale), clock))
    return w, rows


@pytest.mark.parametrize("kind", ["constant", "uniform", "half_normal", "examples"])
@pytest.mark.parametrize(("concurrency", "buffer", "by"), [(5, 2, "examples"), (5, 1, "clients"), (3, 2, "examples")])
def test_equals_the_simulation_of_events(kind, concurrency, buffer, by):
    local = LocalSGD(lr=0.3, batch_size=0)
    algorithm = FedBuff(buffer, kind, seed=2, local=local, server=SGD(lr=0.7), aggregator=WeightedMean(by))
    found = on_quadratics(algorithm, 9, concurrency)
    w, rows = oracle(kind, 9, concurrency, buffer, 0.7, 2, by)
    np.testing.assert_allclose(found.model.params["w"], w, rtol=1e-5)
    times = [(row["train_staleness"], row["train_clock"]) for row in found.history[1:]]
    np.testing.assert_allclose(times, rows, rtol=1e-9)
    assert max(stale for stale, _ in rows) > 0


@pytest.mark.parametrize("kind", ["constant", "uniform", "examples"])
@pytest.mark.parametrize("buffer", [4, 99])
def test_is_fedavg_when_nobody_is_stale(kind, buffer):
    server = SGD(lr=0.8, momentum=0.5)
    found = on_blobs(FedBuff(buffer, kind, local=LOCAL, server=server))
    assert found.sha256 == on_blobs(FedAvg(LOCAL, server)).sha256
    assert {row["train_staleness"] for row in found.history[1:]} == {0.0}


def test_updates_do_not_wait_for_the_slowest():
    """As many clients' work in less time than the synchronous server takes, which waits for the slowest of four each time."""
    fast, slow = on_blobs(FedBuff(1, local=LOCAL), 40), on_blobs(FedBuff(4, local=LOCAL), 10)
    assert fast.history[-1]["train_clock"] < 0.75 * slow.history[-1]["train_clock"]
    times = [row["train_clock"] for row in fast.history[1:]]
    assert times == sorted(times)
    assert fast.history[-1]["test_loss"] < 0.8 * fast.history[0]["test_loss"]


def test_others_are_drawn_with_another_seed():
    assert len({on_blobs(FedBuff(2, seed=seed, local=LOCAL), 3).sha256 for seed in (0, 0, 1)}) == 2


def rounds_of(algorithm, cohorts):
    """The states after rounds over these cohorts, on quadratics."""
    data, module = quadratics([[1.0, 1.0]] * 7, MINIMA, SIZES), Vector([20.0, -20.0])
    with SEQUENTIAL.open(Setup(Quadratic(), module, data, 3, torch.device("cpu"))) as session:
        state = algorithm.init(tree.clone(ModelState.of(module)))
        for round, about in enumerate(cohorts):
            clients, gone = about if isinstance(about, tuple) else (about, ())
            state, metrics = algorithm.round(state, Deserted(session.cohort(round, clients), gone))
            yield state, metrics


class Deserted(Cohort):
    """A cohort some of whose clients are gone."""

    def __init__(self, cohort, gone):
        self.cohort, self.gone = cohort, gone
        self.round, self.clients, self.population = cohort.round, cohort.clients, cohort.population

    def map(self, task, shared, own=None):
        here = [client for client in self.clients if client not in self.gone]
        return self.cohort.only(here).map(task, shared, own) if here or not self.clients else self.fail()

    def fail(self):
        raise RoundFailed("nobody is here")
        yield

    def only(self, clients, round=None):
        return Deserted(self.cohort.only(clients, round), self.gone)


ALL = [f"q{k}" for k in range(7)]


def test_models_are_kept_as_long_as_somebody_works_on_them():
    models, held = {}, []
    for round, (state, _) in enumerate(rounds_of(FedBuff(2, "uniform", local=LocalSGD(batch_size=0)), [ALL[:5]] * 12)):
        assert len(state.flights) == 3
        assert set(state.models) == {str(flight.version) for flight in state.flights.values()}
        for version, model in state.models.items():
            assert int(version) <= round
            assert tree.digest(model) == models.setdefault(version, tree.digest(model))
        held.append(len(state.models))
    assert max(held) > 1
    assert len(set(models.values())) == len(models) > 3


def test_nobody_begins_while_more_are_at_work_than_the_cohort_has():
    states = [state for state, _ in rounds_of(FedBuff(1, "uniform", local=LocalSGD(batch_size=0)), [ALL, ["q0"], ["q1"], ["q2"]])]
    assert [len(state.flights) for state in states] == [6, 5, 4, 3]
    assert all(flight.version == 0 for flight in states[-1].flights.values())


def mean_step(w, clients):
    """w after one step of rate 0.3 of these clients, weighted by their examples."""
    sizes = [SIZES[int(client[1:])] for client in clients]
    steps = [0.3 * (np.array(MINIMA[int(client[1:])]) - w) for client in clients]
    return w + np.average(steps, axis=0, weights=sizes)


def test_clients_that_are_gone_give_up_their_places():
    """q0, q1 and q2 are through first, q3 in the next round, with two who began then."""
    algorithm = FedBuff(3, "constant", local=LocalSGD(lr=0.3, batch_size=0))
    (first, metrics), (second, later) = rounds_of(algorithm, [(ALL[:4], ["q1"]), (ALL[:4], ["q3"])])
    w = mean_step(np.array([20.0, -20.0]), ["q0", "q2"])
    np.testing.assert_allclose(first.model.params["w"], w, rtol=1e-6)
    assert (metrics["staleness"].count, list(first.flights)) == (2, ["q3"])
    np.testing.assert_allclose(second.model.params["w"], mean_step(w, ["q0", "q1"]), rtol=1e-6)
    assert (later["staleness"].total, later["staleness"].count, list(second.flights)) == (0, 2, ["q2"])


def test_who_does_not_tell_its_number_of_examples_does_not_begin():
    ((state, _),) = rounds_of(FedBuff(2, "examples", local=LocalSGD(lr=0.3, batch_size=0)), [(ALL[:4], ["q3"])])
    np.testing.assert_allclose(state.model.params["w"], mean_step(np.array([20.0, -20.0]), ["q0", "q1"]), rtol=1e-6)
    assert (state.clock, list(state.flights)) == (5.0, ["q2"])


def test_a_round_in_which_nobody_replies_changes_no_model():
    algorithm = FedBuff(2, "constant", local=LocalSGD(batch_size=0), server=SGD(momentum=0.5))
    (start, _), (state, metrics), (after, _) = rounds_of(algorithm, [ALL[:4], (ALL[:4], ALL), ALL[:4]])
    assert tree.digest(state.model) == tree.digest(start.model)
    assert tree.digest(state.optimizer) == tree.digest(start.optimizer)
    assert (len(state.flights), metrics["staleness"].count, state.clock) == (2, 0, 1.0)
    assert tree.digest(after.model) != tree.digest(state.model)


@pytest.mark.parametrize("kind", ["uniform", "examples"])
def test_going_on_in_the_middle_gives_the_same_bits(tmp_path, kind):
    algorithm = FedBuff(2, kind, local=LOCAL, server=SGD(momentum=0.5))
    whole = on_blobs(algorithm, 9)
    on_blobs(algorithm, 4, checkpoints=Checkpoints(tmp_path), checkpoint_every=1)
    resumed = on_blobs(algorithm, 9, checkpoints=Checkpoints(tmp_path), checkpoint_every=1, history=whole.history[:5])
    assert resumed.sha256 == whole.sha256
    assert [row["train_clock"] for row in resumed.history[1:]] == [row["train_clock"] for row in whole.history[1:]]


def test_compressed_it_runs_the_same_on_workers():
    algorithm = Compressed(FedBuff(2, "examples", local=LOCAL), Rotated(levels=8))
    assert on_blobs(algorithm).sha256 == on_blobs(algorithm, engine=Loopback(workers=2)).sha256


def test_settings_that_make_no_sense_are_refused():
    for wrong in (lambda: FedBuff(buffer=0), lambda: FedBuff(durations="random"), lambda: FedBuff(seed=-1)):
        with pytest.raises(ConfigError):
            wrong()
