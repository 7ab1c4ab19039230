"""Push-sum, with and without gradients: against NumPy, against D-PSGD, and against a network that listens unevenly."""

import numpy as np
import pytest
import torch

from fedml_api import Experiment, LocalSGD, simulate
from fedml_api.algorithms import DPSGD, OnlinePushSum, PushSum
from fedml_api.algorithms.pushsum import Stream
from fedml_api.data import FederatedDataset
from fedml_api.run.checkpoint import Checkpoints
from fedml_api.run.regret import best_fixed, regret
from fedml_core import tree
from fedml_core.errors import ConfigError
from fedml_core.federation import Gossip, gossip_links, sample_clients
from fedml_core.topology import Complete, Directed, Exponential, Links, Redrawn, Ring, uniform_in, uniform_out
from fedml_core.trainer import Classifier, Examples, ModelState
from tests.conftest import blobs
from tests.gossip import REFERENCE, STACKED, gossiped
from tests.quadratics import Quadratic, Vector, optimum, quadratics

A = [[1.0, 0.3], [0.2, 2.0], [0.7, 0.7], [1.5, 0.1], [0.4, 1.1]]
B = [[4.0, -1.0], [0.0, 3.0], [-2.0, 1.0], [1.0, 1.0], [5.0, -4.0]]
DATA = quadratics(A, B, [1] * 5)
STEP = LocalSGD(lr=0.1, steps=1, batch_size=0)
# Node 0 is heard by all, who are heard by one: columns of the plain mean of what is heard sum to anything but 1.
LOUD = Links(((0, 1), (0, 2), (0, 3), (0, 4), (1, 2), (2, 3), (3, 4), (4, 0)))


def network(inputs=5, classes=3):
    torch.manual_seed(7)
    return torch.nn.Linear(inputs, classes)


@pytest.mark.parametrize("topology", [LOUD, Directed(2), Exponential(), Redrawn(Directed(2))], ids=lambda one: type(one).__name__)
def test_every_node_goes_where_numpy_says(topology):
    """x_half = x - lr A (x / w - B), x <- P x_half, w <- P w, with P in the mailing sense: i gives 1 / (d_i + 1) to each."""
    nodes, rows, state = gossiped(PushSum(STEP, topology), DATA, Quadratic(), Vector([1.0, 2.0]), rounds=7, seed=4)
    x, w, a, b = np.tile([1.0, 2.0], (5, 1)), np.ones(5), np.array(A), np.array(B)
    for round in range(7):
        graph = topology.graph(5, round, 4)
        half, x, heavy, w = x - 0.1 * a * (x / w[:, None] - b), np.zeros((5, 2)), w, np.zeros(5)
        for i in range(5):
            receivers = [i, *np.flatnonzero(graph[i])]
            for j in receivers:
                x[j] += half[i] / len(receivers)
                w[j] += heavy[i] / len(receivers)
        spread = ((x / w[:, None] - x.mean(0)) ** 2).sum(1).mean()
        assert rows[round]["consensus"].value == pytest.approx(spread, rel=1e-4)
    assert np.array([node.model.params["w"].tolist() for node in nodes.values()]) == pytest.approx(x, rel=1e-5, abs=1e-5)
    assert [node.weight.item() for node in nodes.values()] == pytest.approx(w.tolist(), rel=1e-9)
    assert np.array([node.used.params["w"].tolist() for node in nodes.values()]) == pytest.approx(x / w[:, None], rel=1e-5)
    assert state.model.params["w"].tolist() == pytest.approx(x.mean(0).tolist(), rel=1e-5)


def agreed(matrix, start, rounds, weighted):
    """What nodes with nothing to learn agree on: `[nodes, d]`."""
    flat = quadratics([[0.0]] * len(start), [[0.0]] * len(start), [1] * len(start))
    with REFERENCE.open(Experiment(Vector([0.0]), flat, Quadratic()).setup()) as session:
        models = {f"q{k}": ModelState({"w": torch.tensor([value])}, {}) for k, value in enumerate(start)}
        for round in range(rounds):
            cohort = session.cohort(round, session.population())
            own = gossip_links(matrix, cohort.clients, {} if round else models)
            replies = cohort.map(Gossip(STEP, weighted=weighted), {}, own).gather()
        return [reply.value.used.params["w"].item() for reply in replies.values()]


def test_it_finds_the_mean_where_plain_averaging_does_not():
    graph, start = LOUD.graph(5), [10.0, 0.0, 0.0, 5.0, -5.0]
    assert agreed(uniform_out(graph), start, 40, weighted=True) == pytest.approx([2.0] * 5, abs=1e-4)
    naive = agreed(uniform_in(graph), start, 40, weighted=False)
    assert naive == pytest.approx([naive[0]] * 5, abs=1e-4)
    assert abs(naive[0] - 2.0) > 1
    unweighted = agreed(uniform_out(graph), start, 40, weighted=False)
    assert max(unweighted) - min(unweighted) > 1


