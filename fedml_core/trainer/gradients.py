"""Gradients of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Variable


def autocast(device: torch.device, precision: torch.dtype | None) -> AbstractContextManager[Any]:
    """`torch.autocast` to `precision`; nothing at all if it is None."""
    return nullcontext() if precision is None else torch.autocast(device.type, precision)


def gradients(losses: Tensor, weights: Tensor, params: Sequence[Tensor]) -> list[Tensor]:
    """d(sum_i weights_i losses_i) / d params, zero where a parameter has no part in the losses.

    The weighted mean itself is never computed: its gradient is that of the examples' losses `[b]` against the vector `weights`.

    `torch.autograd.grad` checks and converts its arguments in Python, which is a fifth of the training step of a small model; the
    arguments here are known to be right, so the engine behind it is called directly, as torch's own modules do.
    """
    found = Variable._execution_engine.run_backward((losses,), (weights,), False, False, tuple(params), True, False)
    return [torch.zeros_like(param) if grad is None else grad for grad, param in zip(found, params, strict=True)]


def unshared(grads: list[Tensor]) -> list[Tensor]:
    """The same gradients, each in memory of its own, so that they may be written into.

    Autograd hands one tensor to several parameters (those of W + V, say), or an expanded one (that of a sum).
    """
    seen: set[int] = set()
    own = []
    for grad in grads:
        shared = grad.data_ptr() in seen or 0 in grad.stride()
        seen.add(grad.data_ptr())
        own.append(grad.clone(memory_format=torch.contiguous_format) if shared else grad)
    return own
