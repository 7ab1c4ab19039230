import json
import sys

import numpy as np
import pytest
import torch

from fedml_api.data import FedCifar100, FedShakespeare, Femnist, FemnistDigits, StackOverflowLr, StackOverflowNwp
from fedml_api.data.vocabulary import CHARACTERS, Characters
from fedml_core.errors import ConfigError, DataError
from tests.fedml_api.data import official
from tests.fedml_api.data.forks import forks, in_forks

pytest.importorskip("h5py")
SMALL = {"words": 30, "packed": False}


def test_femnist_has_the_writers_examples_with_ink_1(tmp_path):
    train, test = official.femnist(tmp_path)
    data = Femnist().load(0, tmp_path)
    assert (list(data.client_ids), data.classes, data.name) == (list(train), 62, "femnist")
    for client in data.client_ids:
        for examples, raw in ((data.train(client), train[client]), (data.test(client), test[client])):
            batch = examples.all()
            assert torch.equal(batch["x"], torch.from_numpy(1 - raw["pixels"]).unsqueeze(1))
            assert (batch["x"].dtype, batch["y"].dtype) == (torch.float32, torch.int64)
            assert batch["y"].tolist() == raw["label"].tolist()
    assert dict(data.sizes) == {client: len(raw["label"]) for client, raw in train.items()}  # examples, not batches
    whole = torch.cat([data.test(client).all()["x"] for client in data.client_ids])
    assert torch.equal(data.global_test.all()["x"], whole)
    assert data.label_counts().tolist() == [np.bincount(raw["label"], minlength=62).tolist() for raw in train.values()]


def test_the_digits_of_femnist_have_files_of_their_own_and_ten_classes(tmp_path):
    files = {"folder": "femnist_digits", "stem": "fed_emnist_digitsonly"}
    train, _ = official.femnist(tmp_path, classes=10, **files)
    data = FemnistDigits().load(0, tmp_path)
    assert (list(data.client_ids), data.classes, data.name) == (list(train), 10, "femnist_digits")
    assert data.train("f0001_1").all()["y"].tolist() == train["f0001_1"]["label"].tolist()
    official.femnist(tmp_path, classes=62, **files)
    with pytest.raises(DataError, match=r"fed_emnist_digitsonly_train\.h5: /examples/.* labels from .*, not from 0 to 9; put"):
        FemnistDigits().load(0, tmp_path).label_counts()


def test_a_client_is_read_when_it_is_looked_at_and_no_other(tmp_path, monkeypatch):
    official.femnist(tmp_path)
    data = Femnist().load(0, tmp_path)
    read = []
    monkeypatch.setattr(data._train, "read", lambda client, real=data._train.read: read.append(client) or real(client))
    examples = data.train("f0001_1")
    assert (len(examples), read) == (6, [])
    assert [len(batch["y"]) for batch in examples.batches(4)] == [4, 2]
    assert data.train("f0001_1").subset(torch.tensor([5])).all()["x"].equal(examples.all()["x"][5:])
    assert read == ["f0001_1"]


def test_what_was_read_last_is_kept_as_far_as_there_is_room(tmp_path, monkeypatch):
    official.femnist(tmp_path)
    data = Femnist().load(0, tmp_path)
    one = sum(column.nbytes for column in data.train("f0003_0").all().values())
    monkeypatch.setattr("fedml_api.data.lazy.ROOM", 2 * one)
    for client in data.client_ids:
        data.train(client).all()
    assert list(data._recent) == [("train", "f0002_2"), ("train", "f0003_0")]


def test_clients_of_fed_cifar100_have_no_test_examples_as_the_test_clients_are_others(tmp_path):
    train, test = official.fed_cifar100(tmp_path)
    data = FedCifar100().load(0, tmp_path)
    assert (list(data.client_ids), data.classes) == (["0", "1", "2"], 100)
    assert [len(data.test(client)) for client in data.client_ids] == [0, 0, 0]
    assert data.test("0").all()["x"].shape == (0, 3, 24, 24)
    assert data.global_test.all()["y"].tolist() == np.concatenate([test[client]["label"] for client in "34"]).ravel().tolist()
    x = data.train("1").all()["x"]
    raw = train["1"]["image"][:, 4:28, 4:28].transpose(0, 3, 1, 2).astype(np.float64)
    expected = (raw - raw.mean((1, 2, 3), keepdims=True)) / raw.std((1, 2, 3), keepdims=True)
    assert np.allclose(x, expected, atol=1e-5)
    coarse = FedCifar100(coarse=True, crop=32).load(0, tmp_path)
    assert coarse.classes == 20
    assert coarse.global_test.all()["x"].shape == (8, 3, 32, 32)
    assert coarse.train("2").all()["y"].tolist() == train["2"]["coarse_label"].ravel().tolist()


