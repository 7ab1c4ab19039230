"""The `fedml` command.

torch is imported only by the commands that need it, so that `fedml --help` answers at once. Exit codes: 0 done; 1 the run failed;
2 the configuration, the data or the run folder cannot be used; 130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import logging
import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedml_core.errors import FedMLError

if TYPE_CHECKING:
    from fedml_api.run.folder import RunFolder

KINDS = ["algorithms", "data", "partitions", "models", "engines", "runs"]


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parser().parse_args(arguments)
    options.again = [sys.executable, "-m", "fedml_api.cli", *arguments]
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.INFO, stream=sys.stderr)
    try:
        return int(options.command(options))
    except FedMLError as error:
        lines = str(error).splitlines()
        if getattr(options, "format", "text") == "json":
            print(json.dumps({"errors": lines}))
        print(
            f"error: {lines[0]}" if len(lines) == 1 else f"{len(lines)} errors:\n" + "\n".join(f"  - {line}" for line in lines),
            file=sys.stderr,
        )
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; `fedml list runs` shows the run, `fedml resume RUN` goes on with it", file=sys.stderr)
        return 130


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="fedml", description="Federated learning for PyTorch: simulation, clusters and devices from one program."
    )
    commands = top.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(name: str, function: Any, text: str, json_format: bool = True) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(command=function)
        if json_format:
            added.add_argument("--format", choices=["text", "json"], default="text", help="how to print the result (default: text)")
        return added

    run = command("run", run_command, "Train as a configuration says, into a new run folder.")
    run.add_argument("config", type=Path, help="YAML file, e.g. experiments/demo/config.yaml")
    run.add_argument("overrides", nargs="*", metavar="key=value", help="change a setting, e.g. rounds=20 algorithm.local.lr=0.05")
    resume = command("resume", resume_command, "Go on with a run from its newest sound checkpoint.")
    resume.add_argument("run", type=Path, help="the run's folder")
    serve = command("serve", serve_command, "Train with the devices that join over MQTT, as a configuration says.")
    serve.add_argument("config", type=Path, help="YAML file, or with --resume the folder of a run to go on with")
    serve.add_argument(
        "overrides", nargs="*", metavar="key=value", help="change a setting, e.g. engine.devices=5 engine.deadline=30"
    )
    serve.add_argument("--resume", action="store_true", help="go on with a run")
    broker = command("broker", broker_command, "Run a small MQTT broker, for trying things out.", json_format=False)
    broker.add_argument("--host", default="127.0.0.1")
    broker.add_argument("--port", type=int, default=1883)
    broker.add_argument("--insecure", action="store_true", help="let in whoever asks, also from other machines")
    listing = command("list", list_command, "Show what there is to choose from, or the runs there are.")
    listing.add_argument("kind", choices=KINDS)
    listing.add_argument("--runs-folder", type=Path, default=Path("runs"))
    _data_parser(command("data", data_command, "Show, check, partition and fetch data sets.", json_format=False))
    plot = command("plot", plot_command, "Draw the curves of several runs in one picture.")
    plot.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    plot.add_argument("--output", type=Path, default=Path("curves.png"))
    doctor = command("doctor", doctor_command, "Show versions, devices, threads, and whether MPI and a broker can be reached.")
    doctor.add_argument("--broker", default="localhost:1883", metavar="HOST:PORT")
    for point in sorted(importlib.metadata.entry_points(group="fedml.commands"), key=lambda point: point.name):
        point.load()(commands)
    return top


def run_command(options: argparse.Namespace) -> int:
    from fedml_api.run.config import prepare, read_config
    from fedml_api.run.folder import RunFolder

    config, problems = read_config(options.config, options.overrides)
    experiment = prepare(config, problems)
    if _works_for_another(experiment, options):
        return 0
    return _train(RunFolder.create(config, experiment), experiment, options.format)


def _works_for_another(experiment: Any, options: argparse.Namespace) -> bool:
    """Start this command again in the processes that the engine needs, or be one of its workers; False in the one that leads."""
    if (command := experiment.engine.command(options.again)) is not None:
        os.execvpe(command[0][0], *command)
    return bool(experiment.work())


def resume_command(options: argparse.Namespace) -> int:
    from fedml_api.run.config import prepare
    from fedml_api.run.folder import RunFolder

    folder = RunFolder(options.run)
    if folder.result is not None:
        print(f"{folder.path} is finished already", file=sys.stderr)
        return _report(folder, options.format)
    experiment = prepare(folder.config, [])
    folder.check_data(experiment)
    if _works_for_another(experiment, options):
        return 0
    return _train(folder, experiment, options.format)


def serve_command(options: argparse.Namespace) -> int:
    if options.resume:
        options.run = options.config
        return resume_command(options)
    options.overrides = ["engine.name=edge", *options.overrides]
    return run_command(options)


def broker_command(options: argparse.Namespace) -> int:
    from fedml_core.communication.broker import embedded_broker

    with embedded_broker(options.host, options.port, insecure=options.insecure):
        print(f"broker on mqtt://{options.host}:{options.port}; Ctrl-C ends it", file=sys.stderr)
        threading.Event().wait()
    return 0


def _train(folder: RunFolder, experiment: Any, format: str) -> int:
    from rich.console import Console
    from rich.logging import RichHandler

    from fedml_api.data import FederatedData
    from fedml_api.data.picture import draw_clients
    from fedml_api.run.clients import newest_table
    from fedml_api.run.experiment import Observer, simulate
    from fedml_api.run.observers import Attendance, LiveProgress, Metrics, PlainProgress, TensorBoard
    from fedml_api.run.plots import draw_curves

    config = folder.config
    console = Console(stderr=True)
    progress = LiveProgress(console) if console.is_terminal else PlainProgress(sys.stderr)
    if console.is_terminal:
        # Through the console, lines of the log appear above the bar; else they would run into it.
        handler = RichHandler(console=console, show_time=False, show_path=False)
        logging.basicConfig(format="%(message)s", level=logging.INFO, handlers=[handler], force=True)
    observers: list[Observer] = [Metrics(folder.path), progress]
    if experiment.engine.brings_clients:
        observers.append(Attendance())
    if config.tensorboard:
        observers.append(TensorBoard(folder.path))
    with folder.locked():
        print(f"run folder: {folder.path}", file=sys.stderr)
        if isinstance(experiment.data, FederatedData) and experiment.data.labelled:
            draw_clients(experiment.data, folder.path / "clients.png")
        try:
            result = simulate(experiment, observers, folder.checkpoints, config.checkpoint_every, folder.rows)
        finally:
            if isinstance(progress, LiveProgress):
                progress.close()
        draw_curves({folder.path.name: result.history}, folder.path / "curve.png", {folder.path.name: newest_table(folder.path)})
        folder.finish(result)
    return _report(folder, format)


def _report(folder: RunFolder, format: str) -> int:
    result = folder.result
    assert result is not None
    if format == "json":
        print(json.dumps({"run": str(folder.path), **result}))
        return 0
    for name, value in result["last"].items():
        if name.startswith("test_"):
            print(f"{name.replace('_', ' ')}: {value:.4f}")
    print(f"training time: {result['seconds']:.1f} s, {result['seconds'] / result['rounds']:.3f} s per round")
    print(f"curve: {folder.path / 'curve.png'}")
    print(f"SHA-256 of the final parameters: {result['sha256']}")
    return 0


def list_command(options: argparse.Namespace) -> int:
    if options.kind == "runs":
        from fedml_api.run.folder import list_runs

        rows = [_run_row(folder) for folder in list_runs(options.runs_folder)]
    else:
        rows = _choices(options.kind)
    if not rows and options.format == "text":
        print(f"no {options.kind} in {options.runs_folder}" if options.kind == "runs" else f"no {options.kind}")
    _print_rows(rows, options.format)
    return 0


def _print_rows(rows: list[dict[str, Any]], format: str) -> None:
    if format == "json":
        print(json.dumps(rows))
        return
    widths = {key: max(len(str(row[key])) for row in rows) for key in (rows[0] if rows else ())}
    for row in rows:
        print("  ".join(str(value).ljust(widths[key]) for key, value in row.items()).rstrip())


def _choices(kind: str) -> list[dict[str, Any]]:
    from fedml_api import algorithms as _algorithms  # noqa: F401 (registers)
    from fedml_api import distributed as _distributed  # noqa: F401 (registers)
    from fedml_api import standalone as _standalone  # noqa: F401 (registers)
    from fedml_api.data import data_sources
    from fedml_api.model import models
    from fedml_core.federation import algorithms, engines
    from fedml_core.partition import partitioners

    registry: Any = {
        "algorithms": algorithms,
        "data": data_sources,
        "partitions": partitioners,
        "models": models,
        "engines": engines,
    }[kind]
    return [{"name": name, "about": (registry[name].__doc__ or "").strip().splitlines()[0]} for name in registry]


def _run_row(folder: RunFolder) -> dict[str, Any]:
    result, rows = folder.result, folder.rows
    tested = [row["test_accuracy"] for row in rows if "test_accuracy" in row]
    return {
        "run": str(folder.path),
        "state": "finished" if result else "not finished",
        "round": rows[-1]["round"] if rows else 0,
        "accuracy": round(tested[-1], 4) if tested else None,
        "sha256": result["sha256"] if result else None,
    }


def _data_parser(data: argparse.ArgumentParser) -> None:
    actions = data.add_subparsers(title="actions", required=True, metavar="ACTION", dest="action")
    for name, text in {
        "list": "Show all data sets, and which of them are on disk.",
        "show": "Show the counts and shapes of a data set.",
        "partition": "Save who holds which training example of a data set, for other runs to use.",
        "check": "Read every client of a data set, and compare training and test examples.",
        "get": "Fetch the files of a data set; after an interruption, go on.",
    }.items():
        action = actions.add_parser(name, help=text, description=text)
        action.add_argument("--format", choices=["text", "json"], default="text", help="how to print the result (default: text)")
        action.add_argument("--data-folder", type=Path, default=Path("data"), help="where data sets lie (default: data)")
        if name != "list":
            action.add_argument("name", help="as `fedml data list` shows it")
        if name in ("show", "partition", "check"):
            action.add_argument("settings", nargs="*", metavar="key=value", help="change a setting, e.g. clients=100")
            action.add_argument("--seed", type=int, default=0)
        if name == "show":
            action.add_argument("--picture", type=Path, metavar="FILE", help="draw how much of each class clients hold (.png)")
        if name == "partition":
            action.add_argument("--output", type=Path, default=Path("partition.json"), help="(default: partition.json)")


def data_command(options: argparse.Namespace) -> int:
    from fedml_api.run import data_commands

    root = options.data_folder
    match options.action:
        case "list":
            _print_rows(data_commands.list_data(root), options.format)
            return 0
        case "show":
            found = data_commands.show_data(options.name, options.settings, root, options.seed, options.picture)
        case "partition":
            found = data_commands.partition_data(options.name, options.settings, root, options.seed, options.output)
        case "check":
            found = data_commands.check_data(options.name, options.settings, root, options.seed)
        case _:
            found = data_commands.get_data(options.name, root)
    if options.format == "json":
        print(json.dumps(found))
        return 0
    width = max(map(len, found))
    for name, value in found.items():
        print(f"{name:<{width}}  {', '.join(value) if isinstance(value, list) else value}")
    return 0


def plot_command(options: argparse.Namespace) -> int:
    from fedml_api.run.clients import newest_table
    from fedml_api.run.folder import RunFolder
    from fedml_api.run.plots import draw_curves
    from fedml_core.errors import RunError

    folders = [RunFolder(path) for path in dict.fromkeys(options.runs)]
    names = [folder.path.resolve().name for folder in folders]
    named = {name if names.count(name) == 1 else str(folder.path): folder for name, folder in zip(names, folders, strict=True)}
    runs = {name: folder.rows for name, folder in named.items()}
    if empty := [name for name, rows in runs.items() if not rows]:
        raise RunError(f"nothing to draw yet: {', '.join(empty)} has no metrics; `fedml resume` it first")
    if options.output.suffix != ".png" or not options.output.parent.is_dir():
        raise RunError(f"--output {options.output}: must be a .png file in a folder that exists")
    draw_curves(runs, options.output, {name: newest_table(folder.path) for name, folder in named.items()})
    print(json.dumps({"picture": str(options.output)}) if options.format == "json" else f"picture: {options.output}")
    return 0


def doctor_command(options: argparse.Namespace) -> int:
    from fedml_api.run.doctor import examine

    findings = examine(options.broker)
    if options.format == "json":
        print(json.dumps(findings))
        return 0
    for name, value in findings.items():
        print(f"{name.replace('_', ' '):<12} {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
