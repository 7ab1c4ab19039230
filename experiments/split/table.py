"""Split learning, U-shaped, SplitFed and FedAvg with the same local steps: what they learn, and what they send.

    python -m experiments.split.table [settings as for fedml run, such as rounds=2]

prints the tables and draws `iid.png` and `skewed.png` beside this file. What a round sends is counted in one with a worker for
every client, to whom every message is encoded: all messages of both sides, from joining to the end.
"""

from __future__ import annotations

import sys
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from fedml_api.distributed.server import RemoteSession, ServerManager
from fedml_api.distributed.worker import ClientManager
from fedml_api.run.config import prepare, read_config
from fedml_api.run.experiment import Experiment, Result, simulate
from fedml_api.run.plots import draw_curves
from fedml_core.communication import codec
from fedml_core.communication.com_manager import ComManager
from fedml_core.communication.loopback import loopback_network
from fedml_core.communication.message import SERVER, Message
from fedml_core.federation import ClientRunner, Engine, Session, Setup

HERE = Path(__file__).parent
FED = "cut: 6, local: {lr: 0.05, batch_size: 20, epochs: 1}"
ROWS = {
    "split": [],
    "split, labels stay": ["algorithm.head=1"],
    "SplitFed v1": [f"algorithm={{name: splitfed, {FED}}}"],
    "SplitFed v2": [f"algorithm={{name: splitfed, version: v2, {FED}}}"],
    "FedAvg": [f"algorithm={{name: fedavg, {FED.removeprefix('cut: 6, ')}}}"],
}
PARTITIONS = {"iid": "data.partition=iid", "skewed": "data.partition={name: dirichlet, alpha: 1.0}"}


class Counting(Engine):
    """A worker for every client, in a thread each, and how many bytes have been sent."""

    def __init__(self) -> None:
        self.total, self._adding = 0, threading.Lock()

    @contextmanager
    def open(self, setup: Setup) -> Iterator[Session]:
        sizes = {client: setup.size(client) for client in setup.data.client_ids}
        network = loopback_network([SERVER, *sizes])
        for com in network.values():
            self._count(com)
        workers = [threading.Thread(target=_work, args=(network[client], {client: size}, setup)) for client, size in sizes.items()]
        for worker in workers:
            worker.start()
        server = ServerManager(network[SERVER], "", setup.identity)
        server.wait_for(len(workers))
        yield RemoteSession(server, sizes, setup=setup)
        server.finish()
        for worker in workers:
            worker.join()

    def _count(self, com: ComManager) -> None:
        send = com.send

        def counted(message: Message) -> None:
            size = codec.size(codec.encode(message))
            with self._adding:
                self.total += size
            send(message)

        com.send = counted  # type: ignore[method-assign]


def _work(com: ComManager, hosts: dict[str, int], setup: Setup) -> None:
    manager = ClientManager(com, "", setup.identity, hosts)
    manager.join()
    manager.serve(ClientRunner(setup))


def experiment(row: str, settings: list[str]) -> Experiment:
    config, problems = read_config(HERE / "config.yaml", ROWS[row] + settings)
    return prepare(config, problems)


def megabytes(row: str, settings: list[str]) -> float:
    """What a round sends."""
    engine = Counting()
    simulate(replace(experiment(row, settings), engine=engine, rounds=1))
    return engine.total / 1e6


def pictures(partition: str, results: Mapping[str, Result]) -> None:
    """The curves of a partition; rows that ended in the same bits are one."""
    names: dict[str, list[str]] = defaultdict(list)
    for row, result in results.items():
        names[result.sha256].append(row)
    draw_curves({" = ".join(same): results[same[0]].history for same in names.values()}, HERE / f"{partition}.png")


def line(row: str, result: Result) -> str:
    """A row of the table, but for what it sends."""
    found = [one["test_accuracy"] for one in result.history]
    last = found[-5:]
    return f"| {row} | {found[-1]:.3f} | {max(found):.3f} | {min(last):.3f} to {max(last):.3f} | `{result.sha256[:12]}` |"


def main() -> None:
    settings = sys.argv[1:]
    for partition, chosen in PARTITIONS.items():
        print(f"{partition}\n\n| | at the end | best | last five rounds | SHA-256 |\n|---|---|---|---|---|")
        results: dict[str, Result] = {}
        for row in ROWS:
            results[row] = simulate(experiment(row, [chosen, *settings]))
            print(line(row, results[row]), flush=True)
            pictures(partition, results)
    print("\n| | MB a round |\n|---|---|")
    for row in ROWS:
        print(f"| {row} | {megabytes(row, settings):.2f} |", flush=True)


if __name__ == "__main__":
    main()
