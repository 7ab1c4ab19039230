"""`fedml serve` and `fedml join` as real processes at a real broker: parity, and kill -9 of everything."""

import contextlib
import os
import pty
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fedml_api.run.clients import newest_table
from tests.fedml_iot.federation import CONFIG, DEVICES, Federation, Process, reference, undisturbed


def test_devices_train_the_model_of_the_simulation(federation):
    """One of them, and the server, are started as a user starts them."""
    federation.join("0", afresh=True)
    federation.join(*DEVICES[1:])
    server = federation.serve("engine.devices=4", "evaluate_clients=5", afresh=True)
    found = federation.result(server)
    assert found["sha256"] == undisturbed(federation)
    assert [row["round"] for row in federation.rows() if "client_accuracy_min" in row] == [5, 10, 12]
    assert list(newest_table(federation.folder / str(found["run"]))) == DEVICES
    for device in federation.devices.values():
        assert device.wait(20) == 0  # told that the run is over


@pytest.mark.parametrize("moment", ["idle", "training", "anywhere"])
def test_a_device_is_killed_and_joins_again(federation, moment):
    kill_devices(federation, moment, random.Random(moment))


def kill_devices(federation: Federation, moment: str, draw: random.Random) -> None:
    """One device dies and comes back; the result is that of a simulation over those who replied."""
    federation.join(*DEVICES)
    server = federation.serve("engine.devices=4")
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


def test_the_server_tells_who_is_there(federation):
    federation.join("0", "2")
    server = federation.serve("engine.devices=3", "rounds=6")
    federation.wait_for_log(server, "0 of 3 devices are here (waiting for 3 more)")
    federation.wait_for_log(server, "2 of 3 devices are here: ")
    federation.join("1")
    federation.wait_for_log(server, "3 of 3 devices are here: ")
    federation.wait_for_round(1, server)
    federation.devices["1"].kill()
    federation.wait_for_log(server, "1 is gone")
    federation.wait_for_log(server, "(waiting for 1 more)", times=2)
    federation.join("1")
    federation.result(server)
    lines = federation.log(server).splitlines()
    assert lines.count("INFO: 1 joined; 3 present") + lines.count("INFO: 1 joined; 2 present") == 2
    for row in federation.rows()[1:]:
        missing = row.get("missing", [])
        text = f"; missing: {', '.join(missing)}" if missing else ""
        assert f"INFO: round {row['round']}: {row['clients']} of 3 clients replied{text}" in lines


def test_on_a_terminal_the_log_stays_out_of_the_bar(federation):
    controller, terminal = pty.openpty()
    server = federation.serve("engine.devices=2", "rounds=2", stderr=terminal)
    os.close(terminal)
    screen = b""

    def lines() -> list[str]:
        """What a person sees: what comes after a line was erased, without colours."""
        return [re.sub(r"\x1b\[[\d;?]*\w", "", line.rpartition("\x1b[2K")[2]) for line in screen.decode().splitlines()]

    with contextlib.suppress(OSError):  # when the server has closed the terminal
        while more := os.read(controller, 4096):
            screen += more
            if not federation.devices and any("(waiting for 2 more)" in line for line in lines()):
                federation.join("0", "1")
    os.close(controller)
    federation.result(server)
    shown = [line for line in lines() if "devices are here" in line or "clients replied" in line]
    assert len(shown) >= 4, screen
    assert not [line for line in shown if "round 0/2" in line], screen


@pytest.mark.parametrize("share", [0.3, 0.7])
def test_the_server_is_killed_and_goes_on(federation, share):
    kill_server(federation, share)


def kill_server(federation: Federation, share: float) -> None:
    federation.join(*DEVICES)
    server = federation.serve("engine.devices=4")
    federation.wait_for_round(round(share * 12), server)
    time.sleep(random.uniform(0, 0.2))
    server.kill()
    server.wait()
    found = federation.result(federation.resume())
    assert found["sha256"] == undisturbed(federation)


def test_the_broker_is_killed_and_comes_back_with_its_default_configuration(federation, broker):
    federation.join(*DEVICES)
    server = federation.serve("engine.devices=4", "engine.deadline=60")
    federation.wait_for_round(4, server)
    broker.kill()
    time.sleep(0.5)
    broker.start()
    assert federation.result(server)["sha256"] == undisturbed(federation)


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
    server = federation.serve("engine.devices=4", "engine.deadline=60")
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
    server = federation.serve("engine.devices=2")
    assert federation.result(server)["sha256"] == undisturbed(federation)


def memory(process: Process) -> float:
    """Resident megabytes."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


@pytest.mark.soak
def test_fifty_devices_on_one_broker(tmp_path, broker):
    """Eight processes and forty-two light devices, all in every round. A reply lost or counted twice would change the bits."""
    changes = {"data": {"name": "digits", "clients": 50}, "clients_per_round": 50, "rounds": 20}
    federation = Federation(tmp_path, broker, CONFIG | changes)
    assert federation.start("export", "edge.yaml", "data").wait() == 0
    names = [str(client) for client in range(50)]
    light = [sys.executable, "-m", "tests.fedml_iot.light_devices", broker.url, "default", str(tmp_path / "data"), *names[8:]]
    try:
        with (tmp_path / "light.txt").open("w") as log:
            federation.started.append(subprocess.Popen(light, cwd=Path(__file__).parents[2], stdout=log, stderr=log))
        federation.join(*names[:8])
        server = federation.serve("engine.devices=50", "engine.minimum=50", "engine.deadline=120")
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
