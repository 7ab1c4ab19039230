"""One large graph whose nodes have classes, spread over clients: each holds some nodes and the links between these."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from msgspec import Meta

from fedml_api.data.dataset import DataSource, FederatedDataset, data_sources
from fedml_api.data.graphs import Graph, check_room, stack
from fedml_api.data.packaged import SPLIT_SEED
from fedml_core.errors import ConfigError
from fedml_core.partition import Blocks, Dirichlet, Iid, communities
from fedml_core.partition.partitioner import Concentration
from fedml_core.rng import rng
from fedml_core.settings import settings
from fedml_core.trainer import Examples
from fedml_core.trainer.trainers import VOID

log = logging.getLogger("fedml")
# Of the resolution at which communities are found: each is twice the one before, which finds more of them.
FINER = 12


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
        clients: how many; with one, nothing is lost.
        partition: `community`, so that few links are lost; `label`, so that clients know different classes (Dirichlet with
            `alpha`); or `random`.
        known: nodes of each class whose class is known for training; `tests`: nodes on which is tested, of the others. Both are the
            same in every run.
    """

    clients: Annotated[int, Meta(ge=1)] = 5
    partition: Literal["community", "label", "random"] = "community"
    alpha: Concentration = 0.3
    known: Annotated[int, Meta(ge=1)] = 20
    tests: Annotated[int, Meta(ge=1)] = 1000

    @abstractmethod
    def read(self, root: Path) -> LabelledNodes:
        """The whole graph, always in the same order."""

    def load(self, seed: int, root: Path) -> FederatedDataset:
        nodes, name = self.read(root), data_sources.name_of(type(self))
        train, test = self._split(nodes.classes, name)
        owners = self.owners(nodes, seed)
        if cut := int((owners[nodes.graph.links[:, 0]] != owners[nodes.graph.links[:, 1]]).sum()):
            log.info("%s: %s of %s links are between clients, and nobody's", name, f"{cut:,}", f"{len(nodes.graph.links):,}")
        return spread(nodes, owners, train, test, name)

    def owners(self, nodes: LabelledNodes, seed: int) -> np.ndarray:
        """The client (int64 `[n]`) that holds each node."""
        if self.partition == "community":
            return by_community(nodes.graph.links, len(nodes.classes), self.clients, seed)
        return owners_of((Iid() if self.partition == "random" else Dirichlet(self.alpha))(nodes.classes, self.clients, seed))

    def _split(self, classes: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Nodes to train on and to test on."""
        order = rng(SPLIT_SEED, "nodes", name).permutation(len(classes))
        smallest = np.bincount(classes).min()
        if self.known >= smallest:
            raise ConfigError(f"data.known = {self.known}: a class of {name} has {smallest} nodes; lower it below that")
        train = np.concatenate([order[classes[order] == kind][: self.known] for kind in range(classes.max() + 1)])
        rest = order[~np.isin(order, train)]
        return np.sort(train), np.sort(rest[: self.tests])


def spread(nodes: LabelledNodes, owners: np.ndarray, train: np.ndarray, test: np.ndarray, name: str) -> FederatedDataset:
    """Each client's part of a graph.

    Args:
        owners: the client of each node, from 0; `train`, `test`: nodes whose class is learnt, and tested.
    """
    parts, place = [np.flatnonzero(owners == client) for client in range(owners.max() + 1)], np.empty(len(owners), np.int64)
    room = max(map(len, parts))
    check_room(name, len(parts), room, nodes.graph.nodes.shape[1], "ask for more clients (data.clients)")
    own = np.full((2, len(owners)), VOID, np.int64)
    for labels, chosen in zip(own, (train, test), strict=True):
        labels[chosen] = nodes.classes[chosen]
    y, graphs = np.full((2, len(parts), room), VOID, np.int64), []
    for k, rows in enumerate(parts):
        place[rows] = np.arange(len(rows))
        inside = nodes.graph.links[(owners[nodes.graph.links] == k).all(axis=1)]
        graphs.append(Graph(nodes.graph.nodes[rows], place[inside]))
        y[:, k, : len(rows)] = own[:, rows]
    x, labels = stack(graphs, room), torch.from_numpy(y)
    trained, tested = ((some != VOID).any(dim=1).nonzero().flatten() for some in labels)
    return FederatedDataset(
        Examples({"x": x, "y": labels[0]}),
        Examples({"x": x[tested], "y": labels[1, tested]}),
        {str(k): np.array([k] if k in trained else [], np.int64) for k in range(len(parts))},
        {str(k): np.array([row], np.int64) for row, k in enumerate(tested.tolist())},
        classes=int(nodes.classes.max()) + 1,
        name=name,
    )


def owners_of(parts: Sequence[np.ndarray]) -> np.ndarray:
    """The party (int64 `[n]`) that has each of the rows that are dealt."""
    owners = np.empty(sum(map(len, parts)), np.int64)
    for party, rows in enumerate(parts):
        owners[rows] = party
    return owners


def by_community(links: np.ndarray, nodes: int, clients: int, seed: int) -> np.ndarray:
    """The client (int64 `[nodes]`) of each node: communities, dealt from the largest to the smallest to who has the fewest nodes.

    Communities of many links inside are found by Louvain's algorithm (Blondel et al., J. Stat. Mech. 2008), at a resolution that
    gives at least as many as there are clients.

    Args:
        links: int64 `[m, 2]`.

    Raises:
        ConfigError: there are not so many.
    """
    found, several = np.zeros(nodes, np.int64), 1
    for finer in range(FINER):
        if several >= clients:
            break
        found = communities(links, nodes, seed, resolution=2.0**finer)
        several = len(np.unique(found))
    if several < clients:
        raise ConfigError(f"data.clients = {clients}: the graph has {several} communities; ask for at most as many clients")
    return owners_of(Blocks("community")({"community": found}, clients, seed))
