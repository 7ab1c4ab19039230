"""FixedPoint: real numbers as elements of a prime field, such that their sum is that of the elements."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import torch
from msgspec import Meta
from torch import Tensor

from fedml_core.errors import ConfigError, DivergedError
from fedml_core.security.field import PrimeField
from fedml_core.settings import settings


@settings
class FixedPoint:
    """x as round(x 2^bits) modulo p, negative numbers in the upper half.

    The sum of n numbers is exact as long as it stays below p/2 in size, which is the case whatever they are if each is at most
    `limit`. What is lost in rounding is at most 2^-(bits + 1) for each of them to the nearest, and less than 2^-bits at random.

    Args:
        bits: after the binary point.
        rounding: `nearest`, or `stochastic`: up or down at random, so that the mean is x itself (So et al., 2020).
    """

    bits: Annotated[int, Meta(ge=0, le=29)] = 16
    rounding: Literal["nearest", "stochastic"] = "stochastic"

    def limit(self, field: PrimeField, parties: int) -> float:
        """The largest number that each of so many parties may send."""
        return (field.modulus - 1) // 2 // parties * 2.0**-self.bits

    def encode(self, field: PrimeField, numbers: Tensor, parties: int, draw: np.random.Generator) -> Tensor:
        """Elements, int64 in the shape of `numbers`, of which `parties` can be added.

        Args:
            draw: decides where numbers at random go.

        Raises:
            ConfigError: a number is larger than the limit.
            DivergedError: a number is not finite.
        """
        scaled = numbers.double() * 2.0**self.bits
        if not bool(scaled.isfinite().all()):
            raise DivergedError("training diverged: an update that is to be summed holds numbers that are not finite")
        if self.rounding == "stochastic":
            whole = (scaled + torch.from_numpy(draw.random(tuple(scaled.shape))).to(scaled.device)).floor()
        else:
            whole = scaled.round()
        largest = float(whole.abs().max()) if whole.numel() else 0.0
        if largest > (field.modulus - 1) // 2 // parties:
            raise ConfigError(
                f"a number of {largest * 2.0**-self.bits:.6g} is to be summed over {parties} clients: with bits = {self.bits} "
                f"modulo {field.modulus} it may be at most {self.limit(field, parties):.6g}, or the sum could wrap. Lower bits, "
                "bound the updates (a lower rate, clipped gradients), or ask fewer clients"
            )
        return field.reduce(whole.long())

    def decode(self, field: PrimeField, elements: Tensor) -> Tensor:
        """float64 numbers, of elements or of their sum."""
        signed = torch.where(elements > field.modulus // 2, elements - field.modulus, elements)
        return signed.double() * 2.0**-self.bits
