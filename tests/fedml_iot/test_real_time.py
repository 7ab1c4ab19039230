"""FedBuff in real time, over devices that are processes: one sleeps, one dies, the server dies; the others go on."""

import signal
import time

import pytest
import yaml

from tests.fedml_iot.federation import CONFIG, DEVICES

ROUNDS = 40
FEDBUFF = {"name": "fedbuff", "buffer": 2, "durations": "measured", "local": CONFIG["algorithm"]["local"]}


@pytest.fixture
def federation(federation):
    path = federation.folder / "edge.yaml"
    changes = {"rounds": ROUNDS, "clients_per_round": 4, "algorithm": FEDBUFF}
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes))
    return federation


def staleness(federation):
    return [row["train_staleness"] for row in federation.rows()[1:]]


def ended(federation, server):
    """The run is over, complete, and has learned something."""
    federation.result(server)
    rows = federation.rows()
    assert [row["round"] for row in rows] == list(range(ROUNDS + 1))
    assert rows[-1]["test_accuracy"] > rows[0]["test_accuracy"] + 0.3
    for device in federation.devices.values():
        assert device.wait(20) == 0


def test_a_device_that_sleeps_is_not_waited_for_and_counts_when_it_awakes(federation):
    federation.join(*DEVICES)
    server = federation.serve("engine.devices=4")
    federation.wait_for_round(3, server)
    federation.devices["2"].send_signal(signal.SIGSTOP)
    asleep = len(federation.rows())
    federation.wait_for_round(asleep + 12, server)
    federation.devices["2"].send_signal(signal.SIGCONT)
    ended(federation, server)
    assert max(staleness(federation)) >= 5


@pytest.mark.soak
def test_a_device_dies_and_the_server_dies(federation):
    federation.join(*DEVICES)
    server = federation.serve("engine.devices=3")
    federation.wait_for_round(2, server)
    federation.devices["1"].kill()
    federation.devices["1"].wait()
    federation.wait_for_round(6, server)
    federation.join("1")
    federation.wait_for_round(10, server)
    server.kill()
    server.wait()
    time.sleep(0.2)
    ended(federation, federation.resume())
