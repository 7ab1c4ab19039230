"""Every data set that needs no download: what FedAvg learns on it, beside the same network trained in one place, and a guess.

    python -m experiments.data.table [--only NAME ...] [--seeds N] [--folder DIR]

Each run is a `fedml run` of a configuration beside this file, so it can be had by itself; what has been found before is not done
again, and a run that was interrupted goes on. At the end there are `table.md`, `results.json` and `curves.png` of all there is.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fedml_api import cli
from fedml_api.data.dataset import Dataset
from fedml_api.run.config import RunConfig, prepare, read_config
from fedml_api.run.experiment import Row
from fedml_api.run.folder import RunFolder, list_runs
from fedml_core.errors import ConfigError, FedMLError
from fedml_core.files import write_atomic
from fedml_core.trainer.auc import auc as exact_auc

HERE = Path(__file__).parent
Found = dict[str, Any]


class Case(NamedTuple):
    """A configuration beside this file.

    Attributes:
        metric: what is compared, of the global test set; `clients`: of the clients' own models on their own test examples instead.
        guess: what needs no network, one of `GUESSES`; `seeds`: how many runs there are, unless fewer are asked for.
        pooled: overrides which put all examples into one place.
    """

    name: str
    metric: str = "accuracy"
    guess: str = "most frequent class"
    seeds: int = 3
    clients: bool = False
    pooled: tuple[str, ...] = ("data.clients=1",)


MERGED = ("data.clients=1", "data.regroup=merge")
CASES = (
    Case("fashion_mnist"),
    Case("mnist5k"),
    Case("digits"),
    Case("adult", pooled=("data={name: adult_horizontal, clients: 1, partition: iid}",)),
    Case("newsgroups"),
    Case("shakespeare_roles", "token_accuracy", "most frequent token", seeds=1, pooled=MERGED),
    Case("sotu", "word_accuracy", "most frequent token", seeds=1, pooled=MERGED),
    Case("motes", "auc", "distance from the mean", pooled=MERGED),
    Case(
        "movielens",
        "rmse",
        "mean of the item",
        clients=True,
        pooled=(
            *MERGED,
            "data.users=true",
            "algorithm={name: fedavg, local: {lr: 0.05, batch_size: 20, weight_decay: 0.0002}}",
            "evaluate_clients=0",
        ),
    ),
)


def configured(case: Case, overrides: list[str]) -> RunConfig:
    config, problems = read_config(HERE / f"{case.name}.yaml", overrides)
    if problems:
        raise ConfigError(problems)
    return config


def carried_out(case: Case, overrides: list[str]) -> RunFolder:
    """The finished run with these overrides: from before, gone on with, or new.

    Raises:
        FedMLError: it has failed, with a message on the way.
    """
    config = configured(case, overrides)
    folder = _existing(config)
    if folder is None or folder.result is None:
        path = [str(folder.path)] if folder else [str(HERE / f"{case.name}.yaml"), *overrides]
        print(f"$ fedml {'resume' if folder else 'run'} {' '.join(path)}", file=sys.stderr, flush=True)
        if cli.main(["resume" if folder else "run", *path]):
            raise FedMLError(f"{case.name} has not finished")
        folder = _existing(config)
    assert folder is not None
    return folder


def _existing(config: RunConfig) -> RunFolder | None:
    parent = Path(config.runs_folder)
    return next((folder for folder in list_runs(parent) if folder.config == config), None) if parent.exists() else None


def in_one_place(case: Case, examples: int) -> list[str]:
    """What makes of a configuration one client that has all examples, and sees so many of them in as many rounds."""
    found = [f"name={case.name}-pooled", "clients_per_round=1", *case.pooled]
    config = configured(case, found)
    batch = config.algorithm.local.batch_size  # type: ignore[attr-defined]
    steps = max(1, round(examples / (config.rounds * batch)))
    return [*found, "algorithm.local.epochs=null", f"algorithm.local.steps={steps}"]


def most_frequent(data: Dataset, special: Sequence[int] = ()) -> float:
    """The accuracy of always the most frequent label of the training examples, those that are `special` left out."""
    labels = torch.cat([data.train(client).all()["y"].flatten() for client in data.client_ids])
    tests = data.global_test.all()["y"].flatten()
    labels, tests = (part[~torch.isin(part, torch.tensor(special))] for part in (labels, tests))
    return float((tests == labels.bincount().argmax()).double().mean())


def most_frequent_token(data: Dataset) -> float:
    """Padding, 0, and tokens that are no words (see `NextToken`) are left out."""
    return most_frequent(data, [0, *(token % (data.classes or 1) for token in getattr(data, "special", ()))])


def mean_of_item(data: Dataset) -> float:
    """The root mean squared error of every item's mean rating in training; of all ratings', where it has none."""
    parts = [data.train(client).all() for client in data.client_ids]
    items, ratings = (torch.cat([part[name].double() for part in parts]) for name in ("x", "y"))
    test = data.global_test.all()
    held, size = test["x"][:, -1], int(max(items.max(), test["x"].max())) + 1
    counts, totals = (torch.bincount(items[:, -1].long(), weights, size) for weights in (None, ratings))
    means = torch.where(counts > 0, totals / counts.clamp(min=1), ratings.mean())
    return float((means[held] - test["y"]).square().mean().sqrt())


def distance_from_mean(data: Dataset) -> float:
    """The area under the ROC curve of how far standardised readings are from their mean."""
    test = data.global_test.all()
    return exact_auc(test["x"].flatten(1).square().sum(dim=1), test["y"])


GUESSES: dict[str, Callable[[Dataset], float]] = {
    "most frequent class": most_frequent,
    "most frequent token": most_frequent_token,
    "mean of the item": mean_of_item,
    "distance from the mean": distance_from_mean,
}


def measured(case: Case, seed: int, folder: Path) -> Iterator[Found]:
    """Clients and one place, with the same network and as many examples."""
    common = [f"seed={seed}", f"runs_folder={folder}"]
    experiment = prepare(configured(case, common), [])
    base = {
        "data": case.name,
        "metric": case.metric,
        "seed": seed,
        "guess": GUESSES[case.guess](experiment.data),
        "clients": len(experiment.data.client_ids),
        "parameters": sum(part.numel() for part in experiment.model.parameters() if part.requires_grad),
    }
    federated = carried_out(case, common)
    yield base | told(federated, "federated", f"{'client' if case.clients else 'test'}_{case.metric}")
    examples = sum(row.get("examples", 0) for row in federated.rows)
    pooled = carried_out(case, [*in_one_place(case, examples), *common])
    yield base | told(pooled, "in one place", f"test_{case.metric}")


def told(folder: RunFolder, how: str, name: str) -> Found:
    """A run in a few numbers."""
    rows: list[Row] = folder.rows
    curve = [[row["round"], row[name]] for row in rows if name in row]
    return {
        "how": how,
        "rounds": rows[-1]["round"],
        "per_round": folder.config.clients_per_round,
        "examples": sum(row.get("examples", 0) for row in rows),
        "seconds": math.fsum(row["seconds"] for row in rows),
        "curve": curve,
        "last": curve[-1][1],
    }


def table(found: Sequence[Found]) -> Iterator[str]:
    """As Markdown: mean and deviation over seeds."""
    titles = ["data set", "measured", "clients, per round", "rounds", "parameters", "examples seen", "seeds", "a guess", "FedAvg"]
    yield f"| {' | '.join([*titles, 'in one place'])} |"
    yield f"|{'---|' * (len(titles) + 1)}"
    for case in CASES:
        federated, central = (_runs(found, case, how) for how in ("federated", "in one place"))
        if federated:
            one = federated[0]
            cells = [
                case.name,
                case.metric.replace("_", " "),
                f"{one['clients']}, {one['per_round']}",
                f"{one['rounds']}",
                f"{one['parameters']:,}",
                f"{statistics.fmean(run['examples'] for run in federated):,.0f}",
                ", ".join(str(count) for count in dict.fromkeys([len(federated), len(central)]) if count),
                f"{case.guess} {statistics.fmean(run['guess'] for run in federated):.3f}",
                f"**{spread([run['last'] for run in federated])}**",
                spread([run["last"] for run in central]),
            ]
            yield f"| {' | '.join(cells)} |"


def _runs(found: Sequence[Found], case: Case, how: str) -> list[Found]:
    return [run for run in found if (run["data"], run["how"]) == (case.name, how)]


def spread(values: Sequence[float]) -> str:
    if not values:
        return "–"
    return f"{statistics.fmean(values):.3f}" + (f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else "")


def draw(found: Sequence[Found], path: Path) -> None:
    """A panel per data set: what is measured over rounds, a line per seed."""
    cases = [case for case in CASES if _runs(found, case, "federated")]
    columns = math.isqrt(len(cases) - 1) + 1
    lines = -(-len(cases) // columns)
    figure = Figure(figsize=(3.6 * columns, 2.9 * lines + 0.4), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(lines, columns, squeeze=False).flatten()
    for axes, case in zip(panels, cases, strict=False):
        _panel(axes, case, found)
    for axes in panels[len(cases) :]:
        axes.set_axis_off()
    figure.legend(*panels[0].get_legend_handles_labels(), frameon=False, ncols=3, loc="outside upper center")
    figure.savefig(path)


def _panel(axes: Axes, case: Case, found: Sequence[Found]) -> None:
    for how, colour in (("in one place", "#000000"), ("federated", "#D55E00")):
        for k, run in enumerate(_runs(found, case, how)):
            label = {"federated": "FedAvg"}.get(how, how) if k == 0 else None
            axes.plot(*np.transpose(run["curve"]), color=colour, linewidth=1.3, alpha=0.8, label=label)
    guess = statistics.fmean(run["guess"] for run in _runs(found, case, "federated"))
    axes.axhline(guess, color="0.5", linestyle=":", label="a guess")
    axes.set_title(f"{case.name}: {case.metric.replace('_', ' ')}", fontsize=9)
    axes.set_xlabel("round", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.data.table", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=[case.name for case in CASES], default=[case.name for case in CASES])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("runs/data"))
    asked = parser.parse_args(arguments)
    kept = asked.folder / "results.json"
    found: list[Found] = json.loads(kept.read_text()) if kept.exists() else []
    for case in CASES:
        for seed in range(min(asked.seeds, case.seeds)) if case.name in asked.only else ():
            try:
                for new in measured(case, seed, asked.folder):
                    found = [run for run in found if any(run[key] != new[key] for key in ("data", "seed", "how"))] + [new]
                    write_atomic(kept, json.dumps(found) + "\n")
            except FedMLError as error:
                print(f"{case.name} is left out: {str(error).splitlines()[0]}", file=sys.stderr)
                break
    if found:
        lines = "\n".join(table(found))
        write_atomic(asked.folder / "table.md", lines + "\n")
        draw(found, asked.folder / "curves.png")
        print(lines)


if __name__ == "__main__":
    main()
