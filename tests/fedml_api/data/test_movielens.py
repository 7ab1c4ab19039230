"""Ratings by user, in their formats and damaged; and matrix factorization, of which users keep their part."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from fedml_api import Experiment, FederatedDataset, simulate
from fedml_api.algorithms import FedRep
from fedml_api.data import MovieLens
from fedml_api.data.examine import faults, overlap
from fedml_api.model import LogisticRegression, MatrixFactorization
from fedml_api.run.config import RunConfig, prepare
from fedml_core.errors import ConfigError, DataError
from fedml_core.federation import Adam, LocalSGD
from fedml_core.trainer import Examples, Regression
from tests.fedml_api.data import official_tables as official


@pytest.fixture(autouse=True)
def nothing_installed(request, monkeypatch, tmp_path):
    if "installed" not in request.fixturenames:
        monkeypatch.setattr("fedml_api.data.movielens.package_place", lambda package, path: tmp_path / "nowhere")


@pytest.mark.parametrize("version", ["100k", "1m", "20m"])
def test_a_users_latest_ratings_are_for_testing(tmp_path, version):
    rows = official.movielens(tmp_path, version)
    lower = 0.5 if version == "20m" else 0.0
    items = sorted({item for _, item, _, _ in rows})
    data = MovieLens(version=version, test=0.3).load(0, tmp_path)
    assert data.client_ids == ("1", "10", "2", "7")
    held = {"1": 3, "2": 2, "10": 1, "7": 0}  # of 10, 5 (rounded to even from 1.5), 3 and 1; who has one rating keeps it
    for user, count in held.items():
        own = sorted((time, item, rating) for who, item, rating, time in rows if str(who) == user)
        cut = len(own) - count
        for part, examples in ((own[:cut], data.train(user)), (own[cut:], data.test(user))):
            columns = examples.all()
            found = sorted(zip(columns["x"][:, 0].tolist(), columns["y"].tolist(), strict=True))
            assert found == sorted((items.index(item), rating - lower) for _, item, rating in part)
    columns = data.train("2").all()
    assert (columns["x"].dtype, columns["x"].shape[1], columns["y"].dtype) == (torch.int64, 1, torch.float32)
    assert (sum(data.sizes.values()), len(data.global_test)) == (13, 6)
    named = MovieLens(version=version, test=0.3, users=True).load(0, tmp_path)
    assert {name: named.train(name).all()["x"][:, 0].unique().tolist() for name in named.client_ids} == {
        "1": [0], "2": [1], "7": [2], "10": [3]
    }  # fmt: skip
    assert torch.equal(named.train("1").all()["x"][:, 1:], data.train("1").all()["x"])
    assert overlap(named) == 0
    assert list(faults(data)) == []


def test_official_splits(tmp_path):
    rows = official.movielens(tmp_path)
    folder = tmp_path / "movielens" / "ml-100k"
    for name, part in (("u2.base", rows[:14]), ("u2.test", rows[14:])):
        (folder / name).write_text("".join("\t".join(map(str, row)) + "\n" for row in part))
    data = MovieLens(fold="u2").load(0, tmp_path)
    assert data.sizes == {str(user): sum(row[0] == user for row in rows[:14]) for user in {row[0] for row in rows[:14]}}
    assert len(data.global_test) == 5
    with pytest.raises(DataError, match=r"u1\.base: not there; unpack ml-100k.zip of grouplens.org/datasets/movielens in"):
        MovieLens(fold="u1").load(0, tmp_path)
    with pytest.raises(ConfigError, match="fold = 'u1': only version 100k has it"):
        MovieLens(fold="u1", version="1m")


def test_the_package_is_read_where_the_official_file_is_not(tmp_path, monkeypatch):
    rows = official.movielens(tmp_path)
    before = MovieLens().load(0, tmp_path)
    path = tmp_path / "ml-100k.inter"
    text = "".join("\t".join(map(str, row)) + "\n" for row in rows)
    path.write_text("user_id:token\titem_id:token\trating:float\ttimestamp:float\n" + text)
    (tmp_path / "movielens/ml-100k/u.data").unlink()
    with pytest.raises(DataError, match=r"u\.data: not there; run: pip install --no-deps recbole==1\.2\.1; or unpack ml-100k\.zip"):
        MovieLens().load(0, tmp_path)
    monkeypatch.setattr("fedml_api.data.movielens.package_place", lambda package, name: path)
    assert MovieLens().load(0, tmp_path).fingerprint == before.fingerprint
    assert MovieLens().files(tmp_path) == [path]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda text: text[: text.rfind("\t")], "damaged"),
        (lambda text: text.replace("\t", ",", 1), "damaged"),
        (lambda text: text + text.splitlines()[3] + "\n", "somebody rates an item twice"),
        (lambda text: text + "5\t3\t9\t1000\n", "ratings from 1 to 9; needed are"),
        (lambda text: text + "0\t3\t4\t1000\n", "users and items go from 0 to"),
        (lambda text: text + "2.5\t3\t4\t1000\n", "needed are whole numbers"),
        (lambda text: text + "1e99\t3\t4\t1000\n", "go from 1 to 1e"),
        (lambda text: text + "nan\t3\t4\t1000\n", "line 20: what is there is no finite number"),
        (lambda text: "", "0 rows of"),
    ],
)
def test_damaged_ratings_are_refused(tmp_path, damage, words):
    official.movielens(tmp_path)
    path = tmp_path / "movielens/ml-100k/u.data"
    path.write_text(damage(path.read_text()))
    with pytest.raises(DataError, match=rf"u\.data.*{words}.*; run: pip install --no-deps recbole"):
        MovieLens().load(0, tmp_path)
    path.write_bytes(b"\xff\xfe\x81\n")
    with pytest.raises(DataError, match=r"u\.data: damaged"):
        MovieLens().load(0, tmp_path)


def test_what_matrix_factorization_computes():
    """r = mu + b_u + b_i + p_u q_i, by hand; of a client that is one user, the user is left out of x."""
    torch.manual_seed(0)
    network = MatrixFactorization(dim=3, users=4, items=5, mean=3.5).build((2,), None)
    for part in network.parameters():
        torch.nn.init.normal_(part)
    p = network.state_dict()
    pairs = [(0, 4), (3, 1), (2, 2)]
    wanted = [
        float(p["mean"][0] + p["user_bias.weight"][u, 0] + p["item_bias.weight"][i, 0])
        + sum(float(p["user_factors.weight"][u, k] * p["item_factors.weight"][i, k]) for k in range(3))
        for u, i in pairs
    ]
    torch.testing.assert_close(network(torch.tensor(pairs)), torch.tensor(wanted))
    alone = MatrixFactorization(dim=3, users=1, items=5).build((1,), None)
    own = {name: part[:1] if name.startswith("user") else part for name, part in network.state_dict().items()}
    alone.load_state_dict(own)
    everybody = torch.tensor([[0, i] for i in range(5)])
    torch.testing.assert_close(alone(everybody[:, 1:]), network(everybody))


def count(network):
    return sum(part.numel() for part in network.parameters())


def test_sizes_of_matrix_factorization(tmp_path):
    assert count(MatrixFactorization(users=1, items=1682).build((1,), None)) == 1 + 17 * 1683 == 28_612
    assert count(MatrixFactorization(users=943, items=1682).build((2,), None)) == 1 + 17 * (943 + 1682) == 44_626
    fresh = MatrixFactorization(dim=50, users=20, items=300).build((2,), None)
    assert fresh.mean.tolist() == [3.0]
    assert not fresh.user_bias.weight.any()
    assert not fresh.item_bias.weight.any()
    assert fresh.item_factors.weight.std().item() == pytest.approx(0.1, rel=0.05)
    official.movielens(tmp_path)
    data = MovieLens().load(0, tmp_path)
    fitted = MatrixFactorization().fitted(data)
    largest = max(
        int(part(user).all()["x"].max()) for user in data.client_ids for part in (data.train, data.test) if len(part(user))
    )
    assert (fitted.users, fitted.items) == (1, largest + 1)
    both = MatrixFactorization(items=100).fitted(MovieLens(users=True).load(0, tmp_path))
    assert (both.users, both.items) == (4, 100)
    with pytest.raises(ConfigError, match=r"model.users = 0 and model.items = 3: the data have 1 and \d+"):
        MatrixFactorization(items=3).fitted(data)
    with pytest.raises(ConfigError, match="say how many there are"):
        MatrixFactorization().build((1,), None)
    for name in ("dim", "users", "spread"):
        with pytest.raises(ConfigError, match=name):
            MatrixFactorization(**{name: -1})


def test_a_run_refuses_networks_for_other_data(tmp_path):
    official.movielens(tmp_path)
    settings = {"data_folder": str(tmp_path), "clients_per_round": 2}
    with pytest.raises(ConfigError, match="model 'lr' is a classifier, and the data set has no classes"):
        prepare(RunConfig(data=MovieLens(), model=LogisticRegression(), **settings), [])
    with pytest.raises(ConfigError, match=r"model 'matrix_factorization' takes an item \[1\], or a user and an item \[2\]"):
        prepare(RunConfig(model=MatrixFactorization(), **settings), [])
    experiment = prepare(RunConfig(data=MovieLens(), model=MatrixFactorization(), **settings), [])
    assert type(experiment.trainer) is Regression


def test_the_root_mean_square_is_of_all_examples():
    class Twice(torch.nn.Module):
        def forward(self, x):
            return 2 * x[:, 0]

    x, y = torch.arange(40.0).unsqueeze(1), torch.arange(40.0)
    found = Regression().test(Twice(), Examples({"x": x, "y": y}), batch_size=7)
    squares = [k * k for k in range(40)]
    assert found["rmse"] == pytest.approx(math.sqrt(sum(squares) / 40))
    assert found["loss"] == pytest.approx(sum(squares) / 40)
    assert found["mae"] == pytest.approx(19.5)


def test_users_learn_films_together_and_keep_their_taste():
    """Half of the users like what the others do not: with a vector of its own each of them predicts better than films' means."""
    draw = np.random.default_rng(0)
    taste = draw.normal(size=12)
    clients = {}
    for user in range(24):
        items = draw.permutation(12)
        rating = 3 + (1 if user % 2 else -1) * taste[items] + 0.1 * draw.normal(size=12)
        columns = {"x": torch.tensor(items).unsqueeze(1), "y": torch.tensor(rating, dtype=torch.float32)}
        clients[str(user)] = [{name: part[rows] for name, part in columns.items()} for rows in (slice(0, 9), slice(9, 12))]
    data = FederatedDataset.from_clients({k: v[0] for k, v in clients.items()}, {k: v[1] for k, v in clients.items()})
    torch.manual_seed(0)
    network = MatrixFactorization(dim=2, items=12).fitted(data).build((1,), None)
    algorithm = FedRep(head_epochs=3, local=LocalSGD(lr=0.1, epochs=1, batch_size=3), private=("user_*",), server=Adam(lr=0.1))
    settings = {"rounds": 25, "clients_per_round": 12, "evaluate_every": 25, "evaluate_clients": 25}
    last = simulate(Experiment(network, data, Regression(), algorithm, **settings)).last
    train, test = data.global_train.columns, data.global_test.columns
    means = torch.stack([train["y"][train["x"][:, 0] == item].mean() for item in range(12)])
    baseline = float((means[test["x"][:, 0]] - test["y"]).square().mean().sqrt())
    assert baseline > 0.7
    assert last["client_rmse"] < 0.5 * baseline


@pytest.fixture
def installed():
    data = MovieLens(users=True)
    if not data.files(Path("data"))[0].exists():
        pytest.skip("MovieLens is not here; run: pip install --no-deps recbole==1.2.1")
    return data.load(0, Path("data"))


def test_movielens_as_it_is(installed):
    sizes = np.array([train + len(installed.test(user)) for user, train in installed.sizes.items()])
    assert (len(sizes), sizes.sum(), sizes.min(), sizes.max(), np.median(sizes)) == (943, 100_000, 20, 737, 65)
    test = installed.global_test.columns
    assert len(test["y"]) == sum(round(0.2 * n) for n in sizes.tolist())
    assert test["y"].unique().tolist() == [1, 2, 3, 4, 5]
    pairs = torch.cat([test["x"], *(installed.train(user).all()["x"] for user in installed.client_ids)])
    assert len(pairs.unique(dim=0)) == 100_000
    assert MatrixFactorization().fitted(installed).items == 1682
