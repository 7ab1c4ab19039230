"""Tables over parties: features by what each party's own training rows are like; the sources, in their formats."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from fedml_api.data import Adult, Credit, LendingClub, LendingClubSample, NusWide
from fedml_api.data.lending_club import BAD, INCOME, TEXTS
from fedml_api.data.tables import features, read_csv, spread
from fedml_core.errors import ConfigError, DataError


def loaded(source, root):
    """The data, or a skipped test where an optional package is absent."""
    try:
        return source.load(0, root)
    except (DataError, ConfigError) as error:
        pytest.skip(str(error))


def test_features_are_by_what_the_partys_training_rows_are_like():
    train = {"n": np.array([1.0, 3.0, np.nan, 5.0]), "t": np.array(["a", "b", "a", "a"], dtype=object), "same": np.ones(4)}
    test = {"n": np.array([np.nan, 7.0]), "t": np.array(["c", "b"], dtype=object), "same": np.array([2.0, 1.0])}
    one, other = features(train, test)
    unit = np.std([1, 3, 5])
    np.testing.assert_allclose(one, [[-2 / unit, 0, 1, 0], [0, 0, 0, 1], [0, 1, 1, 0], [2 / unit, 0, 1, 0]], rtol=1e-6)
    np.testing.assert_allclose(other, [[0, 1, 0, 0], [4 / unit, 0, 0, 1]], rtol=1e-6)
    assert one.dtype == other.dtype == np.float32
    with pytest.raises(DataError, match="the columns same are the same for all training rows"):
        features({"same": train["same"]}, {"same": test["same"]})


def made(known=0.5, seed=0):
    draw = np.random.default_rng(0)
    columns = {name: draw.normal(size=100) for name in ("a", "b", "c")}
    labels = (columns["a"] > 0).astype(np.int64)
    split = (np.arange(70), np.arange(70, 100))
    return columns, labels, spread("made", columns, labels, {"one": ["a"], "two": ["c", "b"]}, split, known, seed)


def test_each_party_knows_some_people_in_its_own_order():
    columns, labels, data = made()
    assert [len(data.train(party)) for party in data.client_ids] == [35, 35]
    assert [len(data.test(party)) for party in data.client_ids] == [15, 15]
    assert 5 < len(data.pooled().train("one")) < 30
    ids = [data.train(party).columns["id"] for party in data.client_ids]
    assert not torch.equal(*ids)
    assert all(not torch.equal(own, own.sort().values) for own in ids)
    # Whoever has the same id is the same person: among these, the label is whether `a` is above 0.
    pooled = data.pooled(["one"]).train("one").all()
    a = columns["a"]
    rows = data.train("one")
    assert rows.all()["y"].float().mean() == pytest.approx(labels[:70].mean(), abs=0.2)
    order = pooled["x"][:, 0].argsort()
    assert torch.equal(pooled["y"][order], pooled["y"].sort().values)
    assert a.std() > 0
    assert made(seed=1)[2].fingerprint != data.fingerprint == made()[2].fingerprint
    everybody = made(known=1.0)[2]
    assert len(everybody.pooled().train("one")) == 70


def test_adult():
    data = loaded(Adult(), Path("nowhere"))
    assert data.widths == {"employer": 27, "registry": 38}
    assert (len(data.train("employer")) + len(data.test("employer"))) == pytest.approx(0.9 * 32561, abs=2)
    assert data.global_test.columns["y"].float().mean().item() == pytest.approx(7841 / 32561, abs=0.01)
    three = loaded(Adult(parties=3), Path("nowhere"))
    assert three.client_ids == ("employer", "tax_office", "registry")
    assert sum(three.widths.values()) == 65


@pytest.mark.parametrize(("source", "people", "bad"), [(Credit, 4454, 1254), (LendingClubSample, 9857, 517)])
@pytest.mark.parametrize("parties", [2, 3])
def test_r_data(source, people, bad, parties):
    data = loaded(source(parties=parties, known=1.0), Path("data"))
    holder = data.holder
    assert len(data.train(holder)) + len(data.test(holder)) == people
    assert int(data.train(holder).all()["y"].sum() + data.test(holder).all()["y"].sum()) == bad
    assert len(data.client_ids) == parties


def test_an_absent_r_file_says_where_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr("fedml_api.data.credit._rdata", lambda: None)
    monkeypatch.setattr("fedml_api.data.credit.SYSTEM_FOLDER", Path("/nowhere"))
    with pytest.raises(DataError, match="apt-get install r-cran-modeldata, or, without R, apt-get download r-cran-modeldata"):
        Credit().load(0, tmp_path)


def loans(path, count=60):
    """A file in the format of Lending Club's: all columns in some order with others among them, some loans of 2017."""
    groups = LendingClub.groups[2]
    names = [name for group in groups.values() for name in group if name != INCOME]
    header = ["id", *reversed(names), "annual_inc", "annual_inc_joint", "verification_status_joint", "loan_status", "issue_d"]
    draw = np.random.default_rng(0)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, header)
        writer.writeheader()
        for i in range(count):
            row = {name: str(draw.integers(0, 3)) if name in TEXTS else f"{draw.normal():.3f}" for name in names}
            row |= {
                "id": "",
                "annual_inc": 1000 + i,
                "annual_inc_joint": "",
                "verification_status_joint": "",
                "revol_util": "12.5%",
            }
            row |= {"verification_status": "Verified", "loan_status": (BAD[i % 6] if i % 4 == 0 else "Fully Paid")}
            row["issue_d"] = "Dec-2017" if i % 10 == 0 else "Jan-2018"
            if i == 1:
                row |= {"verification_status_joint": "Verified", "annual_inc_joint": 77777}
            writer.writerow(row)
        file.write("Loans that do not meet the credit policy\n")


