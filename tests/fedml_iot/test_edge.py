"""`fedml serve` and `fedml join` as real processes at a real broker: parity, and kill -9 of everything."""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from fedml_api import simulate
from fedml_api.run.config import prepare, read_config
from fedml_api.standalone.engine import SequentialSession, Standalone
from tests.brokers import Mosquitto

DEVICES = ["0", "1", "2", "3"]
CONFIG = {
    "name": "edge",
    "seed": 3,
    "rounds": 12,
    "clients_per_round": 3,
    "data": {"name": "digits", "clients": 4},
    "model": "2nn",
    "algorithm": {"name": "fedavg", "local": {"batch_size": 4, "epochs": 4}},
    "threads": 1,
    "evaluate_every": 4,
    "checkpoint_every": 1,
}


class Federation:
    """A server and its devices below one folder."""

    def __init__(self, folder: Path, broker: Mosquitto, **engine: object) -> None:
        self.folder, self.broker = folder, broker
        self.devices: dict[str, subprocess.Popen[bytes]] = {}
        self.started: list[subprocess.Popen[bytes]] = []
        self.engine = {"name": "edge", "broker": broker.url, "devices": 3, "minimum": 1, "deadline": 10.0} | engine
        (folder / "edge.yaml").write_text(yaml.safe_dump(CONFIG | {"engine": self.engine}))

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "fedml_api.cli", *arguments]
        name = f"{arguments[0]}-{time.monotonic_ns()}"
        with (self.folder / f"{name}.json").open("w") as out, (self.folder / f"{name}.txt").open("w") as log:
            process = subprocess.Popen(command, cwd=self.folder, stdout=out, stderr=log)
        self.started.append(process)
        return process

    def join(self, *names: str) -> None:
        for name in names:
            data = ["--data", f"data/{name}", "--state", f"state/{name}"]
            self.devices[name] = self.start("join", f"{self.broker.url}/default", "--name", name, *data)

    def serve(self) -> subprocess.Popen[bytes]:
        return self.start("serve", "edge.yaml", "--format", "json")

    def resume(self) -> subprocess.Popen[bytes]:
        return self.start("serve", str(self.run), "--resume", "--format", "json")

    @property
    def run(self) -> Path:
        (run,) = self.folder.glob("runs/[!.]*")
        return run.relative_to(self.folder)

    def rows(self) -> list[dict[str, object]]:
        paths = list(self.folder.glob("runs/[!.]*/metrics.jsonl"))
        return [json.loads(line) for line in paths[0].read_text().splitlines()] if paths else []

    def wait_for_round(self, round: int, server: subprocess.Popen[bytes]) -> None:
        end = time.monotonic() + 60
        while not any(row["round"] >= round for row in self.rows()):
            assert server.poll() is None, "the server ended"
            assert time.monotonic() < end, "no progress"
            time.sleep(0.01)

    def result(self, server: subprocess.Popen[bytes]) -> dict[str, object]:
        assert server.wait(120) == 0, self.logs("*")
        newest = max(self.folder.glob("serve-*.json"), key=lambda path: path.name)
        return json.loads(newest.read_text())

    def logs(self, who: str) -> str:
        return "".join(f"--- {path.name}\n{path.read_text()}" for path in sorted(self.folder.glob(f"{who}-*.txt")))

    def stop(self) -> None:
        for process in self.started:
            process.kill()
            process.wait()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    (tmp_path / "broker").mkdir()
    with Mosquitto(tmp_path / "broker") as broker:
        yield broker


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clients' data as `fedml export` writes it."""
    folder = tmp_path_factory.mktemp("export")
    (folder / "edge.yaml").write_text(yaml.safe_dump(CONFIG))
    command = [sys.executable, "-m", "fedml_api.cli", "export", "edge.yaml", "data"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder / "data"


@pytest.fixture
def federation(tmp_path: Path, broker: Mosquitto, exported: Path) -> Iterator[Federation]:
    federation = Federation(tmp_path, broker)
    shutil.copytree(exported, tmp_path / "data")
    yield federation
    federation.stop()


def reference(federation: Federation, rows: list[dict[str, object]]) -> str:
    """SHA-256 of a simulation in which exactly those devices take part in each round that did."""
    config, _ = read_config(federation.folder / "edge.yaml", ["engine=standalone"])
    one = prepare(config, [])
    missing = {row["round"]: row.get("missing", []) for row in rows}
    present = {row["round"]: row["clients"] + len(missing[row["round"]]) for row in rows if row["round"]}

    class Replay(SequentialSession):
        def select(self, count, seed, round):
            assert present[round + 1] == count, "fewer were asked than wanted: this round cannot be replayed"
            return [client for client in super().select(count, seed, round) if client not in missing[round + 1]]

    class ReplayEngine(Standalone):
        def open(self, setup):
            from contextlib import nullcontext

            return nullcontext(Replay(setup))

    one.engine = ReplayEngine()
    return simulate(one).sha256


def undisturbed(federation: Federation, *changes: str) -> str:
    config, _ = read_config(federation.folder / "edge.yaml", ["engine=standalone", *changes])
    return simulate(prepare(config, [])).sha256


def test_devices_train_the_model_of_the_simulation(federation):
    federation.engine["devices"] = 4
    federation.join(*DEVICES)
    server = federation.start("serve", "edge.yaml", "engine.devices=4", "--format", "json")
    found = federation.result(server)
    assert found["sha256"] == undisturbed(federation)
    for device in federation.devices.values():
        assert device.wait(20) == 0  # told that the run is over


@pytest.mark.parametrize("moment", ["idle", "training", "anywhere"])
def test_a_device_is_killed_and_joins_again(federation, moment):
    kill_devices(federation, moment, random.Random(moment))


def kill_devices(federation: Federation, moment: str, draw: random.Random) -> None:
    """One device dies and comes back; the result is that of a simulation over those who replied."""
    federation.join(*DEVICES)
    server = federation.start("serve", "edge.yaml", "engine.devices=4", "--format", "json")
    if moment == "idle":
        victim = "3"
        federation.wait_for_round(0, server)
    else:
        victim = draw.choice(DEVICES)
        federation.wait_for_round(draw.randrange(1, 5), server)
        time.sleep(draw.uniform(0.0, 0.3) if moment == "anywhere" else 0.1)
    federation.devices[victim].kill()
    federation.devices[victim].wait()
    federation.join(victim)
    found = federation.result(server)
    rows = federation.rows()
    assert [row["round"] for row in rows] == list(range(13))
    assert found["sha256"] == reference(federation, rows)


@pytest.mark.parametrize("share", [0.3, 0.7])
def test_the_server_is_killed_and_goes_on(federation, share):
    kill_server(federation, share)


def kill_server(federation: Federation, share: float) -> None:
    federation.join(*DEVICES)
    server = federation.start("serve", "edge.yaml", "engine.devices=4", "--format", "json")
    federation.wait_for_round(round(share * 12), server)
    time.sleep(random.uniform(0, 0.2))
    server.kill()
    server.wait()
    found = federation.result(federation.resume())
    assert found["sha256"] == undisturbed(federation)


def test_the_broker_is_killed_and_comes_back_with_its_default_configuration(federation, broker):
    federation.join(*DEVICES)
    server = federation.start("serve", "edge.yaml", "engine.devices=4", "engine.deadline=60", "--format", "json")
    federation.wait_for_round(4, server)
    broker.kill()
    time.sleep(0.5)
    broker.start()
    assert federation.result(server)["sha256"] == undisturbed(federation)


def test_who_does_not_belong_is_refused_and_told_what_to_do(federation):
    federation.join(*DEVICES[:3])
    server = federation.serve()
    federation.wait_for_round(0, server)
    arguments = ["--data", "data/3", "--state", "state/3"]
    stranger = federation.start("join", f"{federation.broker.url}/default", "--name", "3", "--identity", "0" * 64, *arguments)
    twin = federation.start("join", f"{federation.broker.url}/default", "--name", "1", *arguments)
    assert stranger.wait(60) != 0
    assert twin.wait(60) != 0
    federation.result(server)
    assert "start both with the same one" in federation.logs("join")
    assert "'1'" in federation.logs("join")
    assert "refused 3" in federation.logs("serve")


@pytest.mark.soak
@pytest.mark.parametrize("case", range(30))
def test_devices_killed_at_random(federation, case):
    kill_devices(federation, ["idle", "training", "anywhere"][case % 3], random.Random(case))


@pytest.mark.soak
@pytest.mark.parametrize("case", range(10))
def test_servers_killed_at_random(federation, case):
    kill_server(federation, random.Random(case).uniform(0, 0.95))


def test_devices_need_no_environment_of_the_server():
    """Nothing that a device imports is beyond torch, numpy, msgspec and paho."""
    code = """
import sys
allowed = {"torch", "numpy", "msgspec", "paho", "fedml_core", "fedml_api", "fedml_iot"}
before = set()
import torch, numpy, msgspec, paho.mqtt.client
before = {name.partition(".")[0] for name in sys.modules}
class Wall:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in allowed | before | set(sys.stdlib_module_names):
            raise ImportError(f"{name} is not there on a device")
sys.meta_path.insert(0, Wall())
import fedml_api.cli, fedml_iot.device, fedml_iot.commands, fedml_core.communication.mqtt, fedml_core.communication.reliable
"""
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])})


