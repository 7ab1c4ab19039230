"""People of a table over clients that know the same of them; what is where of the tables' files."""

from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from fedml_api.data import Adult, AdultHorizontal, Credit, FederatedDataset, LendingClub, LendingClubHorizontal, NusWide
from fedml_api.data.examine import faults
from fedml_api.data.horizontal import HorizontalSource
from fedml_api.data.tables import TableSource, features, read_csv
from fedml_api.run.data_commands import list_data
from fedml_core.errors import ConfigError, DataError
from fedml_core.partition import Shards, stratified_split
from fedml_core.settings import settings


class Made(TableSource):
    """Forty people of three towns, one of whom nobody knows where from."""

    groups: ClassVar = {2: {"one": ("age", "town"), "other": ("job",)}}

    def read(self, root):
        draw = np.random.default_rng(0)
        towns = np.array(["A"] * 25 + ["B"] * 10 + ["C"] * 4 + [""], dtype=object)
        jobs = np.array(["x", "y"] * 20, dtype=object)
        return {"age": np.arange(40.0), "town": towns, "job": jobs}, (draw.random(40) > 0.5).astype(np.int64)


@pytest.fixture
def people(monkeypatch):
    @settings
    class MadeHorizontal(HorizontalSource):
        table = Made()

    monkeypatch.setattr("fedml_api.data.horizontal.data_sources.name_of", lambda kind: "made")
    return MadeHorizontal


def test_a_column_says_who_the_clients_are(people):
    data = people(by="town").load(0, Path("nowhere"))
    columns, labels = Made().read(None)
    train, test = stratified_split(labels, 0.3, 0)
    one, other = features(*({name: columns[name][rows] for name in ("age", "job")} for rows in (train, test)))
    assert one.shape == (28, 3)
    for client in data.client_ids:
        town = "" if client == "unknown" else client
        for rows, x, examples in ((train, one, data.train(client)), (test, other, data.test(client))):
            own = columns["town"][rows] == town
            np.testing.assert_array_equal(examples.all()["x"], x[own])
            assert examples.all()["y"].tolist() == labels[rows][own].tolist()
    assert set(data.client_ids) >= {"A", "B"}
    assert (len(data.global_test), sum(data.sizes.values())) == (12, 28)
    assert data.name == "made by town"
    # By another column the town is a feature again, one for each.
    assert people(by="job").load(0, Path("nowhere")).global_train.columns["x"].shape[1] >= 3


def test_a_partitioner_does_otherwise(people):
    data = people(clients=4, partition=Shards(1)).load(0, Path("nowhere"))
    assert data.client_ids == ("0", "1", "2", "3")
    assert (data.label_counts() > 0).sum(1).tolist().count(1) >= 3
    assert sum(data.sizes.values()) == 28
    assert sum(len(data.test(client)) for client in data.client_ids) == 12
    assert list(faults(data)) == []
    with pytest.raises(ConfigError, match="clients = 100: need at least 100 examples, and there are 28"):
        people().load(0, Path("nowhere"))
    with pytest.raises(ConfigError, match=r"data.by = 'age': must be one of town, job"):
        people(by="age").load(0, Path("nowhere"))
    with pytest.raises(ConfigError, match="by = 'town' and clients = 3: the column says who the clients are"):
        people(by="town", clients=3)


def loaded(source):
    try:
        return source.load(0, Path("data"))
    except (DataError, ConfigError) as error:
        pytest.skip(str(error))


def test_adult_by_education():
    data = loaded(AdultHorizontal(by="education"))
    assert isinstance(data, FederatedDataset)
    assert len(data.client_ids) == 16
    assert (sum(data.sizes.values()), len(data.global_test)) == (22_793, 9_768)
    assert data.global_test.columns["y"].float().mean().item() == pytest.approx(7841 / 32561, abs=1e-4)
    # Of 1,723 masters about 56 % earn that much, of 646 people with nine years 5 %.
    shares = {client: data.train(client).all()["y"].float().mean().item() for client in data.client_ids}
    assert shares["Masters"] > 0.5 > 0.1 > shares["7th-8th"]


def test_loans_by_state():
    data = loaded(LendingClubHorizontal(by="addr_state"))
    assert {"CA", "NY", "TX"} < set(data.client_ids)
    assert sum(data.sizes.values()) + len(data.global_test) == 9_857


def test_list_says_what_is_there(tmp_path, monkeypatch):
    monkeypatch.setattr("fedml_api.data.credit.SYSTEM_FOLDER", tmp_path / "nowhere")
    monkeypatch.setattr("fedml_api.data.adult.package_place", lambda package, path: tmp_path / "census.csv")

    def here():
        return {row["name"]: row["here"] for row in list_data(tmp_path)}

    names = ("adult", "adult_horizontal", "credit", "lending_club", "lending_club_sample", "nus_wide")
    assert {name: here()[name] for name in names} == dict.fromkeys(names, "no")
    for name in ("census.csv", "modeldata/Rdata.rdx", "lending_club/loan.csv", "nus_wide/NUS_WID_Tags/Test_Tags1k.dat"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = {name: here()[name] for name in names}
    assert found == {
        "adult": "yes", "adult_horizontal": "yes", "credit": "1 of 2 files", "lending_club": "yes",
        "lending_club_sample": "1 of 2 files", "nus_wide": "1 of 16 files",
    }  # fmt: skip
    assert "-" not in {here()[name] for name in ("digits", "mnist5k", "motes", "movielens", "n_baiot", "susy", "room_occupancy")}
    assert len(NusWide().files(tmp_path)) == 16
    assert LendingClub().files(tmp_path) == [tmp_path / "lending_club/loan.csv"]
    assert Adult().files(tmp_path) == [tmp_path / "census.csv"]
    assert [path.parent.name for path in Credit().files(tmp_path)] == ["modeldata"] * 2


@pytest.mark.parametrize("content", [b"a,b\n\xff\xfe,1\n", b'a,b\n"' + b"x" * 200_000 + b'",1\n'])
def test_what_is_no_table_is_refused(tmp_path, content):
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"table\.csv(, line \d+: cannot be read|: truncated)"):
        read_csv(path, ["a"], ["b"])
