"""What devices find with an autoencoder: thresholds from training errors, each device's own and one for all."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from fedml_api.data.dataset import FederatedData
from fedml_core.errors import DataError
from fedml_core.trainer import Examples, Reconstruction
from fedml_core.trainer.metrics import alarms, auc, ratio, threshold

Row = dict[str, float]


def detection(network: nn.Module, data: FederatedData, false_alarms: float = 0.01) -> dict[str, Row]:
    """By device and for `all` of them together: what is found of what is out of the ordinary, and how often alarm is false.

    A threshold is the error that no more than `false_alarms` of training examples reach. `own` is that of the device's training
    errors; `common` is that of all devices' together, for which each sends how many of its errors are in which bin (see
    `Reconstruction`). Meidan et al. (2018) take the mean plus one standard deviation instead, on ordinary traffic held out for it.

    Raises:
        DataError: the data do not say what is out of the ordinary.

    Returns:
        `events`; `own_false_alarms` and `common_false_alarms`; and where there are events `auc`, `own_recall` and `common_recall`.
    """
    if "y" not in data.global_test.columns:
        raise DataError(f"data set '{data.name}' does not say what is out of the ordinary: it has no column y")

    def errors(of: Callable[[str], Examples]) -> dict[str, torch.Tensor]:
        """How many of every device's errors are in which bin."""
        return {device: Reconstruction().tally(network, of(device))[1]["errors"] for device in devices}

    devices = [device for device in data.client_ids if len(data.test(device))]
    train, test = errors(data.train), errors(data.test)
    common = threshold(_total(train), false_alarms)
    own_alarms = {device: alarms(counts, threshold(train[device], false_alarms)) for device, counts in test.items()}
    found = {device: _row(counts, own_alarms[device], alarms(counts, common)) for device, counts in test.items()}
    return found | {"all": _row(_total(test), _total(own_alarms), alarms(_total(test), common))}


def _total(counts: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.stack(list(counts.values())).sum(0)


def _row(counts: torch.Tensor, own: torch.Tensor, common: torch.Tensor) -> Row:
    area, (ordinary, events) = auc(counts), counts.sum(1)
    row = {"events": float(events)} | ({} if area is None else {"auc": area})
    for whose, (false, right) in (("own", own), ("common", common)):
        row |= {f"{whose}_recall": ratio(right, events)} if events else {}
        row |= {f"{whose}_false_alarms": ratio(false, ordinary)}
    return row
