"""Networks beside a server: digits learned together, and regret on a stream.

    python -m experiments.decentralized [--only PART ...] [--seeds N] [--folder DIR]

What has been found is kept in the folder as JSON, and not done again.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedml_api import Classifier, Experiment, FederatedDataset, Standalone, simulate
from fedml_api.algorithms import DPSGD, DFedAvg, FedAvg, FedPer, OnlinePushSum, PushSum
from fedml_api.algorithms.dpsgd import Decentralized
from fedml_api.algorithms.pushsum import Stream
from fedml_api.data import Mnist5k
from fedml_api.data.packaged import packaged_file
from fedml_api.model import LogisticRegression
from fedml_api.run.plots import COLOURS
from fedml_api.run.regret import best_fixed, regret
from fedml_api.run.topologies import draw_topologies
from fedml_core import rng, tree
from fedml_core.federation import Algorithm, GossipNode, LocalSGD, WeightedMean
from fedml_core.files import write_atomic
from fedml_core.partition import Dirichlet
from fedml_core.topology import Complete, Directed, Exponential, Regular, Ring, Topology, Torus, spectral_gap
from fedml_core.trainer import Examples, ModelState

PARTS = ["digits", "streams", "topologies"]
NODES = 16
ENGINE = Standalone(executor="stacked", processes=1)

# 4,000 digits, 250 at each node and mostly of a few classes: 13 steps per epoch.
EPOCH = LocalSGD(lr=0.1, epochs=1, batch_size=20)
ROUNDS, EVERY, STEPS = 100, 2, 13
DIGITS: dict[str, Algorithm] = {
    "FedAvg, with a server": FedAvg(EPOCH, aggregator=WeightedMean(by="clients")),
    "complete": DFedAvg(EPOCH, Complete()),
    "4-regular": DFedAvg(EPOCH, Regular(4)),
    "torus": DFedAvg(EPOCH, Torus()),
    "ring": DFedAvg(EPOCH, Ring()),
    "ring, D-PSGD": DPSGD(LocalSGD(lr=0.1, steps=1, batch_size=20), Ring()),
    "one peer, push-sum": PushSum(EPOCH, Exponential()),
    "directed, push-sum": PushSum(EPOCH, Directed(3)),
    "directed, plain mean": DPSGD(EPOCH, Directed(3), "uniform", "trained", unbiased=False),
}

# One person comes to every node in every round.
COME, RATE = 2000, 0.05
ONE = LocalSGD(lr=RATE, batch_size=1)
STREAMS: dict[str, Algorithm] = {
    "every node alone": FedPer(Stream(ONE), private=("*",)),
    "ring, D-PSGD": DPSGD(Stream(ONE), Ring(), mixes="trained"),
    "directed, plain mean": DPSGD(Stream(ONE), Directed(3), "uniform", "trained", unbiased=False),
    "directed, online push-sum": OnlinePushSum(ONE, Directed(3)),
    "complete, online push-sum": OnlinePushSum(ONE, Complete()),
}
MARKS = (10, 20, 50, 100, 200, 500, 1000, 1500, 2000)


def digits(algorithm: Algorithm, seed: int) -> Iterator[dict[str, float]]:
    """After every second epoch: accuracy on 1,000 digits that nobody holds, of the mean model and of every node's own."""
    data = Mnist5k(clients=NODES, partition=Dirichlet(0.3)).load(seed, Path("data"))
    rng.seed_torch(seed, "model")
    setup = Experiment(LogisticRegression().build((1, 28, 28), 10), data, seed=seed, rounds=ROUNDS * STEPS).setup()
    exchanges = STEPS if isinstance(algorithm, DPSGD) and algorithm.local != EPOCH else 1

    def accuracy(model: ModelState) -> float:
        return setup.trainer.test(model.load_into(setup.module), data.global_test)["accuracy"]

    initial = tree.clone(ModelState.of(setup.module))
    with ENGINE.open(setup) as session:
        state = algorithm.init(initial)
        for epoch in range(ROUNDS):
            for exchange in range(exchanges):
                cohort = session.cohort(epoch * exchanges + exchange, session.population())
                state, metrics = algorithm.round(state, cohort)
            if epoch % EVERY != EVERY - 1:
                continue
            mean = accuracy(algorithm.model(state))
            own = [accuracy(node.used) for _, node in session.save() if isinstance(node, GossipNode)] or [mean]
            apart = metrics["consensus"].value if "consensus" in metrics else 0.0
            yield {"mean": mean, "nodes": statistics.fmean(own), "worst": min(own), "consensus": apart}


