import functools
import re
import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from fedml_core.errors import ConfigError
from fedml_core.partition import (
    Blocks,
    ClassDirichlet,
    Classes,
    Continuous,
    Dirichlet,
    Distribution,
    Drift,
    Exponential,
    Iid,
    Lognormal,
    Natural,
    Pachinko,
    Partitioner,
    Power,
    Quantity,
    Semantic,
    Shards,
    Sizes,
    matching_split,
    natural,
    partitioners,
    stratified_split,
)
from fedml_core.partition.deal import apportion
from fedml_core.rng import rng
from fedml_core.settings import build

BALANCED = np.repeat(np.arange(10), 100)
SIZE_LAWS = [Iid(), Quantity(alpha=0.5), Lognormal(sigma=3.0), Power(exponent=2.0), Exponential(rate=0.3)]
EXTREMES = [1e-9, 1e-3, 0.3, 10.0, 1e9]


def one_of(random, *choices):
    return choices[random.integers(len(choices))]


# Settings for the partitioner of each name, and how to draw some for so many clients and examples.
DRAWN = {
    "iid": lambda random, clients, examples: Iid(),
    "quantity": lambda random, clients, examples: Quantity(one_of(random, *EXTREMES), int(random.integers(1, 4))),
    "lognormal": lambda random, clients, examples: Lognormal(one_of(random, 0.0, 2.0, 20.0), int(random.integers(1, 4))),
    "power": lambda random, clients, examples: Power(one_of(random, -10.0, -1.0, 0.0, 1.0, 2.0, 10.0)),
    "exponential": lambda random, clients, examples: Exponential(one_of(random, -100.0, 0.0, 0.1, 1.0, 100.0)),
    "sizes": lambda random, clients, examples: Sizes(
        tuple(int(size) for size in 1 + apportion(examples - clients + one_of(random, 0, 0, 0, 1, -1), random.random(clients), 0.5))
        if examples > clients
        else (1,) * clients
    ),
    "dirichlet": lambda random, clients, examples: Dirichlet(one_of(random, *EXTREMES), one_of(random, *SIZE_LAWS)),
    "class_dirichlet": lambda random, clients, examples: ClassDirichlet(
        one_of(random, *EXTREMES, tuple(random.choice(EXTREMES, clients).tolist())),
        int(random.integers(1, 4)),
        one_of(random, True, False),
    ),
    "shards": lambda random, clients, examples: one_of(
        random, Shards(int(random.integers(1, 4))), Shards(None, int(random.integers(1, 20)), "keep")
    ),
    "classes": lambda random, clients, examples: Classes(
        int(random.integers(1, 5)), one_of(random, "random", "first", "deterministic"), one_of(random, *SIZE_LAWS)
    ),
    "distribution": lambda random, clients, examples: Distribution(
        tuple(tuple(row) for row in random.random((clients, one_of(random, 1, 2, 3, 4, 5, 6))).tolist())
    ),
    "pachinko": lambda random, clients, examples: Pachinko(
        one_of(random, *EXTREMES), one_of(random, *EXTREMES), "coarse", one_of(random, *SIZE_LAWS)
    ),
    "natural": lambda random, clients, examples: Natural(
        "owner", int(random.integers(1, 4)), one_of(random, "smaller", "bigger", "refuse")
    ),
    "blocks": lambda random, clients, examples: Blocks("owner"),
    "continuous": lambda random, clients, examples: Continuous("value", one_of(random, 0.0, 0.5, 1.0)),
    "semantic": lambda random, clients, examples: Semantic("x", int(random.integers(1, 4)), int(random.integers(1, 4))),
    "drift": lambda random, clients, examples: Drift(
        one_of(random, Iid(), Dirichlet(0.1), Natural("owner")), one_of(random, 0.0, 0.5, 1.0)
    ),
}


