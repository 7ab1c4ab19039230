"""Conversations over messages: who is lost, who lies, and what is late. Some workers are honest, one is played by hand."""

import threading
import time

import pytest
import torch

from fedml_api.distributed.server import PROTOCOL, Patience, RemoteSession, ServerManager
from fedml_api.distributed.talking import EARLY, UNREAD, Speakers
from fedml_api.distributed.worker import ClientManager
from fedml_core.communication.loopback import loopback_network
from fedml_core.communication.message import SERVER, Message
from fedml_core.errors import CommunicationError, RoundFailed
from fedml_core.federation import ClientRunner, Reply, Setup, describe
from fedml_core.trainer import Classifier
from tests.conftest import blobs
from tests.dialogues import DescendTogether, LeaveEarly, PassRound, descend_together

CLIENTS = ["c0", "c1", "c2"]
CPU = torch.device("cpu")


class Stage:
    """Clients c0 and c1 at the honest workers a and b, c2 at c, whom the test plays."""

    def __init__(self, patience):
        self.doors = loopback_network([SERVER, "a", "b", "c"])
        self.server = ServerManager(self.doors[SERVER], "run", "config", patience)
        setup = Setup(Classifier(), torch.nn.Linear(5, 3), blobs(3), 0, CPU)
        self.session = RemoteSession(self.server, dict.fromkeys(CLIENTS, 1), setup=setup)
        for name, client in zip("ab", CLIENTS, strict=False):
            worker = ClientManager(self.doors[name], "run", None, {client: 1})
            threading.Thread(target=lambda worker=worker: (worker.join(5), worker.serve(ClientRunner(setup))), daemon=True).start()
        self.say("join", {"protocol": PROTOCOL, "config": None, "hosts": {"c2": 1}})
        self.server.wait_for(3, 5)
        assert self.hear().type == "welcome"

    def say(self, type, payload, **more):
        self.doors["c"].send(Message(type, "c", SERVER, payload, "run", **more))

    def letter(self, talk, letter, sender="c2"):
        self.say("letter", {"talk": talk, "from": sender, "to": SERVER, "letter": letter})

    def hear(self):
        return self.doors["c"].receive(5)

    def cohort(self):
        return self.session.cohort(0, CLIENTS)


@pytest.fixture
def stage():
    made = Stage(Patience(minimum=1, deadline=1.0))
    yield made
    for door in made.doors.values():
        door.close()


def heard_of_c(stage, do):
    """Whom the server hears in its first two turns with all, if c says one thing and then does this."""
    cohort = stage.cohort()
    with cohort.converse(DescendTogether(), {"scale": torch.ones(())}) as conversation:
        talk = stage.hear().payload["talk"]["id"]
        stage.letter(talk, {"mean": torch.ones(())})
        first = conversation.hear()
        conversation.say(dict.fromkeys(first, torch.zeros(())))
        assert stage.hear().payload["letter"] == 0
        do(talk)
        second = conversation.hear()
        if "c2" in second:
            conversation.say({"c2": torch.ones(())})
        return list(first), list(second), list(conversation.lost)


def test_who_is_silent_is_waited_for_until_the_deadline(stage):
    assert heard_of_c(stage, lambda talk: None) == (CLIENTS, CLIENTS[:2], ["c2"])


def test_who_is_gone_is_not_waited_for(stage):
    stage.server.patience = Patience(minimum=1, deadline=60.0)
    assert heard_of_c(stage, lambda talk: stage.say("gone", None)) == (CLIENTS, CLIENTS[:2], ["c2"])


def test_who_joins_anew_has_forgotten_what_it_was_at(stage):
    stage.server.patience = Patience(minimum=1, deadline=60.0)
    about = {"protocol": PROTOCOL, "config": None, "hosts": {"c2": 1}}
    assert heard_of_c(stage, lambda talk: stage.say("join", about)) == (CLIENTS, CLIENTS[:2], ["c2"])


@pytest.mark.parametrize(
    "lie",
    [
        lambda stage, talk: stage.letter(talk, {"mean": torch.tensor(1e9)}, sender="c0"),
        lambda stage, talk: stage.letter("another", {"mean": torch.ones(())}),
        lambda stage, talk: stage.say("letter", {"talk": talk, "from": 3, "to": SERVER}),
        lambda stage, talk: stage.say("letter", [talk]),
        lambda stage, talk: stage.say("letter", {"talk": talk, "from": "c1", "to": SERVER, "wrote": {}}),
    ],
)
def test_letters_in_the_name_of_others_and_letters_that_are_none_are_not_heard(stage, lie):
    def do(talk):
        lie(stage, talk)
        stage.letter(talk, {"mean": torch.ones(())})

    assert heard_of_c(stage, do) == (CLIENTS, CLIENTS, [])


def test_a_letter_with_numbers_that_are_none_costs_its_writer_the_place(stage):
    assert heard_of_c(stage, lambda talk: stage.letter(talk, {"mean": torch.tensor(torch.nan)})) == (CLIENTS, CLIENTS[:2], ["c2"])


def test_the_others_get_through_and_the_lost_one_is_missing(stage):
    cohort = stage.cohort()
    heard = threading.Thread(target=lambda: (stage.hear(), stage.say("gone", None)), daemon=True)
    heard.start()
    _, replies = descend_together(cohort)
    assert list(replies) == CLIENTS[:2]
    assert cohort.missing == ["c2"]


