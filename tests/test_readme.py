"""Every code block of the README and of the experiments' READMEs runs as written."""

import os
import re
import shlex
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

from fedml_core.communication.launch import mpirun
from tests.forked import Forked

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.S | re.M)
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("experiments/*/README.md"))]
BLOCKS = [(f"{page.relative_to(ROOT)}:{i}", *block) for page in PAGES for i, block in enumerate(BLOCK.findall(page.read_text()))]
# Blocks that take most of a minute on a busy machine: `make soak` runs them.
LONG = {f"experiments/{name}/README.md:0" for name in ("fedgan", "fednas", "vertical")}

# A command of which bash would change nothing. How `fedml` is found and started, the blocks of the first page show.
PLAIN = re.compile(r"fedml [\w ./=:-]+")


def environment() -> dict[str, str]:
    # As the README says, root and more ranks than cores need mpirun's permission.
    return mpirun(1, [])[1] | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}


def run(command: list[str | Path], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def forked(arguments: list[str], folder: Path) -> None:
    with (folder / "out.txt").open("w") as out, (folder / "log.txt").open("w") as log:
        assert Forked(arguments, folder, out, log, env=environment()).wait(200) == 0, (folder / "log.txt").read_text()


@pytest.fixture
def copy(tmp_path):
    """A folder that looks like a fresh clone to a command, without its history."""
    for name in ("experiments", "examples", "Makefile", "setup.py", "constraints.txt", "requirements-data.txt"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def test_long_blocks_are_there():
    assert {where for where, _, _ in BLOCKS} >= LONG


@pytest.mark.parametrize(
    ("where", "language", "code"),
    [pytest.param(*block, id=block[0], marks=[pytest.mark.soak] if block[0] in LONG else []) for block in BLOCKS],
)
def test_block_runs(copy, where, language, code):
    if language == "python":
        run([sys.executable, "-W", "error", "-c", code], copy)
    elif language == "bash":
        for line in filter(None, map(str.strip, code.splitlines())):
            command = shortened(line)
            if PLAIN.fullmatch(command) and not where.startswith("README.md"):
                forked(shlex.split(command)[1:], copy)
            else:
                run(["bash", "-c", command], copy)
    else:
        assert language in {"text", "yaml"}, f"{where}: a block of {language} is not run by anything"


def shortened(line: str) -> str:
    """The command with two rounds in place of many; `make` in this environment, and of its long targets only the commands."""
    line = line.partition("  #")[0].strip()
    if line.startswith("make "):
        target = line.removeprefix("make ")
        dry = "--dry-run" if target in {"test", "check", "bench", "soak"} else ""
        ready = f"mkdir -p .venv && ln -sfn {Path(sys.executable).parent} .venv/bin && touch .venv/ready"
        return f'{ready} && make {dry} {target} ARGS="rounds=2"'
    return f"{line} rounds=2" if "fedml run" in line else line


def test_the_example_is_short_and_uses_public_names_only(tmp_path):
    path = ROOT / "examples" / "own_model.py"
    with path.open("rb") as file:
        skipped = {
            tokenize.COMMENT,
            tokenize.NL,
            tokenize.NEWLINE,
            tokenize.ENCODING,
            tokenize.INDENT,
            tokenize.DEDENT,
            tokenize.ENDMARKER,
        }
        tokens = [token for token in tokenize.tokenize(file.readline) if token.type not in skipped]
    lines = {row for token in tokens if not token.string.startswith('"""') for row in range(token.start[0], token.end[0] + 1)}
    assert len(lines) <= 40
    source = path.read_text()
    assert re.findall(r"^from (fedml\w*(?:\.\w+)*)", source, re.M) == ["fedml_api"]
    done = run([sys.executable, "-W", "error", path], tmp_path)
    error = float(re.search(r"mean absolute error ([\d.]+)", done)[1])
    # Predicting the mean is off by 0.84 standard deviations on these patients.
    assert error < 0.7
    assert (tmp_path / "own_model.png").stat().st_size > 0


def test_readme_names_files_that_exist():
    for page in (*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "docs" / "architecture.md"):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} points to {target}"
