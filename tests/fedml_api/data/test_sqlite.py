import sqlite3
import zlib
from dataclasses import replace

import msgspec
import numpy as np
import pytest
import torch

from fedml_api.data import FedCifar100, FedShakespeare, Femnist, StackOverflowLr, StackOverflowNwp
from fedml_api.data.example_proto import features_of
from fedml_core.errors import DataError
from tests.fedml_api.data import official, official_text
from tests.fedml_api.data.forks import forks, in_forks

pytest.importorskip("h5py")
SETS = {
    "femnist": (official.femnist, Femnist(), "emnist_all", "federated_emnist"),
    "fed_cifar100": (official.fed_cifar100, FedCifar100(), "cifar100", "federated_cifar100"),
    "coarse": (official.fed_cifar100, FedCifar100(coarse=True), "cifar100", "federated_cifar100"),
    "fed_shakespeare": (official.fed_shakespeare, FedShakespeare(), "shakespeare", "shakespeare"),
    "stackoverflow_nwp": (official.stackoverflow, StackOverflowNwp(words=30, largest=3), "stackoverflow", "stackoverflow"),
    "stackoverflow_lr": (official.stackoverflow, StackOverflowLr(words=30, tags=6), "stackoverflow", "stackoverflow"),
}


def write(folder, name, format, made):
    _, _, one, two = SETS[name]
    if format == "sqlite":
        return [official_text.tff_sqlite(folder / f"{one}.sqlite", dict(zip(("train", "test"), made, strict=True)))]
    return [official_text.fedjax(folder / f"{two}_{part}.sqlite", half) for part, half in zip(("train", "test"), made, strict=True)]


@pytest.mark.parametrize("format", ["sqlite", "fedjax"])
@pytest.mark.parametrize("name", SETS)
def test_the_examples_are_those_of_the_hdf5_files(tmp_path, name, format):
    make, source, *_ = SETS[name]
    made = make(tmp_path)
    write(source.folder(tmp_path), name, format, made)
    plain, data = source.load(0, tmp_path), replace(source, format=format).load(0, tmp_path)
    assert list(data.client_ids) == list(plain.client_ids)
    assert dict(data.sizes) == dict(plain.sizes)
    for client in plain.client_ids:
        for one, other in ((plain.train(client), data.train(client)), (plain.test(client), data.test(client))):
            assert len(one) == len(other)
            assert {column: values.dtype for column, values in one.all().items()} == {k: v.dtype for k, v in other.all().items()}
            assert all(torch.equal(values, other.all()[column]) for column, values in one.all().items())
    assert torch.equal(plain.global_test.all()["x"], data.global_test.all()["x"])
    if plain.labelled:
        assert data.label_counts().tolist() == plain.label_counts().tolist()
    assert data.fingerprint != plain.fingerprint


@forks
@pytest.mark.parametrize("format", ["sqlite", "fedjax"])
def test_clients_are_read_in_forked_processes(tmp_path, format):
    made = official.femnist(tmp_path)
    write(tmp_path / "femnist", "femnist", format, made)
    data = Femnist(format=format).load(0, tmp_path)
    expected = [made[0][client]["label"].tolist() for client in data.client_ids]
    assert data.train("f0000_0").all()["y"].tolist() == expected[0]
    assert in_forks(2, lambda: [data.train(client).all()["y"].tolist() for client in data.client_ids]) == [expected] * 2


def test_stack_overflow_has_users_for_validation_in_the_same_file(tmp_path):
    train, test = official.stackoverflow(tmp_path)
    path = tmp_path / "stackoverflow" / "stackoverflow.sqlite"
    held_out = {"900": {"tokens": ["w1 w2"]}}
    splits = {"train": train, "test": test, "heldout": held_out}
    official_text.tff_sqlite(path, {part: {k: {"tokens": v["tokens"]} for k, v in half.items()} for part, half in splits.items()})
    data = StackOverflowNwp(words=30, packed=False, format="sqlite", validation=True).load(0, tmp_path)
    assert data.global_test.all()["y"][0, :4].tolist() == [2, 3, 33, 0]


def test_a_number_may_be_written_by_itself_and_be_negative():
    whole, parts = np.array([0, 127, 128, 300, -1, 2**62]), np.array([0.5, -2.0])
    for packed in (True, False):
        found = features_of(official_text.example({"a": whole, "b": parts, "c": "é"}, packed), ["c", "b", "a"])
        assert found["b"].tolist() == [0.5, -2.0]
        assert found["c"].tolist() == ["é".encode()]
        assert found["a"].tolist() == whole.tolist()


