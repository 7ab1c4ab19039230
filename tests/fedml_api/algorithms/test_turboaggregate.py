"""Turbo-Aggregate: the mean of those who entered, whoever is lost up to the bound; and nobody sees an update."""

import hashlib
import itertools
import math
import os
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch

from fedml_api import Experiment, FedAvg, LocalSGD, Standalone, simulate
from fedml_api.algorithms import FedAvgM, TurboAggregate
from fedml_api.algorithms.turboaggregate import Hello, Parcel, PassOn, Seat, passed_on, points, recovered, shares_of
from fedml_api.data import FederatedDataset
from fedml_api.distributed import Loopback
from fedml_api.distributed.server import Patience
from fedml_core import tree
from fedml_core.errors import CommunicationError, ConfigError, FedMLError, RoundFailed
from fedml_core.federation import SERVER, SGD, Mean, Post, Reply, Setup, WeightedMean
from fedml_core.security import PrimeField
from fedml_core.trainer import Classifier, ModelState
from tests.conftest import blobs

LOCAL = LocalSGD(lr=0.5, steps=2, batch_size=0)
BITS = 20
SEQUENTIAL = Standalone(executor="sequential", processes=1)
TURBO = TurboAggregate(group_size=3, bits=BITS, rounding="nearest", local=LOCAL)


def lagrange(p, known, values, at):
    total = 0
    for j, y in enumerate(values):
        for m, x in enumerate(known):
            if m != j:
                y = y * (at - x) * pow(known[j] - x, -1, p)
        total += y
    return total % p


def turbo_aggregate(p, groups, masked, zeros, lost):
    """Every s~ and s- of the ring, one number each; `zeros[i][j]`: r_ij. The last entry is the final stage's."""
    sums, rounds = dict.fromkeys(groups[0], 0), []
    for k, group in enumerate(groups):
        following = groups[(k + 1) % len(groups)]
        alpha, beta = list(range(1, len(following) + 1)), list(range(len(following) + 1, 2 * len(following) + 1))
        passed = sum(sums[client] for client in group) * pow(len(group), -1, p)
        plain, coded = {}, {}
        for j, receiver in enumerate(following):
            shares = {i: [masked[i] + r for r in zeros[i]] for i in group if i not in lost}
            plain[receiver] = (passed + sum(x[j] for x in shares.values())) % p
            coded[receiver] = (passed + sum(lagrange(p, alpha, x, beta[j]) for x in shares.values())) % p
        rounds.append((plain, coded))
        sums = plain
    return rounds


@pytest.mark.parametrize("lost", [(), ("a", "e"), ("b", "d", "g", "i", "j")])
def test_every_value_on_the_ring_is_the_papers(lost):
    p, of = 101, PrimeField(101)
    groups, draw = [list("abc"), list("defg"), list("hij")], np.random.default_rng(0)
    masked = {client: int(draw.integers(p)) for group in groups for client in group}
    zeros = {}
    for k, group in enumerate(groups):
        for client in group:
            r = draw.integers(0, p, len(groups[(k + 1) % 3]) - 1).tolist()
            zeros[client] = [*r, -sum(r)]
    expected = turbo_aggregate(p, groups, masked, zeros, set(lost[:4]))
    lost, parcels, sums = set(lost[:4]), {}, {client: ([], None) for client in groups[0]}
    for k, group in enumerate(groups):
        following = groups[(k + 1) % 3]
        shares = {
            i: shares_of(of, torch.tensor([masked[i]]), len(following), of.reduce(torch.tensor(zeros[i]))[:, None])
            for i in group
            if i not in lost
        }
        sums_before, sums = sums, {}
        for j, receiver in enumerate(following):
            parcels = {i: Parcel(*sums_before[i], shares[i][j]) for i in shares}
            sums[receiver] = passed_on(of, group, parcels)
        plain, coded = expected[k]
        assert {j: s.flatten().tolist() for j, (_, s) in sums.items()} == {j: [plain[j], coded[j]] for j in following}
    entered, total = recovered(of, groups[0], {i: Parcel(*sums[i], None) for i in groups[0] if i not in lost})
    assert set(entered) == masked.keys() - lost
    assert total.item() == sum(masked[i] for i in entered) % p


