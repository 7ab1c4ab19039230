"""ModelTrainer: the one class a user writes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedml_core import tree
from fedml_core.errors import TrainerError
from fedml_core.trainer.examples import Batch, Examples

Model = Callable[..., Tensor]
# Rows of an evaluation's first batch, and the most of any; bytes that the widest layer may return, for a CPU's cache and elsewhere.
FIRST_ROWS, MOST_ROWS = 16, 512
ROOM, ROOM_OF_A_DEVICE = 8 << 20, 256 << 20


class ModelTrainer:
    """What to minimise and what to measure, the same in a simulation, on a cluster and on a device.

    Write `loss`, and `metrics` if there is something to report. `model` is anything that can be called like the network: the
    network itself, or many clients' networks stacked into one computation. Both methods return one number per example; masks,
    weights and means are the engine's.

    Override `train` (and `test`) instead to keep an imperative PyTorch loop of your own. It runs on every engine; what it cannot
    have is gradient transforms (`LocalSGD(transforms=...)`) and stacking, since the library no longer sees the gradients.
    """

    def loss(self, model: Model, batch: Batch) -> Tensor:
        """Loss of each example: shape `[b]` for a batch of `b` rows."""
        raise NotImplementedError

    def metrics(self, model: Model, batch: Batch) -> dict[str, Tensor]:
        """Values by name, each of shape `[b]`; their mean over examples is what is reported."""
        return {}

    def train(self, model: nn.Module, batches: Iterator[Batch]) -> None:
        """Optional: train `model` in place over `batches`, one pass: they are those of all epochs of this client and round.

        The optimizer and its rate are your own; of LocalSGD only epochs (or steps) and the batch size count.
        """
        raise NotImplementedError

    def test(self, model: nn.Module, examples: Examples, batch_size: int | None = None) -> dict[str, float]:
        """Mean loss and metrics of `model` over `examples`, in evaluation mode and without gradients.

        Args:
            batch_size: rows at a time; if not given, as many as suit the cache, judged by what the layers make of the first rows.
        """
        if not len(examples):
            raise TrainerError("there are no examples to test on: give the data set a test set")
        sums: dict[str, Tensor] = {}

        def add(batch: Batch) -> None:
            once = Once(model)
            for name, value in {**self.metrics(once, batch), "loss": self.loss(once, batch)}.items():
                total = per_example(value, batch, name).double().sum()
                sums[name] = sums[name] + total if name in sums else total

        training = model.training
        model.eval()
        try:
            # Not inference mode: what a network keeps of a forward pass, such as a table of positions, must be good for training.
            with torch.no_grad():
                first = min(batch_size or FIRST_ROWS, len(examples))
                with _widest(model) as widest:
                    add(next(examples.batches(first)))
                size = batch_size or _fitting(max(widest, default=0) / first, next(iter(examples.columns.values())).device)
                whole, rest = divmod(len(examples) - first, size)
                for batch in islice(examples.batches([first, *[size] * whole, *[rest] * (rest > 0)]), 1, None):
                    add(batch)
        finally:
            model.train(training)
        return {name: float(total) / len(examples) for name, total in sums.items()}

    @property
    def imperative(self) -> bool:
        """Whether `train` is the user's own loop."""
        return type(self).train is not ModelTrainer.train


def per_example(values: Tensor, batch: Batch, name: str = "loss") -> Tensor:
    """`values` if it holds one number per example, else the error that says what to return."""
    rows = next(iter(batch.values())).shape[0]
    if isinstance(values, Tensor) and values.shape == (rows,):
        return values
    got = f"shape {list(values.shape)}" if isinstance(values, Tensor) else f"a {type(values).__name__}"
    raise TrainerError(
        f"{name} must have one value per example, a tensor of shape [{rows}]; got {got}. "
        "Drop the mean (reduction='none'), and average each example's own terms, if it has several."
    )


@contextmanager
def _widest(model: nn.Module) -> Iterator[list[int]]:
    """The sizes in bytes of what the layers return meanwhile."""
    sizes: list[int] = []

    def note(module: nn.Module, inputs: Any, output: Any) -> None:
        sizes.extend(part.nbytes for part in tree.tensors(output))

    handles = [layer.register_forward_hook(note) for layer in model.modules()]
    try:
        yield sizes
    finally:
        for handle in handles:
            handle.remove()


def _fitting(row: float, device: torch.device) -> int:
    """How many rows to evaluate at a time, when the widest layer makes `row` bytes of each."""
    room = ROOM if device.type == "cpu" else ROOM_OF_A_DEVICE
    return int(min(MOST_ROWS, max(FIRST_ROWS, room / max(row, 1))))


class Once:
    """A model that remembers its last answer: loss and metrics ask it the same question, which is half the cost of evaluating."""

    def __init__(self, model: Model) -> None:
        self._model: Any = model
        self._answer: Any = None
        self._asked: tuple[Any, ...] = ()

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        if named:
            return self._model(*inputs, **named)
        if len(inputs) != len(self._asked) or any(new is not old for new, old in zip(inputs, self._asked, strict=True)):
            self._asked, self._answer = inputs, self._model(*inputs)
        return self._answer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


class Classifier(ModelTrainer):
    """Cross entropy and accuracy of a network that maps `x` to logits `[b, classes]`, against labels `y` `[b]`."""

    def loss(self, model: Model, batch: Batch) -> Tensor:
        return F.cross_entropy(model(batch["x"]), batch["y"], reduction="none")

    def metrics(self, model: Model, batch: Batch) -> dict[str, Tensor]:
        return {"accuracy": (model(batch["x"]).argmax(dim=1) == batch["y"]).float()}


class NextToken(ModelTrainer):
    """Cross entropy and accuracy of a network that maps token numbers `x` `[b, t]` to logits `[b, t, tokens]`.

    An example is a sequence with targets `y` `[b, t]`; its loss and its accuracy are means over those targets that are not 0, which
    stands for padding.
    """

    def loss(self, model: Model, batch: Batch) -> Tensor:
        logits, targets = model(batch["x"]), batch["y"]
        losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape)
        return _mean_of_targets(losses, targets)

    def metrics(self, model: Model, batch: Batch) -> dict[str, Tensor]:
        return {"accuracy": _mean_of_targets((model(batch["x"]).argmax(dim=2) == batch["y"]).float(), batch["y"])}


def _mean_of_targets(values: Tensor, targets: Tensor) -> Tensor:
    real = (targets != 0).to(values.dtype)
    return (values * real).sum(dim=1) / real.sum(dim=1).clamp(min=1)
