"""FedGKT: small networks on clients and a large one at the server, which teach each other by their logits."""

import math
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from fedml_api import Experiment, FedAvg, FederatedDataset, LocalSGD, Standalone, simulate
from fedml_api.algorithms import FedGKT
from fedml_api.algorithms.fedgkt import Distillation, TrainEdge, divergence, teaching
from fedml_api.model import Edge, InParts
from fedml_api.run.checkpoint import Checkpoints
from fedml_core import rng, tree
from fedml_core.errors import ConfigError
from fedml_core.federation import Cohort, Gathered
from fedml_core.trainer import Adaptive, Classifier, Examples, ModelState
from tests.conftest import blobs, in_parts
from tests.oracles import fedgkt as oracle

ENGINE = Standalone("sequential", processes=1)
LOCAL = LocalSGD(lr=0.1, epochs=2, batch_size=5, drop_last=True)


def steady(network):
    """Without dropout, in double precision: what is left is the same whoever draws."""
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return network.double()


def double(data):
    """The same data in double precision."""
    part = {which: {client: getattr(data, which)(client).all() for client in data.client_ids} for which in ("train", "test")}
    for batch in [*part["train"].values(), *part["test"].values()]:
        batch["x"] = batch["x"].double()
    return FederatedDataset.from_clients(part["train"], part["test"], classes=3)


def experiment(algorithm, **settings):
    torch.manual_seed(7)
    defaults = {"rounds": 3, "clients_per_round": 3, "seed": 4, "engine": ENGINE}
    defaults |= {"model": in_parts(of_client={"c2": "wide"}), "data": blobs(4, tested=4)}
    return Experiment(algorithm=algorithm, **(defaults | settings))


class Watched(Cohort):
    """A cohort that hands what goes by to `changed`: every client's own part before, and its reply after."""

    def __init__(self, cohort, changed):
        self.cohort, self.changed = cohort, changed
        self.round, self.clients, self.population, self.server = cohort.round, cohort.clients, cohort.population, cohort.server

    def map(self, task, shared, own=None):
        mine = {id: self.changed("own", id, part) for id, part in (own or {}).items()}
        replies = self.cohort.map(task, self.changed("shared", "", shared), mine)
        return Gathered({id: replace(reply, value=self.changed("value", id, reply.value)) for id, reply in replies})

    def only(self, clients, round=None):
        return Watched(self.cohort.only(clients, round), self.changed)


def rounds(one, changed=None):
    """All rounds of an experiment: the state after them, the private states of clients, and the clients of every round."""
    with one.engine.open(one.setup()) as session:
        state, sampled = one.algorithm.init(tree.clone(ModelState.of(one.model))), []
        for round in range(one.rounds):
            sampled.append(session.select(one.clients_per_round, one.seed, round))
            cohort = session.cohort(round, sampled[-1])
            state, _ = one.algorithm.round(state, Watched(cohort, changed) if changed else cohort)
        return state, dict(session.save()), sampled


