"""Split learning: the parts take the steps of the whole, letters hold what they must, and a turn leaves all or nothing."""

import copy
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fedml_api import Experiment, LocalSGD, Standalone, simulate
from fedml_api.algorithms import Hierarchical, Split
from fedml_api.algorithms.split import SplitSGD, Upper
from fedml_api.data import FederatedDataset
from fedml_api.distributed import Loopback
from fedml_api.distributed.server import Patience
from fedml_api.standalone.engine import StandaloneCohort, StandaloneConversation
from fedml_core import tree
from fedml_core.errors import CommunicationError, ConfigError, RoundFailed
from fedml_core.federation import ClientRunner, sample_clients
from fedml_core.rng import rng
from fedml_core.trainer import Adaptive, Classifier, Cosine, Examples, ModelState, Proximal
from tests.clients import judged
from tests.conftest import blobs

SEQUENTIAL = Standalone(executor="sequential", processes=1)
LOCAL = LocalSGD(lr=0.1, batch_size=5, epochs=2)
LOCALS = {
    "plain": LOCAL,
    "heavy": replace(LOCAL, momentum=0.9, nesterov=True, weight_decay=0.1),
    "adam": replace(LOCAL, lr=Cosine(initial=0.05, final=0.01, rounds=3), transforms=(Adaptive(),)),
    "proximal": replace(LOCAL, transforms=(Proximal(mu=0.5),)),
}


def network(kind="plain"):
    torch.manual_seed(7)
    if kind == "plain":
        return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3))
    linear = [nn.Linear(5, 8), nn.BatchNorm1d(8, momentum=None), nn.ReLU(inplace=True)]
    return nn.Sequential(*linear, nn.Linear(8, 6), nn.BatchNorm1d(6), nn.ReLU(inplace=True), nn.Linear(6, 3))


def experiment(algorithm, data=None, kind="plain", **more):
    more = {"rounds": 3, "clients_per_round": 3, "seed": 3, "engine": SEQUENTIAL} | more
    return Experiment(network(kind), data or blobs(), algorithm=algorithm, **more)


def joined(local, kind="plain", data=None, rounds=3, clients_per_round=3, seed=3):
    """One network that goes from client to client and is trained there as a whole, by FedAvg's own local training."""
    setup = experiment(Split(), data, kind, seed=seed).setup()
    runner, model = ClientRunner(setup), tree.clone(ModelState.of(setup.module))
    for round in range(rounds):
        for client in sample_clients(setup.data.client_ids, clients_per_round, seed, round):
            runner(client, round, local, model, None, None)
            model = tree.clone(runner.workspace.view)
    return model


@pytest.mark.parametrize("head", [0, 1])
@pytest.mark.parametrize("local", LOCALS)
def test_takes_the_steps_of_the_joined_network_bit_for_bit(local, head):
    found = simulate(experiment(Split(2, head, local=LOCALS[local])))
    assert found.sha256 == tree.digest(joined(LOCALS[local]))


@pytest.mark.parametrize(("cut", "head"), [(1, 0), (3, 0), (4, 0), (1, 2), (1, 1)])
def test_wherever_it_is_cut(cut, head):
    assert simulate(experiment(Split(cut, head, local=LOCAL))).sha256 == tree.digest(joined(LOCAL))


@pytest.mark.parametrize(("cut", "head"), [(2, 0), (3, 0), (2, 1), (2, 2)])
def test_with_statistics_of_batches_and_layers_that_write_into_their_inputs(cut, head):
    local = replace(LOCAL, batch_size=6)  # no batch of a single example
    assert simulate(experiment(Split(cut, head, local=local), kind="batch norm")).sha256 == tree.digest(joined(local, "batch norm"))


@pytest.mark.parametrize("head", [0, 1])
def test_the_same_bits_wherever_layers_like_their_images_channels_last(head):
    """A tensor that was sent has lost such an order; in one process it must lose it as well."""
    torch.manual_seed(7)
    layers = [nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.Flatten(), nn.Linear(256, 3)]
    model, draw = nn.Sequential(*layers).to(memory_format=torch.channels_last), torch.Generator().manual_seed(1)
    x, y = torch.rand(60, 1, 8, 8, generator=draw), torch.arange(60) % 3
    rows = {"c0": np.arange(20), "c1": np.arange(20, 45)}
    data = FederatedDataset(Examples({"x": x, "y": y}), Examples({"x": x, "y": y}), rows, classes=3)
    one = replace(experiment(Split(1, head, local=LOCAL), data, clients_per_round=2), model=model)
    assert simulate(one).sha256 == simulate(replace(one, engine=Loopback(workers=2))).sha256


