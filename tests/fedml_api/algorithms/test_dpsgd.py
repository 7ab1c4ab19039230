"""D-PSGD and decentralised FedAvg: against W X in NumPy, against FedAvg, and against the theory of mixing."""

import numpy as np
import pytest
import torch

from fedml_api import Experiment, FedAvg, LocalSGD, simulate
from fedml_api.algorithms import DPSGD, DFedAvg
from fedml_api.algorithms.fednova import Normalised
from fedml_core import tree
from fedml_core.errors import CommunicationError, ConfigError
from fedml_core.federation import (
    Around,
    Client,
    Evaluate,
    Gathered,
    Gossip,
    GossipNode,
    PrivatePart,
    WeightedMean,
    Workspace,
    gossip_links,
    local_updates,
    sample_clients,
    shapes,
)
from fedml_core.federation.gossip import _fits
from fedml_core.settings import settings
from fedml_core.topology import (
    Complete,
    Directed,
    Exponential,
    Regular,
    Ring,
    Sequence,
    SmallWorld,
    Torus,
    metropolis,
    second_eigenvalue,
    uniform_in,
)
from fedml_core.trainer import ModelState, Proximal
from tests.clients import judged
from tests.conftest import blobs
from tests.gossip import REFERENCE, STACKED, gossiped
from tests.quadratics import Quadratic, Vector, quadratics

A = [[1.0, 0.3], [0.2, 2.0], [0.7, 0.7], [1.5, 0.1], [0.4, 1.1]]
B = [[4.0, -1.0], [0.0, 3.0], [-2.0, 1.0], [1.0, 1.0], [5.0, -4.0]]
DATA = quadratics(A, B, [3, 5, 1, 2, 4])
STEP = LocalSGD(lr=0.1, steps=1, batch_size=0)


def network():
    torch.manual_seed(7)
    return torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))


def learn(algorithm, rounds=3, engine=REFERENCE, **settings):
    settings = {"clients_per_round": 4, "seed": 3} | settings
    return simulate(Experiment(network(), blobs(), algorithm=algorithm, engine=engine, rounds=rounds, **settings))


