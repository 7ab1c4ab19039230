"""Many devices in one process, each with its own connection: python -m tests.fedml_iot.light_devices URL RUN DATA NAME..."""

import sys
import threading
from pathlib import Path

import torch

from fedml_core.communication.mqtt import Broker, MqttComManager
from fedml_iot.device import Device


def take_part(url: str, run: str, data: Path, name: str) -> None:
    with MqttComManager(name, Broker.parse(url), run) as com:
        Device(name, data / name, data / "state").run(com, run)


def main(url: str, run: str, data: str, *names: str) -> None:
    torch.set_num_threads(1)
    threads = [threading.Thread(target=take_part, args=(url, run, Path(data), name)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main(*sys.argv[1:])
