import json
import re
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
import yaml

from fedml_api.cli import main
from fedml_api.data import (
    Cifar100,
    DataSource,
    Digits,
    FederatedDataset,
    PartitionedSource,
    Saved,
    TableSource,
    save_partition,
)
from fedml_api.data.examine import faults, overlap
from fedml_api.data.picture import _streams
from fedml_core.errors import ConfigError, DataError
from fedml_core.partition import (
    ClassDirichlet,
    ColumnSplit,
    Drift,
    Iid,
    Natural,
    Noise,
    Pachinko,
    Partitioner,
    Rotation,
    Semantic,
    Sizes,
    partitioners,
)
from fedml_core.settings import build, to_plain
from fedml_core.trainer import Examples
from tests.fedml_api.data import official
from tests.fedml_api.data.test_images import cifar

NOWHERE = Path("/nowhere")
LABELS = np.arange(12) % 3


class Marked(PartitionedSource):
    """Images whose pixels tell which row they are, by two writers."""

    def read(self, root):
        def part(n, first):
            x = (first + torch.arange(n, dtype=torch.float32)).reshape(-1, 1, 1, 1) * torch.ones(1, 1, 2, 2)
            return Examples({"x": x, "y": torch.arange(n) % 3})

        return part(60, 0), part(30, 1000)

    def known(self, root):
        return {"writer": np.array(["bo", "al"]).repeat(30)}


def test_clients_are_asked_for_or_the_partitions_own_or_a_hundred():
    assert len(Digits().load(0, NOWHERE).client_ids) == 100
    assert len(Digits(clients=7).load(0, NOWHERE).client_ids) == 7
    assert list(Digits(partition=Sizes((1000, 438))).load(0, NOWHERE).sizes.values()) == [1000, 438]
    data = Marked(partition=Natural("writer")).load(0, NOWHERE)
    assert list(data.client_ids) == ["al", "bo"]
    assert data.train("bo").all()["x"][:, 0, 0, 0].tolist() == list(range(30))
    with pytest.raises(ConfigError, match="clients = 3: the partition has 2 clients of its own; leave clients out"):
        Marked(clients=3, partition=Natural("writer")).load(0, NOWHERE)
    with pytest.raises(ConfigError, match=r"column 'wirter': .* they have writer, x \[1, 2, 2\], y"):
        Marked(partition=Natural("wirter")).load(0, NOWHERE)


def test_what_is_known_follows_the_rows_that_stay_in_training():
    data = Marked(partition=Natural("writer"), validation=0.5).load(0, NOWHERE)
    assert (data.train("al").all()["x"] >= 30).all()
    assert (data.train("bo").all()["x"] < 30).all()
    assert sum(data.sizes.values()) == 30


@pytest.mark.parametrize("partition", [ClassDirichlet(0.5, minimum=5), Semantic(dimensions=8, iterations=5), Drift(Iid())])
def test_no_training_example_is_a_test_example_and_local_tests_are_local(partition):
    data = Digits(clients=6, partition=partition).load(1, NOWHERE)
    assert overlap(data) == 0
    assert list(faults(data)) == []
    assert sum(data.sizes.values()) == 1438
    assert sum(len(data.test(client)) for client in data.client_ids) == 359
    for client in data.client_ids:
        assert set(data.test(client).all()["y"].tolist()) <= set(data.train(client).all()["y"].tolist())


def test_drift_is_the_order_in_which_examples_are_met():
    data = Digits(clients=4, partition=Drift(Iid())).load(0, NOWHERE)
    for client in data.client_ids:
        y = data.train(client).all()["y"]
        assert int((y.diff() != 0).sum()) == len(y.unique()) - 1


def test_feature_skew_changes_the_inputs_of_each_client_and_nothing_else():
    plain, noisy = (Marked(clients=4, partition=Iid(), skew=skew).load(0, NOWHERE) for skew in (None, Noise(0.01)))
    for client in plain.client_ids:
        for one, other in ((plain.train(client), noisy.train(client)), (plain.test(client), noisy.test(client))):
            change = other.all()["x"] - one.all()["x"]
            assert torch.equal(one.all()["y"], other.all()["y"])
            assert 0 < float(change.abs().max()) < 0.1 * 6  # no example is another's, which is 1 away
            assert len(change.unique()) > 0.9 * change.numel()
    assert plain.fingerprint != noisy.fingerprint
    turned = Digits(clients=4, partition=Iid(), skew=Rotation((0.0, 90.0))).load(0, NOWHERE)
    still = Digits(clients=4, partition=Iid()).load(0, NOWHERE)
    assert torch.equal(turned.train("2").all()["x"], still.train("2").all()["x"])
    assert torch.equal(turned.test("3").all()["x"], torch.rot90(still.test("3").all()["x"], 1, (2, 3)))


