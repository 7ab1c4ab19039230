"""FedGKT beside what it is to be compared with: FedAvg of the large network, and small networks by themselves.

    python -m experiments.fedgkt [KEY=VALUE ...] [--rows NAME ...] [--folder DIR]

Every row is `config.yaml` with the overrides of ROWS, and those given. A row leaves a file in the folder and is not run again;
`table.md` and `curve.png` there show all rows. Accuracy is measured as in the paper: every client tests the model that it uses on
all test examples.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from fedml_api.data import FederatedDataset
from fedml_api.run.config import RunConfig, dump_config, prepare, read_config
from fedml_api.run.experiment import simulate
from fedml_api.run.plots import COLOURS
from fedml_core import tree
from fedml_core.federation import Algorithm, Client, ClientValues, Cohort, Composed, Gathered, Mean, Reply, Task
from fedml_core.files import write_atomic
from fedml_core.tree import Tree

HERE = Path(__file__).parent


def trained(lr: float, by: str = "name: fedavg") -> str:
    """An override: an algorithm whose clients train all they have, at a rate that falls to a tenth."""
    return f"algorithm={{{by}, local: {{lr: {{name: cosine, initial: {lr}, final: {lr / 10}, rounds: 40}}}}}}"


ALL_IN_ONE = ("data.clients=1", "data.partition=iid", "clients_per_round=1")
EIGHT_CLIENTS = ", eight clients"
EIGHT = ("data.clients=8", "clients_per_round=8")
ROWS = {
    "FedGKT": (),
    "FedGKT, server distils too": ("algorithm.server_alpha=1",),
    "FedAvg, large network": ("model.part=large", trained(0.2)),
    "FedAvg, edge network": ("model.part=edge", trained(1.0)),
    "edge network, each client alone": ("model.part=edge", trained(0.3, "name: fedper, private: ['*']")),
    "large network, all examples in one place": ("model.part=large", trained(0.2), *ALL_IN_ONE),
    "edge network, all examples in one place": ("model.part=edge", trained(1.0), *ALL_IN_ONE),
    f"FedGKT{EIGHT_CLIENTS}": EIGHT,
    f"FedAvg, large network{EIGHT_CLIENTS}": ("model.part=large", trained(0.2), *EIGHT),
}


@dataclass(frozen=True)
class Weighed(Composed):
    """Another algorithm, and the metrics `up` and `down`: bytes of tensors that one client sends and gets in a round."""

    inner: Algorithm

    @property
    def algorithm(self) -> Algorithm:
        return self.inner

    def round(self, state: Tree, cohort: Cohort) -> tuple[Tree, dict[str, Mean]]:
        scales = Scales(cohort)
        state, metrics = self.inner.round(state, scales)
        return state, metrics | {name: Mean(total, len(cohort.clients)) for name, total in scales.totals.items()}


class Scales(Cohort):
    """A cohort that weighs what goes by."""

    def __init__(self, cohort: Cohort) -> None:
        self.cohort, self.totals = cohort, {"up": 0, "down": 0}
        self.round, self.clients, self.population = cohort.round, cohort.clients, cohort.population

    @property
    def server(self) -> Client:  # type: ignore[override]
        return self.cohort.server

    def only(self, clients: Sequence[str], round: int | None = None) -> Cohort:
        raise NotImplementedError("none of the rows asks part of a cohort")

    def map(self, task: Task, shared: Tree, own: Mapping[str, Tree] | None = None) -> ClientValues:
        self.totals["down"] += len(self.clients) * size(shared) + size(dict(own or {}))
        replies: dict[str, Reply] = {}
        for id, reply in self.cohort.map(task, shared, own):
            self.totals["up"] += size(reply.value)
            # An engine may use the memory of a reply again.
            replies[id] = replace(reply, value=tree.clone(reply.value))
        return Gathered(replies)


def size(value: Tree) -> int:
    """Bytes of all tensors."""
    return sum(part.nbytes for part in tree.tensors(value))


def tested_on_all(data: FederatedDataset) -> FederatedDataset:
    """The same data, each client having the whole test set for its own."""
    everything = np.arange(len(data.global_test))
    train = {id: part.numpy() for id, part in data._train_parts.items()}
    return FederatedDataset(data.global_train, data.global_test, train, dict.fromkeys(train, everything), data.classes, data.name)


def asked(name: str, overrides: Sequence[str]) -> tuple[RunConfig, list[str]]:
    """The configuration of a row, and its problems."""
    return read_config(HERE / "config.yaml", [*ROWS[name], *overrides])


def carry_out(name: str, overrides: Sequence[str]) -> dict[str, Any]:
    """One row: what was asked for, and the history of the run."""
    one = prepare(*asked(name, overrides))
    one = replace(one, data=tested_on_all(one.data), algorithm=Weighed(one.algorithm))
    started = time.perf_counter()
    rows = simulate(one).history
    return {"config": dump_config(asked(name, overrides)[0]), "rows": rows, "seconds": time.perf_counter() - started}


def table(found: Mapping[str, dict[str, Any]]) -> str:
    """Markdown: a line for each row."""
    lines = [
        "| | accuracy, mean over clients | worst client | a client sends, gets in a round | minutes |",
        "|---|---|---|---|---|",
    ]
    for name, one in found.items():
        last = one["rows"][-1]
        alone = last["clients"] == 1 or "alone" in name
        bytes_ = "–" if alone else f"{last['train_up'] / 1e6:.2f} MB, {last['train_down'] / 1e6:.2f} MB"
        cells = [f"{last['client_accuracy_mean']:.3f}", f"{last['client_accuracy_min']:.3f}", bytes_, f"{one['seconds'] / 60:.1f}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def draw(found: Mapping[str, dict[str, Any]], path: Path) -> None:
    """Accuracy over rounds; dashed: all examples in one place, dotted: eight clients, in the colour of four."""
    figure = Figure(figsize=(9.6, 4.2), dpi=110, layout="constrained")
    axes = figure.subplots()
    four = [name for name in found if not name.endswith(EIGHT_CLIENTS)]
    for name, one in found.items():
        points = [(row["round"], row["client_accuracy_mean"]) for row in one["rows"] if "client_accuracy_mean" in row]
        style = "--" if "one place" in name else ":" if name.endswith(EIGHT_CLIENTS) else "-"
        alike = name.removesuffix(EIGHT_CLIENTS)
        colour = COLOURS[four.index(alike) if alike in four else -1]
        axes.plot(*zip(*points, strict=True), style, color=colour, label=f"{name}: {points[-1][1]:.3f}")
    axes.set_xlabel("round")
    axes.set_ylabel("accuracy on all test examples, mean over clients")
    axes.set_ylim(0.6, 1)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(frameon=False, fontsize=8, loc="outside right center")
    figure.savefig(path)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.fedgkt", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS), metavar="NAME")
    parser.add_argument("--folder", type=Path, default=Path("runs/fedgkt"))
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    options = parser.parse_args(arguments)
    logging.getLogger("fedml").setLevel(logging.ERROR)
    options.folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for name in options.rows:
        path = options.folder / f"{name.replace(',', '').replace(' ', '-')}.json"
        one = json.loads(path.read_text()) if path.exists() else None
        if one is None or one["config"] != dump_config(asked(name, options.overrides)[0]):
            one = carry_out(name, options.overrides)
            write_atomic(path, json.dumps(one))
        found[name] = one
        last = one["rows"][-1]
        print(
            f"{name}: {last['client_accuracy_mean']:.3f}, worst {last['client_accuracy_min']:.3f}, {one['seconds']:.0f} s",
            flush=True,
        )
    write_atomic(options.folder / "table.md", table(found))
    draw(found, options.folder / "curve.png")


if __name__ == "__main__":
    main()
