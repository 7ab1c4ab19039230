import json
import resource
import time

import numpy as np
import pytest

from fedml_api.data import FedShakespeare, Femnist, StackOverflowNwp, hdf5
from fedml_api.data.lazy import LazyDataset
from fedml_api.data.packed import PackedSplit, pack
from fedml_api.data.split import ClientSplit, HeldSplit
from fedml_core.errors import DataError
from fedml_core.federation.sampling import sample_clients
from tests.fedml_api.data import official
from tests.fedml_api.data.forks import forks, in_forks

NAMES = ["a", "ab", "b", "é", "中", "Z", "10", "9"]


def held(names=NAMES):
    draw = np.random.default_rng(0)
    rows = lambda k: {"tokens": draw.integers(0, 9, (k, 3)).astype(np.uint16), "y": draw.normal(size=k).astype(np.float32)}  # noqa: E731
    return HeldSplit({name: rows(k) for k, name in enumerate(names)}, "drawn")


def test_a_packed_split_is_the_split(tmp_path):
    split = held()
    pack(split, tmp_path / "p")
    found = PackedSplit(tmp_path / "p")
    found.check()
    assert tuple(found.ids) == split.ids == tuple(sorted(NAMES))
    assert (found.ids[2], found.ids[1:3], len(found.ids)) == (split.ids[2], split.ids[1:3], 8)
    assert found.sizes() == split.sizes() == {name: k for k, name in enumerate(NAMES)} | {}
    assert found.fingerprint == split.fingerprint
    for name in NAMES:
        mine, theirs = found.read(name), split.read(name)
        assert name in found
        assert (list(mine), found.size(name)) == (list(theirs), split.size(name))
        assert all(mine[c].dtype == theirs[c].dtype and np.array_equal(mine[c], theirs[c]) for c in mine)
        assert list(found.read(name, ["y"])) == ["y"]
    for name in ("", "aa", "c", "z", "a\0", "much longer than any of the names", None, 3):
        assert name not in found


def test_what_is_read_belongs_to_the_reader(tmp_path):
    pack(held(), tmp_path / "p")
    split = PackedSplit(tmp_path / "p")
    before = split.read("é")["tokens"].copy()
    split.read("é")["tokens"][:] = 0
    assert np.array_equal(split.read("é")["tokens"], before)
    assert before.any()


@pytest.mark.parametrize("cut", [1, 4, 9, 40, 300, None])
def test_damaged_files_are_refused(tmp_path, cut):
    path = tmp_path / "p"
    pack(held(), path)
    data = path.read_bytes()
    path.write_bytes(data[:-cut] if cut else data[8:])
    with pytest.raises(DataError, match=r"damaged.*remove it"):
        PackedSplit(path)


def test_descriptions_that_promise_something_else_are_refused(tmp_path):
    path = tmp_path / "p"
    pack(held(), path)
    data = path.read_bytes()
    length = int.from_bytes(data[-12:-8], "little")
    about = json.loads(data[-12 - length : -12])
    changes = [{"rows": 29}, {"clients": -1}, {"width": 10**12}, {"columns": [["x", "O", []]]}, {"columns": 3}, {"rows": "x"}]
    for change in changes:
        text = json.dumps(about | change).encode()
        path.write_bytes(data[: -12 - length] + text + len(text).to_bytes(4, "little") + data[-8:])
        with pytest.raises(DataError, match="damaged"):
            PackedSplit(path)
    path.write_bytes(data[:20] + bytes([data[20] ^ 1]) + data[21:])
    with pytest.raises(DataError, match="checksum"):
        PackedSplit(path).check()


def test_names_and_columns_that_cannot_be_kept(tmp_path):
    row = {"y": np.zeros(1)}
    for clients, said in (({"": row}, "empty"), ({"a\0": row}, "null"), ({"a": row, "b": {"y": np.zeros(1, int)}}, "'b'")):
        with pytest.raises(DataError, match=said):
            pack(HeldSplit(clients, "drawn"), tmp_path / "p")
    assert list(tmp_path.iterdir()) == []  # nor is a draft left


@pytest.mark.parametrize("source", [Femnist, FedShakespeare])
def test_packing_changes_nothing_and_happens_once(tmp_path, monkeypatch, source):
    getattr(official, "femnist" if source is Femnist else "fed_shakespeare")(tmp_path)
    plain = source().load(0, tmp_path)
    first = source(packed=True).load(0, tmp_path)
    monkeypatch.setattr(hdf5.H5Split, "__init__", lambda *a: pytest.fail("read again"))
    again = source(packed=True).load(0, tmp_path)
    for data in (first, again):
        assert tuple(data.client_ids) == tuple(plain.client_ids)
        assert data.sizes == plain.sizes
        for client in data.client_ids:
            for mine, theirs in ((data.train(client), plain.train(client)), (data.test(client), plain.test(client))):
                assert all(mine.all()[name].equal(column) for name, column in theirs.all().items())
        assert all(data.global_test.all()[name].equal(column) for name, column in plain.global_test.all().items())


