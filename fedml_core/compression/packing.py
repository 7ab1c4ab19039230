"""Codes as bytes, and the random rotation of a vector: what compressors have in common."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor


def digits(levels: int) -> int:
    """How many codes 0 ... levels - 1 go into a byte, written to the base `levels`: 8 of 2 levels, 5 of 3, 4 of 4, 2 of 16."""
    found = 1
    while levels ** (found + 1) <= 256:
        found += 1
    return found


def pack(codes: Tensor, levels: int) -> Tensor:
    """uint8 `[ceil(n / digits)]` from codes below `levels`, uint8 `[n]`."""
    width = digits(levels)
    padded = torch.nn.functional.pad(codes, (0, -len(codes) % width)).view(-1, width)
    return (padded * _powers(levels, codes)).sum(1, dtype=torch.uint8)


def unpack(packed: Tensor, levels: int, count: int) -> Tensor:
    """The first `count` of the codes that were packed; below `levels`, whatever the bytes are."""
    wide = packed.to(torch.int16)[:, None]
    return (wide // _powers(levels, wide) % levels).flatten()[:count]


def _powers(levels: int, like: Tensor) -> Tensor:
    return torch.tensor([levels**i for i in range(digits(levels))], dtype=like.dtype, device=like.device)


def rotated_shape(count: int) -> tuple[int, int]:
    """(m, h), so that a vector of `count` coordinates is rotated as one of m * h: h a power of two, m < 64 odd.

    m * h is `count` if that is below 64 or a power of two, and at most 1/31 more if not.
    """
    h = 1
    while -(-count // h) > 63:
        h *= 2
    m = -(-count // h)
    while m and m % 2 == 0:
        m, h = m // 2, 2 * h
    return m, h


def rotate(vector: Tensor, common: np.random.Generator) -> Tensor:
    """A random rotation in O(n log n): random signs D, then the Walsh-Hadamard transform, H D x.

    Suresh et al., ICML 2017, section 3. Where the length is no power of two, filling up to the next one would up to double what is
    sent. Instead x is filled up to m * h (see `rotated_shape`), and H is the Kronecker product of a Hartley matrix of order m, also
    orthonormal, symmetric and without large entries, and a Hadamard matrix of order h.
    """
    padded = torch.nn.functional.pad(vector, (0, math.prod(rotated_shape(len(vector))) - len(vector)))
    return _transform(padded * _signs(padded, common), len(vector))


def rotate_back(rotated: Tensor, count: int, common: np.random.Generator) -> Tensor:
    """The vector of `count` coordinates that was rotated."""
    return (_transform(rotated, count) * _signs(rotated, common))[:count]


def _signs(like: Tensor, common: np.random.Generator) -> Tensor:
    return torch.from_numpy(common.integers(0, 2, len(like), dtype=np.int8)).to(like.device) * 2 - 1


def _transform(vector: Tensor, count: int) -> Tensor:
    """H x, where H is symmetric and its own inverse."""
    m, h = rotated_shape(count)
    found, span = vector.view(m, h), 1
    while span < h:
        pairs = found.view(m, -1, 2, span)
        found = torch.stack([pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]], 2).view(m, h)
        span *= 2
    return torch.mm(_hartley(m, vector), found).flatten().mul(h**-0.5)


def _hartley(order: int, like: Tensor) -> Tensor:
    """cos(2 pi i j / m) + sin(2 pi i j / m), over sqrt(m)."""
    angle = np.outer(range(order), range(order)) * (2 * np.pi / max(order, 1))
    return torch.from_numpy((np.cos(angle) + np.sin(angle)) / max(order, 1) ** 0.5).to(like)