def test_one_client_alone():
    found = simulate(experiment(Split(local=LOCAL), clients_per_round=1))
    assert found.sha256 == tree.digest(joined(LOCAL, clients_per_round=1))


@pytest.mark.parametrize("head", [0, 1])
def test_in_less_precision_as_the_joined_network(head):
    """What passes between the parts is rounded there either way."""
    found = simulate(experiment(Split(2, head, local=LOCAL), precision="bfloat16")).model
    whole = joined(LOCAL)
    assert 0 < max(part.abs().max().item() for part in tree.tensors(tree.sub(found, whole))) < 0.02


def batches(data, local, client, round, seed):
    count, draw = len(data.train(client)), rng(seed, "batches", round, client)
    orders = [draw.permutation(count) for _ in range(local.epochs)]
    for rows in (order[i : i + local.batch_size] for order in orders for i in range(0, count, local.batch_size)):
        yield data.train(client).take(torch.from_numpy(rows))


def by_hand(cut, local, handover=True, clip=None, rounds=3, seed=3):
    """Algorithm 1 of Gupta and Raskar in plain PyTorch: two networks, two optimizers, and what passes between them."""
    data, whole, losses = blobs(), network(), []
    own = {client: copy.deepcopy(whole[:cut]) for client in data.client_ids}
    lower, upper = copy.deepcopy(whole[:cut]), copy.deepcopy(whole[cut:])
    for round in range(rounds):
        for client in sample_clients(data.client_ids, 3, seed, round):
            below = lower if handover else own[client]
            optimizers = [torch.optim.SGD(half.parameters(), lr=local.lr, momentum=local.momentum) for half in (below, upper)]
            for batch in batches(data, local, client, round, seed):
                sent = below(batch["x"])
                arrived = sent.detach().requires_grad_()
                loss = F.cross_entropy(upper(arrived), batch["y"])
                losses.append((round, loss.item(), len(batch["y"])))
                for optimizer in optimizers:
                    optimizer.zero_grad()
                loss.backward()
                sent.backward(arrived.grad)
                for half, optimizer in zip((below, upper), optimizers, strict=True):
                    if clip is not None:
                        torch.nn.utils.clip_grad_norm_(half.parameters(), clip)
                    optimizer.step()
    last = [(loss, rows) for round, loss, rows in losses if round == rounds - 1]
    return lower, own, upper, sum(loss * rows for loss, rows in last) / sum(rows for _, rows in last)


