"""The same people at several parties, each of which knows other things about them."""

import numpy as np
import torch

from fedml_api.data import VerticalDataset
from fedml_api.model import VerticalLR

PARTIES = ("bank", "bureau", "shop")


def people(parties=PARTIES, train=60, test=30, known=0.8, seed=0, classes=2):
    """Every party knows 3, 4, ... numbers of so many of the people (`known`), in its own order; the first party has the labels."""
    draw = np.random.default_rng(seed)
    x = {party: draw.normal(size=(train + test, 3 + i)).astype(np.float32) for i, party in enumerate(parties)}
    scores = sum(own @ draw.normal(size=(own.shape[1], classes)) for own in x.values())
    y, ids = scores.argmax(1), draw.permutation(10 * (train + test))[: train + test] - train

    def rows_of(rows):
        known_rows = {party: draw.permutation(rows)[: round(known * len(rows))] for party in parties}
        columns = {party: {"id": torch.tensor(ids[own]), "x": torch.tensor(x[party][own])} for party, own in known_rows.items()}
        columns[parties[0]]["y"] = torch.tensor(y[known_rows[parties[0]]])
        return columns

    everyone = np.arange(train + test)
    return VerticalDataset(rows_of(everyone[:train]), rows_of(everyone[train:]), classes, "people")


def network(data, spec=None):
    """The network of `spec` (logistic regression) for all parties."""
    torch.manual_seed(7)
    return (spec or VerticalLR()).fitted(data).build(tuple(data.global_test.columns["x"].shape[1:]), data.classes)
