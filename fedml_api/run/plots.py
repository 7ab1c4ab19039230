"""Pictures of runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedml_api.run.experiment import Row

# Okabe and Ito's palette, told apart with any kind of colour vision.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442"]


def draw_curves(runs: Mapping[str, Sequence[Row]], path: Path | str) -> None:
    """Every metric and the loss over rounds, all runs in one picture, as a PNG of 150 dots per inch."""
    measured = dict.fromkeys(name for rows in runs.values() for row in rows for name in row if name.startswith("test_"))
    panels = [(name, name.replace("_", " ")) for name in measured if name != "test_loss"] + [("test_loss", "loss")]
    figure = Figure(figsize=(5.2 * len(panels), 3.9), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (name, title) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
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
        axes.set_title(title)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if name == "test_accuracy":
            axes.set_ylim(0, 1)
        elif axes.get_ylim()[0] >= 0 or axes.dataLim.ymin >= 0:
            axes.set_ylim(bottom=0)
        axes.legend(frameon=False, fontsize=8)
    figure.savefig(path)


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]