EXAMPLE = official_text.example({"a": np.array([300, 5]), "b": np.array([0.5]), "c": "text"})


def test_a_truncated_example_is_said_to_be():
    for length in range(len(EXAMPLE)):
        with pytest.raises(ValueError, match=r"a message is cut|an example lacks a, b, c"):
            features_of(EXAMPLE[:length], ["a", "b", "c"])


def test_hostile_examples():
    for data in (b"\xff" * 40, b"\x0a" + b"\xff" * 9 + b"\x01", b"\x0b", b"\x0a\x05\x0a\x03\x0a\x01\xff"):
        with pytest.raises(ValueError):  # noqa: PT011
            features_of(data, ["a"])
    with pytest.raises(ValueError, match=r"no tf\.train\.Example but 3"):
        features_of(3, ["a"])


# Damaged files

CLIENTS = {"a": {"pixels": np.zeros((2, 28, 28), np.float32), "label": np.array([3, 61], np.int32)}}
GOOD = {name: official_text.as_ext(values) for name, values in CLIENTS["a"].items()}


def packed(**changes):
    return zlib.compress(msgspec.msgpack.encode({**GOOD, **changes}))


FEDJAX = {
    "no bytes": (3, "no bytes but 3"),
    "no deflate": (b"x" * 9, "cannot be decoded"),
    "truncated": (packed()[:-9], "are cut"),
    "a bomb": (zlib.compress(bytes(5_000_000), 9), "or have more than"),
    "no msgpack": (zlib.compress(b"\xc1"), "malformed"),
    "a list": (zlib.compress(msgspec.msgpack.encode([1])), "cannot be decoded"),
    "deep": (zlib.compress(b"\x81\xa5label" + b"\x91" * 50_000 + b"\xc0"), "cannot be decoded"),
    "no label": (zlib.compress(msgspec.msgpack.encode({"pixels": GOOD["pixels"]})), "lacks label (found: pixels)"),
    "a number": (packed(label=3), "cannot be decoded"),
    "complex": (packed(label=official_text.ext(2, 1.0, 2.0)), "extension of type 2"),
    "unknown": (packed(label=official_text.ext(99, "os.system", "x")), "extension of type 99"),
    "objects": (packed(label=official_text.ext(1, [2], "object", bytes(16))), "an array of 'object'"),
    "a record": (packed(label=official_text.ext(1, [2], "i4,i4", bytes(16))), "an array of 'i4,i4'"),
    "fewer bytes": (packed(label=official_text.ext(1, [2], "int32", bytes(7))), "with 7 bytes"),
    "huge": (packed(label=official_text.ext(1, [2**40, 2**40], "int32", b"")), "with 0 bytes"),
    "negative": (packed(label=official_text.ext(1, [-1], "int32", b"")), "cannot be decoded"),
    "axes": (packed(label=official_text.ext(1, [1] * 99, "int32", bytes(4))), "cannot be decoded"),
    "texts": (packed(label=official_text.ext(4, [3], [b"a", b"b"])), "of 2 texts"),
    "another kind": (packed(label=official_text.as_ext(["a", "b"])), "client 'a'/label holds object"),
    "another shape": (packed(pixels=official_text.as_ext(np.zeros((2, 9), np.float32))), "client 'a'/pixels holds float32 [2, 9]"),
    "another length": (packed(label=official_text.as_ext(np.zeros(3, np.int32))), "num_examples says 2"),
    "a class": (packed(label=official_text.as_ext(np.array([1, 62]))), "labels from 1 to 62"),
}


@pytest.mark.parametrize("fault", FEDJAX)
def test_damaged_and_hostile_clients(tmp_path, monkeypatch, fault):
    monkeypatch.setattr("fedml_api.data.sqlite.LARGEST", 1_000_000)
    data, said = FEDJAX[fault]
    for part in ("train", "test"):
        path = official_text.fedjax(tmp_path / "femnist" / f"federated_emnist_{part}.sqlite", CLIENTS)
    change(path.with_name("federated_emnist_train.sqlite"), "UPDATE federated_data SET data = ?", data)
    found = Femnist(format="fedjax").load(0, tmp_path)
    assert found.test("a").all()["y"].tolist() == [3, 61]
    with pytest.raises(DataError) as caught:
        found.train("a").all()
    for words in (
        str(tmp_path / "femnist" / "federated_emnist_train.sqlite"),
        "client 'a'",
        said,
        "put federated_emnist_train.sqlite",
    ):
        assert words in str(caught.value)