def test_cifar100_knows_its_superclasses(tmp_path):
    cifar(tmp_path, "cifar-100-binary", ["train.bin"], ["test.bin"], [20, 100])
    data = Cifar100(clients=2, partition=Pachinko(0.1, 10.0)).load(0, tmp_path)
    assert sum(data.sizes.values()) == 50
    train = np.fromfile(tmp_path / "cifar-100-binary" / "train.bin", np.uint8).reshape(50, -1)
    known = Cifar100(coarse=True).known(tmp_path)
    assert known["coarse"].tolist() == train[:, 0].tolist()
    assert known["fine"].tolist() == train[:, 1].tolist()
    assert Cifar100(form="folders").known(tmp_path) == {}


def test_everything_can_be_said_in_yaml():
    problems: list[str] = []
    plain = {
        "name": "drift",
        "strength": 0.5,
        "of": {"name": "dirichlet", "alpha": 1, "sizes": {"name": "sizes", "sizes": [3, 4], "rest": "drop"}},
    }
    made = build(Partitioner, plain, "data.partition", problems)
    assert problems == []
    assert to_plain(made) == {**plain, "by": "y", "of": {**plain["of"], "by": "y"}}
    build(Partitioner, {"name": "dirichlet", "sizes": "shards"}, "data.partition", problems)
    assert "data.partition.sizes: unknown law of sizes 'shards'" in problems[0]
    assert "saved" in partitioners


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "partition.json"
    save_partition(path, {"anna": np.array([3, 1, 2]), "bob": np.array([0, 11])}, LABELS, {"why": "a test"})
    return path


def test_a_saved_partition_is_used_again(saved):
    partition = Saved(str(saved))
    assert partition.clients({"y": LABELS}) == ["anna", "bob"]
    assert [rows.tolist() for rows in partition(LABELS, 2, 5)] == [[3, 1, 2], [0, 11]]
    assert json.loads(saved.read_text())["about"] == {"why": "a test"}
    assert not list(saved.parent.glob("*.partial"))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.unlink(), "not there; write it with: fedml data partition NAME key=value ... --output .*partition.json"),
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), "damaged .*write it with"),
        (lambda path: path.write_bytes(b"\xff\xfe\x00"), "damaged"),
        (lambda path: path.write_text(path.read_text().replace("partition 1", "partition 2")), "is no fedml partition 1"),
        (lambda path: path.write_text(path.read_text().replace('"sha256":', '"sha":')), "is no fedml partition 1"),
        (lambda path: path.write_text(path.read_text().replace("[3,1,2]", '["3",1,2]')), "is no fedml partition 1"),
        (lambda path: path.write_text(path.read_text().replace("[3,1,2]", "[-3,1,2]")), "is no fedml partition 1"),
        (lambda path: path.write_text(path.read_text().replace("[3,1,2]", f"[{2**70},1,2]")), "is no fedml partition 1"),
        (lambda path: path.write_text(path.read_text().replace("[3,1,2]", "[3,2,1]")), "rows and sha256 do not match"),
        (lambda path: path.write_text(path.read_text().replace("anna", "anne")), "rows and sha256 do not match"),
        (lambda path: save_partition(path, {"a": np.array([0, 12])}, LABELS), "a row beyond 12"),
        (lambda path: save_partition(path, {"a": np.array([0, 1]), "b": np.array([1])}, LABELS), "a row twice"),
        (lambda path: save_partition(path, {}, LABELS), "it has no clients"),
        (
            lambda path: save_partition(path, {"a": np.arange(9)}, LABELS[:9]),
            "of 9 examples, and there are 12; use it with the data set",
        ),
        (lambda path: save_partition(path, {"a": np.arange(9)}, LABELS[::-1]), "other labels, or in another order; use it with"),
        (lambda path: (path.unlink(), path.mkdir()), "Is a directory"),
    ],
)
def test_a_saved_partition_of_something_else_or_a_damaged_one_is_refused(saved, spoil, message):
    spoil(saved)
    partition = Saved(str(saved))
    with pytest.raises(DataError, match=message):
        partition(LABELS, len(partition.clients({"y": LABELS})), 0)


def test_a_partition_that_cannot_be_written_says_so(tmp_path):
    with pytest.raises(DataError, match=r"nowhere/p.json: cannot be written: No such file"):
        save_partition(tmp_path / "nowhere" / "p.json", {"a": np.arange(3)}, LABELS)


