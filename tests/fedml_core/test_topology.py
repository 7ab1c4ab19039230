"""Topologies and mixing matrices: their properties on every number of nodes, and against networkx."""

import networkx
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import settings as tries
from hypothesis import strategies as st

from fedml_core.errors import ConfigError
from fedml_core.settings import build, to_plain
from fedml_core.topology import (
    Complete,
    Directed,
    Exponential,
    Links,
    Redrawn,
    Regular,
    Ring,
    Sequence,
    SmallWorld,
    Topology,
    Torus,
    check_stochastic,
    is_symmetric,
    metropolis,
    spectral_gap,
    topologies,
    uniform_in,
    uniform_out,
    unreachable,
)

UNDIRECTED = [Ring(), Torus(), Regular(3), Regular(4), SmallWorld(4, 0.3), Complete()]
DIRECTED = [Ring(directed=True), Directed(2), Directed(3), Exponential(), Exponential(one_peer=False)]
VARYING = [Exponential(), Redrawn(Directed(2)), Sequence((Ring(), Directed(2), Ring(directed=True)))]
STAR = Links(((0, 1), (1, 0), (0, 2), (2, 0), (0, 3), (3, 0)))


def graphs(of):
    """Any graph of these topologies that there is."""
    return st.builds(drawn, st.sampled_from(of), st.integers(2, 24), st.integers(0, 9), st.integers(0, 99))


def drawn(topology, nodes, round, seed):
    try:
        return topology.graph(nodes, round, seed)
    except ConfigError:
        assume(False)


@pytest.mark.parametrize("topology", [*UNDIRECTED, *DIRECTED, *VARYING, STAR], ids=str)
def test_everybody_reaches_everybody(topology):
    nodes = 4 if topology is STAR else 12
    together = np.logical_or.reduce([topology.graph(nodes, round, 5) for round in range(topology.window(nodes))])
    assert not together.diagonal().any()
    assert networkx.is_strongly_connected(networkx.from_numpy_array(together, create_using=networkx.DiGraph))


@given(st.integers(1, 12), st.integers(0, 2**32))
@tries(max_examples=50, deadline=None)
def test_reachability_is_that_of_networkx(nodes, seed):
    random = np.random.default_rng(seed)
    graph = random.random((nodes, nodes)) < random.uniform(0, 4 / nodes)
    np.fill_diagonal(graph, False)
    theirs, pair = networkx.from_numpy_array(graph, create_using=networkx.DiGraph), unreachable(graph)
    assert (pair is None) == networkx.is_strongly_connected(theirs)
    assert pair is None or not networkx.has_path(theirs, *pair)


@pytest.mark.parametrize(
    ("topology", "theirs"),
    [
        (Ring(), networkx.cycle_graph(12)),
        (Ring(directed=True), networkx.cycle_graph(12, create_using=networkx.DiGraph)),
        (Torus(), networkx.grid_2d_graph(3, 4, periodic=True)),
        (Torus(rows=2), networkx.circular_ladder_graph(6)),
        (Complete(), networkx.complete_graph(12)),
        (SmallWorld(4, rewire=0.0), networkx.watts_strogatz_graph(12, 4, 0.0)),
        (Exponential(one_peer=False), networkx.DiGraph([(i, (i + hop) % 12) for hop in (1, 2, 4, 8) for i in range(12)])),
    ],
    ids=str,
)
def test_is_the_graph_of_that_name(topology, theirs):
    assert (topology.graph(12) == networkx.to_numpy_array(theirs, sorted(theirs)).astype(bool)).all()


@pytest.mark.parametrize("nodes", [2, 3, 5, 8, 11, 16])
def test_the_exponential_graph_hops_by_powers_of_two(nodes):
    hops = [1 << power for power in range(9) if 1 << power < nodes]
    for round in range(2 * len(hops)):
        senders, receivers = np.nonzero(Exponential().graph(nodes, round))
        assert senders.tolist() == list(range(nodes))
        assert set((receivers - senders) % nodes) == {hops[round % len(hops)]}


