"""kill -9 of devices at the moments that matter, each hit for certain: see `watched_broker.py`."""

import queue
import random
from pathlib import Path

import pytest

from tests.brokers import Mosquitto
from tests.fedml_iot.federation import CONFIG, Federation, reference
from tests.fedml_iot.watched_broker import MOMENTS, Death, WatchedBroker

DEVICES = ["0", "1", "2", "3", "4"]
# A model of 9 chunks, so that there is a middle of its upload. All devices but one are asked in each round.
LARGE = CONFIG | {
    "clients_per_round": 4,
    "data": {"name": "digits", "clients": 5},
    "model": {"name": "2nn", "hidden": 700},
    "algorithm": {"name": "fedavg", "local": {"batch_size": 4, "epochs": 4}},
    "evaluate_every": 100,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("large")
    with Mosquitto(folder) as broker:
        assert Federation(folder, broker, LARGE).start("export", "edge.yaml", "data").wait() == 0
    return folder / "data"


def test_devices_killed_idle_training_uploading_and_after(tmp_path, broker, data):
    kill_devices(tmp_path, broker, data, random.Random(0), waves=3)


@pytest.mark.soak
@pytest.mark.parametrize("case", range(6))
def test_devices_killed_at_drawn_moments(tmp_path, broker, data, case):
    kill_devices(tmp_path, broker, data, random.Random(case), waves=5)


def kill_devices(folder: Path, broker: Mosquitto, data: Path, draw: random.Random, waves: int) -> None:
    """In each wave one device dies at each moment and is started again at once, as systemd would.

    The run has to go on, and to end in the model of a simulation over those whose replies the server says it has.
    """
    (folder / "data").symlink_to(data)
    deaths: list[Death] = []
    with WatchedBroker(broker.port, DEVICES, lambda name: federation.devices[name].pid, waves, draw) as watched:
        # A wave takes a round, and the round that goes on without the killed ones has to end before the next.
        federation = Federation(folder, broker, LARGE | {"rounds": 2 * waves + 3}, watched.url)
        try:
            federation.join(*DEVICES)
            server = federation.serve("engine.devices=5", "engine.deadline=60")
            while server.poll() is None:
                try:
                    death = watched.deaths.get(timeout=0.1)
                except queue.Empty:
                    continue
                deaths.append(death)
                assert federation.devices[death.device].wait() == -9
                watched.risen(death.device)
                federation.join(death.device)
            found, rows = federation.result(server), federation.rows()
            assert [device.wait(20) for device in federation.devices.values()] == [0] * 5
        finally:
            federation.stop()

    assert sorted(death.moment for death in deaths) == sorted(MOMENTS * waves)
    assert [death for death in deaths if not death.happened()] == []
    missing = {row["round"]: set(row.get("missing", [])) for row in rows}
    for death in deaths:
        if death.moment != "idle":
            assert (death.device in missing[death.round]) == (death.moment != "uploaded"), (death, rows)
    assert [row["round"] for row in rows] == list(range(2 * waves + 4))
    assert found["sha256"] == reference(federation, rows)