def test_it_finds_the_minimum_of_all_where_plain_averaging_finds_that_of_the_loud():
    """Both at the same small rate."""
    wanted = np.array(optimum(A, B, [1] * 5).tolist())
    local, errors = LocalSGD(lr=0.05, steps=1, batch_size=0), []
    for algorithm in (PushSum(local, LOUD), DPSGD(local, LOUD, "uniform", unbiased=False)):
        _, _, state = gossiped(algorithm, DATA, Quadratic(), Vector([1.0, 2.0]), rounds=120, engine=STACKED)
        errors.append(np.abs(np.array(state.model.params["w"].tolist()) - wanted).max())
    assert errors[0] < 0.2
    assert errors[1] > 1


@pytest.mark.parametrize("topology", [Exponential(), Ring(directed=True), Complete()], ids=lambda one: type(one).__name__)
def test_where_weights_stay_one_it_is_dpsgd(topology):
    local = LocalSGD(lr=0.2, epochs=1, batch_size=5, momentum=0.5)
    experiments = [
        Experiment(network(), blobs(), algorithm=algorithm, engine=REFERENCE, rounds=3, clients_per_round=4, seed=3)
        for algorithm in (PushSum(local, topology), DPSGD(local, topology, "uniform", mixes="trained"))
    ]
    one, other = map(simulate, experiments)
    assert tree.norm(tree.sub(one.model, other.model)) < 1e-6
    assert one.history[-1]["train_consensus"] == pytest.approx(other.history[-1]["train_consensus"], rel=1e-4, abs=1e-9)


def test_where_few_take_part_the_server_shows_what_they_have_together():
    """Their weights sum to anything but their number; those of all stay what they were."""
    data = blobs(6)
    nodes, _, state = gossiped(PushSum(LocalSGD(lr=0.2), Directed(2)), data, None, network(), 5, per_round=4)
    last = [nodes[client] for client in sample_clients(data.client_ids, 4, 0, 4)]
    weight = sum(node.weight.item() for node in last)
    assert abs(weight - 4) > 0.05
    for name, part in state.model.params.items():
        assert torch.allclose(part, sum(node.model.params[name] for node in last) / weight, atol=1e-6)
    assert sum(node.weight.item() for node in nodes.values()) == pytest.approx(len(nodes))


def test_a_run_goes_on_from_a_checkpoint_with_the_same_bits(tmp_path):
    """Models and weights of the nodes are private states, and who has begun is known to the server; some begin after the break."""

    def run(rounds, checkpoints):
        algorithm = PushSum(LocalSGD(lr=0.2), Redrawn(Directed(2)))
        experiment = Experiment(network(), blobs(8), algorithm=algorithm, engine=REFERENCE, rounds=rounds, clients_per_round=4)
        return simulate(experiment, checkpoints=checkpoints).sha256

    whole = run(4, None)
    run(2, Checkpoints(tmp_path))
    assert run(4, Checkpoints(tmp_path)) == whole


def test_stacked_clients_come_to_what_the_dialogues_do():
    found = [
        gossiped(PushSum(LocalSGD(lr=0.2, batch_size=5), Directed(2)), blobs(6), None, network(), 3, engine, per_round=5)
        for engine in (REFERENCE, STACKED)
    ]
    for one, two in zip(*(tree.tensors([nodes, state]) for nodes, _, state in found), strict=True):
        assert (one - two).abs().max() < 1e-5


def streams(rounds, clients=6, drift=0.0, seed=0):
    """Examples of two classes in 3 dimensions, the order of each client's being time, in which the classes may turn."""
    draw, count = np.random.default_rng(seed), rounds * clients
    y = draw.integers(0, 2, count)
    angle = drift * np.tile(np.arange(rounds), clients) / rounds
    means = np.stack([np.cos(angle), np.sin(angle), np.zeros(count)], 1) * (2 * y - 1)[:, None]
    columns = {"x": torch.tensor(draw.normal(size=(count, 3)) + means).float(), "y": torch.tensor(y)}
    parts = {f"s{k}": np.arange(k * rounds, (k + 1) * rounds) for k in range(clients)}
    return FederatedDataset(Examples(columns), Examples(columns), parts, classes=2, name="streams")


def online(data, rounds, rate):
    """The history of a network of one-sided trust that learns from these streams."""
    algorithm = OnlinePushSum(LocalSGD(lr=rate, batch_size=1), Directed(2))
    settings = {"rounds": rounds, "clients_per_round": len(data.client_ids), "evaluate_every": rounds}
    return simulate(Experiment(network(3, 2), data, algorithm=algorithm, engine=STACKED, **settings)).history