@contextmanager
def opened(clients=6, engine=SEQUENTIAL):
    torch.manual_seed(0)
    setup = Setup(Classifier(), torch.nn.Linear(5, 3), blobs(clients), 3, torch.device("cpu"))
    with engine.open(setup) as session:
        yield session.cohort(2, session.population()), tree.clone(ModelState.of(setup.module))


class Tampered:
    """A cohort some of whose clients do not do what they are told; and whoever wants to may listen."""

    def __init__(self, cohort, faults, listen=lambda sender, recipient, letter: None):
        self.cohort, self.faults, self.listen = cohort, faults, listen

    def __getattr__(self, name):
        return getattr(self.cohort, name)

    def converse(self, task, shared, own=None):
        def heard(client, saying):
            letters = None
            while True:
                try:
                    post = saying.send(letters)
                except StopIteration as end:
                    return end.value
                for recipient, letter in post.to.items():
                    self.listen(client, recipient, letter)
                letters = yield post

        class Faulty(PassOn):
            def talk(inside, client, shared, own=None):
                saying = super().talk(client, shared, own)
                return heard(client.id, self.faults.get(client.id, lambda saying: saying)(saying))

        return self.cohort.converse(Faulty(task.local, task.code), shared, own)


def lost(after, last=lambda post: None):
    """A client that is gone after so many posts: 1 with the server, 2 heard from the group before, 3 has written to the next."""

    def fault(saying):
        post = next(saying)
        for _ in range(after):
            post = saying.send((yield post))
        if (rest := last(post)) is not None:
            yield rest
        return Reply({}, 1.0, {})

    return fault


HAS_WRITTEN = lost(2, lambda post: Post(post.to))


def reaching(count):
    """A client that is gone when it has written to so many of the next group."""
    return lost(2, lambda post: Post(dict(list(post.to.items())[:count])))


def change(cohort, model, faults, algorithm=TURBO, listen=lambda *_: None):
    state, metrics = algorithm.round(algorithm.init(model), Tampered(cohort, faults, listen))
    return tree.sub(state.model, model), metrics


def close(found, expected, sizes, most, each=0.5 * 2.0**-BITS):
    """Each of those who entered rounds n_k D_k / `most` by at most `each`; their sum counts `most` / sum n_k. And float32."""
    bound = len(sizes) * each * most / sum(sizes) + 1e-7
    return max(part.abs().max().item() for part in tree.tensors(tree.sub(found, expected))) <= bound


def mean_of(cohort, model, clients):
    """What FedAvg makes of these clients."""
    return cohort.only(clients).map(LOCAL, shared=model).fold(WeightedMean())


def sizes_of(clients):
    data = blobs(8)
    return [len(data.train(client)) for client in clients]


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
@pytest.mark.parametrize("bits", [4, 12, 20])
def test_with_everyone_there_it_is_fedavg_up_to_rounding(bits, rounding):
    each = 2.0**-bits * (0.5 if rounding == "nearest" else 1.0)
    with opened() as (cohort, model):
        found, metrics = change(cohort, model, {}, replace(TURBO, bits=bits, rounding=rounding))
        fedavg = mean_of(cohort, model, cohort.clients)
    sizes = sizes_of(cohort.clients)
    assert close(found, fedavg.value, sizes, max(sizes), each)
    assert not close(found, fedavg.value, sizes, max(sizes), each / 100)
    assert abs(metrics["loss"].value - fedavg.metrics["loss"].value) <= len(sizes) * each * max(sizes) / sum(sizes) + 1e-7
    assert metrics["entered"] == Mean(6, 6)


