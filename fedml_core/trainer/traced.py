"""TracedStep: one training step, of one client or of a block of stacked clients, as straight-line tensor code."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call, vjp, vmap

from fedml_core.errors import TrainerError
from fedml_core.trainer import graph
from fedml_core.trainer.examples import Batch
from fedml_core.trainer.gradients import autocast
from fedml_core.trainer.model_trainer import ModelTrainer, per_example
from fedml_core.trainer.replay import Replay, recorder_of
from fedml_core.trainer.tracing import trace

Tensors = list[Tensor]


class TracedStep:
    """The gradients of a trainer's loss, written down once for batches of one shape and replayed without Python in between.

    With `K` clients stacked, every parameter is `[K, ...]`, every column of a batch `[K, b, ...]`, weights and losses are `[K, b]`;
    for a client by itself the first dimension is absent. Each client's gradients are those of its own weighted loss,
    sum_i weights_i loss_i, as `trainer.gradients` has them.

    What the trainer's Python code decides while it is traced is decided for good. Use `reason_against` first. On a CUDA device the
    step is recorded as a CUDA graph when it is asked for often enough (see `Replay`).

    Args:
        trainer, module: what is traced, in the mode it is in; `params`: tensors laid out as those that will be passed.
        batch, weights: a batch of the shapes that will be passed.
        stacked: whether there is a first dimension of clients.
        precision: dtype of `torch.autocast`, or None to compute as the parameters are.
        natural: columns of whole numbers none of which is negative, in any batch that will be passed.

    Raises:
        TrainerError: the trainer's code cannot be traced, or its loss is not per example.
    """

    def __init__(
        self,
        trainer: ModelTrainer,
        module: nn.Module,
        params: Tensors,
        batch: Batch,
        weights: Tensor,
        stacked: bool,
        precision: torch.dtype | None = None,
        natural: Collection[str] = (),
    ) -> None:
        names = [name for name, param in module.named_parameters() if param.requires_grad]
        columns = list(batch)

        def one(params: Sequence[Tensor], rows: Sequence[Tensor], weights: Tensor) -> tuple[Tensor, ...]:
            piece = dict(zip(columns, rows, strict=True))

            def losses(*params: Tensor) -> Tensor:
                numbers = dict(zip(names, params, strict=True))

                def model(*inputs: Any, **named: Any) -> Any:
                    return functional_call(module, numbers, inputs, named)

                with autocast(weights.device, precision):
                    return per_example(trainer.loss(model, piece), piece)

            found, back = vjp(losses, *params)  # type: ignore[misc]
            return found, *back(weights.to(found.dtype))

        function: Callable[..., Any] = vmap(one, randomness="different") if stacked else one

        def flat(*values: Tensor) -> Any:
            count = len(names)
            return function(list(values[:count]), list(values[count:-1]), values[-1])

        try:
            traced = trace(flat, *params, *batch.values(), weights)
        except TrainerError:
            raise
        except Exception as error:
            raise TrainerError(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}") from error
        graph.shorten(traced.graph, [len(names) + i for i, name in enumerate(columns) if name in natural])
        self._traced, self._count, self._recorder = traced, len(names), recorder_of(weights.device)
        self._gradients: Callable[..., Any] | None = None
        self._descend: Callable[..., Any] | None = None

    @property
    def code(self) -> str:
        """The step as Python code."""
        return str(self._traced.graph.python_code("self").src)

    def gradients(self, params: Tensors, batch: Batch, weights: Tensor) -> tuple[Tensor, Tensors]:
        """Losses, and the gradients in the order of `params`."""
        if self._gradients is None:
            function = self._compiled(lambda graph: None)
            self._gradients = Replay(function, self._recorder) if self._recorder else lambda kept, given: function(*kept, *given)
        with torch.no_grad():
            losses, *grads = self._gradients(params, [*batch.values(), weights])
        return losses, grads

    def descend(self, params: Tensors, batch: Batch, weights: Tensor, rate: float) -> Tensor:
        """params <- params - rate * gradients, in place; the losses before the step."""
        if self._descend is None:
            function = self._compiled(lambda fused: graph.descend(fused, self._count))
            moves: Callable[..., Any] = function
            if self._recorder:
                moves = Replay(lambda *values: function(*values, 1.0), self._recorder)
            self._descend = moves
        if self._recorder:
            # A recorded number stays what it was, but the rate may change: gradients are linear in the weights, which are copied.
            # (The generator's state, made by the first recording, is written by all: in inference mode only some could.)
            with torch.no_grad():
                return self._descend(params, [*batch.values(), weights * -rate])  # type: ignore[no-any-return]
        with torch.inference_mode():
            return self._descend(*params, *batch.values(), weights, -rate)  # type: ignore[no-any-return]

    def _compiled(self, rewrite: Callable[[fx.Graph], None]) -> Callable[..., Any]:
        """The step, rewritten, as a function."""
        rewritten = fx.GraphModule(self._traced, self._traced.graph.__deepcopy__({}))
        rewrite(rewritten.graph)
        graph.spell(rewritten.graph)
        rewritten.recompile()
        return rewritten.forward