@functools.cache
def inputs():
    """A thousand: how many clients are asked for; labels of 1 to 6 classes, not 0, 1, ..., and what else partitions go by.

    Now and then there is one example, or all of them are the same.
    """
    random, made = rng(0, "inputs"), []
    for _ in range(1000):
        examples = one_of(random, 0, 1, 2, int(random.integers(3, 80)), int(random.integers(3, 80)))
        labels = random.choice(random.permutation(9)[: random.integers(1, 7)], examples)
        columns = {
            "y": labels,
            "coarse": labels // 3,
            "x": random.integers(0, one_of(random, 1, 2, 100), (examples, 2, 2)).astype(np.float32),
            "owner": random.integers(0, one_of(random, 1, 5, 60), examples),
            "value": one_of(random, 1e300, 1.0, 1e-300) * random.integers(0, one_of(random, 1, 2, 100), examples),
        }
        made.append((one_of(random, 1, 2, 3, int(random.integers(1, examples + 2))), columns))
    return made


EACH = {
    "iid": Iid(),
    "dirichlet, one class": Dirichlet(alpha=1e-9),
    "dirichlet": Dirichlet(alpha=0.3),
    "dirichlet, iid": Dirichlet(alpha=1e9),
    "shards": Shards(),
    "shards of a size": Shards(None, 7),
    "quantity": Quantity(),
    "quantity, one client": Quantity(alpha=1e-9, minimum=2),
    "lognormal": Lognormal(),
    "power": Power(),
    "class_dirichlet": ClassDirichlet(),
    "classes": Classes(),
    "pachinko": Pachinko(coarse=(0, 0, 0, 0, 0, 1, 1, 1, 1, 1)),
    "drift": Drift(Natural("y")),
}
some_labels = st.lists(st.integers(0, 5), min_size=0, max_size=120).map(lambda labels: np.array(labels, np.int64))


def class_counts(labels, parts):
    return np.array([np.bincount(labels[rows], minlength=labels.max() + 1) for rows in parts])


def test_every_partitioner_is_here():
    assert set(DRAWN) == {name for name in partitioners if partitioners[name].__module__.startswith("fedml_core.")}


@pytest.mark.parametrize("name", DRAWN)
def test_a_thousand_times_every_row_is_exactly_one_clients_or_it_is_said_why_not(name):
    start, dealt, refused = time.process_time(), 0, []
    random = rng(0, "settings", name)
    for trial, (clients, columns) in enumerate(inputs()):
        examples = len(columns["y"])
        partitioner = DRAWN[name](random, clients, examples)
        try:
            own = partitioner.clients(columns)
            clients = clients if own is None else len(own)
            parts = partitioner(columns, clients, trial)
        except ConfigError as error:
            refused.append(str(error))
            continue
        dealt += 1
        rows = np.concatenate(parts)
        assert len(parts) == clients
        assert rows.dtype == np.int64
        assert min(map(len, parts)) >= 1
        assert np.array_equal(np.sort(rows), np.arange(examples))
        if trial % 10 == 0:
            assert name == "drift" or all((np.diff(rows) > 0).all() for rows in parts)
            again = partitioner(columns, clients, trial)
            assert all(np.array_equal(a, b) for a, b in zip(parts, again, strict=True))
    assert dealt > 50
    assert all(re.search(r"lower|raise|use|give|must be", message) for message in refused)
    assert time.process_time() - start < 30  # they take around a second


@pytest.mark.parametrize("partitioner", EACH.values(), ids=EACH)
def test_another_seed_is_another_partition(partitioner):
    first, second = partitioner(BALANCED, 10, 0), partitioner(BALANCED, 10, 1)
    assert not all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("partitioner", [Iid(), Dirichlet(alpha=1e-9), Dirichlet(alpha=0.3), Dirichlet(alpha=1e9)])
