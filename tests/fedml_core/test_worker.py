"""Workers and the mailbox: who is called with what, and which answers count."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fedml_core.communication.com_manager import GONE, ComManager
from fedml_core.communication.loopback import loopback_network
from fedml_core.communication.message import Message
from fedml_core.errors import CommunicationError
from fedml_core.worker import Mailbox, Worker
from fedml_core.worker.worker import Memory
from tests.brokers import Mosquitto

RING = Path(__file__).parents[2] / "examples" / "token_ring.py"


class Script(ComManager):
    """A door behind which a test says what arrives, and when: `receive` moves the clock instead of waiting."""

    name = "server"

    def __init__(self):
        self.now, self.sent, self.coming = 0.0, [], []

    def send(self, message):
        if message.receiver == "nobody":
            raise CommunicationError("unknown worker 'nobody'")
        self.sent.append(message)

    def arrives(self, at, message):
        self.coming.append((at, message))

    def answer(self, at, sender, payload=None, type="reply", id=None):
        """The answer to the last thing that `sender` was asked."""
        question = [message for message in self.sent if message.receiver == sender][-1]
        extra = {} if id is None else {"id": id}
        self.arrives(at, Message(type, sender, "server", payload, question.run, question.round, reply_to=question.id, **extra))

    def receive(self, timeout=None):
        self.coming.sort(key=lambda entry: entry[0])
        end = self.now + timeout if timeout is not None else float("inf")
        if not self.coming or self.coming[0][0] > end:
            self.now = self.now if timeout is None else end
            return None
        at, message = self.coming.pop(0)
        self.now = max(self.now, at)
        return message

    def close(self):
        pass


@pytest.fixture
def com():
    return Script()


@pytest.fixture
def worker(com):
    return Worker(com, "run")


@pytest.fixture
def mailbox(com, worker):
    return Mailbox(worker, clock=lambda: com.now)


def message(type="work", sender="a", run="run", **more):
    return Message(type, sender, "server", run=run, **more)


def test_each_message_goes_to_the_handler_of_its_type_until_one_finishes(com, worker):
    log = []
    worker.register_message_handler("work", lambda message: log.append(message.payload))
    worker.register_message_handler("stop", lambda message: worker.finish())
    for at, (type, payload) in enumerate([("work", 1), ("work", 2), ("stop", None), ("work", 3)]):
        com.arrives(at, message(type, payload=payload))
    worker.run()
    assert log == [1, 2]


def test_run_ends_when_the_door_is_closed():
    network = loopback_network(["a"])
    thread = threading.Thread(daemon=True, target=Worker(network["a"]).run)
    thread.start()
    network["a"].close()
    thread.join(5)
    assert not thread.is_alive()


def test_duplicates_and_messages_of_another_run_are_dropped(com, worker):
    log = []
    worker.register_message_handler("work", lambda message: log.append(message.id))
    for id, run in [("1", "run"), ("1", "run"), ("2", "other run"), ("3", "run"), ("1", "run")]:
        com.arrives(0, message(id=id, run=run))
    worker.run()
    assert log == ["1", "3"]


def test_an_unknown_type_is_logged_once(com, worker, caplog):
    for _ in range(3):
        com.arrives(0, message("wrok"))
    worker.run()
    assert [record.getMessage() for record in caplog.records] == [
        "server has no handler for 'wrok', sent by a; its kind is ignored"
    ]


def test_whoever_caused_an_exception_is_told_and_the_worker_goes_on(com, worker, caplog):
    worker.register_message_handler("work", lambda message: 1 / message.payload)
    com.arrives(0, message(payload=0, round=3, id="question"))
    com.arrives(1, message(payload=1))
    worker.run()
    (error,) = com.sent
    assert (error.type, error.receiver, error.round, error.reply_to) == ("error", "a", 3, "question")
    assert error.payload == {"reason": "ZeroDivisionError: division by zero"}
    assert "could not handle 'work' from a" in caplog.text


def test_an_answer_that_cannot_be_handled_is_not_answered(com, worker):
    for type in ("error", "reply", GONE):
        worker.register_message_handler(type, lambda message: 1 / 0)
        com.arrives(0, message(type, reply_to="" if type == GONE else "something"))
    worker.run()
    assert com.sent == []


def test_the_news_that_a_peer_is_gone_belongs_to_every_run(com, worker):
    log = []
    worker.register_message_handler(GONE, lambda message: log.append(message.sender))
    com.arrives(0, message(GONE, "b", run=""))
    worker.run()
    assert log == ["b"]


def test_memory_is_bounded():
    memory = Memory(size=3)
    assert [memory.add(text) for text in "aabcd"] == [True, False, True, True, True]
    assert [text in memory for text in "abcd"] == [False, True, True, True]


def test_answers_come_in_the_order_of_their_arrival(com, mailbox):
    replies = mailbox.ask("work", {"a": 1, "b": 2, "c": 3}, round=7)
    assert [(asked.receiver, asked.payload, asked.round) for asked in com.sent] == [("a", 1, 7), ("b", 2, 7), ("c", 3, 7)]
    for at, sender in [(3, "a"), (1, "c"), (2, "b")]:
        com.answer(at, sender, payload=sender * 2)
    assert [(sender, reply.payload) for sender, reply in replies] == [("c", "cc"), ("b", "bb"), ("a", "aa")]
    assert com.now == 3


def test_answers_are_handed_on_before_the_last_has_come(com, mailbox):
    replies = iter(mailbox.ask("work", {"a": None, "b": None}))
    com.answer(1, "a")
    com.answer(9, "b")
    assert next(replies)[0] == "a"
    assert com.now == 1


def test_no_more_are_waited_for_once_the_goal_is_reached(com, mailbox):
    replies = mailbox.ask("work", dict.fromkeys("abc"), goal=2)
    for at, sender in enumerate("abc"):
        com.answer(at, sender)
    assert [sender for sender, _ in replies] == ["a", "b"]
    assert list(replies.waiting.values()) == ["c"]


def test_at_the_deadline_enough_is_enough(com, mailbox):
    replies = mailbox.ask("work", dict.fromkeys("abc"), minimum=1, deadline=5)
    for at, sender in [(1, "a"), (5, "b"), (6, "c")]:
        com.answer(at, sender)
    assert [sender for sender, _ in replies] == ["a", "b"]
    assert com.now == 5


def test_too_few_answers_are_an_error_that_says_who_is_missing_and_why(com, mailbox):
    replies = mailbox.ask("work", dict.fromkeys([*"abcd", "nobody"]), minimum=2, deadline=5)
    com.answer(1, "a")
    com.answer(2, "b", type="error", payload={"reason": "no memory"})
    com.arrives(3, message(GONE, "c", run=""))
    expected = (
        r"1 of 5 workers answered, at least 2 are needed "
        r"\(b: no memory; c: it is gone; d: no answer in time; nobody: unknown worker 'nobody'\)"
    )
    with pytest.raises(CommunicationError, match=expected):
        list(replies)
    assert com.now == 5


def test_a_minimum_out_of_reach_is_not_waited_for(com, mailbox):
    replies = mailbox.ask("work", dict.fromkeys("ab"), deadline=100)
    com.answer(1, "a", type="error", payload={"reason": "no memory"})
    with pytest.raises(CommunicationError, match="0 of 2"):
        list(replies)
    assert com.now == 1
    assert replies.failed == {"a": "no memory"}


def test_late_and_second_answers_are_counted_and_dropped(com, worker, mailbox):
    handled = []
    worker.register_message_handler("reply", lambda message: handled.append(message))
    replies = mailbox.ask("work", dict.fromkeys("ab"), minimum=1, deadline=2)
    com.answer(1, "a", id="first")
    com.answer(1, "a", id="second, as of a server that was restarted")
    com.answer(1, "a", id="first")
    com.answer(3, "b")
    assert [sender for sender, _ in replies] == ["a"]
    again = mailbox.ask("work", {"a": None})
    com.answer(4, "a", payload="new")
    assert [reply.payload for _, reply in again] == ["new"]
    assert mailbox.stray == 2
    assert handled == []


def test_answers_to_an_iteration_that_was_left_are_late(com, mailbox):
    replies = iter(mailbox.ask("work", dict.fromkeys("ab")))
    com.answer(1, "a")
    assert next(replies)[0] == "a"
    replies.close()
    com.answer(2, "b")
    more = mailbox.ask("work", {"c": None})
    com.answer(3, "c")
    assert [sender for sender, _ in more] == ["c"]
    assert mailbox.stray == 1


def test_questions_may_follow_answers(com, mailbox):
    inquiry = mailbox.inquire(deadline=10)
    inquiry.ask("work", "a", 1, about="first")
    com.answer(1, "a")
    (outcome,) = inquiry.attend()
    assert (outcome.question.about, outcome.reason) == ("first", "")
    inquiry.ask("work", "a", 2, about="second")
    inquiry.ask("work", "a", 3, about="third")
    com.arrives(2, message(GONE, "a", run=""))
    assert [(outcome.question.about, outcome.reason) for outcome in inquiry.attend()] == [
        ("second", "it is gone"),
        ("third", "it is gone"),
    ]
    assert inquiry.attend(3) is None
    assert com.now == 5
    assert inquiry.attend() is None
    assert com.now == 10


def test_only_the_worker_that_was_asked_can_answer(com, mailbox):
    inquiry = mailbox.inquire()
    inquiry.ask("work", "a")
    com.arrives(1, Message("reply", "b", "server", run="run", reply_to=com.sent[0].id))
    com.answer(2, "a")
    assert inquiry.attend() == []
    assert [outcome.message.sender for outcome in inquiry.attend()] == ["a"]


def test_inquiries_take_no_answers_from_each_other(com, mailbox):
    first, second = mailbox.inquire(), mailbox.inquire()
    first.ask("work", "a")
    com.answer(1, "a", "one", id="one")
    first.ask("work", "b")
    second.ask("work", "a")
    com.answer(2, "a", "two")
    com.answer(3, "a", "two again")
    com.arrives(4, message(GONE, "b", run=""))
    assert second.attend() == []
    assert [outcome.message.payload for outcome in second.attend()] == ["two"]
    assert second.attend(2) == []
    assert second.attend(1) == []
    assert [(outcome.question.worker, outcome.reason) for outcome in first.attend(0)] == [("a", ""), ("b", "it is gone")]
    assert first.attend(0) is None
    assert (first.waiting, mailbox.stray) == ({}, 1)


def test_the_first_that_settles_a_question_counts_whoever_saw_it(com, mailbox):
    inquiry, other = mailbox.inquire(), mailbox.inquire()
    inquiry.ask("work", "a")
    com.answer(1, "a", "first")
    com.answer(2, "a", "second")
    com.arrives(3, message(GONE, "a", run=""))
    assert [other.attend() for _ in range(3)] == [[], [], []]
    assert [(outcome.message.payload, outcome.reason) for outcome in inquiry.attend()] == [("first", "")]
    assert mailbox.stray == 1


def test_answers_that_others_saw_first_count(com, mailbox):
    replies, other = mailbox.ask("work", dict.fromkeys("ab")), mailbox.inquire()
    com.answer(1, "a")
    com.answer(2, "b")
    assert (other.attend(), other.attend()) == ([], [])
    assert [sender for sender, _ in replies] == ["a", "b"]


def test_a_question_can_be_withdrawn(com, mailbox):
    inquiry, other = mailbox.inquire(), mailbox.inquire()
    for worker in "ab":
        inquiry.ask("work", worker)
    com.answer(1, "a")
    assert other.attend() == []
    for id in list(inquiry.waiting):
        inquiry.withdraw(id)
    com.answer(2, "b")
    assert inquiry.attend() == []
    assert (inquiry.waiting, mailbox.stray) == ({}, 1)


def test_a_closed_inquiry_hears_nothing(com, mailbox):
    inquiry, other = mailbox.inquire(), mailbox.inquire()
    inquiry.ask("work", "a")
    inquiry.close()
    com.answer(1, "a")
    assert other.attend() == []
    assert mailbox.stray == 1


def test_other_messages_are_handled_while_answers_are_waited_for(com, worker, mailbox):
    log = []
    worker.register_message_handler("status", lambda message: log.append(message.sender))
    replies = mailbox.ask("work", {"a": None})
    com.arrives(1, message("status", "z"))
    com.answer(2, "a")
    assert [sender for sender, _ in replies] == ["a"]
    assert log == ["z"]


def test_a_door_closed_while_waiting_is_an_error(mailbox):
    with pytest.raises(CommunicationError, match="closed its door while it waited"):
        list(mailbox.ask("work", {"a": None}))


def test_worker_and_mailbox_over_the_loopback_network():
    network = loopback_network(["server", "a", "b"])

    def serve(name):
        worker = Worker(network[name], "run")
        worker.register_message_handler("double", lambda message: worker.reply(message, 2 * message.payload))
        worker.register_message_handler("finish", lambda message: worker.finish())
        worker.run()

    threads = [threading.Thread(daemon=True, target=serve, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    server = Worker(network["server"], "run")
    mailbox = Mailbox(server)
    for i in range(20):
        replies = mailbox.ask("double", {"a": i, "b": 10 * i}, deadline=30)
        assert {sender: reply.payload for sender, reply in replies} == {"a": 2 * i, "b": 20 * i}
    for name in "ab":
        server.send("finish", name)
    for thread in threads:
        thread.join(5)
        assert not thread.is_alive()


def test_token_ring_on_threads():
    done = subprocess.run([sys.executable, RING], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "the token went 3 times round server, rank-1, rank-2, rank-3: 12 hops\n"


def test_token_ring_through_a_broker(tmp_path):
    with Mosquitto(tmp_path) as mosquitto:
        done = subprocess.run([sys.executable, RING, mosquitto.url], capture_output=True, text=True, timeout=60, check=True)
    assert "12 hops" in done.stdout
