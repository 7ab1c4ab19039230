"""ModelSpec: settings that build a network for the data at hand."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import nn

from fedml_core.errors import ConfigError
from fedml_core.federation import ClientData
from fedml_core.settings import Registry
from fedml_core.trainer import Batch, Classifier, ModelTrainer

Shape = tuple[int, ...]


class ModelSpec(ABC):
    """Which network, and its sizes. Initial parameters are drawn from torch's own generator, so seed that first.

    Attributes:
        takes: in words, the inputs that `fits` accepts.
        tokens: whether these are whole numbers, which stand for words and the like.
    """

    takes: ClassVar[str] = "inputs of at least one dimension"
    tokens: ClassVar[bool] = False

    @classmethod
    def fits(cls, shape: Shape) -> bool:
        """Whether the network can take examples of this shape."""
        return len(shape) > 0

    def fitted(self, data: ClientData) -> ModelSpec:
        """The same with what the data say beside the shape of `x`, where that matters."""
        return self

    @abstractmethod
    def build(self, shape: Shape, classes: int | None) -> nn.Module:
        """The network for examples `x` of `shape` (one example, without the batch), returning logits `[b, classes]`.

        Raises:
            ConfigError: the network does not fit the data; the message says which do.
        """

    def labels(self, shape: Shape, classes: int | None) -> Shape | None:
        """The shape of an example's `y`, for examples `x` of `shape`; None if it has no need of labels."""
        return ()

    def trainer(self) -> ModelTrainer:
        """What the network is there for."""
        return Classifier()


models: Registry[ModelSpec] = Registry("model", ModelSpec)


def outputs(spec: ModelSpec, shape: Shape, classes: int | None) -> int:
    """How many logits the classifier `spec` has to return.

    Raises:
        ConfigError: it does not fit examples of `shape`, or there are no classes.
    """
    name = models.name_of(type(spec))
    if classes is None:
        raise ConfigError(f"model '{name}' is a classifier, and the data set has no classes; choose a data set that has")
    check_shape(spec, shape)
    return classes


def check_shape(spec: ModelSpec, shape: Shape) -> None:
    """Before a network is built.

    Raises:
        ConfigError: it does not fit examples of `shape`.
    """
    if not spec.fits(shape):
        name = models.name_of(type(spec))
        fitting = ", ".join(other for other in models if models[other].fits(shape)) or "none"
        raise ConfigError(f"model '{name}' takes {spec.takes}, not x of shape {list(shape)}; models that fit: {fitting}")


def check_columns(spec: ModelSpec, columns: Batch, classes: int | None) -> None:
    """Before a network that fits the shape of `x` is trained.

    Raises:
        ConfigError: it is there for another kind of examples, or of labels.
    """
    if (fault := _fault(spec, columns, classes)) is not None:
        shape = tuple(columns["x"].shape[1:])
        others = {name: model() for name, model in models.items() if model.fits(shape)}
        fitting = ", ".join(name for name, other in others.items() if _fault(other, columns, classes) is None) or "none"
        raise ConfigError(f"model '{models.name_of(type(spec))}' {fault}; models that fit: {fitting}")


def _fault(spec: ModelSpec, columns: Batch, classes: int | None) -> str | None:
    """What is wrong with these columns for a network, or None."""
    x, y = columns["x"], columns.get("y")
    if spec.tokens == x.is_floating_point():
        return f"takes {'tokens, which are whole' if spec.tokens else 'floating-point'} numbers, not x of {x.dtype}"
    wanted, found = spec.labels(tuple(x.shape[1:]), classes), None if y is None else tuple(y.shape[1:])
    if wanted is None or wanted == found:
        return None
    return f"learns y of shape {list(wanted)} for each example, " + ("and there is none" if found is None else f"not {list(found)}")