def close(found, halves):
    expected = [param.detach() for half in halves for param in half.parameters()]
    torch.testing.assert_close(list(found.params.values()), expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize("head", [0, 1])
def test_follows_the_paper_with_two_optimizers(head):
    local = replace(LOCAL, momentum=0.5)
    lower, _, upper, loss = by_hand(3, local)
    result = simulate(experiment(Split(1 if head else 3, head, local=local)))
    close(result.model, (lower, upper))
    assert result.history[-1]["train_loss"] == pytest.approx(loss, abs=1e-5)
    assert result.history[-1]["examples"] == 2 * sum(
        len(blobs().train(client)) for client in sample_clients(blobs().client_ids, 3, 3, 2)
    )


def test_each_half_clips_its_own_gradient():
    clipped = replace(LOCAL, clip=0.3)
    lower, _, upper, _ = by_hand(3, LOCAL, clip=0.3)
    found = simulate(experiment(Split(3, local=clipped))).model
    close(found, (lower, upper))
    whole = joined(clipped)
    assert max(part.abs().max().item() for part in tree.tensors(tree.sub(found, whole))) > 1e-3


def test_without_handover_clients_keep_their_layers_and_are_judged_with_them():
    one = experiment(Split(3, handover=False, local=LOCAL), clients_per_round=3)
    _, own, upper, _ = by_hand(3, LOCAL, handover=False)
    state, clients = judged(one)
    close(state, (network()[:3], upper))
    assert [name for row in simulate(one).history for name in row if name.startswith("test_")] == []
    batch = blobs().test("c0").all()
    loss = F.cross_entropy(upper(own["c0"](batch["x"])), batch["y"]).item()
    assert clients["c0"]["loss"] == pytest.approx(loss, abs=1e-5)
    assert loss != pytest.approx(F.cross_entropy(upper(network()[:3](batch["x"])), batch["y"]).item(), abs=1e-2)


def test_who_keeps_its_layers_with_a_head_keeps_both_ends():
    state, clients = judged(experiment(Split(1, 1, handover=False, local=LOCAL)))
    untouched = ModelState.of(network()).params
    assert [name for name, part in state.params.items() if not torch.equal(part, untouched[name])] == ["2.weight", "2.bias"]
    assert clients["c0"]["loss"] < judged(experiment(Split(1, 1, handover=False, local=replace(LOCAL, lr=1e-9))))[1]["c0"]["loss"]


def listen(monkeypatch):
    """All that passes between the clients and the server from now on: what is shared, letters, answers and replies."""
    passed = {"shared": [], "letters": [], "answers": [], "replies": []}
    converse, outside, say, replies = (
        StandaloneCohort.converse,
        StandaloneConversation._outside,
        StandaloneConversation.say,
        StandaloneConversation.replies,
    )

    def listening(self, task, shared, own=None):
        assert own is None
        passed["shared"].append((task, shared))
        return converse(self, task, shared, own)

    def wrote(self, sender, recipient, letter):
        passed["letters"].append(letter)
        return outside(self, sender, recipient, letter)

    def said(self, letters):
        passed["answers"].extend(letters.values())
        return say(self, letters)

    def replied(self):
        found = replies(self)
        passed["replies"].extend(reply.value for _, reply in found)
        return found

    monkeypatch.setattr(StandaloneCohort, "converse", listening)
    for name, function in {"_outside": wrote, "say": said, "replies": replied}.items():
        monkeypatch.setattr(StandaloneConversation, name, function)
    return passed


@pytest.mark.parametrize("head", [0, 1])
@pytest.mark.parametrize("handover", [True, False])
def test_what_travels(monkeypatch, head, handover):
    passed, data = listen(monkeypatch), blobs()
    simulate(experiment(Split(1, head, handover, LOCAL), data, rounds=1, clients_per_round=4))
    steps = sum(-(-len(data.train(client)) // LOCAL.batch_size) for client in data.client_ids) * LOCAL.epochs
    assert len(passed["letters"]) == len(passed["answers"]) == steps * (2 if head else 1)
    assert all(isinstance(answer, torch.Tensor) for answer in passed["answers"])
    widths = [answer.shape[1] for answer in passed["answers"]]
    if head:
        for first, second in zip(passed["letters"][::2], passed["letters"][1::2], strict=True):
            assert (list(first), list(second)) == (["smashed"], ["gradient"])
            assert (first["smashed"].shape[1], second["gradient"].shape[1]) == (8, 6)
        assert widths == [6, 8] * steps
    else:
        for letter in passed["letters"]:
            assert (list(letter), list(letter["labels"])) == (["smashed", "labels"], ["y"])
        assert widths == [8] * steps
    clients_part = {"0.weight", "0.bias"} | ({"4.weight", "4.bias"} if head else set())
    for _, shared in passed["shared"]:
        assert set(shared) == {"model", "letters"}
        assert set(shared["model"].params) == clients_part
        assert all(not len(part) for part in tree.tensors(shared["letters"]))
    assert all((set(value.params) == clients_part) if handover else value == {} for value in passed["replies"])


def test_the_draws_of_the_server_depend_on_client_and_batch_alone():
    setup = experiment(Split()).setup()
    task, smashed, labels = SplitSGD(LocalSGD(lr=1e-9), 1), torch.ones(4, 8), {"y": torch.tensor([0, 1, 2, 0])}
    setup.module[1] = nn.Dropout(0.5)

    def gradients(client, seed):
        torch.manual_seed(seed)
        upper = Upper(task, ModelState.of(setup.module), ClientRunner(setup).server(0))
        return [upper.answers(None, {client: {"smashed": smashed.clone(), "labels": labels}})[client] for _ in range(2)]

    first, second = gradients("c0", 1)
    assert torch.equal(first, gradients("c0", 2)[0])
    assert not torch.equal(first, gradients("c1", 1)[0])
    assert not torch.equal(first, second)


REFUSED = {
    "cut": (
        network(),
        Split(5),
        r"cut = 5: .* 5 layers, .* with parameters are 0, 2, 4; .* head = 0 cut may be 1 to 4",
    ),
    "cut below the head": (network(), Split(3, 1), r"cut = 3: .* with head = 1 cut may be 1 to 2"),
    "head": (network(), Split(1, 3), r"head = 3: .* head may be 1 to 2, or 0 for none"),
    "nothing below": (nn.Sequential(nn.Flatten(), nn.Linear(5, 3)), Split(1), r"cut = 1, .* are 1; with two would be needed"),
    "no room for a head": (nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3)), Split(1, 1), r"are 0, 1; with a head three would be"),
    "inputs themselves": (nn.Sequential(nn.Flatten(), *network()), Split(1), r"cut = 1: .* cut may be 2 to 5"),
    "only one cut": (nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3)), Split(2), r"cut may be 1$"),
    "no Sequential": (nn.Bilinear(5, 5, 3), Split(1), r"model: a Bilinear cannot be cut"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses_a_network_that_cannot_be_cut_there(case, monkeypatch):
    model, algorithm, message = REFUSED[case]
    monkeypatch.setattr(Split, "init", None)  # it does not come to that
    with pytest.raises(ConfigError, match=message):
        simulate(replace(experiment(algorithm), model=model))


def test_who_carries_split_learning_out_in_groups_refuses_it_too():
    with pytest.raises(ConfigError, match=r"cut = 9: .* may be 1 to 4"):
        simulate(experiment(Hierarchical(inner=Split(9))))


def test_an_edge_server_for_everybody_is_the_server():
    one = experiment(Split(local=LOCAL), rounds=2)
    ours = simulate(replace(one, algorithm=Hierarchical(groups=1, edge_rounds=1, inner=one.algorithm))).model
    torch.testing.assert_close(ours.params, simulate(one).model.params, atol=1e-6, rtol=0)


def test_refuses_layers_that_both_sides_would_train():
    model = nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 5), nn.Linear(5, 3))
    assert experiment(Split(1)).problems() == []
    model[2].weight = model[0].weight
    with pytest.raises(ConfigError, match="layers on both sides have the parameter"):
        simulate(replace(experiment(Split(1)), model=model))
    assert replace(experiment(Split(3)), model=model).problems() == []  # both are the client's


