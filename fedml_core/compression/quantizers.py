"""Quantisers: few levels for every coordinate."""

from __future__ import annotations

import math
from typing import Annotated

import numpy as np
import torch
from msgspec import Meta
from torch import Tensor

from fedml_core import rng
from fedml_core.compression.compressor import Packing, compressors
from fedml_core.compression.packing import digits, pack, rotate, rotate_back, rotated_shape, unpack
from fedml_core.settings import settings

Levels = Annotated[int, Meta(ge=2, le=256)]
# Of a key that both sides derive a rotation from.
KEY_BITS = 63


class Quantizer(Packing):
    """Rounds every coordinate at random to one of the two of `levels` equidistant points around it, so that its mean is itself."""

    levels: int

    def span(self, vector: Tensor) -> Tensor:
        """The first point and the last, `[2]`."""
        return torch.stack([vector.min(), vector.max()]) if len(vector) else vector.new_zeros(2)

    def room(self, count: int) -> tuple[int, int]:
        return -(-count // digits(self.levels)), 2

    def encode(self, vector: Tensor, draw: np.random.Generator, common: np.random.Generator) -> tuple[Tensor, Tensor]:
        span = self.span(vector)
        low, high = span
        place = (vector.clamp(low, high) - low) / (high - low).clamp(min=1e-38) * (self.levels - 1)
        below = place.floor().clamp(max=self.levels - 2)
        chance = torch.from_numpy(draw.random(len(vector), dtype=np.float32)).to(vector.device)
        return pack((below + (chance < place - below)).to(torch.uint8), self.levels), span

    def decode(self, codes: Tensor, numbers: Tensor, count: int, common: np.random.Generator) -> Tensor:
        low, high = numbers
        return unpack(codes, self.levels, count).mul((high - low) / (self.levels - 1)).add(low)


@compressors.register("uniform")
@settings
class Uniform(Quantizer):
    """Stochastic quantisation between the extremes of each tensor. Suresh et al., ICML 2017, section 2.2; QSGD is its kin.

        x -> a + j s  or  a + (j + 1) s,    a = min x,  s = (max x - min x) / (levels - 1),    unbiased

    Sent per tensor: codes to the base `levels`, as many as go into a byte (log2(levels) bits each if levels is 2, 4, 16 or 256, and
    1.6 if it is 3), and 64 bits for the extremes.
    """

    levels: Levels = 256


@compressors.register("rotated")
@settings
class Rotated(Quantizer):
    """Stochastic quantisation after a random rotation, which makes the range small. Suresh et al., ICML 2017, section 3.

    The rotation is that of the round, the same for all clients; `seed` chooses another series of them. Sent as by `uniform`, for up
    to 1/31 more coordinates, and 64 bits for the rotation.
    """

    levels: Levels = 16
    seed: Annotated[int, Meta(ge=0)] = 0

    def key(self, draw: np.random.Generator, round: int) -> int:
        return rng.key(self.seed, "rotation", round) >> (128 - KEY_BITS)

    def room(self, count: int) -> tuple[int, int]:
        return super().room(math.prod(rotated_shape(count)))

    def encode(self, vector: Tensor, draw: np.random.Generator, common: np.random.Generator) -> tuple[Tensor, Tensor]:
        return super().encode(rotate(vector, common), draw, common)

    def decode(self, codes: Tensor, numbers: Tensor, count: int, common: np.random.Generator) -> Tensor:
        return rotate_back(super().decode(codes, numbers, math.prod(rotated_shape(count)), common), count, common)


@compressors.register("terngrad")
@settings
class TernGrad(Quantizer):
    """Three levels, after clipping to 2.5 standard deviations. Wen et al., NeurIPS 2017, Algorithm 1 and section 4.

        clip: |x| <= 2.5 sigma,    s = max |x|,    x -> s sign(x) b,    P(b = 1) = |x| / s

    Unbiased for the clipped tensor. Sent per tensor: 1.6 bits for a coordinate (five to a byte), and 64 bits for -s and s.
    """

    levels = 3

    def span(self, vector: Tensor) -> Tensor:
        if not len(vector):
            return vector.new_zeros(2)
        largest = torch.minimum(vector.abs().max(), 2.5 * vector.std(correction=0))
        return torch.stack([-largest, largest])


@compressors.register("drive")
@settings
class Drive(Packing):
    """One bit per coordinate: the sign after a random rotation R of the client's own. Vargaftik et al., NeurIPS 2021.

        x -> S R' sign(R x),    S = |x|^2 / |R x|_1

    With this scale the projection onto x is exact, <x, S R' sign(R x)> = |x|^2, hence the estimate is unbiased for a uniformly
    random rotation (theorem 1); the Walsh-Hadamard rotation that makes it fast (section 5) comes close to one in the high
    dimensions of a model's tensors, and not for vectors of few or few large coordinates. Sent per tensor: one bit for a coordinate
    (of up to 1/31 more) and 32 for S; per reply 64 for the rotation.
    """

    def key(self, draw: np.random.Generator, round: int) -> int:
        return int(draw.integers(1 << KEY_BITS))

    def room(self, count: int) -> tuple[int, int]:
        return -(-math.prod(rotated_shape(count)) // 8), 1

    def encode(self, vector: Tensor, draw: np.random.Generator, common: np.random.Generator) -> tuple[Tensor, Tensor]:
        rotated = rotate(vector, common)
        scale = (vector @ vector) / rotated.abs().sum().clamp(min=1e-38)
        return pack((rotated > 0).to(torch.uint8), 2), scale.view(1)

    def decode(self, codes: Tensor, numbers: Tensor, count: int, common: np.random.Generator) -> Tensor:
        signs = unpack(codes, 2, math.prod(rotated_shape(count))) * 2.0 - 1
        return rotate_back(signs * numbers, count, common)
