"""The commands that devices add to `fedml` (found by it through the entry points of group "fedml.commands")."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fedml_core.errors import ConfigError


def join(commands: Any) -> None:
    """fedml join: be a device."""
    text = "Be a device: train on the data of this machine when the server asks."
    parser = commands.add_parser("join", help=text, description=text)
    parser.add_argument("url", help="broker and run, e.g. mqtt://192.168.1.5:1883/default")
    parser.add_argument("--name", required=True, help="this device's name, which no other has")
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with train/x.npy and train/y.npy, or with one such folder per client"
    )
    parser.add_argument("--state", type=Path, default=Path("device-state"), help="folder for this device's private state")
    parser.add_argument("--threads", type=int, default=1, help="torch's threads (default: 1)")
    parser.add_argument("--identity", help="refuse a run of another configuration than the one with this SHA-256")
    parser.add_argument("--insecure", action="store_true", help="accept a broker on another machine that asks for no credentials")
    parser.set_defaults(command=join_command)


def join_command(options: argparse.Namespace) -> int:
    import torch

    from fedml_core.communication.mqtt import Broker, MqttComManager
    from fedml_iot.device import Device

    torch.set_num_threads(options.threads)
    parts = urlsplit(options.url)
    address, run = parts._replace(path="").geturl(), parts.path.strip("/")
    if not run:
        raise ConfigError(f"{options.url} names no run: write the broker and the run, e.g. mqtt://192.168.1.5:1883/default")
    device = Device(options.name, options.data, options.state)
    with MqttComManager(options.name, Broker.parse(address, insecure=options.insecure), run) as com:
        device.run(com, run, options.identity)
    return 0


def export(commands: Any) -> None:
    """fedml export: give devices the data of simulated clients."""
    text = "Write the clients of a data set as folders for devices."
    parser = commands.add_parser("export", help=text, description=text)
    parser.add_argument("config", type=Path, help="YAML file of a run")
    parser.add_argument("folder", type=Path, help="where the folders are made, one per client")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.set_defaults(command=export_command)


def export_command(options: argparse.Namespace) -> int:
    from fedml_api.run.config import read_config
    from fedml_iot.data_folder import write_columns

    config, problems = read_config(options.config, options.overrides)
    if problems:
        raise ConfigError(problems)
    data = config.data.load(config.seed, Path(config.data_folder))
    for client in data.client_ids:
        write_columns(options.folder / client / "train", data.train(client).all())
        write_columns(options.folder / client / "test", data.test(client).all())
    print(f"{len(data.client_ids)} clients in {options.folder}")
    return 0