def said(capsys, *arguments, code=0):
    assert main(["data", *map(str, arguments)]) == code
    return capsys.readouterr()


def test_the_command_saves_and_the_run_reads_the_same(tmp_path, capsys):
    path = tmp_path / "mine.json"
    settings = ["data.partition.name=class_dirichlet", "data.partition.alpha=0.2", "clients=5", "validation=0.1"]
    found = json.loads(said(capsys, "partition", "digits", *settings, "--seed", 3, "--output", path, "--format", "json").out)
    data = Digits(clients=5, partition=ClassDirichlet(0.2), validation=0.1)
    assert found["fingerprint"] == data.load(3, NOWHERE).fingerprint
    assert found["use"] == f"data.partition='{{name: saved, file: {path}}}'"
    again = replace(data, clients=None, partition=Saved(str(path)))
    assert again.load(3, NOWHERE).fingerprint == found["fingerprint"]
    with pytest.raises(DataError, match="other labels, or in another order"):
        again.load(4, NOWHERE)  # holds out others for validation
    assert (
        "a partition of 1294 examples, and there are 1438"
        in said(capsys, "show", "digits", found["use"].replace("'", ""), code=2).err
    )
    assert "has clients of its own" in said(capsys, "partition", "synthetic", code=2).err


def test_the_command_draws_the_partition(tmp_path, capsys):
    path = tmp_path / "clients.png"
    found = said(capsys, "show", "digits", "clients=5", "partition=shards", "--picture", path).out
    assert str(path) in found
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert (
        "must be a .png file in a folder that exists" in said(capsys, "show", "digits", "--picture", tmp_path / "a.jpg", code=2).err
    )
    official.fed_shakespeare(tmp_path)
    show = ["show", "fed_shakespeare", "--data-folder", tmp_path, "--picture", path]
    assert "nothing to draw" in said(capsys, *show, code=2).err


def test_streams_are_drawn_where_examples_have_an_order_of_their_own():
    assert _streams(Marked(clients=2, partition=Iid()).load(0, NOWHERE), 3) is None
    found = _streams(Marked(clients=2, partition=Drift(Iid())).load(0, NOWHERE), 3)
    assert found.shape == (25, 2)
    assert all(sorted(set(column)) == [0, 1, 2] and (np.diff(column) != 0).sum() == 2 for column in found.T)


def test_partitioned_data_is_federated_data():
    assert isinstance(Marked(clients=2).load(0, NOWHERE), FederatedDataset)


def test_the_columns_of_a_table_can_be_dealt_to_any_number_of_parties():
    class Table(TableSource):
        groups: ClassVar = {2: {"bank": ("c0",), "shop": ("c1", "c2", "c3", "c4", "c5")}}

        def read(self, root):
            return {f"c{k}": np.random.default_rng(k).normal(size=40) for k in range(6)}, np.arange(40) % 2

    assert Table().load(0, NOWHERE).widths == {"bank": 1, "shop": 5}
    data = Table(known=1.0, columns=ColumnSplit(4, (1, 1, 2, 1), "given", shared=("c5",))).load(0, NOWHERE)
    assert data.widths == {"0": 2, "1": 2, "2": 3, "3": 2}
    assert data.holder == "0"
    problems: list[str] = []
    build(DataSource, {"name": "adult", "columns": {"parties": 5, "sizes": [0.2, 0.8]}}, "data", problems)
    assert "data.columns: sizes = (0.2, 0.8): give one for each of 5 parties" in problems[0]


PAGE = (Path(__file__).parents[3] / "docs" / "partitions.md").read_text()


@pytest.mark.parametrize("block", re.findall(r"^```yaml\n(.*?)^```", PAGE, re.S | re.M))
def test_what_the_page_says_can_be_loaded(block):
    problems: list[str] = []
    plain = yaml.safe_load(block)["data"]
    source = build(DataSource, {**plain, "name": "digits"}, "data", problems)
    assert problems == []
    assert len(source.load(0, NOWHERE).client_ids) == plain["clients"]


def test_partitions_are_listed(capsys):
    assert main(["list", "partitions", "--format", "json"]) == 0
    rows = {row["name"]: row["about"] for row in json.loads(capsys.readouterr().out)}
    assert set(rows) == set(partitioners)
    assert all(rows.values())


def test_the_page_names_every_partitioner():
    names = {
        name for row in re.findall(r"^\| (`.*?) \|", PAGE.partition("## Coming")[0], re.M) for name in re.findall(r"`(\w+)`", row)
    }
    assert names == {name for name in partitioners if partitioners[name].__module__.startswith("fedml_")}
