"""SCAFFOLD: the paper's Algorithm 1, and no drift."""

import numpy as np
import pytest
import torch

from fedml_api import Experiment, FedAvg, LocalSGD, Standalone, simulate
from fedml_api.algorithms import Scaffold
from fedml_api.run.checkpoint import Checkpoints
from fedml_core import tree
from fedml_core.errors import TrainerError
from fedml_core.federation import SGD, WeightedMean, sample_clients
from fedml_core.rng import rng
from fedml_core.trainer import Classifier, Exponential
from tests.conftest import blobs
from tests.quadratics import minimise, optimum, quadratics

# A client's examples are all equal, so that batches of 2 make as many equal steps as it has pairs of them.
A, B, EXAMPLES = [[1.0, 0.6], [0.5, 0.8], [2.0, 0.7]], [[3.0, -1.0], [-2.0, 0.5], [1.0, 2.0]], [2, 8, 4]
START = [4.0, -4.0]
DATA = quadratics(A, B, EXAMPLES)
ONE_EACH = [1, 1, 1]


def paper(rounds, option, rho=0.0, asked=2, population=3):
    """Algorithm 1 of Karimireddy et al. with rates of both sides that change. With heavy-ball momentum the steps of option II are
    counted by the weights that their gradients have in y, which sum to K without it. The fourth client, if any, has no examples."""
    a, b, steps = np.array(A), np.array(B), np.array(EXAMPLES) // 2
    x, c, controls, last = np.array(START), np.zeros(2), np.zeros((3, 2)), {}
    for round in range(rounds):
        lr, global_lr = 0.2 * 0.9**round, 0.5 * 1.1**round
        changes, control_changes = [], []
        chosen = [int(id[1:]) for id in sample_clients([f"q{k}" for k in range(population)], asked, 5, round)]
        chosen = [k for k in chosen if k < 3]
        for k in chosen:
            y, v = x.copy(), np.zeros(2)
            for _ in range(steps[k]):
                v = rho * v + a[k] * (y - b[k]) - controls[k] + c
                y = y - lr * v
            weight = sum((1 - rho**j) / (1 - rho) for j in range(1, steps[k] + 1))
            new = a[k] * (x - b[k]) if option == "I" else controls[k] - c + (x - y) / (weight * lr)
            changes.append(y - x)
            control_changes.append(new - controls[k])
            controls[k], last[k] = new, round
        x = x + global_lr * np.mean(changes, axis=0)
        c = c + len(chosen) / population * np.mean(control_changes, axis=0)
    assert asked == population or len(set(last.values())) > 1  # or it would not matter that clients keep their state
    return x


@pytest.mark.parametrize(("option", "rho"), [("I", 0.0), ("II", 0.0), ("II", 0.6)])
def test_follows_the_paper_in_numpy(option, rho):
    algorithm = Scaffold(LocalSGD(lr=Exponential(0.2, 0.9), batch_size=2, momentum=rho), SGD(lr=Exponential(0.5, 1.1)), option)
    found = minimise(algorithm, DATA, START, 7, per_round=2, seed=5)
    np.testing.assert_allclose(found, paper(7, option, rho), atol=5e-6)


def run(algorithm, rounds, checkpoints=None, **settings):
    torch.manual_seed(7)
    network = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    experiment = Experiment(network, blobs(), algorithm=algorithm, rounds=rounds, clients_per_round=3, seed=3, **settings)
    return simulate(experiment, checkpoints=checkpoints, checkpoint_every=1)


def test_first_round_is_fedavg_of_clients_and_the_second_is_not():
    local = LocalSGD(lr=0.2, epochs=2, batch_size=5, momentum=0.5, clip=1.0)
    theirs = [run(FedAvg(local, aggregator=WeightedMean(by="clients")), rounds) for rounds in (1, 2)]
    for option, within in (("I", 1e-6), ("II", 0.0)):
        ours = [run(Scaffold(local, option=option), rounds) for rounds in (1, 2)]
        away = [tree.norm(tree.sub(mine.model, other.model)) for mine, other in zip(ours, theirs, strict=True)]
        assert away[0] <= within
        assert away[1] > 1e-3