def test_any_clients_may_be_lost_up_to_half_of_a_group_and_no_more():
    """All sets of up to three clients that are lost at the worst moment, of two groups of three: one of each is half of it."""
    with opened() as (cohort, model):
        groups = TURBO.deal(cohort.clients, cohort.server)
        assert sorted(map(len, groups)) == [3, 3]
        for gone in itertools.chain.from_iterable(itertools.combinations(cohort.clients, k) for k in range(4)):
            faults = dict.fromkeys(gone, lost(2))
            if any(len(set(group) & set(gone)) > 1 for group in groups):
                with pytest.raises(
                    CommunicationError, match=r"of the 3 clients .* only [01] got theirs through, at least half must"
                ):
                    change(cohort, model, faults)
                continue
            there = [client for client in cohort.clients if client not in gone]
            found, metrics = change(cohort, model, faults)
            assert close(found, mean_of(cohort, model, there).value, sizes_of(there), max(sizes_of(cohort.clients)))
            assert metrics["entered"] == Mean(len(there), 6)


def test_half_of_a_group_of_even_size_may_be_lost():
    with opened(4) as (cohort, model):  # one group, which shares among itself
        there = [cohort.clients[0], cohort.clients[3]]
        found, _ = change(cohort, model, {cohort.clients[1]: lost(2), cohort.clients[2]: lost(1)})
        assert close(found, mean_of(cohort, model, there).value, sizes_of(there), max(sizes_of(cohort.clients)))
        with pytest.raises(CommunicationError, match="only 1 got"):
            change(cohort, model, dict.fromkeys(cohort.clients[1:], lost(2)))


@pytest.mark.parametrize("group", [0, 1])
def test_who_is_lost_after_writing_has_entered(group):
    with opened() as (cohort, model):
        gone = TURBO.deal(cohort.clients, cohort.server)[group][1]
        found, metrics = change(cohort, model, {gone: HAS_WRITTEN})
        assert close(found, mean_of(cohort, model, cohort.clients).value, sizes_of(cohort.clients), max(sizes_of(cohort.clients)))
    assert metrics["entered"] == Mean(6, 6)


@pytest.mark.parametrize(("reached", "enters"), [(3, True), (1, False), (2, None)])
@pytest.mark.parametrize("group", [0, 1])
def test_who_reaches_a_part_of_the_next_group_enters_where_most_of_it_agrees(group, reached, enters):
    with opened(8) as (cohort, model):
        groups = TURBO.deal(cohort.clients, cohort.server)
        assert sorted(map(len, groups)) == [4, 4]
        gone = groups[group][1]
        found, metrics = change(cohort, model, {gone: reaching(reached)})
        without = [client for client in cohort.clients if client != gone]
        there = without if metrics["entered"].total == 7 else cohort.clients
        assert enters is None or enters == (metrics["entered"].total == 8)
        assert close(found, mean_of(cohort, model, there).value, sizes_of(there), max(sizes_of(cohort.clients)))


def test_the_share_that_is_to_drop_out_does_and_the_draw_is_of_the_round():
    algorithm, gone = replace(TURBO, dropout=0.5), []
    with opened(8) as (cohort, model):
        for round in (0, 1):
            senders = set()
            one = cohort.only(cohort.clients, round)
            found, metrics = change(
                one, model, {}, algorithm, lambda sender, to, _, senders=senders: to != SERVER and senders.add(sender)
            )
            there = [client for client in cohort.clients if client in senders]
            gone.append(set(cohort.clients) - senders)
            groups = algorithm.deal(cohort.clients, one.server)
            assert [len(gone[-1] & set(group)) for group in groups] == [2, 2]
            assert gone[-1] != {client for group in groups for client in group[:2]}
            assert close(found, mean_of(one, model, there).value, sizes_of(there), max(sizes_of(cohort.clients)))
            assert metrics["entered"] == Mean(4, 8)
    assert gone[0] != gone[1]


def test_a_share_of_more_than_half_fails_with_a_reason():
    with opened(8) as (cohort, model), pytest.raises(CommunicationError, match="only 1 got theirs through"):
        change(cohort, model, {}, replace(TURBO, dropout=0.75))


