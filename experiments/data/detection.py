"""What sensors find with an autoencoder: learned together, each alone, and from all readings in one place.

    python -m experiments.data.detection [--seeds 3] [--rounds 10] [--false-alarms 0.01]

The configuration is `motes.yaml` beside this file. Prints, as means over seeds, the area under the ROC curve of every device, and
the shares of events found and of false alarms, with a threshold of its own and with one for all (see `fedml_api.run.detection`).
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from torch import nn

from fedml_api import Experiment, FedAvg, FederatedDataset, simulate
from fedml_api.data import FederatedData
from fedml_api.run.config import prepare, read_config
from fedml_api.run.detection import Row, detection
from fedml_core.errors import ConfigError

COLUMNS = ("auc", "own_recall", "own_false_alarms", "common_recall", "common_false_alarms")


def configured(overrides: list[str]) -> Experiment:
    config, problems = read_config(Path(__file__).with_name("motes.yaml"), overrides)
    return prepare(config, problems)


def learned(experiment: Experiment) -> nn.Module:
    return simulate(replace(experiment, evaluate_every=experiment.rounds, evaluate_clients=0)).network


def alone(experiment: Experiment, false_alarms: float) -> dict[str, Row]:
    """What every device finds with a network of its own, and of a common threshold nothing."""
    data, found = experiment.data, {}
    if not isinstance(experiment.algorithm, FedAvg):
        raise ConfigError("algorithm: a device alone trains as in fedavg")
    for device in data.client_ids:
        own = FederatedDataset.from_clients({device: data.train(device).all()}, {device: data.test(device).all()})
        network = learned(replace(experiment, data=own, clients_per_round=1))
        row = detection(network, own, false_alarms)[device]
        found[device] = {name: value for name, value in row.items() if not name.startswith("common")}
    return found


def ways(seed: int, rounds: int, false_alarms: float) -> Iterator[tuple[str, dict[str, Row]]]:
    """What is found, by how it was learned."""
    overrides = [f"seed={seed}", f"rounds={rounds}"]
    together = configured(overrides)
    data = together.data
    assert isinstance(data, FederatedData)
    yield "untrained", detection(together.model, data, false_alarms)
    yield "federation", detection(learned(together), data, false_alarms)
    yield "each alone", alone(together, false_alarms)
    pooled = configured([*overrides, "data.clients=1", "data.regroup=merge", "clients_per_round=1"])
    yield "one place", detection(learned(pooled), data, false_alarms)


def table(seeds: int, rounds: int, false_alarms: float) -> Iterator[str]:
    found: dict[str, list[dict[str, Row]]] = {}
    for seed in range(seeds):
        for way, rows in ways(seed, rounds, false_alarms):
            found.setdefault(way, []).append(rows)
    yield f"| | device | {' | '.join(name.replace('_', ' ') for name in COLUMNS)} |"
    yield "|---|---|" + "---|" * len(COLUMNS)
    for way, runs in found.items():
        for device in runs[0]:
            yield f"| {way} | {device} | {' | '.join(_cell([run[device].get(name) for run in runs]) for name in COLUMNS)} |"


def _cell(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    return f"{statistics.fmean(known):.3f}" + (f" ± {statistics.stdev(known):.3f}" if len(known) > 1 else "")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.data.detection", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--false-alarms", type=float, default=0.01)
    options = parser.parse_args(arguments)
    for line in table(options.seeds, options.rounds, options.false_alarms):
        print(line, flush=True)


if __name__ == "__main__":
    main()
