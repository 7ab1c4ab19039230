"""PrimeField: arithmetic modulo a prime, on tensors."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated

import numpy as np
import torch
from msgspec import Meta
from torch import Tensor

from fedml_core.settings import settings

# A factor of a matrix product is cut there, so that so many products of 15 or 16 bits with 31 bits add up to less than 2^53.
LOW_BITS, TERMS = 16, 64


@settings
class PrimeField:
    """The numbers 0 ... p - 1 with arithmetic modulo a prime p < 2^31; elements are int64 tensors of any shape, on any device.

    Nothing overflows: the sum of two elements is below 2^32, their product below 2^62, and both are reduced at once. A matrix
    product comes from two in float64. Its left factor is cut into the low 16 bits and the 15 above them, so that each product is
    below 2^47 and a sum of 64 of them below 2^53: up to there float64 holds every whole number, whatever the order of additions.
    Longer sums are cut and reduced in between.

    Args:
        modulus: p.
    """

    modulus: Annotated[int, Meta(ge=2, lt=2**31)] = 2**31 - 1

    def problems(self) -> Iterator[str]:
        if any(self.modulus % factor == 0 for factor in range(2, math.isqrt(self.modulus) + 1)):
            yield f"modulus = {self.modulus} is not a prime: take one, such as 2^31 - 1 = {2**31 - 1}"

    def reduce(self, numbers: Tensor) -> Tensor:
        """Whole numbers of either sign as elements."""
        return numbers % self.modulus

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        return (a + b) % self.modulus

    def sub(self, a: Tensor, b: Tensor) -> Tensor:
        return (a - b) % self.modulus

    def mul(self, a: Tensor, b: Tensor) -> Tensor:
        return a * b % self.modulus

    def sum(self, elements: Tensor) -> Tensor:
        """The sum over the first dimension, which may have 2^32 elements."""
        return elements.sum(0, dtype=torch.int64) % self.modulus

    def matmul(self, a: Tensor, b: Tensor) -> Tensor:
        """The matrix product of `[m, k]` and `[k, n]`."""
        high, low = (a >> LOW_BITS).double(), (a & (1 << LOW_BITS) - 1).double()
        total = torch.zeros(len(a), b.shape[1], dtype=torch.int64, device=b.device)
        for start in range(0, len(b), TERMS):
            terms, right = slice(start, start + TERMS), b[start : start + TERMS].double()
            upper = (high[:, terms] @ right).long() % self.modulus << LOW_BITS
            total += (upper + (low[:, terms] @ right).long()) % self.modulus
        return total % self.modulus

    def power(self, base: Tensor, exponent: int) -> Tensor:
        """`base` multiplied by itself, `exponent` >= 0 times."""
        result, square = torch.ones_like(base) % self.modulus, base
        while exponent:
            result = self.mul(result, square) if exponent & 1 else result
            square, exponent = self.mul(square, square), exponent >> 1
        return result

    def inverse(self, elements: Tensor) -> Tensor:
        """What gives 1 when multiplied with them, by Fermat: a^(p - 2).

        Raises:
            ZeroDivisionError: one of them is 0.
        """
        if not bool(elements.all()):
            raise ZeroDivisionError("0 has no inverse")
        return self.power(elements, self.modulus - 2)

    def holds(self, elements: object, shape: Sequence[int]) -> bool:
        """Whether this, which somebody sent, is a tensor of elements of this shape (int32 will do)."""
        return (
            isinstance(elements, Tensor)
            and elements.dtype in (torch.int32, torch.int64)
            and elements.shape == tuple(shape)
            and bool(((elements >= 0) & (elements < self.modulus)).all())
        )

    def random(self, *shape: int) -> Tensor:
        """Uniform elements that nobody can predict: from the operating system's generator."""
        return self._uniform(lambda block, length: os.urandom(length), shape)

    def expand(self, seed: bytes, *shape: int) -> Tensor:
        """Uniform elements from a seed, the same for everybody who has it, and without it unpredictable: SHAKE-256."""
        return self._uniform(lambda block, length: hashlib.shake_256(seed + block.to_bytes(8, "little")).digest(length), shape)

    def _uniform(self, read: Callable[[int, int], bytes], shape: tuple[int, ...]) -> Tensor:
        """Words of just enough bits, of which those that are no element are left out: no element is more likely than another."""
        count, block, mask = math.prod(shape), 0, (1 << self.modulus.bit_length()) - 1
        found = np.empty(0, np.int64)
        while len(found) < count:
            words = np.frombuffer(read(block, 4 * (count - len(found))), "<u4").astype(np.int64) & mask
            found, block = np.concatenate([found, words[words < self.modulus]]), block + 1
        return torch.from_numpy(found).view(shape)