def test_everyone_sits_on_the_ring_once_in_groups_of_the_papers_size():
    with opened() as (cohort, _):
        names = [f"c{k}" for k in range(100)]
        for size, expected in {None: 10, 3: 3, 7: 7, 100: 100}.items():
            groups = replace(TURBO, group_size=size).deal(names, cohort.server)
            assert sorted(itertools.chain(*groups)) == sorted(names)
            assert {len(group) for group in groups} <= {expected, expected + 1}
        assert len(replace(TURBO, group_size=200).deal(names, cohort.server)) == 1
        assert replace(TURBO).deal(names, cohort.server) != replace(TURBO).deal(names, cohort.only([], 3).server)
    assert math.ceil(2 * math.log(100)) == 10


def test_masks_differ_and_the_bits_do_not():
    sent = []
    with opened() as (cohort, model):
        for _ in range(2):
            letters = {}
            found, _ = change(cohort, model, {}, TURBO, lambda *letter, letters=letters: letters.update({letter[:2]: letter[2]}))
            sent.append((tree.digest(found), letters))
    (one, before), (other, after) = sent
    assert one == other
    assert before.keys() == after.keys()
    for pair, letter in before.items():
        assert all(not torch.equal(a, b) for a, b in zip(tree.tensors(letter), tree.tensors(after[pair]), strict=True))


def run(algorithm, **settings):
    torch.manual_seed(7)
    network = torch.nn.Linear(5, 3)
    settings = {"rounds": 4, "clients_per_round": 5, "seed": 3} | settings
    return simulate(Experiment(network, settings.pop("data", None) or blobs(6), algorithm=algorithm, **settings))


def test_any_server_optimizer_makes_the_step():
    turbo, plain = run(replace(TURBO, server=SGD(lr=0.7, momentum=0.5))), run(FedAvgM(0.5, 0.7, LOCAL))
    difference = max(part.abs().max().item() for part in tree.tensors(tree.sub(turbo.model, plain.model)))
    assert 0 < difference < 1e-5
    assert abs(turbo.history[-1]["train_loss"] - plain.history[-1]["train_loss"]) < 1e-5


def test_rounding_to_few_bits_is_not_fedavg():
    coarse, plain = run(replace(TURBO, bits=3)), run(FedAvg(LOCAL))
    assert max(part.abs().max().item() for part in tree.tensors(tree.sub(coarse.model, plain.model))) > 1e-3


def test_clients_without_examples_weigh_nothing():
    data = blobs(4)
    parts = {client: np.arange(12 * k, 12 * k + 12 * (k < 3)) for k, client in enumerate(data.client_ids)}
    uneven = FederatedDataset(data.global_train, data.global_test, parts, name="uneven")
    turbo, plain = (run(algorithm, data=uneven, clients_per_round=4, rounds=2) for algorithm in (TURBO, FedAvg(LOCAL)))
    assert max(part.abs().max().item() for part in tree.tensors(tree.sub(turbo.model, plain.model))) < 1e-5
    assert turbo.history[-1]["train_loss"] == pytest.approx(plain.history[-1]["train_loss"], abs=1e-5)
    nothing = FederatedDataset(data.global_train, data.global_test, {name: np.arange(0) for name in parts}, name="nothing")
    assert run(TURBO, data=nothing, clients_per_round=4, rounds=1).sha256 == run(TURBO, data=nothing, clients_per_round=3).sha256


def test_numbers_that_could_wrap_are_refused_before_anything_is_sent():
    sent = []
    with (
        opened() as (cohort, model),
        pytest.raises(ConfigError, match=r"to be summed over 6 clients: with bits = 29 .* Lower bits"),
    ):
        change(cohort, model, {}, replace(TURBO, bits=29), lambda *letter: sent.append(letter))
    assert {recipient for _, recipient, _ in sent} == {SERVER}


def test_two_clients_hide_nobody():
    with pytest.raises(ConfigError, match="a sum over 2 clients hides nobody: let clients_per_round be at least 3"):
        run(TURBO, clients_per_round=2)


@pytest.mark.parametrize(("setting", "value"), [("group_size", 2), ("bits", 30), ("dropout", 1.0), ("rounding", "up")])
def test_settings_that_cannot_work_are_refused(setting, value):
    with pytest.raises(ConfigError, match=f"TurboAggregate.{setting} = "):
        replace(TURBO, **{setting: value})


