"""ModelSpec: settings that build a network for the data at hand."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import nn

from fedml_core.errors import ConfigError
from fedml_core.federation import ClientData
from fedml_core.settings import Registry
from fedml_core.trainer import Classifier, ModelTrainer

Shape = tuple[int, ...]


class ModelSpec(ABC):
    """Which network, and its sizes. Initial parameters are drawn from torch's own generator, so seed that first.

    Attributes:
        takes: in words, the inputs that `fits` accepts.
    """

    takes: ClassVar[str] = "inputs of at least one dimension"

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
