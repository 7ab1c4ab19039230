"""Conversations: the same letters and the same numbers on every engine; and how they end when somebody leaves."""

from contextlib import contextmanager

import pytest
import torch

from fedml_api import Standalone
from fedml_api.distributed import Loopback
from fedml_core.errors import FedMLError
from fedml_core.federation import Setup
from fedml_core.trainer import Classifier
from tests.conftest import blobs
from tests.dialogues import Break, DescendTogether, LeaveEarly, PassRound, WaitForNobody, descend_together

ENGINES = {"standalone": Standalone(), "loopback": Loopback(workers=3)}


@contextmanager
def session(engine):
    torch.manual_seed(0)
    with ENGINES[engine].open(Setup(Classifier(), torch.nn.Linear(5, 3), blobs(6), 3, torch.device("cpu"))) as opened:
        yield opened


@pytest.fixture(params=ENGINES)
def cohort(request):
    with session(request.param) as opened:
        yield opened.cohort(2, opened.population())


def ring(clients):
    return {client: {"to": clients[(i + 1) % len(clients)], "from": clients[i - 1]} for i, client in enumerate(clients)}


def test_a_conversation_with_the_server_lasts_as_long_as_each_client_has_batches(cohort):
    lengths, replies = descend_together(cohort)
    batches = {client: -(-reply.weight // DescendTogether().batch) for client, reply in replies.items()}
    assert lengths == [[client for client in cohort.clients if batches[client] > k] for k in range(len(lengths))]
    assert len(lengths) == max(batches.values()) > min(batches.values())
    assert list(replies) == list(cohort.clients)


def test_the_numbers_are_the_same_on_every_engine():
    found = {}
    for engine in ENGINES:
        with session(engine) as opened:
            for round in range(2):  # the second goes on from private states
                _, replies = descend_together(opened.cohort(round, opened.population()))
            found[engine] = {client: reply.value["total"].item() for client, reply in replies.items()}
    assert found["standalone"] == found["loopback"]
    assert len(set(found["standalone"].values())) == 6


def test_clients_talk_among_themselves(cohort):
    own = ring(cohort.clients)
    replies = cohort.map(PassRound(laps=3), {}, own).gather()
    value = dict(zip(cohort.clients, sizes(), strict=True))
    for _ in range(3):
        value = {client: value[client] * 0.5 + value[own[client]["from"]] for client in cohort.clients}
    assert {client: reply.value["value"].item() for client, reply in replies.items()} == value


def sizes():
    data = blobs(6)
    return [float(len(data.train(client))) for client in data.client_ids]


def test_who_has_left_is_none_to_the_lenient(cohort):
    first, *others = cohort.clients
    replies = cohort.map(LeaveEarly(), {"first": first, "others": others}).gather()
    assert [replies[client].value["heard"] for client in others] == [[True, False]] * len(others)


def test_who_has_left_is_an_error_to_the_strict(cohort):
    first, *others = cohort.clients
    with pytest.raises(FedMLError, match=f"waits for a letter of {first}, who has left"):
        cohort.map(LeaveEarly(lenient=False), {"first": first, "others": others}).gather()


def test_an_error_of_a_client_ends_the_conversation_for_all(cohort):
    with cohort.converse(Break(), {}) as conversation:
        conversation.say({client: {} for client in conversation.hear()})
        with pytest.raises((FedMLError, ValueError), match="as it should"):
            conversation.hear()
    lengths, _ = descend_together(cohort)  # and nothing of it is left in the way
    assert lengths


def test_nobody_waits_for_ever_in_one_process():
    with session("standalone") as opened:
        cohort = opened.cohort(0, opened.population())
        with pytest.raises(FedMLError, match=r"client .* waits for server"):
            cohort.map(WaitForNobody(), {}).gather()


def test_a_dialogue_cannot_be_carried_out_alone(cohort):
    with pytest.raises(FedMLError, match="DescendTogether is a dialogue"):
        DescendTogether()(None, {})


def test_a_letter_is_what_it_was_when_it_was_written(cohort):
    """Whoever wrote it may write into the same memory again."""
    one = cohort.clients[0]
    with cohort.only([one]).converse(DescendTogether(), {"scale": torch.ones(())}) as conversation:
        answer = torch.zeros(())
        while conversation.hear():
            conversation.say({one: answer})
            answer += 1000
        total = conversation.replies().gather()[one].value["total"].item()
    steps = -(-len(blobs(6).train(one)) // 4)
    assert total == pytest.approx(1000 * sum(range(steps)), abs=steps)