def spoiled(**changes):
    """A client whose parcels are others."""

    def fault(saying):
        post = next(saying)
        for _ in range(2):
            post = saying.send((yield post))
        bad = {to: changes["all"] if "all" in changes else replace(parcel, **changes) for to, parcel in post.to.items()}
        return (yield from resumed(saying, Post(bad, post.wait, post.lenient)))

    return fault


def resumed(saying, post):
    while True:
        try:
            post = saying.send((yield post))
        except StopIteration as end:
            return end.value


VECTOR = torch.zeros(2, 19, dtype=torch.int32)


@pytest.mark.parametrize("group", [0, 1])
@pytest.mark.parametrize(
    "changes",
    [
        {"all": {"sums": VECTOR}},
        {"all": 3.0},
        {"shares": VECTOR[:, 1:]},
        {"shares": VECTOR[0]},
        {"shares": VECTOR.double()},
        {"shares": VECTOR - 1},
        {"shares": torch.full((2, 19), 2**31 - 1)},
        {"shares": None},
        {"sums": VECTOR[:, 1:], "entered": ["c0"]},
        {"sums": None, "entered": ["c0"]},
        {"sums": VECTOR, "entered": []},
        {"sums": VECTOR, "entered": ["c0", "c0"]},
        {"sums": VECTOR, "entered": [1]},
        {"sums": VECTOR, "entered": "c0"},
    ],
    ids=lambda changes: " ".join(changes),
)
def test_what_is_no_parcel_is_refused_by_name(group, changes):
    with opened() as (cohort, model):
        sender = TURBO.deal(cohort.clients, cohort.server)[group][2]
        with pytest.raises(CommunicationError, match=f"what client {sender} sent is not a parcel of 19 elements modulo 2147483647"):
            change(cohort, model, {sender: spoiled(**changes)})


@pytest.mark.parametrize(
    "value", [{"x": VECTOR}, Parcel([], None, None), Parcel(["nobody"], VECTOR, None), Parcel(["c0"], VECTOR, VECTOR)]
)
def test_what_is_no_final_sum_is_refused_by_name(value):
    def fault(saying):
        yield from resumed(saying, next(saying))
        return Reply(value, 1.0, {})

    with opened() as (cohort, model):
        sender = TURBO.deal(cohort.clients, cohort.server)[0][1]
        with pytest.raises(CommunicationError, match=f"what client {sender} sent is not a parcel"):
            change(cohort, model, {sender: fault})


SOUND = Hello(3.0, ["loss"], torch.zeros(32, dtype=torch.uint8))


@pytest.mark.parametrize(
    "hello",
    [
        None,
        {"examples": 1.0},
        replace(SOUND, examples=-1.0),
        replace(SOUND, examples=math.inf),
        replace(SOUND, metrics=["accuracy"]),
        replace(SOUND, metrics=[["loss"]]),
        replace(SOUND, seed=SOUND.seed[1:]),
        replace(SOUND, seed=SOUND.seed.int()),
    ],
)
@pytest.mark.parametrize("sender", ["c0", "c3"])
def test_a_greeting_that_is_none_is_refused_by_name(sender, hello):
    def fault(saying):
        post = next(saying)
        return (yield from resumed(saying, Post({SERVER: hello}, post.wait)))

    with (
        opened() as (cohort, model),
        pytest.raises(CommunicationError, match=f"client {sender}: it does not say how many examples"),
    ):
        change(cohort, model, {sender: fault})


