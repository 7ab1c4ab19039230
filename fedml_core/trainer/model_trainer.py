"""ModelTrainer: the one class a user writes."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedml_core import tree
from fedml_core.errors import ConfigError, TrainerError
from fedml_core.trainer.examples import Batch, Examples
from fedml_core.trainer.measures import Measure, measured
from fedml_core.trainer.metrics import by_class, confusion, ratio

Model = Callable[..., Tensor]
# Rows of an evaluation's first batch, and the most of any; bytes that the widest layer may return, for a CPU's cache and elsewhere.
FIRST_ROWS, MOST_ROWS = 16, 512
ROOM, ROOM_OF_A_DEVICE = 8 << 20, 256 << 20
# Between the name of a chosen metric and that of one of its sums.
SEPARATOR = "/"


class ModelTrainer:
    """What to minimise and what to measure, the same in a simulation, on a cluster and on a device.

    Write `loss`, and `metrics` if there is something to report. `model` is anything that can be called like the network: the
    network itself, or many clients' networks stacked into one computation. Both methods return one number per example; masks,
    weights and means are the engine's.

    Override `train` (and `test`) instead to keep an imperative PyTorch loop of your own. It runs on every engine; what it cannot
    have is gradient transforms (`LocalSGD(transforms=...)`) and stacking, since the library no longer sees the gradients.
    """

    measures: tuple[Measure, ...] = ()

    def loss(self, model: Model, batch: Batch) -> Tensor:
        """Loss of each example: shape `[b]` for a batch of `b` rows."""
        raise NotImplementedError

    def metrics(self, model: Model, batch: Batch) -> dict[str, Tensor]:
        """Values by name, each of shape `[b]`; their mean over examples is what is reported."""
        return {}

    def sums(self, model: Model, batch: Batch, found: dict[str, Tensor]) -> dict[str, Tensor]:
        """What metrics that are no means over examples are made of: sums over the batch, by name, of any shape.

        `found` is what `loss` and `metrics` have returned for the batch. Sums of batches, and of clients, are added, so that what
        `finish` makes of them is the same whoever holds which examples.
        """
        return {}

    def finish(self, sums: dict[str, Tensor]) -> dict[str, float]:
        """The metrics that `sums` is there for, from sums over all examples, float64."""
        return {}

    def decisions(self, model: Model, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits `[n, classes]` of everything that is decided between classes, and which are right: int64 `[n]`.

        A trainer that has decisions can be asked for metrics of them (`measuring`).
        """
        raise NotImplementedError

    def classes_of(self, classes: int) -> int:
        """Between how many classes it decides, for data with so many."""
        return classes

    def measuring(self, *names: str | Measure, **metrics: object) -> Self:
        """The same trainer, which also reports these metrics of its `decisions`, federated or not.

        Args:
            names: see `measures.measure`, e.g. `"top_5"` and `"macro_f1"`.
            metrics: metrics of torchmetrics by the name to report them under, e.g. `f1=MulticlassF1Score(num_classes=10)`.

        Raises:
            ConfigError: a metric is unknown, or cannot be made of sums, or the trainer decides nothing between classes.
        """
        made = [measured(name if isinstance(name, str) else name.name, name) for name in names]
        made += [measured(name, metric) for name, metric in metrics.items()]
        if made and type(self).decisions is ModelTrainer.decisions:
            raise ConfigError(f"metrics: {type(self).__name__} decides nothing between classes, so that there is nothing to choose")
        if made and self.tests_itself:
            raise ConfigError(f"metrics: {type(self).__name__} has a test of its own, which has to find them")
        other = copy.copy(self)
        other.measures = tuple({one.name: one for one in (*self.measures, *made)}.values())
        return other

    def concluded(self, sums: dict[str, Tensor]) -> dict[str, float]:
        """Everything that sums over all examples, as `tally` returns them, say beside means over examples."""
        own = dict(sums)
        found: dict[str, float] = {}
        for one in self.measures:
            start = one.name + SEPARATOR
            parts = {name.removeprefix(start): own.pop(name) for name in sums if name.startswith(start)}
            found |= one.finish(parts) if parts else {}
        return (self.finish(own) if own else {}) | found

    def train(self, model: nn.Module, batches: Iterator[Batch]) -> None:
        """Optional: train `model` in place over `batches`, one pass: they are those of all epochs of this client and round.

        The optimizer and its rate are your own; of LocalSGD only epochs (or steps) and the batch size count.
        """
        raise NotImplementedError

    def test(self, model: nn.Module, examples: Examples, batch_size: int | None = None) -> dict[str, float]:
        """Loss and metrics of `model` over `examples`, in evaluation mode and without gradients.

        Args:
            batch_size: rows at a time; if not given, as many as suit the cache, judged by what the layers make of the first rows.
        """
        return self._begin(model, examples, batch_size)()

    def begin_test(self, model: nn.Module, examples: Examples) -> Callable[[], dict[str, float]]:
        """Begin what `test` does; what is returned waits for the end of it. A `test` of the user's own is carried out at once.

        A CUDA device has got all of its work by then, in the order in which it gets what comes after: `model` may be changed.
        """
        if self.tests_itself:
            found = self.test(model, examples)
            return lambda: found
        return self._begin(model, examples, None)

    def _begin(self, model: nn.Module, examples: Examples, batch_size: int | None) -> Callable[[], dict[str, float]]:
        totals, sums = self._add_up(model, examples, batch_size)

        def end() -> dict[str, float]:
            means = {name: float(total) / len(examples) for name, total in totals.items()}
            return means | self.concluded(sums)

        return end

    def tally(
        self, model: nn.Module, examples: Examples, batch_size: int | None = None
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        """What `test` finds before it divides: the sums of loss and metrics over `examples`; and those for `concluded`, float64."""
        totals, sums = self._add_up(model, examples, batch_size)
        return {name: float(total) for name, total in totals.items()}, sums

    def _add_up(self, model: nn.Module, examples: Examples, batch_size: int | None) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """What `tally` returns, nothing of it read yet."""
        if not len(examples):
            raise TrainerError("there are no examples to test on: give the data set a test set")
        totals: dict[str, Tensor] = {}
        sums: dict[str, Tensor] = {}

        def add(batch: Batch) -> None:
            once = Once(model)
            found = {**self.metrics(once, batch), "loss": self.loss(once, batch)}
            for name, value in found.items():
                _add(totals, name, per_example(value, batch, name).double().sum())
            for name, value in self.sums(once, batch, found).items():
                _add(sums, name, value.double())
            if self.measures:
                logits, labels = self.decisions(once, batch)
                for one in self.measures:
                    for name, value in one.sums(logits, labels).items():
                        _add(sums, f"{one.name}{SEPARATOR}{name}", value.double())

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
        return totals, sums

    @property
    def imperative(self) -> bool:
        """Whether `train` is the user's own loop."""
        return type(self).train is not ModelTrainer.train

    @property
    def tests_itself(self) -> bool:
        """Whether `test` is the user's own."""
        return type(self).test is not ModelTrainer.test


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


def _add(totals: dict[str, Tensor], name: str, value: Tensor) -> None:
    totals[name] = totals[name] + value if name in totals else value


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
    """Cross entropy and accuracy of a network that maps `x` to logits `[b, classes]`, against labels `y` `[b]`.

    Args:
        top: also report, for each of these k, how often the label is among the k highest logits, as `top5`.
        macro: also report precision, recall and F1 as means over classes (`metrics.by_class`).
    """

    top: tuple[int, ...] = ()
    macro: bool = False

    def __init__(self, top: Sequence[int] = (), macro: bool = False) -> None:
        self.top, self.macro = tuple(top), macro

    def loss(self, model: Model, batch: Batch) -> Tensor:
        return F.cross_entropy(model(batch["x"]), batch["y"], reduction="none")

    def metrics(self, model: Model, batch: Batch) -> dict[str, Tensor]:
        logits, labels = model(batch["x"]), batch["y"]
        found = {"accuracy": (logits.argmax(dim=1) == labels).float()}
        if self.top:
            higher = (logits > logits.gather(1, labels.unsqueeze(1))).sum(dim=1)
            found |= {f"top{k}": (higher < k).float() for k in self.top}
        return found

    def decisions(self, model: Model, batch: Batch) -> tuple[Tensor, Tensor]:
        return model(batch["x"]), batch["y"]

    def sums(self, model: Model, batch: Batch, found: dict[str, Tensor]) -> dict[str, Tensor]:
        if not self.macro:
            return {}
        logits = model(batch["x"])
        return {"confusion": confusion(logits.argmax(dim=1), batch["y"], logits.shape[1])}

    def finish(self, sums: dict[str, Tensor]) -> dict[str, float]:
        return by_class(sums["confusion"])


class NextToken(ModelTrainer):
    """Cross entropy and accuracy of a network that maps token numbers `x` `[b, t]` to logits `[b, t, tokens]`.

    An example is a sequence with targets `y` `[b, t]`; its loss and its accuracy are means over those targets that are not 0, which
    stands for padding. Over all of these targets, long sequences counting more, are `token_accuracy` and `perplexity`, the
    exponential of their mean cross entropy; `word_accuracy` is over those that are no `special` tokens either.

    Args:
        special: tokens that stand for no word, such as the beginning and the end of a sentence or an unknown word; -1 is the last.
    """

    special: tuple[int, ...] = ()

    def __init__(self, special: Sequence[int] = ()) -> None:
        self.special = tuple(special)

    def loss(self, model: Model, batch: Batch) -> Tensor:
        logits, targets = model(batch["x"]), batch["y"]
        losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape)
        return _mean_of_targets(losses, targets)

    def metrics(self, model: Model, batch: Batch) -> dict[str, Tensor]:
        return {"accuracy": _mean_of_targets((model(batch["x"]).argmax(dim=2) == batch["y"]).float(), batch["y"])}

    def decisions(self, model: Model, batch: Batch) -> tuple[Tensor, Tensor]:
        real = batch["y"] != 0
        return model(batch["x"])[real], batch["y"][real]

    def sums(self, model: Model, batch: Batch, found: dict[str, Tensor]) -> dict[str, Tensor]:
        targets = batch["y"]
        tokens = (targets != 0).sum(dim=1)
        sums = {"tokens": tokens.sum(), "loss": (found["loss"].double() * tokens).sum()}
        # Accuracies are whole numbers divided by whole numbers.
        sums["hits"] = (found["accuracy"].double() * tokens).round().sum()
        if self.special:
            logits = model(batch["x"])
            words = targets != 0
            for token in self.special:
                words = words & (targets != token % logits.shape[2])
            sums |= {"words": words.sum(), "word_hits": (words & (logits.argmax(dim=2) == targets)).sum()}
        return sums

    def finish(self, sums: dict[str, Tensor]) -> dict[str, float]:
        mean = ratio(sums["loss"], sums["tokens"])
        found = {"token_accuracy": ratio(sums["hits"], sums["tokens"]), "perplexity": math.exp(mean) if mean < 700 else math.inf}
        return found | ({"word_accuracy": ratio(sums["word_hits"], sums["words"])} if self.special else {})


def _mean_of_targets(values: Tensor, targets: Tensor) -> Tensor:
    real = (targets != 0).to(values.dtype)
    return (values * real).sum(dim=1) / real.sum(dim=1).clamp(min=1)
