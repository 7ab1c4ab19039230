"""The benchmark for GPUs runs where there is none."""

import json
from dataclasses import replace

import pytest
import torch

from benchmarks import gpu
from fedml_api.model import LogisticRegression


def test_it_says_that_there_is_no_device(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([]) == 0
    assert capsys.readouterr().out.count("\n") == 1


def test_every_contestant_carries_every_round_out_as_it_says(capsys, monkeypatch):
    small, _ = gpu.WORKLOADS["EMNIST"]
    monkeypatch.setitem(gpu.WORKLOADS, "EMNIST", (replace(small, spec=LogisticRegression(), sizes=(9, 7, 5)), 2))
    carried = []
    monkeypatch.setattr(
        gpu.Ours, "__call__", lambda self, round, call=gpu.Ours.__call__: carried.append(round) or call(self, round)
    )
    assert gpu.main(["EMNIST", "device=cpu", "rounds=2", "clients=2", "batch=4"]) == 0
    results = json.loads(capsys.readouterr().out.splitlines()[-1])["results"]["EMNIST"]
    assert carried == [0] * len(gpu.ENGINES) + [1] * len(gpu.ENGINES)
    assert results["stacked, graphs"]["how"] == results["stacked"]["how"] == "stacked, blocks of 2, 1 thread"
    assert results["one by one"]["how"] == "sequential"
    assert all(row["round"] > 0 for row in results.values())


def test_a_setting_that_does_not_exist_is_named():
    with pytest.raises(SystemExit, match="unknown: executor"):
        gpu.main(["executor=1"])
