"""One large graph whose nodes have classes, spread over clients: each holds some nodes and the links between these."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from msgspec import Meta

from fedml_api.data.dataset import DataSource, FederatedDataset, data_sources
from fedml_api.data.graphs import Graph, check_room, stack
from fedml_api.data.packaged import SPLIT_SEED
from fedml_core.errors import ConfigError
from fedml_core.partition import Blocks, Partitioner, communities, named
from fedml_core.rng import rng
from fedml_core.settings import settings
from fedml_core.trainer import Examples
from fedml_core.trainer.trainers import VOID

log = logging.getLogger("fedml")


@dataclass(frozen=True)
class LabelledNodes:
    """A graph whose links are `graphs.undirected`, and the class of each of its nodes: int64 `[n]`, from 0."""

    graph: Graph
    classes: np.ndarray


@settings
class NodeSource(DataSource):
    """A graph of labelled nodes; registering a class that can `read` one adds one.

    An example is the graph of a client: `x` as `graphs.stack` makes it and `y` `[nodes]`, 255 for a node whose class is not to be
    learnt, or tested. So clients count alike, whatever their number of nodes. Training knows the features and links of all of a
    client's nodes, as is custom (Yang, Cohen and Salakhutdinov, ICML 2016). Links between clients are nobody's, and are counted.

    Args:
        clients: how many, or null for as many as the partition has; with one, no link is lost.
        partition: by the class of nodes, `y`, or their `community`, so that few links are lost.
        known: nodes of each class whose class is known for training; `tests`: nodes on which is tested, of the others. Both are the
            same in every run.
    """

    clients: Annotated[int, Meta(ge=1)] | None = 5
    partition: Partitioner = Blocks("community")
    known: Annotated[int, Meta(ge=1)] = 20
    tests: Annotated[int, Meta(ge=1)] = 1000

    @abstractmethod
    def read(self, root: Path) -> LabelledNodes:
        """The whole graph, always in the same order."""

    def load(self, seed: int, root: Path) -> FederatedDataset:
        nodes, name = self.read(root), data_sources.name_of(type(self))
        train, test = self._split(nodes.classes, name)
        columns = {"y": nodes.classes, "community": communities(nodes.graph.links, len(nodes.classes), seed)}
        return spread(nodes, named(self.partition, columns, self.clients, seed), train, test, name)

    def _split(self, classes: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Nodes to train on and to test on."""
        order = rng(SPLIT_SEED, "nodes", name).permutation(len(classes))
        smallest = np.bincount(classes).min()
        if self.known >= smallest:
            raise ConfigError(f"data.known = {self.known}: a class of {name} has {smallest} nodes; lower it below that")
        train = np.concatenate([order[classes[order] == kind][: self.known] for kind in range(classes.max() + 1)])
        rest = order[~np.isin(order, train)]
        return np.sort(train), np.sort(rest[: self.tests])


def spread(
    nodes: LabelledNodes, parts: Mapping[str, np.ndarray], train: np.ndarray, test: np.ndarray, name: str
) -> FederatedDataset:
    """Each client's part of a graph.

    Args:
        parts: the nodes of each client; `train`, `test`: nodes whose class is learnt, and tested.
    """
    room, links = max(map(len, parts.values())), nodes.graph.links
    check_room(name, len(parts), room, nodes.graph.nodes.shape[1], "ask for more clients (data.clients)")
    own = np.full((2, len(nodes.classes)), VOID, np.int64)
    for labels, chosen in zip(own, (train, test), strict=True):
        labels[chosen] = nodes.classes[chosen]
    y, graphs = np.full((2, len(parts), room), VOID, np.int64), []
    for k, rows in enumerate(map(np.sort, parts.values())):
        inside = links[np.isin(links, rows).all(axis=1)]
        graphs.append(Graph(nodes.graph.nodes[rows], np.searchsorted(rows, inside)))
        y[:, k, : len(rows)] = own[:, rows]
    if lost := len(links) - sum(len(graph.links) for graph in graphs):
        log.info("%s: %s of %s links are between clients, and nobody's", name, f"{lost:,}", f"{len(links):,}")
    x, labels = stack(graphs, room), torch.from_numpy(y)
    trained, tested = ((some != VOID).any(dim=1) for some in labels)
    place = tested.cumsum(0) - 1
    return FederatedDataset(
        Examples({"x": x, "y": labels[0]}),
        Examples({"x": x[tested], "y": labels[1, tested]}),
        {client: np.array([k] if trained[k] else [], np.int64) for k, client in enumerate(parts)},
        {client: np.array([int(place[k])], np.int64) for k, client in enumerate(parts) if tested[k]},
        classes=int(nodes.classes.max()) + 1,
        name=name,
    )
