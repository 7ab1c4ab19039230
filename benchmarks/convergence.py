"""Does a faster way to carry clients out train as well? Curves and final accuracies on real digits.

    python -m benchmarks.convergence

The CNN with dropout of Reddi et al. on mnist5k, 50 clients, Dirichlet(0.3), 10 per round, 3 seeds. The picture is written next to
docs/performance.md.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path

from fedml_api import Experiment, FedAvg, LocalSGD, Standalone, simulate
from fedml_api.data import Mnist5k
from fedml_api.model import ReddiCNN
from fedml_core import rng

ROUNDS, SEEDS, WITHIN = 60, (0, 1, 2), 0.005
WAYS = {
    "sequential": (Standalone(executor="sequential", processes=1), "float32"),
    "stacked": (Standalone(executor="stacked", block=5, processes=2), "float32"),
    "traced, 2 processes": (Standalone(executor="traced", processes=2), "float32"),
    "traced, 2 processes, bfloat16": (Standalone(executor="traced", processes=2), "bfloat16"),
}


def accuracies(engine: Standalone, precision: str, seed: int) -> dict[int, float]:
    rng.seed_torch(seed, "model")
    experiment = Experiment(
        model=ReddiCNN().build((1, 28, 28), 10),
        data=Mnist5k(clients=50).load(seed, Path("data")),
        algorithm=FedAvg(LocalSGD(lr=0.1, batch_size=20)),
        engine=engine,
        precision=precision,
        rounds=ROUNDS,
        seed=seed,
        threads=1,
        evaluate_every=5,
    )
    return {row["round"]: row["test_accuracy"] for row in simulate(experiment).history if "test_accuracy" in row}


def main() -> int:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    last: dict[str, float] = {}
    for number, (name, (engine, precision)) in enumerate(WAYS.items()):
        curves = [accuracies(engine, precision, seed) for seed in SEEDS]
        # The last five evaluations of each seed: one of them alone goes up and down by a point.
        last[name] = statistics.mean(value for curve in curves for value in list(curve.values())[-5:])
        mean = [statistics.mean(curve[round] for curve in curves) for round in curves[0]]
        axes.plot(list(curves[0]), mean, label=f"{name}: {last[name]:.3f}", color=f"C{number}", alpha=0.8)
        for curve in curves:
            axes.plot(list(curve), list(curve.values()), color=f"C{number}", alpha=0.15, linewidth=0.8)
        print(f"{name:<32} {last[name]:.4f}", flush=True)
    axes.set(
        xlabel="round", ylabel="test accuracy", ylim=(0.6, 1.0), title="Same training, four ways to carry it out (mnist5k, 3 seeds)"
    )
    axes.legend(loc="lower right", title="mean of the last 5 evaluations")
    axes.grid(alpha=0.3)
    figure.savefig("docs/convergence.png", dpi=110)
    print(json.dumps(last))
    return int(max(last.values()) - min(last.values()) > WITHIN)


if __name__ == "__main__":
    sys.exit(main())