def test_follows_the_paper():
    """Clients that come and go, uneven data, edges of two kinds, batch normalisation, and momentum that outlives the round."""
    sgd = {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01}
    local = replace(LOCAL, batch_size=4, **sgd)
    one = experiment(
        FedGKT(local, local, alpha=0.7, server_alpha=0.4, temperature=2.0),
        model=steady(in_parts(of_client={"c2": "wide"})),
        data=double(blobs(4, tested=4)),
        rounds=4,
    )
    state, private, sampled = rounds(one)
    assert len({tuple(clients) for clients in sampled}) > 1
    first_seen = {client: min(k for k, clients in enumerate(sampled) if client in clients) for client in one.data.client_ids}
    assert set(first_seen.values()) != {0}

    network = deepcopy(one.model)
    edges = {id: deepcopy(nn.Sequential(network.edge(id).extractor, network.edge(id).classifier)) for id in one.data.client_ids}

    def data(client):
        batch = one.data.train(client).all()
        return batch["x"], batch["y"]

    def orders(round, party, count):
        draw = rng.rng(one.seed, "batches", round, party)
        return [torch.from_numpy(draw.permutation(count)[: count // 4 * 4]) for _ in range(2)]

    said = oracle.fedgkt(edges, network.server, 4, sampled.__getitem__, data, orders, 4, 0.7, 0.4, 2.0, lr=0.1, **sgd)
    found = deepcopy(one.model)
    state.model.load_into(found)
    assert_close(ModelState.of(found.server), ModelState.of(network.server))
    assert_close({id: part["edge"] for id, part in private.items()}, {id: ModelState.of(edge) for id, edge in edges.items()})
    assert_close({id: answer["logits"] for id, answer in state.answers.items()}, said)
    assert_close(ModelState.of(found.edges), ModelState.of(one.model.edges))  # the server never sees what becomes of them


def assert_close(one, other):
    parts, others = (tree.pack(each)[1] for each in (one, other))
    assert parts.keys() == others.keys()
    for path, part in parts.items():
        torch.testing.assert_close(part, others[path], atol=1e-9, rtol=1e-9, msg=lambda text, path=path: f"{path}: {text}")


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_divergence_of_two_classes_has_a_closed_form(temperature):
    """With logits (a, 0) and a teacher (b, 0): q = 1/(1 + e^(-a/T)), p likewise; T^2 (p ln p/q + (1 - p) ln (1-p)/(1-q))."""
    for a, b in [(0.0, 1.0), (2.0, -1.0), (-3.0, 4.0)]:
        q, p = (1 / (1 + math.exp(-value / temperature)) for value in (a, b))
        wanted = temperature**2 * (p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q)))
        found = divergence(torch.tensor([[a, 0.0]] * 2), torch.tensor([[b, 0.0]] * 2), temperature)
        assert found.shape == (2,)
        assert found.tolist() == pytest.approx([wanted] * 2, rel=1e-5)


def test_divergence_of_sequences_is_the_mean_over_their_places():
    one, other = torch.randn(2, 4, 5, 3)
    places = [divergence(one[:, t], other[:, t], 2.0) for t in range(5)]
    assert torch.allclose(divergence(one, other, 2.0), torch.stack(places).mean(0), atol=1e-6)


def test_examples_are_matched_by_id():
    """Whoever sends rows in another order changes nothing, bit for bit; whoever mixes up the ids does."""
    one = experiment(FedGKT(LOCAL, LOCAL))

    def shuffled(what, id, part):
        block = part["answers"] if what == "own" else part
        if not block or "ids" not in block:
            return part
        order = torch.from_numpy(np.random.default_rng(len(block["ids"])).permutation(len(block["ids"])))
        block = {name: column[order] for name, column in block.items()}
        return {**part, "answers": block} if what == "own" else block

    def mixed_up(what, id, part):
        return {**part, "ids": part["ids"].flip(0)} if what == "value" else part

    plain, same, other = (tree.digest(rounds(one, changed)[0]) for changed in (None, shuffled, mixed_up))
    assert plain == same
    assert plain != other


def test_examples_without_an_answer_learn_from_their_labels_alone():
    said = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    columns = teaching(4, {"ids": torch.tensor([2, 0]), "logits": said})
    assert torch.equal(columns["teacher"][[2, 0]], said)
    assert columns["taught"].tolist() == [1.0, 0.0, 1.0, 0.0]
    batch = {"x": torch.randn(4, 3), "y": torch.tensor([0, 1, 0, 1]), **columns}
    network, classifier = nn.Linear(3, 2), Classifier()
    more = Distillation(classifier, 0.5, 2.0).loss(network, batch) - classifier.loss(network, batch)
    apart = 0.5 * divergence(network(batch["x"])[[0, 2]], said.flip(0), 2.0)
    assert torch.allclose(more[[0, 2]], apart, atol=1e-6)
    assert more[[1, 3]].tolist() == [0.0, 0.0]


def test_by_itself_without_divergence_a_client_trains_as_ever_and_the_server_on_its_features():
    one = experiment(FedGKT(LOCAL, LOCAL, alpha=0.0, server_alpha=0.0), data=blobs(1), clients_per_round=1)
    state, private, _ = rounds(one)
    edge = nn.Sequential(one.model.edge("c0").extractor, one.model.edge("c0").classifier)
    alone = simulate(replace(one, model=edge, algorithm=FedAvg(LOCAL)))
    assert_nearly(private["c0"]["edge"], alone.model)

    state, private, _ = rounds(replace(one, rounds=1))
    extractor = private["c0"]["edge"].load_into(deepcopy(edge))[0].eval()
    batch = one.data.train("c0").all()
    with torch.no_grad():
        lesson = {"server": {"x": extractor(batch["x"]), "y": batch["y"]}}
    features = FederatedDataset.from_clients(lesson, lesson["server"])
    top = simulate(replace(one, model=one.model.server, data=features, algorithm=FedAvg(LOCAL), rounds=1))
    assert_nearly(ModelState.of(state.model.load_into(deepcopy(one.model)).server), top.model)


def assert_nearly(one, other):
    assert max(part.abs().max().item() for part in tree.tensors(tree.sub(one, other))) < 1e-6


def test_a_client_keeps_its_own_edge_network_and_nobody_averages_it():
    one = experiment(FedGKT(LOCAL, LOCAL), rounds=1, clients_per_round=4)
    _, private, _ = rounds(one)
    narrow = [private[id]["edge"] for id in ("c0", "c1", "c3")]
    assert len({tree.digest(edge) for edge in narrow}) == 3
    shapes = {id: private[id]["edge"].params["1.0.weight"].shape[0] for id in private}
    assert shapes == {"c0": 4, "c1": 4, "c2": 12, "c3": 4}
    _, later, sampled = rounds(replace(one, rounds=3, clients_per_round=2))
    (idle,) = set(sampled[1]) - set(sampled[2])
    assert tree.digest(later[idle]) == tree.digest(rounds(replace(one, rounds=2, clients_per_round=2))[1][idle])


def skewed():
    """Ann has never seen a 2, Ben has. Both are tested on all classes."""
    draw = np.random.default_rng(0)
    y = draw.integers(0, 3, 600)
    x = torch.tensor(draw.normal(size=(600, 5)) + 3 * np.eye(5)[y], dtype=torch.float32)
    columns = {"x": x, "y": torch.tensor(y)}
    rows = np.arange(300)
    parts = {"ann": rows[y[:300] < 2], "ben": rows[y[:300] > 0]}
    test = np.arange(300)
    return FederatedDataset(
        Examples(columns, torch.arange(300)), Examples(columns, torch.arange(300, 600)), parts, {"ann": test, "ben": test}, 3
    )


def test_what_one_client_knows_another_learns_by_way_of_the_server():
    torch.manual_seed(0)
    edge = Edge(nn.Sequential(nn.Linear(5, 8), nn.Tanh()), nn.Linear(8, 3))
    network = InParts({"edge": edge}, nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)))
    local = LocalSGD(lr=0.1, epochs=1, batch_size=20)
    one = experiment(FedGKT(local, local), model=network, data=skewed(), clients_per_round=2, rounds=15)
    with ENGINE.open(one.setup()) as session:
        state = one.algorithm.init(tree.clone(ModelState.of(one.model)))
        for round in range(one.rounds):
            state, metrics = one.algorithm.round(state, session.cohort(round, ["ann", "ben"]))
        verdict = session.everyone(round + 1).map(one.algorithm.judge(), one.algorithm.shown(state)).gather()["ann"]
    train = {"ann": one.data.train("ann").all()}
    alone = FederatedDataset.from_clients(train, one.data.test("ann").all(), classes=3)
    alone = simulate(replace(one, model=edge, data=alone, algorithm=FedAvg(local), clients_per_round=1)).last["test_accuracy"]
    shares = np.bincount(one.data.test("ann").all()["y"], minlength=3) / 300
    assert alone < shares[:2].sum()  # she never says 2
    assert alone < verdict.metrics["edge_accuracy"].value
    assert verdict.metrics["accuracy"].value > 0.85
    assert {"loss", "server_loss"} == set(metrics)


