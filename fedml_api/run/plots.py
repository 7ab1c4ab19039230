"""Pictures of runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from fedml_api.run.clients import Table
from fedml_api.run.experiment import Row

# Okabe and Ito's palette, told apart with any kind of colour vision.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442"]


def draw_curves(runs: Mapping[str, Sequence[Row]], path: Path | str, clients: Mapping[str, Table] | None = None) -> None:
    """Every metric and the loss over rounds, all runs in one picture, as a PNG of 150 dots per inch.

    Args:
        clients: by run, what its clients found when they were asked last; how that is spread over them makes one more panel.
    """
    tables = {label: table for label, table in (clients or {}).items() if table}
    measured = dict.fromkeys(name for rows in runs.values() for row in rows for name in row if name.startswith("test_"))
    names = [name for name in measured if name != "test_loss"] + ["test_loss"]
    count = len(names) + bool(tables)
    figure = Figure(figsize=(5.2 * count, 3.9), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, count, squeeze=False)[0]
    for axes, name in zip(panels, names, strict=False):
        _over_rounds(axes, name, runs)
    if tables:
        _over_clients(panels[-1], tables, list(runs))
    for axes in panels:
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8, loc="lower right" if tables and axes is panels[-1] else "best")
    figure.savefig(path)


def _over_rounds(axes: Axes, name: str, runs: Mapping[str, Sequence[Row]]) -> None:
    for i, (label, rows) in enumerate(runs.items()):
        colour = COLOURS[i % len(COLOURS)]
        points = [(row["round"], row[name]) for row in rows if name in row]
        text = f"{label}, {points[-1][1]:.3f} at the end" if name == "test_accuracy" and points else label
        if name == "test_loss":
            train = [(row["round"], row["train_loss"]) for row in rows if "train_loss" in row]
            axes.plot(*_columns(train), color=colour, alpha=0.35, linewidth=1, label=f"{label}, clients' training")
            text = f"{label}, test"
        axes.plot(*_columns(points), color=colour, linewidth=1.8, label=text)
    axes.set_xlabel("round")
    axes.set_title("loss" if name == "test_loss" else name.replace("_", " "))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if name == "test_accuracy":
        axes.set_ylim(0, 1)
    elif axes.get_ylim()[0] >= 0 or axes.dataLim.ymin >= 0:
        axes.set_ylim(bottom=0)


def _over_clients(axes: Axes, tables: Mapping[str, Table], labels: Sequence[str]) -> None:
    """A step per client from the worst to the best; the 10 % quantile is marked, and the mean is said."""
    known = dict.fromkeys(name for table in tables.values() for row in table.values() for name in row if name != "examples")
    name = "accuracy" if "accuracy" in known else next(iter(known))
    for label, table in tables.items():
        colour = COLOURS[labels.index(label) % len(COLOURS)]
        values = np.sort([row[name] for row in table.values() if name in row])
        low = float(np.quantile(values, 0.1))
        shares = np.arange(len(values) + 1) / len(values)
        text = f"{label}, mean {values.mean():.3f}, 10 % below {low:.3f}"
        axes.stairs(values, shares, baseline=None, color=colour, linewidth=1.8, label=text)
        axes.plot([0.1], [low], "o", color=colour, markersize=5)
    axes.set_xlabel("clients, from the worst to the best")
    axes.set_title(f"{name} on clients' own test examples")
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlim(0, 1)
    if name == "accuracy":
        axes.set_ylim(0, 1.02)


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]
