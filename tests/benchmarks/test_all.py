"""`python -m benchmarks`: all measurements, whatever becomes of one."""

import re
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import __main__ as every

README = Path(every.__file__).with_name("README.md")


def test_the_readme_has_a_star_at_what_is_measured():
    starred = re.findall(r"^\| `(\w+)\.py` \* \|", README.read_text(), re.MULTILINE)
    assert sorted(starred) == sorted(every.MEASUREMENTS)
    assert all(README.with_name(f"{name}.py").exists() for name in every.MEASUREMENTS)


@pytest.mark.parametrize("failing", [None, "startup"])
def test_one_that_fails_keeps_no_other_from_being_made(monkeypatch, capsys, failing):
    ran = []

    def run(command, check):
        ran.append(command[2].removeprefix("benchmarks."))
        return SimpleNamespace(returncode=3 if ran[-1] == failing else 0)

    monkeypatch.setattr(subprocess, "run", run)
    assert every.main([]) == (failing is not None)
    assert ran == list(every.MEASUREMENTS)
    assert ("exit status 3" in capsys.readouterr().out) == (failing is not None)


def test_an_unknown_measurement(capsys):
    assert every.main(["scale", "nonsense"]) == 2
    assert "no such measurement: nonsense; there are simulation, evaluation" in capsys.readouterr().err
