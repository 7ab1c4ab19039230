"""A server and its devices as processes at a real broker, and the simulation that their result has to equal."""

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import yaml

from fedml_api import simulate
from fedml_api.run.config import prepare, read_config
from fedml_api.standalone import Standalone
from fedml_api.standalone.auto import Choice
from fedml_api.standalone.engine import StandaloneSession
from fedml_api.standalone.state_store import StateStore
from fedml_core.federation import sample_clients
from tests.brokers import Mosquitto
from tests.fedml_iot.asked import FILE
from tests.forked import FEDML, Forked

DEVICES = ["0", "1", "2", "3"]
CONFIG = {
    "name": "edge",
    "seed": 3,
    "rounds": 12,
    "clients_per_round": 3,
    "data": {"name": "digits", "clients": 4},
    "model": "2nn",
    "algorithm": {"name": "fedavg", "local": {"batch_size": 4, "epochs": 2}},
    "threads": 1,
    "evaluate_every": 4,
    "checkpoint_every": 1,
}
Process = Forked | subprocess.Popen[bytes]
SERVE = f"from tests.fedml_iot.asked import write_down; write_down(); {FEDML}"
SEQUENTIAL = ["engine=standalone", "engine.executor=sequential", "engine.processes=1"]


class Federation:
    """A server and its devices below one folder; the devices reach the broker at `url`."""

    def __init__(self, folder: Path, broker: Mosquitto, config: Mapping[str, object] = CONFIG, url: str | None = None) -> None:
        self.folder, self.broker, self.url = folder, broker, url or broker.url
        self.devices: dict[str, Process] = {}
        self.started: list[Process] = []
        self._logs: dict[int, Path] = {}
        engine = {"name": "edge", "broker": broker.url, "devices": 3, "minimum": 1, "deadline": 10.0}
        (folder / "edge.yaml").write_text(yaml.safe_dump(dict(config) | {"engine": engine}))

    def start(self, *arguments: str, code: str = FEDML, stderr: int | None = None, afresh: bool = False) -> Process:
        """Run a `fedml` command, or other `code` with the same arguments; `afresh`: as a user does, by a Python of its own."""
        name = f"{arguments[0]}-{time.monotonic_ns()}"
        with (self.folder / f"{name}.json").open("w") as out, (self.folder / f"{name}.txt").open("w") as log:
            errors = log if stderr is None else stderr
            if afresh:
                command = [sys.executable, "-m", "fedml_api.cli", *arguments]
                process = subprocess.Popen(command, cwd=self.folder, stdout=out, stderr=errors)
            else:
                process = Forked(arguments, self.folder, out, errors, code)
        self.started.append(process)
        self._logs[process.pid] = self.folder / f"{name}.txt"
        return process

    def log(self, process: Process) -> str:
        """What a process has said on stderr."""
        return self._logs[process.pid].read_text()

    def join(self, *names: str, **how: Any) -> None:
        for name in names:
            data = ["--data", f"data/{name}", "--state", f"state/{name}"]
            self.devices[name] = self.start("join", f"{self.url}/default", "--name", name, *data, **how)

    def serve(self, *overrides: str, **how: Any) -> Process:
        return self.start("serve", "edge.yaml", *overrides, "--format", "json", **{"code": SERVE} | how)

    def resume(self) -> Process:
        return self.start("serve", str(self.run), "--resume", "--format", "json", code=SERVE)

    @property
    def run(self) -> Path:
        (run,) = self.folder.glob("runs/[!.]*")
        return run.relative_to(self.folder)

    def rows(self) -> list[dict[str, object]]:
        paths = list(self.folder.glob("runs/[!.]*/metrics.jsonl"))
        return [json.loads(line) for line in paths[0].read_text().splitlines()] if paths else []

    def wait_for_round(self, round: int, server: Process) -> None:
        end = time.monotonic() + 60
        while not any(row["round"] >= round for row in self.rows()):
            assert server.poll() is None, "the server ended"
            assert time.monotonic() < end, "no progress"
            time.sleep(0.01)

    def wait_for_log(self, process: Process, text: str, times: int = 1) -> None:
        end = time.monotonic() + 60
        while self.log(process).count(text) < times:
            assert process.poll() is None, self.log(process)
            assert time.monotonic() < end, self.log(process)
            time.sleep(0.01)

    def result(self, server: Process) -> dict[str, object]:
        assert server.wait(120) == 0, self.logs("*")
        newest = max(self.folder.glob("serve-*.json"), key=lambda path: path.name)
        return json.loads(newest.read_text())

    def logs(self, who: str) -> str:
        return "".join(f"--- {path.name}\n{path.read_text()}" for path in sorted(self.folder.glob(f"{who}-*.txt")))

    def stop(self) -> None:
        for process in self.started:
            process.kill()
            process.wait()


def reference(federation: Federation, rows: list[dict[str, object]]) -> str:
    """SHA-256 of a simulation in which exactly those devices take part in each round that did."""
    config, _ = read_config(federation.folder / "edge.yaml", SEQUENTIAL)
    one = prepare(config, [])
    missing = {row["round"]: row.get("missing", []) for row in rows}
    present = {row["round"]: row["clients"] + len(missing[row["round"]]) for row in rows if row["round"]}
    lines = [json.loads(line) for line in (federation.folder / FILE).read_text().splitlines()]
    rounds = {line["round"]: line for line in lines}  # one that a resumed server has begun again counts as it was then

    class Replay(StandaloneSession):
        def select(self, count, seed, round):
            asked = rounds[round]["asked"]
            assert present[round + 1] == len(asked) == count, "fewer were asked than wanted: this round cannot be replayed"
            # Whoever dies is away for a moment, in which others are asked.
            assert asked == sample_clients(rounds[round]["present"], len(asked), seed, round)
            assert set(rounds[round]["present"]) < set(self.population()) or asked == super().select(count, seed, round)
            return [client for client in asked if client not in missing[round + 1]]

    class ReplayEngine(Standalone):
        def open(self, setup):
            return nullcontext(Replay(setup, lambda work: Choice("sequential", 1, 1), StateStore(1 << 30, setup.device)))

    one.engine = ReplayEngine()
    return simulate(one).sha256


_found: dict[str, str] = {}


def undisturbed(federation: Federation, *changes: str) -> str:
    """SHA-256 of a simulation in which all who are asked reply. It is done once for all tests with the same configuration."""
    path = federation.folder / "edge.yaml"
    key = yaml.safe_dump([yaml.safe_load(path.read_text()) | {"engine": None}, changes])
    if key not in _found:
        config, _ = read_config(path, [*SEQUENTIAL, *changes])
        _found[key] = simulate(prepare(config, [])).sha256
    return _found[key]
