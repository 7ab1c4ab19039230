"""Split learning over MQTT: batches per second, and bytes per example beside those that cannot be spared.

    python -m benchmarks.split

A server and one client, in processes of one thread each, at a mosquitto on this machine, whose own count of received bytes is
taken: all that either side publishes, once, acknowledgements included. The client has 4,000 digits, in batches of 20, and makes one
pass over them in one round and two in another; the difference is a pass without what a round costs (layers handed on, work,
reply). What cannot be spared are activations and gradients, 4 bytes a number, in both directions, and labels of 8 bytes where they
travel. The same network trained in one piece, in this process, stands beside it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion
from torch import nn

from fedml_api.algorithms import Split
from fedml_api.data import FederatedDataset, data_sources
from fedml_api.distributed.server import RemoteSession, ServerManager
from fedml_api.distributed.worker import ClientManager
from fedml_api.model import models
from fedml_core.communication.message import SERVER
from fedml_core.communication.mqtt import Broker, MqttComManager
from fedml_core.federation import ClientRunner, LocalSGD, Setup
from fedml_core.trainer import Classifier, ModelState
from tests.brokers import Mosquitto

RUN, CLIENT, BATCH = "bench", "worker", 20
GOAL = 1.1
# Seconds until the broker has told what it has counted.
NEWS = 2.2


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


def setup(case: Case) -> Setup:
    data: FederatedDataset = data_sources["mnist5k"](clients=1).load(0, Path("data"))
    return Setup(Classifier(), case.network, data, 0, torch.device("cpu"), "bench")


def work(url: str, case: int) -> None:
    """Be the worker of one case."""
    about = setup(cases()[case])
    with MqttComManager(CLIENT, Broker.parse(url), f"{RUN}-{case}") as com:
        manager = ClientManager(com, f"{RUN}-{case}", about.identity)
        manager.join()
        manager.serve(ClientRunner(about))


class Count:
    """What the broker says that it has received; it says so every second, if there is news."""

    def __init__(self, broker: Broker) -> None:
        self._bytes = 0
        self._client = Client(CallbackAPIVersion.VERSION2)
        self._client.on_message = self._hear
        self._client.connect(broker.host, broker.port)
        self._client.subscribe("$SYS/broker/bytes/received")
        self._client.loop_start()

    def _hear(self, client: Client, userdata: object, message: MQTTMessage) -> None:
        self._bytes = int(message.payload)

    def bytes(self) -> int:
        """Everything that was received before now; nothing may be under way."""
        time.sleep(NEWS)
        return self._bytes

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


def measure(number: int, case: Case, broker: Broker, count: Count) -> dict[str, float | str]:
    about = setup(case)
    examples, (client,) = about.size(about.data.client_ids[0]), about.data.client_ids
    model = ModelState.of(about.module)
    worker = subprocess.Popen([sys.executable, "-m", "benchmarks.split", f"mqtt://{broker.host}:{broker.port}", str(number)])
    passes: dict[int, tuple[float, int]] = {}
    with MqttComManager(SERVER, broker, f"{RUN}-{number}") as com:
        server = ServerManager(com, f"{RUN}-{number}", about.identity)
        server.wait_for(1, 60)
        session = RemoteSession(server, {client: examples}, setup=about)
        before = count.bytes()
        for epochs in (1, 2):
            algorithm = replace(case.algorithm, local=replace(case.algorithm.local, epochs=epochs))
            start = time.perf_counter()
            algorithm.round(model, session.cohort(0, [client]))
            seconds = time.perf_counter() - start
            after = count.bytes()
            passes[epochs], before = (seconds, after - before), after
        server.finish()
    worker.wait(10)
    seconds, sent = (more - less for more, less in zip(passes[2], passes[1], strict=True))
    least = 2 * 4 * case.numbers + (0 if case.algorithm.head else 8)
    start = time.perf_counter()
    ClientRunner(about)(client, 0, replace(case.algorithm.local, epochs=1), model, None, None)
    whole = time.perf_counter() - start
    return {
        "what": case.what,
        "batches_per_second": examples / BATCH / seconds,
        "in_one_piece": examples / BATCH / whole,
        "bytes_per_example": sent / examples,
        "least": least,
        "measured": sent / examples / least,
        "goal": GOAL,
        "round_bytes": passes[1][1] - sent,
    }


def main() -> int:
    torch.set_num_threads(1)
    if len(sys.argv) > 2:
        work(sys.argv[1], int(sys.argv[2]))
        return 0
    config = ["listener {port} 127.0.0.1", "allow_anonymous true", "sys_interval 1"]
    with tempfile.TemporaryDirectory() as folder, Mosquitto(Path(folder), config) as mosquitto:
        broker = Broker.parse(mosquitto.url)
        count = Count(broker)
        rows = [measure(number, case, broker, count) for number, case in enumerate(cases())]
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
