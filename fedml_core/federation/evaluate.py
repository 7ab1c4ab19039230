"""Tasks that ask without training: what a client thinks of a model, and how much it has."""

from __future__ import annotations

from typing import Literal

from torch import nn

from fedml_core.federation.client import Client, Mean, Reply, Task, tasks
from fedml_core.federation.local_update import LocalUpdate, model_of
from fedml_core.settings import settings
from fedml_core.trainer import Examples, ModelTrainer
from fedml_core.tree import Tree


@tasks.register("evaluate")
@settings
class Evaluate(Task):
    """Loss and metrics of a model on the client's own examples; see `verdict`.

    Args:
        of: the task whose `personal` model is meant; the server's model if none is given.
        on: the examples of the client: `test` or `train`.
    """

    of: LocalUpdate | Task | None = None
    on: Literal["test", "train"] = "test"

    def __call__(self, client: Client, shared: Tree, own: Tree = None) -> Reply:
        examples = client.test if self.on == "test" else client.train
        model = model_of(shared)
        if isinstance(self.of, LocalUpdate) and client.state is None:
            model = self.of.personal(model, self.of.fresh(model))
        elif self.of is not None:
            model = self.of.personal(model, client.state)
        if not len(examples):
            return Reply({}, 0.0, {})
        client.seed_torch("evaluate")
        return verdict(client.trainer, client.workspace.load(model), examples)


def verdict(trainer: ModelTrainer, module: nn.Module, examples: Examples) -> Reply:
    """What `trainer` finds of `module` on `examples`: means as metrics, and in the value the `sums` that it makes others of.

    A trainer with a `test` of its own, which returns numbers, has means only.
    """
    count = len(examples)
    if not trainer.tests_itself:
        totals, sums = trainer.tally(module, examples)
    else:
        totals, sums = {name: value * count for name, value in trainer.test(module, examples).items()}, {}
    return Reply({"sums": sums} if sums else {}, float(count), {name: Mean(total, count) for name, total in totals.items()})


@tasks.register("count_examples")
@settings
class CountExamples(Task):
    """How many training examples a client has, as the weight of an empty reply."""

    def __call__(self, client: Client, shared: Tree, own: Tree = None) -> Reply:
        return Reply({}, float(len(client.train)), {})
