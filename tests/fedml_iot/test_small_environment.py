"""`fedml join` needs no more than `raspberry_pi/requirements.txt` lists: it trains in an environment with nothing else."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from importlib.metadata import Distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.brokers import Mosquitto
from tests.fedml_iot.federation import Federation, undisturbed

ROOT = Path(__file__).parents[2]
REQUIREMENTS = ROOT / "fedml_iot" / "raspberry_pi" / "requirements.txt"
# Installed here and no part of what a device has. If one of them could be imported there, the environment would not be small.
ABSENT = ["yaml", "rich", "matplotlib", "safetensors", "sklearn", "mpi4py", "pytest"]


def listed() -> list[str]:
    lines = (line.partition("#")[0].strip() for line in REQUIREMENTS.read_text().splitlines())
    return [line for line in lines if line]


def needed(requirements: list[str]) -> dict[str, Distribution]:
    """The installed distributions that satisfy the requirements, and those that these declare, without extras."""
    found: dict[str, Distribution] = {}
    waiting = [Requirement(line) for line in requirements]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name in found or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        found[name] = importlib.metadata.distribution(name)
        assert requirement.specifier.contains(found[name].version, prereleases=True), f"{requirement}, not {found[name].version}"
        waiting += map(Requirement, found[name].requires or [])
    return found


def site_packages(folder: Path) -> Path:
    return folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"


def run(*command: object) -> None:
    done = subprocess.run([str(part) for part in command], cwd=ROOT, env=clean(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def clean() -> dict[str, str]:
    """The environment's variables without those that lead to modules of this one."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}


def exposed(folder: Path) -> None:
    """A virtual environment with links to the files of installed distributions, one by one: exact, and made in seconds."""
    venv.create(folder, with_pip=False, symlinks=True)
    target = site_packages(folder)
    for distribution in needed(listed()).values():
        for file in distribution.files or []:
            if ".." not in file.parts:
                (target / file).parent.mkdir(parents=True, exist_ok=True)
                (target / file).symlink_to(distribution.locate_file(file))
    build = folder / "build"
    build.mkdir()
    metadata = ("egg_info", "--egg-base", build, "install_egg_info", "--install-dir", target)
    run(sys.executable, "setup.py", "-q", "build", "--build-base", build, "install_lib", "--install-dir", target, *metadata)


def installed(folder: Path) -> None:
    """A virtual environment as the Raspberry Pi's README makes it."""
    venv.create(folder, with_pip=True, symlinks=True)
    pip = (folder / "bin" / "python", "-m", "pip", "install", "--quiet")
    run(*pip, "--constraint", ROOT / "constraints.txt", "--requirement", REQUIREMENTS)
    run(*pip, "--no-deps", ROOT)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    (tmp_path / "broker").mkdir()
    with Mosquitto(tmp_path / "broker") as broker:
        yield broker


@pytest.mark.parametrize("make", [exposed, pytest.param(installed, marks=pytest.mark.soak)])
def test_a_device_trains_with_nothing_else_installed(tmp_path, broker, make):
    small = tmp_path / "small"
    make(small)
    python = small / "bin" / "python"
    code = f"import importlib.util as u; print([name for name in {ABSENT} if u.find_spec(name)], u.find_spec('fedml_iot').origin)"
    seen = subprocess.run([python, "-c", code], cwd=tmp_path, env=clean(), check=True, capture_output=True, text=True).stdout
    assert seen == f"[] {site_packages(small) / 'fedml_iot' / '__init__.py'}\n"

    federation = Federation(tmp_path, broker)
    try:
        assert federation.start("export", "edge.yaml", "data").wait() == 0
        with (tmp_path / "join.txt").open("w") as log:
            command = [python, "-m", "fedml_api.cli", "join", f"{broker.url}/default", "--name", "gateway", "--data", "data"]
            device = subprocess.Popen(command, cwd=tmp_path, env=clean(), stdout=log, stderr=log)
        federation.started.append(device)
        server = federation.start("serve", "edge.yaml", "engine.devices=1", "rounds=2", "--format", "json")
        while server.poll() is None:
            assert device.poll() in (None, 0), (tmp_path / "join.txt").read_text()
            time.sleep(0.1)
        assert federation.result(server)["sha256"] == undisturbed(federation, "rounds=2")
        assert device.wait(20) == 0
    finally:
        federation.stop()
