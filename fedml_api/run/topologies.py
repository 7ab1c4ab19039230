"""Pictures of networks: who sends to whom, and with what weights it is mixed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch

from fedml_api.run.plots import COLOURS
from fedml_core.topology import Graph, spectral_gap

# Of more nodes than this, numbers and weights would be too small to read.
NUMBERED, WRITTEN = 40, 12


def draw_topologies(networks: Mapping[str, tuple[Graph, np.ndarray]], path: Path | str) -> None:
    """Every graph above its mixing matrix, side by side, as a PNG of 130 dots per inch.

    Nodes lie on a circle, and are the larger the more of them all the others hear in the long run: equally large where columns
    sum to 1. Links that go one way are arrows.

    Args:
        networks: by title, a topology's graph and the matrix of an algorithm, both of the same round.
    """
    figure = Figure(figsize=(3.1 * len(networks), 6.4), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, len(networks), squeeze=False)
    for above, below, (title, (graph, matrix)) in zip(*panels, networks.items(), strict=True):
        _draw_graph(above, graph, matrix)
        above.set_title(title, fontsize=11)
        _draw_matrix(below, matrix)
    panels[1, 0].set_ylabel("weight at node")
    figure.savefig(path)


def _draw_graph(axes: Axes, graph: Graph, matrix: np.ndarray) -> None:
    nodes = len(graph)
    angles = np.pi / 2 - 2 * np.pi * np.arange(nodes) / nodes
    at = np.stack([np.cos(angles), np.sin(angles)], 1)
    size = 10 if nodes <= NUMBERED else 3
    for i, j in np.argwhere(graph):
        both = graph[j, i]
        if both and i > j:
            continue
        link = FancyArrowPatch(
            at[i],
            at[j],
            arrowstyle="-" if both else "-|>",
            mutation_scale=7,
            shrinkA=size * 0.6,
            shrinkB=size * 0.6,
            connectionstyle="arc3" if both else "arc3,rad=0.12",
            color="0.45" if both else COLOURS[1],
            linewidth=0.8 if nodes <= NUMBERED else 0.3,
        )
        axes.add_patch(link)
    heard = _heard(matrix)
    axes.scatter(*at.T, s=14 * size * nodes * heard, color=COLOURS[0], zorder=2)
    for node in range(nodes) if nodes <= NUMBERED else ():
        axes.text(*at[node], str(node), color="white", ha="center", va="center", fontsize=7, zorder=3)
    axes.set_xlim(-1.2, 1.2)
    axes.set_ylim(-1.2, 1.2)
    axes.set_aspect("equal")
    axes.set_axis_off()


def _heard(matrix: np.ndarray) -> np.ndarray:
    """How much of every node's beginning there is in what all come to: the mean over the nodes, after many exchanges."""
    shares: np.ndarray = np.linalg.matrix_power(matrix, 1 << 12).mean(axis=0)
    return shares


def _draw_matrix(axes: Axes, matrix: np.ndarray) -> None:
    rows, columns = (bool(np.allclose(matrix.sum(axis=axis), 1)) for axis in (1, 0))
    kind = "rows and columns" if rows and columns else "rows" if rows else "columns"
    axes.imshow(np.where(matrix > 0, matrix, np.nan), cmap="Blues", vmin=0, vmax=max(0.5, matrix.max()))
    for i, j in np.argwhere(matrix) if len(matrix) <= WRITTEN else ():
        dark = matrix[i, j] > 0.3
        axes.text(j, i, f"{matrix[i, j]:.2f}"[1:], ha="center", va="center", fontsize=5.5, color="white" if dark else "0.2")
    axes.set_title(f"{kind} sum to 1, gap {max(0.0, spectral_gap(matrix)):.3f}", fontsize=9)
    axes.set_xlabel("of what comes from node")
    axes.tick_params(length=0, labelsize=7)
    axes.spines[:].set_visible(False)