def change(path, query, *values):
    with sqlite3.connect(path) as file:
        file.execute(query, values)
    file.close()


QUERIES = {
    "no table": ("DROP TABLE federated_data", "table federated_data lacks client_id, data, num_examples (found: no such table)"),
    "no column": ("ALTER TABLE federated_data RENAME COLUMN num_examples TO n", "lacks num_examples (found: client_id, data, n)"),
    "no clients": ("DELETE FROM federated_data", "federated_data has no clients"),
    "a count": ("UPDATE federated_data SET num_examples = -1", "with -1 examples: num_examples is no whole number"),
    "a text": ("UPDATE federated_data SET num_examples = 'x'", "num_examples is no whole number"),
    "a name": ("UPDATE federated_data SET client_id = x'ff'", "has the client b'\\xff'"),
}


@pytest.mark.parametrize("fault", QUERIES)
def test_damaged_tables(tmp_path, fault):
    query, said = QUERIES[fault]
    for part in ("train", "test"):
        path = official_text.fedjax(tmp_path / "femnist" / f"federated_emnist_{part}.sqlite", CLIENTS)
    change(path, query)
    with pytest.raises(DataError) as caught:
        Femnist(format="fedjax").load(0, tmp_path)
    assert str(path) in str(caught.value)
    assert said in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"no database at all", "half"])
def test_files_that_are_no_database(tmp_path, content):
    path = official_text.tff_sqlite(tmp_path / "femnist" / "emnist_all.sqlite", {"train": CLIENTS, "test": CLIENTS})
    assert Femnist(format="sqlite").load(0, tmp_path).train("a").all()["y"].tolist() == [3, 61]
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if content == "half" else content)
    with pytest.raises(DataError, match=r"emnist_all\.sqlite: .*unpacked from emnist_all\.sqlite\.lzma"):
        Femnist(format="sqlite").load(0, tmp_path).train("a").all()
    path.unlink()
    with pytest.raises(DataError, match=r"emnist_all\.sqlite: not there; put emnist_all\.sqlite into .*femnist"):
        Femnist(format="sqlite").load(0, tmp_path)


ROWS = {
    "a row is missing": ("DELETE FROM examples WHERE rowid = 1", "has 1 examples of"),
    "no message": ("UPDATE examples SET serialized_example_proto = 'text' WHERE rowid = 1", "no tf.train.Example but 'text'"),
    "truncated": (
        "UPDATE examples SET serialized_example_proto = substr(serialized_example_proto, 1, 99) WHERE rowid = 1",
        "a message is cut",
    ),
    "no split": ("UPDATE client_metadata SET split_name = 'x' WHERE split_name = 'train'", "no clients of split 'train'"),
    "other clients": ("UPDATE client_metadata SET client_id = 'b' WHERE split_name = 'test'", "client 'a' is missing"),
}


@pytest.mark.parametrize("fault", ROWS)
def test_damaged_rows(tmp_path, fault):
    query, said = ROWS[fault]
    path = official_text.tff_sqlite(tmp_path / "femnist" / "emnist_all.sqlite", {"train": CLIENTS, "test": CLIENTS})
    change(path, query)
    with pytest.raises(DataError) as caught:
        Femnist(format="sqlite").load(0, tmp_path).train("a").all()
    assert str(path) in str(caught.value)
    assert said in str(caught.value)


def test_values_of_another_number_or_range(tmp_path):
    train, _ = official.fed_cifar100(tmp_path)
    for change, said in ((lambda image: image[:, 1:], "2976 values, not 3072"), (lambda image: image + 256, "not from 0 to 255")):
        changed = {client: {**own, "image": change(own["image"].astype(np.int64))} for client, own in train.items()}
        path = tmp_path / "fed_cifar100" / "cifar100.sqlite"
        path.unlink(missing_ok=True)
        official_text.tff_sqlite(path, {"train": changed, "test": train})
        with pytest.raises(DataError, match=said):
            FedCifar100(format="sqlite").load(0, tmp_path).train("0").all()
