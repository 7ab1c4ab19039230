"""Pictures of networks."""

import struct

import numpy as np
import pytest

from fedml_api.run.topologies import _heard, draw_topologies
from fedml_core.topology import Directed, Links, Ring, metropolis, uniform_in, uniform_out


def test_networks_side_by_side(tmp_path):
    graphs = {"ring": (Ring().graph(6), metropolis), "directed": (Directed(2).graph(6), uniform_out)}
    draw_topologies({title: (graph, weights(graph)) for title, (graph, weights) in graphs.items()}, tmp_path / "two.png")
    content = (tmp_path / "two.png").read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", content[16:24])
    assert (width, height) == (2 * 403, 832)


def test_nodes_are_as_large_as_they_are_heard():
    """Of a node that is heard by two who are heard by it alone, half of what all come to is its own: by hand, from v W = v."""
    graph = Links(((0, 1), (0, 2), (1, 0), (2, 0))).graph(3)
    assert _heard(uniform_in(graph)) == pytest.approx(np.array([3, 2, 2]) / 7)
    assert _heard(metropolis(graph)) == pytest.approx(1 / 3)
    assert _heard(uniform_out(graph)) == pytest.approx(1 / 3)
