"""Sparsification."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import torch
from msgspec import Meta
from torch import Tensor

from fedml_core.compression.compressor import Packing, compressors
from fedml_core.settings import settings


@compressors.register("topk")
@settings
class TopK(Packing):
    """Of each tensor the `fraction` of coordinates that are largest in absolute value; what is left out is kept for the next time.

        p = x + e,    sent: top_k(p),    e <- p - top_k(p)

    Stich et al., NeurIPS 2018 (Algorithm 1); Karimireddy et al., ICML 2019 (error feedback). Without `feedback` small coordinates
    may never be sent. Sent per tensor: k = round(fraction n) numbers of 32 bits, at least one, and their positions in 8, 16 or 32.
    """

    fraction: Annotated[float, Meta(gt=0, le=1)] = 0.1
    feedback: bool = True

    def room(self, count: int) -> tuple[int, int]:
        chosen = min(count, max(1, round(self.fraction * count)))
        return chosen * _positions(count).itemsize, chosen

    def encode(self, vector: Tensor, draw: np.random.Generator, common: np.random.Generator) -> tuple[Tensor, Tensor]:
        chosen = torch.topk(vector.abs(), self.room(len(vector))[1]).indices.sort().values
        codes = chosen.cpu().numpy().astype(_positions(len(vector))).view(np.uint8)
        return torch.from_numpy(codes), vector[chosen]

    def decode(self, codes: Tensor, numbers: Tensor, count: int, common: np.random.Generator) -> Tensor:
        chosen = codes.cpu().numpy().view(_positions(count)).astype(np.int64)
        if len(chosen) and (chosen[-1] >= count or (np.diff(chosen) <= 0).any()):
            raise ValueError("its positions are not in order, or beyond its tensor")
        found = numbers.new_zeros(count)
        found[torch.from_numpy(chosen).to(found.device)] = numbers
        return found


def _positions(count: int) -> np.dtype[np.unsignedinteger]:
    """The narrowest type that counts to `count` - 1."""
    return np.min_scalar_type(max(count - 1, 0)).newbyteorder("<")
