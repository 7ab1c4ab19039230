"""Split learning over MQTT: batches per second, and bytes per example beside those that cannot be spared.

    python -m benchmarks.split

A server and one client, in processes of one thread each, at a mosquitto on this machine, whose own count of received bytes is
taken: all that either side publishes, once, acknowledgements included. The client takes 50 batches of 20 digits in one round, and
250 in another; the difference is 200 batches without what a round costs (layers handed on, work, reply). What cannot be spared are
activations and gradients, 4 bytes a number, in both directions, and labels of 8 bytes where they travel. The same network trained
in one piece, in this process, stands beside it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion
from torch import nn

from fedml_api.algorithms import Split
from fedml_api.data import data_sources
from fedml_api.distributed.server import RemoteSession, ServerManager
from fedml_api.distributed.worker import ClientManager
from fedml_api.model import models
from fedml_core.communication.message import SERVER
from fedml_core.communication.mqtt import Broker, MqttComManager
from fedml_core.federation import ClientRunner, LocalSGD, Setup
from fedml_core.trainer import Classifier, ModelState
from tests.brokers import Mosquitto

RUN, CLIENT, BATCH, STEPS = "split", "worker", 20, (50, 250)
GOAL = 1.1
# Seconds until the broker has told what it has counted.
NEWS = 2.6


@dataclass(frozen=True)
class Case:
    """A network, where it is cut, and how many numbers of an example pass there."""

    what: str
    network: nn.Module
    algorithm: Split
    numbers: int


def cases() -> list[Case]:
    torch.manual_seed(0)
    shape, local = (1, 28, 28), LocalSGD(lr=0.05, batch_size=BATCH)
    perceptron, cnn = models["2nn"]().build(shape, 10), models["cnn_mcmahan"](channels=8).build(shape, 10)
    return [
        Case("2NN, 200 numbers, with labels", perceptron, Split(3, local=local), 200),
        Case("2NN, twice 200 numbers, labels stay", perceptron, Split(3, head=1, local=local), 400),
        Case("CNN, 1,568 numbers, with labels", cnn, Split(3, local=local), 1568),
    ]


def setups() -> list[Setup]:
    """What server and client of each case agree on."""
    data = data_sources["mnist5k"](clients=1).load(0, Path("data"))
    return [Setup(Classifier(), case.network, data, 0, torch.device("cpu"), f"{RUN}-{k}") for k, case in enumerate(cases())]


def work(url: str) -> None:
    """Be the workers of all cases, of which one at a time is asked."""

    def serve(setup: Setup) -> None:
        with MqttComManager(CLIENT, Broker.parse(url), setup.identity) as com:
            manager = ClientManager(com, setup.identity, setup.identity)
            manager.join()
            manager.serve(ClientRunner(setup))

    workers = [threading.Thread(target=serve, args=(setup,)) for setup in setups()]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


class Count:
    """What the broker says that it has received; it says so every second, if there is news."""

    def __init__(self, broker: Broker) -> None:
        self._bytes, self._heard = 0, 0.0
        self._client = Client(CallbackAPIVersion.VERSION2)
        self._client.on_message = self._hear
        self._client.connect(broker.host, broker.port)
        self._client.subscribe("$SYS/broker/bytes/received")
        self._client.loop_start()

    def _hear(self, client: Client, userdata: object, message: MQTTMessage) -> None:
        self._bytes, self._heard = int(message.payload), time.monotonic()

    def bytes(self) -> int:
        """Everything that was received before now; nothing may be under way."""
        self._heard = time.monotonic()
        while time.monotonic() - self._heard < NEWS:
            time.sleep(0.05)
        return self._bytes

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


def measure(case: Case, setup: Setup, server: ServerManager, count: Count) -> dict[str, float | str]:
    (client,), model = setup.data.client_ids, ModelState.of(setup.module)
    session = RemoteSession(server, {client: setup.size(client)}, setup=setup)
    found: dict[int, tuple[float, int]] = {}
    before = count.bytes()
    for steps in STEPS:
        algorithm = replace(case.algorithm, local=replace(case.algorithm.local, steps=steps))
        start = time.perf_counter()
        algorithm.round(model, session.cohort(0, [client]))
        seconds = time.perf_counter() - start
        after = count.bytes()
        found[steps], before = (seconds, after - before), after
    few, many = STEPS
    seconds, sent = (more - less for more, less in zip(found[many], found[few], strict=True))
    batches, least = many - few, 2 * 4 * case.numbers + (0 if case.algorithm.head else 8)
    start = time.perf_counter()
    ClientRunner(setup)(client, 0, replace(case.algorithm.local, steps=batches), model, None, None)
    whole = time.perf_counter() - start
    each = sent / (batches * BATCH)
    return {
        "what": case.what,
        "batches_per_second": batches / seconds,
        "in_one_piece": batches / whole,
        "bytes_per_example": each,
        "least": least,
        "measured": each / least,
        "goal": GOAL,
        "round_bytes": found[few][1] - each * few * BATCH,
    }


def main() -> int:
    torch.set_num_threads(1)
    if len(sys.argv) > 1:
        work(sys.argv[1])
        return 0
    config = ["listener {port} 127.0.0.1", "allow_anonymous true", "sys_interval 1"]
    with tempfile.TemporaryDirectory() as folder, Mosquitto(Path(folder), config) as mosquitto, ExitStack() as stack:
        broker = Broker.parse(mosquitto.url)
        worker = subprocess.Popen([sys.executable, "-m", "benchmarks.split", mosquitto.url])
        count, servers = Count(broker), []
        for setup in setups():
            com = stack.enter_context(MqttComManager(SERVER, broker, setup.identity))
            servers.append((setup, ServerManager(com, setup.identity, setup.identity)))
        for _, server in servers:
            server.wait_for(1, 60)
        rows = [measure(case, *agreed, count) for case, agreed in zip(cases(), servers, strict=True)]
        for _, server in servers:
            server.finish()
        worker.wait(10)
        count.close()
    print(f"{'what':<36} {'batches/s':>9} {'in one':>7} {'B/example':>9} {'least':>6} {'ratio':>6} {'goal':>5} {'a round':>9}")
    for row in rows:
        speed = f"{row['batches_per_second']:9.0f} {row['in_one_piece']:7.0f}"
        size = f"{row['bytes_per_example']:9.0f} {row['least']:6.0f} {row['measured']:6.3f} {row['goal']:5.1f}"
        print(f"{row['what']:<36} {speed} {size} {row['round_bytes']:9.0f}")
    print(json.dumps(rows))
    return int(any(float(row["measured"]) > float(row["goal"]) for row in rows))


if __name__ == "__main__":
    sys.exit(main())
