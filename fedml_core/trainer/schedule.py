"""Learning rates that change over the rounds."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Annotated

from msgspec import Meta

from fedml_core.settings import Registry, settings

Positive = Annotated[float, Meta(gt=0)]


class Schedule(ABC):
    """A rate as a function of the round, counted from 0."""

    @abstractmethod
    def __call__(self, round: int) -> float:
        """The rate of this round."""


schedules: Registry[Schedule] = Registry("schedule", Schedule)
Rate = Positive | Schedule


def rate(value: float | Schedule, round: int) -> float:
    """The rate in force in `round`, be it constant or scheduled."""
    return value(round) if isinstance(value, Schedule) else value


@schedules.register("exponential")
@settings
class Exponential(Schedule):
    """initial * factor ** (round / every)."""

    initial: Positive
    factor: Positive
    every: Annotated[int, Meta(ge=1)] = 1

    def __call__(self, round: int) -> float:
        return self.initial * float(self.factor ** (round / self.every))


@schedules.register("cosine")
@settings
class Cosine(Schedule):
    """Half a cosine from `initial` at round 0 to `final` at round `rounds` and after. Loshchilov and Hutter, ICLR 2017, eq. 5."""

    initial: Positive
    rounds: Annotated[int, Meta(ge=1)]
    final: Annotated[float, Meta(ge=0)] = 0.0

    def __call__(self, round: int) -> float:
        share = min(round / self.rounds, 1.0)
        return self.final + (self.initial - self.final) * (1 + math.cos(math.pi * share)) / 2
