"""kill -9 at any moment, then `fedml resume`: the same final parameters as an undisturbed run."""

import json
import random
import signal
import time
from pathlib import Path

import pytest
import yaml

from tests.forked import FEDML, Forked

CONFIG = {
    "name": "kill",
    "data": {"name": "digits", "clients": 20},
    "model": "lr",
    "rounds": 30,
    "clients_per_round": 10,
    "algorithm": {"name": "fedavg", "local": {"batch_size": 5, "epochs": 5, "momentum": 0.5}, "server": "adam"},
    "threads": 1,
    "evaluate_every": 1,
    "checkpoint_every": 1,
}


# Clients with private state, which lies on disk from the first byte on.
STATEFUL = CONFIG | {
    "algorithm": {"name": "fedavg", "local": {"name": "remembering", "batch_size": 5, "epochs": 5}},
    "engine": {"name": "standalone", "executor": "sequential", "processes": 2, "state_memory": 0},
    "evaluate_clients": 7,
}


def fedml(*arguments: str, cwd: Path) -> Forked:
    """The command, with the local update of `STATEFUL` registered."""
    with (cwd / "out.json").open("w") as out, (cwd / "log.txt").open("w") as log:
        return Forked([*arguments, "--format", "json"], cwd, out, log, f"import tests.fedml_api.stateful; {FEDML}")


def answer(folder: Path, process: Forked) -> dict[str, str]:
    assert process.wait(120) == 0, (folder / "log.txt").read_text()
    return json.loads((folder / "out.json").read_text())


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """SHA-256 of the whole run, and how long it takes from the moment its folder is there."""
    return whole(tmp_path_factory.mktemp("whole"), CONFIG)


def whole(folder: Path, config: dict[str, object]) -> tuple[str, float]:
    (folder / "kill.yaml").write_text(yaml.safe_dump(config))
    process = fedml("run", "kill.yaml", cwd=folder)
    begun = wait_for_run(folder, process)
    found = answer(folder, process)
    return found["sha256"], time.monotonic() - begun


def wait_for_run(folder: Path, process: Forked) -> float:
    while not list(folder.glob("runs/[!.]*")):
        assert process.poll() is None, (folder / "log.txt").read_text()
        time.sleep(0.005)
    return time.monotonic()


def kill_and_resume(folder: Path, moments: list[float | str], config: dict[str, object] = CONFIG) -> tuple[str, list[int]]:
    """Final SHA-256, and rounds done at each kill.

    A moment is so many seconds after the folder appeared, or after the resumption; or when there is a checkpoint of this name.
    """
    (folder / "kill.yaml").write_text(yaml.safe_dump(config))
    process = fedml("run", "kill.yaml", cwd=folder)
    wait_for_run(folder, process)
    done = []
    for moment in moments:
        if isinstance(moment, str):
            while not list(folder.glob(f"runs/[!.]*/checkpoints/{moment}.json")):
                assert process.poll() is None, (folder / "log.txt").read_text()
                time.sleep(0.005)
        else:
            time.sleep(moment)
        process.send_signal(signal.SIGKILL)
        process.wait()
        (run,) = folder.glob("runs/[!.]*")
        done.append(max((int(path.stem) for path in run.glob("checkpoints/[0-9]*.json")), default=0))
        process = fedml("resume", str(run), cwd=folder)
    return answer(folder, process)["sha256"], done


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_killed_once(tmp_path, undisturbed, share):
    sha256, duration = undisturbed
    found, _ = kill_and_resume(tmp_path, [share * duration])
    assert found == sha256


def test_killed_with_private_states_on_disk(tmp_path):
    (tmp_path / "whole").mkdir()
    sha256, _ = whole(tmp_path / "whole", STATEFUL)
    (tmp_path / "killed").mkdir()
    found, done = kill_and_resume(tmp_path / "killed", ["000015"], STATEFUL)
    assert found == sha256
    assert 15 <= done[0] < 30
    (run,) = (tmp_path / "killed").glob("runs/[!.]*")
    assert len(list((run / "clients").glob("[0-9]*.csv"))) == 5  # rounds 7, 14, 21, 28 and the last
    assert (run / "checkpoints" / "000030.clients").stat().st_size > 20 * 650 * 4  # of all clients, each as large as the model


@pytest.mark.soak
@pytest.mark.parametrize("case", range(20))
def test_killed_at_random_moments(tmp_path, undisturbed, case, capsys):
    sha256, duration = undisturbed
    draw = random.Random(case)
    # A resumed process needs a while before its first round, so the second kill comes later than the first could.
    moments = [draw.uniform(0, duration), duration + draw.uniform(0, duration)][: 1 + case % 2]
    found, done = kill_and_resume(tmp_path, moments)
    with capsys.disabled():
        print(
            f"  kill -9 after {', '.join(f'{m:.2f} s (checkpoint {d})' for m, d in zip(moments, done, strict=True))}: {found[:12]}"
        )
    assert found == sha256