def test_refuses_a_sequential_that_does_more_than_its_layers():
    class Twice(nn.Sequential):
        def forward(self, x):
            return super().forward(super().forward(x))

    with pytest.raises(ConfigError, match="a Twice cannot be cut"):
        simulate(replace(experiment(Split(1)), model=Twice(nn.Linear(5, 5), nn.Linear(5, 5))))


def test_refuses_a_training_loop_of_the_users():
    class Loop(Classifier):
        def train(self, model, batches):
            pass

    with pytest.raises(ConfigError, match="Loop overrides train"):
        simulate(experiment(Split(1), trainer=Loop()))


def test_refuses_what_is_no_single_tensor_between_the_layers(monkeypatch):
    class First(nn.Module):
        def forward(self, pair):
            return pair[0]

    model = nn.Sequential(nn.LSTM(5, 4), First(), nn.Linear(4, 3))
    assert simulate(replace(experiment(Split(2, local=LOCAL), rounds=1), model=model)).history[-1]["train_loss"]
    monkeypatch.setattr(Split, "init", None)  # it does not come to that
    with pytest.raises(ConfigError, match=r"cut = 1, head = 0: .* single tensor"):
        simulate(replace(experiment(Split(1, local=LOCAL)), model=model))


def test_refuses_data_without_the_column_that_the_layers_take(monkeypatch):
    data = blobs(2)
    columns = {"image": data.global_train.columns["x"], "y": data.global_train.columns["y"]}
    train = Examples(columns, data.global_train.index)
    parts = {client: data.train(client).index.numpy() for client in data.client_ids}

    class Images(Classifier):
        def loss(self, model, batch):
            return super().loss(model, batch | {"x": batch["image"]})

        def metrics(self, model, batch):
            return {}

    one = experiment(Split(1), FederatedDataset(train, train, parts, classes=3), trainer=Images(), clients_per_round=2)
    monkeypatch.setattr(Split, "init", None)  # it does not come to that
    with pytest.raises(ConfigError, match="from column 'x'; the data set has image, y"):
        simulate(one)


