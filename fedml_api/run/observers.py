"""Observers of a run: progress on the terminal, metrics on disk, TensorBoard."""

from __future__ import annotations

import csv
import json
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from fedml_api.distributed.edge import names
from fedml_api.run.clients import Table, write_table
from fedml_api.run.experiment import Experiment, Observer, Result, Row
from fedml_core.files import write_atomic

log = logging.getLogger("fedml")


class Metrics(Observer):
    """Writes `metrics.jsonl` and `metrics.csv`, a row per round as it ends, and what the clients found into `clients/`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.columns: list[str] = []
        self.rows: list[Row] = []
        self.lines: IO[str] | None = None
        self.table: IO[str] | None = None

    def on_start(self, experiment: Experiment, history: Sequence[Row]) -> None:
        write_atomic(self.folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in history))
        self.lines = (self.folder / "metrics.jsonl").open("a", buffering=1)
        self.rows = list(history)

    def on_clients(self, round: int, table: Table) -> None:
        write_table(self.folder, round, table)

    def on_round(self, row: Row) -> None:
        assert self.lines is not None
        self.lines.write(json.dumps(row) + "\n")
        self.rows.append(row)
        if self.table is None or not row.keys() <= set(self.columns):
            self.table = self._new_table()
        else:
            csv.DictWriter(self.table, self.columns, lineterminator="\n").writerow(row)

    def _new_table(self) -> IO[str]:
        """The table of all rows so far, with all their columns."""
        if self.table is not None:
            self.table.close()
        names = dict.fromkeys(name for row in self.rows for name in row)
        self.columns = sorted(names, key=lambda name: (name.startswith("client_"), name.startswith("test_"), name != "round"))
        table = (self.folder / "metrics.csv").open("w", buffering=1, newline="")
        writer = csv.DictWriter(table, self.columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return table

    def on_end(self, result: Result) -> None:
        for file in (self.lines, self.table):
            if file is not None:
                file.close()


class Attendance(Observer):
    """Logs with each round how many of the clients that were asked have replied, and who has not."""

    def on_round(self, row: Row) -> None:
        missing = row.get("missing", [])
        asked = row["clients"] + len(missing)
        log.info("round %d: %d of %d clients replied%s", row["round"], row["clients"], asked, names("; missing: ", missing))


class TensorBoard(Observer):
    """Writes every metric as a scalar over rounds into an event file."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder))

    def on_start(self, experiment: Experiment, history: Sequence[Row]) -> None:
        for row in history:
            self.on_round(row)

    def on_round(self, row: Row) -> None:
        for name, value in row.items():
            if name != "round" and isinstance(value, (int, float)):
                self.writer.add_scalar(name.replace("_", "/", 1), value, row["round"])

    def on_end(self, result: Result) -> None:
        self.writer.close()


class PlainProgress(Observer):
    """A line per evaluation, for logs and pipes; at most one a second, the last always."""

    def __init__(self, stream: IO[str] | None = None) -> None:
        self.stream = stream or sys.stderr
        self.rounds = 0
        self.clock = Clock()
        self.printed = 0.0

    def on_start(self, experiment: Experiment, history: Sequence[Row]) -> None:
        self.rounds = experiment.rounds
        self.clock = Clock()
        if len(history) > 1:
            print(f"going on after round {history[-1]['round']}", file=self.stream, flush=True)

    def on_round(self, row: Row) -> None:
        self.clock.tick()
        due = time.monotonic() - self.printed >= 1 or row["round"] == self.rounds
        if due and ("test_loss" in row or time.monotonic() - self.printed >= 10):
            self.printed = time.monotonic()
            left = self.clock.per_round * (self.rounds - row["round"])
            text = "  ".join(f"{name} {value}" for name, value in shown(row).items())
            line = f"round {row['round']}/{self.rounds}  {text}  {self.clock.per_round:.2f} s/round  {left:.0f} s left"
            print(line, file=self.stream, flush=True)


class LiveProgress(Observer):
    """A bar with round, clients, loss, accuracy, seconds per round and time left, for terminals."""

    def __init__(self, console: Any) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = [
            TextColumn("round {task.completed:.0f}/{task.total:.0f}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[text]}"),
            TextColumn("{task.fields[pace]}"),
            TimeRemainingColumn(compact=True),
            TextColumn("left"),
        ]
        self.progress = Progress(*columns, console=console)
        self.clock = Clock()
        self.seen: dict[str, str] = {}

    def on_start(self, experiment: Experiment, history: Sequence[Row]) -> None:
        self.clock = Clock()
        done = history[-1]["round"]
        self.task = self.progress.add_task("", total=experiment.rounds, completed=done, text="", pace="")
        self.progress.start()

    def on_round(self, row: Row) -> None:
        self.clock.tick()
        self.seen |= shown(row)
        text = "  ".join(f"{name} [bold]{value}[/]" for name, value in self.seen.items())
        self.progress.update(self.task, completed=row["round"], text=text, pace=f"{self.clock.per_round:.2f} s/round")

    def on_end(self, result: Result) -> None:
        self.close()

    def close(self) -> None:
        """Give the terminal back, also when a run is interrupted."""
        self.progress.stop()


class Clock:
    """Seconds per round of this process, evaluation and checkpoints included."""

    def __init__(self) -> None:
        self.started, self.rounds = time.monotonic(), 0

    def tick(self) -> None:
        self.rounds += 1

    @property
    def per_round(self) -> float:
        return (time.monotonic() - self.started) / max(self.rounds, 1)


def shown(row: Row) -> dict[str, str]:
    """The figures of a row that are worth a glance, formatted."""
    names = {"clients": "clients", "train_loss": "loss", "test_loss": "test loss", "test_accuracy": "accuracy"}
    names |= {"client_accuracy_p10": "10 % of clients below"}
    return {label: f"{row[name]:.4g}" if name != "clients" else str(row[name]) for name, label in names.items() if name in row}