@pytest.mark.parametrize(
    ("sent", "letter", "reply"),
    [
        ({}, False, True),
        (SOUND, True, False),
        (replace(SOUND, examples=math.nan), False, False),
        (Parcel(["c0"], VECTOR, None), False, True),
        (Parcel(["c0"], VECTOR[:, :17], None), False, False),
        (Parcel(["c0"], VECTOR[0], None), False, False),
        (Parcel(["c0"], VECTOR - 1, None), False, False),
        (Parcel([], VECTOR, None), False, False),
        (Parcel([], None, None), False, False),
        (Parcel(["c0"], VECTOR, VECTOR), False, False),
        ({"x": VECTOR}, False, False),
        (None, False, False),
    ],
)
def test_engines_know_what_the_server_can_be_sent(sent, letter, reply):
    task, model = PassOn(LOCAL), ModelState.of(torch.nn.Linear(5, 3))
    assert (task.objection_to_letter(sent, model) is None) == letter
    assert (task.objection(sent, model) is None) == reply


class Enduring(Loopback):
    """Goes on without lost clients, as the edge engine does."""

    @contextmanager
    def open(self, setup):
        with super().open(setup) as session:
            session.server.patience = Patience(minimum=1, deadline=30)
            yield session


@pytest.mark.parametrize(
    ("after", "gone", "there"),
    [
        (0, [1], 7),
        (2, [1, 4], 6),
        (3, [1, 6], 8),
        (2, [0, 1, 2], r"0 of 8 clients got through"),
        (3, [0, 1, 2], r"the sum is lost: of the 4 clients .* only 1 got theirs through"),
    ],
)
def test_clients_that_an_engine_loses(monkeypatch, after, gone, there):
    """Their workers fail after so many posts: greeting, hearing, writing. Who has not greeted has no place on the ring."""
    talk, victims = PassOn.talk, set()

    def talks(self, client, shared, own=None):
        saying, letters = talk(self, client, shared, own), None
        for number in itertools.count():
            try:
                if client.id in victims and number == after:
                    raise OSError("the lights went out")
                post = saying.send(letters)
            except StopIteration as end:
                return end.value
            letters = yield post

    with opened(8) as (cohort, model):
        groups = TURBO.deal(cohort.clients, cohort.server)
        lost = [list(itertools.chain(*groups))[k] for k in gone]
        expected = mean_of(cohort, model, [c for c in cohort.clients if there == 8 or c not in lost]).value
    monkeypatch.setattr(PassOn, "talk", talks)
    with opened(8, Enduring(workers=8)) as (cohort, _):
        victims.update(lost)
        if isinstance(there, str):
            with pytest.raises(RoundFailed, match=f"round 3: {there}"):
                TURBO.round(TURBO.init(model), cohort)
            return
        state, metrics = TURBO.round(TURBO.init(model), cohort)
        assert sorted(cohort.missing) == sorted(lost)
    assert metrics["entered"].total == there
    assert max(part.abs().max().item() for part in tree.tensors(tree.sub(tree.sub(state.model, model), expected))) < 1e-5


@pytest.mark.parametrize("hello", [replace(SOUND, metrics=["accuracy"]), Parcel(["c0"], VECTOR, None), {}])
def test_who_greets_unlike_the_others_is_lost_be_it_the_first(monkeypatch, hello):
    talk = PassOn.talk

    def talks(self, client, shared, own=None):
        saying = talk(self, client, shared, own)
        post = next(saying)
        return (yield from resumed(saying, Post({SERVER: hello}, post.wait) if client.id == "c0" else post))

    with opened(8) as (cohort, model):
        expected = mean_of(cohort, model, cohort.clients[1:]).value
    monkeypatch.setattr(PassOn, "talk", talks)
    with opened(8, Enduring(workers=8)) as (cohort, _):
        state, metrics = TURBO.round(TURBO.init(model), cohort)
        assert cohort.missing == ["c0"]
    assert metrics["entered"].total == 7
    assert max(part.abs().max().item() for part in tree.tensors(tree.sub(tree.sub(state.model, model), expected))) < 1e-5


PLACE = Seat(["a"], ["b", "c", "d"], [], 6, 20.0, False)


