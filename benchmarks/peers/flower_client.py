"""What a client of Flower does; a module of its own, so that Ray's processes import it and keep the examples between rounds."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from serve import clients
from torch import nn
from torch_models import build, loss

app = ClientApp()


@functools.cache
def _examples() -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(torch.from_numpy(x), torch.from_numpy(y)) for x, y in clients(Path(os.environ["PEER_FOLDER"]))]


@functools.cache
def _network(model: str, shape: tuple[int, ...], classes: int, dropout: bool) -> nn.Module:
    return build({"model": model, "shape": shape, "classes": classes, "dropout": dropout})


@app.train()
def train(message: Message, context: Context) -> Message:
    """One epoch on the examples of this client."""
    chosen: dict[str, Any] = dict(message.content["config"])
    network = _network(chosen["model"], tuple(chosen["shape"]), chosen["classes"], chosen["dropout"])
    network.load_state_dict(message.content["arrays"].to_torch_state_dict())
    network.train()
    x, y = _examples()[int(context.node_config["partition-id"])]
    optimizer = torch.optim.SGD([param for param in network.parameters() if param.requires_grad], lr=chosen["lr"])
    for rows in torch.randperm(len(x)).split(chosen["batch"]):
        optimizer.zero_grad()
        loss(network(x[rows]), y[rows]).backward()
        optimizer.step()
    metrics = MetricRecord({"num-examples": len(x)})
    return Message(RecordDict({"arrays": ArrayRecord(network.state_dict()), "metrics": metrics}), reply_to=message)
