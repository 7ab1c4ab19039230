"""ClientRunner: carries out tasks for one client at a time, in whatever process it lives."""

from __future__ import annotations

import copy

from fedml_core.federation.client import Client, Reply, Task, Workspace
from fedml_core.federation.engine import Setup
from fedml_core.tree import Tree


class ClientRunner:
    """One workspace in which the clients of a setup take turns: the reference way to carry a client out, on every engine."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.workspace = Workspace(copy.deepcopy(setup.module).to(setup.device))

    def __call__(self, id: str, round: int, task: Task, shared: Tree, own: Tree, state: Tree) -> Reply:
        """The reply of client `id`, whose private state is `state`."""
        setup = self.setup
        train, test = setup.data.train(id), setup.data.test(id)
        return task(Client(id, round, setup.seed, train, test, setup.trainer, self.workspace, state), shared, own)
