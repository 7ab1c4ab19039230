"""The engines whose clients are carried out by other workers."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated

from msgspec import Meta

from fedml_api.distributed.server import RemoteSession, ServerManager
from fedml_api.distributed.worker import ClientManager
from fedml_core.communication.com_manager import ComManager
from fedml_core.communication.loopback import loopback_network
from fedml_core.communication.message import SERVER
from fedml_core.errors import CommunicationError
from fedml_core.federation import ClientRunner, Engine, Session, Setup, engines
from fedml_core.settings import settings


@engines.register("loopback")
@settings
class Loopback(Engine):
    """Workers are threads of this process, every message encoded as between machines: shows here what would fail there."""

    workers: Annotated[int, Meta(ge=1)] = 2
    fold_on_workers: bool = False

    @contextmanager
    def open(self, setup: Setup) -> Iterator[Session]:
        network = loopback_network([SERVER, *(f"worker-{i + 1}" for i in range(self.workers))])
        yield from threads(network, setup, self.fold_on_workers)


def threads(network: Mapping[str, ComManager], setup: Setup, fold_on_workers: bool = False) -> Iterator[Session]:
    """A session whose workers are threads behind the doors of `network`, which also has the server's; all are closed at the end."""
    workers = [threading.Thread(target=_work, args=(com, setup), daemon=True) for name, com in network.items() if name != SERVER]
    for worker in workers:
        worker.start()
    server = ServerManager(network[SERVER], setup.identity, setup.identity)
    try:
        server.wait_for(len(workers))
        yield RemoteSession(server, _sizes(setup), fold_on_workers=fold_on_workers)
    finally:
        server.finish()
        for worker in workers:
            worker.join()
        for com in network.values():
            com.close()


@engines.register("mpi")
@settings
class Mpi(Engine):
    """Ranks of an `mpirun`; rank 0 is the server and trains too. Outside of one, `workers` ranks are started on this machine."""

    workers: Annotated[int, Meta(ge=1)] | None = None
    fold_on_workers: bool = False

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
                yield RemoteSession(server, _sizes(setup), ClientRunner(setup), self.fold_on_workers)
            finally:
                server.finish()


def _work(com: ComManager, setup: Setup) -> None:
    manager = ClientManager(com, setup.identity, setup.identity)
    manager.join()
    if not manager.serve(ClientRunner(setup)):
        raise CommunicationError(f"{com.name}: the server is gone before the run is over; see its output")


def _sizes(setup: Setup) -> dict[str, int]:
    return {client: len(setup.data.train(client)) for client in setup.data.client_ids}


def _ranks() -> int | None:
    """How many ranks the `mpirun` that started this process has, or None if none did."""
    for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE"):
        if name in os.environ:
            return int(os.environ[name])
    return None


def _rank() -> int:
    return int(os.environ.get("OMPI_COMM_WORLD_RANK", os.environ.get("PMI_RANK", "0")))
