"""Private states of clients: in memory as far as they fit, then on disk, and in either case the same."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fedml_api import Experiment, FedAvg, Standalone, simulate
from fedml_api.run.checkpoint import Checkpoints
from fedml_api.standalone.state_store import StateStore
from fedml_core import tree
from fedml_core.errors import CheckpointError
from tests.conftest import blobs
from tests.fedml_api.stateful import Remembering

CPU = torch.device("cpu")


def state(numbers: int, value: float) -> tree.Tree:
    return {"w": torch.full((numbers,), value), "n": [int(value), "text", None], "d": torch.tensor(value, dtype=torch.float64)}


@pytest.mark.parametrize("memory", [0, 1000, 1 << 30])
def test_is_a_dict(memory):
    """Whatever is written, replaced by something larger or smaller, or deleted: what a dict would hold."""
    draw, store, wanted = random.Random(memory), StateStore(memory, CPU), {}
    for step in range(300):
        client = str(draw.randrange(12))
        if draw.random() < 0.2:
            assert (store.pop(client, None) is None) == (wanted.pop(client, None) is None)
        else:
            store[client] = wanted[client] = state(draw.choice([1, 30, 100, 3000]), float(step))
        assert list(store) == list(wanted)
        assert len(store) == len(wanted)
        assert ("3" in store) == ("3" in wanted)
        for id, kept in wanted.items():
            assert tree.pack(store[id])[0] == tree.pack(kept)[0]
            assert tree.digest(store[id]) == tree.digest(kept)
    assert 0 < store.on_disk <= len(store) if memory < 1 << 30 else store.on_disk == 0
    with pytest.raises(KeyError):
        store["absent"]
    store.close()


def test_memory_holds_what_fits_and_not_more():
    store = StateStore(1000, CPU)
    for k in range(5):
        store[str(k)] = {"w": torch.zeros(100)}  # 400 bytes
    assert store.on_disk == 3
    store["0"] = {"w": torch.zeros(10)}  # makes room for 360 bytes
    store["2"] = {"w": torch.zeros(90)}
    assert store.on_disk == 2
    del store["1"]
    store["3"] = {"w": torch.zeros(100)}
    assert store.on_disk == 1
    store.close()


def test_a_state_from_disk_is_a_copy_and_room_is_used_again():
    store = StateStore(0, CPU)
    store["a"] = {"w": torch.ones(2000)}
    store["a"]["w"].zero_()
    assert store["a"]["w"].sum() == 2000
    size = store._file.seek(0, os.SEEK_END)
    for k in range(20):
        store["a"] = {"w": torch.full((2000,), float(k))}
    assert store._file.seek(0, os.SEEK_END) == size
    store.close()


ENGINES = {
    "sequential": {"executor": "sequential", "processes": 1},
    "stacked": {"executor": "stacked", "block": 3, "processes": 1},
    "processes": {"executor": "sequential", "processes": 2},
}


def experiment(network, rounds=6, **engine):
    local = Remembering(lr=0.1, batch_size=5)
    return Experiment(network, blobs(8), algorithm=FedAvg(local), engine=Standalone(**engine), rounds=rounds, clients_per_round=4)


@pytest.mark.parametrize("engine", sorted(ENGINES))
def test_a_run_does_not_notice_where_its_states_are(network, engine, tmp_path):
    in_memory = simulate(experiment(network, **ENGINES[engine]))
    assert simulate(experiment(network, state_memory=0, **ENGINES[engine])).sha256 == in_memory.sha256
    simulate(
        experiment(network, rounds=3, state_memory=0, **ENGINES[engine]), checkpoints=Checkpoints(tmp_path), checkpoint_every=1
    )
    for memory in (1024, 0):  # goes on with the states elsewhere than they were
        again = simulate(experiment(network, state_memory=memory, **ENGINES[engine]), checkpoints=Checkpoints(tmp_path))
        assert again.sha256 == in_memory.sha256
        for path in tmp_path.glob("000006*"):
            path.unlink()


@pytest.mark.parametrize("how", ["missing", "truncated", "flipped"])
def test_damaged_states_in_a_checkpoint_are_noticed(tmp_path, how):
    store = Checkpoints(tmp_path)
    for round in (1, 2):
        store.save(round, {"x": torch.ones(1)}, [("a", state(5, float(round))), ("b", state(7, float(round)))])
    path = tmp_path / "000002.clients"
    content = bytearray(path.read_bytes())
    content[-70] ^= 1
    path.unlink() if how == "missing" else path.write_bytes(content if how == "flipped" else content[:-64])
    with pytest.raises(CheckpointError):
        store.load(2)
    round, _ = store.newest()
    assert round == 1
    assert tree.digest(dict(store.clients(1))) == tree.digest({"a": state(5, 1.0), "b": state(7, 1.0)})


LARGE = """
import sys, torch
from fedml_api import Experiment, FedAvg, FederatedDataset, Standalone, simulate
from fedml_api.run.checkpoint import Checkpoints
from pathlib import Path
from tests.fedml_api.stateful import Remembering

def most():
    # Not ru_maxrss, which a process takes over from the one that started it.
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(peak.split()[1]) / 1024

torch.manual_seed(0)
torch.set_num_threads(1)
one = lambda: {"x": torch.randn(2, 1000), "y": torch.tensor([0, 1])}
ids = [str(k) for k in range(30)]
data = FederatedDataset.from_clients({id: one() for id in ids}, {id: one() for id in ids}, classes=2)
network = torch.nn.Linear(1000, 2000)  # 8 MB
engine = Standalone(executor="sequential", processes=1, state_memory=int(sys.argv[2]))

def run(rounds):
    local = Remembering(lr=0.01, batch_size=0)
    settings = dict(rounds=rounds, clients_per_round=4, evaluate_clients=10, threads=1)
    experiment = Experiment(network, data, algorithm=FedAvg(local), engine=engine, **settings)
    return simulate(experiment, checkpoints=Checkpoints(Path(sys.argv[1]), keep=1), checkpoint_every=20)

run(1)
before = most()
states = {"before": before, "sha256": run(20).sha256, "growth": most() - before}
states["resumed"] = run(21).sha256 and most() - before
import json
states["kept"] = sum(path.stat().st_size for path in Path(sys.argv[1]).glob("*.clients")) >> 20
print(json.dumps(states))
"""


@pytest.mark.parametrize("memory", [16, 1024])
def test_memory_is_bounded(tmp_path, memory):
    """Two dozen clients with 8 MB each, through rounds, evaluations by all clients, checkpoints and a resumption."""
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", LARGE, str(tmp_path), str(memory)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    print(memory, found)
    assert found["kept"] > 150
    if memory == 16:
        assert found["growth"] < 120
        assert found["resumed"] < 120
    else:
        assert found["growth"] > 140  # so that the other case shows something


def test_what_is_killed_leaves_no_file(tmp_path):
    code = """
import torch, time
from fedml_api.standalone.state_store import StateStore
store = StateStore(0, torch.device("cpu"))
store["a"] = {"w": torch.zeros(100_000)}
print(store.on_disk, flush=True)
time.sleep(60)
"""
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "1\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not list(tmp_path.iterdir())
