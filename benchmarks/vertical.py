"""Vertical learning between devices over a real mosquitto: batches per second, bytes per example, and what protection costs.

    python -m benchmarks.vertical

Devices are threads of this process with data of their own, on the edge engine. Bytes are what the broker says it has received, of
whatever kind (letters, the server's messages, acknowledgements, MQTT's own), per example of the rounds after the first, against the
least there can be: an output and a gradient of `cut` float32 for each party beside the label holder.
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion

from fedml_api import Experiment, LocalSGD, Observer, simulate
from fedml_api.algorithms import Vertical
from fedml_api.data import VerticalDataset
from fedml_api.distributed.edge import Edge
from fedml_api.model import VerticalLR, VerticalNN
from fedml_api.model.vertical import VerticalSpec
from fedml_core.communication.mqtt import Broker, MqttComManager
from fedml_core.federation import Reply, Talks
from fedml_core.federation.intersection import Method, common_ids
from fedml_core.security.paillier import Columns, Weights
from fedml_core.settings import to_plain
from fedml_iot.data_folder import write_columns
from fedml_iot.device import Device
from tests.brokers import Mosquitto

PEOPLE, TEST, WIDTH = 8192, 64, 20
ROUNDS = 6
IDS = 2000
GOAL = 1.1


def people(parties: Sequence[str]) -> VerticalDataset:
    """Everybody is known to all parties, in orders of their own."""
    draw = np.random.default_rng(0)

    def part(ids: np.ndarray) -> dict[str, dict[str, torch.Tensor]]:
        columns = {}
        for party in parties:
            own = torch.from_numpy(draw.permutation(ids))
            columns[party] = {"id": own, "x": torch.from_numpy(draw.normal(size=(len(ids), WIDTH)).astype(np.float32))}
        columns[parties[0]]["y"] = (columns[parties[0]]["x"].sum(1) > 0).long()
        return columns

    return VerticalDataset(part(np.arange(PEOPLE)), part(np.arange(PEOPLE, PEOPLE + TEST)), 2)


class Meter(Observer):
    """What the broker has received by the end of the first round."""

    def __init__(self, broker: Broker) -> None:
        self.broker, self.first = broker, 0.0

    def on_round(self, row: dict[str, Any]) -> None:
        if row["round"] == 1:
            self.first = told(self.broker)


def run(spec: VerticalSpec, algorithm: Vertical, parties: int) -> tuple[float, float]:
    """Seconds, and bytes that the broker received, of the rounds after the first."""
    names = [f"party{i}" for i in range(parties)]
    data = people(names)
    spec = spec.fitted(data)  # type: ignore[assignment]
    torch.manual_seed(0)
    shape = (parties * WIDTH,)
    with tempfile.TemporaryDirectory() as folder:
        config = ["listener {port} 127.0.0.1", "allow_anonymous true", "sys_interval 1"]
        with Mosquitto(Path(folder), config) as mosquitto:
            broker = Broker.parse(mosquitto.url)
            for name in names:
                write_columns(Path(folder) / name / "train", data.train(name).columns)
                write_columns(Path(folder) / name / "test", data.test(name).columns)
            recipe = {"model": to_plain(spec), "shape": list(shape), "classes": 2, "seed": 0}
            experiment = Experiment(
                spec.build(shape, 2),
                data,
                algorithm=algorithm,
                engine=Edge(mosquitto.url, "bench", devices=parties, minimum=parties),
                rounds=ROUNDS,
                clients_per_round=parties,
                threads=1,
                evaluate_every=ROUNDS,
                identity="bench",
                recipe=recipe,
            )
            doors = [MqttComManager(name, broker, "bench") for name in names]
            devices = [Device(name, Path(folder) / name, Path(folder) / "state" / name) for name in names]
            threads = [
                threading.Thread(target=device.run, args=(door, "bench"), daemon=True)
                for device, door in zip(devices, doors, strict=True)
            ]
            for thread in threads:
                thread.start()
            meter = Meter(broker)
            history = simulate(experiment, [meter]).history
            received = told(broker) - meter.first
            for thread in threads:
                thread.join(10)
            for door in doors:
                door.close()
    return sum(row["seconds"] for row in history[2:]), received


def told(broker: Broker) -> float:
    """How many bytes the broker has received. It first repeats what it said last, and says within a second what is new."""
    counts: list[float] = []
    client = Client(CallbackAPIVersion.VERSION2)

    def heard(client: Client, userdata: Any, message: MQTTMessage) -> None:
        counts.append(float(message.payload))

    client.on_message = heard
    client.connect(broker.host, broker.port)
    client.subscribe("$SYS/broker/bytes/received")
    client.loop_start()
    end = time.monotonic() + 10
    while len(counts) < 2 and time.monotonic() < end:
        time.sleep(0.05)
    client.disconnect()
    client.loop_stop()
    return counts[-1]


def measured(what: str, spec: VerticalSpec, cut: int, batch: int, parties: int = 2, masks: bool = False) -> dict[str, Any]:
    """Batches per second and bytes per example."""
    algorithm = Vertical(LocalSGD(lr=0.01, batch_size=batch), intersection="plain", masks=masks, hand_in=False)
    seconds, received = run(spec, algorithm, parties)
    examples = (ROUNDS - 1) * PEOPLE
    found, least = received / examples, 2 * cut * 4 * (parties - 1)
    rate = examples / batch / seconds
    return {"what": what, "batches_per_s": rate, "bytes": found, "least": least, "ratio": found / least}


class _Anyone:
    def __init__(self, id: str) -> None:
        self.id = id

    def seed_torch(self, purpose: str) -> None:
        pass


def intersection(method: Method) -> float:
    """Processor time in microseconds per id of a party, with two parties that have the same ones."""
    names = ["a", "b"]
    talks = Talks(lambda *letter: None)

    def saying(name: str) -> Any:
        found: list[torch.Tensor] = yield from common_ids(name, names, [torch.arange(IDS)], method)
        return Reply(len(found[0]), 1.0, {})

    for name in names:
        talks.begin(_Anyone(name), saying(name))  # type: ignore[arg-type]
    started = time.process_time()
    talks.run()
    seconds = time.process_time() - started
    assert talks.replies["a"].value == talks.replies["b"].value == IDS
    return 1e6 * seconds / (2 * IDS)


def encryption(rows: int, width: int) -> float:
    """Processor time in milliseconds per example, of both sides, of the gradient of `width` weights under encryption."""
    weights = Weights()
    columns = Columns(weights.public)
    g, x = torch.randn(rows, 1) / rows, torch.randn(rows, width)
    started = time.process_time()
    found = columns.revealed(weights.opened(columns.summed(weights.sealed(g), x)))
    seconds = time.process_time() - started
    assert torch.allclose(found, g.T @ x, atol=1e-5)
    return 1e3 * seconds / rows


def main() -> int:
    torch.set_num_threads(1)
    network = VerticalNN(hidden=32, cut=16)
    rows: list[dict[str, Any]] = [
        measured("network, cut 16, batches of 256", network, 16, 256) | {"goal": GOAL},
        measured("logistic regression, batches of 256", VerticalLR(), 1, 256),
        measured("network, three parties", network, 16, 256, parties=3) | {"goal": GOAL},
        measured("network, three parties, masks", network, 16, 256, parties=3, masks=True),
    ]
    print(f"{'what':<38} {'batches/s':>9} {'bytes/example':>13} {'least':>6} {'ratio':>6} {'goal':>5}")
    for row in rows:
        goal = f"{row['goal']:5.2f}" if "goal" in row else "     "
        print(f"{row['what']:<38} {row['batches_per_s']:9.1f} {row['bytes']:13.1f} {row['least']:6} {row['ratio']:6.3f} {goal}")
    costs: list[dict[str, Any]] = [
        {"what": f"intersection, {method}", "us_per_id": intersection(method)} for method in ("plain", "x25519")
    ]
    for cost in costs:
        print(f"{cost['what']:<38} {cost['us_per_id']:9.1f} us per id")
    secret = encryption(64, WIDTH)
    print(f"{f'encrypted gradients, {WIDTH} columns':<38} {secret:9.1f} ms per example")
    print(json.dumps([*rows, *costs, {"what": "encrypted gradients", "ms_per_example": secret}]))
    return int(any(row["ratio"] > row["goal"] for row in rows if "goal" in row))


if __name__ == "__main__":
    sys.exit(main())
