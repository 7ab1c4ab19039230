"""Normalisation of channels, as a choice within a network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Annotated

from msgspec import Meta
from torch import nn

from fedml_core.settings import Registry, settings


class Norm(ABC):
    """Makes the normalisation layers of a convolutional network."""

    @abstractmethod
    def __call__(self, channels: int, affine: bool = True) -> nn.Module:
        """A layer for `[b, channels, height, width]`, with a scale and a shift for each channel if it is `affine`."""

    def faults(self, channels: int) -> Iterator[str]:
        """What is wrong with it in a network of which each layer has a multiple of `channels`."""
        return iter(())


norms: Registry[Norm] = Registry("normalisation", Norm)


@norms.register("batch")
@settings
class BatchNorm(Norm):
    """By the mean and the variance of a channel over a batch: Ioffe and Szegedy, ICML 2015.

    Running statistics are averaged over the clients, and are those of no client where these have different classes.
    """

    def __call__(self, channels: int, affine: bool = True) -> nn.Module:
        return nn.BatchNorm2d(channels, affine=affine)


@norms.register("group")
@settings
class GroupNorm(Norm):
    """By the mean and the variance of each of `groups` groups of channels of one example: Wu and He, ECCV 2018.

    Without statistics to average, so that it does not suffer from clients of different classes: Hsieh et al., ICML 2020.

    Args:
        groups: how many; `each`: how many channels of each group, in place of that.
    """

    groups: Annotated[int, Meta(ge=1)] = 2
    each: Annotated[int, Meta(ge=1)] | None = None

    def __call__(self, channels: int, affine: bool = True) -> nn.Module:
        return nn.GroupNorm(channels // self.each if self.each else self.groups, channels, affine=affine)

    def faults(self, channels: int) -> Iterator[str]:
        name, number = ("each", self.each) if self.each else ("groups", self.groups)
        if channels % number:
            fitting = ", ".join(str(number) for number in range(1, channels + 1) if not channels % number)
            yield f"norm.{name} = {number}: must divide {channels} channels. Allowed: {fitting}"
