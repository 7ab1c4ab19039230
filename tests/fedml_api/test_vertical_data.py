"""VerticalDataset: the protocol of a data set, the joined rows, and what it refuses."""

import pytest
import torch

from fedml_api.data import VerticalDataset
from fedml_api.model import VerticalLR, VerticalNN
from fedml_core.errors import ConfigError, DataError
from tests.people import PARTIES, network, people


def columns():
    """Three people in training, two in the test, of whom the parties share two and one."""
    train = {
        "bank": {"id": torch.tensor([5, 9, 1]), "x": torch.tensor([[50.0], [90.0], [10.0]]), "y": torch.tensor([1, 0, 1])},
        "bureau": {"id": torch.tensor([1, 7, 9]), "x": torch.tensor([[-1.0, 1.0], [-7.0, 7.0], [-9.0, 9.0]])},
    }
    test = {
        "bank": {"id": torch.tensor([20, 21]), "x": torch.tensor([[200.0], [210.0]]), "y": torch.tensor([0, 1])},
        "bureau": {"id": torch.tensor([22, 21]), "x": torch.tensor([[-22.0, 22.0], [-21.0, 21.0]])},
    }
    return train, test


def test_rows_are_joined_by_id_in_its_order():
    data = VerticalDataset(*columns(), classes=2)
    assert data.global_test.all()["x"].tolist() == [[210.0, -21.0, 21.0]]
    assert data.global_test.all()["y"].tolist() == [1]
    pooled = data.pooled()
    assert pooled.client_ids == ("bank",)
    assert pooled.train("bank").all()["x"].tolist() == [[10.0, -1.0, 1.0], [90.0, -9.0, 9.0]]
    assert pooled.train("bank").all()["y"].tolist() == [1, 0]
    alone = data.pooled(["bureau"])
    assert alone.train("bank").all()["x"].tolist() == [[-1.0, 1.0], [-9.0, 9.0]]
    assert (data.widths, data.holder, data.client_ids) == ({"bank": 1, "bureau": 2}, "bank", ("bank", "bureau"))


def test_what_a_client_sees_is_its_own():
    data = VerticalDataset(*columns(), classes=2)
    assert sorted(data.train("bureau").columns) == ["id", "x"]
    assert data.test("bank").all()["id"].tolist() == [20, 21]


def test_the_fingerprint_tells_every_change():
    seen = {VerticalDataset(*columns(), classes=2).fingerprint}
    assert VerticalDataset(*columns(), classes=2).to(torch.device("cpu")).fingerprint in seen
    for part, party, name in ((0, "bank", "x"), (0, "bureau", "id"), (1, "bank", "y"), (1, "bureau", "x")):
        changed = columns()
        changed[part][party][name] = changed[part][party][name].flip(0)
        seen.add(VerticalDataset(*changed, classes=2).fingerprint)
    assert len(seen) == 5


def broken(change):
    train, test = columns()
    change(train, test)
    return lambda: VerticalDataset(train, test, classes=2, name="loans")


REFUSED = {
    r"party 'bureau' has 1 training rows more than ids": lambda train, _: train["bureau"]["id"].fill_(7)[:1].fill_(1),
    r"labels y are held by nobody": lambda train, _: train["bank"].pop("y"),
    r"labels y are held by bank and bureau": lambda train, _: train["bureau"].update(y=torch.tensor([0, 0, 0])),
    r"party 'bank' has the test columns id, x; needed: id, x, y": lambda _, test: test["bank"].pop("y"),
    r"party 'bureau' has the training columns id, w, x; needed: id, x": lambda train, _: train["bureau"].update(w=torch.zeros(3)),
    r"ids must be int64": lambda train, _: train["bank"].update(id=torch.tensor([1.0, 2.0, 3.0])),
    r"no training id is common": lambda train, _: train["bureau"].update(id=torch.tensor([11, 17, 19])),
    r"2 test rows are about people who are among the training rows": lambda _, test: test["bank"].update(id=torch.tensor([1, 7])),
    r"party 'bureau' has 2 features in training and 1 in the test": lambda _, test: test["bureau"].update(x=torch.zeros(2, 1)),
    r"labels go from 0 to 2; with 2 classes": lambda train, _: train["bank"].update(y=torch.tensor([0, 2, 1])),
    r"needed are the same two or more": lambda train, test: (train.pop("bureau"), test.pop("bureau")),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_is_refused(message):
    with pytest.raises(DataError, match=message):
        broken(REFUSED[message])()


def test_networks_ask_the_data_for_the_parties():
    data = people()
    x = data.global_test.all()["x"]
    lr, nn = network(data), network(data, VerticalNN(hidden=5, cut=4))
    weights = torch.cat([lr.bottoms[party].weight for party in PARTIES], dim=1)
    lr.top[0].bias.data.fill_(0.3)
    logits = x @ weights.T + 0.3
    torch.testing.assert_close(lr(x), torch.cat([torch.zeros_like(logits), logits], 1))
    parts = [nn.bottoms[party](own) for party, own in zip(PARTIES, x.split([3, 4, 5], dim=1), strict=True)]
    torch.testing.assert_close(nn(x), nn.top(parts[0] + parts[1] + parts[2]))
    assert sum(p.numel() for p in lr.parameters()) == 3 + 4 + 5 + 1
    assert network(people(classes=3))(x).shape == (len(x), 3)


def test_networks_for_other_data_or_with_bad_names_are_refused():
    with pytest.raises(ConfigError, match=r"model.parties = {'a': 2, 'b': 3}: the data have \[6\] columns"):
        VerticalLR(parties={"a": 2, "b": 3}).build((6,), 2)
    for name in ("a.b", "keys"):
        with pytest.raises(ConfigError, match=f"party '{name}': no part of a network can have this name"):
            VerticalLR(parties={name: 2, "b": 3}).build((5,), 2)
