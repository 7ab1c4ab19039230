"""Secret shares."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fedml_core.security.field import PrimeField


def additive_shares(field: PrimeField, secret: Tensor, parties: int, random: Callable[..., Tensor] | None = None) -> Tensor:
    """`[parties, ...]` elements that add up to the secret, any `parties` - 1 of which are uniform and independent of it.

    Args:
        random: uniform elements of a shape, `field.random` if not given.
    """
    others = (random or field.random)(parties - 1, *secret.shape).to(secret.device)
    return torch.cat([others, field.sub(secret, field.sum(others))[None]])
