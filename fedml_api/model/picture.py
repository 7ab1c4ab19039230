"""A picture of the cells that a search has found."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch

from fedml_api.model.darts import Edge, Genotype

COLOURS = {
    "max_pool_3x3": "#b58900",
    "avg_pool_3x3": "#8a6d3b",
    "skip_connect": "#777777",
    "sep_conv_3x3": "#1f77b4",
    "sep_conv_5x5": "#0b4a7a",
    "dil_conv_3x3": "#2a9d6f",
    "dil_conv_5x5": "#14634a",
}


def draw_genotype(genotype: Genotype, path: Path, title: str = "") -> None:
    """Save a PNG: the normal cell above the reduction cell, each a graph from the two cells before it to its output.

    What is joined to make the output has a dotted line.
    """
    figure = Figure(figsize=(11, 8), layout="constrained")
    above, below = figure.subplots(2, 1)
    _draw(above, genotype.normal, genotype.normal_concat, "normal cell")
    _draw(below, genotype.reduce, genotype.reduce_concat, "reduction cell")
    if title:
        figure.suptitle(title)
    figure.savefig(path, dpi=110)


def _draw(axes: Axes, edges: tuple[Edge, ...], concat: tuple[int, ...], title: str) -> None:
    nodes, wide = len(edges) // 2, 2.3
    # The inputs at the left, one above the other, the output at the right, nodes in a zigzag between them.
    places = [(0.0, 1.2), (0.0, -1.2), *((wide * (k + 1), 0.4 * (-1) ** k) for k in range(nodes))]
    end = (wide * (nodes + 1), 0.0)
    for node in concat:
        _arrow(axes, places[node], end, 0.0, "#bbbbbb", ":")
    for k, (name, source) in enumerate(edges):
        start, stop = places[source], places[2 + k // 2]
        apart = stop[0] - start[0]
        # Edges past a node go round it: those of the upper input and of upper nodes above it, the others below.
        bend = 0.0 if apart < 1.5 * wide else (-1 if start[1] > 0 else 1) * (0.12 + 0.06 * (k // 2))
        if k % 2 and edges[k - 1][1] == source:
            bend += 0.3
        _arrow(axes, start, stop, bend, COLOURS[name], "-")
        middle = ((start[0] + stop[0]) / 2, (start[1] + stop[1]) / 2)
        axes.text(
            middle[0] + bend * (stop[1] - start[1]) / 2,
            middle[1] - bend * apart / 2,
            name.replace("_", " "),
            color=COLOURS[name],
            fontsize=8.5,
            ha="center",
            va="center",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
        )
    labels = ["cell\nbefore last", "last\ncell", *map(str, range(1, nodes + 1)), "output"]
    for (x, y), label in zip([*places, end], labels, strict=True):
        axes.text(x, y, label, ha="center", va="center", fontsize=9, bbox={"boxstyle": "round", "facecolor": "#eef3f8"}, zorder=3)
    axes.set_title(title, fontsize=11)
    reach = 1.6 + 0.3 * max(nodes - 2, 0)
    axes.set(xlim=(-0.7, end[0] + 0.6), ylim=(-reach, reach), aspect="equal")
    axes.axis("off")


def _arrow(axes: Axes, start: tuple[float, float], stop: tuple[float, float], bend: float, colour: str, line: str) -> None:
    arrow = FancyArrowPatch(
        start,
        stop,
        connectionstyle=f"arc3,rad={bend}",
        arrowstyle="-|>",
        mutation_scale=12,
        shrinkA=14,
        shrinkB=12,
        color=colour,
        linestyle=line,
        linewidth=1.5,
    )
    axes.add_patch(arrow)
