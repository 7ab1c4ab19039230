import json

import numpy as np
import pytest
import torch

from fedml_api.cli import main
from fedml_api.data import FederatedDataset, Femnist, LazyDataset, VerticalDataset, data_sources
from fedml_api.data.examine import describe_data, faults, overlap
from fedml_api.data.split import HeldSplit
from fedml_core.trainer import Examples
from tests.fedml_api.data import official


def said(capsys, *arguments, code=0):
    assert main(["data", *map(str, arguments)]) == code
    return capsys.readouterr()


def as_json(capsys, *arguments):
    return json.loads(said(capsys, *arguments, "--format", "json").out)


def test_list_shows_what_is_on_disk(tmp_path, capsys):
    official.femnist(tmp_path)
    official.stackoverflow(tmp_path)
    (tmp_path / "stackoverflow" / "stackoverflow.word_count").unlink()
    rows = {row["name"]: row for row in as_json(capsys, "list", "--data-folder", tmp_path)}
    assert set(rows) == set(data_sources)
    expected = {
        "femnist": "yes",
        "fed_cifar100": "no",
        "stackoverflow_nwp": "2 of 3 files",
        "leaf_mnist": "no",
        "synthetic": "-",
        "cifar10": "no",
    }
    assert {name: rows[name]["here"] for name in expected} == expected
    text = said(capsys, "list", "--data-folder", tmp_path).out
    assert "femnist" in text
    assert "3,400 writers" in text


def test_show_counts_examples(tmp_path, capsys):
    official.femnist(tmp_path)
    found = as_json(capsys, "show", "femnist", "--data-folder", tmp_path)
    counts = {name: found[name] for name in ("clients", "train", "smallest", "median", "largest", "test", "classes")}
    assert counts == {"clients": 4, "train": 26, "smallest": 5, "median": 6.5, "largest": 8, "test": 14, "classes": 62}
    assert (found["column x"], found["column y"]) == ("float32 [1, 28, 28]", "int64 []")
    assert found["fingerprint"] == Femnist().load(0, tmp_path).fingerprint
    merged = as_json(capsys, "show", "femnist", "clients=2", "regroup=merge", "--data-folder", tmp_path)
    assert (merged["clients"], merged["train"]) == (2, 26)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["show", "femnits"], ["did you mean 'femnist'"]),
        (["show", "femnist", "client=2"], ["clients"]),
        (["show", "femnist", "clients=0"], ["clients = 0"]),
        (["show", "femnist", "clients"], ["key=value"]),
        (["check", "femnist"], ["fed_emnist_train.h5", "fedml data get femnist"]),
        (["get", "cinic10"], ["not fetched", "femnist"]),
        (["get", "femnits"], ["did you mean 'femnist'"]),
    ],
)
def test_mistakes_are_said_with_their_remedy(tmp_path, capsys, arguments, words):
    text = said(capsys, *arguments, "--data-folder", tmp_path, code=2).err
    assert all(word in text for word in words)


def test_check_reads_every_client(tmp_path, capsys):
    official.femnist(tmp_path)
    assert as_json(capsys, "check", "femnist", "--data-folder", tmp_path)["test examples also in train"] == 0

    def spoil(file):
        del file["examples/f0003_0/label"]
        file["examples/f0003_0/label"] = np.full(8, 77)

    official.edit_h5(tmp_path / "femnist" / "fed_emnist_train.h5", spoil)
    assert "f0003_0" in said(capsys, "check", "femnist", "--data-folder", tmp_path, code=2).err


def test_a_test_split_made_of_the_training_file_is_found(tmp_path, capsys):
    """The defect that fed_CIFAR100 once had in other hands."""
    train, _ = official.femnist(tmp_path)
    copied = {client: {name: values[:2] for name, values in features.items()} for client, features in train.items()}
    official.h5_file(tmp_path / "femnist" / "fed_emnist_test.h5", copied)
    assert as_json(capsys, "check", "femnist", "--data-folder", tmp_path)["test examples also in train"] == 8


def test_overlap_looks_at_all_columns_and_at_all_tests():
    train = Examples({"x": torch.tensor([1.0, 2.0, 3.0]), "y": torch.tensor([0, 1, 0])})
    test = Examples({"x": torch.tensor([1.0, 2.0, 4.0]), "y": torch.tensor([1, 1, 0])})
    data = FederatedDataset(train, test, {"a": np.array([0]), "b": np.array([1, 2])}, {"b": np.array([0, 1])}, classes=2)
    assert overlap(data) == 1
    nobodys = FederatedDataset(train, test, {"a": np.array([0])}, {"b": np.array([0, 1])}, classes=2)
    assert overlap(nobodys) == 0  # who has no owner is nobody's training example


def test_overlap_looks_at_tests_of_clients_that_are_not_in_the_global_test_set():
    def split(**clients):
        return HeldSplit({client: {"y": np.array(y)} for client, y in clients.items()}, "drawn")

    def of(train, test, held_out):
        data = LazyDataset(train, test, lambda columns: {"y": torch.from_numpy(columns["y"])}, held_out=held_out)
        return overlap(data)

    train, one, two, none = split(a=[1, 2, 3]), split(a=[1, 1, 9]), split(b=[2, 3]), split(c=[8])
    assert (of(train, one, none), of(train, none, two), of(train, one, two)) == (1, 2, 3)


def test_faults_are_numbers_and_labels_that_cannot_be():
    x = torch.tensor([1.0, float("nan"), 3.0])
    train = Examples({"x": x, "y": torch.tensor([0, 1, 0])})
    data = FederatedDataset(train, train, {"a": np.array([0, 2]), "b": np.array([1])}, classes=2)
    assert list(faults(data)) == ["client 'b': train column x has what is no finite number"]
    data.classes = 1
    assert [line for line in faults(data) if "labels" in line] == [
        "client 'b': train labels go from 1 to 1; with 1 classes they are 0 to 0"
    ]


def test_get_fetches_what_is_missing_only(tmp_path, capsys, monkeypatch):
    asked = []
    monkeypatch.setattr("fedml_api.run.data_commands.get", lambda one, root: asked.append(one.name) or [root / "x"])
    assert as_json(capsys, "get", "femnist", "--data-folder", tmp_path)["files"] == [str(tmp_path / "x")]
    official.femnist(tmp_path)
    found = as_json(capsys, "get", "femnist", "--data-folder", tmp_path)["files"]
    assert found == [str(tmp_path / "femnist" / f"fed_emnist_{part}.h5") for part in ("train", "test")]
    assert asked == ["fed_emnist.tar.bz2"]


def test_parties_that_know_different_things_are_data_as_well():
    def party(width, **more):
        return {"id": torch.arange(4), "x": torch.rand(4, width), **more}

    parts = [{"bank": party(2, y=torch.tensor([0, 1, 0, 1])), "shop": party(3)} for _ in range(2)]
    data = VerticalDataset(parts[0], {name: {**own, "id": own["id"] + 4} for name, own in parts[1].items()}, classes=2)
    assert list(faults(data)) == []
    assert describe_data(data)["clients"] == 2
