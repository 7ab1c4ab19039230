"""A picture of who holds what."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from fedml_api.data.dataset import FederatedData, FederatedDataset

PARTS = 25


def draw_clients(dataset: FederatedData, path: Path) -> None:
    """Save a PNG: above, how many training examples each client has; below, how they are spread over the classes.

    Where clients meet their examples in an order of their own, as they drift, there is a third part: the commonest class of every
    part of their streams, the first at the bottom.

    One column per client. A single hue from light to dark serves any number of classes and reads the same to the colour-blind;
    white is none at all.
    """
    counts = dataset.label_counts()
    sizes = counts.sum(axis=1)
    clients, classes = counts.shape
    shares = np.divide(counts, sizes[:, None], out=np.zeros(counts.shape), where=sizes[:, None] > 0)

    shades = ListedColormap(colormaps["Blues"](np.linspace(0.2, 1, 256)))
    streams = _streams(dataset, classes)
    figure = Figure(figsize=(11, 5 if streams is None else 8), layout="constrained")
    axes = figure.subplots(2 if streams is None else 3, 1, sharex=True, height_ratios=(1, 2.4, 2.4)[: 2 if streams is None else 3])
    above, below = axes[:2]
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

    below.set(ylabel="class")
    axes[-1].set(xlabel="client")
    present = np.ma.masked_equal(shares.T, 0)
    image = below.imshow(present, shades, vmin=0, vmax=1, origin="lower", aspect="auto", interpolation="nearest")
    below.hlines(np.arange(classes - 1) + 0.5, -0.5, clients - 0.5, color="#dddddd", linewidth=0.5)
    _ticks(below, list(dataset.client_ids), classes)
    figure.colorbar(image, ax=axes[:2], format=PercentFormatter(1.0), label="of the client's examples", pad=0.01)
    if streams is not None:
        _draw_streams(axes[2], streams, classes)
    figure.savefig(path, dpi=120)


def _streams(dataset: FederatedData, classes: int) -> np.ndarray | None:
    """`[PARTS, clients]`: the commonest class of each part of a client's stream; None if all are in the order of their rows."""
    clients = [dataset.train(client) for client in dataset.client_ids] if isinstance(dataset, FederatedDataset) else []
    if not any(client.index is not None and bool((client.index.diff() < 0).any()) for client in clients):
        return None
    found = np.full((PARTS, len(clients)), np.nan)
    for k, client in enumerate(clients):
        labels = client.all()["y"].cpu().numpy()
        for part in range(PARTS if len(labels) else 0):
            begin = part * len(labels) // PARTS
            end = max((part + 1) * len(labels) // PARTS, begin + 1)
            found[part, k] = np.bincount(labels[begin:end], minlength=classes).argmax()
    return found


def _draw_streams(axes: Axes, streams: np.ndarray, classes: int) -> None:
    colours = colormaps["tab10" if classes <= 10 else "tab20" if classes <= 20 else "viridis"].resampled(classes)
    image = axes.imshow(streams, colours, vmin=-0.5, vmax=classes - 0.5, origin="lower", aspect="auto", interpolation="nearest")
    axes.set(ylabel="the client's stream", yticks=(-0.5, PARTS - 0.5), yticklabels=("start", "end"))
    assert axes.figure is not None
    axes.figure.colorbar(image, ax=axes, ticks=range(0, classes, max(1, round(classes / 12))), label="commonest class", pad=0.01)


def _ticks(axes: Axes, ids: list[str], classes: int) -> None:
    """Name as many clients and classes as can be read."""
    step = max(1, round(len(ids) / 20))
    axes.set_xticks(range(0, len(ids), step), ids[::step], rotation=90 if max(map(len, ids)) > 4 else 0)
    axes.set_yticks(range(0, classes, max(1, round(classes / 12))))
