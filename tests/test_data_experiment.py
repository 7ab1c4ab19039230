"""The comparison of data sets: its configurations build, what was found is kept, and figures are those of runs and of labels."""

import json

import numpy as np
import pytest
import torch

from experiments.data import table
from fedml_api.data import FederatedDataset
from fedml_api.run.config import read_config
from fedml_api.run.folder import list_runs
from fedml_core.settings import to_plain
from fedml_core.trainer import Examples


@pytest.mark.parametrize("case", table.CASES, ids=lambda case: case.name)
def test_every_case_makes_a_configuration_and_one_for_one_place(case):
    config = table.configured(case, [])
    assert config.name == case.name
    alone, problems = read_config(table.HERE / f"{case.name}.yaml", table.in_one_place(config, 12_345))
    assert not problems
    assert alone.data.clients == alone.clients_per_round == 1
    assert alone.algorithm.local.epochs is None
    seen = alone.rounds * alone.algorithm.local.steps * alone.algorithm.local.batch_size
    assert abs(seen - 12_345) <= alone.rounds * alone.algorithm.local.batch_size / 2
    changed = {"name", "data.clients", "data.regroup", "clients_per_round", "algorithm.local.epochs", "algorithm.local.steps"}
    before, after = flat(to_plain(config)), flat(to_plain(alone))
    assert {key for key in before | after if before.get(key) != after.get(key)} <= changed


def flat(plain, above=""):
    """Settings by their path, as in an override."""
    found = {f"{above}{key}": value for key, value in plain.items() if not isinstance(value, dict)}
    for key, inner in plain.items():
        found |= flat(inner, f"{above}{key}.") if isinstance(inner, dict) else {}
    return found


@pytest.mark.parametrize(
    ("train", "test", "expected"),
    [
        ([2, 1, 2, 0], [2, 1, 1, 0, 2], 2 / 5),  # by test labels alone, 1 would be as good
        ([[5, 5, 0, 0], [6, 0, 0, 0]], [[5, 6, 5, 0], [6, 6, 6, 0]], 2 / 6),  # 0 pads: it is neither guessed nor counted
    ],
    ids=["classes", "tokens"],
)
def test_a_guess_is_the_most_frequent_label_of_training(train, test, expected):
    def examples(y):
        return Examples({"x": torch.zeros(len(y), 1), "y": torch.tensor(y)})

    half = len(train) // 2
    parts = {"a": np.arange(half), "b": np.arange(half, len(train))}
    assert table.guessed(FederatedDataset(examples(train), examples(test), parts, classes=10)) == pytest.approx(expected)


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

    (interrupted,) = [run for run in list_runs(folder) if "central" in run.path.name]
    (interrupted.path / "result.json").unlink()
    table.main(arguments)
    err = capsys.readouterr().err
    assert err.count("$ fedml") == 1
    assert f"$ fedml resume {interrupted.path}" in err
    again = {run.path.name: run.result for run in list_runs(folder)}
    assert {name: run["sha256"] for name, run in again.items()} == {name: run["sha256"] for name, run in first.items()}


def test_the_table_has_means_and_deviations():
    same = {"data": "digits", "clients": 20, "per_round": 10, "rounds": 40, "parameters": 1234, "examples": 5000, "seconds": 2.0}
    ends = {"federated": [0.5, 0.7], "in one place": [0.8, 0.9]}
    found = [
        same | {"seed": seed, "how": how, "last": last, "guess": 0.1}
        for how, lasts in ends.items()
        for seed, last in enumerate(lasts)
    ]
    line = list(table.table(found))[-1]
    assert line == "| digits | 20, 10 | 40 | 1,234 | 5,000 | 2 | 0.100 | **0.600 ± 0.141** | 0.850 ± 0.071 | 2 |"