@pytest.mark.parametrize("mixes", ["start", "trained"])
@pytest.mark.parametrize(
    "topology", [Ring(), Complete(), SmallWorld(2, 0.5), Sequence((Ring(), Complete()))], ids=lambda one: type(one).__name__
)
def test_every_node_goes_where_numpy_says(topology, mixes):
    """X <- W X - lr A (X - B), or W (X - lr A (X - B)); rows are nodes."""
    found, rows, _ = gossiped(DPSGD(STEP, topology, mixes=mixes), DATA, Quadratic(), Vector([1.0, 2.0]), rounds=6, seed=4)
    x, a, b = np.tile([1.0, 2.0], (5, 1)), np.array(A), np.array(B)
    for round in range(6):
        mixing, step = metropolis(topology.graph(5, round, 4)), 0.1 * a * (x - b)
        x = mixing @ x - step if mixes == "start" else mixing @ (x - step)
        assert rows[round]["consensus"].value == pytest.approx(((x - x.mean(0)) ** 2).sum(1).mean(), rel=1e-4, abs=1e-6)
    assert np.array([node.model.params["w"].tolist() for node in found.values()]) == pytest.approx(x, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("rounds", [1, 4])
@pytest.mark.parametrize("weights", ["metropolis", "uniform"])
def test_on_a_complete_graph_it_is_fedavg_of_clients_that_count_the_same(rounds, weights):
    local = LocalSGD(lr=0.2, epochs=1, batch_size=5, momentum=0.5)
    one = learn(DFedAvg(local, Complete(), weights), rounds)
    other = learn(FedAvg(local, aggregator=WeightedMean(by="clients")), rounds)
    assert tree.norm(tree.sub(one.model, other.model)) < 1e-6
    assert one.history[-1]["train_loss"] == pytest.approx(other.history[-1]["train_loss"], abs=1e-6)
    assert one.history[-1]["train_consensus"] < 1e-12


def test_on_a_ring_it_is_not_fedavg():
    local = LocalSGD(lr=0.2, epochs=1, batch_size=5)
    one, other = learn(DFedAvg(local)), learn(FedAvg(local, aggregator=WeightedMean(by="clients")))
    assert tree.norm(tree.sub(one.model, other.model)) > 1e-3
    assert one.history[-1]["train_consensus"] > 1e-3


def test_dfedavg_is_dpsgd_that_mixes_what_is_trained():
    local, topology = LocalSGD(lr=0.2, epochs=2, batch_size=5), SmallWorld(2, 0.5)
    results = {learn(DPSGD(local, topology, mixes=mixes)).sha256 for mixes in ("start", "trained")}
    assert len(results) == 2
    assert learn(DFedAvg(local, topology)).sha256 in results


FLAT = quadratics([[0.0] * 3] * 8, [[0.0] * 3] * 8, [1] * 8)


def mixed(start, matrix, rounds, **settings):
    """Nodes that have nothing to learn, after some rounds: `[rounds + 1, nodes, d]`."""
    x = [np.asarray(start)]
    with REFERENCE.open(Experiment(Vector([0.0] * 3), FLAT, Quadratic()).setup()) as session:
        models = {f"q{k}": ModelState({"w": torch.tensor(row).float()}, {}) for k, row in enumerate(start)}
        for round in range(rounds):
            cohort = session.cohort(round, session.population())
            own = gossip_links(matrix, cohort.clients, {} if round else models)
            replies = cohort.map(Gossip(STEP, **settings), {}, own).gather()
            x.append(np.array([reply.value.used.params["w"].tolist() for reply in replies.values()]))
    return np.array(x)


@pytest.mark.parametrize("topology", [Ring(), Torus(), Regular(3), SmallWorld(4, 0.3)], ids=lambda one: type(one).__name__)
def test_consensus_comes_at_the_rate_of_the_second_eigenvalue(topology):
    """Along its eigenvector exactly, from anywhere else at least as fast; the mean stays what it is."""
    matrix = metropolis(topology.graph(8))
    values, vectors = np.linalg.eigh(matrix)
    second = np.argsort(abs(values))[-2]
    assert abs(values[second]) == pytest.approx(second_eigenvalue(matrix))
    scattered = np.random.default_rng(0).normal(size=(8, 2))
    path = mixed(np.column_stack([vectors[:, second], scattered]), matrix, 6)
    powers = values[second] ** np.arange(7)
    assert path[:, :, 0] == pytest.approx(powers[:, None] * vectors[:, second], abs=1e-6)
    apart = path[:, :, 1:] - scattered.mean(0)
    error = np.linalg.norm(apart, axis=(1, 2))
    assert (error <= abs(powers) * error[0] + 1e-6).all()
    assert error[-1] < 0.9 * error[0]
    assert apart.mean(1) == pytest.approx(0, abs=1e-6)


def test_rows_alone_agree_on_the_wrong_mean():
    """The limit weighs nodes by the left eigenvector of the mixing matrix, which says how much they are heard."""
    matrix, start = uniform_in(Directed(2).graph(8, seed=1)), 4 * np.random.default_rng(0).normal(size=(8, 3))
    values, vectors = np.linalg.eig(matrix.T)
    heard = vectors[:, np.argmax(values.real)].real
    end = mixed(start, matrix, 40)[-1]
    assert end == pytest.approx(np.tile(heard @ start / heard.sum(), (8, 1)), abs=1e-5)
    assert abs(end - start.mean(0)).max() > 0.2


def test_nodes_agree_better_the_larger_the_gap():
    apart = []
    for topology in (Ring(), Torus(), Complete()):
        _, rows, _ = gossiped(DFedAvg(LocalSGD(lr=0.2), topology), blobs(12), None, network(), rounds=4, engine=STACKED)
        apart.append(rows[-1]["consensus"].value)
    assert apart == sorted(apart, reverse=True)
    assert apart[0] > 2 * apart[1] > 100 * apart[2]


@local_updates.register("test_drift")
@settings
class Drift(Around):
    """Keeps how far it went, and goes on a little in that direction the next time."""

    local: LocalSGD

    def fresh(self, model):
        return tree.zeros_like(model)

    def personal(self, model, state):
        return tree.add(model, state, alpha=0.1)

    def keep(self, trained, start, carry, context):
        return tree.sub(trained, start)


LOCALS = {
    "plain": LocalSGD(lr=0.1, batch_size=5),
    "chain": LocalSGD(lr=0.2, batch_size=5, momentum=0.9, transforms=(Proximal(0.5),)),
    "private": PrivatePart(LocalSGD(lr=0.2, batch_size=5)),
    "drift": Drift(LocalSGD(lr=0.1, batch_size=5)),
}


@pytest.mark.parametrize("local", LOCALS)
@pytest.mark.parametrize("mixes", ["start", "trained"])
def test_stacked_clients_come_to_what_the_dialogues_do(local, mixes):
    """Every client's model, what it keeps for itself, and the metrics; not everybody takes part."""
    found = [
        gossiped(DPSGD(LOCALS[local], mixes=mixes), blobs(6), None, network(), rounds=3, engine=engine, per_round=4)
        for engine in (REFERENCE, STACKED)
    ]
    (talked, _, state), (stacked, _, other) = found
    assert list(talked) == list(stacked)
    for one, two in zip(tree.tensors([talked, state.model]), tree.tensors([stacked, other.model]), strict=True):
        assert (one - two).abs().max() < 1e-5
    for one, two in zip(found[0][1], found[1][1], strict=True):
        assert {name: mean.value for name, mean in one.items()} == pytest.approx({name: mean.value for name, mean in two.items()})


@pytest.mark.parametrize("local", LOCALS)
def test_stacked_clients_are_stacked(local):
    """Not found out to be unfit and carried out one by one."""
    with STACKED.open(Experiment(network(), blobs()).setup()) as session:
        algorithm = DPSGD(LOCALS[local])
        algorithm.round(algorithm.init(tree.clone(ModelState.of(network()))), session.cohort(0, session.population()))
        (executor,) = session._executors.values()
        assert list(executor.verdicts._known.values()) == [True]


def test_private_parts_stay_where_they_are():
    nodes, _, _ = gossiped(DFedAvg(PrivatePart(LocalSGD(lr=0.2)), Complete()), blobs(), None, network(), rounds=2)
    heads = {client: node.local.params["2.weight"] for client, node in nodes.items()}
    assert len({tuple(head.flatten().tolist()) for head in heads.values()}) == 4
    for node in nodes.values():
        assert torch.equal(node.model.params["2.weight"], network()[2].weight)
        assert not torch.equal(node.model.params["0.weight"], network()[0].weight)


def test_who_is_not_sampled_keeps_its_model():
    data = blobs(6)
    (before, _, _), (after, _, state) = (gossiped(DPSGD(), data, None, network(), rounds=rounds, per_round=4) for rounds in (1, 2))
    asked = sample_clients(data.client_ids, 4, 0, 1)
    assert 0 < len(set(before) - set(asked)) < len(before)
    for client, node in before.items():
        assert (tree.digest(node) != tree.digest(after[client])) == (client in asked)
    assert sorted(state.joined) == sorted({*before, *asked}) == sorted(after)


def test_a_newcomer_begins_with_the_initial_model():
    nodes, _, state = gossiped(DPSGD(STEP), DATA, Quadratic(), Vector([1.0, 2.0]), rounds=2, per_round=1)
    assert set(nodes) == set(state.joined)
    for client, node in nodes.items():
        k = int(client[1:])
        assert node.model.params["w"].tolist() in [
            pytest.approx((np.array(B[k]) + (1 - 0.1 * np.array(A[k])) ** steps * (np.array([1.0, 2.0]) - B[k])).tolist())
            for steps in (1, 2)
        ]


def test_who_is_lost_in_its_first_round_begins_in_its_next():
    algorithm, model = DPSGD(STEP), Vector([1.0, 2.0])
    with REFERENCE.open(Experiment(model, DATA, Quadratic()).setup()) as session:
        cohort = session.cohort(0, session.population())
        asked = cohort.map

        def lose(task, shared, own=None):
            replies = asked(task, shared, own).gather()
            del replies["q1"]
            return Gathered(replies)

        cohort.map = lose
        state, _ = algorithm.round(algorithm.init(ModelState.of(model)), cohort)
        session.restore([(client, kept) for client, kept in session.save() if client != "q1"])
        assert "q1" not in state.joined
        state, _ = algorithm.round(state, session.cohort(1, session.population()))
        assert sorted(state.joined) == sorted(session.population()) == sorted(dict(session.save()))
        session.restore([])
        with pytest.raises(CommunicationError, match="no longer has its model"):
            algorithm.round(state, session.cohort(2, session.population()))


def test_the_server_sees_no_model_if_nobody_reports():
    quiet, rows, state = gossiped(DPSGD(STEP, report=False), DATA, Quadratic(), Vector([1.0, 2.0]), rounds=3)
    open, others, seen = gossiped(DPSGD(STEP), DATA, Quadratic(), Vector([1.0, 2.0]), rounds=3)
    assert tree.digest(quiet) == tree.digest(open)
    assert state.model.params["w"].tolist() == [1.0, 2.0] != seen.model.params["w"].tolist()
    assert [row["loss"] for row in rows] == [row["loss"] for row in others]
    assert "consensus" not in rows[-1]
    with REFERENCE.open(Experiment(Vector([1.0, 2.0]), DATA, Quadratic()).setup()) as session:
        cohort = session.cohort(0, session.population())
        own = gossip_links(np.eye(5), cohort.clients, dict.fromkeys(cohort.clients, ModelState.of(Vector([1.0, 2.0]))))
        assert all(reply.value == {} for _, reply in cohort.map(Gossip(STEP, report=False), {}, own))


def test_the_server_shows_the_mean():
    nodes, _, state = gossiped(DPSGD(STEP), DATA, Quadratic(), Vector([1.0, 2.0]), rounds=3)
    mean = torch.stack([node.model.params["w"] for node in nodes.values()]).mean(0)
    assert state.model.params["w"].tolist() == pytest.approx(mean.tolist())


def test_clients_are_judged_with_the_models_they_use():
    experiment = Experiment(
        network(), blobs(), algorithm=DFedAvg(LocalSGD(lr=0.3)), rounds=3, clients_per_round=4, engine=REFERENCE
    )
    _, table = judged(experiment)
    _, with_mean = judged(experiment, by=Evaluate())
    nodes, _, _ = gossiped(experiment.algorithm, blobs(), None, network(), rounds=3, seed=0)
    module = nodes["c0"].model.load_into(network())
    assert table["c0"]["loss"] == pytest.approx(experiment.trainer.test(module, blobs().test("c0"))["loss"])
    assert table["c0"]["loss"] != with_mean["c0"]["loss"]


def said(value, weight):
    """What is said of a model of one number."""
    model = ModelState({"w": torch.tensor(value)}, {})
    return {"model": model} | ({} if weight is None else {"weight": torch.tensor(weight, dtype=torch.float64)})


@pytest.mark.parametrize("other", [None, said([float("nan")], 0.3), said([[0.6]], 0.3), {"model": 0.6}, said([0.6, 0.6], 0.3)])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_letter_that_never_comes_or_cannot_be_added(weighted, other):
    """Its weight falls to what the client has itself; push-sum does without."""
    setup = Experiment(Vector([0.0]), quadratics([[0.0]], [[0.0]], [1]), Quadratic()).setup()
    client = Client("q0", 0, 0, setup.data.train("q0"), setup.data.test, setup.trainer, Workspace(setup.module))
    matrix = np.array([[0.5, 0.3, 0.2], [0.25, 0.75, 0.0], [0.25, 0.0, 0.75]])
    links = gossip_links(matrix, ["q0", "q1", "q2"], {"q0": ModelState({"w": torch.tensor([8.0])}, {})})["q0"]
    talk = Gossip(STEP, weighted=weighted).talk(client, {}, links)
    post = next(talk)
    assert {to: letter["model"].params["w"].item() for to, letter in post.to.items()} == {"q1": 2.0, "q2": 2.0}
    assert next(talk).wait == ["q1", "q2"]
    if other is not None and not weighted:
        other = {"model": other["model"]}
    with pytest.raises(StopIteration) as end:
        talk.send({"q1": said([0.6], 0.3 if weighted else None), "q2": other})
    node = end.value.value.state
    assert node.model.params["w"].item() == pytest.approx(4.6 if weighted else 4.6 + 0.2 * 8)
    assert node.used.params["w"].item() == pytest.approx(4.6 / 0.8 if weighted else 6.2)


def test_a_letter_of_push_sum_has_a_weight_that_weighs_and_names_in_their_order():
    def two(names, weight=0.3):
        return {"model": ModelState({name: torch.ones(1) for name in names}, {}), "weight": torch.tensor(weight).double()}

    assert _fits(two("ab"), two("ab", 0.5))
    for other in (two("ba"), two("ab", 0.0), two("ab", -0.3), two("ab", np.inf), dict(reversed(two("ab").items()))):
        assert not _fits(other, two("ab"))


def test_a_report_is_a_model_such_as_that_of_the_others():
    one, weight = ModelState({"w": torch.zeros(2)}, {}), torch.ones((), dtype=torch.float64)
    shared = {"shapes": shapes(one)}
    plain, pushed, quiet = Gossip(STEP), Gossip(STEP, weighted=True), Gossip(STEP, report=False)
    assert plain.objection(GossipNode(one, None, None), shared) is None
    assert pushed.objection(GossipNode(one, weight, None), shared) is None
    assert quiet.objection({}, shared) is None
    assert "nobody has asked" in quiet.objection(GossipNode(one, None, None), shared)
    for task, node in ((plain, GossipNode(one, weight, None)), (pushed, GossipNode(one, None, None)), (plain, one), (plain, {})):
        assert "somebody who gossips" in task.objection(node, shared)
    assert "somebody who gossips" in plain.objection(GossipNode(one, None, {"x": weight}), shared)
    for wrong in ("x", 1.0, weight.float(), weight.expand(3), 0 * weight, -weight, weight * np.inf, weight * np.nan):
        assert "its weight is none" in pushed.objection(GossipNode(one, wrong, None), shared)
    assert "other parameters" in plain.objection(GossipNode(ModelState({"w": torch.zeros(3)}, {}), None, None), shared)
    known = {"shapes": shapes(ModelState({"a": torch.ones(1), "b": torch.ones(1)}, {}))}
    turned = GossipNode(ModelState({"b": torch.ones(1), "a": torch.ones(1)}, {}), None, None)
    assert "other parameters" in plain.objection(turned, known)
    assert "not finite" in plain.objection(GossipNode(ModelState({"w": torch.full((2,), torch.nan)}, {}), None, None), shared)


@pytest.mark.parametrize(
    ("algorithm", "says"),
    [
        (DPSGD(topology=Directed(2)), "metropolis weights need links that go both ways, and node . sends to node ., .* choose"),
        (DPSGD(topology=Directed(2), weights="uniform"), r"column . of the mixing matrix sums to .*or the algorithm pushsum"),
        (DFedAvg(topology=Exponential()), "need links that go both ways"),
        (DFedAvg(topology=Torus(3)), "Torus.* of 4 nodes: a torus needs"),
        (DPSGD(topology=Regular(5)), "degree must be below the number of nodes"),
        (DPSGD(local=Normalised(LocalSGD())), "Normalised does not end in a change of the model"),
    ],
    ids=lambda one: type(one).__name__,
)
def test_what_cannot_be_is_refused(algorithm, says):
    with pytest.raises(ConfigError, match=says):
        learn(algorithm, 1)


def test_a_network_that_cannot_be_is_refused_before_anything_runs():
    problems = Experiment(network(), blobs(), algorithm=DFedAvg(topology=Torus(3)), clients_per_round=4).problems()
    assert [line.partition(":")[0] for line in problems] == ["Torus(rows=3) of 4 nodes"]


def test_uniform_weights_pass_where_they_are_doubly_stochastic_or_let_pass():
    regular = [Exponential(), Ring(directed=True), Regular(3)]
    assert all(learn(DPSGD(topology=topology, weights="uniform"), 1).history for topology in regular)
    assert learn(DPSGD(topology=Directed(2), weights="uniform", unbiased=False), 1).history
