"""What each partitioner promises, against closed forms."""

import itertools
import math
from collections import Counter

import networkx
import numpy as np
import pytest

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
    Power,
    Quantity,
    Semantic,
    Shards,
    Sizes,
    communities,
    modularity,
    named,
)
from fedml_core.partition.deal import at_least
from fedml_core.partition.semantic import cheapest_matching, kmeans
from fedml_core.rng import rng

BALANCED = np.repeat(np.arange(10), 100)


def sizes(parts):
    return np.array([len(rows) for rows in parts])


def class_counts(labels, parts):
    return np.array([np.bincount(labels[rows], minlength=labels.max() + 1) for rows in parts])


def test_power_and_exponential_sizes_are_their_laws():
    labels = np.zeros(5500, np.int64)
    assert sizes(Power(1.0)(labels, 10, 0)).tolist() == [100 * k for k in range(1, 11)]
    assert sizes(Power(2.0)(labels[:3850], 10, 0)).tolist() == [10 * k * k for k in range(1, 11)]
    # n_k = 2^k: of 2 + 4 + ... + 1024 = 2046 examples each quota is whole.
    assert sizes(Exponential(math.log(2))(labels[:2046], 10, 0)).tolist() == [2**k for k in range(1, 11)]
    found = sizes(Exponential(-1.0)(labels, 5, 0))
    assert np.abs(found - 5500 * np.exp(-np.arange(1, 6)) / np.exp(-np.arange(1, 6)).sum()).max() < 1


def test_a_power_law_has_its_exponent():
    found = sizes(Power(-1.5)(np.zeros(10**6, np.int64), 100, 0))
    slope = np.polyfit(np.log(np.arange(1, 101)), np.log(found), 1)[0]
    assert slope == pytest.approx(-1.5, abs=1e-3)


def test_a_client_without_examples_gets_one_of_the_largest_clients():
    assert sizes(Exponential(100.0)(np.zeros(12, np.int64), 4, 0)).tolist() == [1, 1, 1, 9]
    assert sizes(Power(-10.0)(np.zeros(6, np.int64), 3, 0)).tolist() == [4, 1, 1]


def test_lognormal_sizes_have_the_deviation_of_their_logarithms():
    # log n_k - log n_j = log s_k - log s_j, whose variance is 2 sigma^2, whatever the sum.
    found = np.log([Lognormal(0.5).draw(10**5, 2, rng(seed, "lognormal")) for seed in range(2000)])
    assert (found[:, 0] - found[:, 1]).std() == pytest.approx(0.5 * math.sqrt(2), rel=5 * math.sqrt(1 / 4000))


def test_sizes_are_those_given():
    assert sizes(Sizes((3, 5, 2))(np.zeros(10, np.int64), 3, 0)).tolist() == [3, 5, 2]
    assert len(set(np.concatenate(Sizes((3, 5), "drop")(BALANCED, 2, 0)))) == 8
    with pytest.raises(ConfigError, match=r"sizes sum to 8, and there are 10 examples; raise them, or say rest: drop"):
        Sizes((3, 5))(np.zeros(10, np.int64), 2, 0)
    with pytest.raises(ConfigError, match=r"sizes sum to 12, and there are 10 examples; lower them"):
        Sizes((7, 5), "drop")(np.zeros(10, np.int64), 2, 0)


