"""Every registered algorithm on every registered engine: the same final model as the sequential standalone engine.

The edge engine needs devices and a broker: it is tested in `tests/fedml_iot`, on the same claim.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fedml_api import Standalone, simulate
from fedml_api.distributed import Loopback
from fedml_core import tree
from fedml_core.federation import algorithms, engines
from tests.conformance.experiments import ALGORITHMS, experiment
from tests.mpi import mpi_or_skip

IN_PROCESS = {"standalone": Standalone(), "loopback": Loopback(workers=3)}
ELSEWHERE = {"mpi", "edge"}
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def reference():
    return {name: simulate(experiment(name, Standalone())) for name in ALGORITHMS}


def test_everything_registered_is_tested():
    assert sorted(ALGORITHMS) == list(algorithms)
    assert sorted({*IN_PROCESS, *ELSEWHERE}) == list(engines)


@pytest.mark.parametrize("engine", sorted(IN_PROCESS))
@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
def test_same_bits_as_the_reference(reference, algorithm, engine):
    assert simulate(experiment(algorithm, IN_PROCESS[engine])).sha256 == reference[algorithm].sha256


@pytest.mark.parametrize("ranks", [1, 2, 5])
def test_same_bits_under_mpirun(reference, ranks):
    command, environment = mpi_or_skip(ranks, [sys.executable, "-m", "tests.conformance.experiments"])
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {name: result.sha256 for name, result in reference.items()}


@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
def test_folding_on_workers_differs_by_rounding_only(reference, algorithm):
    folded = simulate(experiment(algorithm, Loopback(workers=3, fold_on_workers=True)))
    difference = tree.sub(folded.model, reference[algorithm].model)
    assert max(part.abs().max().item() for part in tree.tensors(difference)) < 1e-6
    again = simulate(experiment(algorithm, Loopback(workers=3, fold_on_workers=True)))
    assert again.sha256 == folded.sha256


@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
def test_every_algorithm_learns(reference, algorithm):
    history = reference[algorithm].history
    assert history[-1]["test_loss"] < 0.9 * history[0]["test_loss"]
