"""What a network costs: parameters, and operations for one example."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fedml_api.model.model_spec import Shape


@dataclass(frozen=True)
class Cost:
    """Trainable `parameters` of a network, and the `flops` of one example's way through it.

    Counted are the multiplications and additions of convolutions and matrix products, two for each pair; what is done number by
    number (activations, normalisation, pooling) is left out, as papers do. Training takes about three times as many.
    """

    parameters: int
    flops: int


def cost(network: nn.Module, shape: Shape) -> Cost:
    """The cost of a network for examples of `shape` (without the batch)."""
    training = network.training
    network.eval()
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counted:
            network(torch.zeros(1, *shape))
    finally:
        network.train(training)
    return Cost(sum(param.numel() for param in network.parameters() if param.requires_grad), counted.get_total_flops())