@given(graphs([Regular(1), Regular(2), Regular(3), Regular(4), Regular(7)]))
@tries(max_examples=40, deadline=None)
def test_regular_means_equally_many_links_both_ways(graph):
    assert is_symmetric(graph)
    assert len(set(graph.sum(0))) == 1


def test_a_regular_graph_mixes_as_one_of_networkx_and_better_than_the_lattice():
    def gap(graph):
        return spectral_gap(metropolis(graph))

    ours = [gap(Regular(4).graph(64, seed=seed)) for seed in range(5)]
    theirs = [gap(networkx.to_numpy_array(networkx.random_regular_graph(4, 64, seed)).astype(bool)) for seed in range(5)]
    assert np.mean(ours) == pytest.approx(np.mean(theirs), rel=0.15)
    assert min(ours) > 10 * gap(SmallWorld(4, rewire=0.0).graph(64))


@given(graphs([Directed(1), Directed(2), Directed(3)]))
@tries(max_examples=40, deadline=None)
def test_a_directed_graph_has_so_many_links_out_of_every_node(graph):
    assert len(set(graph.sum(1))) == 1


def test_how_many_send_to_a_node_is_chance():
    assert len(set(Directed(3).graph(16).sum(0))) > 2


def test_rewiring_bends_that_share_of_the_links():
    lattice, bent = SmallWorld(4, 0.0).graph(200), SmallWorld(4, 0.3).graph(200, seed=1)
    assert bent.sum() == lattice.sum()
    assert (lattice & ~bent).sum() / lattice.sum() == pytest.approx(0.3, abs=0.06)


@pytest.mark.parametrize("topology", [Regular(4), SmallWorld(4, 0.5), Directed(3)], ids=str)
def test_a_draw_follows_from_the_seed_and_is_the_same_in_every_round(topology):
    one = topology.graph(20, 0, 1)
    assert (one == topology.graph(20, 7, 1)).all()
    assert (one != topology.graph(20, 0, 2)).any()


@pytest.mark.parametrize("of", [Regular(4), SmallWorld(4, 0.5), Directed(3)], ids=str)
def test_redrawn_means_afresh_in_every_round(of):
    topology = Redrawn(of)
    assert (topology.graph(20, 3, 1) == topology.graph(20, 3, 1)).all()
    assert len({topology.graph(20, round, 1).tobytes() for round in range(5)}) == 5


def test_a_sequence_takes_turns():
    topology = Sequence((Ring(), Complete(), Exponential()))
    for round in range(9):
        turn, number = divmod(round, 3)
        wanted = [Ring(), Complete(), Exponential()][number].graph(8, turn)
        assert (topology.graph(8, round) == wanted).all()


@given(graphs(UNDIRECTED))
@tries(max_examples=60, deadline=None)
def test_metropolis_weights_are_symmetric_doubly_stochastic_and_positive_where_there_are_links(graph):
    matrix = metropolis(graph)
    assert (matrix == matrix.T).all()
    assert matrix.sum(0) == pytest.approx(1)
    assert ((matrix > 0) == (graph | np.eye(len(graph), dtype=bool))).all()


def test_metropolis_weights_of_a_star():
    """The centre has 3 neighbours and a leaf 1, so all links weigh 1/4: by hand."""
    wanted = np.array([[1, 1, 1, 1], [1, 3, 0, 0], [1, 0, 3, 0], [1, 0, 0, 3]]) / 4
    assert metropolis(STAR.graph(4)) == pytest.approx(wanted)


@given(graphs([*UNDIRECTED, *DIRECTED]))
@tries(max_examples=60, deadline=None)
def test_uniform_weights_are_stochastic_by_rows_or_by_columns(graph):
    for matrix, axis in ((uniform_in(graph), 1), (uniform_out(graph), 0)):
        assert matrix.sum(axis=axis) == pytest.approx(1)
        # matrix[i, j] is what i makes of what j sends, so links point from column to row.
        assert ((matrix > 0) == (graph.T | np.eye(len(graph), dtype=bool))).all()
    assert len({round(weight, 12) for weight in uniform_in(graph)[0] if weight}) == 1
    assert len({round(weight, 12) for weight in uniform_out(graph)[:, 0] if weight}) == 1


