"""Counts of classes by client of flwr-datasets' partitioners: cases as JSON on standard input, counts on standard output.

A case is `{"class": ..., "settings": ..., "labels": ..., "columns": {...}, "seeds": n, "shuffle": ...}`; its answer is, by seed,
counts `[clients, classes]` or the message of the error.
"""

from __future__ import annotations

import json
import sys
import warnings
from typing import Any

import numpy as np
from datasets import Dataset
from flwr_datasets import partitioner as partitioners


def counts(case: dict[str, Any], seed: int) -> Any:
    settings = {key: np.array(value) if key == "distribution_array" else value for key, value in case["settings"].items()}
    order = np.arange(len(case["labels"]))
    if case["shuffle"]:  # what takes examples in their order leaves it to the caller
        order = np.random.default_rng(seed).permutation(order)
    elif case["seeds"] > 1:
        settings["seed"] = seed
    columns = {name: np.array(values)[order] for name, values in {"label": case["labels"], **case.get("columns", {})}.items()}
    made = getattr(partitioners, case["class"])(**settings)
    made.dataset = Dataset.from_dict(columns)
    classes = max(case["labels"]) + 1
    try:
        return [np.bincount(made.load_partition(k)["label"], minlength=classes).tolist() for k in range(made.num_partitions)]
    except ValueError as error:
        return str(error)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    print(json.dumps([[counts(case, seed) for seed in range(case["seeds"])] for case in json.load(sys.stdin)]))
