"""A class for every node of a graph."""

from __future__ import annotations

from torch import Tensor

from fedml_core.trainer.metrics import by_class, ratio
from fedml_core.trainer.trainers import Segmenter


class NodeClassifier(Segmenter):
    """Cross entropy of logits `[b, classes, nodes]` against `y` `[b, nodes]`, where 255 is a node with nothing to learn.

    An example is a graph; its loss is the mean over its other nodes. `node_accuracy` is over those of all graphs alike; for the
    others see `metrics.by_class`.
    """

    def finish(self, sums: dict[str, Tensor]) -> dict[str, float]:
        matrix = sums["confusion"]
        return {"node_accuracy": ratio(matrix.diagonal().sum(), matrix.sum()), **by_class(matrix)}
