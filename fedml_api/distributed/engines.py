"""The engines whose clients are carried out by other workers."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Annotated, cast

import torch
from msgspec import Meta

from fedml_api.data.dataset import Dataset
from fedml_api.distributed.server import RemoteSession, ServerManager
from fedml_api.distributed.worker import ClientManager
from fedml_core.communication.com_manager import ComManager
from fedml_core.communication.loopback import loopback_network
from fedml_core.communication.message import SERVER
from fedml_core.devices import device_problems, local_rank, spread
from fedml_core.errors import CommunicationError
from fedml_core.federation import ClientRunner, Engine, Session, Setup, engines
from fedml_core.settings import settings


@engines.register("loopback")
@settings
class Loopback(Engine):
    """Workers are threads of this process, every message encoded as between machines: shows here what would fail there.

    Args:
        workers: how many; `fold_on_workers`: each sends one accumulator instead of its clients' replies.
        devices: where they compute, worker k on number k mod n; by default on the run's device, or, if that is `cuda`, on all.
    """

    workers: Annotated[int, Meta(ge=1)] = 2
    fold_on_workers: bool = False
    devices: tuple[str, ...] = ()

    def unfit(self) -> list[str]:
        return _unfit(self.devices)

    @contextmanager
    def open(self, setup: Setup) -> Iterator[Session]:
        network = loopback_network([SERVER, *(f"worker-{i + 1}" for i in range(self.workers))])
        yield from threads(network, setup, self.fold_on_workers, self.devices)


def threads(
    network: Mapping[str, ComManager], setup: Setup, fold_on_workers: bool = False, devices: Sequence[str] = ()
) -> Iterator[Session]:
    """A session whose workers are threads behind the doors of `network`, which also has the server's; all are closed at the end."""
    doors = [com for name, com in network.items() if name != SERVER]
    places = [spread(i, devices, setup.device) for i in range(len(doors))]
    setups = {place: _moved(setup, place) for place in places}
    workers = [
        threading.Thread(target=_work, args=(com, setups[place]), daemon=True) for com, place in zip(doors, places, strict=True)
    ]
    for worker in workers:
        worker.start()
    server = ServerManager(network[SERVER], setup.identity, setup.identity)
    try:
        server.wait_for(len(workers))
        yield RemoteSession(server, _sizes(setup), fold_on_workers=fold_on_workers, device=setup.device, setup=setup)
    finally:
        server.finish()
        for worker in workers:
            worker.join()
        for com in network.values():
            com.close()


@engines.register("mpi")
@settings
class Mpi(Engine):
    """Ranks of an `mpirun`; rank 0 is the server and trains too. Outside of one, `workers` ranks are started on this machine.

    Args:
        fold_on_workers: each rank sends one accumulator instead of its clients' replies.
        devices: where the ranks of a machine compute, its k-th on number k mod n; by default on the run's device, or, if that is
            `cuda`, on all.
    """

    workers: Annotated[int, Meta(ge=1)] | None = None
    fold_on_workers: bool = False
    devices: tuple[str, ...] = ()

    def unfit(self) -> list[str]:
        return _unfit(self.devices)

    def device(self, default: torch.device) -> torch.device:
        return spread(local_rank(), self.devices, default)

    def command(self, arguments: list[str]) -> tuple[list[str], dict[str, str]] | None:
        if self.workers is None or _ranks() is not None:
            return None
        from fedml_core.communication.launch import mpirun

        return mpirun(self.workers, arguments)

    def work(self, setup: Setup) -> bool:
        if _ranks() in (None, 1) or _rank() == 0:
            return False
        from fedml_core.communication.mpi import MpiComManager

        with MpiComManager() as com:
            _work(com, setup)
        return True

    @contextmanager
    def open(self, setup: Setup) -> Iterator[Session]:
        from fedml_core.communication.mpi import MpiComManager

        with MpiComManager() as com:
            server = ServerManager(com, setup.identity, setup.identity)
            server.wait_for((_ranks() or 1) - 1)
            try:
                yield RemoteSession(server, _sizes(setup), ClientRunner(setup), self.fold_on_workers, setup.device, setup)
            finally:
                server.finish()


def _work(com: ComManager, setup: Setup) -> None:
    manager = ClientManager(com, setup.identity, setup.identity, device=setup.device)
    manager.join()
    if not manager.serve(ClientRunner(setup)):
        raise CommunicationError(f"{com.name}: the server is gone before the run is over; see its output")


def _unfit(devices: Sequence[str]) -> list[str]:
    return [problem for i, name in enumerate(devices) for problem in device_problems(name, f"engine.devices[{i}]")]


def _moved(setup: Setup, device: torch.device) -> Setup:
    """The same setup for a worker on `device`."""
    if device == setup.device:
        return setup
    return replace(setup, device=device, data=cast(Dataset, setup.data).to(device))


def _sizes(setup: Setup) -> dict[str, int]:
    return {client: setup.size(client) for client in setup.data.client_ids}


def _ranks() -> int | None:
    """How many ranks the `mpirun` that started this process has, or None if none did."""
    for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE"):
        if name in os.environ:
            return int(os.environ[name])
    return None


def _rank() -> int:
    return int(os.environ.get("OMPI_COMM_WORLD_RANK", os.environ.get("PMI_RANK", "0")))