def test_an_image_of_one_colour_stays_finite(tmp_path):
    train, _ = official.fed_cifar100(tmp_path)
    train["0"]["image"][:] = 7
    official.h5_file(tmp_path / "fed_cifar100" / "fed_cifar100_train.h5", train)
    assert FedCifar100().load(0, tmp_path).train("0").all()["x"].abs().max() == 0


def test_shakespeare_is_the_next_character_at_every_position(tmp_path):
    official.fed_shakespeare(tmp_path)
    data = FedShakespeare().load(0, tmp_path)
    assert len(CHARACTERS) == len(set(CHARACTERS)) == 86
    assert (list(data.client_ids), data.classes) == (["JULIET", "ROMEO"], 90)
    number = {character: k for k, character in enumerate(CHARACTERS.decode(), 1)}
    batch = data.train("ROMEO").all()
    # 8 + 2 characters make one row of 81, 200 + 2 make three.
    assert batch["x"].shape == batch["y"].shape == (4, 80)
    assert batch["x"][0].tolist() == [88, *(number[c] for c in "But soft"), 89] + [0] * 70
    assert batch["y"][0].tolist() == [*(number[c] for c in "But soft"), 89] + [0] * 71
    assert batch["x"][1:].flatten().tolist().count(number["x"]) == 198  # two of 200 are only targets, at the ends of rows
    assert batch["y"][3].tolist() == [number["x"]] * 38 + [89] + [0] * 41
    assert data.test("ROMEO").all()["x"][0, 10] == 87  # ~ is not in the vocabulary
    # 79 characters fill a row of 81 with begin and end, 80 need another row for the end.
    assert data.test("JULIET").all()["y"][:, -1].tolist() == [89, number["z"], 0]
    assert not data.labelled


def test_no_character_of_a_text_is_lost():
    rows = Characters().sequences([b"abc" * 100], 80)
    assert rows.flatten().tolist()[1:301] == Characters().numbers(b"abc" * 100).tolist()


def naive_sentence(words, sentence, steps):
    numbers = [words.index(word) + 1 if word in words else len(words) + 1 for word in sentence.split(" ")][:steps]
    numbers = [len(words) + 2, *numbers, *([len(words) + 3] if len(numbers) < steps else [])]
    return numbers + [0] * (steps + 1 - len(numbers))


@pytest.mark.parametrize("packed", [False, True])
def test_stackoverflow_is_the_next_word_at_every_position(tmp_path, packed):
    train, test = official.stackoverflow(tmp_path)
    data = StackOverflowNwp(words=30, packed=packed).load(0, tmp_path)
    assert (tuple(data.client_ids), data.classes) == (tuple(train), 34)
    for client, raw in train.items():
        rows = torch.tensor([naive_sentence(official.WORDS, one, 20) for one in raw["tokens"]])
        batch = data.train(client).all()
        assert torch.equal(batch["x"], rows[:, :-1])
        assert torch.equal(batch["y"], rows[:, 1:])
        assert batch["x"].dtype == torch.int64
        assert len(data.test(client)) == (len(test[client]["tokens"]) if client in test else 0)
    assert dict(data.sizes) == {client: len(raw["tokens"]) for client, raw in train.items()}
    assert len(data.global_test) == sum(len(raw["tokens"]) for raw in test.values())


def test_the_global_test_set_is_of_some_users_and_the_same_for_every_seed(tmp_path):
    official.stackoverflow(tmp_path)
    few, same = (StackOverflowNwp(global_test=9, **SMALL).load(seed, tmp_path).global_test.all()["x"] for seed in (0, 1))
    everything = {tuple(row) for row in StackOverflowNwp(**SMALL).load(0, tmp_path).global_test.all()["x"].tolist()}
    assert torch.equal(few, same)
    assert few.shape == (9, 20)
    assert {tuple(row) for row in few.tolist()} < everything


def test_users_may_be_bounded(tmp_path):
    official.stackoverflow(tmp_path)
    data = StackOverflowNwp(largest=2, **SMALL).load(0, tmp_path)
    assert list(data.sizes.values()) == [1, 2, 2, 2, 2] == [len(data.train(client).all()["x"]) for client in data.client_ids]


