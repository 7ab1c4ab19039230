"""Algorithms beside each other: every row of the table in `settings.py`, on every problem, with several seeds.

    python -m experiments.optimisers [--quick] [--algorithms NAME ...] [--problems NAME ...] [--seeds N] [--jobs N] [--folder DIR]

Each run is a process of one thread, as many at a time as there are cores, and leaves a file in the folder; what is there already is
not done again, unless its settings have changed. When all are done, or with Ctrl-C, `table.md` and `curves.png` show what there is.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import math
import multiprocessing
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from experiments.optimisers.settings import FAMILIES, PERSONAL, PROBLEMS, TABLE, Problem, Row
from fedml_api.run.config import prepare, read_config
from fedml_api.run.experiment import simulate
from fedml_api.run.plots import COLOURS
from fedml_api.standalone.auto import cores
from fedml_core.errors import DivergedError, FedMLError
from fedml_core.federation import algorithms
from fedml_core.files import write_atomic

HERE = Path(__file__).parent


class Job(NamedTuple):
    """One run: a configuration beside this file, and what differs from it."""

    problem: str
    algorithm: str
    seed: int
    overrides: tuple[str, ...]

    def path(self, folder: Path) -> Path:
        return folder / self.problem / f"{self.algorithm}-{self.seed}.json"

    def done(self, folder: Path) -> dict[str, Any] | None:
        """What was found with these settings, or None."""
        try:
            found: dict[str, Any] = json.loads(self.path(folder).read_text())
        except (OSError, ValueError):
            return None
        return found if found["overrides"] == list(self.overrides) else None


def overrides(row: Row, problem: Problem, seed: int, quick: bool) -> tuple[str, ...]:
    """What `fedml run PROBLEM.yaml` would be given for this run."""
    fields = {field.name for field in dataclasses.fields(algorithms[row.algorithm])}  # type: ignore[arg-type]
    local = next((path for path in ("local", "algorithm.local", "inner.local") if path.partition(".")[0] in fields), None)
    rate = row.lr[PROBLEMS.index(problem)]
    found = [f"lr={rate}"] if local is None else [f"{local}.{setting}" for setting in (f"lr={rate}", *problem.local.split())]
    below = [f"algorithm.{setting}" for setting in (*found, *row.more.split())]
    return (f"algorithm.name={row.algorithm}", *below, f"seed={seed}", *(["rounds=6", "clients_per_round=3"] if quick else []))


def jobs(options: argparse.Namespace) -> list[Job]:
    """All runs that were asked for, seed by seed, so that early results are of everything."""
    rows = [row for row in TABLE if row.algorithm in algorithms and row.algorithm in (options.algorithms or algorithms)]
    problems = [problem for problem in PROBLEMS if not options.problems or problem.name in options.problems]
    return [
        Job(problem.name, row.algorithm, seed, overrides(row, problem, seed, options.quick))
        for seed in range(1 if options.quick else options.seeds)
        for problem in problems
        for row in rows
    ]


def carry_out(job: Job, folder: Path) -> dict[str, Any]:
    """Run, and keep what came of it.

    Raises:
        ConfigError: the algorithm does not go with the problem, or its data are not there.
    """
    logging.getLogger("fedml").setLevel(logging.ERROR)
    experiment = prepare(*read_config(HERE / f"{job.problem}.yaml", list(job.overrides)))
    started = time.perf_counter()
    found: dict[str, Any] = {"overrides": job.overrides}
    try:
        found |= {"rows": simulate(experiment).history}
    except DivergedError as error:
        found |= {"diverged": str(error), "rows": []}
    found["seconds"] = time.perf_counter() - started
    job.path(folder).parent.mkdir(parents=True, exist_ok=True)
    write_atomic(job.path(folder), json.dumps(found))
    return found


def carry_all_out(wanted: Sequence[Job], folder: Path, at_a_time: int) -> None:
    """Those runs that are not done yet, with a line for each."""
    todo = [job for job in wanted if job.done(folder) is None]
    print(f"{len(wanted)} runs, {len(wanted) - len(todo)} of them done before; {at_a_time} at a time", flush=True)
    started, skipped = time.monotonic(), set()
    with ProcessPoolExecutor(at_a_time, multiprocessing.get_context("spawn")) as pool:
        asked = {pool.submit(carry_out, job, folder): job for job in todo}
        try:
            for count, future in enumerate(as_completed(asked), 1):
                job = asked[future]
                try:
                    found = future.result()
                except FedMLError as error:
                    if (reason := str(error).splitlines()[0]) not in skipped:
                        print(f"skipped: {job.problem} {job.algorithm}: {reason}", flush=True)
                    skipped.add(reason)
                    continue
                except Exception as error:  # the others need not suffer
                    print(f"failed: {job.problem} {job.algorithm}, seed {job.seed}: {error!r}", flush=True)
                    continue
                left = (time.monotonic() - started) / count * (len(todo) - count)
                last = found["rows"][-1:]
                came = f"test accuracy {last[0]['test_accuracy']:.3f}" if last else "diverged"
                print(
                    f"{count}/{len(todo)}  {job.problem} {job.algorithm}, seed {job.seed}: {came}, {found['seconds']:.1f} s; "
                    f"about {math.ceil(left / 60)} min left",
                    flush=True,
                )
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            print("interrupted: the same command goes on", flush=True)


def table(wanted: Sequence[Job], folder: Path) -> Iterator[str]:
    """Markdown: a table for every problem, mean and standard deviation over seeds."""
    for problem in PROBLEMS:
        mine = [(job.algorithm, found) for job in wanted if job.problem == problem.name and (found := job.done(folder))]
        if not mine:
            continue
        yield f"## {problem.name}\n"
        yield f"| algorithm | test accuracy | clients' own, mean | worst tenth of clients | rounds to {problem.target} | seconds |"
        yield "|---|---|---|---|---|---|"
        for algorithm in dict.fromkeys(algorithm for algorithm, _ in mine):
            runs = [found for name, found in mine if name == algorithm]
            ends = [found["rows"][-1] for found in runs if found["rows"]]
            measured = ("test_accuracy", "client_accuracy_mean", "client_accuracy_p10")
            cells = [_mean([row[name] for row in ends]) for name in measured]
            lost = len(runs) - len(ends)
            cells[0] += f" ({lost} of {len(runs)} diverged)" if lost else ""
            seconds = statistics.fmean(found["seconds"] for found in runs)
            yield f"| {algorithm} | {' | '.join(cells)} | {_rounds(runs, problem.target)} | {seconds:.1f} |"
        yield ""


def _mean(values: Sequence[float]) -> str:
    if not values:
        return "–"
    return f"{statistics.fmean(values):.3f}" + (f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else "")


def _rounds(runs: Sequence[dict[str, Any]], target: float) -> str:
    """The first evaluated round with the target accuracy, mean and deviation over the seeds that reach it, and how many do."""
    first = [next((row["round"] for row in found["rows"] if row.get("test_accuracy", 0) >= target), None) for found in runs]
    reached = [round for round in first if round is not None]
    if not reached:
        return "–"
    text = f"{statistics.fmean(reached):.0f}" + (f" ± {statistics.stdev(reached):.0f}" if len(reached) > 1 else "")
    return text if len(reached) == len(runs) else f"{text} ({len(reached)} of {len(runs)})"


def picture(wanted: Sequence[Job], folder: Path, path: Path) -> None:
    """A row of panels for every problem, a panel for every family, a curve for every algorithm: the mean over seeds."""
    done: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for job in wanted:
        if (found := job.done(folder)) and found["rows"]:
            done.setdefault((job.problem, job.algorithm), []).append(found)
    problems = [problem for problem in PROBLEMS if any(name == problem.name for name, _ in done)]
    known = {algorithm for _, algorithm in done}
    families = {title: names for title, names in FAMILIES.items() if known & set(names[1:])}
    if not problems or not families:
        return
    size = (4.6 * len(families), 3.6 * len(problems))
    figure = Figure(figsize=size, dpi=120, layout="constrained")
    grid = figure.subplots(len(problems), len(families), squeeze=False, sharey="row", sharex="row")
    for problem, line in zip(problems, grid, strict=True):
        for (title, names), axes in zip(families.items(), line, strict=True):
            metric = "client_accuracy_mean" if title == PERSONAL else "test_accuracy"
            for k, algorithm in enumerate(names):
                if runs := done.get((problem.name, algorithm)):
                    rounds, values = _curve(runs, metric)
                    label = f"{algorithm} {values[-1]:.3f}" if values else algorithm
                    marker = "o" if len(rounds) == 1 else ""
                    axes.plot(rounds, values, color=COLOURS[k % len(COLOURS)], linewidth=1.6, marker=marker, label=label)
            axes.axhline(problem.target, color="0.6", linewidth=0.8, linestyle=":")
            axes.set_title(f"{problem.name}: {title}", fontsize=10)
            axes.set_ylim(0, 1)
            axes.grid(alpha=0.25)
            axes.spines[["top", "right"]].set_visible(False)
            axes.legend(frameon=False, fontsize=7)
        line[0].set_ylabel("accuracy")
    for axes in grid[-1]:
        axes.set_xlabel("round")
    figure.savefig(path)


def _curve(runs: Sequence[dict[str, Any]], metric: str) -> tuple[list[int], list[float]]:
    """Rounds, and the mean over seeds of a metric there."""
    values: dict[int, list[float]] = {}
    for found in runs:
        for row in found["rows"]:
            if metric in row:
                values.setdefault(row["round"], []).append(row[metric])
    rounds = sorted(round for round, seen in values.items() if len(seen) == len(runs))
    return rounds, [statistics.fmean(values[round]) for round in rounds]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.optimisers", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one seed, six rounds of three clients: does everything work?")
    parser.add_argument("--algorithms", nargs="+", metavar="NAME", help="only these")
    parser.add_argument("--problems", nargs="+", choices=[problem.name for problem in PROBLEMS], help="only these")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=cores(), help="runs at a time (default: one for every core)")
    parser.add_argument("--folder", type=Path, help="where results are kept (default: runs/optimisers, or runs/optimisers-quick)")
    options = parser.parse_args(arguments)
    if unknown := set(options.algorithms or ()) - {row.algorithm for row in TABLE if row.algorithm in algorithms}:
        parser.error(f"not in the table of settings.py, or not registered: {', '.join(sorted(unknown))}")
    folder = options.folder or Path("runs") / ("optimisers-quick" if options.quick else "optimisers")
    wanted = jobs(options)
    os.environ["OMP_NUM_THREADS"] = "1"
    carry_all_out(wanted, folder, options.jobs)
    text = "\n".join(table(wanted, folder))
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "table.md", text)
    picture(wanted, folder, folder / "curves.png")
    print(f"\n{text}\ntable: {folder / 'table.md'}, picture: {folder / 'curves.png'}")
