"""Graphs as tensors: nodes and links of many graphs in one column, which is stacked, mapped and sent like any other."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from fedml_api.data.dataset import FederatedDataset, data_sources
from fedml_api.data.partitioned import PartitionedSource
from fedml_core.errors import DataError
from fedml_core.settings import settings
from fedml_core.trainer import Examples

# Bytes of the links and features of all graphs, as they are stacked.
LARGEST = 4_000_000_000


@dataclass(frozen=True)
class Graph:
    """An undirected graph: features of its nodes, float32 `[n, F]`, and its links as pairs of nodes, int64 `[m, 2]`."""

    nodes: np.ndarray
    links: np.ndarray


def stack(graphs: Sequence[Graph], room: int) -> Tensor:
    """Graphs of at most `room` nodes as float32 `[graphs, room, F + room]`.

    The row of a node has its F features and then, for each node of its graph, 1 if they are linked and 0 if not. A node is linked
    to itself, which tells it from the rows of zeros that fill up a smaller graph. `fedml_api.model.graph.apart` is the reverse.
    """
    width = graphs[0].nodes.shape[1]
    x = np.zeros((len(graphs), room, width + room), np.float32)
    for rows, graph in zip(x, graphs, strict=True):
        own, (one, other) = np.arange(len(graph.nodes)), graph.links.T
        rows[own, :width] = graph.nodes
        rows[own, width + own] = rows[one, width + other] = rows[other, width + one] = 1
    return torch.from_numpy(x)


def check_room(name: str, graphs: int, room: int, features: int, remedy: str) -> None:
    """Before so many graphs are stacked.

    Raises:
        DataError: that takes more than 4 GB.
    """
    if (size := 4 * graphs * room * (features + room)) > LARGEST:
        about = f"{graphs:,} graphs of up to {room:,} nodes take {size / 1e9:.1f} GB, of at most {LARGEST / 1e9:.0f}"
        raise DataError(f"{name}: {about}; {remedy}")


@dataclass(frozen=True)
class LabelledGraphs:
    """Graphs, each of one class (int64 `[n]`) and with a number (float32 `[n]`)."""

    graphs: Sequence[Graph]
    classes: np.ndarray
    values: np.ndarray


@settings
class GraphSetSource(PartitionedSource):
    """Many small graphs; registering a class that can read them (`graphs`) adds one.

    Args:
        target: what `y` is, the class of a graph or its number (float32; the classes still say who holds which graph).
    """

    target: Literal["class", "value"] = "class"

    def problems(self) -> list[str]:
        if self.skew is not None:
            return ["skew: the inputs are graphs, whose links cannot be skewed; leave it out, or choose another partition"]
        return []

    @abstractmethod
    def graphs(self, root: Path) -> tuple[LabelledGraphs, LabelledGraphs]:
        """For training and for testing, always in the same order."""

    def read(self, root: Path) -> tuple[Examples, Examples]:
        parts = self.graphs(root)
        room = max(len(graph.nodes) for part in parts for graph in part.graphs)
        name, width = data_sources.name_of(type(self)), parts[0].graphs[0].nodes.shape[1]
        check_room(name, sum(len(part.graphs) for part in parts), room, width, "leave out the largest (data.largest)")
        train, test = (
            Examples(
                {
                    "x": stack(part.graphs, room),
                    "y": torch.from_numpy(part.classes),
                    **({"value": torch.from_numpy(part.values)} if self.target == "value" else {}),
                }
            )
            for part in parts
        )
        return train, test

    def load(self, seed: int, root: Path) -> FederatedDataset:
        data = super().load(seed, root)
        if self.target == "value":
            data.global_train, data.global_test = (
                Examples({"x": part.columns["x"], "y": part.columns["value"]}) for part in (data.global_train, data.global_test)
            )
            data.classes = None
        return data


def undirected(links: np.ndarray) -> np.ndarray:
    """Each pair of different nodes once, in order: int64 `[m, 2]`."""
    ordered = np.sort(np.asarray(links, np.int64).reshape(-1, 2), axis=1)
    return np.unique(ordered[ordered[:, 0] != ordered[:, 1]], axis=0)
