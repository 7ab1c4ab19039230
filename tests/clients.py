"""What clients think of an algorithm after some rounds."""

from fedml_api import Experiment
from fedml_core import tree
from fedml_core.federation import Task
from fedml_core.trainer import ModelState


def judged(experiment: Experiment, by: Task | None = None) -> tuple[object, dict[str, dict[str, float]]]:
    """The state after the experiment's rounds, and every client's metrics by the algorithm's own judge, or by another."""
    algorithm, setup = experiment.algorithm, experiment.setup()
    with experiment.engine.open(setup) as session:
        state = algorithm.init(tree.clone(ModelState.of(setup.module)))
        for round in range(experiment.rounds):
            chosen = session.select(experiment.clients_per_round, experiment.seed, round)
            state, _ = algorithm.round(state, session.cohort(round, chosen))
        everyone = session.cohort(experiment.rounds, session.population())
        replies = everyone.map(by or algorithm.judge(), shared=algorithm.shown(state)).gather()
    return state, {id: {name: mean.value for name, mean in reply.metrics.items()} for id, reply in replies.items()}


def mean(of: dict[str, dict[str, float]], metric: str = "accuracy") -> float:
    """The mean over clients, each counting once; clients that have nothing to judge by are left out."""
    values = [metrics[metric] for metrics in of.values() if metric in metrics]
    return sum(values) / len(values)
