"""What an aggregation costs, measured by listening to the letters and holding a watch to those who write them."""

from __future__ import annotations

import math
import os
import time
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
from torch import nn

from fedml_api import Examples, FederatedDataset, LocalSGD, Standalone
from fedml_api.algorithms import TurboAggregate
from fedml_api.algorithms.turboaggregate import FIELD, SEED, PassOn
from fedml_core import tree
from fedml_core.federation import SERVER, Client, ClientValues, Cohort, Conversation, Saying, Setup
from fedml_core.security import PrimeField
from fedml_core.trainer import Classifier, ModelState
from fedml_core.tree import Tree


class Costs(NamedTuple):
    """A round of `clients` in groups of `group` on average, per client and in vectors of the model's size unless it says otherwise.

    Attributes:
        vectors: sent to other clients; `megabytes`: the same.
        masks: drawn by a client; with masks of pairs it draws one with every other client and one of its own.
        seconds: of CPU, from training to the last letter; `pairwise_seconds`: to draw and add the masks of pairs.
        server_seconds: of CPU, from the last reply to the mean.
    """

    clients: int
    group: float
    vectors: float
    megabytes: float
    masks: float
    seconds: float
    pairwise_seconds: float
    server_seconds: float


class Watched(PassOn):
    """The same dialogue; notes what is sent and how long it takes."""

    def talk(self, client: Client, shared: Tree, own: Tree = None) -> Saying:
        saying, letters = super().talk(client, shared, own), None
        started = None  # training, up to the first letter, does not count
        while True:
            try:
                post = saying.send(letters)  # type: ignore[arg-type]
            except StopIteration as end:
                NOTED["seconds"] += time.process_time() - (started or time.process_time())
                reply: Any = end.value
                return reply  # type: ignore[no-any-return]
            if started is not None:
                NOTED["seconds"] += time.process_time() - started
            NOTED["sent"] += sum(tree.count(letter) for name, letter in post.to.items() if name != SERVER)
            letters = yield post
            started = time.process_time()


NOTED: dict[str, float] = defaultdict(float)


class Watching:
    """A cohort that is watched."""

    def __init__(self, cohort: Cohort) -> None:
        self.cohort = cohort

    def __getattr__(self, name: str) -> Any:
        return getattr(self.cohort, name)

    def converse(self, task: PassOn, shared: Tree, own: Mapping[str, Tree] | None = None) -> Conversation:
        conversation = self.cohort.converse(Watched(task.local, task.code), shared, own)
        replies = conversation.replies

        def timed() -> ClientValues:
            found = replies()
            NOTED["through"] = time.process_time()
            return found

        conversation.replies = timed  # type: ignore[method-assign]
        return conversation


def costs(clients: int) -> Costs:
    """A round of so many clients with one example each, of a linear model with 101,000 parameters."""
    torch.manual_seed(0)
    columns = {"x": torch.randn(clients, 100), "y": torch.arange(clients)}
    parts = {f"c{k}": np.array([k]) for k in range(clients)}
    data = FederatedDataset(Examples(columns), Examples(columns), parts, name="one each")
    algorithm = TurboAggregate(local=LocalSGD(lr=0.01))
    random = PrimeField.random
    NOTED.clear()

    def counted(field: PrimeField, *shape: int) -> torch.Tensor:
        NOTED["drawn"] += math.prod(shape)
        return random(field, *shape)

    setup = Setup(Classifier(), nn.Linear(100, 1000), data, 0, torch.device("cpu"))
    with Standalone(executor="sequential", processes=1).open(setup) as session:
        cohort = session.cohort(0, session.population())
        model = tree.clone(ModelState.of(setup.module))
        with mock.patch.object(PrimeField, "random", counted):
            algorithm.round(algorithm.init(model), Watching(cohort))  # type: ignore[arg-type]
        server_seconds = time.process_time() - NOTED["through"]
        group = clients / len(algorithm.deal(cohort.clients, cohort.server))
    length = tree.count(model)
    sent, masks = NOTED["sent"] / clients, NOTED["drawn"] / clients / (length + 1) + 1
    own = NOTED["seconds"] / clients
    return Costs(clients, group, sent / (length + 1), 4e-6 * sent, masks, own, pairwise(clients, length), server_seconds)


def pairwise(clients: int, length: int) -> float:
    """CPU seconds of one client to draw the masks of Bonawitz et al. (CCS 2017) and add them to its update."""
    update, started = FIELD.random(length), time.process_time()
    for _ in range(clients):
        update = FIELD.add(update, FIELD.expand(os.urandom(SEED), length))
    return time.process_time() - started
