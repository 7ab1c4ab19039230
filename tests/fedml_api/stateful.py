"""A local update whose clients keep private state, and the `fedml` command that knows it."""

import sys

from fedml_api.cli import main
from fedml_core import tree
from fedml_core.federation import LocalSGD, local_updates
from fedml_core.settings import settings
from fedml_core.trainer import ModelState


@local_updates.register("remembering")
@settings
class Remembering(LocalSGD):
    """A client starts from the server's model plus a third of its own last change."""

    def fresh(self, model: ModelState) -> tree.Tree:
        return {"change": tree.zeros_like(model)}

    def personal(self, model: ModelState, state: tree.Tree) -> ModelState:
        return tree.add(model, state["change"], 0.3)

    def keep(self, trained: ModelState, start: ModelState, carry: tree.Tree, context: object) -> tree.Tree:
        return {"change": tree.sub(trained, start)}


if __name__ == "__main__":
    sys.exit(main())