@pytest.mark.parametrize(
    "seat",
    [
        {},
        replace(PLACE, before=["a", "a"]),
        replace(PLACE, after=["b", "c"]),
        replace(PLACE, after=["b", "c", 4]),
        replace(PLACE, last=None),
        replace(PLACE, parties=2),
        replace(PLACE, most=math.nan),
    ],
)
def test_a_place_that_would_hide_nothing_is_refused(seat):
    with opened() as (cohort, model):
        client = replace(cohort.server, id="c0", train=blobs(6).train("c0"))
        saying = PassOn(LOCAL).talk(client, model)
        next(saying)
        with pytest.raises(FedMLError, match="no place on a ring"):
            saying.send({SERVER: seat})


def tuples(p, count):
    """All vectors of so many elements modulo p, `[p^count, count]`."""
    return torch.tensor(list(itertools.product(range(p), repeat=count)))


def with_zero_sum(of, draws):
    return torch.cat([draws, of.reduce(-draws.sum(1, keepdim=True))], 1).T


def views(p, masked, who):
    """How often each view of `who` of a group of three occurs over all draws of r, where x + u is one number, `masked`."""
    of, zero = PrimeField(p), with_zero_sum(PrimeField(p), tuples(p, 2))
    shares = shares_of(of, torch.full((zero.shape[1],), masked), 3, zero)
    return Counter(map(tuple, shares[list(who)].flatten(0, 1).T.tolist()))


@pytest.mark.parametrize("who", [(0,), (1,), (2,)])
def test_the_server_and_fewer_than_half_of_a_group_learn_nothing_of_an_update(who):
    """The server knows u_i; all draws of r_i: what one of three sees is uniform, the same for every x_i + u_i."""
    seen = [views(11, masked, who) for masked in range(11)]
    assert all(one == seen[0] for one in seen)
    assert set(seen[0].values()) == {1}
    assert len(seen[0]) == 11**2


def test_half_of_a_group_and_the_server_would_learn_it():
    """The bound is sharp: two of three see four values of a polynomial of degree two."""
    assert not set(views(11, 0, (0, 1))) & set(views(11, 1, (0, 1)))


def test_it_takes_the_right_points():
    """Modulo 7 the values at 3 and 6 give away the mean of those at 1, 2 and 3; see the test of the points that are used."""
    assert not set(views(7, 0, (2,))) & set(views(7, 1, (2,)))


def test_all_other_clients_learn_nothing_without_the_server():
    """All draws of u_i and r_i: the whole next group sees the same for every x_i."""
    seen = [sum((views(7, (x + u) % 7, (0, 1, 2)) for u in range(7)), Counter()) for x in range(7)]
    assert all(one == seen[0] for one in seen)


def test_what_the_server_is_sent_depends_on_the_sum_alone():
    """All draws of two clients' r: the polynomial that the final group sends, the masks u taken off, for pairs of updates."""
    p, of, draws = 5, PrimeField(5), tuples(5, 4)
    seen = {}
    for one, other in itertools.product(range(p), repeat=2):
        shares = {
            "a": shares_of(of, torch.full((len(draws),), one), 3, with_zero_sum(of, draws[:, :2]))[:, :1],
            "b": shares_of(of, torch.full((len(draws),), other), 3, with_zero_sum(of, draws[:, 2:]))[:, :1],
        }
        sent = [passed_on(of, "ab", {i: Parcel([], None, shares[i][j]) for i in shares})[1] for j in range(3)]
        seen.setdefault((one + other) % p, []).append(Counter(map(tuple, torch.cat(sent).T.tolist())))
    assert all(view == same[0] for same in seen.values() for view in same)
    assert all(not set(seen[0][0]) & set(seen[total][0]) for total in range(1, p))


def rank(rows, p):
    rows, found = [list(row) for row in rows], 0
    for column in range(len(rows[0])):
        pivot = next((i for i in range(found, len(rows)) if rows[i][column] % p), None)
        if pivot is None:
            continue
        rows[found], rows[pivot] = rows[pivot], rows[found]
        scale = pow(rows[found][column], -1, p)
        for i in range(found + 1, len(rows)):
            factor = rows[i][column] * scale % p
            rows[i] = [(a - factor * b) % p for a, b in zip(rows[i], rows[found], strict=True)]
        found += 1
    return found