def test_lending_club_in_its_own_format(tmp_path):
    (tmp_path / "lending_club").mkdir()
    with pytest.raises(DataError, match=r"loan\.csv is not there"):
        LendingClub().load(0, tmp_path)
    loans(tmp_path / "lending_club" / "loan.csv")
    columns, labels = LendingClub().read(tmp_path)
    years = [i for i in range(60) if i % 10]
    assert labels.tolist() == [int(i % 4 == 0) for i in years]
    assert columns[INCOME].tolist() == [77777.0 if i == 1 else 1000.0 + i for i in years]
    assert set(columns["revol_util"]) == {12.5}
    groups = {n: [len(group) for group in LendingClub.groups[n].values()] for n in (2, 3)}
    assert groups == {2: [15, 68], 3: [15, 35, 33]}  # FedML's
    data = LendingClub(parties=3, known=1.0).load(0, tmp_path)
    assert data.client_ids == ("lender", "bureau", "registry")
    assert len(data.global_test) + len(data.pooled().train("lender")) == len(years)


def test_a_damaged_table_names_the_place(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("a,b\n1,x\n2 m,y\n")
    with pytest.raises(DataError, match=r"a.csv, line 3: a is '2 m', which is no number"):
        read_csv(path, ["b"], ["a"])
    with pytest.raises(DataError, match="has no column c, d"):
        read_csv(path, ["c"], ["a", "d"])
    with pytest.raises(DataError, match="has no rows with the right b"):
        read_csv(path, ["b"], [], only=("b", lambda text: text == "z"))


def photos(root, counts=(30, 20)):
    """NUS-WIDE's files, with few photos and features."""
    folder, draw = root / "nus_wide", np.random.default_rng(0)
    for name in ("Groundtruth/TrainTestLabels", "Low_Level_Features", "NUS_WID_Tags"):
        (folder / name).mkdir(parents=True)
    kept = {}
    for part, count in zip(("Train", "Test"), counts, strict=True):
        person, animal = draw.integers(0, 2, (2, count))
        for label, values in (("person", person), ("animal", animal)):
            (folder / f"Groundtruth/TrainTestLabels/Labels_{label}_{part}.txt").write_text("".join(f"{v}\n" for v in values))
        for kind, width in zip(("CH", "CM55", "CORR", "EDH", "WT"), (3, 4, 2, 2, 5), strict=True):
            rows = draw.normal(size=(count, width))
            text = "".join(" ".join(f"{v:.6f}" for v in row) + " \n" for row in rows)  # each line ends in a space
            (folder / f"Low_Level_Features/{part}_Normalized_{kind}.dat").write_text(text)
        tags = draw.integers(0, 2, (count, 6))
        (folder / f"NUS_WID_Tags/{part}_Tags1k.dat").write_text("".join("\t".join(map(str, row)) + "\t\n" for row in tags))
        kept[part] = person[person + animal == 1].tolist()
    return kept


@pytest.mark.parametrize("parties", [2, 3])
def test_nus_wide_in_its_own_format(tmp_path, parties):
    with pytest.raises(DataError, match=r"Labels_person_Train\.txt is not there"):
        NusWide().load(0, tmp_path)
    kept = photos(tmp_path)
    data = NusWide(parties=parties).load(0, tmp_path)
    assert list(data.widths.values()) == [16, *([6] if parties == 2 else [3, 3])]
    train, test = data.train("images").all()["y"], data.test("images").all()["y"]
    assert [sorted(part.tolist()) for part in (train, test)] == [sorted(kept["Train"]), sorted(kept["Test"])]
    (tmp_path / "nus_wide/NUS_WID_Tags/Test_Tags1k.dat").write_text("1\t0\t\n")
    with pytest.raises(DataError, match=r"Test_Tags1k\.dat: is of 1 photos, and other Test files of 20"):
        NusWide().load(0, tmp_path)
