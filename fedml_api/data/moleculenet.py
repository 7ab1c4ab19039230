"""Graphs in a file of plain arrays, into which MoleculeNet and the like are converted.

data/moleculenet/SUBSET.npz:  nodes float [all nodes, F] | sizes int [graphs] | links int [all links, 2] | labels [graphs, targets]

The nodes of all graphs are one after the other, `sizes` of each graph, and links are between rows of `nodes`. A label of which
nothing is known is NaN.
"""

from __future__ import annotations

import logging
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from msgspec import Meta

from fedml_api.data.dataset import data_sources
from fedml_api.data.graphs import Graph, GraphSetSource, LabelledGraphs, undirected
from fedml_api.data.packaged import SPLIT_SEED
from fedml_core.errors import DataError
from fedml_core.partition import stratified_split
from fedml_core.settings import settings

log = logging.getLogger("fedml")
# Kinds of arrays, and their dimensions.
ARRAYS = {"nodes": ("fiub", (2,)), "sizes": ("iu", (1,)), "links": ("iu", (2,)), "labels": ("fiub", (1, 2))}


@data_sources.register("moleculenet")
@settings
class MoleculeNet(GraphSetSource):
    """A set of MoleculeNet (or other graphs), converted to a file of arrays; a class or a number of each graph, 80 % train.

    FedGraphNN's files are pickles, which are not read, as a pickle can run any program: whoever trusts them loads them elsewhere
    and calls `save_graphs`. Wu et al., Chemical Science 2018; He et al., FedGraphNN, 2021.

    Args:
        subset: the name of the file, such as bbbp; `task`: which of the targets; graphs without it are left out, and counted.
        test: the share of graphs to test on, the same of every class (or quarter of the numbers), in every run the same graphs.
        largest: graphs of more nodes are left out, and counted.
    """

    subset: Annotated[str, Meta(pattern="^[A-Za-z0-9_-]+$")] = "bbbp"
    clients: Annotated[int, Meta(ge=1)] | None = 10
    task: Annotated[int, Meta(ge=0)] = 0
    test: Annotated[float, Meta(gt=0, lt=1)] = 0.2
    largest: Annotated[int, Meta(ge=1)] | None = None

    def files(self, root: Path) -> Sequence[Path]:
        return [root / "moleculenet" / f"{self.subset}.npz"]

    def graphs(self, root: Path) -> tuple[LabelledGraphs, LabelledGraphs]:
        path = self.files(root)[0]
        graphs, labels = read_graphs(path)
        if self.task >= labels.shape[1]:
            raise DataError(f"data.task = {self.task}: {path} has {labels.shape[1]} targets; ask for 0 to {labels.shape[1] - 1}")
        values = labels[:, self.task].astype(np.float64)
        kept = np.isfinite(values) & (np.array([len(graph.nodes) for graph in graphs]) <= (self.largest or np.inf))
        if not kept.all():
            log.info("%s: %s of %s graphs are left out: without a label, or too large", path, (~kept).sum(), len(kept))
        classes = self._classes(values[kept], path)
        graphs = [graph for graph, keep in zip(graphs, kept, strict=True) if keep]
        return tuple(  # type: ignore[return-value]
            LabelledGraphs([graphs[k] for k in rows], classes[rows], values[kept][rows].astype(np.float32))
            for rows in stratified_split(classes, self.test, SPLIT_SEED)
        )

    def _classes(self, values: np.ndarray, path: Path) -> np.ndarray:
        if not len(values):
            raise DataError(f"{path}: no graph is left with a label of task {self.task}; choose another data.task or data.largest")
        if self.target == "value":
            return np.digitize(values, np.quantile(values, [0.25, 0.5, 0.75])).astype(np.int64)
        if (values != values.round()).any() or values.min() < 0:
            raise DataError(f"{path}: labels of task {self.task} are not 0, 1, ...; for numbers say data.target=value")
        return values.astype(np.int64)


def save_graphs(
    path: Path, adjacency: Sequence[np.ndarray], nodes: Sequence[np.ndarray], labels: np.ndarray | Sequence[float]
) -> None:
    """Write graphs as `moleculenet` reads them.

    Args:
        adjacency: of each graph `[n, n]`, anything but 0 is a link; `nodes`: features of its nodes `[n, F]`.
        labels: `[graphs]` or `[graphs, targets]`.
    """
    sizes = np.array([len(each) for each in nodes], np.int64)
    starts = np.cumsum(sizes) - sizes
    links = [undirected(np.argwhere(matrix)) + start for matrix, start in zip(adjacency, starts, strict=True)]
    np.savez_compressed(path, nodes=np.concatenate(nodes), sizes=sizes, links=np.concatenate(links), labels=np.asarray(labels))


def read_graphs(path: Path) -> tuple[list[Graph], np.ndarray]:
    """Graphs, and their labels `[graphs, targets]`.

    Raises:
        DataError: naming file and array, where one is missing or not what it has to be.
    """
    remedy = f"write it with fedml_api.data.moleculenet.save_graphs, as {Path(path.parent.name, path.name)} of the data folder"

    def fault(what: str) -> DataError:
        return DataError(f"{path}: {what}; {remedy}")

    if not path.is_file():
        pickles = sorted([*path.parent.glob("*.pkl"), *path.parent.glob(f"{path.stem}/**/*.pkl")])
        raise fault("not there" + (f" ({pickles[0].name} is a pickle, which is not read)" if pickles else ""))
    found: dict[str, Any] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for name in ARRAYS:
                if f"{name}.npy" not in archive.namelist():
                    raise fault(f"has no array '{name}' (found: {', '.join(archive.namelist()) or 'nothing'})")
                with archive.open(f"{name}.npy") as file:
                    found[name] = np.lib.format.read_array(file, allow_pickle=False)
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, MemoryError) as error:
        raise fault(f"cannot be read as arrays ({error})") from None
    for name, (kinds, dimensions) in ARRAYS.items():
        if found[name].dtype.kind not in kinds or found[name].ndim not in dimensions:
            raise fault(f"'{name}' holds {found[name].dtype} {list(found[name].shape)}")
    nodes, sizes, links = found["nodes"].astype(np.float32), found["sizes"].astype(np.int64), found["links"].astype(np.int64)
    labels = found["labels"].reshape(len(found["labels"]), -1)
    if not len(sizes) or len(labels) != len(sizes):
        raise fault(f"'labels' are of {len(labels)} graphs, and 'sizes' of {len(sizes)}")
    if sizes.min() < 1 or sizes.sum() != len(nodes) or not np.isfinite(nodes).all():
        raise fault(
            f"'nodes' are {len(nodes)}, in 'sizes' {sizes.sum()} and at least {sizes.min()} a graph, or are no finite numbers"
        )
    graph_of = np.repeat(np.arange(len(sizes)), sizes)
    if links.shape[1] != 2 or (len(links) and (links.min() < 0 or links.max() >= len(nodes))):
        raise fault(f"'links' {list(links.shape)} are not pairs of nodes from 0 to {len(nodes) - 1}")
    if (graph_of[links[:, 0]] != graph_of[links[:, 1]]).any():
        raise fault("'links' has one between two graphs")
    links, ends = links[np.argsort(graph_of[links[:, 0]], kind="stable")], np.cumsum(sizes)
    counts = np.cumsum(np.bincount(graph_of[links[:, 0]], minlength=len(sizes)))
    pairs = np.split(links, counts[:-1])
    starts = ends - sizes
    return [Graph(nodes[start:end], undirected(own - start)) for start, end, own in zip(starts, ends, pairs, strict=True)], labels
