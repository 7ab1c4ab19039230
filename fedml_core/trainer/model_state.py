"""ModelState: the numbers of a model, apart from the module that computes with them."""

from __future__ import annotations

from torch import Tensor, nn

from fedml_core import tree


@tree.node
class ModelState:
    """Trainable parameters and floating-point buffers of a model, by name.

    The two are kept apart because they are treated differently: parameters follow the server optimizer, buffers (running
    statistics of a normalisation layer) are averaged as they are. Integer buffers count local batches: they are not
    exchanged, and start anew with every task.
    A ModelState also stands for a difference of two models.
    """

    params: dict[str, Tensor]
    buffers: dict[str, Tensor]

    def replaced(self, part: ModelState) -> ModelState:
        """These numbers, but for those of `part`, which are its own; in this order."""
        return ModelState(self.params | part.params, self.buffers | part.buffers)

    def load_into(self, module: nn.Module) -> nn.Module:
        """Write these numbers into a network of the same kind, and return it."""
        tree.copy_(ModelState.of(module), self)
        return module

    @classmethod
    def of(cls, module: nn.Module) -> ModelState:
        """A view of the module's present numbers; use `tree.clone` for a copy that later training does not change."""
        params = {name: param.detach() for name, param in module.named_parameters() if param.requires_grad}
        return cls(params, {name: buffer for name, buffer in module.named_buffers() if buffer.is_floating_point()})
