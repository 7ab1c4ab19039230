"""What clients who gossip come to."""

from fedml_api import Classifier, Experiment, Standalone
from fedml_core import tree
from fedml_core.trainer import ModelState

REFERENCE = Standalone(executor="sequential", processes=1)
STACKED = Standalone(executor="stacked", block=4, processes=1)


def gossiped(algorithm, data, trainer, network, rounds, engine=REFERENCE, seed=0, per_round=None):
    """Every client's `GossipNode`, the metrics of every round, and the server's state."""
    every = per_round or len(data.client_ids)
    setup = Experiment(network, data, trainer or Classifier(), seed=seed, rounds=rounds, threads=1).setup()
    with engine.open(setup) as session:
        state, rows = algorithm.init(tree.clone(ModelState.of(setup.module))), []
        for round in range(rounds):
            state, metrics = algorithm.round(state, session.cohort(round, session.select(every, seed, round)))
            rows.append(metrics)
        return dict(session.save()), rows, state