def test_hostile_bytes_on_the_servers_topics_change_nothing(federation):
    """A thousand messages, random or real ones with bytes changed, under real and invented names, while the server trains."""
    from paho.mqtt.client import CallbackAPIVersion, Client

    captured: list[tuple[str, bytes]] = []
    client = Client(CallbackAPIVersion.VERSION2)
    client.on_message = lambda _client, _data, message: captured.append((message.topic, message.payload))
    client.connect("127.0.0.1", federation.broker.port)
    client.subscribe("fedml/default/to/#")
    client.loop_start()
    federation.join(*DEVICES)
    server = federation.start("serve", "edge.yaml", "engine.devices=4", "engine.deadline=60", "--format", "json")
    federation.wait_for_round(1, server)
    draw = random.Random(0)
    real = list(captured)
    for i in range(1000):
        topic, payload = draw.choice(real)
        if i % 3 == 0:
            payload = draw.randbytes(draw.randrange(0, 2000))
        elif payload:
            place = draw.randrange(len(payload))
            payload = payload[:place] + draw.randbytes(draw.randrange(1, 9)) + payload[place + draw.randrange(0, 9) :]
        if i % 2:
            topic = f"fedml/default/to/server/nobody-{i}"
        client.publish(topic, payload)
    found = federation.result(server)
    client.loop_stop()
    client.disconnect()
    assert found["sha256"] == undisturbed(federation)
    assert all("missing" not in row for row in federation.rows())


