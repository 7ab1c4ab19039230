"""Feature skew: the same kinds of things look different to different clients."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from fedml_core.errors import ConfigError
from fedml_core.rng import rng
from fedml_core.settings import Registry, settings


class FeatureSkew(ABC):
    """Settings that say how a client's inputs differ from those of others: a pure function of the client's number and the seed."""

    @abstractmethod
    def __call__(self, x: Tensor, client: int, clients: int, seed: int, part: str) -> Tensor:
        """The inputs (`[n, ...]`) of one client, as it sees them.

        Args:
            client: its number, from 0; `clients`: how many there are.
            part: which of the client's inputs these are ("train", "test"): each are drawn by themselves.

        Raises:
            ConfigError: inputs of this kind cannot be changed so.
        """


feature_skews: Registry[FeatureSkew] = Registry("feature skew", FeatureSkew)


@feature_skews.register("noise")
@settings
class Noise(FeatureSkew):
    """Client k = 1 .. K adds Gaussian noise of mean 0 and variance sigma k / K to each number: the last one sees worst.

    Li et al., Federated Learning on Non-IID Data Silos, ICDE 2022.

    Args:
        sigma: in the square of the inputs' unit.
    """

    sigma: Annotated[float, Meta(ge=0, le=1e12)] = 0.1

    def __call__(self, x: Tensor, client: int, clients: int, seed: int, part: str) -> Tensor:
        if not x.is_floating_point():
            raise ConfigError(f"skew = noise: inputs are {str(x.dtype)[6:]}, not real numbers; leave skew out")
        noise = rng(seed, "skew", "noise", part, client).standard_normal(tuple(x.shape))
        return x + math.sqrt(self.sigma * (client + 1) / clients) * torch.from_numpy(noise).to(x.dtype)


@feature_skews.register("rotation")
@settings
class Rotation(FeatureSkew):
    """Client k turns its images counter-clockwise by the k-th angle, round and round: as many groups of clients as angles.

    Multiples of 90 degrees turn square images exactly; otherwise pixels are interpolated linearly, and what comes in from outside
    the image is 0. Ghosh et al., NeurIPS 2020 (rotated MNIST, with the default).

    Args:
        angles: in degrees.
    """

    angles: tuple[Annotated[float, Meta(ge=-360, le=360)], ...] = (0.0, 90.0, 180.0, 270.0)

    def problems(self) -> list[str]:
        return [] if self.angles else ["angles is empty: give at least one"]

    def __call__(self, x: Tensor, client: int, clients: int, seed: int, part: str) -> Tensor:
        if x.dim() != 4 or not x.is_floating_point():
            shape = ", ".join(map(str, ("n", *x.shape[1:])))
            raise ConfigError(f"skew = rotation: inputs are {str(x.dtype)[6:]} [{shape}], not images [n, channels, height, width]")
        angle, (height, width) = self.angles[client % len(self.angles)], x.shape[2:]
        if angle % 180 == 0 or (angle % 90 == 0 and height == width):
            return torch.rot90(x, int(angle // 90), (2, 3))
        if not len(x):
            return x
        turn = math.radians(angle)
        cos, sin = math.cos(turn), math.sin(turn)
        # Coordinates go from -1 to 1 along either side, whatever their lengths.
        back = torch.tensor([[cos, -sin * height / width, 0.0], [sin * width / height, cos, 0.0]], dtype=x.dtype)
        grid = affine_grid(back.expand(len(x), 2, 3), list(x.shape), align_corners=False)
        return grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
