"""Evaluate, and the cohort of a part, on engines in this process."""

import pytest
import torch

from fedml_api import Standalone
from fedml_api.distributed import Loopback
from fedml_core import tree
from fedml_core.federation import Evaluate, LocalSGD, LocalUpdate, Setup, Task, describe, restore
from fedml_core.settings import build
from fedml_core.trainer import Classifier, ModelState
from tests.conftest import blobs

ENGINES = [Standalone(executor="sequential", processes=1), Standalone(executor="sequential", processes=2), Loopback(workers=2)]


@pytest.fixture
def setup(network):
    return Setup(Classifier(), network, blobs(), 0, torch.device("cpu"))


@pytest.mark.parametrize("engine", ENGINES, ids=str)
@pytest.mark.parametrize("on", ["train", "test"])
def test_clients_judge_the_model_on_their_own_examples(setup, engine, on):
    with engine.open(setup) as session:
        task = Evaluate(of=LocalSGD(), on=on)
        found = session.cohort(0, ["c0", "c2"]).map(task, shared=ModelState.of(setup.module)).gather()
    for client, reply in found.items():
        examples = getattr(setup.data, on)(client)
        if not len(examples):
            assert (reply.weight, reply.metrics) == (0.0, {})
            continue
        wanted = setup.trainer.test(setup.module, examples)
        assert reply.weight == len(examples)
        assert {name: mean.value for name, mean in reply.metrics.items()} == pytest.approx(wanted, rel=1e-6)
        assert {mean.count for mean in reply.metrics.values()} == {len(examples)}
    assert sum(reply.weight for reply in found.values()) > 0


@pytest.mark.parametrize("engine", ENGINES, ids=str)
def test_a_part_of_a_cohort_draws_as_its_round_says(setup, engine):
    shared, task = ModelState.of(setup.module), LocalSGD(batch_size=3)

    def digest(cohort):
        return tree.digest({name: reply.value for name, reply in cohort.map(task, shared=shared).gather().items()})

    with engine.open(setup) as session:
        whole = session.cohort(4, ["c0", "c1", "c3"])
        part, later = whole.only(["c1", "c3"]), whole.only(["c1", "c3"], round=7)
        assert (list(part.clients), part.round, part.population, later.round) == (["c1", "c3"], 4, 4, 7)
        assert digest(part) == digest(session.cohort(4, ["c1", "c3"]))
        assert digest(later) == digest(session.cohort(7, ["c1", "c3"])) != digest(part)


def test_the_task_inside_crosses_with_it():
    for inside in (LocalSGD(lr=0.3), Evaluate(on="train"), None):
        task = Evaluate(of=inside)
        assert restore(Task, describe(task)) == task
    problems = []
    assert build(LocalUpdate | Task | None, "evaluate", "of", problems) == Evaluate()
    assert build(LocalUpdate | Task | None, {"name": "nothing"}, "of", problems) is None
    assert len(problems) == 1
    assert "nothing" in problems[0]