def test_tags_of_a_post_from_its_words(tmp_path):
    train, _ = official.stackoverflow(tmp_path)
    data = StackOverflowLr(words=20, tags=4).load(0, tmp_path)
    batch, raw = data.train("104").all(), train["104"]
    assert (batch["x"].shape, batch["y"].shape, data.classes) == ((5, 20), (5, 4), 4)
    for k in range(5):
        words = f"{raw['tokens'][k]} {raw['title'][k]}".split()
        assert np.allclose(batch["x"][k], [words.count(word) / len(words) for word in official.WORDS[:20]])
        assert batch["y"][k].tolist() == [float(tag in raw["tags"][k].split("|")) for tag in official.TAGS[:4]]
    with pytest.raises(ConfigError, match="packed"):
        StackOverflowLr(packed=True)


# Natural clients

SIZES = [5, 6, 7, 8]


def test_another_number_of_clients_is_refused_unless_said_how(tmp_path):
    official.femnist(tmp_path)
    with pytest.raises(ConfigError, match=r"clients = 3: femnist has 4 clients of its own.*regroup=sample"):
        Femnist(clients=3).load(0, tmp_path)
    with pytest.raises(ConfigError, match=r"clients = 5.*ask for fewer"):
        Femnist(clients=5, regroup="merge").load(0, tmp_path)
    with pytest.raises(ConfigError, match="say how many clients"):
        Femnist(regroup="merge")
    assert Femnist(clients=4).load(0, tmp_path).fingerprint != ""


def test_sampled_clients_keep_their_names_and_examples(tmp_path):
    official.femnist(tmp_path)
    whole = Femnist().load(0, tmp_path)
    data = Femnist(clients=2, regroup="sample").load(0, tmp_path)
    assert len(data.client_ids) == 2
    assert set(data.client_ids) < set(whole.client_ids)
    for client in data.client_ids:
        assert torch.equal(data.train(client).all()["x"], whole.train(client).all()["x"])
        assert torch.equal(data.test(client).all()["x"], whole.test(client).all()["x"])
    assert len(data.global_test) == len(whole.global_test)
    chosen = {tuple(Femnist(clients=2, regroup="sample").load(seed, tmp_path).client_ids) for seed in range(8)}
    assert len(chosen) > 1


def test_merged_clients_hold_everything_once(tmp_path):
    official.femnist(tmp_path)
    whole = Femnist().load(0, tmp_path)
    data = Femnist(clients=2, regroup="merge").load(0, tmp_path)
    assert data.client_ids == ("0", "1")
    rows = [row.numpy().tobytes() for client in data.client_ids for row in data.train(client).all()["x"]]
    assert sorted(rows) == sorted(row.numpy().tobytes() for client in whole.client_ids for row in whole.train(client).all()["x"])
    assert sum(len(data.test(client)) for client in data.client_ids) == len(whole.global_test)
    assert data.sizes == {client: len(data.train(client).all()["y"]) for client in data.client_ids}
    assert data.label_counts().sum() == sum(SIZES)


def test_fingerprints_tell_data_apart_and_packing_does_not(tmp_path):
    official.femnist(tmp_path)
    before = Femnist().load(0, tmp_path)
    prints = {before.fingerprint, Femnist(clients=2, regroup="merge").load(0, tmp_path).fingerprint}
    prints |= {Femnist(clients=2, regroup="sample").load(0, tmp_path).fingerprint}
    assert Femnist(packed=True).load(3, tmp_path).fingerprint == before.fingerprint
    official.femnist(tmp_path, seed=1)
    assert len(prints | {Femnist().load(0, tmp_path).fingerprint}) == 4


def test_settings_are_part_of_the_fingerprint(tmp_path):
    official.fed_shakespeare(tmp_path)
    assert len({FedShakespeare(steps=steps).load(0, tmp_path).fingerprint for steps in (5, 80)}) == 2


# Processes


@forks
def test_forked_processes_read_at_the_same_time_as_their_parent(tmp_path):
    official.femnist(tmp_path)
    data = Femnist().load(0, tmp_path)

    def sums():
        data._recent.clear()
        return [data.train(id).all()["x"].sum().item() for id in data.client_ids]

    expected = sums()
    parent = data._train._file
    found = in_forks(3, lambda: [*(sums() == expected for _ in range(30)), data._train._file is not parent])
    assert found == [[True] * 31] * 3
    assert sums() == expected


# What is damaged


def read_everything(source, root):
    data = source.load(0, root)
    for client in data.client_ids:
        data.train(client).all()
        data.test(client).all()


def damaged(source, root, *words):
    with pytest.raises(DataError) as caught:
        read_everything(source, root)
    for word in words:
        assert word in str(caught.value)


def test_files_that_are_not_there(tmp_path):
    for source, name in ((Femnist(), "fed_emnist_train.h5"), (StackOverflowNwp(), "stackoverflow_train.h5")):
        damaged(source, tmp_path, name, "not there", "fedml data get")
    official.stackoverflow(tmp_path)
    (tmp_path / "stackoverflow" / "stackoverflow.tag_count").unlink()
    damaged(StackOverflowLr(words=30, tags=6), tmp_path, "stackoverflow.tag_count", "not there")


