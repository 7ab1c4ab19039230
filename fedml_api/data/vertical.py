"""VerticalDataset: the same people at several parties, each of which knows other things about them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor

from fedml_api.data.dataset import FederatedDataset, update
from fedml_core.errors import DataError
from fedml_core.trainer import Batch, Examples
from fedml_core.trainer.examples import places


class VerticalDataset:
    """Parties with columns of their own: the clients of vertical federated learning.

    Args:
        train: each party's columns: `id`, int64 `[n]`, who the row is about; `x`, float `[n, width]`, what the party knows; and at
            one of the parties, the label holder, `y`. Every party has people of its own choice, in its own order.
        test: likewise, of other people.
        classes: number of classes of `y`, or None if there are none.
        name: what the fingerprint and the messages call it.

    Attributes:
        widths: number of features by party; `holder`: who has the labels.
        global_test: the test people that all parties know, in order of their ids: `x`, the features of all parties side by side in
            the order of the parties, and `y`. It stands for the evaluator of an experiment, and no party sees it.
    """

    def __init__(
        self, train: Mapping[str, Batch], test: Mapping[str, Batch], classes: int | None = None, name: str = "data"
    ) -> None:
        if problems := list(_problems(train, test)):
            raise DataError("\n".join(f"data set '{name}': {problem}" for problem in problems))
        self.client_ids: Sequence[str] = tuple(train)
        self.classes, self.name = classes, name
        self.widths = {party: columns["x"].shape[1] for party, columns in train.items()}
        self.holder = next(party for party, columns in train.items() if "y" in columns)
        self._train = {party: Examples(columns) for party, columns in train.items()}
        self._test = {party: Examples(columns) for party, columns in test.items()}
        self.global_test = self._joined(self._test, self.client_ids)
        if not len(self._joined(self._train, self.client_ids)):
            raise DataError(f"data set '{name}': no training id is common to {', '.join(train)}")
        labels = torch.cat([examples[self.holder].columns["y"] for examples in (self._train, self._test)])
        if classes is not None and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
            low, high = int(labels.min()), int(labels.max())
            raise DataError(
                f"data set '{name}': labels go from {low} to {high}; with {classes} classes they are 0 to {classes - 1}"
            )

    def train(self, client: str) -> Examples:
        """The party's own training rows."""
        return self._train[client]

    def test(self, client: str) -> Examples:
        """The party's own test rows."""
        return self._test[client]

    def pooled(self, parties: Sequence[str] | None = None) -> FederatedDataset:
        """What these parties (all, if none are named) and the label holder's labels would be in one hand: a data set of one client.

        It holds the people that all parties of the vertical data set know, in order of their ids, so that whatever is trained on
        it has as many examples as the federation.
        """
        chosen = self.client_ids if parties is None else parties
        train, test = self._joined(self._train, chosen), self._joined(self._test, chosen)
        rows = torch.arange(len(train)).numpy()
        return FederatedDataset(
            train, test, {self.holder: rows}, classes=self.classes, name=f"{self.name} of {' and '.join(chosen)}"
        )

    def _joined(self, examples: Mapping[str, Examples], parties: Sequence[str]) -> Examples:
        common = _common([examples[party].columns["id"] for party in self.client_ids])
        rows = {party: places(common, examples[party].columns["id"]) for party in {*parties, self.holder}}
        x = torch.cat([examples[party].columns["x"][rows[party]] for party in parties], dim=1)
        return Examples({"x": x, "y": examples[self.holder].columns["y"][rows[self.holder]]})

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over every column of every party."""
        total = hashlib.sha256()
        for examples in (self._train, self._test):
            for party, own in examples.items():
                for column, values in sorted(own.columns.items()):
                    update(total, f"{party}/{column}", values.cpu())
        return total.hexdigest()

    def to(self, device: torch.device) -> VerticalDataset:
        """The same data with its columns on `device`."""
        moved = VerticalDataset.__new__(VerticalDataset)
        moved.__dict__.update(self.__dict__)
        moved._train, moved._test = ({party: own.to(device) for party, own in all.items()} for all in (self._train, self._test))
        moved.global_test = self.global_test.to(device)
        return moved


def _common(lists: Sequence[Tensor]) -> Tensor:
    """The ids that are in all of these lists, sorted."""
    found = lists[0].sort().values
    for ids in lists[1:]:
        found = found[torch.isin(found, ids)]
    return found


def _problems(train: Mapping[str, Batch], test: Mapping[str, Batch]) -> Iterator[str]:
    if len(train) < 2 or list(train) != list(test):
        yield f"parties with training rows: {', '.join(train)}; with test rows: {', '.join(test)}; needed are the same two or more"
        return
    holders = [party for party, columns in train.items() if "y" in columns]
    if len(holders) != 1:
        yield f"labels y are held by {' and '.join(holders) or 'nobody'}: exactly one party must hold them"
    seen: dict[str, list[Tensor]] = {}
    for part, columns_of in (("training", train), ("test", test)):
        for party, columns in columns_of.items():
            allowed = {"id", "x", "y"} if party in holders else {"id", "x"}
            if set(columns) != allowed:
                yield f"party '{party}' has the {part} columns {', '.join(sorted(columns))}; needed: {', '.join(sorted(allowed))}"
                continue
            ids, x = columns["id"], columns["x"]
            if ids.dtype != torch.int64 or ids.dim() != 1 or x.dim() != 2 or not x.is_floating_point():
                yield f"party '{party}': {part} ids must be int64 [n] and x real numbers [n, width], not {ids.dtype} and {x.dtype}"
                continue
            if len(unique := ids.unique(return_counts=True)[1]) < len(ids):
                yield f"party '{party}' has {len(ids) - len(unique)} {part} rows more than ids: every id may occur once"
            if x.shape[1] != train[party]["x"].shape[-1]:
                yield f"party '{party}' has {train[party]['x'].shape[-1]} features in training and {x.shape[1]} in the test"
            seen.setdefault(part, []).append(ids)
    if len(seen) == 2 and (both := int(torch.isin(torch.cat(seen["test"]), torch.cat(seen["training"])).sum())):
        yield f"{both} test rows are about people who are among the training rows as well"
