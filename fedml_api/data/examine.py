"""What a data set is, found out by going through it; and whether its test examples are among those for training."""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Iterable, Iterator
from typing import Any

import torch

from fedml_api.data.dataset import Dataset, FederatedData
from fedml_api.data.split import row_bytes
from fedml_core.trainer import Batch, Examples

# Examples that are looked at together: those of a client may be photos that its memory does not hold.
ROWS = 512


def describe_data(data: Dataset) -> dict[str, Any]:
    """Counts and shapes, without going through the examples."""
    sizes = [len(data.train(client)) for client in data.client_ids]
    first = data.global_test.subset(torch.arange(min(1, len(data.global_test)))).all()
    return {
        "name": data.name,
        "clients": len(data.client_ids),
        "train": sum(sizes),
        "smallest": min(sizes),
        "median": statistics.median(sizes),
        "largest": max(sizes),
        "test": len(data.global_test),
        "classes": data.classes,
        **{f"column {name}": f"{str(column.dtype)[6:]} {list(column.shape[1:])}" for name, column in first.items()},
        "fingerprint": data.fingerprint,
    }


def faults(data: Dataset) -> Iterator[str]:
    """What is wrong with a data set, one line each, found by reading every client.

    Raises:
        DataError: a file is damaged.
    """
    form = None
    for client in data.client_ids:
        for part, examples in (("train", data.train(client)), ("test", data.test(client))):
            counted, _ = len(examples), examples.columns
            if len(examples) != counted:
                yield f"client '{client}': {part} holds {len(examples)} examples and counts {counted}"
            wrong: dict[str, None] = {}
            for batch in examples.batches(ROWS) if len(examples) else [examples.all()]:
                found = {name: (column.dtype, column.shape[1:]) for name, column in batch.items()}
                form = found if form is None else form
                if found != form and isinstance(data, FederatedData):  # the parties of a VerticalDataset do differ
                    wrong[f"has columns {found}, and others {form}"] = None
                wrong.update(dict.fromkeys(_columns_faults(batch, data)))
            yield from (f"client '{client}': {part} {fault}" for fault in wrong)


def _columns_faults(batch: Batch, data: Dataset) -> Iterator[str]:
    for name, column in batch.items():
        if column.is_floating_point() and not column.isfinite().all():
            yield f"column {name} has what is no finite number"
    if data.classes is not None and "y" in batch and batch["y"].dim() == 1 and len(batch["y"]):
        low, high = int(batch["y"].min()), int(batch["y"].max())
        if low < 0 or high >= data.classes:
            yield f"labels go from {low} to {high}; with {data.classes} classes they are 0 to {data.classes - 1}"


def overlap(data: Dataset) -> int:
    """How many different test examples, of clients or of the global test set, are somebody's training example, bit for bit.

    In real data some are: people write the same line twice. A split that has gone wrong has many.
    """
    train = {one for client in data.client_ids for one in digests(data.train(client))}
    local = (one for client in data.client_ids for one in digests(data.test(client)))
    return len(train & {*local, *digests(data.global_test)})


def digests(examples: Examples) -> Iterable[bytes]:
    """A hash of each example, over all of its columns."""
    for batch in examples.batches(ROWS):
        for row in row_bytes({name: column.cpu().numpy() for name, column in batch.items()}):
            yield hashlib.blake2b(row, digest_size=12).digest()
