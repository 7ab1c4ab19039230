"""Accuracy under drop-out beside FedAvg, and what the aggregation costs for more and more clients.

    python -m experiments.turboaggregate [--quick] [--folder DIR]

Leaves `table.md` and `curve.png` in the folder (runs/turboaggregate), and a file for every run, which is not done again.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from experiments.turboaggregate.costs import Costs, costs
from fedml_api.run.config import prepare, read_config
from fedml_api.run.experiment import simulate
from fedml_api.run.plots import COLOURS
from fedml_core.files import write_atomic

HERE = Path(__file__).parent
FEDAVG = ("algorithm={name: fedavg}", "algorithm.local={lr: 0.1, batch_size: 10}")
RUNS = {
    "FedAvg": FEDAVG,
    "FedAvg, 15 clients a round": (*FEDAVG, "clients_per_round=15"),
    **{f"Turbo-Aggregate, {share:.0%} drop out": (f"algorithm.dropout={share}",) for share in (0.0, 0.1, 0.3, 0.5)},
}


def carry_out(name: str, overrides: tuple[str, ...], folder: Path) -> list[dict[str, Any]]:
    """The rows of a run, from the folder if it was done with these settings before."""
    path = folder / f"{list(RUNS).index(name)}.json"
    if path.exists() and (found := json.loads(path.read_text()))["overrides"] == list(overrides):
        return list(found["rows"])
    started = time.process_time()
    rows = simulate(prepare(*read_config(HERE / "config.yaml", list(overrides)))).history
    rows[-1]["cpu_seconds"] = time.process_time() - started
    write_atomic(path, json.dumps({"overrides": overrides, "rows": rows}))
    print(f"{name}: test accuracy {rows[-1]['test_accuracy']:.3f}, {rows[-1]['cpu_seconds']:.0f} s of CPU", flush=True)
    return rows


def table(runs: dict[str, list[dict[str, Any]]], measured: list[Costs]) -> Iterator[str]:
    """Markdown."""
    yield "| | updates that entered | test accuracy, last five evaluations | loss | CPU seconds |"
    yield "|---|---|---|---|---|"
    for name, rows in runs.items():
        shares = [row.get("train_entered", 1.0) for row in rows[1:]]
        last = [row for row in rows if "test_accuracy" in row][-5:]
        accuracy, loss = (sum(row[f"test_{what}"] for row in last) / len(last) for what in ("accuracy", "loss"))
        yield f"| {name} | {sum(shares) / len(shares):.0%} | {accuracy:.3f} | {loss:.3f} | {rows[-1]['cpu_seconds']:.0f} |"
    yield ""
    yield "| N | n | vectors sent | MB sent | masks drawn | masks of pairs | CPU ms | CPU ms, pairs | server's CPU ms |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for one in measured:
        yield (
            f"| {one.clients} | {one.group:.1f} | {one.vectors:.1f} | {one.megabytes:.1f} | {one.masks:.1f} | {one.clients} | "
            f"{1e3 * one.seconds:.0f} | {1e3 * one.pairwise_seconds:.0f} | {1e3 * one.server_seconds:.0f} |"
        )


def picture(runs: dict[str, list[dict[str, Any]]], measured: list[Costs], path: Path) -> None:
    """Accuracy over rounds, and masks and vectors over the number of clients."""
    figure = Figure(figsize=(11, 4), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2)
    for colour, (name, rows) in zip(COLOURS, runs.items(), strict=False):
        seen = [row for row in rows if "test_accuracy" in row]
        style = "--" if name.startswith("FedAvg") else "-"
        left.plot([row["round"] for row in seen], [row["test_accuracy"] for row in seen], style, color=colour, label=name)
    left.set(xlabel="round", ylabel="test accuracy", ylim=(0, 1), title="mnist5k, 30 clients a round in three groups")
    many = [one.clients for one in measured]
    curves = {
        "masks of pairs (N)": (many, "--"),
        "vectors sent, Turbo-Aggregate": ([one.vectors for one in measured], "-"),
        "masks drawn, Turbo-Aggregate": ([one.masks for one in measured], "-"),
        "vectors sent, FedAvg and masks of pairs": ([1 for _ in measured], "--"),
    }
    for colour, (name, (values, style)) in zip(COLOURS, curves.items(), strict=False):
        right.plot(many, values, style, marker="o", markersize=3, color=colour, label=name)
    right.set(xlabel="clients N", ylabel="vectors per client", xscale="log", yscale="log", title="vectors of the model's size")
    right.set_xticks(many, [str(count) for count in many])
    right.minorticks_off()
    for axes in (left, right):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.turboaggregate", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two rounds, few clients: does everything work?")
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    folder = options.folder or Path("runs") / ("turboaggregate-quick" if options.quick else "turboaggregate")
    folder.mkdir(parents=True, exist_ok=True)
    logging.getLogger("fedml").setLevel(logging.ERROR)
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    quick = ("rounds=2",) if options.quick else ()
    runs = {name: carry_out(name, overrides + quick, folder) for name, overrides in RUNS.items()}
    measured = [costs(clients) for clients in ((10, 20) if options.quick else (10, 20, 50, 100, 200))]
    text = "\n".join(table(runs, measured))
    write_atomic(folder / "table.md", text)
    picture(runs, measured, folder / "curve.png")
    print(f"\n{text}\n\ntable: {folder / 'table.md'}, picture: {folder / 'curve.png'}")


if __name__ == "__main__":
    main()
