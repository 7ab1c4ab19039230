"""kill -9 at any moment, then `fedml resume`: the same final parameters as an undisturbed run."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

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


def fedml(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "fedml_api.cli", *arguments, "--format", "json"]
    return subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def answer(process: subprocess.Popen[str]) -> dict[str, str]:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return json.loads(out)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """SHA-256 of the whole run, and how long it takes from the moment its folder is there."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "kill.yaml").write_text(yaml.safe_dump(CONFIG))
    process = fedml("run", "kill.yaml", cwd=folder)
    begun = wait_for_run(folder, process)
    found = answer(process)
    return found["sha256"], time.monotonic() - begun


def wait_for_run(folder: Path, process: subprocess.Popen[str]) -> float:
    while not list(folder.glob("runs/[!.]*")):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.005)
    return time.monotonic()


def kill_and_resume(folder: Path, moments: list[float]) -> tuple[str, list[int]]:
    """Final SHA-256, and rounds done at each kill; moments are seconds after the folder appeared, or after the resumption."""
    (folder / "kill.yaml").write_text(yaml.safe_dump(CONFIG))
    process = fedml("run", "kill.yaml", cwd=folder)
    wait_for_run(folder, process)
    done = []
    for moment in moments:
        time.sleep(moment)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        (run,) = folder.glob("runs/[!.]*")
        done.append(max((int(path.stem) for path in run.glob("checkpoints/[0-9]*.json")), default=0))
        process = fedml("resume", str(run), cwd=folder)
    return answer(process)["sha256"], done


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_killed_once(tmp_path, undisturbed, share):
    sha256, duration = undisturbed
    found, _ = kill_and_resume(tmp_path, [share * duration])
    assert found == sha256


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