@contextmanager
def opened(engine=SEQUENTIAL, **more):
    one = experiment(Split(), **more)
    with engine.open(one.setup()) as session:
        yield session


def told(task=SplitSGD(LOCAL, 1)):  # noqa: B008 (frozen)
    setup = experiment(Split()).setup()
    return task.shared(ModelState.of(setup.module), ClientRunner(setup).server(0))


GOOD, LABELS = torch.ones(4, 8), {"y": torch.zeros(4, dtype=torch.int64)}
LETTERS = {
    "no letter": {"smashed": GOOD},
    "another width": {"smashed": torch.ones(4, 7), "labels": LABELS},
    "whole numbers": {"smashed": torch.ones(4, 8, dtype=torch.int64), "labels": LABELS},
    "labels that are none": {"smashed": GOOD, "labels": {"y": torch.zeros(4)}},
    "fewer labels": {"smashed": GOOD, "labels": {"y": LABELS["y"][:3]}},
    "more columns": {"smashed": GOOD, "labels": LABELS | {"z": LABELS["y"]}},
    "no tensor": {"smashed": 1.0, "labels": LABELS},
    "no rows": {"smashed": torch.tensor(1.0), "labels": LABELS},
    "not a number": {"smashed": GOOD * torch.nan, "labels": LABELS},
    "not a single row": {"smashed": GOOD[:0], "labels": {"y": LABELS["y"][:0]}},
    "nothing": None,
    "nothing in it": {},
    "layers": ModelState({"0.weight": torch.ones(8, 5)}, {}),
}


@pytest.mark.parametrize("case", LETTERS)
@pytest.mark.parametrize("keeps", [False, True])
def test_a_letter_that_cannot_be_meant_is_not_read(case, keeps):
    assert SplitSGD(LOCAL, 1, keeps=keeps).objection_to_letter(LETTERS[case], told())
    assert SplitSGD(LOCAL, 1).objection_to_letter(told()["model"], told())


def test_letters_that_are_read():
    assert SplitSGD(LOCAL, 1).objection_to_letter({"smashed": GOOD.bfloat16(), "labels": LABELS}, told()) is None
    head = SplitSGD(LOCAL, 1, 1)
    for letter in ({"smashed": GOOD}, {"gradient": torch.ones(4, 6)}):
        assert head.objection_to_letter(letter, told(head)) is None
    for letter in ({"smashed": GOOD, "labels": LABELS}, {"gradient": GOOD}):
        assert head.objection_to_letter(letter, told(head))


def test_a_reply_is_what_the_layers_became_or_nothing_where_they_are_kept():
    layers, hands, keeps = told()["model"], SplitSGD(LOCAL, 1), SplitSGD(LOCAL, 1, keeps=True)
    assert hands.objection(layers, told()) is keeps.objection({}, told()) is None
    wrong = [None, {"smashed": GOOD, "labels": LABELS}, LETTERS["layers"]]
    assert all(hands.objection(value, told()) for value in [*wrong, {}, tree.scale(layers, torch.nan)])
    assert all(keeps.objection(value, told()) for value in [*wrong, layers])


class Enduring(Loopback):
    """Goes on without lost clients, as the edge engine does."""

    @contextmanager
    def open(self, setup):
        with super().open(setup) as session:
            session.server.patience = Patience(minimum=1, deadline=20)
            yield session


def fails(monkeypatch, *victims, after=3):
    """These clients are lost in the middle of their turn."""
    talk = SplitSGD.talk

    def talks(self, client, shared, own=None):
        saying, answer = talk(self, client, shared, own), None
        for _ in range(after):
            answer = yield saying.send(answer)
        if client.id in victims:
            raise OSError("the lights went out")
        return (yield from resumed(saying, answer))

    def resumed(saying, answer):
        while True:
            try:
                answer = yield saying.send(answer)
            except StopIteration as end:
                return end.value

    monkeypatch.setattr(SplitSGD, "talk", talks)


