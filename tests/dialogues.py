"""Dialogues that show what a conversation is: the server in it or not, an early end, letters that cross."""

import torch

from fedml_core.federation import SERVER, Dialogue, Mean, Post, Reply, ask, tasks
from fedml_core.settings import settings


@tasks.register("test_descend_together")
@settings
class DescendTogether(Dialogue):
    """Every batch's mean of x goes to the server; what it answers is kept, with noise from the client's torch stream."""

    batch: int = 4

    def talk(self, client, shared, own=None):
        total = torch.zeros(()) if client.state is None else client.state["total"]
        for batch in client.train.batches(self.batch):
            mean = batch["x"].mean()
            total = total + (yield from ask({"mean": mean})) * shared["scale"] + torch.rand(())
        return Reply({"total": total}, float(len(client.train)), {"batches": Mean(1.0, 1.0)}, {"total": total})


@tasks.register("test_pass_round")
@settings
class PassRound(Dialogue):
    """Everyone tells `own["to"]` a number, and adds to it what comes from `own["from"]`, `laps` times, without the server."""

    laps: int = 3

    def talk(self, client, shared, own=None):
        value = torch.tensor(float(len(client.train)))
        for _ in range(self.laps):
            letters = yield Post({own["to"]: value}, wait=[own["from"]])
            value = value * 0.5 + letters[own["from"]]
        return Reply({"value": value}, 1.0, {})


@tasks.register("test_leave_early")
@settings
class LeaveEarly(Dialogue):
    """Client `own["first"]` says one thing to all others and leaves; they wait for two letters of it, `lenient` or not."""

    lenient: bool = True

    def talk(self, client, shared, own=None):
        if client.id == shared["first"]:
            yield Post(dict.fromkeys(shared["others"], torch.ones(())))
            return Reply({"heard": 0}, 1.0, {})
        one = yield Post(wait=[shared["first"]], lenient=self.lenient)
        two = yield Post(wait=[shared["first"]], lenient=self.lenient)
        return Reply({"heard": [one[shared["first"]] is not None, two[shared["first"]] is not None]}, 1.0, {})


@tasks.register("test_wait_for_nobody")
@settings
class WaitForNobody(Dialogue):
    """Everyone waits for the server, which says nothing."""

    def talk(self, client, shared, own=None):
        yield Post(wait=[SERVER])
        return Reply({}, 1.0, {})


@tasks.register("test_break")
@settings
class Break(Dialogue):
    """Clients fail after a letter."""

    def talk(self, client, shared, own=None):
        yield from ask({})
        raise ValueError("as it should")


def descend_together(cohort, rounds_of_shared=0.5):
    """The server's side of DescendTogether: everybody gets the mean of what was said, with noise from the server's torch stream."""
    lengths = []
    with cohort.converse(DescendTogether(), {"scale": torch.tensor(rounds_of_shared)}) as conversation:
        while said := conversation.hear():
            lengths.append(list(said))
            mean = torch.stack([letter["mean"] for letter in said.values()]).mean()
            cohort.server.seed_torch(f"answer {len(lengths)}")
            conversation.say(dict.fromkeys(said, mean + torch.rand(())))
        return lengths, conversation.replies().gather()
