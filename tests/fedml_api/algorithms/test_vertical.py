"""Vertical federated learning: the numbers of training in one place, by letters that say no more than they should."""

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fedml_api import Classifier, Experiment, FedAvg, LocalSGD, Standalone, simulate
from fedml_api.algorithms import Vertical
from fedml_api.algorithms.vertical import TrainTogether
from fedml_api.distributed import Loopback
from fedml_api.model import LogisticRegression, VerticalLR, VerticalNN
from fedml_core import tree
from fedml_core.errors import CommunicationError, ConfigError, DataError, FedMLError, RoundFailed
from fedml_core.federation import Gathered, Setup, Talks, shapes
from fedml_core.federation.private_part import chosen
from fedml_core.trainer import ModelState
from tests.conftest import blobs
from tests.people import PARTIES, network, people

LOCAL = LocalSGD(lr=0.2, batch_size=7, epochs=2, momentum=0.5, weight_decay=0.01)
PLAIN = Vertical(LOCAL, intersection="plain")
SPECS = {"lr": VerticalLR(), "nn": VerticalNN(hidden=6, cut=4)}


def run(algorithm, data, model=None, **settings):
    model = network(data) if model is None else model
    defaults = {"rounds": 3, "clients_per_round": len(data.client_ids), "seed": 5, "threads": 1}
    return simulate(Experiment(model, data, algorithm=algorithm, **(defaults | settings)))


def apart(one, other):
    return max(part.abs().max().item() for part in tree.tensors(tree.sub(one, other)))


@pytest.mark.parametrize("parties", [PARTIES[:2], PARTIES], ids=len)
@pytest.mark.parametrize("spec", SPECS)
def test_is_training_on_all_columns_in_one_place(spec, parties):
    """In one place: FedAvg with one client, whose name is that of the label holder."""
    data = people(parties)
    model = network(data, SPECS[spec])
    joint = run(FedAvg(LOCAL), data.pooled(), model)
    found = run(PLAIN, data, model)
    assert apart(found.model, joint.model) < 1e-6
    assert found.last["test_loss"] == pytest.approx(joint.last["test_loss"], abs=1e-6)
    assert found.last["train_loss"] == pytest.approx(joint.last["train_loss"], abs=1e-6)
    assert apart(found.model, ModelState.of(model)) > 0.1


def test_three_classes_and_dropout_below_the_cut_train_as_well():
    data = people(classes=3)
    model, without = (network(data, SPECS["nn"]) for _ in range(2))
    for each, rate in ((model, 0.5), (without, 0.0)):
        each.bottoms["shop"].insert(1, torch.nn.Dropout(rate))
    assert run(PLAIN, data, model, rounds=1).sha256 != run(PLAIN, data, without, rounds=1).sha256
    found, again = (run(PLAIN, data, model, rounds=6, evaluate_clients=6) for _ in range(2))
    assert found.sha256 == again.sha256 != run(PLAIN, data, network(data, SPECS["nn"]), rounds=6).sha256
    assert found.last["train_loss"] < 0.9 * found.history[1]["train_loss"]
    assert found.last["client_loss"] == pytest.approx(found.last["test_loss"], abs=1e-6)
    assert "client_auc" not in found.last


def test_logistic_regression_by_hand():
    """Full batches: w_p <- w_p - r X_p' (sigmoid(X w + b) - y) / n, at each party, with NumPy."""
    data = people(PARTIES[:2])
    found = run(Vertical(LocalSGD(lr=0.5, batch_size=0), intersection="plain"), data, rounds=4)
    columns = {party: {name: column.numpy() for name, column in data.train(party).columns.items()} for party in data.client_ids}
    common = sorted(set(columns["bank"]["id"]) & set(columns["bureau"]["id"]))
    rows = {party: [list(own["id"]).index(id) for id in common] for party, own in columns.items()}
    x = {party: own["x"][rows[party]].astype(float) for party, own in columns.items()}
    y = columns["bank"]["y"][rows["bank"]]
    start = ModelState.of(network(data)).params
    w = {party: start[f"bottoms.{party}.weight"][0].double().numpy() for party in x}
    b = 0.0
    for _ in range(4):
        residual = 1 / (1 + np.exp(-(x["bank"] @ w["bank"] + x["bureau"] @ w["bureau"] + b))) - y
        w = {party: w[party] - 0.5 * x[party].T @ residual / len(y) for party in x}
        b -= 0.5 * residual.mean()
    for party in x:
        np.testing.assert_allclose(found.model.params[f"bottoms.{party}.weight"][0], w[party], atol=1e-6)
    assert found.model.params["top.0.bias"].item() == pytest.approx(b, abs=1e-6)