def adult() -> FederatedDataset:
    """Adult (UCI, CC BY 4.0; in the xai package, MIT): has this person an income above $50,000? Nodes differ in age.

    The people of a node come in the order of the file. Numbers are standardised, all else is one column per value.
    """
    with packaged_file("xai", "xai/data/census.csv").open(newline="") as file:
        rows = [{name: value.strip() for name, value in row.items()} for row in csv.DictReader(file)]
    columns = []
    for name in list(rows[0])[1:-1]:
        values = [row[name] for row in rows]
        if all(value.lstrip("-").isdigit() for value in values):
            numbers = np.array(values, dtype=np.float64)
            columns.append(((numbers - numbers.mean()) / numbers.std())[:, None])
        else:
            columns.append(np.array(values)[:, None] == np.unique(values))
    x = torch.tensor(np.concatenate(columns, axis=1), dtype=torch.float32)
    y = torch.tensor([row["loan"] == ">50K" for row in rows]).long()
    by_age = np.argsort([int(row["age"]) for row in rows], kind="stable")
    parts = {f"node{k}": np.sort(part)[:COME] for k, part in enumerate(np.array_split(by_age, NODES))}
    examples = Examples({"x": x, "y": y})
    return FederatedDataset(examples, examples, parts, classes=2, name="adult")


def online(algorithm: Algorithm, data: FederatedDataset, best: dict[int, float], seed: int) -> dict[str, Any]:
    """Regret per person, by round."""
    model = linear(data)
    settings = {"rounds": COME, "clients_per_round": NODES, "evaluate_every": COME, "seed": seed}
    history = simulate(Experiment(model, data, algorithm=algorithm, engine=ENGINE, **settings)).history  # type: ignore[arg-type]
    per_person = {str(last): value / (last * NODES) for last, value in regret(history, best).items()}
    return {"regret": per_person, "consensus": history[-1].get("train_consensus")}


def linear(data: FederatedDataset) -> torch.nn.Module:
    model = torch.nn.Linear(data.global_train.columns["x"].shape[1], 2)
    torch.nn.init.zeros_(model.weight)
    torch.nn.init.zeros_(model.bias)
    return model


def kept(path: Path, find: Callable[[], Any]) -> Any:
    """What was found before, or what is found now."""
    if not path.exists():
        started = time.perf_counter()
        found = {"found": find(), "seconds": round(time.perf_counter() - started, 1)}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(found))
        print(f"{path.stem}: {found['seconds']} s", flush=True)
    return json.loads(path.read_text())["found"]


def slug(title: str) -> str:
    return title.replace(",", "").replace(" ", "-")


def letters(algorithm: Algorithm, seeds: int) -> tuple[str, str]:
    """Models that a node sends in an epoch, and the spectral gap, for the table."""
    if not isinstance(algorithm, Decentralized | DFedAvg):
        return "1 up, 1 down", "–"
    inner = algorithm.algorithm if isinstance(algorithm, DFedAvg) else algorithm
    often = STEPS if inner.local != EPOCH else 1
    sent = inner.topology.graph(NODES).sum() / NODES * often
    window = inner.topology.window(NODES)
    gaps = []
    for seed in range(seeds):
        matrices = (inner.matrix(NODES, round, seed) for round in range(window * often))
        gaps.append(spectral_gap(np.linalg.multi_dot([np.eye(NODES), *matrices])))
    varies = f" ({min(gaps):.3f} to {max(gaps):.3f})" if max(gaps) - min(gaps) > 1e-3 else ""
    return f"{sent:.0f}", f"{statistics.fmean(gaps):.3f}{varies}" + (f" in {window} epochs" if window > 1 else "")


def table_of_digits(found: dict[str, list[list[dict[str, float]]]]) -> Iterator[str]:
    yield "| | models sent per node and epoch | gap per epoch | mean model | nodes' own models | worst node | consensus |"
    yield "|---|---|---|---|---|---|---|"
    for title, runs in found.items():
        ends = [{name: statistics.fmean(row[name] for row in run[-5:]) for name in run[-1]} for run in runs]
        cells = [spread([end[name] for end in ends]) for name in ("mean", "nodes", "worst", "consensus")]
        yield f"| {title} | {' | '.join([*letters(DIGITS[title], len(runs)), *cells])} |"


def spread(values: Sequence[float]) -> str:
    return f"{statistics.fmean(values):.3f}" + (f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else "")


