"""What vertical federated learning is worth: each party alone, the federation, and all columns in one place.

    python -m experiments.vertical.table [--seeds 3] [--out experiments/vertical]

For each data set, number of parties and network: the area under the ROC curve on the test people whom all parties know. All are
trained on the training people whom all parties know, with the same batches and steps; a seed decides who knows whom, the initial
networks and the batches. Prints the table, and writes `results.json` and `auc.png`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fedml_api import Experiment, FedAvg, FederatedDataset, simulate
from fedml_api.algorithms import Vertical
from fedml_api.data import VerticalDataset
from fedml_api.model import VerticalLR, VerticalNN
from fedml_api.model.vertical import VerticalSpec
from fedml_api.run.config import RunConfig, prepare, read_config
from fedml_core import rng
from fedml_core.errors import ConfigError
from fedml_core.trainer.auc import auc

HERE = Path(__file__).parent
CASES = [("adult", 2), ("adult", 3), ("credit", 2), ("credit", 3), ("lending_club", 2)]
MODELS: dict[str, VerticalSpec] = {"logistic regression": VerticalLR(), "network": VerticalNN()}
Row = dict[str, Any]


def configured(name: str, parties: int, model: VerticalSpec, seed: int) -> RunConfig:
    """The configuration in this folder, for so many parties. Ids are compared in the clear: the same people are found, sooner."""
    config, problems = read_config(
        HERE / f"{name}.yaml", [f"data.parties={parties}", f"clients_per_round={parties}", f"seed={seed}"]
    )
    if problems:
        raise ConfigError(problems)
    assert isinstance(config.algorithm, Vertical)
    algorithm = replace(config.algorithm, intersection="plain", masks=parties > 2)
    return replace(config, model=model, algorithm=algorithm, evaluate_every=config.rounds, evaluate_clients=config.rounds)


def in_one_place(data: FederatedDataset, widths: dict[str, int], model: VerticalSpec, config: RunConfig) -> float:
    """The area under the curve of the columns of these parties, at a client of one's own."""
    assert isinstance(config.algorithm, Vertical)
    rng.seed_torch(config.seed, "model")
    network = replace(model, parties=widths).build((sum(widths.values()),), data.classes)  # type: ignore[call-arg]
    algorithm = FedAvg(config.algorithm.local)
    result = simulate(
        Experiment(
            network, data, algorithm=algorithm, rounds=config.rounds, clients_per_round=1, seed=config.seed, threads=1,
            evaluate_every=config.rounds,
        )
    )  # fmt: skip
    test = data.global_test.all()
    with torch.no_grad():
        logits = result.network.eval()(test["x"])
    return auc(logits[:, 1] - logits[:, 0], test["y"])


def measured(name: str, parties: int, kind: str, seed: int) -> Row:
    """One row: by who has what, the area under the curve."""
    model = MODELS[kind]
    config = configured(name, parties, model, seed)
    experiment = prepare(config, [])
    data = experiment.data
    assert isinstance(data, VerticalDataset)
    found = {party: in_one_place(data.pooled([party]), {party: data.widths[party]}, model, config) for party in data.client_ids}
    found["pooled"] = in_one_place(data.pooled(), data.widths, model, config)
    started = time.perf_counter()
    found["federation"] = simulate(experiment).history[-1]["client_auc"]
    seconds = time.perf_counter() - started
    people = {"train": len(data.pooled().global_train), "test": len(data.global_test)}
    return {"data": name, "parties": parties, "model": kind, "seed": seed, "auc": found, "seconds": seconds, "people": people}


def table(rows: Sequence[Row]) -> Iterator[str]:
    """As Markdown: means over seeds, and how far federation and pooled data are apart at most."""
    yield "| data set, parties | network | alone | federation | pooled | most apart |"
    yield "|---|---|---|---|---|---|"
    for name, parties, kind in dict.fromkeys((row["data"], row["parties"], row["model"]) for row in rows):
        found = [row["auc"] for row in rows if (row["data"], row["parties"], row["model"]) == (name, parties, kind)]
        means = {who: float(np.mean([each[who] for each in found])) for who in found[0]}
        alone = ", ".join(f"{who} {mean:.3f}" for who, mean in means.items() if who not in ("federation", "pooled"))
        apart = max(abs(each["federation"] - each["pooled"]) for each in found)
        yield f"| {name}, {parties} | {kind} | {alone} | **{means['federation']:.3f}** | {means['pooled']:.3f} | {apart:.0e} |"


def draw(rows: Sequence[Row], path: Path) -> None:
    """A line per data set, number of parties and network: the parties, the federation and pooled data, each seed a mark."""
    cases = list(dict.fromkeys((row["data"], row["parties"], row["model"]) for row in rows))
    figure = Figure(figsize=(8, 0.42 * len(cases) + 1.3), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    looks = {"alone": ("#56B4E9", "o", 30), "pooled": ("#000000", "|", 220), "federation": ("#D55E00", "D", 22)}
    for height, case in enumerate(reversed(cases)):
        for row in (row for row in rows if (row["data"], row["parties"], row["model"]) == case):
            for who, value in row["auc"].items():
                colour, mark, size = looks.get(who, looks["alone"])
                axes.scatter(value, height, s=size, c=colour, marker=mark, zorder=3 if who == "federation" else 2, linewidths=1.5)
    for label, (colour, mark, size) in looks.items():
        axes.scatter(
            [], [], s=size, c=colour, marker=mark, label={"alone": "a party alone", "pooled": "pooled columns"}.get(label, label)
        )
    axes.set_yticks(range(len(cases)), [f"{name}, {parties} parties, {kind}" for name, parties, kind in reversed(cases)])
    axes.set_xlabel("area under the ROC curve on test people")
    axes.grid(axis="x", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=3)
    figure.savefig(path)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.vertical.table", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=HERE)
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows = [measured(*case, kind, seed) for case in CASES for kind in MODELS for seed in range(asked.seeds)]
    (asked.out / "results.json").write_text(json.dumps(rows, indent=1) + "\n")
    print("\n".join(table(rows)))
    draw(rows, asked.out / "auc.png")


if __name__ == "__main__":
    main()
