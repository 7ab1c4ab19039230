"""Other libraries in the benchmark of the simulator, with a peer that only pretends."""

import os
import sys

import numpy as np
import pytest

from benchmarks import peers, simulation
from benchmarks.peers import Peer, torch_models
from fedml_api.model import LogisticRegression

PRETENDER = """
import json, pathlib, sys
import numpy as np
folder = pathlib.Path(sys.argv[1])
if json.loads((folder / "settings.json").read_text())["model"] != "LogisticRegression":
    sys.exit("no such network here")
assert len(np.load(folder / "x.npy")) == len(np.load(folder / "y.npy")) == 9
for line in sys.stdin:
    if line.strip() == "round":
        (folder.parent / "rounds").open("a").write("round ")
        print(json.dumps({"seconds": 4.5}), flush=True)
    elif line.strip() == "end":
        break
    else:
        np.savez(folder / "pretender.npz", **np.load(folder / "initial.npz"))
        print("{}", flush=True)
"""
SMALL = simulation.Workload("S", "small", LogisticRegression(), (1, 2, 2), 3, (4, 5), 2, 1, 1e9)


@pytest.fixture
def commands(tmp_path):
    """A peer whose environment is there, beside one whose environment is absent."""
    (tmp_path / "scripts").mkdir()
    for name in ("absent", "pretender"):
        (tmp_path / "scripts" / f"{name}_peer.py").write_text(PRETENDER)
    (tmp_path / "envs/pretender/bin").mkdir(parents=True)
    os.symlink(sys.executable, tmp_path / "envs/pretender/bin/python")
    found = peers.present(tmp_path / "envs", tmp_path / "scripts")
    return {name: [sys.executable, command[1]] for name, command in found.items()}


def test_a_peer_takes_part_and_an_absent_one_is_left_out(commands, capsys, monkeypatch):
    monkeypatch.setattr(simulation, "WORKLOADS", [SMALL])
    monkeypatch.setattr(simulation.peers, "present", lambda _: commands)
    simulation.main(["S", "executor=sequential", "rounds=3", "bf16=0"])
    header, row, _ = capsys.readouterr().out.splitlines()
    assert header.split()[-1] == "pretender"
    assert float(row.split()[-1]) > 1, "four seconds and a half are many times a round by hand"


@pytest.mark.parametrize("work", simulation.WORKLOADS, ids=lambda work: work.name)
def test_networks_of_others_have_the_names_of_ours(work):
    found = [{n: p.shape for n, p in work.model().named_parameters() if p.requires_grad}]
    settings = {"model": type(work.spec).__name__, "shape": work.shape, "classes": work.classes, "dropout": True}
    found.append({n: p.shape for n, p in torch_models.build(settings).named_parameters() if p.requires_grad})
    assert found[0] == found[1]


def test_contestants_take_turns_of_several_rounds(monkeypatch):
    order = []
    monkeypatch.setattr(simulation, "naive_round", lambda *_: order.append("naive"))
    monkeypatch.setattr(simulation, "lean_round", lambda *_: order.append("lean"))
    simulation.measure(SMALL, {}, 5, turn=3)
    turns = [order[i : i + 6] for i in range(0, len(order), 6)]
    assert len(turns) == 2
    assert all(turn in ([*["naive"] * 3, *["lean"] * 3], [*["lean"] * 3, *["naive"] * 3]) for turn in turns)


def test_rounds_alternate_and_the_time_is_the_peers_own(commands, monkeypatch):
    order = []
    monkeypatch.setattr(simulation, "naive_round", lambda *_: order.append("naive"))
    monkeypatch.setattr(Peer, "round", lambda self, _, ask=Peer.round: order.append(self.name) or ask(self))
    times = simulation.measure(SMALL, {}, 7, commands)
    turns = [order[i : i + 2] for i in range(0, len(order), 2)]
    assert len(turns) == 8
    assert all(sorted(turn) == ["naive", "pretender"] for turn in turns)
    assert len({turn[0] for turn in turns}) == 2  # nobody is always the first
    assert times["pretender"] == times["first pretender"] == 4.5


def test_weights_come_back_as_arrays(commands, tmp_path):
    initial = {"1.weight": np.arange(6.0)}
    peers.save(tmp_path, {"model": "LogisticRegression"}, np.zeros(9), np.zeros(9), initial)
    with Peer("pretender", commands["pretender"], tmp_path) as peer:
        assert np.array_equal(peer.weights()["1.weight"], initial["1.weight"])


def test_a_peer_that_ends_says_why(commands, tmp_path):
    peers.save(tmp_path, {"model": "unheard of"}, np.zeros(9), np.zeros(9), {})
    with Peer("pretender", commands["pretender"], tmp_path) as peer, pytest.raises(RuntimeError, match="no such network"):
        peer.round()
