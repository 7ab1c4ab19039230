"""Rows that come to nodes one after the other: SUSY and Room Occupancy, in their formats and damaged."""

import numpy as np
import pytest
import torch

from fedml_api import Classifier, Experiment, simulate
from fedml_api.algorithms import FedPer, OnlinePushSum
from fedml_api.algorithms.pushsum import Stream
from fedml_api.data import RoomOccupancy, Susy
from fedml_api.data.examine import faults, overlap
from fedml_api.run.regret import best_fixed, regret
from fedml_core.errors import ConfigError, DataError
from fedml_core.federation import LocalSGD
from fedml_core.topology import Complete
from tests.fedml_api.data import official_tables as official


@pytest.mark.parametrize("zipped", [False, True])
def test_rows_come_in_turn_in_the_order_of_the_file(tmp_path, zipped):
    x, y = official.susy(tmp_path, zipped=zipped)
    data = Susy(clients=3, length=10, test=20).load(0, tmp_path)
    scaled = (x - x[:30].mean(0)) / x[:30].std(0)
    assert data.client_ids == ("0", "1", "2")
    for node in range(3):
        found = data.train(str(node)).all()
        np.testing.assert_allclose(found["x"], scaled[node:30:3], rtol=1e-4, atol=1e-5)
        assert found["y"].tolist() == y[node:30:3].tolist()
        assert len(data.test(str(node))) == 0
    np.testing.assert_allclose(data.global_test.columns["x"], scaled[30:50], rtol=1e-4, atol=1e-5)
    assert data.global_test.columns["y"].tolist() == y[30:50].tolist()
    assert (data.classes, overlap(data), list(faults(data))) == (2, 0, [])


def test_skewed_streams_begin_with_a_stretch_of_what_varies_most(tmp_path):
    x, y = official.susy(tmp_path)
    x[:, 4] *= 100
    path = tmp_path / "susy" / "SUSY.csv"
    path.write_text("".join(",".join(map(str, [float(label), *row])) + "\n" for label, row in zip(y, x, strict=True)))
    plain, half, whole = (Susy(clients=3, length=20, test=1, skew=skew) for skew in (0.0, 0.5, 1.0))
    with pytest.raises(ConfigError, match=r"need 61 rows; .* has 60: lower one of them"):
        plain.load(0, tmp_path)
    official.susy(tmp_path, rows=61)
    everything = plain.load(0, tmp_path).global_train.columns["x"].numpy()
    u = np.linalg.svd(everything - everything.mean(0))[2][0]
    sides = [whole.load(0, tmp_path).train(str(node)).all()["x"].numpy() @ u for node in range(3)]
    if sides[0].mean() > sides[2].mean():
        sides.reverse()
    assert sides[0].max() <= sides[1].min() <= sides[1].max() <= sides[2].min()
    data = half.load(0, tmp_path)
    rows = [
        [int(np.flatnonzero((everything == row).all(1))[0]) for row in data.train(str(node)).all()["x"].numpy()]
        for node in range(3)
    ]
    assert sorted(row for one in rows for row in one[:10]) == list(range(30))
    assert all(one[:10] == sorted(one[:10]) and one[10:] == list(range(30 + node, 60, 3)) for node, one in enumerate(rows))
    first = everything[:30] @ np.linalg.svd(everything[:30] - everything[:30].mean(0))[2][0]
    stretches = sorted(sorted(first[one[:10]].tolist()) for one in rows)
    assert [value for one in stretches for value in one] == sorted(first.tolist())


def test_offices(tmp_path):
    (x, y), *tests = official.room_occupancy(tmp_path)
    data = RoomOccupancy(clients=4).load(0, tmp_path)
    scaled = (x[:20] - x[:20].mean(0)) / x[:20].std(0)
    found = data.train("1").all()
    np.testing.assert_allclose(found["x"], scaled[1::4], rtol=1e-4, atol=1e-5)
    assert found["y"].tolist() == y[1:20:4].tolist()
    assert data.global_test.columns["y"].tolist() == [*tests[0][1], *tests[1][1]]
    raw = np.concatenate([tests[0][0], tests[1][0]])
    np.testing.assert_allclose(data.global_test.columns["x"], (raw - x[:20].mean(0)) / x[:20].std(0), rtol=1e-4, atol=1e-5)
    assert data.sizes == dict.fromkeys("0123", 5)
    assert RoomOccupancy(clients=4, length=3).load(0, tmp_path).sizes == dict.fromkeys("0123", 3)
    for settings in ({"clients": 22}, {"clients": 4, "length": 6}):
        with pytest.raises(ConfigError, match=r"data.clients = \d+ and data.length = (None|6): there are 21 rows to come"):
            RoomOccupancy(**settings).load(0, tmp_path)


