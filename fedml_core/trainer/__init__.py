"""What a client does with its data: the user's ModelTrainer, and the parts of which local updates are made."""

from fedml_core.trainer.examples import Batch, Examples
from fedml_core.trainer.model_state import ModelState
from fedml_core.trainer.model_trainer import Classifier, Model, ModelTrainer, NextToken, Once
from fedml_core.trainer.nodes import NodeClassifier
from fedml_core.trainer.schedule import Cosine, Exponential, Rate, Schedule, rate, schedules
from fedml_core.trainer.trainers import Reconstruction, Regression, Segmenter, Tagger
from fedml_core.trainer.transforms import (
    Adaptive,
    Clip,
    GradientTransform,
    LocalContext,
    Momentum,
    Proximal,
    WeightDecay,
    transforms,
)

__all__ = [
    "Adaptive",
    "Batch",
    "Classifier",
    "Clip",
    "Cosine",
    "Examples",
    "Exponential",
    "GradientTransform",
    "LocalContext",
    "Model",
    "ModelState",
    "ModelTrainer",
    "Momentum",
    "NextToken",
    "NodeClassifier",
    "Once",
    "Proximal",
    "Rate",
    "Reconstruction",
    "Regression",
    "Schedule",
    "Segmenter",
    "Tagger",
    "WeightDecay",
    "rate",
    "schedules",
    "transforms",
]
