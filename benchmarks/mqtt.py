"""Cost of MQTT through our ComManager against a bare paho publisher and subscriber, over a real mosquitto on this machine.

    python -m benchmarks.mqtt

Both move the same 5 MB, the bare one as a single publish with QoS 1; publisher and subscriber live in this process. Transfers
alternate, and medians are compared. Then the processor time of a worker that waits is measured, in a process of its own.
"""

from __future__ import annotations

import json
import queue
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion

from fedml_core.communication.message import Message
from fedml_core.communication.mqtt import Broker, MqttComManager
from tests.brokers import Mosquitto

BYTES, TRANSFERS = 5_000_000, 15
IDLE_SECONDS = 4.0

IDLE = """
import sys, time
from fedml_core.communication.mqtt import Broker, MqttComManager
with MqttComManager("idle", Broker.parse(sys.argv[1]), "bench") as com:
    com.receive(1.0)
    start = time.process_time()
    com.receive(float(sys.argv[2]))
    print(time.process_time() - start)
"""


@contextmanager
def ours(broker: Broker) -> Iterator[Callable[[], None]]:
    payload = {"x": torch.zeros(BYTES, dtype=torch.uint8)}
    with MqttComManager("a", broker, "bench") as a, MqttComManager("b", broker, "bench") as b:

        def transfer() -> None:
            a.send(Message("model", "a", "b", payload))
            received = b.receive(60)
            assert received is not None
            assert received.payload["x"].numel() == BYTES

        yield transfer


@contextmanager
def bare(broker: Broker) -> Iterator[Callable[[], None]]:
    arrived: queue.SimpleQueue[MQTTMessage | None] = queue.SimpleQueue()
    publisher, subscriber = Client(CallbackAPIVersion.VERSION2), Client(CallbackAPIVersion.VERSION2)
    subscriber.on_message = lambda client, userdata, message: arrived.put(message)
    subscriber.on_subscribe = lambda *about: arrived.put(None)
    for client in (publisher, subscriber):
        client.connect(broker.host, broker.port)
        client.loop_start()
    subscriber.subscribe("bench", qos=1)
    arrived.get(timeout=10)
    payload = bytes(BYTES)

    def transfer() -> None:
        publisher.publish("bench", payload, qos=1)
        message = arrived.get(timeout=60)
        assert message is not None
        assert len(message.payload) == BYTES

    yield transfer
    for client in (publisher, subscriber):
        client.disconnect()
        client.loop_stop()


def seconds(transfer: Callable[[], None]) -> float:
    start = time.perf_counter()
    transfer()
    return time.perf_counter() - start


def idle_share(broker: Mosquitto) -> float:
    """Percent of one core that a waiting worker uses."""
    command = [sys.executable, "-c", IDLE, broker.url, str(IDLE_SECONDS)]
    return 100 * float(subprocess.run(command, check=True, capture_output=True, text=True).stdout) / IDLE_SECONDS


def main() -> int:
    with tempfile.TemporaryDirectory() as folder, Mosquitto(Path(folder)) as mosquitto:
        where = Broker.parse(mosquitto.url)
        with ours(where) as through_us, bare(where) as through_paho:
            times = [(seconds(through_us), seconds(through_paho)) for _ in range(TRANSFERS + 2)][2:]
        us, paho = (1000 * statistics.median(column) for column in zip(*times, strict=True))
        idle = idle_share(mosquitto)
    rows = [
        {"what": "5 MB, ours / bare paho QoS 1", "measured": us / paho, "goal": 1.5, "ours_ms": us, "bare_ms": paho},
        {"what": "idle worker, percent of a core", "measured": idle, "goal": 1.0},
    ]
    print(f"{'what':<34} {'measured':>9} {'goal':>6}")
    for row in rows:
        print(f"{row['what']:<34} {row['measured']:9.2f} {row['goal']:6.2f}")
    print(json.dumps(rows))
    return int(any(float(str(row["measured"])) > float(str(row["goal"])) for row in rows))


if __name__ == "__main__":
    sys.exit(main())
