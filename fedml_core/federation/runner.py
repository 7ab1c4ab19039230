"""ClientRunner: carries out tasks for one client at a time, in whatever process it lives."""

from __future__ import annotations

import copy

import torch

from fedml_core.federation.client import Client, Reply, Task, Workspace
from fedml_core.federation.dialogue import SERVER, Dialogue, Saying
from fedml_core.federation.engine import Setup
from fedml_core.tree import Tree


class ClientRunner:
    """One workspace in which the clients of a setup take turns: the reference way to carry a client out, on every engine."""

    def __init__(self, setup: Setup, workspace: type[Workspace] = Workspace) -> None:
        self.setup = setup
        self.workspace = workspace(copy.deepcopy(setup.module).to(setup.device), setup.precision)

    def client(self, id: str, round: int, state: Tree = None) -> Client:
        """What a task gets to see of client `id`."""
        setup = self.setup
        return Client(id, round, setup.seed, setup.data.train(id), setup.data.test, setup.trainer, self.workspace, state)

    def server(self, round: int) -> Client:
        """The server as `Cohort.server` shows it, in this runner's workspace."""
        setup = self.setup
        none = setup.data.global_test.subset(torch.empty(0, dtype=torch.int64, device=setup.device))
        return Client(SERVER, round, setup.seed, none, lambda _: none, setup.trainer, self.workspace)

    def talk(self, id: str, round: int, task: Dialogue, shared: Tree, own: Tree, state: Tree) -> tuple[Client, Saying]:
        """Client `id` in a workspace of its own, which it has until its dialogue is over, and the dialogue."""
        client = ClientRunner(self.setup, type(self.workspace)).client(id, round, state)
        return client, task.talk(client, shared, own)

    def __call__(self, id: str, round: int, task: Task, shared: Tree, own: Tree, state: Tree) -> Reply:
        """The reply of client `id`, whose private state is `state`."""
        return task(self.client(id, round, state), shared, own)
