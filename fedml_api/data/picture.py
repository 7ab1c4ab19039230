"""A picture of who holds what."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from fedml_api.data.dataset import FederatedData


def draw_clients(dataset: FederatedData, path: Path) -> None:
    """Save a PNG: above, how many training examples each client has; below, how they are spread over the classes.

    One column per client. A single hue from light to dark serves any number of classes and reads the same to the colour-blind;
    white is none at all.
    """
    counts = dataset.label_counts()
    sizes = counts.sum(axis=1)
    clients, classes = counts.shape
    shares = np.divide(counts, sizes[:, None], out=np.zeros(counts.shape), where=sizes[:, None] > 0)

    shades = ListedColormap(colormaps["Blues"](np.linspace(0.2, 1, 256)))
    figure = Figure(figsize=(11, 5), layout="constrained")
    axes = figure.subplots(2, 1, sharex=True, height_ratios=(1, 2.4))
    above, below = axes
    above.set_title(
        f"{dataset.name}: {sizes.sum():,} training examples over {clients:,} clients "
        f"(min {sizes.min():,}, median {np.median(sizes):,.0f}, max {sizes.max():,})"
    )
    above.bar(np.arange(clients), sizes, width=1.0 if clients > 200 else 0.85, color=shades(0.8))
    above.set_ylabel("examples")
    if sizes.min() > 0 and sizes.max() > 20 * sizes.min():
        above.set_yscale("log")
        above.set_ylim(bottom=sizes.min() / 2)
    above.spines[["top", "right"]].set_visible(False)

    below.set(xlabel="client", ylabel="class")
    present = np.ma.masked_equal(shares.T, 0)
    image = below.imshow(present, shades, vmin=0, vmax=1, origin="lower", aspect="auto", interpolation="nearest")
    below.hlines(np.arange(classes - 1) + 0.5, -0.5, clients - 0.5, color="#dddddd", linewidth=0.5)
    _ticks(below, list(dataset.client_ids), classes)
    figure.colorbar(image, ax=axes, format=PercentFormatter(1.0), label="of the client's examples", pad=0.01)
    figure.savefig(path, dpi=120)


def _ticks(axes: Axes, ids: list[str], classes: int) -> None:
    """Name as many clients and classes as can be read."""
    step = max(1, round(len(ids) / 20))
    axes.set_xticks(range(0, len(ids), step), ids[::step], rotation=90 if max(map(len, ids)) > 4 else 0)
    axes.set_yticks(range(0, classes, max(1, round(classes / 12))))
