"""SplitFed."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from fedml_api.algorithms.split import SplitSGD, Upper
from fedml_core import tree
from fedml_core.federation import Algorithm, Cohort, LocalSGD, Mean, Reply, Setup, WeightedMean, algorithms, merge_metrics
from fedml_core.settings import settings
from fedml_core.trainer import ModelState


@algorithms.register("splitfed")
@settings
class SplitFed(Algorithm):
    """Split learning with all clients at the same time. Thapa et al., SplitFed, AAAI 2022.

        (f_k, g_k) <- split learning of (f, g) with client k        for every client k of the cohort, at once
        f <- sum_k n_k f_k / sum_k n_k
        g <- sum_k n_k g_k / sum_k n_k                              v1: the server has a copy of its layers for every client
        g <- g after the batches of all, one after the other        v2: one for all; every time clients have sent a batch each,
                                                                    the server takes them in an order drawn anew

    v1 is FedAvg of the joined network, wherever it is cut; it differs if `local` clips, as in `Split`, and by the masks of dropout.
    v2 costs the server the memory of one copy, and its layers take as many steps as there are batches; with a `head` clients wait
    for each other there, since nobody's features may be older than the step before.

    Who sees what is as in `Split`, but that clients see the mean of all clients' layers, not those of another. A client that is
    lost is left out of the means; what its batches have done to v2's one copy stays.

    Args:
        cut, head, local: as in `Split`.
        version: v1 or v2.
    """

    cut: Annotated[int, Meta(ge=1)] = 2
    head: Annotated[int, Meta(ge=0)] = 0
    version: Literal["v1", "v2"] = "v1"
    local: LocalSGD = LocalSGD()

    @property
    def task(self) -> SplitSGD:
        """What clients are asked to do."""
        return SplitSGD(self.local, self.cut, self.head)

    def unfit(self, setup: Setup) -> list[str]:
        return self.task.unfit(setup)

    def init(self, model: ModelState) -> ModelState:
        return model

    def round(self, state: ModelState, cohort: Cohort) -> tuple[ModelState, dict[str, Mean]]:
        server, one_copy, batch = cohort.server, self.version == "v2", 0
        if one_copy:
            uppers = dict.fromkeys(cohort.clients, Upper(self.task, state, server))
        else:
            uppers = {client: Upper(self.task, state, server) for client in cohort.clients}
        with cohort.converse(self.task, self.task.shared(state, server)) as conversation:
            while said := conversation.hear():
                order = server.rng(f"order {batch}").permutation(list(said)).tolist() if one_copy else list(said)
                answers = {}
                for client in order:
                    answer = uppers[client].answers(conversation, {client: said[client]})
                    if one_copy and self.head:  # its gradient comes before anybody else's features are made
                        conversation.say(answer)
                        answer = uppers[client].answers(conversation, conversation.hear(client))
                    answers |= answer
                conversation.say(answers)
                batch += 1
            replies = conversation.replies().gather()

        mean = WeightedMean()
        total = mean.zero()
        for client, reply in replies.items():
            change = tree.sub(state.replaced(uppers[client].trained).replaced(reply.value), state)
            metrics = merge_metrics(uppers[client].metrics(client), reply.metrics)
            total = mean.add(total, Reply(change, reply.weight, metrics))
        folded = mean.finish(total)
        return tree.add(state, folded.value), folded.metrics

    def model(self, state: ModelState) -> ModelState:
        return state