def test_what_travels():
    """Features, logits and labels of training examples one way, an untrained edge and logits the other; nothing of tests."""
    one, seen = experiment(FedGKT(LOCAL, LOCAL), clients_per_round=4), []

    def look(what, id, part):
        seen.append((what, id, part))
        return part

    state, _, _ = rounds(one, look)
    began = {tree.digest(ModelState.of(nn.Sequential(edge.extractor, edge.classifier))) for edge in one.model.edges.values()}
    first = [part["answers"] for what, _, part in seen if what == "own"][:4]
    assert first == [None] * 4
    for what, id, part in seen:
        if what == "value":
            batch = one.data.train(id).all()
            assert set(part) == {"ids", "features", "logits", "labels"}
            assert torch.equal(part["labels"], batch["y"])
            assert part["features"].shape == (len(batch["y"]), 6)
            assert part["logits"].shape == (len(batch["y"]), 3)
        elif what == "own":
            assert set(part) == {"edge", "answers"}
            assert tree.digest(part["edge"]) in began
        else:
            assert {name: list(none.shape) for name, none in part.items()} == {"features": [0, 6], "logits": [0, 3]}
    # Test examples that are no numbers would show in whatever they had a part in.
    columns = one.data.global_test.columns
    spoilt = {"x": columns["x"].index_fill(0, one.data.global_test.index, math.nan), "y": columns["y"]}
    data = one.data.to(torch.device("cpu"))
    data.global_test = Examples(spoilt, one.data.global_test.index)
    assert tree.digest(rounds(replace(one, data=data))[0]) == tree.digest(state)


