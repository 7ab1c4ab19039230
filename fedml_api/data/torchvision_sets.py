"""Any labelled image data set of torchvision, or of its kind: (image, label) by number."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import sys
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from msgspec import Meta
from torch import Tensor

from fedml_api.data.adapted import Images, about, labelled
from fedml_api.data.dataset import FederatedDataset, data_sources
from fedml_api.data.packaged import SPLIT_SEED
from fedml_api.data.partitioned import PartitionedSource, halves, spread
from fedml_api.data.pictures import View
from fedml_api.vision import torchvision
from fedml_core.errors import ConfigError, DataError, unknown
from fedml_core.partition import Dirichlet, Partitioner
from fedml_core.settings import settings
from fedml_core.trainer import Examples

OWN = {"CIFAR10": "cifar10", "CIFAR100": "cifar100", "ImageNet": "imagenet"}
# Where torchvision keeps the labels of a data set, so that no image has to be decoded for them.
LABELS = ("targets", "labels", "_labels")


@data_sources.register("torchvision")
@settings
class TorchvisionSet(PartitionedSource):
    """Any classification data set of torchvision, e.g. dataset=FashionMNIST; its files lie in the folder `torchvision`.

    `x` float32 `[n, channels, height, width]` in [0, 1]; or as `view` says. Its parts named `train` and `test` are the training and
    test set; of a data set that has no parts, a fraction is held out. Data sets for which torchvision unpickles files are refused.

    Args:
        dataset: the class in torchvision.datasets.
        download: whether torchvision may fetch what is not there.
        train_split, test_split: what it calls the parts, where it takes their names.
        options: further arguments of the class, e.g. options.split=letters for EMNIST.
        test: fraction of the examples, the same of every class, in every run the same examples, that are held out.
        view: how images become squares of one size; None if they are of one size already.
        lazily: decode images when they are used, each time anew; their fingerprint is then of the labels alone.
    """

    dataset: str = "FashionMNIST"
    download: bool = False
    train_split: str = "train"
    test_split: str = "test"
    options: dict[str, str | int | float | bool] = dataclasses.field(default_factory=dict)
    test: Annotated[float, Meta(gt=0, lt=1)] = 0.2
    view: View | None = None
    lazily: bool = False

    def read(self, root: Path) -> tuple[Examples, Examples]:
        made = safe(self.dataset)
        folder, takes = root / "torchvision", _arguments(made)
        if odd := [name for name in self.options if name not in takes or name in ("root", "transform", "target_transform")]:
            raise ConfigError(f"data.options: {unknown('argument', odd[0], takes)}")
        legacy = folder / self.dataset / "processed"
        if any(path.suffix == ".pt" for path in legacy.glob("*")):
            raise DataError(f"{legacy}: holds files of an old torchvision that only torch.load reads; remove the folder")
        given: dict[str, Any] = {**({"root": str(folder)} if "root" in takes else {}), **self.options}
        given |= {"download": self.download} if "download" in takes else {}
        parts: list[dict[str, Any]] = [{}]
        if "train" in takes:
            parts = [{"train": True}, {"train": False}]
        elif "split" in takes and "split" not in self.options:
            parts = [{"split": self.train_split}, {"split": self.test_split}]
        found = [self._examples(made, {**given, **part}, root) for part in parts]
        return (found[0], found[1]) if len(found) == 2 else halves(found[0], self.test, SPLIT_SEED, "test")

    def _examples(self, made: Any, given: dict[str, Any], root: Path) -> Examples:
        try:
            dataset = made(**given)
        except Exception as error:  # of another library, about files that it has found
            remedy = "" if self.download else "; data.download=true lets torchvision fetch what is missing"
            raise DataError(f"torchvision's {self.dataset} in {root / 'torchvision'}: {error}{remedy}") from error
        return examples_from(dataset, self.view, self.lazily, f"torchvision's {self.dataset}")


def _arguments(made: Any) -> list[str]:
    """The names of a class's arguments, with those that it hands on to the class above."""
    found: list[str] = []
    for base in inspect.getmro(made):
        own = inspect.signature(base).parameters.values()
        found += [one.name for one in own if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
        if not any(one.kind == one.VAR_KEYWORD for one in own):
            break
    return found


def safe(name: str) -> Any:
    """The class in torchvision.datasets.

    Raises:
        ConfigError: there is none, or what it reads is unpickled.
    """
    datasets = torchvision("datasets")
    if name not in datasets.__all__ or not inspect.isclass(getattr(datasets, name)):
        raise ConfigError(f"data.dataset: {unknown('data set of torchvision', name, datasets.__all__)}")
    found = getattr(datasets, name)
    for base in inspect.getmro(found):
        if base.__module__.startswith("torchvision.") and _unpickles(base.__module__):
            instead = f"data.name={OWN[name]} reads the same data" if name in OWN else "choose another"
            raise ConfigError(f"data.dataset = {name}: torchvision reads it with pickle, which runs what a file says; {instead}")
    return found


@functools.cache
def _unpickles(module: str) -> bool:
    """Whether code in a module of torchvision unpickles; MNIST's does for one old folder only, which `read` looks for."""
    if module == "torchvision.datasets.mnist":
        return False
    source = ast.parse(inspect.getsource(sys.modules[module]))
    imported = {alias.name for item in ast.walk(source) if isinstance(item, ast.Import) for alias in item.names}
    called = {ast.unparse(item.func) for item in ast.walk(source) if isinstance(item, ast.Call)}
    return "pickle" in imported or "torch.load" in called


def from_torchvision(
    train: Any,
    test: Any = None,
    *,
    clients: int | None = None,
    partition: Partitioner | None = None,
    held_out: float = 0.2,
    view: View | None = None,
    lazily: bool = False,
    seed: int = 0,
    name: str = "torchvision",
) -> FederatedDataset:
    """A data set of torchvision, or any other with (image, label) by number and a length, spread over clients.

    Args:
        train, test: images are Pillow's, or what the data set's own transform makes of them: tensors `[channels, height, width]`,
            of which bytes are brought to [0, 1] and other numbers stay; or arrays `[height, width, channels]`.
        clients, partition: as in `PartitionedSource`.
        held_out: fraction of `train` that is the test set, if there is no `test`.
        view, lazily: as in `TorchvisionSet`; a transform that draws at random is drawn once if not `lazily`, and else in every use.

    Raises:
        DataError: it is not of that kind.
    """
    examples = examples_from(train, view, lazily, name)
    tests = None if test is None else examples_from(test, view, lazily, f"{name} (test)")
    if tests is None:
        examples, tests = halves(examples, held_out, SPLIT_SEED, "held_out")
    classes = max(int(part.columns["y"].max()) + 1 for part in (examples, tests))
    return spread(examples, tests, clients, partition or Dirichlet(), seed, name, classes)


def examples_from(dataset: Any, view: View | None, lazily: bool, name: str) -> Examples:
    """The examples of a data set with (image, label) by number."""
    try:
        count, (_, first) = len(dataset), dataset[0]
    except Exception as error:  # of another library
        raise DataError(f"{name}: has no (image, label) by number ({type(error).__name__}: {error})") from error
    kept = next((getattr(dataset, at) for at in LABELS if _known(getattr(dataset, at, None), count, first)), None)
    if kept is None or getattr(dataset, "target_transform", None) is not None:
        kept = _read_labels(dataset, count, name)
    labels = np.asarray(kept)
    images = Images(lambda row: dataset[row][0], count, view, name)
    return labelled(images.column(lazily, about(name, count, labels.tobytes())), labels, name)


def _known(labels: Any, count: int, first: Any) -> bool:
    """Whether this is a label for each example."""
    if not isinstance(labels, (list, tuple, np.ndarray, Tensor)) or len(labels) != count:
        return False
    array = np.asarray(labels)
    return array.ndim == 1 and array.dtype.kind in "iu" and np.ndim(first) == 0 and int(array[0]) == first


def _read_labels(dataset: Any, count: int, name: str) -> list[Any]:
    try:
        return [dataset[row][1] for row in range(count)]
    except Exception as error:  # of another library
        raise DataError(f"{name}: cannot be read ({type(error).__name__}: {error})") from error