@pytest.mark.parametrize("handover", [True, False])
def test_a_lost_client_leaves_nothing_of_its_turn(monkeypatch, handover):
    algorithm = Split(1, handover=handover, local=LOCAL)
    with opened() as session:
        expected, _ = algorithm.round(algorithm.init(ModelState.of(network())), session.cohort(0, ["c0", "c3"]))
        kept = dict(session.save())
    fails(monkeypatch, "c1", "c2")
    with opened(Enduring(workers=2)) as session:
        cohort = session.cohort(0, ["c0", "c1", "c2", "c3"])
        found, metrics = algorithm.round(algorithm.init(ModelState.of(network())), cohort)
        assert cohort.missing == ["c1", "c2"]
        assert metrics["loss"].count == LOCAL.epochs * sum(len(blobs().train(client)) for client in ("c0", "c3"))
        assert tree.digest(dict(session.save())) == tree.digest(kept)
    assert tree.digest(found) == tree.digest(expected)


def with_labels_of_another_task(client):
    """The data, but that one client has a class more than the network."""
    data = blobs()
    columns = data.global_train.columns | {"y": data.global_train.columns["y"].clone()}
    columns["y"][data.train(client).index[-1]] = 3
    rows = {id: data.train(id).index.numpy() for id in data.client_ids}
    return FederatedDataset(Examples(columns, data.global_train.index), data.global_test, rows, classes=4)


@pytest.mark.parametrize("head", [0, 1])
def test_whose_labels_are_none_is_lost_wherever_that_is_found(head):
    algorithm, start = Split(1, head, local=LOCAL), ModelState.of(network())
    with opened() as session:
        expected, _ = algorithm.round(start, session.cohort(0, ["c0", "c2"]))
    data = with_labels_of_another_task("c1")
    with opened(Enduring(workers=2), data=data) as session:
        cohort = session.cohort(0, ["c0", "c1", "c2"])
        found, _ = algorithm.round(start, cohort)
        assert cohort.missing == ["c1"]
    assert tree.digest(found) == tree.digest(expected)
    with opened(Loopback(workers=2), data=data) as session, pytest.raises(CommunicationError, match=r"client c1.*Target 3"):
        algorithm.round(start, session.cohort(0, ["c0", "c1", "c2"]))


def test_in_one_process_labels_that_are_none_end_the_run_and_say_whose_they_are():
    with pytest.raises(CommunicationError, match=r"client c1: its letter cannot be computed with: Target 3"):
        simulate(experiment(Split(1, local=LOCAL), with_labels_of_another_task("c1"), clients_per_round=4))


def test_a_round_in_which_everybody_is_lost_can_be_tried_again(monkeypatch):
    fails(monkeypatch, "c0", "c1")
    with opened(Enduring(workers=2)) as session, pytest.raises(RoundFailed, match="every client was lost"):
        Split(1, local=LOCAL).round(ModelState.of(network()), session.cohort(0, ["c0", "c1"]))


def test_where_none_may_be_missing_the_run_ends_and_names_who_is(monkeypatch):
    fails(monkeypatch, "c1")
    with pytest.raises(CommunicationError, match=r"client c1.*the lights went out"):
        simulate(experiment(Split(1, local=LOCAL), engine=Loopback(workers=2), clients_per_round=4))


def test_a_letter_that_is_not_read_ends_the_run_where_none_may_be_missing(monkeypatch):
    monkeypatch.setattr(SplitSGD, "objection_to_letter", lambda self, letter, shared: "is nonsense")
    with pytest.raises(CommunicationError, match=r"client c\d at worker-1: its letter is nonsense"):
        simulate(experiment(Split(1, local=LOCAL), engine=Loopback(workers=1)))


def test_a_client_without_examples_hands_on_what_it_got():
    data = blobs(3)
    parts = {client: data.train(client).index.numpy() for client in data.client_ids}
    parts["c1"] = parts["c1"][:0]
    empty = FederatedDataset(data.global_train, data.global_test, parts, classes=3)
    found = simulate(experiment(Split(1, local=LOCAL), empty))
    assert found.sha256 == tree.digest(joined(LOCAL, data=empty))