@pytest.mark.parametrize(
    ("partitioner", "kept"),
    [
        (Sizes((30, 20), "drop"), 50),
        (Dirichlet(0.3, Sizes((30, 20), "drop")), 50),
        (Shards(None, 300, "drop"), 900),
        (Shards(2, 100, "drop"), 400),
        (Natural("y", 5, "drop"), 1000),
        (Natural("y", 3, "drop"), 900),
    ],
)
def test_what_is_dropped_is_nobodys_and_the_rest_is_one_clients(partitioner, kept):
    clients = {"Natural": 1000 // 100 // getattr(partitioner, "group_size", 1)}.get(type(partitioner).__name__, 2)
    rows = np.concatenate(partitioner(BALANCED, clients, 0))
    assert len(rows) == len(set(rows.tolist())) == kept


def test_any_law_of_sizes_goes_with_label_skew():
    for law, wanted in (
        (Power(1.0), [100, 200, 300, 400]),
        (Sizes((600, 200, 100, 100)), [600, 200, 100, 100]),
        (Sizes((60, 20, 10, 10), "drop"), [60, 20, 10, 10]),
    ):
        parts = Dirichlet(0.1, law)(BALANCED, 4, 0)
        assert sizes(parts).tolist() == wanted
        assert (class_counts(BALANCED, parts).max(axis=1) / wanted).max() > 0.3
        assert sizes(Pachinko(coarse=(0,) * 5 + (1,) * 5, sizes=law)(BALANCED, 4, 0)).tolist() == wanted
    assert list(named(Dirichlet(0.1, Sizes((400, 600))), {"y": BALANCED}, None, 0)) == ["0", "1"]


def test_class_dirichlet_has_the_moments_of_the_dirichlet():
    # p_c ~ Dir(a, ..., a) over K clients: mean 1/K, variance (1/K)(1 - 1/K) / (K a + 1); rounding adds less than 1 / 1000.
    labels, a, K = np.repeat([0, 1], 1000), 0.7, 4
    shares = np.array([class_counts(labels, ClassDirichlet(a)(labels, K, seed)) for seed in range(1500)]) / 1000
    variance = (1 / K) * (1 - 1 / K) / (K * a + 1)
    assert shares.mean(axis=0) == pytest.approx(np.full((K, 2), 1 / K), abs=5 * math.sqrt(variance / 1500))
    assert shares.var() == pytest.approx(variance, rel=0.05)
    # Classes are drawn one by one: a client's shares of two of them are independent.
    assert np.corrcoef(shares[:, 0, 0], shares[:, 0, 1])[0, 1] == pytest.approx(0, abs=5 / math.sqrt(1500))


def test_class_dirichlet_takes_an_alpha_for_each_client():
    # Dir(alpha) has the mean alpha_k / sum(alpha).
    shares = np.mean([sizes(ClassDirichlet((1.0, 3.0, 6.0))(BALANCED, 3, seed)) for seed in range(300)], axis=0) / 1000
    assert shares == pytest.approx([0.1, 0.3, 0.6], abs=5 * math.sqrt(0.25 / 11 / 10 / 300))
    with pytest.raises(ConfigError, match=r"clients = 4: the partition has 3 clients of its own; leave clients out"):
        ClassDirichlet((1.0, 3.0, 6.0))(BALANCED, 4, 0)


def test_class_dirichlet_balances_and_has_a_minimum():
    for seed in range(30):
        held = np.zeros(5)
        counts = class_counts(BALANCED, ClassDirichlet(0.1, balanced=True)(BALANCED, 5, seed))
        for c in range(10):
            assert not counts[held > 200, c].any()
            held += counts[:, c]
        assert sizes(ClassDirichlet(0.01, minimum=40)(BALANCED, 20, seed)).min() >= 40
    assert max(sizes(ClassDirichlet(0.1)(BALANCED, 5, seed)).max() for seed in range(30)) > 400


def test_at_least_takes_no_more_than_is_lacking():
    parts = at_least([np.arange(10), np.array([10, 11, 12, 13]), np.array([], np.int64)], 3, rng(0, "test"))
    assert sizes(parts).tolist() == [7, 4, 3]
    assert set(parts[2]) <= set(range(10))
    assert sorted(np.concatenate(parts)) == list(range(14))


def test_shards_of_a_size():
    # 1,000 examples in shards of 70: 14 whole ones and one of 20. Four clients: 4, 4, 4 and 3 of them.
    kept, dropped = Shards(None, 70)(BALANCED, 4, 0), Shards(None, 70, "drop")(BALANCED, 4, 0)
    assert sorted(sizes(kept)) in ([160, 280, 280, 280], [210, 230, 280, 280])
    assert sorted(sizes(dropped)) == [210, 210, 280, 280]
    whole = Shards(2, 50, "drop")(BALANCED, 4, 0)
    assert sizes(whole).tolist() == [100] * 4
    assert set(class_counts(BALANCED, whole).ravel()) <= {0, 50, 100}
    for settings, message in (
        ({"shards_per_client": None}, "both null"),
        ({"shard_size": 5}, "say rest: drop, or shards_per_client: null"),
    ):
        with pytest.raises(ConfigError, match=message):
            Shards(**settings)
    with pytest.raises(ConfigError, match=r"shard_size = 300: of 1000 examples that makes 3 shards, and 2 clients need 4; lower"):
        Shards(2, 300, "drop")(BALANCED, 2, 0)


@pytest.mark.parametrize("assignment", ["random", "first", "deterministic"])
@pytest.mark.parametrize(("clients", "each"), [(10, 1), (10, 2), (8, 3), (25, 4), (1, 10), (5, 10)])
def test_every_client_has_exactly_so_many_classes_and_every_class_a_client(assignment, clients, each):
    for seed in range(5):
        held = class_counts(BALANCED, Classes(each, assignment)(BALANCED, clients, seed)) > 0
        if assignment == "deterministic":
            for k, c in itertools.product(range(clients), range(10)):
                assert held[k, c] == ((c - k) % 10 < each)
        assert (held.sum(axis=1) == each).all()
        assert held.any(axis=0).all()
        if assignment == "first":
            assert all(held[k, k % 10] for k in range(clients))


def test_first_classes_stay_where_others_make_room_for_those_that_nobody_drew():
    # Five clients with two of ten classes: 0 to 4 are the first ones, so that the others are 5 to 9, each once.
    for seed in range(10):
        held = class_counts(BALANCED, Classes(2, "first")(BALANCED, 5, seed)) > 0
        assert np.array_equal(held[:, :5], np.eye(5, dtype=bool))
        assert (held[:, 5:].sum(axis=0) == 1).all()


def test_classes_are_drawn_evenly_and_their_examples_split_evenly():
    labels, pairs = np.repeat(np.arange(4), 60), Counter()
    for seed in range(600):
        counts = class_counts(labels, Classes(2)(labels, 12, seed))
        pairs.update(tuple(np.flatnonzero(row)) for row in counts)
        for column in counts.T:
            assert np.ptp(column[column > 0]) <= 1
    # 12 clients x 600 seeds over 6 pairs: 1,200 of each, standard deviation sqrt(7200 / 6 * 5 / 6) = 32.
    assert len(pairs) == 6
    assert all(abs(n - 1200) < 5 * 32 for n in pairs.values())


def test_the_power_law_of_fedprox_is_two_classes_and_lognormal_sizes():
    counts = class_counts(BALANCED, Classes(2, "deterministic", Lognormal(2.0, minimum=3))(BALANCED, 50, 1))
    assert ((counts > 0).sum(axis=1) == 2).all()
    assert counts[counts > 0].min() == 3
    assert counts.max() > 30


@pytest.mark.parametrize(
    ("partitioner", "labels", "clients", "message"),
    [
        (Classes(11), BALANCED, 2, "classes_per_client = 11: there are 10 classes; lower it to at most 10"),
        (Classes(2), BALANCED, 4, "4 clients hold 8 of 10 classes; raise it, or clients"),
        (Classes(2, "deterministic"), BALANCED, 5, "5 clients hold 6 of 10 classes"),
        (
            Classes(1),
            np.repeat([0, 1], [9, 1]),
            6,
            "class 1, 1 examples of which . clients have some: clients = .: need at least . examples, and there are 1; lower",
        ),
        (Distribution(((1.0, 1.0),)), BALANCED, 1, "each client has 2 numbers, and there are 10 classes"),
        (Distribution(((1.0, 0.0), (1.0, 0.0))), BALANCED // 5, 2, "nobody has any of class 1; give its examples to somebody"),
        (Distribution(((1.0, 1.0), (1e-9, 0.0))), BALANCED // 5, 2, "none is left for client 1; raise its shares"),
        (Pachinko(coarse=(0, 1)), BALANCED, 2, "2 superclasses for 10 classes; give one for each class"),
        (Pachinko(), BALANCED, 2, "column 'coarse': the examples have none of this name to be partitioned by; they have y"),
        (Natural("y", 3, "refuse"), BALANCED, 4, "10 values of 'y' leave 1 over"),
        (Natural("y", 11, "drop"), BALANCED, 1, "'y' has 10 values only; lower it"),
        (Blocks("y"), BALANCED, 11, "'y' has 10 values; lower clients to at most 10"),
        (Continuous("y"), np.zeros(9), 2, "all values are the same; use another column, or strictness: 0"),
        (Continuous("y"), np.array([1.0, np.nan]), 2, "row 1 is no finite number"),
        (Continuous("y"), np.array(["a", "b"]), 2, "are <U1, not numbers; use another column, or natural"),
        (Semantic(), BALANCED, 2, "by = 'x': needed are features, numbers \\[n, ...\\]; there are: none"),
        (
            Dirichlet(),
            np.zeros((9, 2), np.int64),
            2,
            "column 'y' is \\[n, 2\\], and partitioning by it takes one value per example",
        ),
    ],
)
def test_what_cannot_be_says_why(partitioner, labels, clients, message):
    with pytest.raises(ConfigError, match=message):
        partitioner(labels, clients, 0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Sizes(()), "sizes is empty"),
        (lambda: Sizes((0,)), r"Sizes.sizes = \(0,\)"),
        (lambda: ClassDirichlet(()), "alpha is empty"),
        (lambda: Distribution(()), "one list per client"),
        (lambda: Distribution(((1.0,), (1.0, 2.0))), "one list per client"),
        (lambda: Distribution(((1.0,), (0.0,))), "client 1 has none of anything"),
        (lambda: Distribution(((float("nan"),),)), "Distribution.shares"),
        (lambda: Continuous("x", 1.5), "strictness = 1.5"),
        (lambda: Drift(Iid(), -0.1), "strength = -0.1"),
        (lambda: Power(11.0), "exponent = 11.0"),
        (
            lambda: Dirichlet(0.3, Shards()),
            "Dirichlet.sizes = .*must be a law of sizes \\(exponential, iid, lognormal, power, quantity",
        ),
    ],
)
def test_bad_settings_are_refused_when_they_are_made(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_distribution_is_as_given():
    shares = ((0.5, 0.0, 1.0), (0.25, 2.0, 1.0), (0.25, 2.0, 0.0))
    labels = np.repeat([3, 5, 8], [100, 40, 60])
    parts = Distribution(shares)(labels, 3, 0)
    assert class_counts(labels, parts)[:, [3, 5, 8]].tolist() == [[50, 0, 30], [25, 20, 30], [25, 20, 0]]


def test_pachinko_has_the_moments_of_two_dirichlets():
    # The share of a class is theta_s phi_c, independent: mean 1/(S F); E theta^2 = (a + 1) / (S (S a + 1)), likewise phi, for S
    # superclasses of F classes. A count of n draws has the mean n m and the variance n (m - v) + n^2 (v - m^2), v = E share^2.
    S, F, a, b, n = 2, 3, 0.8, 2.0, 12
    labels, coarse = np.repeat(np.arange(6), 12), np.repeat([7, 5], 36)
    drawn = [Pachinko(a, b)({"y": labels, "coarse": coarse}, 6, seed)[0] for seed in range(2000)]
    counts = class_counts(labels, drawn)
    assert (counts.sum(axis=1) == n).all()
    m, v = 1 / (S * F), (a + 1) / (S * (S * a + 1)) * (b + 1) / (F * (F * b + 1))
    variance = n * (m - v) + n * n * (v - m * m)
    assert counts.mean(axis=0) == pytest.approx(np.full(6, n * m), abs=5 * math.sqrt(variance / 2000))
    assert counts.var() == pytest.approx(variance, rel=0.06)
    # And of superclasses.
    v = (a + 1) / (S * (S * a + 1))
    assert counts[:, :3].sum(axis=1).var() == pytest.approx(n * (0.5 - v) + n * n * (v - 0.25), rel=0.1)


def test_pachinko_keeps_the_superclass_when_a_class_is_exhausted():
    # Client 0 draws 4 of 8: superclass 0 has one example of class 0 and three of class 1, superclass 1 four of class 2. With alpha
    # tiny it draws from one superclass only, which exhausts it: never a mixture.
    labels, seen = np.array([0, 1, 1, 1, 2, 2, 2, 2]), set()
    for seed in range(50):
        seen.add(tuple(class_counts(labels, Pachinko(1e-9, 1.0, (0, 0, 1))(labels, 2, seed))[0].tolist()))
    assert seen == {(1, 3, 0), (0, 0, 4)}


def test_pachinko_wants_one_superclass_for_each_class():
    with pytest.raises(ConfigError, match=r"coarse = 'coarse': examples of class 1 have different superclasses"):
        Pachinko()({"y": np.array([0, 1, 1]), "coarse": np.array([0, 0, 1])}, 1, 0)


def test_natural_clients_are_values_and_groups_of_them():
    owner = np.array([30, 10, 20, 10, 50, 40, 50])
    columns = {"y": np.zeros(7), "owner": owner}
    found = named(Natural("owner"), columns, None, 0)
    assert {name: rows.tolist() for name, rows in found.items()} == {"10": [1, 3], "20": [2], "30": [0], "40": [5], "50": [4, 6]}

    def groups(rest):
        parts = named(Natural("owner", 2, rest), columns, None, 0)
        assert list(parts) == [str(k) for k in range(len(parts))]
        return [sorted(set(owner[rows].tolist())) for rows in parts.values()]

    assert groups("smaller") == [[10, 20], [30, 40], [50]]
    assert groups("bigger") == [[10, 20, 30], [40, 50]]
    assert groups("drop") == [[10, 20], [30, 40]]
    assert all((np.diff(rows) > 0).all() for rows in Natural("owner", 2)(columns, 3, 0))


def test_blocks_stay_together_and_sizes_are_near():
    # The longest first, each to the then smallest: 7 and 6; 5 to the 6, 4 to the 7; then 3 is the last: 11 + 3 and 11.
    block = np.repeat([4, 8, 15, 16, 23], [3, 7, 6, 5, 4])
    parts = Blocks("block")({"block": block}, 2, 0)
    assert sorted(sizes(parts)) == [11, 14]
    held = [set(block[rows].tolist()) for rows in parts]
    assert not held[0] & held[1]
    assert {15, 16} in (held[0] - {4}, held[1] - {4})


def test_a_measured_quantity_is_sorted_as_strictly_as_is_asked():
    value = rng(0, "value").permutation(1000).astype(np.float32)
    strict = Continuous("value", 1.0)({"value": value}, 4, 0)
    assert [(value[rows].min(), value[rows].max()) for rows in strict] == [(0, 249), (250, 499), (500, 749), (750, 999)]
    # The client's number and the value correlate as b and z do, s / sqrt(s^2 + (1 - s)^2), but for the cut into 50 parts.
    for s in (0.0, 0.3, 0.5, 0.8):
        parts = Continuous("value", s)({"value": value}, 50, 1)
        place = np.concatenate([np.full(len(rows), k) for k, rows in enumerate(parts)])
        found = np.corrcoef(place, value[np.concatenate(parts)])[0, 1]
        assert found == pytest.approx(s / math.hypot(s, 1 - s), abs=5 / math.sqrt(1000) * 0.4 + 0.02)


def test_semantic_clients_hold_what_is_alike():
    """Three styles of each of two classes, far apart: a client has one style, and the same one of both classes."""
    random = rng(0, "styles")
    style, y = random.integers(0, 3, 300), random.integers(0, 2, 300)
    x = np.stack([10.0 * style, 3.0 * y, np.zeros(300), np.zeros(300)], 1).reshape(300, 2, 2) + random.normal(0, 0.3, (300, 2, 2))
    for seed in range(5):
        parts = Semantic(dimensions=3)({"x": x.astype(np.float32), "y": y}, 3, seed)
        assert sorted(set(style[rows].tolist()).pop() for rows in parts) == [0, 1, 2]
        assert all(len(set(style[rows])) == 1 and len(set(y[rows])) == 2 for rows in parts)


def test_the_cheapest_matching_is_the_cheapest_of_all():
    random = rng(0, "costs")
    for _ in range(200):
        n = int(random.integers(1, 5))
        m = int(random.integers(n, 6))
        cost = random.random((n, m)) if random.random() < 0.5 else random.integers(0, 3, (n, m)).astype(float)
        found = cheapest_matching(cost)
        assert len(set(found)) == n
        best = min(cost[np.arange(n), list(chosen)].sum() for chosen in itertools.permutations(range(m), n))
        assert cost[np.arange(n), found].sum() == pytest.approx(best, abs=1e-12)


def test_kmeans_ends_where_no_point_is_nearer_to_another_mean():
    random = rng(0, "points")
    x = random.normal(0, 1, (200, 2)) + 8.0 * random.integers(0, 2, (200, 2))
    found = kmeans(x, 4, 50, random)
    means = np.array([x[found == k].mean(axis=0) for k in range(4)])
    assert np.array_equal(((x[:, None] - means) ** 2).sum(axis=2).argmin(axis=1), found)


def test_communities_of_a_planted_graph_are_found():
    random = rng(0, "graph")
    planted = np.repeat(np.arange(4), 20)
    pairs = np.array(list(itertools.combinations(range(80), 2)))
    same = planted[pairs[:, 0]] == planted[pairs[:, 1]]
    edges = pairs[random.random(len(pairs)) < np.where(same, 0.5, 0.02)]
    found = communities(edges, 80, 0)
    assert len(set(zip(found.tolist(), planted.tolist(), strict=True))) == len(set(found.tolist())) == 4
    assert communities(np.empty((0, 2), np.int64), 3, 0).tolist() == [0, 1, 2]
    # Blocks then gives each of two clients two communities.
    assert sorted(sizes(Blocks("community")({"community": found}, 2, 0))) == [40, 40]


@pytest.mark.parametrize("resolution", [0.5, 1.0, 2.0])
def test_communities_are_as_good_as_those_of_networkx(resolution):
    karate = networkx.karate_club_graph()
    blocks = networkx.random_partition_graph([30] * 5, 0.25, 0.03, seed=1)
    for graph in (karate, blocks):
        edges = np.array(graph.edges)

        def quality(found, graph=graph):
            return networkx.community.modularity(graph, found, weight=None, resolution=resolution)

        ours = [
            quality([set(np.flatnonzero(found == c).tolist()) for c in range(found.max() + 1)])
            for found in (communities(edges, len(graph), seed, resolution) for seed in range(10))
        ]
        louvain = networkx.community.louvain_communities
        theirs = [quality(louvain(graph, weight=None, resolution=resolution, seed=seed)) for seed in range(10)]
        assert np.mean(ours) > np.mean(theirs) - 0.01


def test_modularity_is_that_of_the_definition():
    # Two triangles joined by an edge: 3 of 7 edges in each, degrees 7 of 14 in each: Q = 6/7 - 2 (1/2)^2.
    edges = np.array([[0, 1], [1, 2], [2, 0], [3, 4], [4, 5], [5, 3], [2, 3]])
    assert modularity(edges, np.array([0, 0, 0, 1, 1, 1])) == pytest.approx(6 / 7 - 1 / 2)
    assert communities(edges, 6, 0).tolist() in ([0, 0, 0, 1, 1, 1], [1, 1, 1, 0, 0, 0])


def test_drift_orders_and_deals_nothing():
    still = Dirichlet(1.0)(BALANCED, 5, 3)
    moving = Drift(Dirichlet(1.0), 1.0)(BALANCED, 5, 3)
    for one, other in zip(still, moving, strict=True):
        assert np.array_equal(one, np.sort(other))
        labels = BALANCED[other]
        assert (np.diff(labels) != 0).sum() == len(set(labels.tolist())) - 1  # one class after the other
    orders = {tuple(dict.fromkeys(BALANCED[rows].tolist())) for rows in Drift(Iid(), 1.0)(BALANCED, 8, 0)}
    assert len(orders) > 1  # and not the same for all


def test_drift_moves_as_far_as_its_strength():
    # Of two classes, times are strength {0, 1/2} + (1 - strength) u: one example of the first class comes before one of the second
    # with probability 1 - (1 - d)^2 / 2 for d = (strength / 2) / (1 - strength) below 1.
    labels = np.repeat([0, 1], 400)
    for strength in (0.0, 0.2, 0.5):
        d = strength / 2 / (1 - strength)
        before = []
        for seed in range(20):
            ordered = labels[Drift(Iid(), strength)(labels, 1, seed)[0]]
            places = [np.flatnonzero(ordered == c).mean() for c in (0, 1)]
            # The mean rank difference of two groups of m: P = 1/2 + (difference / 2m).
            before.append(0.5 + abs(places[1] - places[0]) / 800 if strength else 0.5 + (places[1] - places[0]) / 800)
        assert np.mean(before) == pytest.approx(1 - (1 - d) ** 2 / 2, abs=0.02)


def test_examples_of_one_class_are_shuffled_by_drift_of_full_strength():
    rows = Drift(Iid(), 1.0)(np.zeros(50, np.int64), 1, 0)[0]
    assert not np.array_equal(rows, np.arange(50))
    assert np.array_equal(np.sort(rows), np.arange(50))


def test_quantity_and_label_skew_at_once():
    parts = Dirichlet(0.1, Quantity(0.5))(BALANCED, 10, 0)
    assert sizes(parts).max() > 3 * np.median(sizes(parts))
    # Two examples of the largest client are of the same class far more often than the 1 in 10 of all.
    largest = np.bincount(BALANCED[max(parts, key=len)], minlength=10)
    assert ((largest / largest.sum()) ** 2).sum() > 0.2
