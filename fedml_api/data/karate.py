"""The smallest real network, out of a package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
from msgspec import Meta

from fedml_api.data.dataset import data_sources
from fedml_api.data.graphs import Graph, undirected
from fedml_api.data.nodes import LabelledNodes, NodeSource
from fedml_core.errors import DataError
from fedml_core.settings import settings


@data_sources.register("karate")
@settings
class Karate(NodeSource):
    """34 members of a karate club, 78 friendships, 2 classes: 8 known, 26 tested; in the networkx package (BSD-3-Clause).

    A class is whom they followed when the club split; the features of a member say who it is, 33 zeros and a one. Zachary, J.
    Anthropol. Res. 1977.
    """

    clients: Annotated[int, Meta(ge=1)] | None = 2
    known: Annotated[int, Meta(ge=1)] = 4

    def read(self, root: Path) -> LabelledNodes:
        try:
            import networkx
        except ImportError:
            raise DataError('karate: the data are in networkx, which is not installed; run: pip install "fedml[graph]"') from None
        club = networkx.karate_club_graph()
        followed = np.array([club.nodes[member]["club"] == "Officer" for member in club], np.int64)
        return LabelledNodes(Graph(np.eye(len(club), dtype=np.float32), undirected(np.array(club.edges))), followed)
