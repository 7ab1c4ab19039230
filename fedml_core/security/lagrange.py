"""Lagrange coding: values as those of a polynomial, which any of its points in sufficient number give back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from fedml_core.security.field import PrimeField


def coefficients(field: PrimeField, known: Sequence[int], at: Sequence[int]) -> Tensor:
    """c with f(at_i) = sum_j c_ij f(known_j) for every polynomial f of degree below the number of known points.

        c_ij = prod_{m != j} (at_i - known_m) / (known_j - known_m)

    Returns:
        int64 `[at, known]`, elements of the field.

    Raises:
        ValueError: two of the known points are one in the field.
    """
    return torch.tensor(_coefficients(field.modulus, tuple(known), tuple(at)), dtype=torch.int64).view(len(at), len(known))


@lru_cache(maxsize=256)
def _coefficients(p: int, known: tuple[int, ...], at: tuple[int, ...]) -> list[list[int]]:
    if len({point % p for point in known}) < len(known):
        raise ValueError(f"points must differ modulo {p}: {known}")

    def product(point: int, left_out: int) -> int:
        return math.prod((point - known[m]) % p for m in range(len(known)) if m != left_out) % p

    scale = [pow(product(point, j), -1, p) for j, point in enumerate(known)]
    return [[product(point, j) * scale[j] % p for j in range(len(known))] for point in at]


def interpolate(field: PrimeField, known: Sequence[int], values: Tensor, at: Sequence[int]) -> Tensor:
    """The values at other points of the polynomial of least degree through the known ones: encoding and decoding alike.

    Yu et al., AISTATS 2019 (Lagrange coded computing), section 4. A polynomial through n values, known at any n points, is known.

    Args:
        values: elements `[known, ...]`.

    Returns:
        elements `[at, ...]`.
    """
    weights = coefficients(field, known, at).to(values.device)
    return field.matmul(weights, values.reshape(len(values), -1)).view(len(at), *values.shape[1:])
