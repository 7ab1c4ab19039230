"""FullGradient: what a client's data say about the server's model."""

from __future__ import annotations

from fedml_core import tree
from fedml_core.errors import TrainerError
from fedml_core.federation.client import Client
from fedml_core.federation.local_update import LocalSGD, LocalUpdate, Visits, local_updates
from fedml_core.settings import settings
from fedml_core.trainer import LocalContext, ModelState, ModelTrainer
from fedml_core.trainer.transforms import Tensors
from fedml_core.tree import Tree


@local_updates.register("gradient")
@settings
class FullGradient(LocalUpdate):
    """The gradient of the client's mean loss at the server's model, over all its examples as one batch.

    The reply's value is a dict like the model's parameters (zeros from a client without examples), its metric `loss` the mean loss.
    """

    def visits(self, client: Client) -> Visits:
        return LocalSGD(batch_size=0).visits(client)

    def begin(self, params: Tensors, context: LocalContext) -> Tree:
        return tree.zeros_like(params)

    def step(self, carry: Tree, params: Tensors, grads: Tensors, context: LocalContext) -> Tree:
        return grads

    def end(self, trained: ModelState, start: ModelState, carry: Tree, context: LocalContext) -> Tree:
        return dict(zip(start.params, carry, strict=True))

    def check(self, trainer: ModelTrainer) -> None:
        if trainer.imperative:
            name = type(trainer).__name__
            raise TrainerError(f"{name} overrides train(), so its gradients are out of reach. Write loss() instead of train().")