def picture_of_digits(found: dict[str, list[list[dict[str, float]]]], path: Path) -> None:
    figure = Figure(figsize=(13, 4.6), dpi=120, layout="constrained")
    panels = figure.subplots(1, 3)
    names = {"mean": "test accuracy of the mean model", "worst": "of the worst node's own", "consensus": "consensus error"}
    for axes, (name, title) in zip(panels, names.items(), strict=True):
        for k, (label, runs) in enumerate(found.items()):
            values = np.mean([[row[name] for row in run] for run in runs], axis=0)
            if name != "consensus" or values.any():
                look = {"linewidth": 4.5, "alpha": 0.35} if k == 0 else {"linewidth": 1.5}
                axes.plot(range(EVERY, ROUNDS + 1, EVERY), values, color=colour(k), linestyle=line(k), label=label, **look)
        tidy(axes, title, "epochs")
        if name == "consensus":
            axes.set_yscale("log")
            axes.set_ylim(bottom=3e-2)
        else:
            axes.set_ylim(0.4, 1)
    figure.legend(*panels[0].get_legend_handles_labels(), frameon=False, fontsize=9, ncols=5, loc="outside lower center")
    figure.savefig(path)


def picture_of_streams(found: dict[str, list[dict[str, Any]]], path: Path) -> None:
    figure = Figure(figsize=(6, 4), dpi=120, layout="constrained")
    axes = figure.subplots()
    for k, (label, runs) in enumerate(found.items()):
        values = np.mean([list(run["regret"].values()) for run in runs], axis=0)
        axes.plot(MARKS, values, "o-", color=colour(k), markersize=3, linewidth=1.5, label=f"{label}, {values[-1]:.4f} at the end")
    slope = np.array(MARKS, dtype=float) ** -0.5
    axes.plot(MARKS, slope * 0.6, color="0.6", linestyle=":", label="proportional to T^(-1/2)")
    axes.set_xscale("log")
    axes.set_yscale("log")
    tidy(axes, "regret per person", "rounds T, one person per node in each")
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path)


def colour(k: int) -> str:
    return COLOURS[k % len(COLOURS)]


def line(k: int) -> str:
    return "-" if k < len(COLOURS) else "--"


def tidy(axes: Axes, title: str, below: str) -> None:
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(below)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def networks() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The topologies of the digits, with 12 nodes, so that one can read them."""
    shown: dict[str, tuple[Topology, Decentralized]] = {
        "ring": (Ring(), DPSGD(topology=Ring())),
        "torus": (Torus(), DPSGD(topology=Torus())),
        "4-regular": (Regular(4), DPSGD(topology=Regular(4))),
        "directed, push-sum": (Directed(3), PushSum(topology=Directed(3))),
        "directed, plain mean": (Directed(3), DPSGD(topology=Directed(3), weights="uniform", unbiased=False)),
        "one peer, third round": (Exponential(), PushSum(topology=Exponential())),
    }
    return {title: (topology.graph(12, 2, 0), algorithm.matrix(12, 2, 0)) for title, (topology, algorithm) in shown.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.decentralized", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("runs/decentralized"))
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    folder: Path = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    if "topologies" in options.only:
        draw_topologies(networks(), folder / "topologies.png")
    if "streams" in options.only:
        data = adult()
        streams = [data.train(client) for client in data.client_ids]
        best = kept(folder / "best.json", lambda: best_fixed(Classifier(), linear(data), streams, 1, MARKS))
        best = {int(last): value for last, value in best.items()}
        curves: dict[str, list[Any]] = {title: [] for title in STREAMS}
        for seed in range(options.seeds):
            for title, algorithm in STREAMS.items():
                path = folder / f"streams-{slug(title)}-{seed}.json"
                curves[title].append(kept(path, lambda a=algorithm, s=seed: online(a, data, best, s)))  # type: ignore[misc]
        picture_of_streams(curves, folder / "streams.png")
        print(f"best fixed model: {best[COME] / COME / NODES:.4f} per person")
        for title, runs in curves.items():
            print(f"| {title} | {' | '.join(spread([run['regret'][str(T)] for run in runs]) for T in (100, 500, 2000))} |")
    if "digits" in options.only:
        rows: dict[str, list[Any]] = {title: [] for title in DIGITS}
        for seed in range(options.seeds):
            for title, algorithm in DIGITS.items():
                path = folder / f"digits-{slug(title)}-{seed}.json"
                rows[title].append(kept(path, lambda a=algorithm, s=seed: list(digits(a, s))))  # type: ignore[misc]
        picture_of_digits(rows, folder / "digits.png")
        print("\n".join(table_of_digits(rows)))


if __name__ == "__main__":
    main()
