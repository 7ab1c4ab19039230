"""FedAdam, FedYogi and FedAdagrad: the paper's Algorithm 2, from the clients to the server."""

import numpy as np
import pytest
import torch

from fedml_api import Experiment, FedAvg, LocalSGD, simulate
from fedml_api.algorithms import FedAdagrad, FedAdam, FedYogi
from fedml_core.errors import ConfigError
from fedml_core.federation import SGD, Adagrad, Adam, WeightedMean, Yogi, algorithms, sample_clients
from fedml_core.settings import build, to_plain
from fedml_core.trainer import Exponential
from tests.conftest import blobs
from tests.quadratics import minimise, optimum, quadratics

A, B, EXAMPLES = [[1.0, 0.2], [0.5, 0.4], [2.0, 0.1]], [[3.0, -1.0], [-2.0, 0.5], [1.0, 2.0]], [2, 5, 3]
START = [4.0, -4.0]
LOCAL = LocalSGD(lr=Exponential(0.2, 0.9), steps=3, batch_size=0)
SERVERS = {
    "adam": FedAdam(LOCAL, Adam(Exponential(0.3, 0.8), beta1=0.8, beta2=0.7, tau=0.05)),
    "yogi": FedYogi(LOCAL, Yogi(Exponential(0.3, 0.8), beta1=0.8, beta2=0.7, tau=0.05)),
    "adagrad": FedAdagrad(LOCAL, Adagrad(Exponential(0.3, 0.8), beta1=0.8, tau=0.05), WeightedMean(by="clients")),
}


def paper(kind, rounds, weights):
    """Algorithm 2 of Reddi et al., of whose line 4 to 9 quadratics leave one closed form; two clients a round."""
    a, b = np.array(A), np.array(B)
    w = np.array(START)
    m, v = np.zeros(2), np.full(2, 0.05**2)
    for round in range(rounds):
        chosen = [int(id[1:]) for id in sample_clients(["q0", "q1", "q2"], 2, 1, round)]
        changes = [(b[k] - w) * (1 - (1 - 0.2 * 0.9**round * a[k]) ** 3) for k in chosen]
        d = np.average(changes, axis=0, weights=[weights[k] for k in chosen])
        m = 0.8 * m + 0.2 * d
        match kind:
            case "adam":
                v = 0.7 * v + 0.3 * d**2
            case "yogi":
                v = v - 0.3 * d**2 * np.sign(v - d**2)
            case "adagrad":
                v = v + d**2
        w = w + 0.3 * 0.8**round * m / (np.sqrt(v) + 0.05)
    return w


@pytest.mark.parametrize("kind", SERVERS)
def test_follows_the_paper_in_numpy(kind):
    found = minimise(SERVERS[kind], quadratics(A, B, EXAMPLES), START, rounds=6, per_round=2, seed=1)
    np.testing.assert_allclose(found, paper(kind, 6, np.ones(3) if kind == "adagrad" else EXAMPLES), atol=1e-6)


def test_with_plain_sgd_at_the_server_fedopt_is_fedavg_so_only_the_server_differs():
    def run(algorithm):
        torch.manual_seed(7)
        network = torch.nn.Linear(5, 3)
        return simulate(Experiment(network, blobs(), algorithm=algorithm, rounds=2, clients_per_round=3, seed=3)).sha256

    defaults = {FedAdam: Adam(), FedYogi: Yogi(), FedAdagrad: Adagrad()}
    found = {run(FedAvg(server=SGD(lr=1.0))): FedAvg}
    for ours, server in defaults.items():
        sha256 = run(ours())
        assert sha256 == run(FedAvg(server=server))
        found[sha256] = ours
    assert len(found) == 4


@pytest.mark.parametrize("kind", SERVERS)
def test_a_huge_tau_makes_momentum_of_it(kind):
    """v stays near tau^2, so that w moves by lr m / (2 tau), to a relative error of D^2 / tau^2."""
    tau, slow = 1e5, {} if kind == "adagrad" else {"beta2": 1 - 1e-7}
    adaptive = algorithms[f"fed{kind}"](LOCAL, type(SERVERS[kind].server)(lr=0.4 * tau, beta1=0.8, tau=tau, **slow))
    w, v = np.array(START), np.zeros(2)
    for round in range(4):
        pulls = np.array(EXAMPLES)[:, None] * (1 - (1 - 0.2 * 0.9**round * np.array(A)) ** 3)
        v = 0.8 * v + 0.2 * (pulls * (B - w)).sum(0) / sum(EXAMPLES)
        w = w + 0.4 * v / 2
    np.testing.assert_allclose(minimise(adaptive, quadratics(A, B, EXAMPLES), START, 4), w, rtol=1e-5)


@pytest.mark.parametrize("kind", SERVERS)
def test_coordinates_of_unlike_scale_go_equally_fast(kind):
    """Curvatures 1 and 1/1000: FedAvg has hardly moved in the second when the first has arrived; adaptive steps move both."""
    a, b, n = [[1.0, 0.001], [1.0, 0.001]], [[1.0, 2.0], [3.0, 0.0]], [1, 1]
    best, data, local = optimum(a, b, n).numpy(), quadratics(a, b, n), LocalSGD(lr=0.1, steps=2, batch_size=0)
    adaptive = algorithms[f"fed{kind}"](local, type(SERVERS[kind].server)(lr=0.1, beta1=0.0, tau=1e-5))
    left = np.abs(minimise(adaptive, data, [-1.0, -1.0], 40) - best)
    averaged = np.abs(minimise(FedAvg(local), data, [-1.0, -1.0], 40) - best)
    assert averaged[0] < 0.01
    assert averaged[1] > 0.98 * 2
    assert left[1] < 0.6 * 2


def test_a_server_of_another_kind_is_refused():
    with pytest.raises(ConfigError, match="must be a Adam"):
        FedAdam(server=Yogi())


@pytest.mark.parametrize("kind", SERVERS)
def test_settings_read_back(kind):
    problems: list[str] = []
    plain = {key: value for key, value in to_plain(SERVERS[kind]).items() if key != "name"}
    assert build(type(SERVERS[kind]), plain, "", problems) == SERVERS[kind]
    assert problems == []
