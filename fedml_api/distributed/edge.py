"""The edge engine: clients are devices that join over MQTT, with data of their own."""

from __future__ import annotations

import logging
import math
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, ClassVar

from msgspec import Meta

from fedml_api.distributed.server import Patience, RemoteSession, ServerManager
from fedml_core.communication.com_manager import ComManager
from fedml_core.communication.message import SERVER
from fedml_core.errors import ConfigError
from fedml_core.federation import Cohort, Engine, Session, Setup, engines, sample_clients
from fedml_core.settings import settings
from fedml_core.tree import Tree

log = logging.getLogger("fedml")
# Seconds between two lines about who is here, while the server waits; after a change the next one comes sooner, but not so soon
# that devices which come together make a line each.
REMIND, SETTLE = 30.0, 0.5
# Names in a line.
MOST_NAMES = 10


@engines.register("edge")
@settings
class Edge(Engine):
    """Devices over MQTT, each with its own data: `fedml serve` here, `fedml join` there.

    Args:
        broker: the MQTT broker, `mqtt://[user:password@]host[:port]` or `mqtts://...`; `insecure`: accept one that asks for no
            credentials on another machine.
        run: name of the run at the broker; devices join `broker/run`.
        devices: how many must be present before a round begins.
        deadline: seconds after which a round waits no longer, and after which a device that works at its own pace is given
            up; `minimum`: with fewer replies the round is tried again.
        over_selection: devices asked per reply that is wanted (`clients_per_round`); the round ends when it has those.
    """

    brings_clients: ClassVar[bool] = True

    broker: str = "mqtt://localhost:1883"
    run: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]+$")] = "default"
    devices: Annotated[int, Meta(ge=1)] = 1
    deadline: Annotated[float, Meta(gt=0)] = 60.0
    minimum: Annotated[int, Meta(ge=1)] = 1
    over_selection: Annotated[float, Meta(ge=1)] = 1.0
    insecure: bool = False

    @contextmanager
    def open(self, setup: Setup) -> Iterator[Session]:
        from fedml_core.communication.mqtt import Broker, MqttComManager

        if setup.recipe is None:
            raise ConfigError("engine 'edge' needs a configuration file: devices build the network from it")
        with MqttComManager(SERVER, Broker.parse(self.broker, insecure=self.insecure), self.run) as com:
            yield from serve_devices(self, com, setup)


def serve_devices(engine: Edge, com: ComManager, setup: Setup) -> Iterator[Session]:
    """A session whose clients are the devices that join over `com`."""
    server = ServerManager(com, engine.run, setup.identity, own_clients=True)
    finished = False
    try:
        yield EdgeSession(engine, server, setup)
        finished = True
    finally:
        # After a failure the devices are left waiting: the resumed server finds them there.
        if finished:
            server.finish()


class EdgeSession(RemoteSession):
    """Rounds over whoever is present, ended by a goal or a deadline."""

    def __init__(self, engine: Edge, server: ServerManager, setup: Setup) -> None:
        super().__init__(server, {}, device=setup.device, setup=setup)
        self.engine, self.recipe = engine, setup.recipe
        # Devices that are named like clients of the data set keep its order, so that the run can be compared with a simulation.
        self.order = {client: i for i, client in enumerate(setup.data.client_ids)}
        self._be(uuid.uuid4().hex)

    def _be(self, federation: str) -> None:
        """What tells this run from others of its name: devices begin a new one without the private states of the last."""
        self.federation = federation
        self.server.welcome = {"recipe": self.recipe, "identity": self.server.config, "federation": federation}

    def save(self) -> Iterable[tuple[str, Tree]]:
        # No device has an empty name, and what the devices keep is theirs.
        return [("", {"federation": self.federation})]

    def restore(self, saved: Iterable[tuple[str, Tree]]) -> None:
        # A checkpoint of an earlier version does not say; its devices go by the configuration.
        self._be(dict(saved).get("", {}).get("federation", self.server.config))

    def population(self) -> Sequence[str]:
        self._await_devices()
        self.server.attend_all()
        self.clients = {client: size for member in self.server.members.values() for client, size in (member.hosts or {}).items()}
        return sorted(self.clients, key=lambda client: (self.order.get(client, math.inf), client))

    def _await_devices(self) -> None:
        """Return when enough devices are here; until then tell whoever watches who is, and how many are not."""
        server, wanted = self.server, self.engine.devices
        told: list[str] | None = None
        due = time.monotonic()
        while (missing := wanted - len(server.members)) > 0:
            if time.monotonic() >= due:
                told, due = list(server.members), time.monotonic() + REMIND
                log.info("%d of %d devices are here%s (waiting for %d more)", len(told), wanted, names(": ", told), missing)
            if server.attend(max(0.0, due - time.monotonic())) and list(server.members) != told:
                due = min(due, time.monotonic() + SETTLE)
        if told is not None:
            log.info("%d of %d devices are here%s", len(server.members), wanted, names(": ", list(server.members)))

    def select(self, count: int, seed: int, round: int) -> list[str]:
        present = self.population()
        asked = min(len(present), math.ceil(count * self.engine.over_selection))
        self.server.patience = Patience(min(count, asked), min(self.engine.minimum, asked), self.engine.deadline)
        return sample_clients(present, asked, seed, round)

    def everyone(self, round: int) -> Cohort:
        present = self.population()
        self.server.patience = Patience(minimum=0, deadline=self.engine.deadline)
        return self.cohort(round, present)


def names(introduction: str, of: Sequence[str]) -> str:
    """`introduction` and the names, or as many as a line takes; nothing if there are none."""
    more = len(of) - MOST_NAMES
    return f"{introduction}{', '.join(of[:MOST_NAMES])}{f' and {more} more' if more > 0 else ''}" if of else ""