@pytest.mark.parametrize(("option", "momentum"), [("I", 0.0), ("II", 0.0), ("II", 0.5)])
def test_reaches_the_optimum_of_unlike_clients_where_fedavg_stalls(option, momentum):
    """FedAvg with T_k steps stays where the pulls s_k = 1 - (1 - r a_k)^T_k balance; the optimum balances a_k."""
    a, b, steps = np.array(A), np.array(B), np.array(EXAMPLES)[:, None] // 2
    best = optimum(A, B, ONE_EACH).numpy()
    algorithm = Scaffold(LocalSGD(lr=0.2, batch_size=2, momentum=momentum), option=option)
    np.testing.assert_allclose(minimise(algorithm, DATA, START, 60), best, atol=1e-5)
    pull = 1 - (1 - 0.2 * a) ** steps
    still = (pull * b).sum(0) / pull.sum(0)
    averaged = FedAvg(LocalSGD(lr=0.2, batch_size=2), aggregator=WeightedMean(by="clients"))
    np.testing.assert_allclose(minimise(averaged, DATA, START, 60), still, atol=1e-5)
    assert np.linalg.norm(still - best) > 0.1


def test_reaches_it_with_a_part_of_the_clients_in_each_round():
    found = minimise(Scaffold(LocalSGD(lr=0.1, batch_size=2)), DATA, START, 200, per_round=1, seed=1)
    np.testing.assert_allclose(found, optimum(A, B, ONE_EACH), atol=1e-4)


def test_option_i_takes_the_gradient_of_all_examples_at_the_servers_model():
    """Clients whose examples differ, two rounds by hand: in the second, g - c_k + c along the same batches."""
    draw = np.random.default_rng(3)
    a, b = draw.uniform(0.5, 2, (2, 6)), draw.normal(size=(2, 6))
    data = quadratics(a.reshape(-1, 1).tolist(), b.reshape(-1, 1).tolist(), [1] * 12)
    data = type(data)(data.global_train, data.global_test, {"q0": np.arange(6), "q1": np.arange(6, 12)}, name="unlike examples")
    x, controls = 2.0, np.zeros(2)
    for round in range(2):
        whole = (a * (x - b)).mean(1)
        ends = []
        for k in range(2):
            order, y = rng(4, "batches", round, f"q{k}").permutation(6), x
            for rows in (order[:4], order[4:]):
                y = y - 0.3 * ((a[k, rows] * (y - b[k, rows])).mean() - controls[k] + controls.mean())
            ends.append(y)
        x, controls = np.mean(ends), whole
    found = minimise(Scaffold(LocalSGD(lr=0.3, batch_size=4), option="I"), data, [2.0], 2, seed=4)
    assert found.item() == pytest.approx(x, abs=1e-6)


@pytest.mark.parametrize("option", ["I", "II"])
@pytest.mark.parametrize("executor", ["sequential", "stacked"])
def test_a_client_without_examples_changes_nothing(executor, option, caplog):
    empty = quadratics([*A, [1.0, 1.0]], [*B, [9.0, 9.0]], [*EXAMPLES, 0])
    algorithm = Scaffold(LocalSGD(lr=Exponential(0.2, 0.9), batch_size=2), SGD(lr=Exponential(0.5, 1.1)), option)
    found = minimise(algorithm, empty, START, 4, engine=Standalone(executor=executor, processes=1), seed=5)
    np.testing.assert_allclose(found, paper(4, option, asked=4, population=4), atol=5e-6)
    assert "one by one" not in caplog.text


def test_control_variates_survive_an_interruption(tmp_path):
    algorithm = Scaffold(LocalSGD(lr=0.2, batch_size=5))
    whole = run(algorithm, 4)
    for rounds in (2, 4):
        resumed = run(algorithm, rounds, Checkpoints(tmp_path))
    assert resumed.sha256 == whole.sha256


class OwnLoop(Classifier):
    def train(self, model, batches):
        raise AssertionError


def test_a_loop_of_ones_own_cannot_be_corrected():
    with pytest.raises(TrainerError, match="ControlVariate"):
        run(Scaffold(), 1, trainer=OwnLoop())