@pytest.mark.parametrize("n", [3, 4, 5, 6, 7, 8, *(pytest.param(n, marks=pytest.mark.soak) for n in (9, 10, 11, 12)), 20, 41])
def test_the_points_keep_the_mean_from_fewer_than_half(n):
    """x_i + u_i = mean f(a_j) is no combination of the values at a_j and b_j of any T < n/2 clients; of large groups: some T."""
    p, few = 2**31 - 1, (n - 1) // 2
    own, redundant = points(n)
    row = {point: [pow(point, k, p) for k in range(n)] for point in (*own, *redundant)}
    mean = [sum(row[point][k] for point in own) % p for k in range(n)]
    draw = np.random.default_rng(n)
    coalitions = (
        itertools.combinations(range(n), few) if n <= 12 else (sorted(draw.choice(n, few, replace=False)) for _ in range(3))
    )
    for coalition in coalitions:
        seen = [row[side[j]] for j in coalition for side in (own, redundant)]
        assert rank([*seen, mean], p) == 2 * few + 1


def stream(monkeypatch, seed=b"masks"):
    """The operating system's generator, but the same each time."""
    counter = itertools.count()
    monkeypatch.setattr(os, "urandom", lambda length: hashlib.shake_256(seed + next(counter).to_bytes(8)).digest(length))


def chi_squared(values, cells=32):
    counts = torch.bincount(values.flatten().long() * cells >> 31, minlength=cells).double()
    expected = values.numel() / cells
    return float(((counts - expected) ** 2 / expected).sum())


def test_the_letters_of_a_run_are_uniform_and_without_masks_would_not_be(monkeypatch):
    """Chi-squared with 31 degrees of freedom: above 78 with a probability of 1e-5; the stream is fixed, so nothing is chance."""

    def traffic():
        seen = {"shares": {}, "sums": {}}

        def listen(sender, recipient, letter):
            if recipient != SERVER:
                seen["shares"].setdefault(recipient, []).append(letter.shares)
                seen["sums"].setdefault(recipient, []).extend([] if letter.sums is None else [letter.sums])

        with opened(8) as (cohort, model):
            change(cohort, model, {}, TURBO, listen)
        return [torch.stack(letters) for kind in seen.values() for letters in kind.values() if letters]

    stream(monkeypatch)
    assert len(letters := traffic()) == 8 + 4
    assert max(map(chi_squared, letters)) < 78
    monkeypatch.setattr(os, "urandom", bytes)
    monkeypatch.setattr(PrimeField, "expand", lambda self, seed, *shape: torch.zeros(shape, dtype=torch.int64))
    assert min(map(chi_squared, traffic())) > 1000


def test_the_server_hears_greetings_and_final_sums_only():
    said = []
    with opened() as (cohort, model):
        change(cohort, model, {}, TURBO, lambda sender, to, letter: said.append((sender, to, type(letter).__name__)))
        first, second = TURBO.deal(cohort.clients, cohort.server)
    to_server = [(sender, kind) for sender, to, kind in said if to == SERVER]
    assert sorted(to_server) == [(client, "Hello") for client in sorted(cohort.clients)]
    pairs = {(sender, to) for sender, to, _ in said if to != SERVER}
    assert pairs == {*itertools.product(first, second), *itertools.product(second, first)}


@pytest.mark.parametrize(("clients", "groups"), [(6, [3, 3]), (7, [4, 3]), (8, [4, 4])])
def test_what_is_sent_grows_with_the_group_and_not_with_the_cohort(clients, groups):
    """A client sends 4 vectors to each of the next group (shares and sums, each with its redundant twin), in the first group 2."""
    sent = Counter()
    with opened(clients) as (cohort, model):
        count = lambda sender, to, letter: to == SERVER or sent.update({sender: tree.count(letter)})  # noqa: E731
        change(cohort, model, {}, TURBO, count)
        first, second = TURBO.deal(cohort.clients, cohort.server)
    assert [len(first), len(second)] == groups
    length = tree.count(model) + 1
    assert {sent[client] for client in first} == {2 * len(second) * length}
    assert {sent[client] for client in second} == {4 * len(first) * length}
