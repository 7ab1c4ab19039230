"""What a federation of graph networks is worth: the commonest class, each client alone, the federation, all data in one place.

    python -m experiments.graphs.table [--seeds 3] [--out experiments/graphs]

Prints the table, and writes `results.json`, `curve.png` and `clients.png`. A seed decides who holds which molecules, the initial
networks and the batches. A client alone takes as many passes over its molecules as in the federation.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fedml_api import Experiment, FederatedDataset, simulate
from fedml_api.data.picture import draw_clients
from fedml_api.run.config import prepare, read_config
from fedml_api.run.plots import draw_curves
from fedml_core.errors import ConfigError
from fedml_core.trainer import Examples

HERE = Path(__file__).parent
MODELS = {
    "GCN": "model={name: gcn, hidden: 64, layers: 3, dropout: 0, readout: sum}",
    "GraphSAGE": "model={name: graphsage, hidden: 64, layers: 3, dropout: 0, readout: sum}",
    "GAT": "model={name: gat, hidden: 16, heads: 4, layers: 3, dropout: 0, readout: sum}",
}
# Initial rates, in the federation and in one place: those that were best on a validation split, see the README.
RATES = {"GCN": (0.4, 0.4), "GraphSAGE": (0.4, 0.2), "GAT": (0.4, 0.2)}
# Not left to what is fastest, so that it is the same arithmetic each time.
ENGINE = "engine={name: standalone, executor: traced, processes: 1}"
POOLED = ["data.clients=1", "data.partition=iid", "clients_per_round=1"]
Row = dict[str, Any]


def experiment(model: str, seed: int, pooled: bool = False) -> Experiment:
    """The configuration in this folder with another network, in the federation or in one place."""
    settings = [
        MODELS[model],
        f"algorithm.local.lr.initial={RATES[model][pooled]}",
        f"seed={seed}",
        ENGINE,
        *(POOLED if pooled else []),
    ]
    config, problems = read_config(HERE / "config.yaml", settings)
    if problems:
        raise ConfigError(problems)
    return prepare(config, [])


def accuracy(network: torch.nn.Module, examples: Examples) -> float:
    """The share of right answers; none of no examples."""
    if not len(examples):
        return 0.0
    batch = examples.all()
    with torch.no_grad():
        return float((network.eval()(batch["x"]).argmax(dim=1) == batch["y"]).float().mean())


def alone(whole: Experiment, rate: Experiment, client: str) -> tuple[float, float]:
    """A client that trains by itself, as one would in one place: on all test molecules, and how many of its own are right."""
    data = whole.data
    own = FederatedDataset.from_clients({client: data.train(client).all()}, data.global_test.all(), data.classes)
    model = copy.deepcopy(whole.model)
    found = simulate(replace(rate, model=model, data=own, clients_per_round=1, evaluate_every=whole.rounds))
    test = data.test(client)
    return found.last["test_accuracy"], accuracy(found.network, test) * len(test)


def measured(model: str, seed: int) -> tuple[Row, Experiment, Any]:
    """Accuracies of one network and seed, the experiment, and the history of the federation."""
    federated, pooled = experiment(model, seed), experiment(model, seed, pooled=True)
    data = federated.data
    assert isinstance(data, FederatedDataset)
    untouched = copy.deepcopy(federated)
    y = data.global_test.all()["y"]
    commonest = torch.bincount(data.global_train.all()["y"]).argmax()
    each = [alone(untouched, pooled, client) for client in data.client_ids]
    result = simulate(federated)
    found = {
        "majority": float((y == commonest).float().mean()),
        "alone": sum(one for one, _ in each) / len(each),
        "alone, own test molecules": sum(right for _, right in each) / len(y),
        "FedAvg": result.last["test_accuracy"],
        "in one place": simulate(pooled).last["test_accuracy"],
    }
    row = {"model": model, "seed": seed, "accuracy": found, "seconds": result.seconds, "sha256": result.sha256}
    return row, untouched, result.history


def table(rows: Sequence[Row]) -> Iterator[str]:
    """As Markdown: the mean over seeds, and the smallest and the largest."""
    names = list(rows[0]["accuracy"])
    yield f"| network | {' | '.join(names)} |"
    yield "|---" * (len(names) + 1) + "|"
    for model in dict.fromkeys(row["model"] for row in rows):
        found = [row["accuracy"] for row in rows if row["model"] == model]
        cells = []
        for name in names:
            values = [one[name] for one in found]
            spread = f" ({min(values):.3f} to {max(values):.3f})" if max(values) > min(values) else ""
            cells.append(f"{sum(values) / len(values):.3f}{spread}")
        yield f"| {model} | {' | '.join(cells)} |"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.graphs.table", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=HERE)
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows: list[Row] = []
    curves = {}
    for seed in range(asked.seeds):
        for model in MODELS:
            row, one, history = measured(model, seed)
            rows.append(row)
            if not seed:
                curves[f"FedAvg of {model}"] = history
                draw_clients(one.data, asked.out / "clients.png")
            (asked.out / "results.json").write_text(json.dumps(rows, indent=1) + "\n")
    print("\n".join(table(rows)))
    draw_curves(curves, asked.out / "curve.png")


if __name__ == "__main__":
    main()
