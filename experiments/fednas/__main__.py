"""Cells found by FedNAS against random ones: all their networks are trained by FedAvg in the same way.

    python -m experiments.fednas [--quick] [--seeds N] [--folder DIR]

For every seed a search (`search.yaml`), then the network of the cells it found (`train.yaml`), of random cells from the same space,
and of cells with the found operations in other places. Each run leaves a file in the folder; interrupted, the same command goes on.
At the end `table.md`, `curves.png` and the cells of the first seed, `cells.png`, are there.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from fedml_api.model import DartsSearch, Genotype
from fedml_api.model.picture import draw_genotype
from fedml_api.run.config import prepare, read_config
from fedml_api.run.experiment import simulate
from fedml_api.run.plots import COLOURS
from fedml_core.files import write_atomic
from fedml_core.rng import rng
from fedml_core.settings import build, to_plain

HERE = Path(__file__).parent
FOUND, RANDOM, MOVED = "found by FedNAS", "random cells", "the found operations, elsewhere"
# Networks for every seed.
NUMBERS = {RANDOM: 6, MOVED: 2}


def run(path: Path, config: str, *overrides: str) -> dict[str, Any]:
    """What came of a run with these overrides: from its file, if it has been done before."""
    try:
        done: dict[str, Any] = json.loads(path.read_text())
        if done["overrides"] == list(overrides):
            return done
    except (OSError, ValueError):
        pass
    experiment = prepare(*read_config(HERE / config, list(overrides)))
    started = time.process_time()
    result = simulate(experiment)
    found: dict[str, Any] = {"overrides": overrides, "rows": result.history, "seconds": time.process_time() - started}
    if hasattr(result.network, "genotype"):
        found["genotype"] = to_plain(result.network.genotype())
    else:
        found["parameters"] = sum(part.numel() for part in result.model.params.values())
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(found))
    print(f"{path.stem}: test accuracy {result.last['test_accuracy']:.3f}, {found['seconds']:.0f} s of computing", flush=True)
    return found


def random_cells(space: DartsSearch, draw: np.random.Generator, like: Genotype | None = None) -> Genotype:
    """Cells of the space: two of the possible sources of every node, and an operation for each, equally likely.

    Or the operations of other cells, each cell's in a random order: their networks have as many parameters, but for what a
    connection costs that halves the images.
    """
    operations = [name for name in space.operations if name != "none"]

    def cell(others: Sequence[str]) -> tuple[tuple[Any, int], ...]:
        sources = [source for node in range(space.steps) for source in sorted(draw.choice(2 + node, 2, replace=False).tolist())]
        chosen = draw.permutation(others) if others else [operations[draw.integers(len(operations))] for _ in sources]
        return tuple((str(name), source) for name, source in zip(chosen, sources, strict=True))

    concat = tuple(range(2 + space.steps - space.multiplier, 2 + space.steps))
    normal, reduce = ([name for name, _ in edges] for edges in (like.normal, like.reduce)) if like else ([], [])
    return Genotype(cell(normal), concat, cell(reduce), concat)


def compare(seed: int, folder: Path, quick: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """Search and train with one seed: what kind of cells, and the run of their network."""
    less = ["rounds=1"] if quick else []
    search = run(folder / f"search-{seed}.json", "search.yaml", f"seed={seed}", *less)
    space = read_config(HERE / "search.yaml", [])[0].model
    assert isinstance(space, DartsSearch)

    def train(name: str, genotype: Genotype) -> dict[str, Any]:
        cells = f"model.genotype={json.dumps(to_plain(genotype))}"
        return run(folder / f"{name}-{seed}.json", "train.yaml", f"seed={seed}", cells, *less)

    found: Genotype = build(Genotype, search["genotype"], "genotype", [])
    if seed == 0:
        draw_genotype(found, folder / "cells.png", "Cells found by FedNAS on digits")
    yield FOUND, train("found", found)
    for kind, like in ((RANDOM, None), (MOVED, found)):
        for number in range(1 if quick else NUMBERS[kind]):
            name = f"{'random' if like is None else 'moved'}-{number}"
            yield kind, train(name, random_cells(space, rng(seed, name), like))


def table(runs: dict[str, list[dict[str, Any]]]) -> Iterator[str]:
    """Markdown: mean and standard deviation of the last test accuracy."""
    yield "| cells | networks | parameters | test accuracy | least | most |"
    yield "|---|---|---|---|---|---|"
    for kind, found in runs.items():
        ends = [one["rows"][-1]["test_accuracy"] for one in found]
        spread = f" ± {statistics.stdev(ends):.4f}" if len(ends) > 1 else ""
        sizes = [one["parameters"] for one in found]
        between = f"{min(sizes):,} to {max(sizes):,}"
        yield f"| {kind} | {len(found)} | {between} | {statistics.fmean(ends):.4f}{spread} | {min(ends):.4f} | {max(ends):.4f} |"


def picture(runs: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Every network's test accuracy over rounds, thin, and the mean of each kind."""
    figure = Figure(figsize=(7, 4.2), dpi=120, layout="constrained")
    axes = figure.subplots()
    for colour, (kind, found) in zip(COLOURS, runs.items(), strict=False):
        curves = [[(row["round"], row["test_accuracy"]) for row in one["rows"] if "test_accuracy" in row] for one in found]
        for curve in curves:
            axes.plot(*zip(*curve, strict=True), color=colour, linewidth=0.6, alpha=0.5)
        means = [(points[0][0], statistics.fmean(value for _, value in points)) for points in zip(*curves, strict=True)]
        axes.plot(*zip(*means, strict=True), color=colour, linewidth=2.2, label=f"{kind}, {means[-1][1]:.3f} at the end")
    axes.set(xlabel="round of FedAvg", ylabel="test accuracy", ylim=(0, 1))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(path)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.fednas", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one seed and one round of everything: does it work?")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where results are kept (default: runs/fednas, or runs/fednas-quick)")
    options = parser.parse_args(arguments)
    logging.getLogger("fedml").setLevel(logging.ERROR)
    folder = options.folder or Path("runs") / ("fednas-quick" if options.quick else "fednas")
    runs: dict[str, list[dict[str, Any]]] = {}
    for seed in range(1 if options.quick else options.seeds):
        for kind, found in compare(seed, folder, options.quick):
            runs.setdefault(kind, []).append(found)
    text = "\n".join(table(runs))
    write_atomic(folder / "table.md", text)
    picture(runs, folder / "curves.png")
    print(f"\n{text}\n\ntable, curves and cells: {folder}")


if __name__ == "__main__":
    main()