def test_truncated_files(tmp_path):
    official.femnist(tmp_path)
    path = tmp_path / "femnist" / "fed_emnist_test.h5"
    path.write_bytes(path.read_bytes()[:5000])
    damaged(Femnist(), tmp_path, str(path), "cannot be read as HDF5", "fedml data get femnist")


def rename(old, new):
    return lambda file: file.move(old, new)


def replace(place, value):
    def change(file):
        del file[place]
        file[place] = value

    return change


FAULTS = {
    "another root": (rename("examples", "examples.md"), ["/examples is missing", "examples.md"]),
    "no group": (replace("examples", np.zeros(3)), ["/examples", "no group"]),
    "no pixels": (rename("examples/f0000_0/pixels", "examples/f0000_0/image"), ["/examples/f0000_0/pixels", "image, label"]),
    "no pixels later": (rename("examples/f0002_2/pixels", "examples/f0002_2/image"), ["/examples/f0002_2/pixels", "missing"]),
    "whole pixels": (
        replace("examples/f0001_1/pixels", np.zeros((6, 28, 28), np.uint8)),
        ["/examples/f0001_1/pixels", "uint8", "float [n, 28, 28]"],
    ),
    "flat pixels": (replace("examples/f0001_1/pixels", np.zeros((6, 784), np.float32)), ["pixels", "[6, 784]"]),
    "bright pixels": (replace("examples/f0001_1/pixels", np.full((6, 28, 28), 255.0)), ["/examples/f0001_1", "255"]),
    "no number": (replace("examples/f0001_1/pixels", np.full((6, 28, 28), np.nan)), ["/examples/f0001_1", "nan"]),
    "labels of text": (replace("examples/f0001_1/label", ["a"] * 6), ["/examples/f0001_1/label", "whole"]),
    "too many labels": (replace("examples/f0001_1/label", np.zeros(7, int)), ["/examples/f0001_1", "lengths"]),
    "labels out of range": (replace("examples/f0001_1/label", np.full(6, 62)), ["/examples/f0001_1", "62"]),
    "negative labels": (replace("examples/f0001_1/label", np.full(6, -1)), ["/examples/f0001_1", "-1"]),
    "group for an array": (replace("examples/f0001_1/label/a", 1), ["/examples/f0001_1/label"]),
    "a client is missing": (lambda file: file.__delitem__("examples/f0003_0"), ["/examples/f0003_0 is missing"]),
    "nobody": (lambda file: [file.__delitem__(f"examples/{id}") for id in list(file["examples"])], ["is empty"]),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_damaged_files_are_refused_with_file_place_and_remedy(tmp_path, fault):
    official.femnist(tmp_path)
    path = tmp_path / "femnist" / "fed_emnist_train.h5"
    change, words = FAULTS[fault]
    if fault == "group for an array":
        official.edit_h5(path, lambda file: file.__delitem__("examples/f0001_1/label"))
        official.edit_h5(path, lambda file: file.create_group("examples/f0001_1/label"))
    else:
        official.edit_h5(path, change)
    damaged(Femnist(), tmp_path, str(path), "fedml data get femnist", *words)


def test_damaged_word_and_tag_counts(tmp_path):
    official.stackoverflow(tmp_path)
    words, tags = (tmp_path / "stackoverflow" / f"stackoverflow.{name}_count" for name in ("word", "tag"))
    damaged(StackOverflowNwp(words=31, packed=False), tmp_path, str(words), "30 different", "31")
    good = words.read_text()
    words.write_text(good.replace("w7 893", "w7"))
    damaged(StackOverflowNwp(**SMALL), tmp_path, str(words), "line 8", "w7")
    words.write_text(good.replace("w7 ", "w8 "))
    damaged(StackOverflowNwp(**SMALL), tmp_path, str(words), "29 different")
    words.write_text(good)
    for content, said in (("{", "JSON"), ("[]", "JSON"), (json.dumps({"a": 1}), "1 different")):
        tags.write_text(content)
        damaged(StackOverflowLr(words=30, tags=6), tmp_path, str(tags), said)


def test_nobody_else_can_be_asked(tmp_path):
    official.femnist(tmp_path)
    for packed in (False, True):
        with pytest.raises(DataError, match="no client 'nobody'"):
            Femnist(packed=packed).load(0, tmp_path).train("nobody")


def test_without_h5py_the_extra_is_named(tmp_path, monkeypatch):
    official.femnist(tmp_path)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(DataError, match=r'pip install "fedml\[h5\]"'):
        Femnist().load(0, tmp_path)