def test_a_gateway_hosts_several_clients(federation):
    for gateway, clients in (("east", "01"), ("west", "23")):
        for client in clients:
            target = federation.folder / gateway / client
            target.parent.mkdir(exist_ok=True)
            (federation.folder / "data" / client).rename(target)
        federation.start(
            "join", f"{federation.broker.url}/default", "--name", gateway, "--data", gateway, "--state", f"state/{gateway}"
        )
    server = federation.start("serve", "edge.yaml", "engine.devices=2", "--format", "json")
    assert federation.result(server)["sha256"] == undisturbed(federation)


def memory(process: subprocess.Popen[bytes]) -> float:
    """Resident megabytes."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


@pytest.mark.soak
def test_fifty_devices_on_one_broker(tmp_path, broker):
    """Eight processes and forty-two light devices, all in every round. A reply lost or counted twice would change the bits."""
    changes = {"data": {"name": "digits", "clients": 50}, "clients_per_round": 50, "rounds": 20}
    config = CONFIG | changes | {"engine": {"name": "edge", "broker": broker.url, "devices": 50, "minimum": 50, "deadline": 120.0}}
    federation = Federation(tmp_path, broker)
    (tmp_path / "edge.yaml").write_text(yaml.safe_dump(config))
    assert federation.start("export", "edge.yaml", "data").wait() == 0
    names = [str(client) for client in range(50)]
    light = [sys.executable, "-m", "tests.fedml_iot.light_devices", broker.url, "default", str(tmp_path / "data"), *names[8:]]
    try:
        with (tmp_path / "light.txt").open("w") as log:
            federation.started.append(subprocess.Popen(light, cwd=Path(__file__).parents[2], stdout=log, stderr=log))
        federation.join(*names[:8])
        server = federation.serve()
        federation.wait_for_round(4, server)
        early = memory(server)
        federation.wait_for_round(19, server)
        late = memory(server)
        found = federation.result(server)
    finally:
        federation.stop()
    rows = federation.rows()[1:]
    seconds = sum(row["seconds"] for row in rows)
    print(f"server memory {early:.0f} MB after round 4, {late:.0f} MB after round 19; {seconds:.1f} s for 20 rounds")
    assert [row["clients"] for row in rows] == [50] * 20
    assert found["sha256"] == undisturbed(federation)
    assert late < early * 1.1
