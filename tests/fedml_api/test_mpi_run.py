"""`fedml run engine=mpi` as a user starts it, and what happens when a rank is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from fedml_api import simulate
from fedml_api.run.config import prepare, read_config
from tests.fedml_api.test_kill import CONFIG
from tests.mpi import mpi_or_skip


def start(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    mpi_or_skip(1, [])
    command = [sys.executable, "-m", "fedml_api.cli", *arguments, "--format", "json"]
    with (folder / "out.json").open("w") as out, (folder / "log.txt").open("w") as log:
        return subprocess.Popen(command, cwd=folder, stdout=out, stderr=log)


def result(folder: Path, process: subprocess.Popen[bytes]) -> dict[str, object]:
    assert process.wait(120) == 0, (folder / "log.txt").read_text()
    return json.loads((folder / "out.json").read_text())


def ranks(folder: Path) -> dict[int, int]:
    """Process id by rank, of the ranks that run in `folder`."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if process.joinpath("cwd").resolve() != folder.resolve():
                continue
            variables = dict(
                entry.split(b"=", 1) for entry in process.joinpath("environ").read_bytes().split(b"\0") if b"=" in entry
            )
            found[int(variables[b"OMPI_COMM_WORLD_RANK"])] = int(process.name)
        except (OSError, KeyError):
            continue
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    (folder / "kill.yaml").write_text(yaml.safe_dump(CONFIG))
    config, problems = read_config(folder / "kill.yaml", ["engine.executor=sequential", "engine.processes=1"])
    return simulate(prepare(config, problems)).sha256


def test_ranks_are_started_and_end_normally(tmp_path, undisturbed):
    (tmp_path / "kill.yaml").write_text(yaml.safe_dump(CONFIG))
    found = result(tmp_path, start(tmp_path, "run", "kill.yaml", "engine=mpi", "engine.workers=2"))
    assert found["sha256"] == undisturbed
    assert (tmp_path / str(found["run"]) / "model.safetensors").exists()
    assert "Abort" not in (tmp_path / "log.txt").read_text()


def test_a_killed_rank_ends_the_job_which_can_be_resumed(tmp_path, undisturbed):
    (tmp_path / "kill.yaml").write_text(yaml.safe_dump(CONFIG | {"engine": {"name": "mpi", "workers": 2}}))
    process = start(tmp_path, "run", "kill.yaml")
    for victim, moment in ((0, 3), (1, 10)):
        while not [path for path in tmp_path.glob("runs/[!.]*/checkpoints/[0-9]*.json") if int(path.stem) >= moment]:
            assert process.poll() is None, (tmp_path / "log.txt").read_text()
            time.sleep(0.01)
        os.kill(ranks(tmp_path)[victim], signal.SIGKILL)
        killed = time.monotonic()
        assert process.wait(10) != 0
        while ranks(tmp_path):
            assert time.monotonic() - killed < 10
            time.sleep(0.05)
        assert f"rank {victim}" in (tmp_path / "log.txt").read_text()
        (run,) = tmp_path.glob("runs/[!.]*")
        process = start(tmp_path, "resume", str(run))
    assert result(tmp_path, process)["sha256"] == undisturbed