@pytest.mark.parametrize("clients", [1, 7, 10, 999, 1000])
def test_sizes_are_equal_to_within_one(partitioner, clients):
    sizes = {len(rows) for rows in partitioner(BALANCED, clients, 3)}
    assert sizes <= {1000 // clients, 1000 // clients + 1}


def test_sixty_thousand_examples_over_a_thousand_clients():
    labels = np.arange(60_000) % 10
    start = time.perf_counter()
    Dirichlet(alpha=0.3)(labels, 1000, 0)
    assert time.perf_counter() - start < 5  # it takes some 0.03 s


def naive_dirichlet(labels, clients, alpha, random):
    """Hsu et al., 2019, to the letter: client after client, one example after the other, class by class probabilities."""
    pools = {c: list(random.permutation(np.flatnonzero(labels == c))) for c in np.unique(labels)}
    prior = {c: len(pool) / len(labels) for c, pool in pools.items()}
    parts = []
    for client in range(clients):
        q = dict(zip(prior, random.dirichlet([alpha * p for p in prior.values()]), strict=True))
        rows = []
        for _ in range(len(labels) // clients + (client < len(labels) % clients)):
            open_classes = [c for c in pools if pools[c]]
            weights = np.array([q[c] for c in open_classes])
            rows.append(pools[random.choice(open_classes, p=weights / weights.sum())].pop())
        parts.append(np.sort(np.array(rows)))
    return parts


def homogeneous(first, second):
    """Chi-square test that two samples of equal size come from one distribution, at five standard deviations."""
    a, b = Counter(first), Counter(second)
    cells = [cell for cell in a | b if a[cell] + b[cell] >= 10]
    statistic = sum((a[cell] - b[cell]) ** 2 / (a[cell] + b[cell]) for cell in cells)
    return statistic < len(cells) + 5 * np.sqrt(2 * len(cells))


@pytest.mark.parametrize(("sizes", "clients", "alpha"), [((4, 3, 2), 3, 1.0), ((6, 1, 1), 2, 0.4), ((2, 2, 2, 2), 3, 20.0)])
def test_dirichlet_draws_from_the_same_distribution_as_one_draw_at_a_time(sizes, clients, alpha):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    # Pools are small, so that nearly every partition exhausts classes in the middle of a client.
    fast = [class_counts(labels, Dirichlet(alpha=alpha)(labels, clients, seed)).tobytes() for seed in range(4000)]
    random = rng(0, "naive")
    slow = [class_counts(labels, naive_dirichlet(labels, clients, alpha, random)).tobytes() for _ in range(4000)]
    assert homogeneous(fast, slow)
    assert not homogeneous(fast, [class_counts(labels, Iid()(labels, clients, seed)).tobytes() for seed in range(4000)])


def test_dirichlet_has_the_moments_of_the_dirichlet_multinomial():
    # The first client of 10 examples finds 28 and 12 of its classes, so nothing is exhausted: its count of class 0 is
    # Dirichlet-multinomial, mean n p and variance n p (1 - p) (n + alpha) / (1 + alpha), Mosimann 1962.
    labels, alpha, p, n = np.repeat([0, 1], [28, 12]), 0.5, 0.7, 10
    drawn = np.array([(labels[Dirichlet(alpha=alpha)(labels, 4, seed)[0]] == 0).sum() for seed in range(4000)])
    variance = n * p * (1 - p) * (n + alpha) / (1 + alpha)
    assert drawn.mean() == pytest.approx(n * p, abs=5 * np.sqrt(variance / 4000))
    assert drawn.var() == pytest.approx(variance, rel=5 * np.sqrt(2 / 4000))


def test_dirichlet_with_tiny_alpha_gives_each_client_one_class():
    # q is one-hot to within rounding, every class is one client's worth, and a client whose class is taken gets another one:
    # the classes are a uniformly random permutation. 1200 seeds over 6 permutations: 200 each, standard deviation 13.
    labels = np.repeat([0, 1, 2], 5)
    orders = Counter()
    for seed in range(1200):
        counts = class_counts(labels, Dirichlet(alpha=1e-9)(labels, 3, seed))
        assert np.array_equal(np.sort(counts.ravel()), [0] * 6 + [5] * 3)
        orders[tuple(counts.argmax(axis=1))] += 1
    assert len(orders) == 6
    assert all(abs(n - 200) < 5 * 13 for n in orders.values())


def test_dirichlet_with_small_alpha_gives_most_clients_few_classes():
    # Two examples of a client that finds its classes are of the same one with probability E sum q_c^2, which for Dir(alpha p) is
    # (1 + alpha sum p_c^2) / (1 + alpha) = 1.001 / 1.01 = 0.991.
    counts = class_counts(BALANCED, Dirichlet(alpha=0.01)(BALANCED, 100, 0))
    assert np.median(counts.max(axis=1)) == 10
    assert (counts > 0).sum(axis=1).mean() < 1.5


def test_dirichlet_with_huge_alpha_is_near_iid():
    # q = p = 1/10: counts of the first client are multinomial, 100 of each class with standard deviation sqrt(1000 0.1 0.9) = 9.5.
    labels = np.repeat(np.arange(10), 1000)
    counts = class_counts(labels, Dirichlet(alpha=1e9)(labels, 10, 0))
    assert np.abs(counts[0] - 100).max() < 5 * 9.5
    assert counts[0].std() > 9.5 / 3


def test_shards_give_two_classes_to_a_client():
    # 100 clients, 200 shards of 5 examples, 20 shards to a class: no shard crosses a class (McMahan et al.: 200 shards of 300).
    counts = class_counts(BALANCED, Shards()(BALANCED, 100, 0))
    assert set(counts.ravel()) == {0, 5, 10}
    # Two shards of the same class happen with probability 19/199: 9.5 clients of 100, standard deviation 2.9.
    assert abs((counts == 10).sum() - 9.5) < 5 * 2.9
    assert (class_counts(BALANCED, Shards(shards_per_client=1)(BALANCED, 10, 0)).max(axis=1) == 100).all()


def test_quantity_skews_sizes_and_not_labels():
    sizes = np.array([[len(rows) for rows in Quantity(alpha=2.0)(BALANCED, 4, seed)] for seed in range(500)])
    # n_k = 1 + 996 q_k with q ~ Dir(2, 2, 2, 2): mean 250, var q_k = (1/4)(3/4) / (8 + 1), standard deviation 996 * 0.1443 = 143.8.
    assert sizes.mean(axis=0) == pytest.approx([250] * 4, abs=5 * 143.8 / np.sqrt(500))
    assert sizes.std(axis=0) == pytest.approx([143.8] * 4, rel=5 * np.sqrt(1 / 1000))
    largest = max(Quantity()(BALANCED, 10, 0), key=len)
    shares = np.bincount(BALANCED[largest], minlength=10) / len(largest)
    assert np.abs(shares - 0.1).max() < 5 * np.sqrt(0.09 / len(largest))


@pytest.mark.parametrize(
    ("partitioner", "examples", "clients", "remedy"),
    [
        (Iid(), 10, 20, "clients = 20: need at least 20 examples, and there are 10; lower clients to at most 10, or use more data"),
        (Shards(), 10, 6, "shards_per_client = 2: .*; lower clients to at most 5, or lower shards_per_client to at most 1, or use"),
        (Quantity(minimum=4), 10, 3, "minimum = 4: .*; lower clients to at most 2, or lower minimum to at most 3, or use"),
        (Quantity(minimum=5), 4, 5, "there are 4; use more data"),
        (Dirichlet(), 0, 1, "there are 0; use more data"),
        (Dirichlet(), 10, 0, "clients = 0: must be at least 1"),
    ],
)
def test_what_cannot_be_says_why_and_what_to_do(partitioner, examples, clients, remedy):
    with pytest.raises(ConfigError, match=remedy):
        partitioner(np.zeros(examples, np.int64), clients, 0)


@pytest.mark.parametrize("alpha", [0.0, -1.0, 1e-12, 1e12, float("inf"), float("nan")])
def test_alpha_out_of_bounds_is_refused(alpha):
    for partitioner in (Dirichlet, Quantity, ClassDirichlet, Pachinko):
        with pytest.raises(ConfigError, match=f"{partitioner.__name__}.alpha"):
            partitioner(alpha=alpha)


def test_partitioners_can_be_configured_by_name():
    problems: list[str] = []
    assert build(Partitioner, {"name": "quantity", "minimum": 3}, "partition", problems) == Quantity(minimum=3)
    assert problems == []


def test_natural_clients_are_the_owners():
    parts = natural(np.array(["b", "a", "b", "c", "a"]))
    assert {client: rows.tolist() for client, rows in parts.items()} == {"a": [1, 4], "b": [0, 2], "c": [3]}
    assert list(natural(np.array([10, 9, 10]))) == ["9", "10"]
    assert natural(np.array([], np.int64)) == {}


weights = st.lists(st.integers(0, 50), min_size=1, max_size=20).map(np.array)


@given(total=st.integers(0, 1000), weights=weights, offset=st.floats(0, 1, exclude_max=True))
@example(total=1000, weights=np.ones(3), offset=np.nextafter(1, 0))
@example(total=2, weights=np.array([1, 1]), offset=np.nextafter(1, 0))
@example(total=234, weights=np.array([2, 5, 50, 50, 49]), offset=np.nextafter(1, 0))
def test_apportioned_shares_are_within_one_of_their_quotas(total, weights, offset):
    shares = apportion(total, weights, offset)
    if not weights.any():
        assert not shares.any()
        return
    quotas = total * weights / weights.sum()
    assert shares.sum() == total
    assert (shares >= np.floor(quotas)).all()
    assert (shares <= np.ceil(quotas)).all()


def test_apportioned_shares_have_their_quotas_as_mean():
    held = np.array([1, 0, 2, 7, 1])
    mean = np.mean([apportion(4, held, (i + 0.5) / 1000) for i in range(1000)], axis=0)
    assert mean == pytest.approx(4 * held / 11, abs=1e-3)


@given(train=some_labels, test=some_labels.filter(len), clients=st.integers(1, 10), seed=st.integers(0, 100))
@hypothesis_settings(deadline=None)
def test_local_test_sets_are_disjoint_and_match_the_training_sets(train, test, clients, seed):
    owner = rng(seed, "owners").integers(0, clients, len(train))
    parts = [np.flatnonzero(owner == client) for client in range(clients)]
    local = matching_split(test, train, parts, seed)
    rows = np.concatenate(local)
    assert len(set(rows)) == len(rows)
    assert set(rows) == set(np.flatnonzero(np.isin(test, train)))  # all but the classes nobody trains on
    for c in np.intersect1d(train, test):
        held = np.array([(train[part] == c).sum() for part in parts])
        got = np.array([(test[part] == c).sum() for part in local])
        assert (np.abs(got - (test == c).sum() * held / held.sum()) < 1).all()
    again = matching_split(test, train, parts, seed)
    assert all(np.array_equal(a, b) for a, b in zip(local, again, strict=True))


def test_each_test_example_can_be_any_matching_clients():
    train, test = np.zeros(3, np.int64), np.zeros(1, np.int64)
    parts = [np.array([0]), np.array([1, 2])]
    got = [len(matching_split(test, train, parts, seed)[1]) for seed in range(900)]
    # Client 1 holds two of three training examples: 600 of 900, standard deviation sqrt(900 * 2/9) = 14.
    assert abs(sum(got) - 600) < 5 * 14


@given(labels=some_labels, fraction=st.floats(0, 1), seed=st.integers(0, 100))
@hypothesis_settings(deadline=None)
def test_stratified_split_holds_out_the_same_fraction_of_every_class(labels, fraction, seed):
    for held_out in (fraction, int(fraction * len(labels))):
        rest, held = stratified_split(labels, held_out, seed)
        assert np.array_equal(np.sort(np.concatenate([rest, held])), np.arange(len(labels)))
        number = round(fraction * len(labels)) if isinstance(held_out, float) else held_out
        assert len(held) == number
        for c in np.unique(labels):
            assert abs((labels[held] == c).sum() - number * (labels == c).mean()) < 1


def test_stratified_split_is_random_by_seed():
    first, again, other = (stratified_split(BALANCED, 100, seed)[1] for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert np.array_equal(np.bincount(BALANCED[first]), [10] * 10)


@pytest.mark.parametrize("held_out", [-1, -0.1, 1.1, 1001, float("nan")])
def test_impossible_splits_are_refused(held_out):
    with pytest.raises(ConfigError, match=r"must be a fraction .* or a number from 0 to 1000 examples"):
        stratified_split(BALANCED, held_out, 0)
