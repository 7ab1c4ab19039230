"""The experiment on molecules: what it compares is what it says, and its figures are those in the README."""

import json

import pytest
import torch

from experiments.graphs import table
from fedml_api.data import Molecules
from fedml_core.errors import DataError


def molecules_or_skip():
    try:
        Molecules().load(0, None)
    except DataError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("model", ["GAT"])
def test_federation_and_one_place_see_the_same_molecules_and_begin_alike(model):
    molecules_or_skip()
    one, other = table.experiment(model, 1), table.experiment(model, 1, pooled=True)
    assert (len(one.data.client_ids), len(other.data.client_ids)) == (10, 1)
    assert torch.equal(one.data.global_train.all()["x"], other.data.global_train.all()["x"])
    for mine, theirs in zip(one.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_a_client_alone_is_judged_on_all_and_on_its_own(monkeypatch):
    molecules_or_skip()
    monkeypatch.setattr(table, "ENGINE", "rounds=1")
    whole, pooled = table.experiment("GCN", 0), table.experiment("GCN", 0, pooled=True)
    before = [param.clone() for param in whole.model.parameters()]
    everywhere, right = table.alone(whole, pooled, "3")
    assert 0 < everywhere < 1
    assert right == pytest.approx(round(right), abs=1e-4)
    assert 0 < right < len(whole.data.test("3")) + 1e-4
    assert all(torch.equal(old, new) for old, new in zip(before, whole.model.parameters(), strict=True))


def test_the_readme_has_the_figures_that_were_measured():
    rows = json.loads((table.HERE / "results.json").read_text())
    assert {row["model"] for row in rows} == set(table.MODELS)
    readme = (table.HERE / "README.md").read_text()
    for line in table.table(rows):
        assert line in readme


def test_a_table_of_two_seeds():
    rows = [
        {"model": "GCN", "accuracy": {"majority": 0.25, "FedAvg": 0.5}},
        {"model": "GCN", "accuracy": {"majority": 0.25, "FedAvg": 0.75}},
    ]
    assert list(table.table(rows)) == [
        "| network | majority | FedAvg |",
        "|---|---|---|",
        "| GCN | 0.250 | 0.625 (0.500 to 0.750) |",
    ]