def test_the_spectral_gap_of_a_ring():
    """W = (I + P + P^T) / 3 has the eigenvalues (1 + 2 cos(2 pi k / n)) / 3."""
    for nodes in (5, 16):
        assert spectral_gap(metropolis(Ring().graph(nodes))) == pytest.approx(1 - (1 + 2 * np.cos(2 * np.pi / nodes)) / 3)
    assert spectral_gap(metropolis(Complete().graph(9))) == pytest.approx(1)
    assert spectral_gap(np.ones((1, 1))) == 1


def test_one_turn_of_the_exponential_graph_makes_the_exact_mean():
    product = np.linalg.multi_dot([uniform_out(Exponential().graph(16, round)) for round in range(4)])
    assert product == pytest.approx(np.full((16, 16), 1 / 16))


@pytest.mark.parametrize(
    ("topology", "nodes", "said"),
    [
        (Torus(), 7, "Torus.* of 7 nodes: .* change the number, or take a ring"),
        (Torus(rows=4), 10, "of 10 nodes: a torus needs rows"),
        (Torus(rows=4), 4, "at least two of each"),
        (Regular(3), 7, "of 7 nodes: degree must be below .* even; it is 3"),
        (Regular(8), 8, "degree must be below"),
        (Regular(1), 4, "nothing gets from node"),
        (SmallWorld(6), 6, "degree must be below the number of nodes; it is 6"),
        (Directed(5), 5, "degree must be below the number of nodes; it is 5"),
        (Links(((0, 1), (1, 2))), 3, "in round 0 nothing gets from node 1 to node 0; .* add links"),
        (Links(((1, 0), (0, 1))), 3, "nothing gets from node 0 to node 2"),
        (Links(((0, 5),)), 3, r"nodes 0 to 2 only, no \[\(0, 5\)\]"),
        (Sequence((Links(((0, 1),)), Links(((0, 2),)))), 3, "in rounds 0 to 1 nothing gets from node 1 to node 0"),
        (Redrawn(Links(((0, 1),)), rounds=3), 2, "in rounds 0 to 2"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(topology, nodes, said):
    with pytest.raises(ConfigError, match=said):
        topology.graph(nodes)


def test_links_that_connect_everybody_over_a_window_only():
    topology = Sequence((Links(((0, 1),)), Links(((1, 2),)), Links(((2, 0),))))
    assert [np.argwhere(topology.graph(3, round)).tolist() for round in range(4)] == [[[0, 1]], [[1, 2]], [[2, 0]], [[0, 1]]]


def test_settings_that_contradict_themselves_are_refused():
    for make in (lambda: SmallWorld(3), lambda: Links(((1, 1),)), lambda: Sequence(()), lambda: Torus(rows=1)):
        with pytest.raises(ConfigError):
            make()


def test_matrices_are_checked():
    with pytest.raises(ConfigError, match="node 0 sends to node 1, which sends nothing back: choose"):
        metropolis(Ring(directed=True).graph(4))
    lopsided = uniform_in(STAR.graph(4))
    check_stochastic(lopsided, rows=True, columns=False, remedy="")
    with pytest.raises(ConfigError, match=r"column 0 of the mixing matrix sums to 1\.75, and each must sum to 1: do"):
        check_stochastic(lopsided, rows=True, columns=True, remedy="do")
    with pytest.raises(ConfigError, match="row 0"):
        check_stochastic(uniform_out(STAR.graph(4)), rows=True, columns=True, remedy="do")
    with pytest.raises(ConfigError, match="weight -1, and none may be negative: do"):
        check_stochastic(np.array([[2.0, -1.0], [-1.0, 2.0]]), rows=True, columns=True, remedy="do")


@pytest.mark.parametrize("topology", [*UNDIRECTED, *DIRECTED, *VARYING, STAR], ids=str)
def test_topologies_are_settings(topology):
    problems = []
    assert build(Topology, to_plain(topology), "topology", problems) == topology
    assert not problems
    assert type(topology) in topologies.values()
