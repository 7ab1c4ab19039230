"""Matrix factorization, which predicts ratings."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar

import torch
from msgspec import Meta
from torch import Tensor, nn

from fedml_api.model.model_spec import ModelSpec, Shape, check_shape, models
from fedml_core.errors import ConfigError
from fedml_core.federation import ClientData
from fedml_core.settings import settings
from fedml_core.trainer import ModelTrainer, Regression

Size = Annotated[int, Meta(ge=0)]


@models.register("matrix_factorization")
@settings
class MatrixFactorization(ModelSpec):
    """Ratings of items by users: 28,612 parameters for 1,682 items and a user, 44,626 for 943 users.

        r_ui = mu + b_u + b_i + p_u q_i        p_u, q_i: `dim` numbers for every user and every item

    Takes token numbers: `[b, 1]`, items, of a client that is one user, whose `user_*` are then its own (`fedper` and `fedrep` with
    `private: ["user_*"]`); or `[b, 2]`, users and items. Returns `[b]`. Koren, Bell and Volinsky, IEEE Computer 42 (8), 2009;
    with the users' part kept at the clients, as in Ammad-ud-din et al., arXiv 1901.09888, 2019.

    Args:
        users, items: how many; as many as the data have, if 0.
        mean: what mu begins with; `spread`: the standard deviation of the numbers that p and q begin with; biases begin with 0.
    """

    takes: ClassVar[str] = "an item [1], or a user and an item [2] (data sets such as movielens)"
    tokens: ClassVar[bool] = True
    dim: Annotated[int, Meta(ge=1)] = 16
    users: Size = 0
    items: Size = 0
    mean: float = 3.0
    spread: Annotated[float, Meta(ge=0)] = 0.1

    @classmethod
    def fits(cls, shape: Shape) -> bool:
        return shape in ((1,), (2,))

    def fitted(self, data: ClientData) -> ModelSpec:
        """With as many users and items as the data have.

        Raises:
            ConfigError: fewer were asked for.
        """
        x = data.train(data.client_ids[0]).columns["x"]
        if x.is_floating_point() or not self.fits(tuple(x.shape[1:])):
            return self
        parts = (part for client in data.client_ids for part in (data.train(client), data.test(client)) if len(part))
        found = torch.stack([part.all()["x"].amax(0) for part in parts]).amax(0) + 1
        users, items = (1, *found.tolist())[-2:]
        if 0 < self.users < users or 0 < self.items < items:
            raise ConfigError(
                f"model.users = {self.users} and model.items = {self.items}: the data have {users} and {items}; leave them out"
            )
        return replace(self, users=self.users or users, items=self.items or items)

    def build(self, shape: Shape, classes: int | None) -> nn.Module:
        check_shape(self, shape)
        if not self.users or not self.items:
            raise ConfigError(f"model.users = {self.users} and model.items = {self.items}: say how many there are")
        return _Factors(self)

    def trainer(self) -> ModelTrainer:
        return Regression()


class _Factors(nn.Module):
    def __init__(self, spec: MatrixFactorization) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.tensor([spec.mean]))
        self.user_bias, self.item_bias = nn.Embedding(spec.users, 1), nn.Embedding(spec.items, 1)
        self.user_factors, self.item_factors = nn.Embedding(spec.users, spec.dim), nn.Embedding(spec.items, spec.dim)
        for bias, factors in ((self.user_bias, self.user_factors), (self.item_bias, self.item_factors)):
            nn.init.zeros_(bias.weight)
            nn.init.normal_(factors.weight, std=spec.spread)

    def forward(self, x: Tensor) -> Tensor:
        item = x[:, -1]
        user = x[:, 0] if x.shape[1] == 2 else torch.zeros_like(item)
        affinity = (self.user_factors(user) * self.item_factors(item)).sum(dim=1)
        rating: Tensor = self.mean + self.user_bias(user).squeeze(1) + self.item_bias(item).squeeze(1) + affinity
        return rating