def change(old, new):
    def damage(path):
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return damage


@pytest.mark.parametrize(
    ("file", "damage", "words"),
    [
        ("datatest.txt", lambda path: path.unlink(), "not there; unpack the archive of archive.ics.uci.edu/dataset/357"),
        ("datatraining.txt", change("CO2", "CO"), "its columns are date, .*, CO, .*, not date"),
        ("datatest2.txt", change('"3","2015-02-04 17:02:00",', '"3",'), "damaged"),
        ("datatest2.txt", change(",0\n", ",2\n"), "labels go from [01] to 2, and are not 0 and 1 alone"),
        ("datatraining.txt", lambda path: path.write_bytes(path.read_bytes()[:-9]), "damaged"),
        ("datatraining.txt", lambda path: path.write_bytes(b"\xff\xfe\x00\x81\n" * 3), "damaged"),
        ("datatraining.txt", lambda path: path.write_text(""), "0 rows"),
        ("datatest.txt", change('17:01:00",', '17:01:00",nan,'), "damaged|no finite"),
    ],
)
def test_damaged_offices_are_refused(tmp_path, file, damage, words):
    official.room_occupancy(tmp_path)
    damage(tmp_path / "room_occupancy" / file)
    with pytest.raises(DataError, match=rf"{file}.*({words})"):
        RoomOccupancy(clients=2).load(0, tmp_path)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: path.unlink(), r"not there; get SUSY\.csv\.gz of archive.ics.uci.edu/dataset/279 into"),
        (lambda path: path.write_bytes(path.read_bytes()[:700]), "damaged"),
        (lambda path: path.write_bytes(path.read_bytes()[:60] + bytes(600)), "damaged"),
        (lambda path: path.write_bytes(b"no archive"), "damaged"),
        (lambda path: path.write_bytes(official.gzip.compress(b"1.0,2.0\n" * 60)), "50 rows of 2 columns; needed are rows of 19"),
        (lambda path: path.write_bytes(official.gzip.compress((b"0.5" + b",1" * 18 + b"\n") * 60)), "labels go from 0.5 to 0.5"),
        (
            lambda path: path.write_bytes(official.gzip.compress((b"1" + b",1" * 17 + b",inf\n") * 60)),
            "line 1: .* no finite number",
        ),
    ],
)
def test_damaged_collisions_are_refused(tmp_path, damage, words):
    official.susy(tmp_path, zipped=True)
    damage(tmp_path / "susy" / "SUSY.csv.gz")
    with pytest.raises(DataError, match=rf"SUSY.*({words})"):
        Susy(clients=3, length=10, test=20).load(0, tmp_path)


def test_settings_of_streams_are_checked():
    for faulty in ({"clients": 0}, {"length": 0}, {"skew": 1.5}, {"test": 0}):
        with pytest.raises(ConfigError, match=next(iter(faulty))):
            Susy(**faulty)


def test_nodes_that_talk_regret_less_than_nodes_alone(tmp_path):
    """The streams come as `online_pushsum` takes them: its losses are those of rows that have not been learned from."""
    official.susy(tmp_path, rows=300)
    data = Susy(clients=4, length=60, test=20, skew=1.0).load(0, tmp_path)
    network = torch.nn.Linear(18, 2)
    torch.nn.init.zeros_(network.weight)
    torch.nn.init.zeros_(network.bias)
    streams = [data.train(node) for node in data.client_ids]
    best = best_fixed(Classifier(), network, streams, 1, [15, 60])
    one = LocalSGD(lr=0.5, batch_size=1)
    found = []
    for algorithm in (FedPer(Stream(one), private=("*",)), OnlinePushSum(one, Complete())):
        settings = {"rounds": 60, "clients_per_round": 4, "evaluate_every": 60}
        history = simulate(Experiment(network, data, algorithm=algorithm, **settings)).history
        assert history[1]["train_loss"] == pytest.approx(np.log(2), abs=1e-5)
        assert all(row["examples"] == 4 for row in history[1:])
        found.append(regret(history, best))
    alone, together = found
    assert 0 < together[60] < 0.8 * alone[60]
    assert together[60] / 60 < together[15] / 15