def test_judging_takes_the_servers_part_to_the_client_and_brings_metrics_back():
    one = experiment(FedGKT(LOCAL, LOCAL), rounds=2, clients_per_round=2)
    with ENGINE.open(one.setup()) as session:
        state = one.algorithm.init(tree.clone(ModelState.of(one.model)))
        for round in range(2):
            state, _ = one.algorithm.round(state, session.cohort(round, ["c1", "c2"]))
        private = dict(session.save())
        replies = session.everyone(2).map(one.algorithm.judge(), one.algorithm.shown(state)).gather()
    for id, reply in replies.items():
        assert reply.value == {}
        network = state.model.load_into(deepcopy(one.model))
        edge = nn.Sequential(network.edge(id).extractor, network.edge(id).classifier)
        if id in private:
            private[id]["edge"].load_into(edge)
        whole = nn.Sequential(edge[0], network.server)
        for prefix, model in (("", whole), ("edge_", edge)):
            for name, value in Classifier().test(model, one.data.test(id)).items():
                assert reply.metrics[prefix + name].value == pytest.approx(value)


def test_a_run_goes_on_with_its_optimizers(tmp_path):
    adam = replace(LOCAL, lr=0.01, transforms=(Adaptive(),))
    one = experiment(FedGKT(adam, adam), rounds=3, evaluate_clients=1)
    whole = simulate(one)
    checkpoints = Checkpoints(tmp_path)
    simulate(replace(one, rounds=1), checkpoints=checkpoints)
    again = simulate(one, checkpoints=checkpoints)
    assert again.sha256 == whole.sha256
    assert again.history[-1]["client_loss"] == whole.history[-1]["client_loss"]


def test_a_client_without_examples_sits_out():
    columns = blobs(2)
    parts = {"c0": np.arange(12), "c1": np.arange(12, 27), "none": np.arange(0)}
    train = Examples(columns.global_train.columns, columns.global_train.index)
    data = FederatedDataset(train, columns.global_test, parts, {}, classes=3)
    state, private, _ = rounds(experiment(FedGKT(LOCAL, LOCAL), data=data))
    assert set(state.answers) == set(private) == {"c0", "c1"}
    idle = experiment(FedGKT(LOCAL, LOCAL), data=data, rounds=1, clients_per_round=1)
    with ENGINE.open(idle.setup()) as session:
        before = idle.algorithm.init(tree.clone(ModelState.of(idle.model)))
        assert idle.algorithm.round(before, session.cohort(0, ["none"])) == (before, {})


class Halves(nn.Module):
    """A network with a server's part and no edges."""

    def __init__(self):
        super().__init__()
        self.server = nn.Linear(5, 3)

    def forward(self, x):
        return self.server(x)


class OwnLoop(Classifier):
    def train(self, model, batches):
        raise AssertionError("nothing is trained")


