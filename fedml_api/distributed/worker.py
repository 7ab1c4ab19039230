"""The worker's side of a distributed run: carries out clients for a server (see `server.py` for the conversation)."""

from __future__ import annotations

import logging
import threading
from typing import Any

import torch

from fedml_api.distributed.parcel import Runner, carry_out
from fedml_api.distributed.server import PROTOCOL
from fedml_api.distributed.talking import TALK, Speakers, answer_or_error, reason_of
from fedml_core import tree
from fedml_core.communication.com_manager import GONE, ComManager
from fedml_core.communication.message import SERVER, Message
from fedml_core.errors import CommunicationError, Refused
from fedml_core.federation import Aggregator, Task, restore
from fedml_core.tree import Tree

log = logging.getLogger("fedml")
# torch's generators belong to the process: workers that are threads of one process take turns, or their dropout masks would mix.
_one_at_a_time = threading.Lock()


class ClientManager:
    """One worker. It knows tasks and aggregators by what it is sent, and no algorithm.

    Args:
        run: the run to join; `config`: hash of the configuration that this worker was made from, or None if it has none.
        hosts: the clients it can carry out, with their numbers of examples; None for any.
        device: where what the server sends is to lie.
    """

    def __init__(
        self,
        com: ComManager,
        run: str,
        config: str | None,
        hosts: dict[str, int] | None = None,
        device: torch.device = torch.device("cpu"),  # noqa: B008  (a value)
    ) -> None:
        self.com, self.run, self.config, self.hosts, self.device = com, run, config, hosts, device
        self.map, self.shared = -1, None
        self.speakers = Speakers(com, run, device)

    def join(self, timeout: float = 60.0) -> Tree:
        """Ask the server to be let in; what it says in its welcome.

        Raises:
            Refused: with the server's reason, or because its answer cannot be understood.
            CommunicationError: the server did not answer.
        """
        about = {"protocol": PROTOCOL, "config": self.config, "hosts": self.hosts}
        self.com.send(Message("join", self.com.name, SERVER, about, self.run))
        answer = self.com.receive(timeout)
        while answer is not None and not (answer.sender == SERVER and answer.type in ("welcome", "refused")):
            answer = self.com.receive(timeout)
        if answer is None:
            raise CommunicationError(f"the server did not answer within {timeout:.0f} s: is it running, and for run '{self.run}'?")
        match answer.type, answer.payload:
            case "welcome", {"config": config}:
                return config
            case "refused", {"reason": str(reason)}:
                raise Refused(f"the server refused {self.com.name}: {reason}")
        raise Refused(
            f"the server's answer to {self.com.name} is not one of this protocol: install the same version of fedml on both"
        )

    def serve(self, runner: Runner) -> bool:
        """Do what the server asks, by `runner`, until the run is over; False if the server is gone instead."""
        while (message := self.com.receive()) is not None:
            if message.type in TALK:
                self.speakers.handle(message)
                with _one_at_a_time:
                    self.speakers.go_on()
            if message.sender != SERVER:
                continue  # workers of a run can reach each other, and none may speak for the server
            if message.type == "finish":
                return True
            if message.type == GONE:
                return False
            if message.type == "work":
                self._answer(message, runner)
        return False

    def _answer(self, message: Message, runner: Runner) -> None:
        try:
            with _one_at_a_time:
                if message.payload["talk"] is not None:
                    self._take(message.payload)
                    self.speakers.begin(message, runner, self.shared)
                    self.speakers.go_on()
                    return
                payload = self._work(message.payload, message.round, runner)
            type = "done"
        except Exception as error:
            type, payload = "error", reason_of(error)
        # The next client is trained while this answer is under way.
        answer = Message(type, self.com.name, message.sender, payload, message.run, message.round, reply_to=message.id)
        answer_or_error(self.com, answer)

    def _take(self, work: dict[str, Any]) -> None:
        """Keep what the clients of a map share; it comes with the first of them."""
        if work["map"] != self.map:
            self.map, self.shared = work["map"], tree.to(work["shared"], self.device)

    def _work(self, work: dict[str, Any], round: int, runner: Runner) -> dict[str, Tree]:
        self._take(work)
        aggregator = None if work["fold"] is None else restore(Aggregator, work["fold"])
        task = restore(Task, work["task"])
        own, states = tree.to(work["own"], self.device), tree.to(work["states"], self.device)
        return carry_out(runner, round, task, self.shared, work["clients"], own, states, aggregator)