def test_a_reply_after_the_deadline_counts_no_more(stage):
    cohort = stage.cohort()
    with cohort.converse(DescendTogether(), {"scale": torch.ones(())}) as conversation:
        work = stage.hear()
        while said := conversation.hear():
            conversation.say(dict.fromkeys(said, torch.zeros(())))
        stage.say("done", {"replies": {"c2": Reply({}, 1.0, {})}}, reply_to=work.id)
        assert list(conversation.replies().gather()) == CLIENTS[:2]


def test_who_is_through_and_never_says_so_is_heard_no_more(stage):
    stage.server.patience = Patience(minimum=1, deadline=60.0)
    cohort = stage.cohort()
    with cohort.converse(DescendTogether(), {"scale": torch.ones(())}) as conversation:
        work = stage.hear()
        stage.say("done", {"replies": {"c2": Reply({}, 1.0, {}, {"of": "the device"})}}, reply_to=work.id)
        while said := conversation.hear():
            assert "c2" not in said
            conversation.say(dict.fromkeys(said, torch.zeros(())))
        assert list(conversation.replies().gather()) == CLIENTS
    assert "c2" not in stage.session.states  # what a device keeps is not the server's, whatever it sends


def test_those_who_wait_for_the_silent_are_not_lost_with_it(stage):
    """They are asked for whom they wait; and who is lenient goes on without the silent one."""
    others = CLIENTS[:2]
    started = time.monotonic()
    replies = stage.cohort().map(LeaveEarly(), {"first": "c2", "others": others}).gather()
    assert {client: reply.value["heard"] for client, reply in replies.items()} == {client: [False, False] for client in others}
    assert time.monotonic() - started > 1


def test_a_letter_that_cannot_be_sent_is_an_error_at_once(stage):
    cohort = stage.cohort()
    with cohort.converse(DescendTogether(), {"scale": torch.ones(())}) as conversation:
        stage.hear()
        conversation.hear("c0")
        with pytest.raises(CommunicationError, match="cannot be sent"):
            conversation.say({"c0": {1, 2}})


def test_who_writes_more_than_anybody_reads_is_lost(stage):
    with stage.cohort().converse(DescendTogether(), {"scale": torch.ones(())}) as conversation:
        letter = {"talk": stage.hear().payload["talk"]["id"], "from": "c2", "to": SERVER, "letter": {}}
        for _ in range(UNREAD + 1):
            conversation.receive(Message("letter", "c", SERVER, letter))
        assert list(conversation.hear()) == CLIENTS[:2]
        assert conversation.lost == ["c2"]


def test_those_who_wait_for_the_lost_fail_and_the_round_with_them(stage):
    own = {client: {"to": CLIENTS[(i + 1) % 3], "from": CLIENTS[i - 1]} for i, client in enumerate(CLIENTS)}
    threading.Thread(target=lambda: (stage.hear(), stage.say("gone", None)), daemon=True).start()
    with pytest.raises(RoundFailed, match=r"0 of 3 clients got through their dialogue.*lost: c2"):
        stage.cohort().map(PassRound(), {}, own).gather()


def test_where_none_may_be_missing_the_first_loss_ends_the_run_and_is_named(stage):
    stage.server.patience = Patience()
    threading.Thread(target=lambda: (stage.hear(), stage.say("gone", None)), daemon=True).start()
    with pytest.raises(CommunicationError, match="round 1: client c2 at c: it is gone"):
        descend_together(stage.cohort())


def test_who_is_still_talking_when_the_server_leaves_is_told_so(stage):
    with stage.cohort().converse(DescendTogether(), {"scale": torch.ones(())}):
        talk = stage.hear().payload["talk"]["id"]
    hush = stage.hear()
    assert (hush.type, hush.payload) == ("hush", {"talk": talk})
    stage.letter(talk, {"mean": torch.ones(())})
    stage.say("gone", None)
    _, replies = descend_together(stage.cohort())
    assert list(replies) == CLIENTS[:2]


def test_letters_may_come_before_the_work_and_not_for_ever():
    """A peer that began earlier writes at once. Of those whose work never comes, few conversations are kept."""
    doors = loopback_network([SERVER, "a", "b"])
    speakers = Speakers(doors["a"], "run", CPU)
    runner = ClientRunner(Setup(Classifier(), torch.nn.Linear(5, 3), blobs(2), 0, CPU))

    def letter(talk, type="letter"):
        return Message(type, "b", "a", {"talk": talk, "from": "c1", "to": "c0", "letter": torch.ones(())}, "run")

    def work(talk):
        payload = {
            "talk": {"id": talk, "places": {"c0": "a", "c1": "b"}},
            "task": describe(PassRound(laps=1)),
            "clients": ["c0"],
            "own": {"c0": {"to": "c1", "from": "c1"}},
            "states": {},
        }
        return Message("work", SERVER, "a", payload, "run")

    def answers(talk):
        speakers.begin(work(talk), runner, {})
        speakers.go_on()
        found = []
        while (message := doors[SERVER].receive(0.05)) is not None:
            found.append(message.type)
        return found

    for k in range(EARLY + 1):
        speakers.handle(letter(f"talk {k}"))
    assert answers("talk 0") == []  # forgotten: it waits
    assert answers(f"talk {EARLY}") == ["letter", "done"]
    speakers.handle(letter("talk 1", type="hush"))  # only the server may end a conversation
    assert answers("talk 1") == ["letter", "done"]
