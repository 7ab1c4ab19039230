"""Whether our partitioners deal as those of flwr-datasets do.

    python3 -m venv ENV && ENV/bin/pip install flwr-datasets==0.6.0
    python -m benchmarks.partitions python=ENV/bin/python seeds=200

A thousand examples of ten classes. What has no chance in it must be the same, count for count. Of the others three numbers are
taken from every partition: the standard deviation of the sizes, the number of classes a client has and the share of its commonest
class, both as means over clients. Over the seeds each has a mean and a standard deviation, ours and then theirs; z is the
difference of the means in standard errors, and D the two-sample Kolmogorov-Smirnov statistic in units of its critical value at
0.1 %: above 1 the distributions differ.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from fedml_core.errors import ConfigError
from fedml_core.partition import (
    ClassDirichlet,
    Classes,
    Continuous,
    Dirichlet,
    Distribution,
    Exponential,
    Iid,
    Natural,
    Partitioner,
    Power,
    Shards,
    Sizes,
    named,
)

LABELS = np.repeat(np.arange(10), 100)
OWNERS = (np.arange(1000) * 7) % 23
VALUES = np.sin(np.arange(1000.0)) + LABELS
BY = {"partition_by": "label"}
UNEVEN = [50, 50, 50, 50, 100, 100, 100, 150, 150, 200]
WEIGHTS = (1 + np.arange(100).reshape(10, 10) % 7).astype(float)

# Name, ours, how many clients, flwr's class and settings, whether chance is in it.
CASES: list[tuple[str, Partitioner, int | None, str, dict[str, Any], bool]] = [
    ("linear", Power(1.0), 10, "LinearPartitioner", {"num_partitions": 10}, False),
    ("square", Power(2.0), 10, "SquarePartitioner", {"num_partitions": 10}, False),
    ("exponential", Exponential(1.0), 5, "ExponentialPartitioner", {"num_partitions": 5}, False),
    ("sizes", Sizes(tuple(UNEVEN)), None, "SizePartitioner", {"partition_sizes": UNEVEN}, False),
    ("natural", Natural("owner"), None, "NaturalIdPartitioner", {"partition_by": "owner"}, False),
    *(
        (
            f"natural, groups of 5, {rest}",
            Natural("owner", 5, rest),
            None,
            "GroupedNaturalIdPartitioner",
            {"partition_by": "owner", "group_size": 5, "mode": mode, "sort_unique_ids": True},
            False,
        )
        for rest, mode in (("smaller", "allow-smaller"), ("bigger", "allow-bigger"), ("drop", "drop-reminder"))
    ),
    (
        "classes, deterministic",
        Classes(3, "deterministic"),
        10,
        "PathologicalPartitioner",
        {**BY, "num_partitions": 10, "num_classes_per_partition": 3, "class_assignment_mode": "deterministic"},
        False,
    ),
    (
        "continuous, strict",
        Continuous("value", 1.0),
        8,
        "ContinuousPartitioner",
        {"partition_by": "value", "num_partitions": 8, "strictness": 1.0},
        False,
    ),
    ("iid", Iid(), 10, "IidPartitioner", {"num_partitions": 10}, True),
    *(
        (
            f"class_dirichlet, alpha {alpha:g}{', balanced' * balanced}",
            ClassDirichlet(alpha, 1, balanced),
            10,
            "DirichletPartitioner",
            {**BY, "num_partitions": 10, "alpha": alpha, "min_partition_size": 1, "self_balancing": balanced},
            True,
        )
        for alpha in (0.3, 1.0, 100.0)
        for balanced in (False, True)
    ),
    (
        "dirichlet, given sizes",
        Dirichlet(5.0, Sizes(tuple(UNEVEN))),
        None,
        "InnerDirichletPartitioner",
        {**BY, "partition_sizes": UNEVEN, "alpha": 0.5},
        True,
    ),
    *(
        (
            f"classes, {ours}",
            Classes(3, ours),
            20,
            "PathologicalPartitioner",
            {**BY, "num_partitions": 20, "num_classes_per_partition": 3, "class_assignment_mode": theirs},
            True,
        )
        for ours, theirs in (("random", "random"), ("first", "first-deterministic"))
    ),
    ("shards, 2 each", Shards(2), 25, "ShardPartitioner", {**BY, "num_partitions": 25, "num_shards_per_partition": 2}, True),
    (
        "shards of 30, kept",
        Shards(None, 30),
        9,
        "ShardPartitioner",
        {**BY, "num_partitions": 9, "shard_size": 30, "keep_incomplete_shard": True},
        True,
    ),
    (
        "shards of 30, dropped",
        Shards(None, 30, "drop"),
        9,
        "ShardPartitioner",
        {**BY, "num_partitions": 9, "shard_size": 30, "keep_incomplete_shard": False},
        True,
    ),
    (
        "shards of 30, 3 each",
        Shards(3, 30, "drop"),
        9,
        "ShardPartitioner",
        {**BY, "num_partitions": 9, "shard_size": 30, "num_shards_per_partition": 3},
        True,
    ),
    (
        "continuous, 0.5",
        Continuous("value", 0.5),
        8,
        "ContinuousPartitioner",
        {"partition_by": "value", "num_partitions": 8, "strictness": 0.5},
        True,
    ),
    (
        "distribution",
        Distribution(tuple(map(tuple, WEIGHTS.tolist()))),
        None,
        "DistributionPartitioner",
        {
            **BY,
            "distribution_array": WEIGHTS.T.tolist(),
            "num_partitions": 10,
            "num_unique_labels_per_partition": 10,
            "preassigned_num_samples_per_label": 0,
        },
        True,
    ),
    (
        "class_dirichlet, alpha 0.01, at least 10",
        ClassDirichlet(0.01, 10),
        40,
        "DirichletPartitioner",
        {**BY, "num_partitions": 40, "alpha": 0.01, "min_partition_size": 10},
        True,
    ),
]


def ours(partitioner: Partitioner, clients: int | None, seed: int) -> np.ndarray | str:
    columns = {"y": LABELS, "owner": OWNERS, "value": VALUES}
    try:
        parts = named(partitioner, columns, clients, seed).values()
    except ConfigError as error:
        return str(error)
    return np.array([np.bincount(LABELS[rows], minlength=10) for rows in parts])


def theirs(python: str, seeds: int) -> list[list[Any]]:
    asked = [
        {
            "class": name,
            "settings": settings,
            "labels": LABELS.tolist(),
            "columns": {"owner": OWNERS.tolist(), "value": VALUES.tolist()},
            "seeds": seeds if chance else 1,
            "shuffle": name == "IidPartitioner",
        }
        for _, _, _, name, settings, chance in CASES
    ]
    script = Path(__file__).parent / "peers" / "flwr_partitions.py"
    done = subprocess.run([python, str(script)], input=json.dumps(asked), capture_output=True, text=True, check=True)
    return list(json.loads(done.stdout))


def numbers(counts: np.ndarray) -> tuple[float, float, float]:
    sizes = counts.sum(axis=1)
    return float(sizes.std()), float((counts > 0).sum(axis=1).mean()), float((counts.max(axis=1) / np.maximum(sizes, 1)).mean())


def compare(one: np.ndarray, other: np.ndarray) -> str:
    spread = math.sqrt(one.var() / len(one) + other.var() / len(other))
    difference = one.mean() - other.mean()
    z = f"{difference / spread:+.1f}" if spread > 1e-12 else "same" if abs(difference) < 1e-9 else "differ"
    every = np.sort(np.concatenate([one, other]))
    gaps = [np.searchsorted(np.sort(sample), every + 1e-9, side="right") / len(sample) for sample in (one, other)]
    critical = 1.95 * math.sqrt((len(one) + len(other)) / (len(one) * len(other)))
    means = "  ".join(f"{sample.mean():7.3f} ({sample.std():6.3f})" for sample in (one, other))
    return f"{means}  z {z:>6}  D {np.abs(gaps[0] - gaps[1]).max() / critical:4.2f}"


def main(python: str, seeds: int) -> None:
    answers = theirs(python, seeds)
    for (name, partitioner, clients, _, _, chance), found in zip(CASES, answers, strict=True):
        own = [ours(partitioner, clients, seed) for seed in range(seeds if chance else 1)]
        errors = [answer for answer in found if isinstance(answer, str)]
        if errors or any(isinstance(answer, str) for answer in own):
            print(f"{name}: flwr refuses {len(errors)} of {len(found)}, we {sum(isinstance(a, str) for a in own)} of {len(own)}")
            if errors:
                print(f"    {errors[0][:120]}")
            continue
        if not chance:
            sizes = [np.array(counts).sum(axis=1) for counts in (own[0], found[0])]
            exact = np.array_equal(own[0], found[0])
            off = np.abs(np.sort(sizes[0]) - np.sort(sizes[1])).max() if len(sizes[0]) == len(sizes[1]) else math.inf
            print(f"{name}: {'the same counts' if exact else f'sizes differ by {off} at most'}")
            continue
        one, other = (np.array([numbers(np.array(counts)) for counts in some]) for some in (own, found))
        print(name)
        for k, what in enumerate(("deviation of sizes", "classes per client", "commonest class")):
            print(f"    {what:<20} {compare(one[:, k], other[:, k])}")


if __name__ == "__main__":
    given = dict(argument.split("=", 1) for argument in sys.argv[1:])
    main(given["python"], int(given.get("seeds", 200)))
