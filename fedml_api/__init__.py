"""Federated learning for PyTorch: the names most programs need, loaded when they are first used.

from fedml_api import Experiment, FedAvg, FederatedDataset, LocalSGD, ModelTrainer, simulate
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedml_core.exports import exports

if TYPE_CHECKING:
    from fedml_api.algorithms import FedAvg
    from fedml_api.data import FederatedDataset
    from fedml_api.run.experiment import Experiment, Observer, Result, simulate
    from fedml_api.run.observers import PlainProgress
    from fedml_api.run.plots import draw_curves
    from fedml_api.standalone import Standalone
    from fedml_core.federation import LocalSGD
    from fedml_core.trainer import Classifier, Examples, ModelTrainer

__getattr__, __dir__ = exports(
    __name__,
    {
        "fedml_api.algorithms": "FedAvg",
        "fedml_api.data": "FederatedDataset",
        "fedml_api.run.experiment": "Experiment Observer Result simulate",
        "fedml_api.run.observers": "PlainProgress",
        "fedml_api.run.plots": "draw_curves",
        "fedml_api.standalone": "Standalone",
        "fedml_core.federation": "LocalSGD",
        "fedml_core.trainer": "Classifier Examples ModelTrainer",
    },
)

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