def parts(features=(4, 4), classes=(3, 3), takes=4, makes=3):
    """A network in parts: features and logits of both edges, and what the server takes and makes."""
    edges = {str(k): Edge(nn.Linear(5, features[k]), nn.Linear(features[k], classes[k])) for k in (0, 1)}
    return InParts(edges, nn.Linear(takes, makes), {"c1": "1"})


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        (nn.Linear(5, 3), r"needs a network in parts, and a Linear has no server, edge\('c\d'\).extractor, edge"),
        (Halves(), r"a Halves has no edge\('c\d'\).extractor, edge\('c\d'\).classifier. Needed are"),
        (parts(features=(4, 6)), r"not \[\[4\], \[3\]\] at client c0 and \[\[6\], \[3\]\] at client c1"),
        (parts(classes=(3, 2)), r"not \[\[4\], \[3\]\] at client c0 and \[\[4\], \[2\]\] at client c1"),
        (parts(takes=5), r"server cannot take features of shape \[4\]: "),
        (parts(makes=2), r"server makes logits of shape \[2\], and its edges \[3\]"),
    ],
)
def test_other_networks_are_refused_before_anything_runs(model, problem):
    one = experiment(FedGKT(), model=model)
    with pytest.raises(ConfigError, match=problem):
        simulate(one)
    assert one.model.training


def test_a_loop_of_ones_own_is_refused():
    with pytest.raises(ConfigError, match=r"OwnLoop overrides train\(\)"):
        simulate(experiment(FedGKT(), trainer=OwnLoop()))


def test_features_of_another_shape_than_those_of_others_end_the_round():
    def wider(what, id, part):
        return {**part, "features": part["features"].repeat(1, 2)} if (what, id) == ("value", "c1") else part

    with pytest.raises(ConfigError, match=r"client c0 sends \[\[6\], \[3\]\], client c1 sends \[\[12\], \[3\]\]"):
        rounds(experiment(FedGKT(LOCAL, LOCAL), clients_per_round=4), wider)


def test_who_sends_nothing_teaches_nothing_whatever_it_says_it_has():
    one = experiment(FedGKT(LOCAL, LOCAL), clients_per_round=4, rounds=1)
    state, _, sampled = rounds(one, lambda what, id, part: {} if (what, id) == ("value", "c1") else part)
    assert set(state.answers) == set(sampled[0]) - {"c1"}


@pytest.mark.parametrize("setting", [{"temperature": 0.0}, {"alpha": -0.1}, {"server_alpha": -1.0}])
def test_settings_out_of_range_are_refused(setting):
    with pytest.raises(ConfigError, match=f"FedGKT.{next(iter(setting))}"):
        FedGKT(**setting)


GOOD = {"ids": torch.tensor([1, 0]), "features": torch.zeros(2, 6), "logits": torch.zeros(2, 3), "labels": torch.tensor([0, 2])}


@pytest.mark.parametrize(
    ("change", "objection"),
    [
        ({}, None),
        ({"labels": None}, "not all of"),
        ({"ids": torch.tensor([0])}, "as many"),
        ({"labels": torch.tensor([0])}, "as many"),
        ({"features": torch.zeros(3, 6)}, "as many"),
        ({"ids": torch.tensor([1, 1])}, "different numbers"),
        ({"ids": torch.tensor([-1, 0])}, "different numbers"),
        ({"ids": torch.tensor([0.0, 1.0])}, "different numbers"),
        ({"labels": torch.tensor([0, 3])}, "classes"),
        ({"labels": torch.tensor([-1, 0])}, "classes"),
        ({"labels": torch.tensor([0.0, 1.0])}, "classes"),
        ({"features": torch.full((2, 6), math.nan)}, "not finite"),
        ({"features": torch.zeros(2, 7)}, r"features of torch.float32 [7] each, and those of this network are torch.float32 [6]"),
        ({"features": torch.zeros(2, 6).int()}, "features of torch.int32"),
        ({"logits": torch.zeros(2, 4)}, "logits of torch.float32 [4]"),
        ({"logits": torch.zeros(2, 3).double()}, "logits of torch.float64"),
    ],
)
def test_what_a_device_may_not_send(change, objection):
    shared = {"features": torch.zeros(0, 6), "logits": torch.zeros(0, 3)}
    found = TrainEdge(LOCAL, 1.0, 3.0).objection(GOOD | change, shared)
    assert found is None if objection is None else objection in found
    assert TrainEdge(LOCAL, 1.0, 3.0).objection({}, {}) is None
    assert "not all of" in TrainEdge(LOCAL, 1.0, 3.0).objection(torch.zeros(2), {})