def test_differs_from_what_each_party_learns_alone():
    data = people(train=400, test=200)
    together = run(PLAIN, data, evaluate_clients=3).last["client_auc"]
    for party in PARTIES:
        alone = data.pooled([party])
        model = LogisticRegression().build(tuple(alone.global_test.columns["x"].shape[1:]), 2)
        assert run(FedAvg(LOCAL), alone, model).last["test_accuracy"] < together - 0.05


class Tapped(Standalone):
    """The standalone engine, with a copy of every letter in `letters`: (sender, recipient, letter)."""

    @contextmanager
    def listening(self):
        letters, deliver = [], Talks.deliver

        def heard(talks, sender, recipient, letter):
            letters.append((sender, recipient, letter))
            deliver(talks, sender, recipient, letter)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Talks, "deliver", heard)
            yield letters


def letters_of(algorithm, data, **settings):
    with Tapped().listening() as letters:
        result = run(algorithm, data, rounds=1, **settings)
    return letters, result


def test_what_travels():
    """After the parties have met: outputs one way and gradients the other, `cut` float32 of a person each, and nothing else."""
    data = people()
    letters, _ = letters_of(PLAIN, data, model=network(data, SPECS["nn"]))
    batches = [7, 7, 7, 7, 7] if (n := len(data.pooled().train("bank"))) == 35 else [7] * (n // 7) + [n % 7] * (n % 7 > 0)
    for other in ("bureau", "shop"):
        for sender, recipient in ((other, "bank"), ("bank", other)):
            numbers = [letter for s, r, letter in letters if (s, r) == (sender, recipient) and isinstance(letter, torch.Tensor)]
            assert [tuple(letter.shape) for letter in numbers] == [(rows, 4) for rows in batches] * 2
            assert {letter.dtype for letter in numbers} == {torch.float32}
    kinds = {type(letter) for _, _, letter in letters}
    assert kinds == {bool, list, torch.Tensor}  # who has labels; ids as `intersection` sends them; the numbers above
    assert not [letter for s, r, letter in letters if "server" in (s, r)]
    assert {(s, r) for s, r, letter in letters if isinstance(letter, torch.Tensor) and "bank" not in (s, r)} == set()


def test_the_server_sees_no_one_who_keeps_its_part():
    data = people()
    setup = Setup(Classifier(), network(data), data, 5, torch.device("cpu"))
    with Standalone().open(setup) as session:
        state = PLAIN.init(ModelState.of(setup.module))
        own = {
            party: ModelState(*({n: p for n, p in numbers.items() if party in n} for numbers in ({**state.model.params}, {})))
            for party in PARTIES
        }
        top = ModelState({"top.0.bias": torch.zeros(1)}, {})
        task = TrainTogether(LOCAL, "plain", False, False, False)
        replies = session.cohort(0, PARTIES).map(task, {"parties": list(PARTIES), "top": top}, own).gather()
        assert [reply.value for reply in replies.values()] == [{}] * 3
        assert [list(reply.metrics) for reply in replies.values()] == [["loss"], [], []]
        kept = dict(session.save())
    assert list(kept["bureau"].part.params) == ["bottoms.bureau.weight"]
    assert list(kept["bank"].part.params) == ["bottoms.bank.weight", "top.0.bias"]


def test_parts_that_stay_are_judged_by_protocol():
    data = people()
    handed, kept = (run(replace(PLAIN, hand_in=hand_in), data, evaluate_clients=1) for hand_in in (True, False))
    for name in ("client_loss", "client_accuracy", "client_auc"):
        assert [row.get(name) for row in kept.history] == [row.get(name) for row in handed.history]
    assert handed.last["client_loss"] == pytest.approx(handed.last["test_loss"], abs=1e-6)
    assert not [name for row in kept.history for name in row if name.startswith("test_")]
    assert apart(kept.model, ModelState.of(network(data))) == 0


def test_only_the_label_holder_tells_how_good_it_is():
    data = people()
    setup = Setup(Classifier(), network(data), data, 5, torch.device("cpu"))
    with Standalone().open(setup) as session:
        state, _ = PLAIN.round(PLAIN.init(ModelState.of(setup.module)), session.cohort(0, PARTIES))
        verdicts = session.everyone(1).map(PLAIN.judge(), PLAIN.shown(state)).gather()
        model = state.model.load_into(setup.module)
    assert [sorted(reply.metrics) for reply in verdicts.values()] == [["accuracy", "auc", "loss"], [], []]
    batch = data.global_test.all()
    with torch.no_grad():
        logits = model(batch["x"])
    positive, negative = (logits[batch["y"] == label, 1] - logits[batch["y"] == label, 0] for label in (1, 0))
    assert verdicts["bank"].metrics["auc"].value == pytest.approx((positive[:, None] > negative).double().mean().item())
    assert verdicts["bank"].metrics["loss"].value == pytest.approx(F.cross_entropy(logits, batch["y"]).item(), abs=1e-6)


def test_evaluation_sends_no_labels_and_no_columns(monkeypatch):
    monkeypatch.setattr("fedml_api.algorithms.vertical.ROWS", 5)
    data = people()
    letters, _ = letters_of(PLAIN, data, evaluate_clients=1)
    train = len(data.pooled().train("bank"))
    after = letters[-(2 * -(-len(data.global_test) // 5)) :]
    assert {(sender, recipient) for sender, recipient, _ in after} == {("bureau", "bank"), ("shop", "bank")}
    assert sum(len(letter) for _, _, letter in after) == 2 * len(data.global_test) < 2 * train


# Masks.

pytest_cryptography = pytest.mark.skipif(
    not __import__("importlib.util").util.find_spec("cryptography"),
    reason="needs the package cryptography",
)


@pytest_cryptography
@pytest.mark.parametrize("spec", SPECS)
def test_masks_change_nothing_but_rounding(spec):
    data = people()
    model = network(data, SPECS[spec])
    plain, masked = (run(replace(PLAIN, masks=masks), data, model, evaluate_clients=3) for masks in (False, True))
    assert 0 < apart(plain.model, masked.model) < 1e-6
    assert masked.sha256 == run(replace(PLAIN, masks=True), data, model).sha256
    assert masked.last["client_loss"] == pytest.approx(plain.last["client_loss"], abs=1e-6)


@pytest_cryptography
def test_what_a_party_says_in_a_mask_is_uniform():
    """Over all 64-bit integers, new in every run, while their sum is that of the plain outputs."""
    data = people(train=1200)
    model = network(data, SPECS["nn"])
    found = []
    for masks in (True, True, False):
        letters, _ = letters_of(replace(PLAIN, masks=masks, local=LocalSGD(batch_size=0)), data, model=model)
        own = {s: letter for s, r, letter in letters if r == "bank" and isinstance(letter, torch.Tensor)}
        found.append((own["bureau"], own["shop"]))
    (one, other), (again, _), (bureau, shop) = found
    assert torch.equal(
        ((one + other).double() / 2**24).float(),
        sum((plain.double() * 2**24).round() for plain in (bureau, shop)).div(2**24).float(),
    )
    assert (one == again).float().mean() < 0.01
    for letter in (one, other, one - again):
        counts = np.bincount(letter.numpy().view(np.uint8).ravel(), minlength=256)
        expected = counts.sum() / 256
        # The mean of chi-square with 255 degrees of freedom is 255, its standard deviation 22.6.
        assert ((counts - expected) ** 2 / expected).sum() < 255 + 8 * 22.6
        assert abs(np.corrcoef(letter.double().ravel(), bureau.ravel())[0, 1]) < 0.1


# Encryption.


@pytest.fixture
def short_keys(monkeypatch):
    monkeypatch.setattr("fedml_core.security.paillier.BITS", 1024)


SLOW = LocalSGD(lr=0.3, batch_size=10, drop_last=True, momentum=0.5)


@pytest_cryptography
@pytest.mark.parametrize("parties", [PARTIES[:2], PARTIES], ids=len)
def test_encryption_changes_nothing_but_rounding(short_keys, parties):
    data = people(parties)
    hidden = Vertical(SLOW, "plain", masks=len(parties) > 2, encrypt=True)
    plain, found = (run(algorithm, data, rounds=1) for algorithm in (Vertical(SLOW, "plain"), hidden))
    assert 0 < apart(plain.model, found.model) < 1e-5


@pytest_cryptography
def test_nothing_but_ciphertexts_comes_back_from_the_label_holder(short_keys):
    letters, _ = letters_of(Vertical(SLOW, "plain", encrypt=True), people(PARTIES[:2]))
    numbers = [letter for sender, recipient, letter in letters if sender == "bank" and isinstance(letter, torch.Tensor)]
    assert {letter.dtype for letter in numbers} == {torch.uint8}
    shapes = [tuple(letter.shape) for letter in numbers]
    batches = (len(shapes) - 1) // 2
    assert batches > 2
    assert shapes == [(128,), *[(10, 1, 256), (1, 128)] * batches]  # the key; a batch's gradients; its masked sums, opened
    assert len({bytes(letter.numpy()) for letter in numbers}) == len(numbers)


@pytest.mark.parametrize(
    ("local", "spec", "message"),
    [
        (SLOW, "nn", "for networks whose parts are matrices only"),
        (replace(SLOW, batch_size=5), "lr", "set local.batch_size to 6 at least"),
        (replace(SLOW, drop_last=False), "lr", "and local.drop_last to true"),
    ],
)
def test_encryption_that_would_not_hide_is_refused(local, spec, message):
    data = people()
    with pytest.raises(ConfigError, match=message):
        run(Vertical(local, "plain", encrypt=True), data, network(data, SPECS[spec]))


@pytest.mark.parametrize("size", [0, 64])
def test_batches_are_no_larger_than_there_are_people(monkeypatch, size):
    """However large they may be by the settings: from a batch of five shop, which has five columns, could solve for gradients."""

    def keys():
        raise InterruptedError("it would go on")

    monkeypatch.setattr("fedml_api.algorithms.vertical.Weights", keys)
    algorithm = Vertical(replace(SLOW, batch_size=size), "plain", encrypt=True)
    with pytest.raises(ConfigError, match=r"of the 5 people .* as few as 5, and client shop has 5 columns: .* find more people"):
        run(algorithm, people(train=5, known=1.0))
    with pytest.raises(InterruptedError):
        run(algorithm, people(train=6, known=1.0))


# Refusals.


def test_masks_between_two_hide_nothing():
    data = people(PARTIES[:2])
    with pytest.raises(ConfigError, match="masks hide something from three parties on"):
        run(replace(PLAIN, masks=True), data)


def test_a_network_in_one_piece_is_refused():
    data = people()
    with pytest.raises(ConfigError, match="algorithm vertical needs a network with a part for each"):
        run(PLAIN, data, torch.nn.Linear(12, 2))


def test_ordinary_clients_are_refused():
    data = blobs(2)
    model = VerticalLR(parties={"c0": 2, "c1": 3}).build((5,), 3)
    with pytest.raises(ConfigError, match="client c0 has the columns x, y: vertical learning needs `id`"):
        run(PLAIN, data, model)


def test_a_part_for_other_columns_is_refused():
    data = people()
    model = VerticalLR(parties={"bank": 4, "bureau": 3, "shop": 5}).build((12,), 2)
    with pytest.raises(ConfigError, match=r"client bank: x of shape \[3\] does not fit its part of the network"):
        run(PLAIN, data, model)


def test_a_network_for_others_is_refused():
    data = people()
    model = VerticalLR(parties={"bank": 3, "bureau": 4, "mill": 5}).build((12,), 2)
    with pytest.raises(ConfigError, match="client shop has no part of the network; the parties are bank, bureau, mill"):
        run(PLAIN, data, model)


def test_every_round_needs_everybody():
    with pytest.raises(ConfigError, match="clients_per_round = 2: every round needs all parties; set it to 3"):
        run(PLAIN, people(), clients_per_round=2)


def test_labels_at_two_parties_are_refused():
    data = people()
    data._train["shop"] = data._train["shop"].__class__({**data.train("shop").columns, "y": torch.zeros(48, dtype=torch.int64)})
    with pytest.raises(ConfigError, match="labels y are held by bank and shop"):
        run(PLAIN, data)


def test_a_loop_of_ones_own_is_refused():
    class Loop(Classifier):
        def train(self, model, batches):
            pass

    with pytest.raises(FedMLError, match=r"Loop overrides train\(\).*write loss\(\) instead"):
        run(PLAIN, people(), trainer=Loop())


def test_ids_that_occur_twice_are_refused():
    data = people()
    data.train("shop").columns["id"][0] = data.train("shop").columns["id"][1]
    with pytest.raises(DataError, match="client shop: 1 of its ids occur more than once"):
        run(PLAIN, data)


# Losses.


def opened(data):
    return Standalone().open(Setup(Classifier(), network(data), data, 5, torch.device("cpu")))


def test_a_party_that_is_not_here_is_named_and_waited_for():
    data = people()
    with opened(data) as session:
        state = PLAIN.init(ModelState.of(network(data)))
        cohort = session.cohort(0, ["bank", "shop"])
        cohort.population = 2
        with pytest.raises(RoundFailed, match="bureau is not here"):
            PLAIN.round(state, cohort)


def test_a_round_without_a_partys_reply_is_tried_again_to_the_same_end():
    data = people()
    whole = run(PLAIN, data)

    class Forgetful(Standalone):
        """Loses shop's reply of round 1 once."""

        @contextmanager
        def open(self, setup):
            with super().open(setup) as session:
                lost, before = [], {}
                make = session.cohort

                def cohort(round, clients):
                    made = make(round, clients)
                    before.update(session.save())
                    mapped = made.map

                    def lose(task, shared, own=None):
                        replies = mapped(task, shared, own).gather()
                        if round == 1 and not lost:
                            lost.append(replies.pop("shop"))
                            session.restore(before.items())  # who is asked again starts from the state before the round
                        return Gathered(replies)

                    made.map = lose
                    return made

                session.cohort = cohort
                yield session
                assert lost

    assert run(PLAIN, data, engine=Forgetful()).sha256 == whole.sha256


@pytest.mark.parametrize("leaver", ["bank", "shop"])
def test_who_waits_for_a_party_that_has_left_says_for_whom(monkeypatch, leaver):
    talk = TrainTogether.talk

    def leave(task, client, shared, own=None):
        saying, letters = talk(task, client, shared, own), None
        for turn in range(10):
            post = saying.send(letters)
            if client.id == leaver and turn == 6:
                return None
            letters = yield post
        raise AssertionError

    monkeypatch.setattr(TrainTogether, "talk", leave)
    with pytest.raises(FedMLError, match=f"waits for a letter of {leaver}, who has left"):
        run(PLAIN, people())


def test_a_party_without_its_part_says_so():
    data = people()
    with opened(data) as session:
        state, _ = PLAIN.round(PLAIN.init(ModelState.of(network(data))), session.cohort(0, PARTIES))
        session.restore(item for item in list(session.save()) if item[0] != "shop")
        with pytest.raises(FedMLError, match="client shop no longer has its part of the network"):
            PLAIN.round(state, session.cohort(1, PARTIES))


def test_people_are_found_again_when_a_party_has_sorted_its_rows():
    data = people()
    with opened(data) as session:
        state, _ = PLAIN.round(PLAIN.init(ModelState.of(network(data))), session.cohort(0, PARTIES))
        for example in (data.train("shop"), data.test("shop")):
            order = torch.randperm(len(example), generator=torch.Generator().manual_seed(0))
            example.columns.update({name: column[order] for name, column in example.columns.items()})
        state, _ = PLAIN.round(state, session.cohort(1, PARTIES))
        assert tree.digest(state.model) == run(PLAIN, people(), rounds=2).sha256
        data.train("shop").columns["id"] += 5000
        with pytest.raises(DataError, match="client shop no longer has all people"):
            PLAIN.round(state, session.cohort(2, PARTIES))


def test_letters_of_the_wrong_shape_are_named(monkeypatch):
    class Halved(torch.nn.Linear):
        def forward(self, x):
            return super().forward(x)[:, : self.out_features // 2]

    data = people()
    model = network(data, SPECS["nn"])
    model.bottoms["shop"][2] = Halved(6, 4, bias=False)
    with pytest.raises(FedMLError, match=r"client shop has sent something other than outputs of the shape \[7, 4\]"):
        run(replace(PLAIN, hand_in=False), data, model)


def test_goes_on_from_a_checkpoint_and_over_workers_with_the_same_bits(tmp_path):
    from fedml_api.run.checkpoint import Checkpoints

    data = people()
    whole = run(PLAIN, data, rounds=4)
    kept = Checkpoints(tmp_path)
    base = {"model": network(data), "data": data, "algorithm": PLAIN, "clients_per_round": 3, "seed": 5, "threads": 1}
    simulate(Experiment(**base, rounds=2), checkpoints=kept)
    assert simulate(Experiment(**base, rounds=4), checkpoints=kept).sha256 == whole.sha256
    masked = replace(PLAIN, hand_in=False)
    one, other = (run(masked, data, engine=engine, evaluate_clients=1) for engine in (Standalone(), Loopback(workers=2)))
    assert one.history[-1]["client_auc"] == other.history[-1]["client_auc"]


@pytest.mark.parametrize("method", ["hmac", pytest.param("x25519", marks=pytest_cryptography)])
def test_however_the_people_are_found_they_are_the_same(monkeypatch, method):
    monkeypatch.setenv("FEDML_INTERSECTION_SECRET", "what only the parties know")
    data = people()
    assert run(replace(PLAIN, intersection=method), data, rounds=1).sha256 == run(PLAIN, data, rounds=1).sha256


def test_a_part_of_another_shape_is_not_handed_in(monkeypatch):
    talk = TrainTogether.talk

    def swollen(task, client, shared, own=None):
        reply = yield from talk(task, client, shared, own)
        part = ModelState({name: torch.zeros(1, 99) for name in reply.value.params}, {})
        return replace(reply, value=part) if client.id == "shop" else reply

    monkeypatch.setattr(TrainTogether, "talk", swollen)
    with pytest.raises(FedMLError, match="the parts that the parties have handed in do not make up the network"):
        run(PLAIN, people())


def test_engines_know_what_can_be_handed_in(monkeypatch):
    whole = ModelState.of(network(people(), SPECS["nn"]))
    shared = {"parties": list(PARTIES), "shapes": shapes(whole)}
    parts = {
        prefix: chosen(whole, [name for name in whole.params if name.startswith(prefix)]) for prefix in ("bottoms.shop.", "top.")
    }
    shop, top = parts.values()
    both, half = shop.replaced(top), ModelState(dict(list(shop.params.items())[1:]), {})
    task, quiet = (TrainTogether(LOCAL, "plain", masks=False, encrypt=False, hand_in=hand_in) for hand_in in (True, False))
    assert task.objection(shop, shared) is task.objection(both, shared) is quiet.objection({}, {}) is None
    for value in (
        {},
        None,
        whole,
        top,
        half,
        ModelState({}, {}),
        tree.map_tensors(torch.Tensor.double, shop),
        tree.scale(shop, np.nan),
    ):
        assert task.objection(value, shared)
    assert quiet.objection(shop, {})

    talk = TrainTogether.talk

    def silent(task, client, shared, own=None):
        reply = yield from talk(task, client, shared, own)
        return replace(reply, value={}) if client.id == "shop" else reply

    monkeypatch.setattr(TrainTogether, "talk", silent)
    with pytest.raises(CommunicationError, match="client shop sent is not a party's part of the network"):
        run(PLAIN, people(), engine=Loopback(workers=3))


@pytest.mark.parametrize("masks", [False, pytest.param(True, marks=pytest_cryptography)])
def test_half_precision_trains_as_well(masks):
    data = people()
    found = run(replace(PLAIN, masks=masks), data, precision="bfloat16")
    assert found.last["train_loss"] == pytest.approx(run(PLAIN, data).last["train_loss"], abs=0.02)
