"""A data set that is read client by client trains to the same bits as one that is in memory."""

import pytest
import torch
from torch import nn

from fedml_api import Experiment, FedAvg, FederatedDataset, LocalSGD, Standalone, simulate
from fedml_api.data import Femnist, StackOverflowNwp
from fedml_api.data.picture import draw_clients
from fedml_api.distributed import Loopback
from fedml_core.errors import DataError
from fedml_core.trainer import NextToken
from tests.fedml_api.data import official

pytest.importorskip("h5py")


def in_memory(data):
    train, test = ({id: of(id).all() for id in data.client_ids} for of in (data.train, data.test))
    return FederatedDataset.from_clients(train, test, classes=data.classes)


def sha(data, network=None, **settings):
    torch.manual_seed(0)
    network = network or nn.Sequential(nn.Flatten(), nn.Linear(784, 62))
    settings = {"engine": Standalone(), "rounds": 3, "clients_per_round": 3, "evaluate_clients": 3, "threads": 1} | settings
    result = simulate(Experiment(network, data, algorithm=FedAvg(LocalSGD(lr=0.1, batch_size=2)), **settings))
    return result.sha256, {name: value for name, value in result.last.items() if name != "seconds"}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    "engine",
    [Standalone(executor="sequential", processes=1), Standalone(executor="sequential", processes=2), Loopback(workers=2)],
    ids=["one", "two", "loopback"],
)
def test_training_gives_the_bits_of_data_in_memory(tmp_path, packed, engine):
    official.femnist(tmp_path)
    data = Femnist(packed=packed).load(0, tmp_path)
    expected = sha(in_memory(data), engine=engine)
    assert sha(Femnist(packed=packed).load(0, tmp_path), engine=engine) == expected
    assert "client_accuracy" in expected[1]


def test_clients_are_stacked_as_those_in_memory_are(tmp_path):
    official.femnist(tmp_path)
    data = Femnist().load(0, tmp_path)
    engine = Standalone(executor="stacked", block=3, processes=1)
    assert sha(data, engine=engine)[0] == sha(in_memory(data), engine=engine)[0]


def test_a_network_for_text_is_trained_on_text(tmp_path):
    train, _ = official.stackoverflow(tmp_path)
    for user in train.values():
        user["tokens"] = ["w3 w1 w4 w1 w5"] * len(user["tokens"])
    official.h5_file(tmp_path / "stackoverflow" / "stackoverflow_train.h5", train)
    official.h5_file(tmp_path / "stackoverflow" / "stackoverflow_test.h5", train)
    data = StackOverflowNwp(words=30, global_test=9).load(0, tmp_path)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Embedding(34, 4), nn.Linear(4, 34))
    _, last = sha(data, network, trainer=NextToken(), rounds=60)
    # Five of six targets follow from the word before; after w1 comes w4 as often as w5.
    assert last["test_accuracy"] == pytest.approx(5 / 6)


def test_the_picture_is_of_labels_and_text_has_none(tmp_path):
    official.femnist(tmp_path)
    draw_clients(Femnist().load(0, tmp_path), tmp_path / "clients.png")
    assert (tmp_path / "clients.png").stat().st_size > 10_000
    official.stackoverflow(tmp_path)
    data = StackOverflowNwp(words=30).load(0, tmp_path)
    assert not data.labelled
    with pytest.raises(DataError, match="no classes to count"):
        data.label_counts()


def test_on_another_device_everything_is_there(tmp_path):
    official.femnist(tmp_path)
    data = Femnist().load(0, tmp_path)
    data.test("f0000_0").all(), data.global_test.all()
    moved = data.to(torch.device("meta"))
    for examples in (moved.train("f0000_0"), moved.test("f0000_0"), moved.global_test):
        assert {column.device.type for column in examples.all().values()} == {"meta"}
    assert {column.device.type for column in data.train("f0000_0").all().values()} == {"cpu"}
    assert (moved.fingerprint, moved.sizes) == (data.fingerprint, data.sizes)
