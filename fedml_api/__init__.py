"""Federated learning for PyTorch: the names most programs need, loaded when they are first used.

from fedml_api import Experiment, FedAvg, FederatedDataset, LocalSGD, ModelTrainer, simulate
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedml_api.algorithms import FedAvg
    from fedml_api.data import FederatedDataset
    from fedml_api.run.experiment import Experiment, Observer, Result, simulate
    from fedml_api.run.observers import PlainProgress
    from fedml_api.run.plots import draw_curves
    from fedml_api.standalone import Standalone
    from fedml_core.federation import LocalSGD
    from fedml_core.trainer import Classifier, Examples, ModelTrainer

_homes = {
    "Classifier": "fedml_core.trainer",
    "Examples": "fedml_core.trainer",
    "Experiment": "fedml_api.run.experiment",
    "FedAvg": "fedml_api.algorithms",
    "FederatedDataset": "fedml_api.data",
    "LocalSGD": "fedml_core.federation",
    "ModelTrainer": "fedml_core.trainer",
    "Observer": "fedml_api.run.experiment",
    "PlainProgress": "fedml_api.run.observers",
    "Result": "fedml_api.run.experiment",
    "Standalone": "fedml_api.standalone",
    "draw_curves": "fedml_api.run.plots",
    "simulate": "fedml_api.run.experiment",
}

__all__ = [
    "Classifier",
    "Examples",
    "Experiment",
    "FedAvg",
    "FederatedDataset",
    "LocalSGD",
    "ModelTrainer",
    "Observer",
    "PlainProgress",
    "Result",
    "Standalone",
    "draw_curves",
    "simulate",
]


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    if name not in _homes:
        raise AttributeError(f"module 'fedml_api' has no attribute '{name}'")
    return getattr(importlib.import_module(_homes[name]), name)
