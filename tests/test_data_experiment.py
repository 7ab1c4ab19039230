"""The comparison of data sets: its configurations build, what was found is kept, and guesses are what they say."""

import json

import numpy as np
import pytest
import torch

from experiments.data import table
from fedml_api.data import FederatedDataset
from fedml_api.run.folder import list_runs
from fedml_core.trainer import Examples


@pytest.mark.parametrize("case", table.CASES, ids=lambda case: case.name)
def test_every_case_makes_a_configuration_and_one_for_one_place(case):
    config = table.configured(case, [])
    assert config.name == case.name
    assert case.guess in table.GUESSES
    alone = table.configured(case, table.in_one_place(case, 123_456))
    assert alone.data.clients == alone.clients_per_round == 1
    assert alone.algorithm.local.epochs is None
    assert (alone.model, alone.rounds, alone.seed) == (config.model, config.rounds, config.seed)
    most = alone.rounds * alone.algorithm.local.batch_size
    assert abs(alone.algorithm.local.steps * most - 123_456) <= most / 2


def spread(train, test, classes=None):
    """Columns over two clients, half of the rows each."""
    whole, half = Examples(train), len(train["y"]) // 2
    parts = {"a": np.arange(half), "b": np.arange(half, len(whole))}
    return FederatedDataset(whole, Examples(test), parts, classes=classes)


def labels(train, test, classes):
    return spread(*({"x": torch.zeros(len(y), 1), "y": torch.tensor(y)} for y in (train, test)), classes)


def test_a_guess_is_the_most_frequent_class_of_training():
    data = labels([2, 1, 2, 0], [2, 1, 1, 0, 2], 10)  # by test labels, 1 would be as good
    assert table.GUESSES["most frequent class"](data) == pytest.approx(2 / 5)


def test_a_guess_is_the_most_frequent_token_that_is_a_word():
    data = labels([[5, 5, 0, 0], [6, 0, 0, 9], [9, 9, 9, 0]], [[5, 6, 5, 0], [6, 6, 9, 9]], 10)
    assert table.GUESSES["most frequent token"](data) == pytest.approx(2 / 7)
    data.special = (-1,)
    assert table.GUESSES["most frequent token"](data) == pytest.approx(2 / 5)


def test_a_guess_is_the_mean_of_the_item_or_of_all():
    train = {"x": torch.tensor([[0], [0], [1], [1]]), "y": torch.tensor([1.0, 3.0, 4.0, 4.0])}
    test = {"x": torch.tensor([[0], [1], [2]]), "y": torch.tensor([2.0, 3.0, 5.0])}
    errors = [2 - 2, 4 - 3, 3 - 5]
    assert table.GUESSES["mean of the item"](spread(train, test)) == pytest.approx((sum(e * e for e in errors) / 3) ** 0.5)


def test_a_guess_is_the_distance_from_the_mean():
    test = {"x": torch.tensor([[3.0, 0], [-1, 1], [0, -2], [1, 0]]), "y": torch.tensor([1, 1, 0, 0])}
    train = {name: part[2:] for name, part in test.items()}
    assert table.GUESSES["distance from the mean"](spread(train, test)) == pytest.approx(3 / 4)


@pytest.fixture
def two_rounds(tmp_path, monkeypatch):
    (tmp_path / "digits.yaml").write_text((table.HERE / "digits.yaml").read_text().replace("rounds: 40", "rounds: 2"))
    monkeypatch.setattr(table, "HERE", tmp_path)
    return tmp_path


def test_what_was_found_is_kept_and_what_was_interrupted_goes_on(two_rounds, tmp_path, capsys):
    folder = tmp_path / "runs"
    arguments = ["--only", "digits", "--seeds", "1", "--folder", str(folder)]
    table.main(arguments)
    first = {run.path.name: run.result for run in list_runs(folder)}
    federated, central = json.loads((folder / "results.json").read_text())
    assert (federated["how"], central["how"]) == ("federated", "in one place")
    assert abs(federated["examples"] - central["examples"]) <= 2 * 10
    assert {federated["last"], central["last"]} == {run["last"]["test_accuracy"] for run in first.values()}
    assert federated["last"] != central["last"]
    assert federated["parameters"] == 64 * 200 + 200 + 200 * 200 + 200 + 200 * 10 + 10
    assert (folder / "curves.png").stat().st_size > 0
    assert f"| **{federated['last']:.3f}** | {central['last']:.3f} |" in capsys.readouterr().out

    (interrupted,) = [run for run in list_runs(folder) if "pooled" in run.path.name]
    (interrupted.path / "result.json").unlink()
    table.main(arguments)
    err = capsys.readouterr().err
    assert err.count("$ fedml") == 1
    assert f"$ fedml resume {interrupted.path}" in err
    again = {run.path.name: run.result for run in list_runs(folder)}
    assert {name: run["sha256"] for name, run in again.items()} == {name: run["sha256"] for name, run in first.items()}


def test_the_table_has_means_and_deviations():
    same = {"data": "digits", "clients": 20, "per_round": 10, "rounds": 40, "parameters": 1234, "examples": 5000}
    ends = {"federated": [0.5, 0.7], "in one place": [0.8, 0.9]}
    found = [
        same | {"seed": seed, "how": how, "last": last, "guess": 0.1}
        for how, lasts in ends.items()
        for seed, last in enumerate(lasts)
    ]
    line = list(table.table(found))[-1]
    assert line.endswith("| 20, 10 | 40 | 1,234 | 5,000 | 2 | most frequent class 0.100 | **0.600 ± 0.141** | 0.850 ± 0.071 |")
    assert line.startswith("| digits | accuracy | ")
