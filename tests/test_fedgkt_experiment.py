"""The comparison of FedGKT: its rows build, its figures are those of its runs, and what is sent is weighed."""

import json

import pytest

from experiments.fedgkt import __main__ as run
from experiments.fedgkt.cost import sent
from fedml_api.model import CNNInParts, ResNetInParts
from fedml_api.run.config import read_config


@pytest.mark.parametrize("row", run.ROWS)
def test_every_row_makes_a_configuration(row):
    config, problems = read_config(run.HERE / "config.yaml", list(run.ROWS[row]))
    assert not problems
    assert config.model.part == ("all" if row.startswith("FedGKT") else "large" if "large" in row else "edge")
    assert config.data.clients == config.clients_per_round == (8 if "eight" in row else 1 if "one place" in row else 4)


def test_bytes_of_an_example():
    """Features, ten logits, a label and an id, of four and of eight bytes."""
    assert sent(ResNetInParts(), (3, 32, 32)) == 4 * (16 * 32 * 32 + 10) + 2 * 8
    assert sent(CNNInParts(), (1, 28, 28)) == 4 * (8 * 14 * 14 + 10) + 2 * 8


def test_rows_are_run_once_and_shown(tmp_path, capsys):
    quick = ["rounds=1", "data.name=digits", "model.channels=2", "--folder", str(tmp_path)]
    quick += ["--rows", "FedGKT", "FedAvg, large network"]
    run.main(quick)
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.json")}
    run.main(quick)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.json")} == kept
    fedavg, gkt = (json.loads(path.read_text())["rows"][-1] for path in sorted(kept))
    parameters = (9 * 2 + 2) + (25 * 2 * 4 + 4) + (16 * 32 + 32) + (32 * 10 + 10)
    assert fedavg["train_up"] == fedavg["train_down"] == 4 * parameters
    assert gkt["train_up"] == gkt["examples"] / 4 * (4 * (2 * 4 * 4 + 10) + 2 * 8)
    assert gkt["train_down"] == 4 * ((9 * 2 + 2) + (32 * 10 + 10))  # no answers yet, the edge network as it begins
    table = (tmp_path / "table.md").read_text()
    assert f"| FedGKT | {gkt['client_accuracy_mean']:.3f} | {gkt['client_accuracy_min']:.3f} |" in table
    assert (tmp_path / "curve.png").stat().st_size > 10_000
    assert capsys.readouterr().out.count("FedGKT") == 2