def test_other_settings_or_files_are_packed_anew(tmp_path):
    official.stackoverflow(tmp_path)
    short = StackOverflowNwp(words=30, steps=5).load(0, tmp_path)
    assert short.train("103").all()["x"].shape == (4, 5)
    assert StackOverflowNwp(words=30).load(0, tmp_path).train("103").all()["x"].shape == (4, 20)
    before = short.train("104").all()["x"]
    official.stackoverflow(tmp_path, seed=1)
    assert not StackOverflowNwp(words=30, steps=5).load(0, tmp_path).train("104").all()["x"].equal(before)


@forks
def test_several_processes_pack_once(tmp_path, monkeypatch):
    official.stackoverflow(tmp_path)

    def load():
        made = []
        monkeypatch.setattr("fedml_api.data.packed.pack", lambda *a: made.append(1) or pack(*a))
        fingerprint = StackOverflowNwp(words=30).load(0, tmp_path).fingerprint
        return len(made), fingerprint

    found = in_forks(3, load)
    assert sum(made for made, _ in found) == 2  # the training split and the test split
    assert len({fingerprint for _, fingerprint in found}) == 1


class Drawn(ClientSplit):
    """Users of Stack Overflow's kind: as many sentences as they may have, 21 numbers each."""

    def __init__(self, clients, mean):
        self.ids, self.fingerprint = tuple(f"{k:08d}" for k in range(clients)), "drawn"
        draw = np.random.default_rng(0)
        self.counts = np.maximum(1, draw.lognormal(np.log(mean) - 0.5, 1, clients)).astype(int)
        self.pool = draw.integers(0, 10_004, (int(self.counts.max()), 21)).astype(np.uint16)

    def __contains__(self, client):
        return True

    def size(self, client):
        return int(self.counts[int(client)])

    def read(self, client, only=None):
        return {"tokens": self.pool[: self.size(client)]}


def used(path, rounds=100):
    """What a process needs for so many rounds of 50 clients."""

    def use():
        before, began = peak(), time.perf_counter()
        split = PackedSplit(path)
        data = LazyDataset(split, split, StackOverflowNwp().expand, 10_004, tests=10_000)
        first = len(data.train(data.client_ids[0]).all()["x"])
        opened, rows, began = time.perf_counter() - began, 0, time.perf_counter()
        for round in range(rounds):
            for client in sample_clients(data.client_ids, 50, 0, round):
                rows += sum(len(batch["x"]) for batch in data.train(client).batches(16))
        found = {"opened": opened, "rows": rows, "seconds": time.perf_counter() - began, "first": first}
        return {**found, "clients": len(data.client_ids), "tests": len(data.global_test), "before": before, "after": peak()}

    return in_forks(1, use)[0]


def peak():
    """The most resident memory that this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@forks
def test_sampling_takes_no_memory_to_speak_of(tmp_path):
    """2,000 clients here; the layout with all of Stack Overflow's users is a soak."""
    split = Drawn(2_000, 600)
    pack(split, tmp_path / "p")
    found = used(tmp_path / "p", rounds=20)
    assert found["clients"] == 2_000
    assert found["rows"] > 500_000
    assert found["opened"] < 2
    # What is kept of recent clients and the test examples; not the 400 MB that the clients take when all are read.
    assert found["after"] - found["before"] < 150


@forks
@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_all_users_of_stack_overflow(tmp_path):
    """342,477 users with 397 sentences each on average, as in the original: 5.7 GB."""
    split = Drawn(342_477, 397)
    began = time.perf_counter()
    pack(split, tmp_path / "p")
    found = used(tmp_path / "p")
    found["packed"], found["size"] = time.perf_counter() - began, (tmp_path / "p").stat().st_size / 2**30
    print({name: round(value, 2) for name, value in found.items()})
    assert found["opened"] < 2
    assert found["after"] - found["before"] < 300


@pytest.mark.soak
def test_a_client_takes_hardly_longer_than_h5py_takes(tmp_path):
    """At most 1.2 times as long as reading the same arrays with h5py alone, of clients of FEMNIST's usual size."""
    h5py = pytest.importorskip("h5py")
    draw = np.random.default_rng(0)
    clients = {
        f"f{k:04}": {"pixels": draw.random((200, 28, 28), np.float32), "label": draw.integers(0, 62, 200).astype(np.int32)}
        for k in range(100)
    }
    for part in ("train", "test"):
        path = official.h5_file(tmp_path / "femnist" / f"fed_emnist_{part}.h5", clients)
    data = Femnist().load(0, tmp_path)
    with h5py.File(path.with_name("fed_emnist_train.h5"), "r") as file:

        def bare(id):
            group = file["examples"][id]
            return group["pixels"][()], group["label"][()]

        def ours(id):
            return data._train.read(id)

        def whole(id):
            data._recent.clear()
            return data.train(id).all()

        # The quickest time of each client, as others may be at work on this machine.
        best = {way.__name__: dict.fromkeys(clients, 9.0) for way in (bare, ours, whole)}
        for _ in range(15):
            for way in (bare, ours, whole):
                for id in clients:
                    began = time.perf_counter()
                    way(id)
                    best[way.__name__][id] = min(best[way.__name__][id], time.perf_counter() - began)
    seconds = {name: sum(times.values()) / len(clients) for name, times in best.items()}
    print({name: f"{1e6 * one:.0f} us per client" for name, one in seconds.items()})
    assert max(seconds["ours"], seconds["whole"]) < 1.2 * seconds["bare"]
