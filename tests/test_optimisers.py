"""The comparison of algorithms: its settings build, it goes on where it was, and its figures are those of its runs."""

import json
from argparse import Namespace

import pytest

from experiments.optimisers import run
from experiments.optimisers.settings import PROBLEMS, TABLE
from fedml_api.run.config import read_config
from fedml_core.federation import algorithms

ROWS = [row for row in TABLE if row.algorithm in algorithms]


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.algorithm)
def test_every_row_makes_a_configuration(row, problem):
    config, problems = read_config(run.HERE / f"{problem.name}.yaml", list(run.overrides(row, problem, 1, quick=False)))
    assert not problems
    assert algorithms.name_of(type(config.algorithm)) == row.algorithm
    assert config.seed == 1
    assert str(row.lr[PROBLEMS.index(problem)]) in repr(config.algorithm)


def options(**chosen):
    return Namespace(**({"algorithms": ["fedavg", "fedprox"], "problems": ["synthetic"], "seeds": 2, "quick": True} | chosen))


def test_what_is_done_is_not_done_again(tmp_path, capsys):
    (fedavg, fedprox) = run.jobs(options())
    first = run.carry_out(fedavg, tmp_path)
    assert first["rows"][-1]["round"] == 6
    kept = fedavg.path(tmp_path).stat().st_mtime_ns
    run.main(["--quick", "--algorithms", "fedavg", "fedprox", "--problems", "synthetic", "--folder", str(tmp_path), "--jobs", "1"])
    out = capsys.readouterr().out
    assert "2 runs, 1 of them done before" in out
    assert "synthetic fedprox, seed 0: test accuracy" in out
    assert fedavg.path(tmp_path).stat().st_mtime_ns == kept
    assert fedprox.done(tmp_path) is not None
    assert (tmp_path / "curves.png").stat().st_size > 0
    assert "| fedprox | " in (tmp_path / "table.md").read_text()
    assert fedavg._replace(overrides=(*fedavg.overrides, "seed=5")).done(tmp_path) is None  # with other settings it is


def test_the_table_has_means_deviations_and_rounds_to_the_target(tmp_path):
    jobs = run.jobs(options(quick=False, algorithms=["fedavg"]))
    for job, accuracies in zip(jobs, [[0.5, 0.75, 0.9], [0.2, 0.3, 0.7]], strict=True):
        rows = [{"round": 2 * k, "test_accuracy": value} for k, value in enumerate(accuracies)]
        rows[-1] |= {"client_accuracy_mean": 0.5, "client_accuracy_p10": 0.25}
        job.path(tmp_path).parent.mkdir(exist_ok=True)
        job.path(tmp_path).write_text(json.dumps({"overrides": job.overrides, "rows": rows, "seconds": 3.0}))
    line = next(line for line in run.table(jobs, tmp_path) if line.startswith("| fedavg"))
    assert line == "| fedavg | 0.800 ± 0.141 | 0.500 ± 0.000 | 0.250 ± 0.000 | 2 (1 of 2) | 3.0 |"
