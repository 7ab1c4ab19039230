"""Rounds per second of 1 and 2 MPI ranks, and the server's memory as the cohort grows.

    python -m benchmarks.scaling

FedAvg and the CNN of McMahan et al. on mnist5k, one thread per rank. Runs with 1 and with 2 ranks alternate; medians over rounds
are compared. Memory is the peak resident set of rank 0, with folding on the ranks, for 10 and for 200 clients per round.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from fedml_core.communication.launch import mpirun

GOAL_SPEED, GOAL_GROWTH = 1.7, 1.1


def rank(clients_per_round: int, rounds: int, fold: bool) -> None:
    """What each rank runs; rank 0 prints seconds per round and its peak memory in MB."""
    from fedml_api import Experiment, FedAvg, LocalSGD, simulate
    from fedml_api.data import Mnist5k
    from fedml_api.distributed import Mpi
    from fedml_api.model import McMahanCNN

    experiment = Experiment(
        model=McMahanCNN().build((1, 28, 28), 10),
        data=Mnist5k(clients=200).load(0, Path("data")),
        algorithm=FedAvg(LocalSGD(lr=0.05, batch_size=20)),
        engine=Mpi(fold_on_workers=fold),
        rounds=rounds,
        clients_per_round=clients_per_round,
        threads=1,
        evaluate_every=rounds,
    )
    if not experiment.work():
        seconds = [row["seconds"] for row in simulate(experiment).history[2:]]
        print(json.dumps({"seconds": seconds, "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


def start(ranks: int, clients_per_round: int, rounds: int, fold: bool) -> dict[str, Any]:
    arguments = [str(clients_per_round), str(rounds), str(int(fold))]
    command, environment = mpirun(ranks, [sys.executable, "-m", "benchmarks.scaling", "rank", *arguments])
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> int:
    seconds: dict[tuple[int, bool], list[float]] = {}
    for _ in range(3):
        for ranks, fold in ((1, False), (2, False), (2, True)):
            seconds.setdefault((ranks, fold), []).extend(start(ranks, 20, 6, fold)["seconds"])
    one, two, folded = (statistics.median(values) for values in seconds.values())
    few, many = (start(2, clients, 3, fold=True)["memory"] for clients in (10, 200))
    print(f"{'1 rank':<44} {one:7.3f} s per round")
    print(f"{'2 ranks, the very bits of 1':<44} {two:7.3f} s per round  {one / two:5.2f} times as fast, goal {GOAL_SPEED}")
    print(f"{'2 ranks, folding on ranks':<44} {folded:7.3f} s per round  {one / folded:5.2f} times as fast, goal {GOAL_SPEED}")
    print(f"{'rank 0, 10 clients per round':<44} {few:7.0f} MB")
    print(f"{'rank 0, 200 clients per round':<44} {many:7.0f} MB         {many / few:5.2f} times as much, goal {GOAL_GROWTH}")
    return int(one / max(two, folded) < GOAL_SPEED or many / few > GOAL_GROWTH)


if __name__ == "__main__":
    if sys.argv[1:2] == ["rank"]:
        rank(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "1")
    else:
        sys.exit(main())