def test_a_stream_is_read_once_in_order_and_ends():
    """Every example costs what it costs the model before it was seen, then never comes again."""
    data = quadratics([[1.0]] * 2, [[0.0]] * 2, [5, 3])
    data.global_train.columns["b"].copy_(torch.tensor([[1.0], [2.0], [3.0], [4.0], [5.0], [10.0], [20.0], [30.0]]))
    nodes, rows, _ = gossiped(OnlinePushSum(LocalSGD(lr=0.5, batch_size=2), Complete()), data, Quadratic(), Vector([0.0]), rounds=4)
    z, seen = np.zeros(2), []
    for come in [([1, 2], [10, 20]), ([3, 4], [30]), ([5], []), ([], [])]:
        losses = [[0.5 * (z[i] - b) ** 2 for b in come[i]] for i in range(2)]
        seen.append((sum(map(sum, losses)), sum(map(len, losses))))
        z = np.full(2, np.mean([z[i] - 0.5 * (z[i] - np.mean(come[i])) if come[i] else z[i] for i in range(2)]))
    assert [(row["loss"].total, row["loss"].count) for row in rows] == [pytest.approx(one) for one in seen]
    assert [node.used.params["w"].item() for node in nodes.values()] == pytest.approx(z.tolist())


def test_regret_is_that_of_the_closed_form():
    """Of 0.5 (z - b)^2 the best fixed z is the mean of what has come, two examples to each client in every round."""
    data = quadratics([[1.0]] * 2, [[0.0]] * 2, [4, 6])
    come = [1.0, 2.0, 3.0, 4.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0]
    data.global_train.columns["b"].copy_(torch.tensor(come)[:, None])
    history = [{"round": 0}, *({"round": t, "train_loss": 1000.0 * t, "examples": n} for t, n in ((1, 4), (2, 4), (3, 2)))]
    streams = [data.train(client) for client in data.client_ids]
    found = regret(history, best_fixed(Quadratic(), Vector([0.0]), streams, 2, [1, 3]))
    best = [0.5 * np.var(values) * len(values) for values in ([1, 2, 10, 20], come)]
    assert found == pytest.approx({1: 4000 - best[0], 3: 18000 - best[1]}, rel=1e-5)


def test_regret_grows_slower_than_time():
    """At a rate of 1 / sqrt(T), as the paper has it; without learning it grows as fast as time."""
    rounds, clients = 160, 4
    data = streams(rounds, clients)
    with torch.no_grad():
        losses = Classifier().loss(network(3, 2), data.global_train.all()).view(clients, rounds).mean(0)
    stays = [{"round": t + 1, "train_loss": loss, "examples": clients} for t, loss in enumerate(losses.tolist())]
    best = best_fixed(Classifier(), network(3, 2), [data.train(client) for client in data.client_ids], 1, [rounds // 4, rounds])
    exponents = []
    for history in (online(data, rounds, rate=2 / rounds**0.5), stays):
        early, late = regret(history, best).values()
        exponents.append(np.log(late / early) / np.log(4))
    assert exponents[0] < 0.4
    assert exponents[1] > 0.8


def test_a_network_regrets_less_than_those_who_are_alone():
    """With examples of its own only, each node has to learn by itself what all of them see."""
    data, alone = streams(60), 0.0
    for client in data.client_ids:
        model = network(3, 2)
        for batch in data.train(client).batches(1):
            loss = Classifier().loss(model, batch).mean()
            for param, grad in zip(model.parameters(), torch.autograd.grad(loss, [*model.parameters()]), strict=True):
                param.data -= 0.3 * grad
            alone += loss.item()
    together = sum(row["train_loss"] * row["examples"] for row in online(data, 60, rate=0.3)[1:])
    assert together < 0.95 * alone


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: OnlinePushSum(LocalSGD(epochs=1)), "a stream has one step per round"),
        (lambda: Stream(LocalSGD(steps=3)), "a stream has one step per round"),
        (lambda: OnlinePushSum(LocalSGD(batch_size=0)), "local.batch_size = 0: say how many"),
    ],
)
def test_settings_that_are_no_stream_are_refused(make, said):
    with pytest.raises(ConfigError, match=said):
        make()


def test_a_network_in_pieces_is_refused():
    with pytest.raises(ConfigError, match="nothing gets from node 1 to node 0"):
        gossiped(PushSum(STEP, Links(((0, 1), (1, 2)))), quadratics(A[:3], B[:3], [1] * 3), Quadratic(), Vector([0.0, 0.0]), 1)
