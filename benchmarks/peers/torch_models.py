"""The networks of the workloads in plain PyTorch, with the names of parameters that the library's own have."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class WordLSTM(nn.Module):
    """Embedding, LSTM with one trained bias, and two dense layers."""

    def __init__(self, words: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(words, 96)
        self.lstm = nn.LSTM(96, 670, batch_first=True)
        nn.init.zeros_(self.lstm.bias_hh_l0).requires_grad_(False)
        self.head = nn.Sequential(nn.Linear(670, 96), nn.Linear(96, words))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(self.embed(x))[0])


def build(settings: dict[str, Any]) -> nn.Module:
    """The network that the settings name."""
    shape, classes, dropout = settings["shape"], settings["classes"], settings["dropout"]
    match settings["model"]:
        case "LogisticRegression":
            return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), classes))
        case "TwoNN":
            hidden = [nn.Linear(math.prod(shape), 200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU()]
            return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(200, classes))
        case "ReddiCNN":
            channels, height, width = shape
            convolutions = [nn.Conv2d(channels, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2)]
            dense = [nn.Linear(64 * ((height - 4) // 2) * ((width - 4) // 2), 128), nn.ReLU(), nn.Dropout(0.5 * dropout)]
            return nn.Sequential(*convolutions, nn.Dropout(0.25 * dropout), nn.Flatten(), *dense, nn.Linear(128, classes))
        case "WordLSTM":
            return WordLSTM(classes)
        case name:
            raise ValueError(f"no network {name} here")


def loss(logits: Tensor, y: Tensor) -> Tensor:
    """Cross entropy, the mean over the batch, and over the words of a sequence."""
    return F.cross_entropy(logits.flatten(0, -2), y.flatten())


def loaded(settings: dict[str, Any], arrays: dict[str, Any]) -> nn.Module:
    """The network with these parameters."""
    network = build(settings)
    found = network.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()}, strict=False)
    if found.unexpected_keys:
        raise ValueError(f"no parameters {', '.join(found.unexpected_keys)} here: the library's network has other names by now")
    return network
